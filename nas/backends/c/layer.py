"""A cell at given sizes, compiled: its forward and backward halves, and the gradients of its arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.c.compiler import load
from nas.backends.c.delays import WINDOWS
from nas.backends.c.driver import KEPT, OWN, SHARED
from nas.backends.c.gradients import Gradients
from nas.backends.c.making import Making
from nas.backends.c.outline import Outline, recalled, remember, slots_of
from nas.backends.c.running import Geometry, Running, Values, room
from nas.backends.c.scratch import give_back, lend
from nas.backends.c.world import Key

Table = tuple[
    Tensor, Tensor
]  # tokens, int64 [rows + 1], of which the last is V, and what they are rows of, [V, D]


class Layer:
    """One layer in one direction, for vectors of `lanes` floats. Weights are in the order of `Program.arrays`.

    Rows are float32 in any geometry. Of several candidates, all tensors have an axis over them before their own, in
    arguments and results; rows that are the same for all may have a stride of 0 there.
    """

    def __init__(self, cell: Cell, sizes: Sizes, lanes: int) -> None:
        self.cell, self.sizes, self.lanes = cell, sizes, lanes
        self.slots = slots_of(cell, sizes)
        self._library: ctypes.CDLL | None = None
        self._making: Making | None = None
        kept = recalled(cell, sizes, lanes)
        if kept is None:
            self._making = Making(cell, sizes, lanes)
            self._prepare(self._making.outline)
        else:
            outline, self._library = kept
            self._prepare(outline)

    def _prepare(self, outline: Outline) -> None:
        """What calls need, looked up once."""
        self.x_rows, self.dx_rows, self.has_dx = outline.x_rows, outline.dx_rows, outline.has_dx
        self.checkpoints, self.every = dict(outline.checkpoints), outline.every
        self.seen = [frozenset(arrays) for arrays in outline.seen]
        self.seen_by_all = all(found == self.seen[0] for found in self.seen)
        arrays = len(outline.shapes)
        self.ahead = Running("f", outline.ports[0], arrays)
        self.back = Running("b", outline.ports[1], arrays, backward=True)
        self.gradients = Gradients(outline.sums, outline.summands, outline.shapes)
        kinds = [torch.complex64 if slot.complex else torch.float32 for slot in self.slots]
        self.ends, self.starts = (
            [
                (run.place(("init", s)), run.place(("final", s)), slot.shape, kinds[s])
                for s, slot in enumerate(self.slots)
            ]
            for run in (self.ahead, self.back)
        )
        # rows that a call makes: the key, floats in each; those that the backward half sees again come first
        region = dict(zip(((SHARED, 0), (KEPT, 0), (OWN, 0)), outline.made, strict=True))
        again: list[Key] = [("y", 0)] if outline.keeps_y else []
        again += [key for key in ((SHARED, 0), (KEPT, 0)) if region[key]]
        again += [WINDOWS] if outline.window else []
        again += [("checkpoint", s) for s in self.checkpoints]
        self.again = [(self.ahead.place(key), self.back.place(key)) for key in again]
        shared, kept, own = (
            [(self.ahead.place(key), region[key])] if region[key] else []
            for key in ((SHARED, 0), (KEPT, 0), (OWN, 0))
        )
        self.rows_saved, self.saved_rows = shared + kept, [floats for _, floats in shared + kept]
        self.passing = (shared + own, own)  # rows that no later call reads: without and with a backward half
        self.passing_back = [(self.back.place((OWN, 1)), outline.own_back)] if outline.own_back else []
        self.windows = [(self.ahead.place(WINDOWS), outline.window)] if outline.window else []
        self.checked = [(self.ahead.place(("checkpoint", s)), size) for s, size in self.checkpoints.items()]
        self.x, self.y = (self.ahead.place((name, 0)) for name in "xy")
        self.x_back, self.dy, self.dx, self.sums, self.dtable = (
            self.back.place((name, 0)) for name in ("x", "dy", "dx", "sums", "dtable")
        )
        self.tables = [
            [run.place((name, 0)) for name in ("tokens", "table")] for run in (self.ahead, self.back)
        ]
        self.is_loaded = False
        self.keeps_y = int(outline.keeps_y)
        self.graded = [n for n, result in enumerate(self.gradients.results) if result is not None]
        self.empty = [[None] * len(run.places) for run in (self.ahead, self.back)]

    def loaded(self) -> Layer:
        """This layer, with its library. Raises CompilerError where it cannot be built."""
        if not self.is_loaded:
            making = self._making  # another thread may be at the same
            if making is not None:
                self._library = load(making.text)
                remember(self.cell, self.sizes, self.lanes, making.outline, making.text)
                self._making = None
            assert self._library is not None
            self.ahead.attach(self._library)
            self.back.attach(self._library)
            self.is_loaded = True
        return self

    def chunks(self, count: int) -> int:
        """How many checkpoints there is room for: never one, which torch would not trace as any number."""
        return count // self.every + 2

    def most_kept(self, geometry: Geometry) -> int:
        """The floats of the largest piece of memory that is made for one candidate and the backward half."""
        rows = [geometry.rows * floats for floats in (*self.saved_rows, self.sizes.hidden_size)]
        room = geometry.batch * self.chunks(geometry.count)
        return max(rows + [room * floats for floats in self.checkpoints.values()])

    def seen_by(self, asked: Sequence[bool]) -> frozenset[int]:
        """The arrays that the output or a final state depends on; `asked` says which of these count."""
        return frozenset[int]().union(*(s for s, ask in zip(self.seen, asked, strict=True) if ask))

    def forward(
        self,
        x: Tensor | None,
        weights: Sequence[Tensor],
        state: Sequence[Tensor | None],
        geometry: Geometry,
        keep: bool,
        table: Table | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The output's rows, the final states, and what the backward half wants to see again.

        With `table` x is its rows as tokens say; it may be None unless `x_rows`.
        """
        lead = _candidates(x)
        rows = (*lead, geometry.rows)
        values: Values = [*weights, *self.empty[0]]
        values[self.x] = x
        if table is not None:
            for place, part in zip(self.tables[0], table, strict=True):
                values[place] = part
        values[self.y] = y = room((*rows, self.sizes.hidden_size))
        finals = []
        for (init, final, shape, kind), value in zip(self.ends, state, strict=True):
            values[init] = value
            values[final] = made = room((*lead, geometry.batch, *shape), kind)
            finals.append(made)
        if keep:
            for place, floats in self.rows_saved:
                values[place] = room((*rows, floats))
            for place, floats in self.windows:
                values[place] = room((*lead, geometry.batch, floats))
            for place, floats in self.checked:
                values[place] = room((*lead, geometry.batch, self.chunks(geometry.count), floats))
        lent = lend(values, self.passing[keep], rows)
        self.ahead(values, geometry, *lead)
        give_back(lent)
        return y, finals, [values[place] for place, _ in self.again] if keep else []  # type: ignore[misc]

    def backward(
        self,
        saved: Sequence[Tensor],
        x: Tensor | None,
        weights: Sequence[Tensor],
        geometry: Geometry,
        dy: Tensor | None,
        dfinal: Sequence[Tensor | None],
        wanted: Sequence[bool],
        table: Table | None = None,
    ) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
        """The gradients of x, of the weights, and of the states before the first step.

        `wanted` says for x, then for each state, whether its gradient is. With `table` that of x is that of the table.
        """
        asked = [dy is not None, *(gradient is not None for gradient in dfinal)]
        lead = _candidates(x)
        rows = (*lead, geometry.rows)
        values: Values = [*weights, *self.empty[1]]
        values[self.x_back] = x
        if table is not None:
            for place, part in zip(self.tables[1], table, strict=True):
                values[place] = part
        values[self.dy] = room((*rows, self.sizes.hidden_size)).zero_() if dy is None else dy
        dx: Tensor | None = None
        dtable: Tensor | None = None
        if wanted[0] and self.has_dx:
            if table is not None:
                dtable = room(table[1].shape)
            dx = dtable
            if dtable is None or self.dx_rows:
                dx = room((*rows, self.sizes.input_size))
        values[self.dx], values[self.dtable] = dx, dtable
        for (_, place), value in zip(self.again, saved, strict=True):
            values[place] = value
        starts: list[Tensor | None] = []
        for (init, final, shape, kind), gradient, want in zip(self.starts, dfinal, wanted[1:], strict=True):
            values[init] = gradient
            made = room((*lead, geometry.batch, *shape), kind) if want else None
            values[final] = made
            starts.append(made)
        values[self.sums] = sums = room((*lead, self.gradients.floats))
        lent = lend(values, self.passing_back, rows)
        self.back(values, geometry, *lead)
        give_back(lent)
        found = self.gradients(sums)
        if not self.seen_by_all:  # what nothing asked for sees has no gradient, not even zeros
            seen = self.seen_by(asked)
            found = [value if k in seen else None for k, value in enumerate(found)]
        return dx if dtable is None else dtable, found, starts


def _candidates(x: Tensor | None) -> tuple[int, ...]:
    """The axis over candidates, where rows of x have one. Rows of a table have none."""
    return () if x is None else tuple(x.shape[:-2])
