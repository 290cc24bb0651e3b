"""A cell and its mutations as one sketch: what stands in a place, or what a mutation puts there.

What a mutation keeps of the part that it changes is named once and used by all options of the place, so that it has the
same weights in all of them; only what is new has weights of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from grammar import (
    Expr,
    GrammarError,
    Let,
    Out,
    Sketch,
    Statement,
    X,
    choice,
    parse_sketch,
    ref,
    show_state,
    show_statement,
)
from search_spaces.derivation import OUT, Derivation, Tree
from search_spaces.edits import Path, places
from search_spaces.errors import SpaceError
from search_spaces.printer import rounded
from search_spaces.rules import INPUT, Rules, fill
from search_spaces.sampling import below
from search_spaces.variation import Varier

OPERATORS = ("replace", "point", "insert", "delete", "rewire")
"""Those that change one place and nothing else."""
TRIES = 40
"""Times the number of changes wanted that mutations are tried at most."""
MOST = 3
"""Mutations of one place."""

Where = tuple[int, Path]
"""The number of an equation and the way down to a place in it."""


def neighbourhood(
    varier: Varier, made: Derivation, rng: np.random.Generator, changes: int, share: float
) -> Sketch:
    """The sketch of the cell that `made` derives and of `changes` mutations of it, each with the weight `share`.

    Each mutation gives another member by itself; which of several are members together is not known. A place has at
    most MOST of them, and as many as leave its present part the greatest weight or an equal one. Raises SpaceError for
    a space over trees and where no mutation gives another cell.
    """
    if made.form.children:
        raise SpaceError(
            f"space {varier.rules.name} is over trees: only cells over time have neighbourhoods in sketches"
        )
    own = made.cell(varier.rules).digest
    found: dict[Where, list[Tree]] = {}
    seen = {own}
    most = min(MOST, int((1 - share) / share + 1e-9))
    for _ in range(TRIES * changes):
        if len(seen) > changes:
            break
        raw = varier.operators[OPERATORS[below(rng, len(OPERATORS))]](made, rng)
        at = None if raw is None else changed(varier.rules, made, raw)
        if raw is None or at is None or len(found.get(at[0], ())) >= most:
            continue
        child = varier.tidy(raw)
        digest = own if child is None else child.cell(varier.rules).digest
        if digest not in seen:
            seen.add(digest)
            found.setdefault(at[0], []).append(at[1])
    if not found:
        raise SpaceError(f"space {varier.rules.name}: no mutation of one place gives another cell")
    return sketch_of(varier.rules, made, found, share)


def changed(rules: Rules, before: Derivation, after: Derivation) -> tuple[Where, Tree] | None:
    """The lowest place of an expression outside of which two derivations are the same, and what the second has there.

    None where they differ in more than one equation, in states or in names.
    """
    if before.states != after.states or [e.name for e in before.equations] != [
        e.name for e in after.equations
    ]:
        return None
    pairs = [(a.tree, b.tree) for a, b in zip(before.equations, after.equations, strict=True)]
    numbers = [i for i, (a, b) in enumerate(pairs) if a != b]
    if len(numbers) != 1:
        return None
    old, new = pairs[numbers[0]]
    path: Path = ()
    found = path, new
    while (old.rule, old.production) == (new.rule, new.production):
        apart = [i for i, (a, b) in enumerate(zip(old.parts, new.parts, strict=True)) if a != b]
        below_old, below_new = old.parts[apart[0]], new.parts[apart[0]]
        if len(apart) != 1 or not isinstance(below_old, Tree) or not isinstance(below_new, Tree):
            break
        path, old, new = (*path, apart[0]), below_old, below_new
        if rules.rules[old.rule].type is not None:  # a list of operands is no place for a choice
            found = path, new
    return (numbers[0], found[0]), found[1]


def sketch_of(rules: Rules, made: Derivation, options: dict[Where, list[Tree]], share: float) -> Sketch:
    """The sketch of a derivation with other parts beside those in some places, each of the weight `share`."""
    body = "; ".join(_Sketching(rules, made, options, share).statements())
    states = ", ".join(map(show_state, made.states))
    try:
        return parse_sketch(f"cell {made.name} {{ state {states}; {body} }}")
    except GrammarError as error:
        raise SpaceError(f"space {rules.name}: no sketch of a cell and its mutations: {error}") from None


@dataclass
class _Sketching:
    """`whole` and `bare` are the names of the places whose values several options use, with and without a choice."""

    rules: Rules
    made: Derivation
    options: dict[Where, list[Tree]]
    share: float
    whole: dict[Where, str] = field(default_factory=dict)
    bare: dict[Where, str] = field(default_factory=dict)
    lets: list[Let] = field(default_factory=list)

    def statements(self) -> Iterator[str]:
        """Of the sketch: helper names first, whatever they use."""
        there = {(p.equation, p.path): p.tree for p in places(self.rules, self.made)}
        # What is used by others is known only when all others are there.
        self.others = {
            at: [self._other(at, there[at], new, set()) for new in news] for at, news in self.options.items()
        }
        body: list[Statement] = []
        for number, e in enumerate(self.made.equations):
            (expr,) = self._present((number, ()), e.tree)
            body.append(Out(expr) if e.name == OUT else Let(e.name, expr))
        return (show_statement(s) for s in (*self.lets, *body))

    def _present(self, at: Where, tree: Tree) -> tuple[Expr, ...]:
        """What stands at a place, as expressions, with all its choices."""
        inside = enumerate(tree.parts)
        parts = [_name(p) if isinstance(p, str) else self._present(_inside(at, i), p) for i, p in inside]
        found = self._filled(tree, parts)
        if at in self.bare:
            found = (self._let(self.bare[at], found[0]),)
        if at in self.others:
            others = [other for (other,) in self.others[at]]
            weights = [rounded(1 - len(others) * self.share), *[rounded(self.share)] * len(others)]
            found = (choice([found[0], *others], weights),)
        return (self._let(self.whole[at], found[0]),) if at in self.whole else found

    def _other(self, at: Where, old: Tree, new: Tree, used: set[Path]) -> tuple[Expr, ...]:
        """What a mutation puts in a place; parts of what is there now, each used once at most, by their names."""
        if self.rules.rules[new.rule].type is not None and new.size(self.rules):
            for path, part in _walk(old, ()):
                if part == new and not any(path[: len(u)] == u or u[: len(path)] == path for u in used):
                    used.add(path)
                    return (ref(self._named((at[0], at[1] + path), own=not path)),)
        parts = [_name(p) if isinstance(p, str) else self._other(at, old, p, used) for p in new.parts]
        return self._filled(new, parts)

    def _filled(self, tree: Tree, parts: list[tuple[Expr, ...]]) -> tuple[Expr, ...]:
        items = self.rules.rules[tree.rule].productions[tree.production].items
        values = [
            part if isinstance(p, Tree) and self.rules.rules[p.rule].type is None else part[0]
            for p, part in zip(tree.parts, parts, strict=True)
        ]
        return tuple(e for item in items for e in fill(item, values))

    def _named(self, at: Where, own: bool) -> str:
        names = self.bare if own else self.whole
        if at not in names:
            taken = {*(s.name for s in self.made.states), *(e.name for e in self.made.equations)}
            taken |= {*self.bare.values(), *self.whole.values()}
            names[at] = next(name for i in count(1) if (name := f"part_{i}") not in taken)
        return names[at]

    def _let(self, name: str, expr: Expr) -> Expr:
        self.lets.append(Let(name, expr))
        return ref(name)


def _name(name: str) -> tuple[Expr, ...]:
    return (X if name == INPUT else ref(name),)


def _inside(at: Where, number: int) -> Where:
    return at[0], (*at[1], number)


def _walk(tree: Tree, path: Path) -> Iterator[tuple[Path, Tree]]:
    yield path, tree
    for i, part in enumerate(tree.parts):
        if isinstance(part, Tree):
            yield from _walk(part, (*path, i))
