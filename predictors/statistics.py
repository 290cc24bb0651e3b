"""Statistics of a cell's typed graph as numbers: what it counts, and how values flow through one step and through time.

The flow part (delays, path costs by kind, cheapest loops) is the recurrent analogue of GRAF's features
(Kadlecova et al., "Surprisingly Strong Performance Prediction with Neural Graph Features", ICML 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from grammar import OPS, Cell, Graph, Node, zoo

STATE_TYPES = ("vec", "key", "scal", "mat", "cvec", "cmat", "mem", "seq")
SOURCES = ("x", "state")
# What a path costs, by kind: for each kind the degrees (column `degree` of the table of operations) that count.
KINDS: Mapping[str, frozenset[str] | None] = {
    "length": None,  # every operation
    "nonlinear": frozenset({"nonlinear", "max"}),
    "product": frozenset({"product", "quotient", "blend"}),
    "linear": frozenset({"linear"}),
}
NO_PATH = -1.0  # a finite value: trees split on it, and no real cost is negative
# Leaves that carry a state: its previous value, a child's, and the running and final values inside `depth ... until`.
_CARRIERS = frozenset({"state", "child", "carry", "final"})


def statistic_names() -> tuple[str, ...]:
    """The names of the features, in the order of the columns of `cell_statistics`."""
    return tuple(_features(zoo("elman").graph))


def cell_statistics(cells: Iterable[Cell]) -> NDArray[np.float64]:
    """The features of the canonical forms of `cells`, finite: float64 [n, F] with F = len(statistic_names())."""
    rows = [list(_features(cell.canonical().graph).values()) for cell in cells]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(statistic_names()))


def _features(graph: Graph) -> dict[str, float]:
    return {**_counts(graph), **_shape(graph), **_flow(graph)}


def _counts(graph: Graph) -> dict[str, float]:
    """How often each operation of the table and each type of state occurs; how many weights there are."""
    ops = [node.op for node in graph.nodes]
    kinds = [state.type.kind for state in graph.states]
    return {
        **{f"op_{name}": float(ops.count(name)) for name in sorted(OPS)},
        **{f"reads_{leaf}": float(ops.count(leaf)) for leaf in ("x", "num", *sorted(_CARRIERS))},
        **{f"states_{kind}": float(kinds.count(kind)) for kind in STATE_TYPES},
        "nodes": float(len(ops)),
        "weights": float(len(graph.weights)),
        "arrays": float(sum(len(weight.specs) for weight in graph.weights)),
        "fixed_weights": float(sum(weight.fixed for weight in graph.weights)),
        "children": float(len(graph.children)),
        "variadic": float(graph.variadic),
    }


def _shape(graph: Graph) -> dict[str, float]:
    """The depth and width of one step."""
    level: list[int] = []
    for node in graph.nodes:
        level.append(1 + max((level[arg] for arg in node.args), default=-1))
    uses = graph.uses()
    return {
        "depth": float(max(level, default=0)),
        "depth_out": float(level[graph.out]),
        "widest_level": float(max((level.count(i) for i in set(level)), default=0)),
        "most_used": float(max(uses, default=0)),
        "used_more_than_once": float(sum(count > 1 for count in uses)),
    }


def _flow(graph: Graph) -> dict[str, float]:
    """How x and the states reach the output and each other: delays in steps, path costs by kind, loops."""
    readers = {state.name: set(_states_read(graph, _roots(graph, state.name))) for state in graph.states}
    reached = _closure(readers)
    found = {
        "x_delay": _delay(graph),
        "states_read_by_out": float(len(set(_states_read(graph, [graph.out])))),
        "self_loops": float(sum(name in read for name, read in readers.items())),
        "states_in_loops": float(sum(name in reached[name] for name in reached)),
        "state_edges": float(sum(map(len, readers.values()))),
    }
    bounds = OPS[graph.nodes[graph.out].op].bounds if graph.nodes[graph.out].op in OPS else None
    found["bounded_out"] = float(bounds is not None)
    for kind, degrees in KINDS.items():
        costs = [_cost(node, degrees) for node in graph.nodes]
        for source in SOURCES:
            starts = [i for i, node in enumerate(graph.nodes) if _source(node) == source]
            for best, name in ((min, "min"), (max, "max")):
                found[f"{source}_to_out_{kind}_{name}"] = _path(graph, costs, starts, graph.out, best)
        found[f"loop_{kind}_min"] = _cheapest_loop(graph, costs)
    return found


def _source(node: Node) -> str:
    return "state" if node.op in _CARRIERS else node.op


def _state_of(node: Node) -> str:
    return str(node.attr("state" if node.op == "child" else "name"))


def _roots(graph: Graph, name: str) -> list[int]:
    """The nodes that give the state `name` its values: the new one, the one at a leaf, the one inside a region."""
    index = [state.name for state in graph.states].index(name)
    found = [graph.next[index]]
    if graph.leaf is not None:
        found.append(graph.leaf[index])
    if graph.region is not None and name in graph.region.states:
        found.append(graph.region.next[graph.region.states.index(name)])
    return found


def _states_read(graph: Graph, roots: Iterable[int]) -> Iterator[str]:
    nodes = (graph.nodes[i] for i in graph.reachable(roots))
    return (_state_of(node) for node in nodes if node.op in _CARRIERS)


def _closure(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What each name reaches over one edge or more."""
    reached = {name: set(ends) for name, ends in edges.items()}
    for middle in reached:
        for name in reached:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    return reached


def _delay(graph: Graph) -> float:
    """Steps from x to the output, 0 within the same step; one more than there are states if x never gets there."""
    never = len(graph.states) + 1
    roots = {"": [graph.out], **{state.name: _roots(graph, state.name) for state in graph.states}}
    reads = {name: set(_states_read(graph, starts)) for name, starts in roots.items()}
    delay = {
        name: 0 if any(graph.nodes[i].op == "x" for i in graph.reachable(starts)) else never
        for name, starts in roots.items()
    }
    for _ in roots:  # a shortest delay passes each state at most once
        for name in roots:
            delay[name] = min([delay[name], *(1 + delay[read] for read in reads[name])])
    return float(delay[""])


def _cost(node: Node, degrees: frozenset[str] | None) -> int:
    if node.op not in OPS:
        return 0
    return int(degrees is None or OPS[node.op].degree in degrees)


def _path(
    graph: Graph,
    costs: Sequence[int],
    starts: Iterable[int],
    end: int,
    best: Callable[[Sequence[float]], float],
) -> float:
    """The least (`min`) or greatest (`max`) cost of a path within one step from any of `starts` to `end`."""
    found: dict[int, float] = dict.fromkeys(starts, 0.0)
    for index, node in enumerate(graph.nodes):
        before = [found[arg] for arg in node.args if arg in found]
        if before:
            found[index] = costs[index] + best(before)
    return found.get(end, NO_PATH)


def _cheapest_loop(graph: Graph, costs: Sequence[int]) -> float:
    """The least cost of a way from a state back to itself, over one time step or more."""
    names = [state.name for state in graph.states]
    cost = np.full((len(names), len(names)), np.inf)
    for i, name in enumerate(names):
        starts = [n for n, node in enumerate(graph.nodes) if node.op in _CARRIERS and _state_of(node) == name]
        for j, other in enumerate(names):
            ways = [_path(graph, costs, starts, root, min) for root in _roots(graph, other)]
            cost[i, j] = min((way for way in ways if way != NO_PATH), default=np.inf)
    for middle in range(len(names)):  # Floyd and Warshall
        cost = np.minimum(cost, cost[:, middle, None] + cost[None, middle, :])
    least = float(np.min(np.diagonal(cost), initial=np.inf))
    return least if least < np.inf else NO_PATH
