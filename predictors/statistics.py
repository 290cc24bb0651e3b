"""Statistics of a cell's typed graph as numbers: what it counts, and how values flow through one step and through time.

The flow part (delays, path costs by kind, cheapest loops) is the recurrent analogue of GRAF's features
(Kadlecova et al., "Surprisingly Strong Performance Prediction with Neural Graph Features", ICML 2024).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from grammar import OPS, Cell, Graph, zoo
from predictors.paths import CARRIERS, Paths

STATE_TYPES = ("vec", "key", "scal", "mat", "cvec", "cmat", "mem", "seq")
SOURCES = ("x", "state")
# What a path costs, by kind: for each kind the degrees (column `degree` of the table of operations) that count.
KINDS: Mapping[str, frozenset[str] | None] = {
    "length": None,  # every operation
    "nonlinear": frozenset({"nonlinear", "max"}),
    "product": frozenset({"product", "quotient", "blend"}),
    "linear": frozenset({"linear"}),
}
_NAMES = tuple(sorted(OPS))
NO_PATH = -1.0  # a finite value: trees split on it, and no real cost is negative


@functools.cache
def statistic_names() -> tuple[str, ...]:
    """The names of the features, in the order of the columns of `cell_statistics`."""
    return tuple(graph_statistics(zoo("elman").graph))


def cell_statistics(cells: Iterable[Cell]) -> NDArray[np.float64]:
    """The features of the canonical forms of `cells`, finite: float64 [n, F] with F = len(statistic_names())."""
    rows = [list(graph_statistics(cell.canonical().graph).values()) for cell in cells]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(statistic_names()))


def graph_statistics(graph: Graph) -> dict[str, float]:
    """The features of a graph of canonical form: name -> finite number."""
    return {**_counts(graph), **_shape(graph), **_flow(graph)}


def _counts(graph: Graph) -> dict[str, float]:
    """How often each operation of the table and each type of state occurs; how many weights there are."""
    ops = Counter(node.op for node in graph.nodes)
    kinds = Counter(state.type.kind for state in graph.states)
    return {
        **{f"op_{name}": float(ops[name]) for name in _NAMES},
        **{f"reads_{leaf}": float(ops[leaf]) for leaf in ("x", "num", *sorted(CARRIERS))},
        **{f"states_{kind}": float(kinds[kind]) for kind in STATE_TYPES},
        "nodes": float(len(graph.nodes)),
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
    uses, widths = graph.uses(), Counter(level)
    return {
        "depth": float(max(level, default=0)),
        "depth_out": float(level[graph.out]),
        "widest_level": float(max(widths.values(), default=0)),
        "most_used": float(max(uses, default=0)),
        "used_more_than_once": float(sum(count > 1 for count in uses)),
    }


def _flow(graph: Graph) -> dict[str, float]:
    """How x and the states reach the output and each other: delays in steps, path costs by kind, loops."""
    sources = {
        "x": [i for i, node in enumerate(graph.nodes) if node.op == "x"],
        "state": [i for i, node in enumerate(graph.nodes) if node.op in CARRIERS],
    }
    paths = Paths(graph, _costs_of, sources)
    roots = {state.name: _roots(graph, state.name) for state in graph.states}
    readers = {name: {read for read in roots if paths.reads(roots[name], read)} for name in roots}
    reached = _closure(readers)
    seen = {read for read in roots if paths.reads([graph.out], read)}
    found = {
        "x_delay": _delay(graph, paths.reached("x"), {"": [graph.out], **roots}, {"": seen, **readers}),
        "states_read_by_out": float(len(seen)),
        "self_loops": float(sum(name in read for name, read in readers.items())),
        "states_in_loops": float(sum(name in reached[name] for name in reached)),
        "state_edges": float(sum(map(len, readers.values()))),
    }
    bounds = OPS[graph.nodes[graph.out].op].bounds if graph.nodes[graph.out].op in OPS else None
    found["bounded_out"] = float(bounds is not None)
    to_out = {source: paths.from_source(source, graph.out) for source in SOURCES}
    loops = paths.loops(roots).min(axis=0, initial=np.inf)
    for place, kind in enumerate(KINDS):
        for source in SOURCES:
            for best, name in enumerate(("min", "max")):
                found[f"{source}_to_out_{kind}_{name}"] = _shown(to_out[source][best][place])
        found[f"loop_{kind}_min"] = _shown(loops[place])
    return found


@functools.cache
def _costs_of(name: str, operands: int) -> tuple[float, ...]:
    """What an operation adds to a path, for each of KINDS; a leaf nothing."""
    return tuple(float(name in OPS and (some is None or OPS[name].degree in some)) for some in KINDS.values())


def _shown(cost: float) -> float:
    return float(cost) if np.isfinite(cost) else NO_PATH


def _roots(graph: Graph, name: str) -> list[int]:
    """The nodes that give the state `name` its values: the new one, the one at a leaf, the one inside a region."""
    index = [state.name for state in graph.states].index(name)
    found = [graph.next[index]]
    if graph.leaf is not None:
        found.append(graph.leaf[index])
    if graph.region is not None and name in graph.region.states:
        found.append(graph.region.next[graph.region.states.index(name)])
    return found


def _closure(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What each name reaches over one edge or more."""
    reached = {name: set(ends) for name, ends in edges.items()}
    for middle in reached:
        for name in reached:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    return reached


def _delay(
    graph: Graph,
    of_x: NDArray[np.bool_],
    roots: Mapping[str, Sequence[int]],
    reads: Mapping[str, set[str]],
) -> float:
    """Steps from x to the output, 0 within the same step; one more than there are states if x never gets there."""
    never = len(graph.states) + 1
    delay = {name: 0 if any(of_x[i] for i in starts) else never for name, starts in roots.items()}
    for _ in roots:  # a shortest delay passes each state at most once
        for name in roots:
            delay[name] = min([delay[name], *(1 + delay[read] for read in reads[name])])
    return float(delay[""])
