"""The normal form: a Program that a kernel backend renders, real and made of primitives alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from grammar import HALT, NUM, Cell, Type
from nas.errors import BuildError
from nas.ir.builder import BINARY, UNARY, Builder
from nas.ir.circles import circles_of, reached
from nas.ir.expansions import COMPLEX, EXPANSIONS, Pair, part_type, plus, times
from nas.ir.lowering import taps
from nas.ir.passes import compile_program, tree_parts
from nas.ir.program import Instr, Map, Program, Slot

# What stands in normal programs beside the elementwise `UNARY` and `BINARY`.
#   num      a number; with `over`, divided by that size       param   an array of a weight (`role`), or a place of
#   x        a row of the input                                        its last axis (`column`)
#   state    a slot before this step                           lin     one array times one operand, flat; `transpose`,
#   child    slot `slot` of child number `child` of a tree             `blocks`, `role`, `column`
#   cast     an operand repeated along the axes it lacks       reduce  the reverse: a sum
#   hmax     the largest in each head                          tokey, toval, outer, read, readt: as in the language
# and in backward programs beside them:
#   saved    the row that forward instruction `of` gave        past    forward slot `slot` before this step
#   next     a matrix slot after this step (from the replay)   dy      the gradient of the output's row
#   total    the sum of a row value over all rows              gram    the sum over all rows of du v^T, a block of a
#   block    a weight's gradient                                       weight's gradient, [out, in]
LEAVES = ("num", "x", "state", "child", "param", "saved", "past", "next", "dy")
PRIMITIVES: dict[str, int] = (
    dict.fromkeys(LEAVES, 0)
    | dict.fromkeys(UNARY, 1)
    | dict.fromkeys(BINARY, 2)
    | dict.fromkeys(("cast", "reduce", "hmax", "tokey", "toval", "lin", "total"), 1)
    | dict.fromkeys(("outer", "read", "readt", "gram"), 2)
)
# Operations of the table that no normal program has: those over whole sequences.
DEPTH_ONLY = ("attn", "top", "posemb")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a slot of a normal program lies in the Program it came from.

    `part` is "" for the whole of slot `slot`, "re" or "im" for a part of a complex one. `step` is -1, or the place in
    the window of a conv, `[B, step, *shape]`.
    """

    slot: int
    part: str = ""
    step: int = -1


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal program, and for each of its slots where it lies in the slots of the Program it came from."""

    program: Program
    slots: tuple[Place, ...]


@lru_cache(maxsize=256)
def normal_cell(cell: Cell) -> Normal:
    """The normal form of a time cell."""
    return normal(compile_program(cell, "sink"))


@lru_cache(maxsize=256)
def normal_tree(cell: Cell, arity: int = 2) -> tuple[Normal, Normal]:
    """The normal forms of what a tree cell does at a leaf, and of what it does in a merge of `arity` children.

    At a leaf only the slots' new values are results.
    """
    leaf, merge = tree_parts(compile_program(cell, "sink"))
    return normal(leaf, arity), normal(merge, arity)


def normal(program: Program, arity: int = 2) -> Normal:
    """The normal form of a time Program (after any pass before `stack`), or of one part of a tree cell.

    A cell with any number of children is made one of `arity` children. Raises BuildError for a depth cell, and for an
    operation of a user's own that has no expansion.
    """
    if program.kind == "depth":
        raise BuildError(f"{program.name} works on whole sequences, which the normal form does not know")
    lowering = _Lowering(program, arity)
    values = [lowering.value(k) for k in range(len(program.instrs))]
    slots, places = [], []
    for s, slot in enumerate(program.slots):
        for place in _places(program, s):
            following = lowering.part(values[slot.next], place.part)
            if 0 <= place.step < slot.steps - 1:
                newer = lowering.slots[replace(place, step=place.step + 1)]
                following = lowering.read(newer, part_type(slot.type))
            following = lowering.b.cast(following, part_type(slot.type))
            name = ".".join(str(p) for p in (slot.name, place.part or max(place.step, 0)) if p)
            slots.append(Slot(name, part_type(slot.type), following, slot.init))
            places.append(place)
    out = lowering.b.cast(lowering.part(values[program.out], ""), part_type(program.instrs[program.out].type))
    made = replace(
        program,
        instrs=tuple(lowering.b.instrs),
        slots=tuple(slots),
        out=out,
        leaf=(),
        region=None,
        children=(),
    )
    return Normal(staged(pruned(made)[0]), tuple(places))


def _places(program: Program, slot: int) -> list[Place]:
    """The new slots of an old one."""
    old = program.slots[slot]
    if old.steps:
        return [Place(slot, "", step) for step in range(old.steps)]
    return [Place(slot, part) for part in (("re", "im") if old.type.is_complex else ("",))]


class _Each(list["int | Pair"]):
    """A value of each of several children."""


class _Lowering:
    """The values of one Program in a new one."""

    def __init__(self, program: Program, arity: int) -> None:
        self.program, self.arity = program, arity
        self.b = Builder()
        self.made: dict[int, int | Pair | _Each] = {}
        self.finals: dict[int, int | Pair] = {}  # of each slot of a region its value after all rounds
        places = [p for s in range(len(program.slots)) for p in _places(program, s)]
        self.slots = {place: k for k, place in enumerate(places)}

    def value(self, k: int) -> int | Pair | _Each:
        """The value of an instruction, made from those of its operands."""
        instr = self.program.instrs[k]
        if instr.stage == "round":  # made when the first `final` asks for it
            return 0
        if instr.op == "final":
            if not self.finals:
                self._rounds()
            self.made[k] = self.finals[instr.slot]
        else:
            self.made[k] = self._any(instr, [self.made[a] for a in instr.args])
        return self.made[k]

    def _rounds(self) -> None:
        """Unroll a `depth n until(p)` block: the values of all rounds, weighted as nas.backends.rounds says."""
        program, b = self.program, self.b
        assert program.region is not None
        region = program.region
        inside = [(k, i) for k, i in enumerate(program.instrs) if i.stage == "round"]
        carried = {i.slot: self.made[i.args[0]] for _, i in inside if i.op == "carry"}
        left = b.num(1.0)
        total: dict[int, int | Pair] = {}
        for turn in range(region.times):
            for k, i in inside:
                args = [] if i.op == "carry" else [self.made[a] for a in i.args]
                self.made[k] = carried[i.slot] if i.op == "carry" else self._any(i, args)
            share = left
            if turn < region.times - 1:
                p = self.part(self.made[region.until], "")
                stops = b.apply("ge", b.add(b.sub(b.num(1.0), left), p), b.num(HALT))
                share = b.add(p, b.mul(stops, b.sub(left, p)))
                left = b.sub(left, share)
            for s, following in zip(region.slots, region.next, strict=True):
                value = self.made[following]
                assert not isinstance(value, _Each)
                carried[s] = value
                part = self._weighted(share, value, program.slots[s].type)
                total[s] = self._plus([total[s], part]) if s in total else part
        self.finals = total

    def _weighted(self, share: int, value: int | Pair, type_: Type) -> int | Pair:
        share = share if self.b.type(share) == NUM else self.b.cast(share, part_type(type_))
        if not isinstance(value, Pair):
            return self.b.mul(share, value)
        return times(self.b, Pair(share), value)

    def _any(self, instr: Instr, args: Sequence[int | Pair | _Each]) -> int | Pair | _Each:
        if instr.op == "child":
            children = self.arity if self.program.variadic else 1
            first = self.program.children.index(str(instr.attr("child")))
            made = _Each(self._child(instr, first + c) for c in range(children))
            return made if self.program.variadic else made[0]
        if instr.op == "sum":
            (terms,) = args
            return self._plus(terms if isinstance(terms, _Each) else [terms] * self.arity)
        if not any(isinstance(a, _Each) for a in args):
            return self._one(instr, args)  # type: ignore[arg-type]
        return _Each(
            self._one(instr, [a[c] if isinstance(a, _Each) else a for a in args]) for c in range(self.arity)
        )

    def _plus(self, terms: Sequence[int | Pair]) -> int | Pair:
        """The sum over all children."""
        if not any(isinstance(t, Pair) for t in terms):
            return self.b.total([self.part(t, "") for t in terms])
        result = Pair(self.part(terms[0], "re"), self.part(terms[0], "im"))
        for term in terms[1:]:
            result = plus(self.b, result, term if isinstance(term, Pair) else Pair(term))
        return result

    def part(self, value: int | Pair | _Each, part: str) -> int:
        """One part of a value; of a real one it is the value."""
        assert not isinstance(value, _Each), "a value of each child is summed before it is a result"
        if not isinstance(value, Pair):
            return value if part != "im" else self.b.num(0.0)
        re, im = value
        return re if part != "im" else self.b.num(0.0) if im is None else im

    def read(self, slot: int, type_: Type) -> int:
        """A slot before this step."""
        return self.b.emit("state", (), type_, slot=slot)

    def _one(self, instr: Instr, args: Sequence[int | Pair]) -> int | Pair:
        b, complex_ = self.b, instr.type.is_complex or any(isinstance(a, Pair) for a in args)
        if instr.op == "num":
            return b.num(float(instr.attr("value")))  # type: ignore[arg-type]
        if instr.op == "x":
            return b.emit("x", (), instr.type)
        if instr.op == "state" and self.program.kind == "tree":
            return self._cast(instr, b.num(float(self.program.slots[instr.slot].init)))
        if instr.op in ("state", "shift"):
            parts = [
                self.read(self.slots[p], part_type(instr.type)) for p in _places(self.program, instr.slot)
            ]
            return Pair(*parts) if complex_ else parts[0]
        if instr.op == "lin":
            return self._lin(instr, args)
        if instr.op == "conv":
            return self._conv(instr, self.part(args[0], ""))
        if instr.op == "cast":
            return self._cast(instr, args[0])
        if complex_:
            if instr.op not in COMPLEX:
                raise BuildError(f"the operation {instr.op!r} has no expansion for complex values")
            return COMPLEX[instr.op](b, instr, self._pairs(instr, args))
        return self._real(instr, [self.part(a, "") for a in args])

    def _pairs(self, instr: Instr, args: Sequence[int | Pair]) -> list[Pair]:
        """Complex operands; numbers have axes where the operation is not elementwise."""
        pairs = [a if isinstance(a, Pair) else Pair(a) for a in args]
        if instr.op not in ("read", "reflect"):
            return pairs
        types = [part_type(self.program.instrs[a].type) for a in instr.args]
        return [
            Pair(self.b.cast(p[0], t), None if p[1] is None else self.b.cast(p[1], t))
            for p, t in zip(pairs, types, strict=True)
        ]

    def _real(self, instr: Instr, args: Sequence[int]) -> int:
        b = self.b
        if instr.op in COMPLEX and instr.op not in PRIMITIVES and instr.op not in EXPANSIONS:
            made = COMPLEX[instr.op](b, instr, [Pair(a) for a in args])
            return self.part(made, "")
        if instr.op in EXPANSIONS:
            typed = args if instr.type == NUM else self._typed(instr, args)
            return EXPANSIONS[instr.op](b, instr, typed)
        if instr.op in UNARY or instr.op in BINARY:
            return b.apply(instr.op, *args)
        if instr.op == "param":
            return b.param(instr.weight, instr.type)
        if instr.op in ("read", "readt"):
            return (b.read if instr.op == "read" else b.readt)(*self._typed(instr, args))
        if instr.op in PRIMITIVES:
            return b.emit(instr.op, self._typed(instr, args), instr.type)
        raise BuildError(
            f"the operation {instr.op!r} has no expansion: nas.ir.register_expansion says what it is made of"
        )

    def _typed(self, instr: Instr, args: Sequence[int]) -> list[int]:
        """The operands with the axes they had, where folding made numbers of them."""
        types = [self.program.instrs[a].type for a in instr.args]
        return [
            a if t == NUM or self.b.type(a) != NUM else self.b.cast(a, t)
            for a, t in zip(args, types, strict=True)
        ]

    def _child(self, instr: Instr, child: int) -> int | Pair:
        """A state of one child."""
        names = [slot.name for slot in self.program.slots]
        made = [
            self.b.emit("child", (), part_type(instr.type), (("child", child),), slot=self.slots[place])
            for place in _places(self.program, names.index(str(instr.attr("state"))))
        ]
        return made[0] if len(made) == 1 else Pair(*made)

    def _cast(self, instr: Instr, a: int | Pair) -> int | Pair:
        type_ = part_type(instr.type)
        if not isinstance(a, Pair):
            return self.b.cast(a, type_)
        return Pair(self.b.cast(a[0], type_), None if a[1] is None else self.b.cast(a[1], type_))

    # ---- weights --------------------------------------------------------------------------

    def _lin(self, instr: Instr, args: Sequence[int | Pair]) -> int | Pair:
        (one,) = instr.maps
        complex_ = any(spec.complex for spec in self.program.weights[one.weight].specs)
        parts: list[int] = []
        for column in (0, 1) if complex_ else (-1,):
            terms: list[int] = []
            if one.base >= 0:
                terms.append(self.part(args[one.base], "im" if column == 1 else "re"))
            type_ = part_type(instr.type)
            if one.bias:
                terms.append(self.b.param(one.weight, type_, "b", column))
            for p, place in enumerate(one.parts):
                typed = self.program.instrs[instr.args[p]].type
                terms.append(self._map(one, place, args[p], typed, type_, column))
            parts.append(self.b.total(terms))
        return Pair(*parts) if complex_ else parts[0]

    def _map(self, one: Map, place: int, value: int | Pair, typed: Type, type_: Type, column: int) -> int:
        """One operand's part of a `lin`; of a complex one its real (column 0) or imaginary part."""

        def product(a: int, column: int) -> int:
            a = self.b.cast(a, part_type(typed))
            if one.rank:
                inner = self.b.lin(a, Type("mem", one.rank), one.weight, f"v{place}", column=column)
                return self.b.lin(inner, type_, one.weight, f"u{place}", column=column)
            return self.b.lin(
                a, type_, one.weight, f"w{place}", transpose=one.transpose, blocks=one.blocks, column=column
            )

        if column < 0:
            return product(self.part(value, "re"), -1)
        re, im = value if isinstance(value, Pair) else Pair(value)
        if one.rank:
            return self._complex_rank(one, place, Pair(self.b.cast(re, part_type(typed)), im), type_, column)
        first = product(re, column)
        if im is None:
            return first
        second = product(im, 1 - column)
        return self.b.add(first, second) if column else self.b.sub(first, second)

    def _complex_rank(self, one: Map, place: int, value: Pair, type_: Type, column: int) -> int:
        inner = value
        for role, to in ((f"v{place}", Type("mem", one.rank)), (f"u{place}", type_)):
            re, im = inner
            products = {
                (part, c): self.b.lin(a, to, one.weight, role, column=c)
                for part, a in enumerate((re, im))
                if a is not None
                for c in (0, 1)
            }
            if im is None:
                inner = Pair(products[0, 0], products[0, 1])
            else:
                inner = Pair(
                    self.b.sub(products[0, 0], products[1, 1]), self.b.add(products[0, 1], products[1, 0])
                )
        return self.part(inner, "im" if column else "re")

    def _conv(self, instr: Instr, a: int) -> int:
        b, count = self.b, taps(instr)
        a = b.cast(a, instr.type)
        terms = [b.param(instr.weight, instr.type, "b")] if instr.attr("bias", True) else []
        for tap in range(count):
            value = a if tap == count - 1 else self.read(self.slots[Place(instr.slot, "", tap)], instr.type)
            terms.append(b.mul(b.param(instr.weight, instr.type, "w", tap), value))
        return b.total(terms)


# ---- after building ---------------------------------------------------------------------------


def needed(program: Program, results: Sequence[int] = ()) -> list[int]:
    """What the program's own roots and these results need, in order."""
    found: set[int] = set()
    todo = [*program.roots, *results]
    while todo:
        k = todo.pop()
        if k not in found:
            found.add(k)
            todo.extend(program.instrs[k].args)
    return sorted(found)


def pruned(program: Program, results: Sequence[int] = ()) -> tuple[Program, dict[int, int]]:
    """The program without what neither its own roots nor these results need; and where each instruction is now."""
    kept = needed(program, results)
    new = {old: k for k, old in enumerate(kept)}
    instrs = tuple(i.of(tuple([new[a] for a in i.args]), i.slot) for i in (program.instrs[k] for k in kept))
    slots = tuple(replace(s, next=new[s.next]) for s in program.slots)
    return replace(program, instrs=instrs, slots=slots, out=new[program.out]), new


def has_rows(program: Program) -> list[bool]:
    """For each instruction whether it has a value for each row; the others depend on weights or totals alone."""
    rows: list[bool] = []
    for instr in program.instrs:
        leaf = instr.op in LEAVES and instr.op not in ("num", "param")
        rows.append(instr.op not in ("total", "gram") and (leaf or any(rows[a] for a in instr.args)))
    return rows


def staged(program: Program) -> Program:
    """The program with each instruction's stage: when a plain runner would compute it.

    `const` needs weights alone, `end` needs totals over all rows; of the others `loop` is what lies on a circle through
    the slots or between two, `before` what no circle leads to, `after` what leads to none.
    """
    rows = has_rows(program)
    ends: list[bool] = []
    for instr in program.instrs:
        ends.append(instr.op in ("total", "gram") or any(ends[a] for a in instr.args))
    fed, feeding = _around_circles(program)
    stages = []
    for k in range(len(program.instrs)):
        if ends[k] or not rows[k]:
            stages.append("end" if ends[k] else "const")
        else:
            stages.append("before" if k not in fed else "loop" if k in feeding else "after")
    instrs = (i.at(s) for i, s in zip(program.instrs, stages, strict=True))
    return replace(program, instrs=tuple(instrs))


def _around_circles(program: Program) -> tuple[set[int], set[int]]:
    """What circles through the slots lead to (themselves included), and what leads to them."""
    edges: list[tuple[int, int]] = []
    for k, instr in enumerate(program.instrs):
        edges += [(a, k) for a in instr.args]
        if instr.op == "state":
            edges.append((program.slots[instr.slot].next, k))
        if instr.op == "child":
            edges.append((k, k))
    count = len(program.instrs)
    circles = set[int]().union(*circles_of(count, edges))
    return reached(count, edges, circles), reached(count, ((b, a) for a, b in edges), circles)
