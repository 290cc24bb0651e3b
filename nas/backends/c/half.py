"""One half of a layer, forward or backward: where its rows lie, its C text, and running it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grammar import Sizes
from nas.backends.c.sweep import Column, Held, Key, SweepText, World, arrays_of
from nas.ir import ROWS, Product, Schedule, Sweep, Use


@dataclass(frozen=True)
class Geometry:
    """Where the rows of steps and sequences lie: row `t * step + b * sequence`, or at `offsets[t] + b`."""

    batch: int
    count: int
    step: int
    sequence: int
    reverse: bool = False
    offsets: Tensor | None = None  # with `sizes`: int64 of each step, where sequences differ in length
    sizes: Tensor | None = None
    rows: int = 0


class Half:
    """Steps of a schedule with a place for all rows. `given` are leaves' rows, `outputs` the buffers of results."""

    def __init__(
        self,
        schedule: Schedule,
        sizes: Sizes,
        lanes: int,
        name: str,
        given: Mapping[int, Column],
        outputs: Mapping[int, Key],
        keep: Sequence[int] = (),
        held: Sequence[Held] = (),
    ) -> None:
        self.schedule, self.name, self.outputs = schedule, name, dict(outputs)
        self.world = World(schedule, sizes, lanes, dict(given), held=held, arrays=arrays_of(schedule, sizes))
        self.keep = set(keep)
        self.widths: dict[Key, int] = {}  # of each buffer that this half makes
        self.copies: list[tuple[int, Key]] = []
        for n, step in enumerate(schedule.steps):
            if isinstance(step, Sweep):
                self._place_sweep(n, step)
            else:
                self._place_product(n, step)
        for k, key in self.outputs.items():
            if self.world.rows[k].key != key:
                self.copies.append((k, key))
        self.sweeps = {
            n: SweepText(self.world, step, f"{name}{n}")
            for n, step in enumerate(schedule.steps)
            if isinstance(step, Sweep)
        }

    @property
    def text(self) -> str:
        """The C text of all sweeps."""
        return "".join(sweep.text for sweep in self.sweeps.values())

    def column(self, k: int) -> Column:
        """Where the rows of a node are after this half has run."""
        return self.world.kept.get(k) or self.world.rows[k]

    # -- where rows are ---------------------------------------------------------------------

    def _place_sweep(self, n: int, sweep: Sweep) -> None:
        """Buffers of what a sweep stores: outputs by themselves, then what later steps read, then what is kept."""
        crossing = [k for k in self._order(sweep) if k not in self.outputs]
        first = 0
        for k in crossing:
            self.world.rows[k] = Column(("cross", n), first, 0)
            first += self.world.size(k)
        self._sized(("cross", n), crossing, self.world.rows)
        for k in sweep.stored:
            if k in self.outputs:
                self.widths[self.outputs[k]] = self.world.size(k)
                self.world.rows[k] = Column(self.outputs[k], 0, self.world.size(k))
        kept = [k for k in sweep.stored if k in self.keep and k not in self.world.rows]
        first = 0
        for k in kept:
            self.world.kept[k] = Column(("keep", n), first, 0, optional=True)
            first += self.world.size(k)
        self._sized(("keep", n), kept, self.world.kept)

    def _sized(self, key: Key, members: Sequence[int], table: dict[int, Column]) -> None:
        total = sum(self.world.size(k) for k in members)
        if members:
            self.widths[key] = total
        for k in members:
            table[k] = Column(key, table[k].first, total, table[k].optional)

    def _order(self, sweep: Sweep) -> list[int]:
        """What later steps read of a sweep, operands of one product beside each other."""
        nodes, inside = self.schedule.nodes, set(sweep.body)
        following = {self.schedule.following[s] for s in range(len(self.schedule.following)) if s not in sweep.slots}
        readers = [k for k, node in enumerate(nodes) if k not in inside and node.op != "total"]
        read = {a for k in readers for a in nodes[k].args} | following
        found = []
        for step in self.schedule.steps:
            if isinstance(step, Product):
                found += [k for k in step.operands if k not in found]
        found += [a for k in readers for a in nodes[k].args if a not in found and nodes[k].stage not in ROWS]
        found += [k for k in sweep.stored if k not in found]
        return [k for k in found if k in sweep.stored and k in read]

    def _place_product(self, n: int, product: Product) -> None:
        results = product.results
        if len(results) == 1 and results[0] in self.outputs:
            key: Key = self.outputs[results[0]]
        else:
            key = ("made", n)
        total = sum(self.world.size(k) for k in results)
        self.widths[key] = total
        first = 0
        for k in results:
            self.world.rows[k] = Column(key, first, total)
            first += self.world.size(k)


class Running:
    """A half with its library loaded, ready to run."""

    def __init__(self, half: Half, library: ctypes.CDLL) -> None:
        self.half = half
        self.steps: list[tuple[int, object]] = []
        for n, step in enumerate(half.schedule.steps):
            if isinstance(step, Sweep):
                function = library[f"{half.name}{n}"]
                function.restype = ctypes.c_int
                self.steps.append((n, (function, tuple(half.sweeps[n].ports))))
            else:
                self.steps.append((n, self._product(step)))

    def _product(self, product: Product) -> tuple[object, ...]:
        """Operands that lie side by side as one, each with the uses for every result."""
        half, nodes = self.half, self.half.schedule.nodes
        runs: list[tuple[Column, list[int]]] = []
        for p, k in enumerate(product.operands):
            column, size = half.world.rows[k], half.world.size(k)
            if runs and runs[-1][0].key == column.key:
                last, places = runs[-1]
                if last.first + last.width == column.first:
                    runs[-1] = (Column(last.key, last.first, last.width + size), [*places, p])
                    continue
            runs.append((Column(column.key, column.first, size), [p]))
        arrays = half.world.arrays
        made = [
            (run, [[(arrays[u.weight, u.role][0], u) for u in (nodes[k].uses[p] for p in places)] for k in product.results])
            for run, places in runs
        ]
        return ("product", half.world.rows[product.results[0]].key, made)

    def run(self, buffers: dict[Key, Tensor | None], weights: Sequence[Tensor], geometry: Geometry) -> None:
        """All steps. `buffers` has what is given, and gets what is made."""
        g = geometry
        like = weights[0] if weights else next(b for b in buffers.values() if b is not None)
        numbers = (ctypes.c_long * 5)(g.batch, g.count, g.step, g.sequence, int(g.reverse))
        heads = (
            0 if g.offsets is None else g.offsets.data_ptr(),
            0 if g.sizes is None else g.sizes.data_ptr(),
        )
        for key, size in self.half.widths.items():
            if key not in buffers:
                buffers[key] = like.new_empty((g.rows, size))
        for _, step in self.steps:
            if step[0] == "product":  # type: ignore[index]
                self._multiply(step, buffers, weights)
            else:
                function, ports = step  # type: ignore[misc]
                pointers = [*heads]
                for kind, index in ports:
                    tensor = weights[index] if kind == "w" else buffers.get((kind, index))
                    pointers.append(0 if tensor is None else tensor.data_ptr())
                failed = function(numbers, (ctypes.c_void_p * len(pointers))(*pointers))
                if failed:
                    raise MemoryError("no memory for a compiled cell")
        for k, key in self.half.copies:
            column = self.half.world.rows[k]
            source = buffers[column.key]
            assert source is not None
            buffers[key] = source[:, column.first : column.first + self.half.world.size(k)].clone()

    def _multiply(self, step, buffers, weights) -> None:  # type: ignore[no-untyped-def]
        _, key, runs = step
        out = buffers[key]
        for n, (column, uses) in enumerate(runs):
            operand = buffers[column.key]
            if operand.shape[1] != column.width:
                operand = operand.narrow(1, column.first, column.width)
            matrix = _matrix(uses, weights)
            if n:
                out.addmm_(operand, matrix)
            else:
                torch.mm(operand, matrix, out=out)


def _matrix(uses: Sequence[Sequence[tuple[int, Use]]], weights: Sequence[Tensor]) -> Tensor:
    """The matrix `[in, out]` of a product: operands under each other, results side by side."""
    every = [
        [weights[n] if u.column < 0 else weights[n][..., u.column] for n, u in row] for row in uses
    ]
    if not any(u.transpose for row in uses for _, u in row):  # arrays are [out, in]
        rows = [row[0] if len(row) == 1 else torch.cat(row, 1) for row in every]
        return (rows[0] if len(rows) == 1 else torch.cat(rows)).t()
    columns = []
    for row, own in zip(every, uses, strict=True):
        parts = [w if u.transpose else w.t() for w, (_, u) in zip(row, own, strict=True)]
        columns.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    return columns[0] if len(columns) == 1 else torch.cat(columns, 1)
