"""Parts of cells that may be named and used again in others (motifs, after Liu et al. 2018, arXiv:1711.00436).

There a motif is a small graph that a larger one uses as if it were an operation. Here it is a derivation from a
nonterminal with its names left open, so it fits wherever that nonterminal stands. What a let names counts as written
out, so a motif may be made of others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from grammar import show_expr
from search_spaces.derivation import Derivation, Equation, Tree
from search_spaces.edits import Place, places, production, put, uses, with_part
from search_spaces.rules import INPUT, Rules
from search_spaces.sampling import below, let_name

OPEN = "_"  # in place of a name: whichever is visible
LEAST, MOST = 2, 8  # operations of a motif


@dataclass(frozen=True)
class Motif:
    """A part of `size` operations derived from one nonterminal; `_` in its text is any name."""

    tree: Tree
    size: int
    text: str

    @cached_property
    def order(self) -> tuple[int, str]:
        """A key to sort by that is the same in every process."""
        return self.size, self.text

    def __str__(self) -> str:
        return self.text


def motifs(rules: Rules, made: Derivation) -> frozenset[Motif]:
    """The parts of a derivation of LEAST to MOST operations, without those at leaves of trees."""
    lets = {e.name: e.tree for e in made.lets()}
    found: dict[Tree, Motif] = {}
    for p in places(rules, made):
        if made.equations[p.equation].kind != "leaf" and rules.rules[p.tree.rule].type is not None:
            tree = _open(rules, p.tree, lets)
            size = tree.size(rules)
            if LEAST <= size <= MOST and tree not in found:
                found[tree] = Motif(tree, size, show_expr(tree.exprs(rules)[0]))
    return frozenset(found.values())


def _open(rules: Rules, tree: Tree, lets: dict[str, Tree]) -> Tree:
    """The tree with names left open, and lets written out where they stand alone."""
    if len(tree.parts) == 1 and not production(rules, tree).ops:
        (name,) = tree.parts
        meant = lets.get(name) if isinstance(name, str) else None
        if meant is not None and meant.rule == tree.rule:
            return _open(rules, meant, lets)
    parts = (_open(rules, p, lets) if isinstance(p, Tree) else p if p == INPUT else OPEN for p in tree.parts)
    return replace(tree, parts=tuple(parts))


def graft(rules: Rules, made: Derivation, motif: Motif, rng: np.random.Generator) -> Derivation | None:
    """A derivation with the motif in one place or, where it may be a let, as a let that is used in one or two.

    Names are still open in it (`Varier.mend`). None if there is no place.
    """
    tree = motif.tree
    depth = tree.depth(rules)
    fits = [
        p
        for p in places(rules, made)
        if p.tree.rule == tree.rule and p.depth >= depth and made.equations[p.equation].kind != "leaf"
    ]
    if not fits:
        return None
    at = fits[below(rng, len(fits))]
    number = reference(rules, tree.rule)
    if number is None or tree.rule not in rules.let.rules or len(made.lets()) >= rules.let.most:
        return put(made, at, tree)
    name = let_name(tree.rule, made.taken(rules))
    before = min(at.equation, len(made.lets()))
    named = Tree(tree.rule, number, (name,))
    grown = put(made, at, named)
    equations = (*grown.equations[:before], Equation(name, tree), *grown.equations[before:])
    grown = replace(grown, equations=equations)
    return _again(rules, grown, before, named, rng) if rng.random() < 0.5 else grown


def _again(rules: Rules, made: Derivation, before: int, named: Tree, rng: np.random.Generator) -> Derivation:
    """With one more use of the let that stands at number `before`, if there is a place for it."""
    (name,) = named.parts

    def later(p: Place) -> bool:
        return p.equation > before and made.equations[p.equation].kind != "leaf"

    holes = [
        (p, i)
        for p, i in uses(rules, made)
        if later(p) and p.tree.parts[i] != name and production(rules, p.tree).holes[i].tag == named.rule
    ]
    wholes = [p for p in places(rules, made) if later(p) and p.tree.rule == named.rule and p.tree != named]
    if not holes and not wholes:
        return made
    k = below(rng, len(holes) + len(wholes))
    if k < len(holes):
        place, hole = holes[k]
        return put(made, place, with_part(place.tree, hole, name))
    return put(made, wholes[k - len(holes)], named)


def reference(rules: Rules, rule: str) -> int | None:
    """The production by which `rule` is just the name of a let that it derives."""
    for number, p in enumerate(rules.rules[rule].productions):
        if not p.ops and len(p.holes) == 1 and p.holes[0].rule is None and p.holes[0].tag == rule:
            return number
    return None
