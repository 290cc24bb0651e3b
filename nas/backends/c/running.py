"""A half of a layer with its library loaded: sweeps by pointer, big products by torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.backends.c.half import Half
from nas.backends.c.sweep import Column, Key
from nas.ir import Product, Sweep, Use

Buffers = dict[Key, Tensor]


@dataclass(frozen=True)
class Geometry:
    """Where the rows of steps and sequences lie: row `t * step + b * sequence`, or at `offsets[t] + b * sequence`.

    `offsets` and `sizes` (sequences that are running) are int64 of each step, where sequences differ in length.
    """

    batch: int
    count: int
    step: int
    sequence: int
    rows: int
    reverse: bool = False
    offsets: Tensor | None = None
    sizes: Tensor | None = None


class Running:
    """A half, ready to run. `backward` says that it goes through the steps the other way round."""

    def __init__(self, half: Half, library: ctypes.CDLL, backward: bool = False) -> None:
        self.half, self.backward = half, backward
        self.steps: list[_Call | _Product] = []
        for n, step in enumerate(half.schedule.steps):
            if isinstance(step, Sweep):
                self.steps.append(_Call(library, f"{half.name}{n}", half.sweeps[n].ports))
            else:
                self.steps.append(_Product(half, step))
        self.end = _Call(library, f"{half.name}_end", half.end.ports) if half.end else None
        self.widths = list(half.widths.items())
        self.before_end: Callable[[Buffers], None] = lambda buffers: None

    def __call__(
        self, buffers: Buffers, weights: Sequence[Tensor], geometry: Geometry, keep: bool = True
    ) -> None:
        """Run all steps. `buffers` has what is given, and gets what is made; without `keep` not what is kept."""
        g = geometry
        numbers = (ctypes.c_long * 5)(g.batch, g.count, g.step, g.sequence, g.reverse != self.backward)
        layout = (
            0 if g.offsets is None else g.offsets.data_ptr(),
            0 if g.sizes is None else g.sizes.data_ptr(),
        )
        kept = f"{self.half.name}keep"
        for key, size in self.widths:
            if key not in buffers and (keep or key[0] != kept):
                buffers[key] = torch.empty((g.rows, size))
        for step in self.steps:
            step(buffers, weights, numbers, layout)
        for k, key in self.half.copies:
            column = self.half.world.rows[k]
            buffers[key] = column_of(buffers, column, self.half.world.size(k)).clone()
        self.before_end(buffers)
        if self.end:
            self.end(buffers, weights, numbers, layout)


class _Call:
    """A function of the library and what its pointers are connected to."""

    def __init__(self, library: ctypes.CDLL, name: str, ports: Sequence[Key]) -> None:
        self.function = library[name]
        self.function.restype = ctypes.c_int
        self.ports = tuple((n if kind == "w" else -1, (kind, n)) for kind, n in ports)
        self.array = ctypes.c_void_p * (len(ports) + 2)

    def __call__(
        self, buffers: Buffers, weights: Sequence[Tensor], numbers: object, layout: tuple[int, int]
    ) -> None:
        pointers = [
            weights[w].data_ptr() if w >= 0 else buffers[key].data_ptr() if key in buffers else 0
            for w, key in self.ports
        ]
        if self.function(numbers, self.array(*layout, *pointers)):
            raise MemoryError("there is no memory for the values of a compiled cell")


class _Product:
    """A matrix product over all rows; operands that lie side by side are one."""

    def __init__(self, half: Half, product: Product) -> None:
        nodes, rows, arrays = half.schedule.nodes, half.world.rows, half.world.arrays
        self.key = rows[product.results[0]].key
        self.parts: list[tuple[Column, int, list[list[tuple[int, Use]]]]] = []
        for run, members in side_by_side(
            [rows[k] for k in product.operands], [half.world.size(k) for k in product.operands]
        ):
            uses = [[nodes[k].uses[p] for p in members] for k in product.results]
            found = [[(arrays[u.weight, u.role][0], u) for u in row] for row in uses]
            self.parts.append((run, sum(half.world.size(product.operands[p]) for p in members), found))

    def __call__(
        self, buffers: Buffers, weights: Sequence[Tensor], numbers: object, layout: tuple[int, int]
    ) -> None:
        out = buffers[self.key]
        for n, (column, size, uses) in enumerate(self.parts):
            operand = column_of(buffers, column, size)
            if n:
                out.addmm_(operand, _matrix(uses, weights))
            else:
                torch.mm(operand, _matrix(uses, weights), out=out)


def column_of(buffers: Buffers, column: Column, size: int) -> Tensor:
    """The columns of a buffer that hold a value."""
    whole = buffers[column.key]
    return whole if whole.shape[1] == size else whole.narrow(1, column.first, size)


def side_by_side(columns: Sequence[Column], sizes: Sequence[int]) -> list[tuple[Column, list[int]]]:
    """Runs of columns that lie next to each other in one buffer: the first of each, and their places in the list."""
    runs: list[tuple[Column, list[int]]] = []
    end = -1
    for place, (column, size) in enumerate(zip(columns, sizes, strict=True)):
        if runs and runs[-1][0].key == column.key and end == column.first:
            runs[-1][1].append(place)
        else:
            runs.append((column, [place]))
        end = column.first + size
    return runs


def _matrix(uses: Sequence[Sequence[tuple[int, Use]]], weights: Sequence[Tensor]) -> Tensor:
    """The matrix `[in, out]` of a product: operands under each other, results side by side."""
    every = [[weights[n] if u.column < 0 else weights[n][..., u.column] for n, u in row] for row in uses]
    if not any(u.transpose for row in uses for _, u in row):  # arrays are [out, in]
        rows = [row[0] if len(row) == 1 else torch.cat(row, 1) for row in every]
        return (rows[0] if len(rows) == 1 else torch.cat(rows)).t()
    columns = []
    for row, own in zip(every, uses, strict=True):
        parts = [w if u.transpose else w.t() for w, (_, u) in zip(row, own, strict=True)]
        columns.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    return columns[0] if len(columns) == 1 else torch.cat(columns, 1)
