"""A NumPy interpreter of cells, batched over weight sets and seeds: fingerprints, probes, a second oracle.

No step is clever: the graph is read node by node, and what does not see the state is computed once
for all steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grammar.cell import Cell
from grammar.errors import CellBuildError
from grammar.graph import Graph
from grammar.machine import Along, Buffers, Machine, common_axes, dependent, leaves, memory_length
from grammar.renderings import Array, Value
from grammar.sizes import Sizes
from grammar.trees import run_tree
from grammar.types import IN, Type


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a cell gives: `y` [.., B, T, H], and `state` after the last step, each [.., B, ...].

    `state` holds the declared states in order, then the buffers of `buffer_nodes`: of a `shift` its
    last operand [.., B, ...], of a `conv` the last k - 1 of them [.., B, k - 1, ...], oldest first.
    A tree cell gives `y` at the inner nodes and `state` at the root; a depth cell gives its states
    [.., B, T, H] after the last round.
    """

    y: Array
    state: tuple[Array, ...]


def evaluate(
    cell: Cell,
    x: Array,
    weights: Mapping[str, Any],
    *,
    hidden_size: int,
    heads: int = 1,
    key_size: int | None = None,
    state: Sequence[Array] | None = None,
    tree: Array | None = None,
) -> Evaluation:
    """Run a cell over `x` [.., B, T, D] in the precision of `x` (float32 or float64).

    `weights` are arrays by name (`init_weights`), or by canonical name (`canonical_arrays`); leading
    axes of weights, states and `x` broadcast, so one call runs many weight sets. `state` goes on
    from an earlier call. A tree cell takes `x` [.., B, n, D] of its leaves and `tree` [B, m, 2], the
    children of each inner node: 0 to n - 1 are leaves, n + i is what row i made; where the body sees
    x, n + m positions of `x`. Raises CellBuildError where sizes, shapes or names do not fit.
    """
    given = np.asarray(x)
    given = given if given.dtype in (np.float32, np.float64) else given.astype(np.float64)
    if given.ndim < 3:
        raise CellBuildError(f"x has shape [.., B, T, D]; received {given.shape}")
    sizes = Sizes.of(given.shape[-1], hidden_size, heads, key_size)
    sizes.check(cell.graph)
    if (tree is None) == (cell.kind == "tree"):
        raise CellBuildError(f"a tree, and only for a tree cell; {cell.name} is a {cell.kind} cell")
    if state is not None and cell.kind != "time":
        raise CellBuildError(f"a state is for time cells; {cell.name} is a {cell.kind} cell")
    with np.errstate(all="ignore"):
        machine = Machine(cell.graph, given, weights, sizes)
        if cell.kind == "time":
            return _run_time(machine, state)
        if tree is None:
            return _run_depth(machine)
        return Evaluation(*run_tree(machine, np.asarray(tree)))


def buffer_nodes(graph: Graph) -> tuple[int, ...]:
    """The `shift` and `conv` nodes that hold earlier values, in node order; those of dead lets do not.

    A `conv` over one step holds none.
    """
    live = sorted(graph.reachable(graph.roots()))
    return tuple(i for i in live if memory_length(graph, i))


# ---- time -------------------------------------------------------------------------------------


def _run_time(machine: Machine, state: Sequence[Array] | None) -> Evaluation:
    graph = machine.graph
    batch, steps = machine.x.shape[-3:-1]
    nodes = buffer_nodes(graph)
    turning = dependent(graph, "carry")  # inside `depth ... until(p)`: run with it
    states, held = _start(machine, nodes, state, batch)
    needed = [i for i in sorted(graph.reachable(graph.roots())) if i not in turning]
    bound = dependent(graph, "state", "final")
    moving = dependent(graph, "x", also=nodes)
    x = np.moveaxis(machine.padded(machine.x, IN, extra=1), -2, 0)
    all_steps: dict[int, Value] = {i: x for i in needed if graph.nodes[i].op == "x"}
    along = Along(machine, {i: a for i, a in held.items() if i not in bound})
    machine.run([i for i in needed if i not in bound], all_steps, along)
    buffers = Buffers(machine, {i: a for i, a in held.items() if i in bound})
    in_loop = [i for i in needed if i in bound]
    named = leaves(graph, "state")
    y = np.empty((steps, *machine.lead, batch, machine.sizes.hidden_size), machine.dtype)
    for t in range(steps):
        values = {i: v[t] if i in moving and isinstance(v, np.ndarray) else v for i, v in all_steps.items()}
        values |= {index: states[name] for name, index in named.items()}
        machine.run(in_loop, values, buffers)
        states = {s.name: np.asarray(values[i]) for s, i in zip(graph.states, graph.next, strict=True)}
        y[t] = values[graph.out]
        buffers.advance(values)
    last = [machine.full(states[s.name], s.type, batch) for s in graph.states]
    after = along.after | buffers.held
    last += [_stored(machine, index, after[index], batch) for index in nodes]
    return Evaluation(np.moveaxis(y, 0, -2), tuple(last))


def _operand(graph: Graph, index: int) -> Type:
    return graph.nodes[graph.nodes[index].args[0]].type


def _start(
    machine: Machine, nodes: Sequence[int], state: Sequence[Array] | None, batch: int
) -> tuple[dict[str, Array], dict[int, list[Array]]]:
    """Before the first step: each state [*lead, B, ...], and what each buffer holds, oldest first."""
    graph = machine.graph
    if state is None:
        states = {s.name: machine.full(machine.initial(s.name), s.type, batch) for s in graph.states}
        zeros = {i: machine.full(0.0, _operand(graph, i), batch) for i in nodes}
        return states, {i: [zero] * memory_length(graph, i) for i, zero in zeros.items()}
    if len(state) != len(graph.states) + len(nodes):
        raise CellBuildError(
            f"this cell has {len(graph.states)} states and {len(nodes)} buffers; received {len(state)} arrays"
        )
    own = [machine.sizes.shape(s.type) for s in graph.states] + [_buffer_shape(machine, i) for i in nodes]
    arrays = [machine.cast(a) for a in state]
    for array, shape in zip(arrays, own, strict=True):
        if array.ndim <= len(shape) or array.shape[array.ndim - len(shape) :] != shape:
            raise CellBuildError(
                f"an array of this state is [.., B, {', '.join(map(str, shape))}]; received {array.shape}"
            )
    outer = [a.shape[: a.ndim - len(shape) - 1] for a, shape in zip(arrays, own, strict=True)]
    machine.lead = common_axes([machine.lead, *outer])
    count = len(graph.states)
    states = {s.name: machine.full(a, s.type, batch) for s, a in zip(graph.states, arrays, strict=False)}
    held: dict[int, list[Array]] = {}
    for i, array in zip(nodes, arrays[count:], strict=True):
        axis = array.ndim - machine.rank(_operand(graph, i)) - 1
        parts = list(np.moveaxis(array, axis, 0)) if graph.nodes[i].op == "conv" else [array]
        held[i] = [machine.full(part, _operand(graph, i), batch) for part in parts]
    return states, held


def _buffer_shape(machine: Machine, index: int) -> tuple[int, ...]:
    """The shape of a buffer without the batch."""
    shape = machine.sizes.shape(_operand(machine.graph, index))
    conv = machine.graph.nodes[index].op == "conv"
    return (memory_length(machine.graph, index), *shape) if conv else shape


def _stored(machine: Machine, index: int, held: Sequence[Array], batch: int) -> Array:
    """A buffer as it stands in `Evaluation.state`."""
    type_ = _operand(machine.graph, index)
    parts = [machine.full(part, type_, batch) for part in held]
    conv = machine.graph.nodes[index].op == "conv"
    return np.stack(parts, axis=-1 - machine.rank(type_)) if conv else parts[0]


# ---- depth ------------------------------------------------------------------------------------


def _run_depth(machine: Machine) -> Evaluation:
    graph = machine.graph
    machine.batch = 2
    batch, steps = machine.x.shape[-3:-1]
    values: dict[int, Value] = {
        index: machine.initial(name) for name, index in leaves(graph, "state").items()
    }
    values |= dict.fromkeys(leaves(graph, "x").values(), machine.x)
    machine.run(sorted(graph.reachable([*graph.next, graph.out])), values, Along(machine, None))
    last = [
        machine.full(values[i], s.type, batch, steps) for s, i in zip(graph.states, graph.next, strict=True)
    ]
    return Evaluation(machine.full(values[graph.out], graph.nodes[graph.out].type, batch, steps), tuple(last))
