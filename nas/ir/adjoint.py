"""Differentiation: from a normal program to the one that computes its gradients, backwards in time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache

from grammar import NUM, Cell, Type
from nas.ir.builder import Builder
from nas.ir.derivatives import DERIVATIVES, NO_DERIVATIVE
from nas.ir.keeping import Recall, choose, cloned, is_matrix
from nas.ir.normal import has_rows, needed, normal_cell, normal_tree, pruned, staged
from nas.ir.program import Instr, Program, Slot

BLOCK = Type("block")  # of a `gram`: one array of a weight


@dataclass(frozen=True, slots=True)
class WeightGradient:
    """A summand of the gradient of an array of the forward program (`arrays[array]`), or of a place of its last axis.

    `value` is an instruction of the backward program in the stage `end`. Several summands of one array add up.
    """

    array: int
    column: int
    value: int


@dataclass(frozen=True, slots=True)
class ChildGradient:
    """The gradient of slot `slot` of child `child` of a tree: instruction `value` of the backward program."""

    child: int
    slot: int
    value: int


@dataclass(frozen=True, slots=True)
class Replay:
    """How matrix slots are computed once more, forward from any step at which they are known.

    `program` runs forward in time; its slots are the slots `slots` of the forward program, its other leaves are `x`,
    `saved` and `past`.
    """

    slots: tuple[int, ...]
    program: Program


@dataclass(frozen=True, slots=True)
class Adjoint:
    """A forward program and how its gradients are computed.

    `backward` is a program in reversed time. Its slot i is the gradient of forward slot i: it starts as the gradient of
    the final state and ends as that of the initial state (in a tree: it is the gradient of a node's state). It reads
    the gradient of the output's rows (`dy`), the rows of the forward instructions `saved`, and the sequences of the
    forward slots `past`, before each step. Where slot s is in `past` and its new value in `saved`, both are one
    sequence, one step apart. `dx` is the gradient of the rows of x. Matrix slots are not kept: `replay` computes them
    from checkpoints, before each step (`past`) and after it (`next`).
    """

    forward: Program
    backward: Program
    saved: tuple[int, ...]
    past: tuple[int, ...]
    dx: int | None
    weights: tuple[WeightGradient, ...]
    children: tuple[ChildGradient, ...] = ()
    replay: Replay | None = None


@lru_cache(maxsize=256)
def adjoint_cell(cell: Cell) -> Adjoint:
    """The adjoint of a time cell's normal form, with gradients of x and of all weights that are trained."""
    return adjoint(normal_cell(cell).program)


@lru_cache(maxsize=256)
def adjoint_tree(cell: Cell, arity: int = 2) -> tuple[Adjoint, Adjoint]:
    """The adjoints of what a tree cell does at a leaf, where nothing sees its output, and in a merge."""
    leaf, merge = normal_tree(cell, arity)
    return adjoint(leaf.program, dy=False), adjoint(merge.program)


def adjoint(
    program: Program, dx: bool = True, weights: Collection[int] | None = None, dy: bool = True
) -> Adjoint:
    """The adjoint of a normal program.

    `weights` are those that want gradients, by default all that are not fixed; without `dx` x wants none, and without
    `dy` there is none of the output.
    """
    if weights is None:
        weights = [k for k, weight in enumerate(program.weights) if not weight.fixed]
    raw = _Reverse(program, dx, frozenset(weights)).run(dy)
    needs = [int(i.attr("of")) for i in raw.backward.instrs if i.op == "saved"]  # type: ignore[arg-type]
    kept = choose(program, needs)
    made = _recalled(raw, kept)
    replay = _replay(program, made.backward, kept)
    leaves = [*made.backward.instrs, *(replay.program.instrs if replay else ())]
    saved = {int(i.attr("of")) for i in leaves if i.op == "saved"}  # type: ignore[arg-type]
    past = {i.slot for i in leaves if i.op == "past" and not is_matrix(program, i.slot)}
    return replace(made, saved=tuple(sorted(saved)), past=tuple(sorted(past)), replay=replay)


class _Reverse:
    """The gradients of all values of a program, made from the last to the first. See `derivatives.Reverse`."""

    def __init__(self, program: Program, dx: bool, wanted: frozenset[int]) -> None:
        self.program, self.wanted = program, wanted
        self.b = Builder()
        self.rows = has_rows(program)
        self.active = _active(program, dx, wanted)
        self.found = {(i.op, i.args): k for k, i in enumerate(program.instrs)}
        self.by_row: list[list[int]] = [[] for _ in program.instrs]
        self.at_end: list[list[int]] = [[] for _ in program.instrs]  # only of values without rows
        self.arrays = {(a.weight, a.spec.role): k for k, a in enumerate(program.arrays)}
        self.weights: list[WeightGradient] = []
        self.known: dict[int, int] = {}  # values without rows, computed anew from the weights

    # ---- what rules ask for ---------------------------------------------------------------

    def value(self, k: int) -> int:
        """See `derivatives.Reverse`."""
        if self.rows[k]:
            return self.b.emit("saved", (), self.program.instrs[k].type, (("of", k),))
        todo = [k]
        while todo:
            instr = self.program.instrs[todo[-1]]
            missing = [a for a in instr.args if a not in self.known]
            if missing:
                todo += missing[::-1]
            else:
                last = todo.pop()
                if last not in self.known:
                    self.known[last] = cloned(self.b, instr, [self.known[a] for a in instr.args])
        return self.known[k]

    def made(self, op: str, a: int) -> int:
        """See `derivatives.Reverse`."""
        k = self.found.get((op, (a,)))
        return self.b.apply(op, self.value(a)) if k is None else self.value(k)

    def is_number(self, k: int) -> bool:
        """See `derivatives.Reverse`."""
        return self.program.instrs[k].type == NUM

    # ---- the pass -------------------------------------------------------------------------

    def run(self, dy: bool) -> Adjoint:
        """The backward program and its results; every forward value it needs is read as `saved`."""
        program, b = self.program, self.b
        if dy:
            self.by_row[program.out].append(b.emit("dy", (), program.instrs[program.out].type))
        for s, slot in enumerate(program.slots):
            self.by_row[slot.next].append(b.emit("state", (), slot.type, slot=s))
        dx: int | None = None
        before: dict[int, int] = {}
        children = []
        for k in reversed(range(len(program.instrs))):
            instr, g = program.instrs[k], self._gradient(k)
            if g is None:
                continue
            if instr.op == "x":
                dx = g
            elif instr.op == "state":
                before[instr.slot] = g
            elif instr.op == "child":
                children.append(ChildGradient(int(instr.attr("child")), instr.slot, g))  # type: ignore[arg-type]
            self._through(k, instr, g)
        slots = [
            Slot(slot.name, slot.type, before[s] if s in before else b.cast(b.num(0.0), slot.type))
            for s, slot in enumerate(program.slots)
        ]
        out = b.num(0.0) if dx is None else dx
        backward = replace(program, instrs=tuple(b.instrs), slots=tuple(slots), out=out)
        return Adjoint(program, backward, (), (), dx, tuple(self.weights), tuple(children))

    def _through(self, k: int, instr: Instr, g: int) -> None:
        """Give the operands of an instruction their parts of its gradient."""
        if instr.op in ("lin", "param") and instr.weight in self.wanted:
            column = int(instr.attr("column", -1))  # type: ignore[arg-type]
            array = self.arrays[instr.weight, str(instr.attr("role"))]
            self.weights.append(
                WeightGradient(array, column, self._gram(instr, g) if instr.op == "lin" else g)
            )
        if instr.op in NO_DERIVATIVE or not any(self.active[a] for a in instr.args):
            return
        for a, part in zip(instr.args, DERIVATIVES[instr.op](self, instr, k, g), strict=True):
            if part is not None and self.active[a]:
                (self.by_row if self.rows[k] else self.at_end)[a].append(part)

    def _gram(self, lin: Instr, g: int) -> int:
        v, blocks = self.value(lin.args[0]), lin.attr("blocks", 1)
        pair = (v, g) if lin.attr("transpose", False) else (g, v)
        return self.b.emit("gram", pair, BLOCK, (("blocks", blocks),) if blocks != 1 else ())

    def _gradient(self, k: int) -> int | None:
        """The sum of all that came for a value; of one without rows, also over all rows."""
        if not self.active[k]:
            return None
        terms = self.by_row[k]
        if not self.rows[k] and terms:
            summed = self.b.emit("total", (self.b.total(terms),), self.program.instrs[k].type)
            terms = [summed, *self.at_end[k]]
        elif not self.rows[k]:
            terms = self.at_end[k]
        return self.b.total(terms) if terms else None


def _active(program: Program, dx: bool, wanted: frozenset[int]) -> list[bool]:
    """Which values something depends on that wants a gradient."""
    active: list[bool] = []
    for instr in program.instrs:
        if instr.op in ("state", "child"):
            own = True
        elif instr.op == "x":
            own = dx
        else:
            own = instr.op in ("lin", "param") and instr.weight in wanted
        through = instr.op not in NO_DERIVATIVE and any(active[a] for a in instr.args)
        active.append(own or through)
    return active


# ---- what is kept -----------------------------------------------------------------------------


def _recalled(raw: Adjoint, kept: frozenset[int]) -> Adjoint:
    """The adjoint with every forward value had again from what is kept, and without dead code."""
    b = Builder()
    recall = Recall(raw.forward, b, kept)
    program = raw.backward
    results = [*(w.value for w in raw.weights), *(c.value for c in raw.children)]
    new: dict[int, int] = {}
    for k in needed(program, results):
        instr = program.instrs[k]
        if instr.op == "saved":
            new[k] = recall.value(int(instr.attr("of")))  # type: ignore[arg-type]
        else:
            new[k] = cloned(b, instr, [new[a] for a in instr.args])
    slots = tuple(replace(slot, next=new[slot.next]) for slot in program.slots)
    whole = replace(program, instrs=tuple(b.instrs), slots=slots, out=new[program.out])
    final, place = pruned(whole, [new[r] for r in results])
    return replace(
        raw,
        backward=staged(final),
        dx=None if raw.dx is None else final.out,
        weights=tuple(replace(w, value=place[new[w.value]]) for w in raw.weights),
        children=tuple(replace(c, value=place[new[c.value]]) for c in raw.children),
    )


def _replay(forward: Program, backward: Program, kept: frozenset[int]) -> Replay | None:
    """How the matrix slots that a backward program reads are computed once more."""
    read = {i.slot for i in backward.instrs if i.op in ("past", "next") and is_matrix(forward, i.slot)}
    if not read:
        return None
    b = Builder()
    recall = Recall(forward, b, kept, replaying=True)
    recall.slots.extend(sorted(read))
    following: list[int] = []
    while len(following) < len(recall.slots):
        following.append(recall.value(forward.slots[recall.slots[len(following)]].next))
    slots = tuple(replace(forward.slots[s], next=k) for s, k in zip(recall.slots, following, strict=True))
    whole = replace(forward, instrs=tuple(b.instrs), slots=slots, out=following[0])
    return Replay(tuple(recall.slots), staged(pruned(whole)[0]))
