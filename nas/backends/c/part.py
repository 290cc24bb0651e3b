"""What a tree cell does at leaves, or in merges of so many children, compiled: a function of rows to rows.

No recurrence passes through it, so every map is one product over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.c.compiler import lanes, load
from nas.backends.c.driver import KEPT, OWN, SHARED, Driver, grams_in_order
from nas.backends.c.gradients import Gradients, summands_of
from nas.backends.c.half import Half
from nas.backends.c.running import Geometry, Running, Values, room
from nas.backends.c.scratch import give_back, lend
from nas.backends.c.world import Column, Key, arrays_of
from nas.ir import Adjoint, Normal, Program, Schedule, adjoint, normal_tree, schedule, width


@lru_cache(maxsize=256)
def part_of(cell: Cell, sizes: Sizes, arity: int) -> Part:
    """The part of a cell, with its library. Raises CompilerError where it cannot be built."""
    return Part(cell, sizes, arity, lanes()).loaded()


class Part:
    """What a cell does in a merge of `arity` children, or at a leaf (`arity` 0), for vectors of `lanes` floats.

    Rows are float32, `[rows, floats]`. Children are in the order child by child, of each its slots (of the normal
    form). Results are each there once: `results` has their widths, `slots` tells which is the new value of each slot,
    `out` which is the output (-1 at a leaf, which has none).
    """

    def __init__(self, cell: Cell, sizes: Sizes, arity: int, lanes: int) -> None:
        self.sizes, self.lanes, self.arity = sizes, lanes, arity
        self.normal: Normal = normal_tree(cell, max(arity, 1))[min(arity, 1)]
        program = self.normal.program
        self.widths = [width(slot.type, sizes) for slot in program.slots]
        finals = [slot.next for slot in program.slots]
        apart = arity > 0 and program.out not in finals  # whether the output is no new value of a slot
        made = adjoint(program, dy=apart)
        forward = self._forward(program, made, [program.out] * apart + finals)
        backward = self._backward(made)
        self.out = self.places[program.out] if arity else -1
        self.slots = [self.places[k] for k in finals]
        ahead = Driver(forward, shared=sorted({column.key for column in self.saved.values()}))
        back = Driver(backward, given=ahead.regions, grams=grams_in_order(backward))
        self.text = ahead.text + back.text
        self._prepare(made, ahead, back)

    def loaded(self) -> Part:
        """This part, with its library. Raises CompilerError where it cannot be built."""
        library = load(self.text)
        self.ahead.attach(library)
        self.back.attach(library)
        return self

    # -- text -------------------------------------------------------------------------------

    def _forward(self, program: Program, made: Adjoint, results: Sequence[int]) -> Half:
        flat = replace(program, slots=(), out=results[0])
        plan = schedule(flat, self.sizes, [*results, *made.saved])
        found = list(dict.fromkeys(plan.at[k] for k in results))
        self.places = {k: found.index(plan.at[k]) for k in results}  # of an instruction: which result it is
        outputs: dict[int, Key] = {k: ("result", n) for n, k in enumerate(found)}
        self.results = [width(plan.nodes[k].type, self.sizes) for k in found]
        keep = [plan.at[k] for k in made.saved]
        half = Half(plan, self.sizes, self.lanes, "f", self._given(plan, {}), outputs, (), keep=keep)
        self.saved = {("saved", k): half.column(plan.at[k]) for k in made.saved}
        for s, slot in enumerate(program.slots):  # matrices are not kept but for where they are results
            self.saved["next", s] = Column(("result", self.places[slot.next]), 0, self.widths[s])
        return half

    def _backward(self, made: Adjoint) -> Half:
        program = made.backward
        instrs = (replace(i, op="dy") if i.op == "state" else i for i in program.instrs)
        self.has_dx = made.dx is not None
        wanted = ([] if made.dx is None else [made.dx]) + [c.value for c in made.children]
        flat = replace(program, slots=(), instrs=tuple(instrs), out=wanted[0] if wanted else program.out)
        plan = schedule(flat, self.sizes, wanted)
        found = list(dict.fromkeys(plan.at[k] for k in wanted))
        outputs: dict[int, Key] = {k: ("gradient", n) for n, k in enumerate(found)}
        self.gradient_widths = [width(plan.nodes[k].type, self.sizes) for k in found]
        self.dx = found.index(plan.at[wanted[0]]) if self.has_dx else -1
        # of each child's slot: which gradient is its own, if any
        self.dchild: list[int] = [-1] * (self.arity * len(self.widths))
        for c in made.children:
            self.dchild[c.child * len(self.widths) + c.slot] = found.index(plan.at[c.value])
        ends = [plan.at[w.value] for w in made.weights]
        return Half(plan, self.sizes, self.lanes, "b", self._given(plan, self.saved), outputs, (), ends=ends)

    def _given(self, plan: Schedule, saved: Mapping[tuple[str, int], Column]) -> dict[int, Column]:
        """The rows that a half has from the caller, and a backward half from the forward one."""
        given = {}
        for k, node in enumerate(plan.nodes):
            if node.op == "x":
                given[k] = Column(("x", 0), 0, self.sizes.input_size)
            elif node.op == "child":
                child = int(node.attr("child")) * len(self.widths) + node.slot  # type: ignore[call-overload]
                given[k] = Column(("child", child), 0, self.widths[node.slot])
            elif node.op == "dy":  # of the output, or of a slot's new value
                place = self.places[self.normal.program.slots[node.slot].next] if node.slot >= 0 else 0
                given[k] = Column(("pull", node.slot), 0, self.results[place])
            elif node.op == "saved":
                given[k] = saved["saved", int(node.attr("of"))]  # type: ignore[call-overload]
            elif node.op == "next":
                given[k] = saved["next", node.slot]
        return given

    def _prepare(self, made: Adjoint, ahead: Driver, back: Driver) -> None:
        """What calls need, looked up once."""
        arrays = arrays_of(made.forward, self.sizes)
        self.ahead = Running("f", ahead.ports, len(arrays))
        self.back = Running("b", back.ports, len(arrays), backward=True)
        sums = [size for _, size in back.sums.values()]
        shapes = [shape for _, shape in arrays.values()]
        self.gradients = Gradients(sums, summands_of(made, back, len(shapes)), shapes)
        # what the backward half sees of the caller's rows
        self.sees_x = ("x", 0) in back.ports
        self.seen_children = [n for n in range(len(self.dchild)) if ("child", n) in back.ports]
        self.seen_results = [n for n in range(len(self.results)) if ("result", n) in back.ports]
        self.pulls = [s for s in range(-1, len(self.widths)) if ("pull", s) in back.ports]
        region = ahead.widths
        self.again = [key for key in ((SHARED, 0), (KEPT, 0)) if region[key]]
        shared, kept, own = (
            [(self.ahead.place(key), region[key])] if region[key] else []
            for key in ((SHARED, 0), (KEPT, 0), (OWN, 0))
        )
        self.rows_saved = shared + kept
        self.passing = (shared + own, own)  # rows that no later call reads: without and with a backward half
        own_back = back.widths[OWN, 1]
        self.passing_back = [(self.back.place((OWN, 1)), own_back)] if own_back else []

    # -- calls ------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor | None,
        weights: Sequence[Tensor],
        children: Sequence[Tensor],
        results: Sequence[Tensor],
        keep: bool,
    ) -> list[Tensor]:
        """Compute into `results`; what the backward half wants to see again where `keep`."""
        rows = results[0].shape[0]
        run = self.ahead
        values, put = _call(run, weights)
        if x is not None:
            put(("x", 0), x)
        for n, child in enumerate(children):
            put(("child", n), child)
        for n, result in enumerate(results):
            put(("result", n), result)
        saved = []
        for place, floats in self.rows_saved if keep else ():
            values[place] = made = room((rows, floats))
            saved.append(made)
        lent = lend(values, self.passing[keep], (rows,))
        run(values, Geometry(rows, 1, rows, 1, rows))
        give_back(lent)
        return saved

    def pulled(self, gradients: Sequence[Tensor | None], rows: int) -> dict[int, Tensor]:
        """The gradients of results as `backward` takes them: each once, zero where there is none."""
        taken, found = set[int](), dict[int, Tensor]()
        for s in self.pulls:
            n = self.out if s < 0 else self.slots[s]
            given = None if n in taken else gradients[n]
            taken.add(n)
            found[s] = room((rows, self.results[n])).zero_() if given is None else given.contiguous()
        return found

    def backward(
        self,
        saved: Sequence[Tensor],
        x: Tensor | None,
        weights: Sequence[Tensor],
        children: Mapping[int, Tensor],
        results: Mapping[int, Tensor],
        pulls: Mapping[int, Tensor],
        rows: int,
    ) -> tuple[list[Tensor], Tensor]:
        """The gradients that `dx` and `dchild` tell the places of, and all sums over rows, for `gradients`.

        `pulls` has the gradient of the output (-1) and of the slots' new values, as far as `self.pulls` names them.
        """
        run = self.back
        values, put = _call(run, weights)
        if x is not None:
            put(("x", 0), x)
        for kind, table in (("child", children), ("result", results), ("pull", pulls)):
            for n, value in table.items():
                put((kind, n), value)
        for key, value in zip(self.again, saved, strict=True):
            put(key, value)
        found = [room((rows, floats)) for floats in self.gradient_widths]
        for n, gradient in enumerate(found):
            put(("gradient", n), gradient)
        sums = room((self.gradients.floats,))
        put(("sums", 0), sums)
        lent = lend(values, self.passing_back, (rows,))
        run(values, Geometry(rows, 1, rows, 1, rows))
        give_back(lent)
        return found, sums


def _call(run: Running, weights: Sequence[Tensor]) -> tuple[Values, Callable[[Key, Tensor], None]]:
    """The pointers of a call, the weights first, and a function that sets those which the call has a place for."""
    values: Values = [*weights, *[None] * len(run.places)]

    def put(key: Key, value: Tensor) -> None:
        place = run.places.get(key)
        if place is not None:
            values[place] = value

    return values, put
