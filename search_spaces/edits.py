"""Places in a derivation, and derivations with something else in a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from search_spaces.derivation import Derivation, Equation, Tree
from search_spaces.rules import INPUT, Production, Rules

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A node of a derivation: the number of its equation, the way down to it, how deep it may be."""

    equation: int
    path: Path
    tree: Tree
    depth: int


def production(rules: Rules, tree: Tree) -> Production:
    """The production at the root of a tree."""
    return rules.rules[tree.rule].productions[tree.production]


def places(rules: Rules, made: Derivation) -> list[Place]:
    """Every node of the derivation."""
    found: list[Place] = []

    def visit(number: int, path: Path, tree: Tree, depth: int) -> None:
        found.append(Place(number, path, tree, depth))
        for i, (part, h) in enumerate(zip(tree.parts, production(rules, tree).holes, strict=True)):
            if isinstance(part, Tree):
                visit(number, (*path, i), part, depth - h.depth)

    for number, e in enumerate(made.equations):
        visit(number, (), e.tree, rules.limits.nesting)
    return found


def uses(rules: Rules, made: Derivation) -> list[tuple[Place, int]]:
    """Every use of a name but x: the node and the hole."""
    return [
        (p, i)
        for p in places(rules, made)
        for i, part in enumerate(p.tree.parts)
        if isinstance(part, str) and part != INPUT
    ]


def put(made: Derivation, at: Place, new: Tree) -> Derivation:
    """The derivation with `new` at a place."""

    def inside(tree: Tree, path: Path) -> Tree:
        if not path:
            return new
        part = tree.parts[path[0]]
        assert isinstance(part, Tree)
        return with_part(tree, path[0], inside(part, path[1:]))

    equations = list(made.equations)
    e = equations[at.equation]
    equations[at.equation] = Equation(e.name, inside(e.tree, at.path))
    return replace(made, equations=tuple(equations))


def with_part(tree: Tree, number: int, part: Tree | str) -> Tree:
    """The tree with another part in hole `number`."""
    return replace(tree, parts=(*tree.parts[:number], part, *tree.parts[number + 1 :]))


def renamed(tree: Tree, names: Mapping[str, str]) -> Tree:
    """The tree with other names."""
    return replace(
        tree, parts=tuple(renamed(p, names) if isinstance(p, Tree) else names.get(p, p) for p in tree.parts)
    )
