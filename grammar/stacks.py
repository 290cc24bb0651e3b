"""A stack of layers of one cell in NumPy, all layers at once: what untrained probes run.

Layer l is l steps behind the first, so one pass over T + L - 1 moments runs all layers side by side as
one more axis of weight sets: the same arithmetic as layer after layer in a third of the calls. What depends on
neither x nor a state is computed once, and maps of one operand are one product. So are rows that have been equal so
far, where the caller knows of some (`equal_rows`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grammar.cell import Cell
from grammar.errors import CellBuildError
from grammar.evaluate import buffer_nodes
from grammar.graph import Graph
from grammar.machine import Machine, dependent, memory_length
from grammar.overwriting import own_values
from grammar.renderings import Array, Value
from grammar.sizes import Sizes
from grammar.stack_steps import Layout, SharedMaps, Step, Values, make_step, shared_maps
from grammar.types import NUM

_FEWER = 1.2  # a run of steps is begun where so many times as many rows differ: each costs a little

_SHORT = 16  # terms of a product that is rounded alike for any number of rows


@dataclass(frozen=True)
class EqualRows:
    """From step `start` up to the next such run, row b of an input is as its row `rows[place[b]]`; `rows` ascend."""

    start: int
    rows: NDArray[np.intp]
    place: NDArray[np.intp]


def equal_rows(x: Array) -> tuple[EqualRows, ...]:
    """Which rows of `x` [.., B, T, H] are equal in all steps so far, by runs of steps."""
    batch, steps = x.shape[-3:-1]
    bits = np.ascontiguousarray(np.moveaxis(x, (-3, -2), (0, 1))).reshape(batch, steps, -1).view(np.uint8)
    found: list[EqualRows] = []
    for step in reversed(range(steps)):
        so_far = bits[:, : step + 1].reshape(batch, -1)
        _, rows, place = np.unique(so_far, axis=0, return_index=True, return_inverse=True)
        rows, place = np.sort(rows), np.argsort(np.argsort(rows))[place.reshape(-1)]
        if found and len(rows) * _FEWER > len(found[-1].rows):
            rows, place = found[-1].rows, found[-1].place
            found.pop()
        found.append(EqualRows(step, rows, place))
    return tuple(reversed(found))


def evaluate_stack(
    cell: Cell,
    x: Array,
    weights: Mapping[str, Array],
    *,
    layers: int,
    sets: int,
    heads: int = 1,
    equal: Sequence[EqualRows] | None = None,
) -> Array:
    """Run `layers` layers of a time cell, each as wide as `x` [B, T, H] or [sets, B, T, H]: y [T, layers, sets, B, H].

    `weights` are arrays by name (`init_weights(..., sets=(layers, sets))`). Layer 0 sees `x`, each other
    one what the layer before gives. Precision is that of `x`. `equal` are its `equal_rows`: they are computed
    once, where that rounds nothing otherwise. Raises CellBuildError for cells over trees or whole
    sequences, and where sizes do not fit.
    """
    if cell.kind != "time":
        raise CellBuildError(f"a stack is of time cells; {cell.name} is a {cell.kind} cell")
    if x.ndim not in (3, 4) or x.shape[:-3] not in ((), (sets,)):
        raise CellBuildError(f"x has shape [B, T, H] or [sets={sets}, B, T, H]; received {x.shape}")
    width = x.shape[-1]
    sizes = Sizes.of(width, width, heads)
    sizes.check(cell.graph)
    rows = np.arange(x.shape[-3])
    phases = equal if equal and _rounds_alike(cell.graph, sizes) else (EqualRows(0, rows, rows),)
    with np.errstate(all="ignore"):
        return np.swapaxes(_Stack(cell.graph, x, weights, sizes, (layers, sets), phases).run(), -1, -2)


def _rounds_alike(graph: Graph, sizes: Sizes) -> bool:
    """Whether a row gives the same to the last bit however many rows are beside it.

    Longer products are summed up in another order where there are more rows (OpenBLAS), and complex numbers are
    multiplied in another way at the end of an array.
    """
    operands = [graph.nodes[a].type for node in graph.nodes if node.op == "lin" for a in node.args]
    longest = max((math.prod(sizes.shape(type_)) for type_ in operands), default=0)
    return longest <= _SHORT and not any(node.type.is_complex for node in graph.nodes)


class _Stack:
    def __init__(
        self,
        graph: Graph,
        x: Array,
        weights: Mapping[str, Array],
        sizes: Sizes,
        lead: tuple[int, int],
        phases: Sequence[EqualRows],
    ) -> None:
        self.graph, self.lead, self.phases = graph, lead, phases
        self.x = np.ascontiguousarray(np.moveaxis(x, (-2, -3), (0, -1)))  # [T, sets, H, B] or [T, H, B]
        line = np.zeros((*lead, 1, 1, x.shape[-1]), x.dtype)
        self.layout = Layout(Machine(graph, line, weights, sizes), lead, x.shape[-3])
        self.buffers = buffer_nodes(graph)
        self.kinds = {i: graph.nodes[graph.nodes[i].args[0]].type for i in self.buffers}
        self.held: dict[int, list[Array]] = {}
        self.states: dict[str, Array] = {}
        self.seen = np.zeros((*lead, x.shape[-1], 1), x.dtype)
        self.place: NDArray[np.intp] = np.zeros(0, np.intp)
        moving = dependent(graph, "x", "state", also=self.buffers)
        order = sorted(graph.reachable(graph.roots()))
        self.still = [i for i in order if i not in moving]
        self.inputs = [i for i in order if graph.nodes[i].op == "x"]
        self.named = [(i, str(graph.nodes[i].attr("name"))) for i in order if graph.nodes[i].op == "state"]
        self.steps = self._steps([i for i in order if i in moving])

    def _steps(self, order: Sequence[int]) -> list[tuple[int, Step, tuple[int, ...]]]:
        own = [i for i in order if self.graph.nodes[i].op not in ("x", "state")]
        shared = shared_maps(self.layout, self.graph, own)
        self.places = len(self.graph.nodes) + shared.places
        done = self._last_reads(own, shared)
        apart = own_values(self.graph, shared.parts)
        steps: list[tuple[int, Step, tuple[int, ...]]] = []
        for index in own:
            steps += [(place, step, ()) for place, step in shared.before.get(index, [])]
            free = apart.intersection(done.get(index, ()))
            step = shared.gates.get(index) if free else None
            step = step or shared.steps.get(index)
            step = step or make_step(self.layout, self.graph, index, self._past, free)
            steps.append((index, step, tuple(done.get(index, ()))))
        return steps

    def _last_reads(self, own: Sequence[int], shared: SharedMaps) -> dict[int, list[int]]:
        """For each node the values that are not read after it: dropped there, their memory is used again while near."""
        last = dict(shared.last)
        for index in own:
            last |= dict.fromkeys(self.graph.nodes[index].args, index)
        kept = {*self.still, *self.graph.roots(), *(self.graph.nodes[i].args[0] for i in self.buffers)}
        done: dict[int, list[int]] = {}
        for value, reader in last.items():
            if value not in kept:
                done.setdefault(reader, []).append(value)
        return done

    def _past(self, index: int) -> Sequence[Array]:
        return self.held.get(index, ())

    def run(self) -> Array:
        """y [T, layers, sets, H, B]."""
        layers, steps = self.lead[0], self.x.shape[0]
        y = np.empty((steps, *self.lead, *self.x.shape[-2:]), self.x.dtype)
        ends = [*(phase.start for phase in self.phases[1:]), steps + layers - 1]
        for phase, end in zip(self.phases, ends, strict=True):
            whole = len(phase.rows) == self.x.shape[-1]
            self._begin(phase)
            for moment in range(phase.start, end):
                first = max(0, moment - steps + 1)
                if first and not self.layout.whole:
                    self._end_layer()
                seen = self.seen
                if moment < steps:
                    seen[0] = self.x[moment] if whole else self.x[moment].take(phase.rows, -1)
                out = self._moment(moment)
                for layer in range(first, min(layers, moment + 1)):
                    given = out[layer - self.layout.first]
                    y[moment - layer, layer] = given if whole else given.take(phase.place, -1)
                self.seen = np.empty_like(seen)  # values may be kept: never written again
                self.seen[1:] = out[:-1]
                self.seen[0] = 0
        return y

    def _end_layer(self) -> None:
        """Leave out the first of the layers that are left: it has seen all steps."""
        self.layout.first += 1
        self.seen = self.seen[1:]
        self.held = {i: [array[1:] for array in held] for i, held in self.held.items()}
        self.states = {name: array[1:] for name, array in self.states.items()}
        for i in self.still:
            if self.graph.nodes[i].type != NUM:
                self.values[i] = self.values[i][1:]

    def _begin(self, phase: EqualRows) -> None:
        """Make all ready for the rows of this phase, from those of the one before."""
        layout = self.layout
        layout.batch = len(phase.rows)
        self.values = self._constants()
        if not phase.start:
            self.seen = np.zeros((*self.lead, self.x.shape[-2], len(phase.rows)), self.x.dtype)
            self.held = {
                i: [layout.full(0.0, self.kinds[i])] * memory_length(self.graph, i) for i in self.buffers
            }
            states = self.graph.states
            self.states = {s.name: layout.taken(layout.machine.initial(s.name), s.type) for s in states}
        else:
            were = self.place[phase.rows]
            self.seen = self.seen.take(were, -1)
            self.held = {i: [array.take(were, -1) for array in held] for i, held in self.held.items()}
            self.states = {name: array.take(were, -1) for name, array in self.states.items()}
        self.place = phase.place

    def _moment(self, moment: int) -> Array:
        """One step of each layer, the first at step `moment`: what the cell gives [layers, sets, H, B]."""
        layout, graph, values, states = self.layout, self.graph, self.values, self.states
        for i in self.inputs:
            values[i] = self.seen
        for i, name in self.named:
            values[i] = states[name]
        for index, step, done in self.steps:
            values[index] = step(values)
            for value in done:
                values[value] = None
        late = moment + 1 - layout.first  # layers from here on have not begun
        for s, i in zip(graph.states, graph.next, strict=True):
            states[s.name] = _kept(layout.full(values[i], s.type), states[s.name], late)
        self._advance(values, late)
        return layout.full(values[graph.out], graph.nodes[graph.out].type)

    def _constants(self) -> Values:
        """Room for all values, with those that never change."""
        layout, nodes = self.layout, self.graph.nodes
        values: Values = [None] * self.places
        raw: dict[int, Value] = {}
        for i in self.still:
            raw[i] = layout.machine.apply(i, raw)
            values[i] = raw[i] if nodes[i].type == NUM else layout.taken(np.asarray(raw[i]), nodes[i].type)
        return values

    def _advance(self, values: Values, late: int) -> None:
        """Put the operands of this step into the buffers, and let the oldest go."""
        for i, held in self.held.items():
            newest = self.layout.full(values[self.graph.nodes[i].args[0]], self.kinds[i])
            self.held[i] = [_kept(new, old, late) for new, old in zip([*held[1:], newest], held, strict=True)]


def _kept(new: Array, old: Array, late: int) -> Array:
    if late >= len(new):
        return new
    return np.concatenate([new[:late], old[late:]])
