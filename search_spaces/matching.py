"""Whether a cell is of a sketch, and with which options: the texts are compared from what they compute.

Names do not count, nor does the order of commutative operands, nor whether a value that is used once has a name. A
value with weights that is used twice is one value in both texts, or two in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grammar import OPS, Cell, Expr, State
from search_spaces.places import Equation, Path, Places, block_pairs, skeleton
from search_spaces.shapes import symmetric
from search_spaces.templates import Template, site_of

STEPS = 200_000  # comparisons of one cell with one template, until it is given up
_NAMES = ("x", "ref", "child", "num")  # leaves without weights

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


def reading(template: Template, cell: Cell) -> Found | str:
    """A set of options with which the template is this cell, always the same one, or why there is none."""
    why = _differs(template, cell)
    if why is not None:
        return why
    try:
        bound = next(_Match(template, cell).whole(), None)
    except _GivenUp:
        return "it takes too long to compare"
    return "its equations are others" if bound is None else _options(bound)


def readings(template: Template, cell: Cell) -> list[Found] | None:
    """Every set of options with which the template is this cell; None where these are too many to be found."""
    if _differs(template, cell) is not None:
        return []
    try:
        return [*dict.fromkeys(map(_options, _Match(template, cell).whole()))]
    except _GivenUp:  # many ways to pair, such as of interchangeable states, may be few sets of options
        pass
    try:
        return _apart(_Match(template, cell))
    except _GivenUp:
        return None


def _apart(match: _Match) -> list[Found]:
    """Every set of options once: after one is found, what it leaves is cut into parts by where others first differ."""
    found: dict[Found, None] = {}
    parts: list[dict[int, frozenset[int]]] = [{}]
    while parts:
        match.barred = barred = parts.pop()
        bound = next(match.whole(), None)
        if bound is not None:
            options = _options(bound)
            found[options] = None
            for site, option in options:
                parts.append(barred | {site: barred.get(site, frozenset()) | {option}})
                barred = barred | {site: frozenset(range(match.most)) - {option}}
    return [*found]


def _differs(template: Template, cell: Cell) -> str | None:
    """A reason that is seen at once why a cell cannot be the template."""
    sketch = template.sketch
    if (len(sketch.tree.children), sketch.tree.variadic) != (len(cell.tree.children), cell.tree.variadic):
        return "its children are others"
    if len(sketch.states) != len(cell.states):
        return f"it has {len(cell.states)} states, not {len(sketch.states)}"
    if skeleton(sketch.statements) != skeleton(cell.statements):
        return "its blocks are others"
    unused = unused_let(cell)
    return f"{unused!r} is not used" if unused else None


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
    """One cell against one template. Which states are meant by its states is settled where they are first read."""

    def __init__(self, template: Template, cell: Cell) -> None:
        self.sketch = template.sketch
        self.ours = template.places
        self.theirs = Places(cell.statements)
        self.cell = cell
        ours, theirs = self.sketch.states, cell.states
        self.alike = {a.name: [b.name for b in theirs if _alike(a, b)] for a in ours}
        self.children = dict(zip(self.sketch.tree.children, cell.tree.children, strict=True))
        self.steps = 0
        self.most = max((len(site.options) for site in template.sites), default=0)
        self.barred: Mapping[int, frozenset[int]] = {}  # of holes: options that are left out of account
        self._known: dict[
            tuple[object, object], bool
        ] = {}  # whether parts of the cell at two places are equal

    def whole(self) -> Iterator[Bound]:
        """Each way to read the cell as the template."""
        for blocks in block_pairs(self.sketch.statements, self.cell.statements):
            yield from self._with_blocks(blocks)

    def _with_blocks(self, blocks: Mapping[Path, Path]) -> Iterator[Bound]:
        theirs = {(e.scope, _root_name(e)): e for e in self.theirs.roots()}
        ours = self.ours.roots()
        if len(ours) == len(theirs):
            yield from self._roots(ours, theirs, blocks, {})

    def _roots(
        self, ours: Sequence[Equation], theirs: Mapping[tuple[Path, str], Equation], blocks: Mapping[Path, Path],
        bound: Bound,
    ) -> Iterator[Bound]:  # fmt: skip
        """Each way to pair the equations: first those of which it is settled what they are to be paired with."""
        if not ours:
            yield bound
            return
        at = next((i for i, e in enumerate(ours) if not e.name or ("state", e.name[:-1]) in bound), 0)
        self._step()
        e, rest = ours[at], [*ours[:at], *ours[at + 1 :]]
        for name in [f"{b}'" for b in self.alike[e.name[:-1]]] if e.name else [_root_name(e)]:
            other = theirs.get((blocks[e.scope], name))
            settled = self._named(e.name, name, bound) if e.name else bound
            if other is not None and settled is not None:
                pair = _At(e.expr, e.scope, e.path), _At(other.expr, other.scope, other.path)
                for found in self._one(*pair, settled):
                    yield from self._roots(rest, theirs, blocks, found)

    def _named(self, ours: str, theirs: str, bound: Bound) -> Bound | None:
        """Whether a name of a state, primed or not, may mean this one of the cell, and what that settles."""
        state, other = ours.removesuffix("'"), theirs.removesuffix("'")
        if (state == ours) != (other == theirs):
            return None
        before = bound.get(("state", state))
        if before is not None:
            return bound if before == other else None
        if ("their state", other) in bound or other not in self.alike.get(state, ()):
            return None
        return {**bound, ("state", state): other, ("their state", other): state}

    def _all(self, pairs: Sequence[tuple[_At, _At]], bound: Bound) -> Iterator[Bound]:
        if not pairs:
            yield bound
            return
        for found in self._one(*pairs[0], bound):
            yield from self._all(pairs[1:], found)

    def _one(self, ours: _At, theirs: _At, bound: Bound) -> Iterator[Bound]:
        self._step()
        theirs = self._meant(theirs)
        let = self.ours.let(ours.expr, ours.scope)
        if let is not None:
            yield from self._let(let, theirs, bound)
        elif ours.expr.op == "choice":
            site = ("site", site_of(ours.expr))
            barred = self.barred.get(site_of(ours.expr), frozenset())
            for number in range(len(ours.expr.args)):
                if bound.get(site, number) != number or number in barred:
                    continue
                for found in self._one(ours.operand(number), theirs, bound):
                    if found.get(site, number) == number:
                        yield {**found, site: number}
        elif ours.expr.op == theirs.expr.op:
            settled = self._same(ours, theirs, bound)
            if settled is not None:
                yield from self._operands(ours, theirs, settled)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise _GivenUp

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
        left = [b.operand(j) for j in range(len(b.expr.args))]
        for i in range(
            len(a.expr.args)
        ):  # what is equal to one is equal to all that are: none has to be tried again
            among = left if symmetric(a.expr) else left[:1]
            equal = next((k for k, part in enumerate(among) if self._equal(a.operand(i), part)), None)
            if equal is None:
                return False
            del left[equal]
        return True

    def _same(self, ours: _At, theirs: _At, bound: Bound) -> Bound | None:
        """Whether two nodes are the same but for their operands, and what that settles."""
        a, b = dict(ours.expr.attrs), dict(theirs.expr.attrs)
        if ours.expr.op == "ref":
            return self._named(str(a["name"]), str(b["name"]), bound)
        if ours.expr.op == "child":
            same = self.children[str(a["child"])] == b["child"]
            return self._named(str(a["state"]), str(b["state"]), bound) if same else None
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
        parts = [self._meant(theirs.operand(j)) for j in range(len(theirs.expr.args))]
        if symmetric(ours.expr):
            yield from self._in_any_order(ours, 0, parts, bound)
        else:
            yield from self._all([(ours.operand(i), part) for i, part in enumerate(parts)], bound)

    def _in_any_order(self, ours: _At, number: int, parts: Sequence[_At], bound: Bound) -> Iterator[Bound]:
        """Each way to pair the operands from `number` on with these parts."""
        if number == len(ours.expr.args):
            yield bound
            return
        seen: set[object] = set()
        for k, part in enumerate(parts):
            # One value, or one name, that changes places with itself gives the same readings once more.
            key = part.expr if part.expr.op in _NAMES else part.place
            if key not in seen:
                seen.add(key)
                for found in self._one(ours.operand(number), part, bound):
                    yield from self._in_any_order(ours, number + 1, [*parts[:k], *parts[k + 1 :]], found)


def _root_name(equation: Equation) -> str:
    """What tells apart what a block computes for its own sake: the name of a new value, `until`, or `out`."""
    return equation.name or ("until" if equation.path[-1] < 0 else "out")
