"""Tree cells on given trees, row by row over a batch of different trees."""

from __future__ import annotations

import numpy as np

from grammar.errors import CellBuildError
from grammar.graph import Graph
from grammar.machine import Machine, Memory, leaves
from grammar.renderings import Array, Value


def run_tree(machine: Machine, tree: Array) -> tuple[Array, tuple[Array, ...]]:
    """`y` at the inner nodes [.., B, m, H] and the states at the root; see `evaluate` for `tree`."""
    graph = machine.graph
    body = sorted(graph.reachable([*graph.next, graph.out]))
    sees_x = any(graph.nodes[i].op == "x" for i in body)
    rows = _checked(graph, tree, machine.x.shape[-2], sees_x, machine.x.shape[-3])
    batch, count, _ = rows.shape
    made = _at_leaves(machine, machine.x.shape[-2] - count * sees_x)
    children, memory = leaves(graph, "child"), Memory(machine)
    outs: list[Array] = []
    for row in range(count):
        values: dict[int, Value] = {i: _gather(machine, i, made, rows[:, row]) for i in children.values()}
        values |= dict.fromkeys(leaves(graph, "x").values(), machine.x[..., row - count, :])
        values |= {i: machine.initial(name) for name, i in leaves(graph, "state").items()}
        machine.run(body, values, memory)
        outs.append(machine.full(values[graph.out], graph.nodes[graph.out].type, batch))
        for state, i in zip(graph.states, graph.next, strict=True):
            made[state.name].append(machine.full(values[i], state.type, batch))
    empty = np.empty((*machine.lead, batch, 0, machine.sizes.hidden_size), machine.dtype)
    y = np.stack(outs, axis=-2) if outs else empty
    return y, tuple(made[s.name][-1] for s in graph.states)


def _at_leaves(machine: Machine, count: int) -> dict[str, list[Array]]:
    """Each state at each of `count` leaves: the leaves are a second batch axis here."""
    graph = machine.graph
    assert graph.leaf is not None
    batch = machine.x.shape[-3]
    values: dict[int, Value] = dict.fromkeys(leaves(graph, "x").values(), machine.x[..., :count, :])
    machine.batch = 2
    machine.run(sorted(graph.reachable(graph.leaf)), values, Memory(machine))
    machine.batch = 1
    axis = len(machine.lead) + 1
    return {
        state.name: list(np.moveaxis(machine.full(values[i], state.type, batch, count), axis, 0))
        for state, i in zip(graph.states, graph.leaf, strict=True)
    }


def _gather(machine: Machine, index: int, made: dict[str, list[Array]], rows: Array) -> Array:
    """The state of a child in each sample's tree; for `cell t(*k)` of all children, [children, ..]."""
    graph = machine.graph
    node = graph.nodes[index]
    stacked = np.stack(made[str(node.attr("state"))])  # [nodes, *lead, B, *own]
    position = len(machine.lead) + 1

    def pick(column: Array) -> Array:
        where = column.reshape((1,) * position + (-1,) + (1,) * machine.rank(node.type))
        return np.asarray(np.take_along_axis(stacked, where, axis=0)[0])

    if graph.variadic:
        return np.stack([pick(rows[:, c]) for c in range(rows.shape[1])])
    return pick(rows[:, graph.children.index(str(node.attr("child")))])


def _checked(graph: Graph, tree: Array, positions: int, sees_x: bool, batch: int) -> Array:
    """The checked rows of a tree, [B, m, children]."""
    if tree.ndim != 3 or tree.dtype.kind not in "iu" or tree.shape[0] != batch:
        raise CellBuildError(f"tree is [B, m, 2] of whole numbers; received {tree.dtype} {tree.shape}")
    _, rows, width = tree.shape
    if not graph.variadic and width != len(graph.children):
        raise CellBuildError(f"this cell has {len(graph.children)} children; tree is {tree.shape}")
    leaves = positions - rows * sees_x
    if leaves != 1 + rows * (width - 1):
        raise CellBuildError(f"a tree of {rows} rows has {1 + rows * (width - 1)} leaves; received {leaves}")
    limit = leaves + np.arange(rows)[None, :, None]
    if ((tree < 0) | (tree >= limit)).any():
        raise CellBuildError("a row of a tree names leaves and earlier rows only: 0 to n - 1 + row")
    return tree
