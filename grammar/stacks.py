"""A stack of layers of one cell in NumPy, all layers at once: what untrained probes run.

Layer l is l steps behind the first, so one pass over T + L - 1 moments runs all layers side by side as
one more axis of weight sets: the same arithmetic as layer after layer in a third of the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from grammar.cell import Cell
from grammar.errors import CellBuildError
from grammar.evaluate import buffer_nodes
from grammar.graph import Graph
from grammar.machine import Buffers, Machine, memory_length
from grammar.renderings import Array, Value, elementwise_function
from grammar.sizes import Sizes
from grammar.types import VEC

_Step = Callable[[dict[int, Value]], Value]


def evaluate_stack(
    cell: Cell,
    x: Array,
    weights: Mapping[str, Array],
    *,
    layers: int,
    sets: int,
    heads: int = 1,
) -> Array:
    """Run `layers` layers of a time cell, each as wide as `x` [B, T, H] or [sets, B, T, H]: y [T, layers, sets, B, H].

    `weights` are arrays by name (`init_weights(..., sets=(layers, sets))`). Layer 0 sees `x`, each other
    one what the layer before gives. Precision is that of `x`. Raises CellBuildError for cells over trees or whole
    sequences, and where sizes do not fit.
    """
    if cell.kind != "time":
        raise CellBuildError(f"a stack is of time cells; {cell.name} is a {cell.kind} cell")
    if x.ndim not in (3, 4) or x.shape[:-3] not in ((), (sets,)):
        raise CellBuildError(f"x has shape [B, T, H] or [sets={sets}, B, T, H]; received {x.shape}")
    width = x.shape[-1]
    sizes = Sizes.of(width, width, heads)
    sizes.check(cell.graph)
    with np.errstate(all="ignore"):
        return _Stack(cell.graph, x, weights, sizes, (layers, sets)).run()


class _Stack:
    def __init__(
        self, graph: Graph, x: Array, weights: Mapping[str, Array], sizes: Sizes, lead: tuple[int, int]
    ) -> None:
        self.graph, self.lead = graph, lead
        self.x = np.ascontiguousarray(np.moveaxis(x, -2, 0))
        self.batch = x.shape[-3]
        line = np.zeros((*lead, self.batch, 1, x.shape[-1]), x.dtype)
        self.machine = Machine(graph, line, weights, sizes)
        self.nodes = buffer_nodes(graph)
        order = sorted(graph.reachable(graph.roots()))
        self.steps = [(i, self._step(i)) for i in order if graph.nodes[i].op not in ("x", "state")]
        self.named = [(i, str(graph.nodes[i].attr("name"))) for i in order if graph.nodes[i].op == "state"]
        self.inputs = [i for i in order if graph.nodes[i].op == "x"]

    def run(self) -> Array:
        layers = self.lead[0]
        steps, width, batch = self.x.shape[0], self.x.shape[-1], self.batch
        machine, graph = self.machine, self.graph
        states: dict[str, Array] = {
            s.name: machine.full(machine.initial(s.name), s.type, batch) for s in graph.states
        }
        kinds = {i: graph.nodes[graph.nodes[i].args[0]].type for i in self.nodes}
        empty = {i: machine.full(0.0, kinds[i], batch) for i in self.nodes}
        self.buffers = Buffers(machine, {i: [z] * memory_length(graph, i) for i, z in empty.items()})
        seen = np.zeros((*self.lead, batch, width), self.x.dtype)
        y = np.empty((steps, *seen.shape), self.x.dtype)
        for moment in range(steps + layers - 1):
            if moment < steps:
                seen[0] = self.x[moment]
            values: dict[int, Value] = dict.fromkeys(self.inputs, seen)
            values |= {i: states[name] for i, name in self.named}
            for index, step in self.steps:
                values[index] = step(values)
            late = moment + 1  # layers from here on have not begun
            for s, i in zip(graph.states, graph.next, strict=True):
                states[s.name] = self._kept(machine.full(values[i], s.type, batch), states[s.name], late)
            if self.nodes:
                before = {i: list(held) for i, held in self.buffers.held.items()}
                self.buffers.advance(values)
                for i, held in self.buffers.held.items():
                    held[:] = [
                        self._kept(machine.full(new, kinds[i], batch), old, late)
                        for new, old in zip(held, before[i], strict=True)
                    ]
            out = np.broadcast_to(np.asarray(values[graph.out]), seen.shape)
            for layer in range(max(0, moment - steps + 1), min(layers, moment + 1)):
                y[moment - layer, layer] = out[layer]
            seen = np.concatenate([seen[:1], out[:-1]])
        return y

    def _kept(self, new: Array, old: Array, late: int) -> Array:
        if late >= self.lead[0]:
            return new
        return np.concatenate([new[:late], old[late:]])

    def _step(self, index: int) -> _Step:
        """A function for one node: a short one where values are plain vectors, the table's rendering elsewhere."""
        graph, machine = self.graph, self.machine
        node = graph.nodes[index]
        plain = all(graph.nodes[a].type in (VEC, node.type) and node.type == VEC for a in node.args)
        function = elementwise_function(node.op)
        args = node.args
        if plain and function is not None:
            return _applied(function, args)
        vectors = all(graph.nodes[a].type.kind in ("vec", "in") for a in args) and node.type == VEC
        if vectors and node.op == "lin" and set(dict(node.attrs)) <= {"bias"}:
            return self._map(index)
        return lambda values: machine.apply(index, values, self.buffers.past(index, values))

    def _map(self, index: int) -> _Step:
        """`lin` of vectors as one matrix product."""
        node = self.graph.nodes[index]
        arrays = self.machine.weights[node.weight]
        parts = [
            np.broadcast_to(arrays[f"w{j}"], (*self.lead, *arrays[f"w{j}"].shape[-2:]))
            for j in range(len(node.args))
        ]
        matrix = np.ascontiguousarray(np.swapaxes(np.concatenate(parts, axis=-1), -1, -2))
        bias = arrays["b"][..., None, :] if node.attr("bias", True) else None
        args = node.args
        shape = (*self.lead, self.batch)

        def step(values: dict[int, Value]) -> Value:
            operands = [np.broadcast_to(values[a], (*shape, np.shape(values[a])[-1])) for a in args]
            operand = np.concatenate(operands, axis=-1) if len(operands) > 1 else operands[0]
            product = operand @ matrix
            if bias is not None:
                product += bias
            return np.asarray(product)

        return step


def _applied(function: Callable[..., Any], args: Sequence[int]) -> _Step:
    if len(args) == 1:
        (a,) = args
        return lambda values: function(values[a])
    if len(args) == 2:
        a, b = args
        return lambda values: function(values[a], values[b])
    return lambda values: function(*[values[i] for i in args])
