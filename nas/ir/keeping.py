"""What a forward run keeps for the backward one, and how the rest is had again from that."""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import lru_cache

from grammar import Type
from nas.ir.builder import BINARY, UNARY, Builder, width_of
from nas.ir.cutting import FOREVER, after_cut
from nas.ir.normal import has_rows
from nas.ir.program import Instr, Program

# Operations that are dearer to compute once more than to keep: exp-like ones, products, and sums along a head.
DEAR = (
    "exp",
    "log",
    "tanh",
    "sigmoid",
    "softplus",
    "erf",
    "sin",
    "cos",
    "lin",
    "reduce",
    "hmax",
    "read",
    "readt",
)
DIVISIONS = ("div", "recip", "sqrt", "rsqrt")
# What it costs to keep a number, and to compute it again.
_KEPT, _CHEAP, _DIVISION = 100, 3, 30
# Keeping what lies in memory already: the new value of a state or an output, and a product over all rows.
_THERE, _PRODUCT = 10, 90
_NOMINAL = {"input_size": 64, "hidden_size": 64, "heads": 4, "key_size": 16}


def choose(program: Program, needs: Iterable[int]) -> frozenset[int]:
    """The instructions of a normal program whose rows are kept, so that `needs` can be computed from them.

    x, the rows of children and the states before each step are there anyway. A smallest cut between what is dear to
    compute again and what is needed; a matrix is only kept where it is a product over all rows.
    """
    needs = set(needs)
    needs |= {program.slots[s].next for s in _replayed(program, needs)}
    rows = has_rows(program)
    there = {program.out, *(slot.next for slot in program.slots)}
    edges: list[tuple[int, int, int]] = []
    source, sink = -1, -2  # of instruction k the nodes are 2 k and 2 k + 1
    for k, instr in enumerate(program.instrs):
        if not rows[k] or instr.op in ("x", "state", "child"):
            continue
        width, before, after = _width(instr.type), 2 * k, 2 * k + 1
        if instr.type.kind == "mat" and instr.op != "lin":
            edges.append((before, after, FOREVER))
            again = width * _CHEAP
        else:
            early = instr.op == "lin" and instr.stage != "loop"
            share = _THERE if k in there else _PRODUCT if early else _KEPT
            edges.append((before, after, width * share))
            again = width * (_DIVISION if instr.op in DIVISIONS else _CHEAP)
        dear = instr.op in DEAR and (instr.type.kind != "mat" or instr.op == "lin")
        edges.append((source, before, FOREVER if dear else again))
        if not dear:
            edges += ((2 * a + 1, before, FOREVER) for a in instr.args)
        if k in needs:
            edges.append((after, sink, FOREVER))
    behind = after_cut(edges, source, sink)
    own = (a for a, b, _ in edges if a >= 0 and a % 2 == 0 and a not in behind and b in behind)
    return frozenset(a // 2 for a in own)


@lru_cache(maxsize=1024)
def _width(type_: Type) -> int:
    return int(width_of(type_).at(**_NOMINAL))


def is_matrix(program: Program, slot: int) -> bool:
    """Whether a slot is a matrix: those are not kept, but computed once more."""
    return program.slots[slot].type.kind == "mat"


def _replayed(program: Program, needs: Set[int]) -> set[int]:
    """The matrix slots that may have to be computed again: those that any need sees."""
    found: set[int] = set()
    seen: set[int] = set()
    todo = list(needs)
    following = {slot.next: s for s, slot in enumerate(program.slots) if is_matrix(program, s)}
    while todo:
        k = todo.pop()
        if k in seen:
            continue
        seen.add(k)
        instr = program.instrs[k]
        s = instr.slot if instr.op == "state" else following.get(k, -1)
        if s >= 0 and is_matrix(program, s) and s not in found:
            found.add(s)
            todo.append(program.slots[s].next)
        todo.extend(instr.args)
    return found


class Recall:
    """The values of a forward program in another one, out of what is kept.

    With `replaying`, matrix slots are states of that other program, numbered in the order in which they are met.
    """

    def __init__(self, program: Program, builder: Builder, kept: Set[int], replaying: bool = False) -> None:
        self.program, self.b, self.kept, self.replaying = program, builder, kept, replaying
        self.rows = has_rows(program)
        self.slots: list[int] = []
        self.following = {
            slot.next: s for s, slot in enumerate(program.slots) if is_matrix(program, s) and not replaying
        }
        self.known: dict[int, int] = {}

    def value(self, k: int) -> int:
        """An instruction of the forward program, in the other."""
        todo = [k]
        while todo:
            last = todo[-1]
            missing = [a for a in self._args(last) if a not in self.known]
            if last not in self.known and not missing:
                self.known[last] = self._made(last)
            if missing:
                todo.extend(missing)
            else:
                todo.pop()
        return self.known[k]

    def _is_leaf(self, k: int) -> bool:
        return self.rows[k] and (k in self.kept or k in self.following)

    def _args(self, k: int) -> tuple[int, ...]:
        return () if self._is_leaf(k) else self.program.instrs[k].args

    def _made(self, k: int) -> int:
        instr = self.program.instrs[k]
        if self._is_leaf(k):
            if k in self.kept:
                return self.b.emit("saved", (), instr.type, (("of", k),))
            return self.b.emit("next", (), instr.type, slot=self.following[k])
        if instr.op != "state":
            return cloned(self.b, instr, [self.known[a] for a in instr.args])
        if not self.replaying or not is_matrix(self.program, instr.slot):
            return self.b.emit("past", (), instr.type, slot=instr.slot)
        if instr.slot not in self.slots:
            self.slots.append(instr.slot)
        return self.b.emit("state", (), instr.type, slot=self.slots.index(instr.slot))


def cloned(b: Builder, instr: Instr, args: list[int]) -> int:
    """The same operation of other operands, simplified; a quotient as a product, whose divisors are often shared."""
    if instr.op == "div":
        return b.mul(args[0], b.apply("recip", args[1]))
    if instr.op in UNARY or instr.op in BINARY:
        return b.apply(instr.op, *args)
    if instr.op == "cast":
        return b.cast(args[0], instr.type)
    if instr.op == "reduce":
        return b.reduce(args[0], instr.type)
    if instr.op in ("read", "readt"):
        return b.read(*args) if instr.op == "read" else b.readt(*args)
    return b.emit(instr.op, args, instr.type, instr.attrs, instr.weight, instr.slot)
