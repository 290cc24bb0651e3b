"""A half of a layer with its library loaded: sweeps by pointer, big products by torch.

What runs at each call is kept short: at small sizes, microseconds of Python count. All tensors of a call are in one
list, `Values`; each step knows its places there.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nas.backends.c.half import Half
from nas.backends.c.world import Column, Key
from nas.ir import Product, Sweep, Use

Values = list[Tensor | None]
Step = Callable[[Values, "Geometry"], None]


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
    numbers: tuple[array[int], array[int]] = field(init=False, compare=False)  # forward and backward
    pointers: tuple[int, int] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        one = (self.batch, self.count, self.step, self.sequence)
        both = (array("q", (*one, self.reverse)), array("q", (*one, not self.reverse)))
        object.__setattr__(self, "numbers", both)
        layout = (0 if t is None else t.data_ptr() for t in (self.offsets, self.sizes))
        object.__setattr__(self, "pointers", tuple(layout))


class Running:
    """A half, ready to run. `backward` says that it goes through the steps the other way round.

    The first values of a call are the weights; `place` tells where the others are, by key.
    """

    def __init__(self, half: Half, library: ctypes.CDLL, weights: int, backward: bool = False) -> None:
        self.half, self.weights, self.backward = half, weights, backward
        self.places: dict[Key, int] = {}
        sweeps = [t.ports for t in half.sweeps.values()] + ([half.end.ports] if half.end else [])
        for key in (*(key for ports in sweeps for key in ports), *half.widths, *half.outputs.values()):
            self.place(key)
        self.steps: list[Step] = []
        for n, step in enumerate(half.schedule.steps):
            if isinstance(step, Sweep):
                self.steps.append(self._call(library, f"{half.name}{n}", half.sweeps[n].ports))
            else:
                self.steps += self._product(step)
        self.steps += [self._copy(k, key) for k, key in half.copies]
        self.end = self._call(library, f"{half.name}_end", half.end.ports) if half.end else None
        kept = f"{half.name}keep"
        self.made = [(self.place(key), size) for key, size in half.widths.items() if key[0] != kept]
        self.kept = [(self.place(key), size) for key, size in half.widths.items() if key[0] == kept]

    def place(self, key: Key) -> int:
        """Where the tensor for a key is among the values of a call."""
        if key[0] == "w":
            return key[1]
        return self.places.setdefault(key, self.weights + len(self.places))

    def fresh(self, weights: Sequence[Tensor]) -> Values:
        """The values at the start of a call."""
        return [*weights, *[None] * len(self.places)]

    def __call__(self, values: Values, geometry: Geometry, keep: bool = True) -> None:
        """Run all steps. `values` has what is given, and gets what is made; without `keep` not what is kept."""
        rows = geometry.rows
        for place, size in self.made:
            values[place] = torch.empty((rows, size))
        if keep:
            for place, size in self.kept:
                values[place] = torch.empty((rows, size))
        for step in self.steps:
            step(values, geometry)

    def column(self, column: Column, size: int) -> Callable[[Values], Tensor]:
        """The columns of a buffer that hold a value."""
        place, first = self.place(column.key), column.first
        if column.width == size:
            return lambda values: values[place]  # type: ignore[return-value]
        return lambda values: values[place].narrow(1, first, size)  # type: ignore[union-attr]

    # -- steps ------------------------------------------------------------------------------

    def _call(self, library: ctypes.CDLL, name: str, ports: Sequence[Key]) -> Step:
        """A function of the library."""
        function = library[name]
        function.restype, function.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p)
        places, back = [self.place(key) for key in ports], int(self.backward)

        def call(values: Values, geometry: Geometry) -> None:
            pointers = array("q", geometry.pointers)
            pointers.extend([0 if (v := values[p]) is None else v.data_ptr() for p in places])
            if function(geometry.numbers[back].buffer_info()[0], pointers.buffer_info()[0]):
                raise MemoryError("there is no memory for the values of a compiled cell")

        return call

    def _product(self, product: Product) -> list[Step]:
        """A matrix product over all rows; operands that lie side by side are one."""
        half = self.half
        nodes, rows, arrays, size = half.schedule.nodes, half.world.rows, half.world.arrays, half.world.size
        out = self.place(rows[product.results[0]].key)
        sizes = [size(k) for k in product.operands]
        steps: list[Step] = []
        for run, members in side_by_side([rows[k] for k in product.operands], sizes):
            uses = [[nodes[k].uses[p] for p in members] for k in product.results]
            matrix = _matrix([[(arrays[u.weight, u.role][0], u) for u in row] for row in uses])
            operand = self.column(run, sum(sizes[p] for p in members))
            steps.append(_multiply(operand, matrix, out, add=bool(steps)))
        return steps

    def _copy(self, k: int, key: Key) -> Step:
        """An output that is computed elsewhere than in its buffer."""
        source, place = self.column(self.half.world.rows[k], self.half.world.size(k)), self.place(key)

        def copy(values: Values, geometry: Geometry) -> None:
            values[place] = source(values).clone()

        return copy


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


def _multiply(
    operand: Callable[[Values], Tensor], matrix: Callable[[Values], Tensor], out: int, add: bool
) -> Step:
    def multiply(values: Values, geometry: Geometry) -> None:
        torch.mm(operand(values), matrix(values), out=values[out])

    def multiply_and_add(values: Values, geometry: Geometry) -> None:
        values[out].addmm_(operand(values), matrix(values))  # type: ignore[union-attr]

    return multiply_and_add if add else multiply


def _matrix(uses: Sequence[Sequence[tuple[int, Use]]]) -> Callable[[Values], Tensor]:
    """The matrix `[in, out]` of a product: operands under each other, results side by side."""

    def array_of(n: int, use: Use) -> Callable[[Values], Tensor]:
        if use.column < 0:
            return lambda values: values[n]  # type: ignore[return-value]
        return lambda values: values[n][..., use.column]  # type: ignore[index]

    if not any(u.transpose for row in uses for _, u in row):  # arrays are [out, in]
        whole = _joined([_joined([array_of(n, u) for n, u in row], 1) for row in uses], 0)
        return lambda values: whole(values).t()
    return _joined([_joined([_turned(array_of(n, u), u) for n, u in row], 0) for row in uses], 1)


def _turned(part: Callable[[Values], Tensor], use: Use) -> Callable[[Values], Tensor]:
    return part if use.transpose else lambda values: part(values).t()


def _joined(parts: Sequence[Callable[[Values], Tensor]], axis: int) -> Callable[[Values], Tensor]:
    """Matrices next to each other."""
    if len(parts) == 1:
        return parts[0]
    return lambda values: torch.cat([part(values) for part in parts], axis)
