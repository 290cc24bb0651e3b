"""Whether a cell is of a sketch, and with which options: the texts are compared from what they compute.

Names do not count, nor does the order of commutative operands, nor whether a value that is used once has a name. A
value with weights that is used twice is one value in both texts, or two in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from grammar import OPS, Cell, Expr, State
from search_spaces.places import Path, Places, block_pairs, skeleton
from search_spaces.shapes import symmetric
from search_spaces.templates import Template, site_of

STEPS = 200_000  # comparisons of one cell with one template, until it is given up
_NAMES = ("x", "ref", "child", "num")  # leaves without weights
FOUND = 2_000  # readings of one cell as a template that are looked at

# What has been settled: the option of a hole, the value of a let, which template part a weighted value is, labels.
Bound = Mapping[tuple[str, object], object]
Found = tuple[tuple[int, int], ...]  # the options of the holes that were reached, by hole


@dataclass(frozen=True, slots=True)
class _At:
    """An expression of a text and where it stands: the place of its equation, and the way down to it."""

    expr: Expr
    scope: Path
    equation: Path
    way: tuple[int, ...] = ()

    @property
    def place(self) -> tuple[Path, tuple[int, ...]]:
        return self.equation, self.way

    def operand(self, number: int) -> _At:
        return _At(self.expr.args[number], self.scope, self.equation, (*self.way, number))


class _GivenUp(Exception):
    """The comparison took too many steps."""


def readings(template: Template, cell: Cell) -> list[Found] | str:
    """Every set of options with which the template is this cell, or why there is none."""
    sketch = template.sketch
    if (len(sketch.tree.children), sketch.tree.variadic) != (len(cell.tree.children), cell.tree.variadic):
        return "its children are others"
    if len(sketch.states) != len(cell.states):
        return f"it has {len(cell.states)} states, not {len(sketch.states)}"
    if skeleton(sketch.statements) != skeleton(cell.statements):
        return "its blocks are others"
    unused = unused_let(cell)
    if unused:
        return f"{unused!r} is not used"
    found: dict[Found, None] = {}
    try:
        for chosen in permutations(cell.states):
            if all(_alike(a, b) for a, b in zip(sketch.states, chosen, strict=True)):
                names = {a.name: b.name for a, b in zip(sketch.states, chosen, strict=True)}
                for bound in _Match(template, cell, names).whole():
                    found[_options(bound)] = None
                    if len(found) == FOUND:
                        return list(found)
    except _GivenUp:
        return "it takes too long to compare"
    return list(found) or "its equations are others"


def _options(bound: Bound) -> Found:
    """The options of the holes, by hole."""
    given = ((k[1], v) for k, v in bound.items() if k[0] == "site")
    return tuple(
        sorted((site, option) for site, option in given if isinstance(site, int) and isinstance(option, int))
    )


def unused_let(cell: Cell) -> str | None:
    """A helper name that nothing needs, or None."""
    places = Places(cell.statements)
    needed: set[Path] = set()
    for e in places.users_first():
        if e.let and e.path not in needed:
            return e.name
        needed.update(p for n in e.expr.walk() if (p := places.let(n, e.scope)) is not None)
    return None


def _weighted(expr: Expr) -> bool:
    return expr.op in OPS and OPS[expr.op].weights is not None


def _alike(a: State, b: State) -> bool:
    return a.type == b.type and a.init == b.init


class _Match:
    """One cell against one template, with certain states taken for its states."""

    def __init__(self, template: Template, cell: Cell, states: Mapping[str, str]) -> None:
        self.sketch = template.sketch
        self.ours = template.places
        self.theirs = Places(cell.statements)
        self.cell = cell
        self.states = dict(states) | {f"{a}'": f"{b}'" for a, b in states.items()}
        self.children = dict(zip(self.sketch.tree.children, cell.tree.children, strict=True))
        self.steps = 0
        self._known: dict[
            tuple[object, object], bool
        ] = {}  # whether parts of the cell at two places are equal

    def whole(self) -> Iterator[Bound]:
        """Each way to read the cell as the template."""
        for blocks in block_pairs(self.sketch.statements, self.cell.statements):
            yield from self._with_blocks(blocks)

    def _with_blocks(self, blocks: Mapping[Path, Path]) -> Iterator[Bound]:
        theirs = {
            (e.scope, e.name or str(e.path[-1] < 0)): e for e in self.theirs.equations.values() if not e.let
        }
        pairs: list[tuple[_At, _At]] = []
        for e in self.ours.roots():
            key = (blocks[e.scope], self.states[e.name] if e.name else str(e.path[-1] < 0))
            if key not in theirs:
                return
            other = theirs.pop(key)
            pairs.append((_At(e.expr, e.scope, e.path), _At(other.expr, other.scope, other.path)))
        if not theirs:
            yield from self._all(pairs, {})

    def _all(self, pairs: Sequence[tuple[_At, _At]], bound: Bound) -> Iterator[Bound]:
        if not pairs:
            yield bound
            return
        for found in self._one(*pairs[0], bound):
            yield from self._all(pairs[1:], found)

    def _one(self, ours: _At, theirs: _At, bound: Bound) -> Iterator[Bound]:
        self.steps += 1
        if self.steps > STEPS:
            raise _GivenUp
        theirs = self._meant(theirs)
        let = self.ours.let(ours.expr, ours.scope)
        if let is not None:
            yield from self._let(let, theirs, bound)
        elif ours.expr.op == "choice":
            site = ("site", site_of(ours.expr))
            for number in range(len(ours.expr.args)):
                if bound.get(site, number) != number:
                    continue
                for found in self._one(ours.operand(number), theirs, bound):
                    if found.get(site, number) == number:
                        yield {**found, site: number}
        elif ours.expr.op == theirs.expr.op:
            settled = self._same(ours, theirs, bound)
            if settled is not None:
                yield from self._operands(ours, theirs, settled)

    def _meant(self, at: _At) -> _At:
        """What a let of the cell is."""
        let = self.theirs.let(at.expr, at.scope)
        while let is not None:
            e = self.theirs.equations[let]
            at = _At(e.expr, e.scope, e.path)
            let = self.theirs.let(at.expr, at.scope)
        return at

    def _let(self, let: Path, theirs: _At, bound: Bound) -> Iterator[Bound]:
        key = ("let", let)
        before = bound.get(key)
        if isinstance(before, _At):
            if self._equal(before, theirs):
                yield bound
            return
        e = self.ours.equations[let]
        for found in self._one(_At(e.expr, e.scope, e.path), theirs, bound):
            yield {**found, key: theirs}

    def _equal(self, a: _At, b: _At) -> bool:
        """Whether two parts of the cell are the same value: in one place, or without weights and of the same values."""
        a, b = self._meant(a), self._meant(b)
        if a.place == b.place:
            return True
        key = (a.place, b.place)
        if key not in self._known:
            self._known[key] = self._are_equal(a, b)
        return self._known[key]

    def _are_equal(self, a: _At, b: _At) -> bool:
        if a.expr.op != b.expr.op or a.expr.attrs != b.expr.attrs or len(a.expr.args) != len(b.expr.args):
            return False
        if _weighted(a.expr) and not a.expr.attr("share"):
            return False
        return any(
            all(self._equal(a.operand(i), b.operand(j)) for i, j in enumerate(order))
            for order in _orders(a.expr)
        )

    def _same(self, ours: _At, theirs: _At, bound: Bound) -> Bound | None:
        """Whether two nodes are the same but for their operands, and what that settles."""
        a, b = dict(ours.expr.attrs), dict(theirs.expr.attrs)
        if ours.expr.op == "ref":
            return bound if self.states[str(a["name"])] == b["name"] else None
        if ours.expr.op == "child":
            same = self.children[str(a["child"])] == b["child"] and self.states[str(a["state"])] == b["state"]
            return bound if same else None
        label, other = a.pop("share", None), b.pop("share", None)
        if a != b or len(ours.expr.args) != len(theirs.expr.args) or (label is None) != (other is None):
            return None
        new: dict[tuple[str, object], object] = {}
        if label is not None:
            new |= {("label", label): other, ("their label", other): label}
        elif _weighted(ours.expr):
            new[("weight", theirs.place)] = ours.place
        if any(bound.get(key, value) != value for key, value in new.items()):
            return None
        return {**bound, **new} if new else bound

    def _operands(self, ours: _At, theirs: _At, bound: Bound) -> Iterator[Bound]:
        seen: set[tuple[object, ...]] = set()
        for order in _orders(ours.expr):
            parts = [self._meant(theirs.operand(j)) for j in order]
            # One value, or one name, that changes places with itself gives the same readings once more.
            key = tuple(p.expr if p.expr.op in _NAMES else p.place for p in parts)
            if key not in seen:
                seen.add(key)
                yield from self._all([(ours.operand(i), p) for i, p in enumerate(parts)], bound)


def _orders(expr: Expr) -> Iterator[tuple[int, ...]]:
    """The orders of operands that mean the same."""
    numbers = tuple(range(len(expr.args)))
    yield from permutations(numbers) if symmetric(expr) else (numbers,)
