"""A sketch as a set of cells: its holes, and the cells that they are filled to.

What is not reached is no part of a cell: a let that no chosen option uses is left out, and its holes are not filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grammar import OPS, Cell, Expr, Sketch, choice, choice_weights, make_cell
from search_spaces.places import Path, Places, rebuilt
from search_spaces.rules import nesting
from search_spaces.sampling import pick

Picks = Mapping[int, int]  # hole -> option, for the holes that are reached
Mask = int  # a set of lets
Table = dict[tuple[Mask, int], Any]  # lets used and operations -> how many ways, or how likely
Series = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Site:
    """A hole: the name of the equation that it is in, its options and how much each weighs."""

    name: str
    options: tuple[Expr, ...]
    weights: tuple[float, ...]


class Template:
    """The cells of one sketch. Choices in its expressions bear the number of their hole (`site`)."""

    def __init__(self, sketch: Sketch) -> None:
        self.sketch = sketch
        self.sites: list[Site] = []
        self.links: dict[str, int] = {}  # of holes that are filled alike: their one number
        places = Places(sketch.statements)
        numbered = {
            p: self._numbered(e.expr, e.name or ("out" if len(p) == 1 else "until"))
            for p, e in places.equations.items()
        }
        self.statements = rebuilt(sketch.statements, numbered)
        self.places = Places(self.statements)
        self.order = self.places.users_first()
        self.bits = {e.path: 1 << i for i, e in enumerate(e for e in self.order if e.let)}
        self.linked = self._linked()
        # The check of the sketch covers every option, but for a `sum` in which some have a child and some have none.
        self.sound = not any(
            node.op == "sum" and any(n.op == "choice" for n in node.walk())
            for e in self.order
            for node in e.expr.walk()
        )

    def _numbered(self, expr: Expr, name: str) -> Expr:
        if expr.op == "choice":
            link = str(expr.attr("link", ""))
            number = self.links.get(link, len(self.sites))
            if number == len(self.sites):
                self.sites.append(Site(link or name, (), choice_weights(expr)))
                if link:
                    self.links[link] = number
            options = tuple(self._numbered(a, name) for a in expr.args)
            self.sites[number] = Site(link or name, options, choice_weights(expr))
            return Expr("choice", options, (("site", number),), expr.span)
        if not any(node.op == "choice" for node in expr.walk()):
            return expr
        return Expr(expr.op, tuple(self._numbered(a, name) for a in expr.args), expr.attrs, expr.span)

    def _linked(self) -> dict[int, tuple[int, ...]]:
        """For each set of holes that are filled alike, a bit for each option, above those of the lets."""
        found: dict[int, tuple[int, ...]] = {}
        at = len(self.bits)
        for number in self.links.values():
            found[number] = tuple(1 << at + i for i in range(len(self.sites[number].options)))
            at += len(found[number])
        return found

    # -- cells ----------------------------------------------------------------------------------

    def complete(self, picks: Picks, rng: np.random.Generator) -> dict[int, int]:
        """The given options where their holes are reached, and drawn ones by weight in all others that are."""
        made: dict[int, int] = {}
        needed: set[Path] = set()
        for e in self.order:
            if e.let and e.path not in needed:
                continue
            for node in self._reached(e.expr, picks, made, rng):
                used = self.places.let(node, e.scope)
                if used is not None:
                    needed.add(used)
        return made

    def _reached(
        self, expr: Expr, picks: Picks, made: dict[int, int], rng: np.random.Generator
    ) -> Iterator[Expr]:
        if expr.op == "choice":
            number = site_of(expr)
            if number not in made:
                made[number] = picks[number] if number in picks else pick(rng, self.sites[number].weights)
            yield from self._reached(expr.args[made[number]], picks, made, rng)
        else:
            yield expr
            for a in expr.args:
                yield from self._reached(a, picks, made, rng)

    def cell(self, picks: Picks) -> Cell:
        """The cell with these options. A let that became a mere name is written out."""
        exprs: dict[Path, Expr] = {}
        users: dict[Path, set[Path]] = {}  # of a let: the blocks that use it
        for e in self.order:
            if not e.let or e.path in users:
                exprs[e.path] = filled(e.expr, picks)
                for node in exprs[e.path].walk():
                    used = self.places.let(node, e.scope)
                    if used is not None:
                        users.setdefault(used, set()).add(e.scope)
        # In another block a name may mean something else.
        names = {p for p in users if exprs[p].op in ("ref", "x") and users[p] == {p[:-1]}}
        if names:
            meant = {p: exprs.pop(p) for p in names}
            exprs = {p: self._plain(e, p[:-1], meant) for p, e in exprs.items()}
        tree = self.sketch.tree
        body = rebuilt(self.statements, exprs)
        return make_cell(tree.name, tree.states, body, tree.children, tree.variadic, sound=self.sound)

    def _plain(self, expr: Expr, scope: Path, meant: Mapping[Path, Expr]) -> Expr:
        """The expression with what they mean in place of some lets."""
        let = self.places.let(expr, scope)
        if let is not None and let in meant:
            return self._plain(meant[let], scope, meant)
        if not expr.args:
            return expr
        return Expr(expr.op, tuple(self._plain(a, scope, meant) for a in expr.args), expr.attrs)

    def weighted(self, weights: Mapping[int, tuple[float, ...]]) -> tuple[Any, ...]:
        """The statements of the sketch, with other weights of its options."""

        def inside(expr: Expr) -> Expr:
            args = tuple(map(inside, expr.args))
            if expr.op == "choice":
                number = site_of(expr)
                link = next((name for name, n in self.links.items() if n == number), "")
                return choice(args, weights[number], link)
            return Expr(expr.op, args, expr.attrs) if args else expr

        return rebuilt(self.statements, {p: inside(e.expr) for p, e in self.places.equations.items()})

    @cached_property
    def depth(self) -> int:
        """How deep operations may be nested in an equation."""
        return max(nesting(e.expr) for e in self.order)


class Tables:
    """Sums over the cells of one template by size: counts, or with `weighted` probabilities.

    Holes that are filled alike are kept apart by their option: it is part of the mask, beside the lets that are used.
    """

    def __init__(self, template: Template, weighted: bool) -> None:
        self.template = template
        self.weighted = weighted
        self._fields = tuple(map(sum, template.linked.values()))
        self._any_link = sum(self._fields)
        # What an option weighs is counted at each hole of its name, and is to be counted once.
        self._again: dict[int, float | int] = {}
        for number, bits in template.linked.items():
            weights = template.sites[number].weights
            for bit, w in zip(bits, weights, strict=True):
                self._again[bit] = sum(weights) / w if weighted else 1
        self.length = 1 + sum(_largest(e.expr) for e in template.order)
        self._known: dict[
            tuple[int, int, Path], Table
        ] = {}  # by the identity of an expression of the template
        self._series: dict[tuple[int, Mask], Series] = {}

    @cached_property
    def whole(self) -> Series:
        """The sum over all cells, by size."""
        return self._from(0, 0)

    def _from(self, index: int, needed: Mask) -> Series:
        """The sum over the equations from number `index` on, given which lets are needed."""
        order = self.template.order
        while index < len(order) and order[index].let and not needed & self.template.bits[order[index].path]:
            index += 1
        key = (index, needed)
        if key not in self._series:
            made = np.zeros(self.length, dtype=np.float64 if self.weighted else object)
            if index == len(order):
                made[0] = 1
            else:
                for (mask, size), n in self._table(order[index].expr, order[index].scope).items():
                    both, again = self._both(needed, mask)
                    if again:
                        rest = self._from(index + 1, self._left(index, both))
                        made[size:] += again * n * rest[: self.length - size]
            self._series[key] = made
        return self._series[key]

    def _both(self, a: Mask, b: Mask) -> tuple[Mask, float | int]:
        """The union, and what corrects the product of the weights; 0 where holes of one name differ."""
        again: float | int = 1
        if a & self._any_link and b & self._any_link:
            for field in self._fields:
                mine, yours = a & field, b & field
                if mine and yours:
                    again *= self._again[mine] if mine == yours else 0
        return a | b, again

    def _left(self, index: int, needed: Mask) -> Mask:
        """What is needed of the equations after `index`."""
        return needed & ~self.template.bits.get(self.template.order[index].path, 0)

    def _table(self, expr: Expr, scope: Path) -> Table:
        key = (id(expr), -1, scope)
        if key in self._known:
            return self._known[key]
        made: Table = {}
        if expr.op == "choice":
            for a, factor, bit in zip(expr.args, self._factors(expr), self._bits(expr), strict=True):
                for (mask, size), n in self._table(a, scope).items():
                    at = (mask | bit, size)
                    made[at] = made.get(at, 0) + factor * n
        else:
            used = self.template.places.let(expr, scope)
            own = (0 if used is None else self.template.bits[used], int(expr.op in OPS))
            made = {(m | own[0], n + own[1]): ways for (m, n), ways in self._together(expr, 0, scope).items()}
        self._known[key] = made
        return made

    def _together(self, expr: Expr, start: int, scope: Path) -> Table:
        """The sum over the operands from number `start` on."""
        if start == len(expr.args):
            return {(0, 0): 1}
        key = (id(expr), start, scope)
        if key not in self._known:
            made: Table = {}
            for (m, size), n in self._table(expr.args[start], scope).items():
                for (k, more), ways in self._together(expr, start + 1, scope).items():
                    both, again = self._both(m, k)
                    if again:
                        at = (both, size + more)
                        made[at] = made.get(at, 0) + again * n * ways
            self._known[key] = made
        return self._known[key]

    def _bits(self, expr: Expr) -> tuple[int, ...]:
        """What each option of a choice adds to a mask."""
        return self.template.linked.get(site_of(expr), (0,) * len(expr.args))

    def _factors(self, expr: Expr) -> tuple[float | int, ...]:
        weights = self.template.sites[site_of(expr)].weights
        return tuple(w / sum(weights) for w in weights) if self.weighted else (1,) * len(weights)

    # -- drawing --------------------------------------------------------------------------------

    def draw(self, rng: np.random.Generator, size: int) -> dict[int, int]:
        """The options of a cell of so many operations, in proportion to what it weighs."""
        made: dict[int, int] = {}
        needed, order = 0, self.template.order
        for index, e in enumerate(order):
            if e.let and not needed & self.template.bits[e.path]:
                continue
            ways = list(self._table(e.expr, e.scope).items())
            shares = []
            for (mask, n), w in ways:
                both, again = self._both(needed, mask)
                rest = self._from(index + 1, self._left(index, both)) if again and n <= size else None
                shares.append(0 if rest is None else again * w * rest[size - n])
            at = ways[pick(rng, shares)][0]
            self._inside(rng, e.expr, e.scope, at, made)
            needed = self._left(index, needed | at[0])
            size -= at[1]
        return made

    def _inside(
        self, rng: np.random.Generator, expr: Expr, scope: Path, at: tuple[Mask, int], made: dict[int, int]
    ) -> None:
        """Options for the holes of an expression that uses certain lets and has so many operations."""
        if expr.op == "choice":
            bits, shares = self._bits(expr), []
            for a, factor, bit in zip(expr.args, self._factors(expr), bits, strict=True):
                inside = self._table(a, scope).get((at[0] & ~bit, at[1]), 0)
                shares.append(factor * inside if at[0] & bit == bit else 0)
            number = made[site_of(expr)] = pick(rng, shares)
            self._inside(rng, expr.args[number], scope, (at[0] & ~bits[number], at[1]), made)
        elif expr.args:
            self._several(rng, expr, 0, scope, (at[0], at[1] - (expr.op in OPS)), made)

    def _several(
        self, rng: np.random.Generator, expr: Expr, start: int, scope: Path, at: tuple[Mask, int],
        made: dict[int, int],
    ) -> None:  # fmt: skip
        if start == len(expr.args):
            return
        ways = [
            ((m, n), (k, more), w * v * self._both(m, k)[1])
            for (m, n), w in self._table(expr.args[start], scope).items()
            for (k, more), v in self._together(expr, start + 1, scope).items()
            if (m | k, n + more) == at
        ]
        first, after, _ = ways[pick(rng, [w for *_, w in ways])]
        self._inside(rng, expr.args[start], scope, first, made)
        self._several(rng, expr, start + 1, scope, after, made)


def site_of(expr: Expr) -> int:
    """The number of the hole that a choice of a template is."""
    return int(expr.attr("site"))  # type: ignore[arg-type]


def filled(expr: Expr, picks: Picks) -> Expr:
    """The expression with an option in each hole; parts without holes are the same objects."""
    if expr.op == "choice":
        return filled(expr.args[picks[site_of(expr)]], picks)
    if not expr.args:
        return expr
    args = tuple(filled(a, picks) for a in expr.args)
    if all(a is b for a, b in zip(args, expr.args, strict=True)):
        return expr
    return Expr(expr.op, args, expr.attrs)


def _largest(expr: Expr) -> int:
    if expr.op == "choice":
        return max(map(_largest, expr.args))
    return int(expr.op in OPS) + sum(map(_largest, expr.args))
