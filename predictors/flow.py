"""What x and the states pass through on the way to the output, and around the loops, as numbers.

The recurrent analogue of GRAF's features (Kadlecova et al., ICML 2024): least and greatest costs of paths by
kind of operation, through one step and through time; delays and lags of x; gates; bounded values;
which operations stand next to each other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from grammar import OPS, Cell, Graph, Node, Ranges, zoo
from predictors.paths import CARRIERS, Paths, state_of

Floats = NDArray[np.float64]

NO_PATH = -2.0  # a finite value below every cost
LAGS = 7
_NEVER = 9.0  # a delay longer than any that counts
_WIDEST = 10.0  # of a range, where it is longer or has no end
# Classes of operations, by what the table says of them; see `kind_of`.
CLASSES = ("dense", "scale", "product", "sum", "blend", "positive", "bounded", "bent", "other", "x", "state")


def kind_of(node: Node) -> str:
    """The class of an operation or leaf: what it does to a signal, whatever its name.

    `dense` mixes entries by a trained map, `scale` multiplies by a trained vector, `positive` is bounded and not
    below 0 (a gate), `bounded` is bounded otherwise, `bent` is any other nonlinear function.
    """
    return _kind(node.op, len(node.args))


@functools.cache
def _kind(name: str, operands: int) -> str:
    if name not in OPS:
        return "state" if name in CARRIERS else name
    op = OPS[name]
    if op.weights is not None:
        return "dense" if op.mixes != "elementwise" else "scale"
    if op.bounds is not None:
        return "positive" if op.bounds[0] >= 0 else "bounded"
    if op.degree in ("product", "quotient"):
        return "product"
    if op.degree == "blend":
        return "blend"
    if op.degree == "linear" and operands > 1:
        return "sum"
    return "bent" if op.degree in ("nonlinear", "max") else "other"


# What a path costs: for each name the classes that count, None for every operation.
COSTS: Mapping[str, frozenset[str] | None] = {
    "length": None,
    "nonlinear": frozenset({"positive", "bounded", "bent"}),
    "positive": frozenset({"positive"}),
    "bounded": frozenset({"positive", "bounded"}),
    "bent": frozenset({"bent"}),
    "dense": frozenset({"dense"}),
    "product": frozenset({"product", "blend"}),
    "sum": frozenset({"sum"}),
}


@functools.cache
def flow_names() -> tuple[str, ...]:
    """The names of the features, in the order of `flow_features`."""
    return tuple(flow_features(zoo("elman")))


def flow_features(cell: Cell) -> dict[str, float]:
    """The features of the canonical form of a cell: name -> finite number."""
    return graph_flow(cell.canonical().graph)


def graph_flow(graph: Graph) -> dict[str, float]:
    """The same of a graph of canonical form."""
    flow = _Flow(graph)
    return {**flow.parts(), **flow.bounds(), **flow.time(), **flow.paths(), **flow.neighbours()}


@dataclass(frozen=True)
class _Flow:
    graph: Graph

    @cached_property
    def live(self) -> tuple[list[int], list[str]]:
        nodes, states = self.graph.live()
        return sorted(nodes), [s.name for s in self.graph.states if s.name in states]

    @cached_property
    def kinds(self) -> list[str]:
        return [kind_of(node) for node in self.graph.nodes]

    @cached_property
    def following(self) -> dict[str, int]:
        return {s.name: i for s, i in zip(self.graph.states, self.graph.next, strict=True)}

    @cached_property
    def emitted(self) -> list[str]:
        """The live states whose new value is the output."""
        return [name for name in self.live[1] if self.following[name] == self.graph.out]

    @cached_property
    def costs(self) -> Paths:
        """From x, from any live state (`every`), from those that are the output (`own`), and from each state."""
        carriers: dict[str, list[int]] = {name: [] for name in self.following}
        for i, node in enumerate(self.graph.nodes):
            if node.op in CARRIERS:
                carriers[state_of(node)].append(i)
        sources = {
            "x": [i for i, node in enumerate(self.graph.nodes) if node.op == "x"],
            "every": [i for name in self.live[1] for i in carriers[name]],
            "own": [i for name in self.emitted for i in carriers[name]],
        }
        return Paths(self.graph, _costs_of, sources)

    @cached_property
    def ranges(self) -> Ranges:
        return Ranges(self.graph)

    # ---- counts --------------------------------------------------------------------------------

    def parts(self) -> dict[str, float]:
        """How many of each class the output can see."""
        graph, (nodes, states) = self.graph, self.live
        kinds = [self.kinds[i] for i in nodes]
        maps = [graph.nodes[i] for i in nodes if self.kinds[i] == "dense"]
        sources = [self.kinds[a] for node in maps for a in node.args]
        return {
            **{f"live_{kind}": float(kinds.count(kind)) for kind in CLASSES},
            "live_nodes": float(len(nodes)),
            "live_states": float(len(states)),
            "live_nonlinear": float(sum(kind in ("positive", "bounded", "bent") for kind in kinds)),
            "matrices": float(len(sources)),
            "matrices_of_x": float(sources.count("x")),
            "matrices_of_states": float(sources.count("state")),
            "widest_map": float(max((len(node.args) for node in maps), default=0)),
            "out_is_state": float(bool(self.emitted)),
        }

    def neighbours(self) -> dict[str, float]:
        """How often an operation of one class reads one of another; what stands at the output."""
        nodes = self.graph.nodes
        out = self.graph.out
        found = {f"{a}_of_{b}": 0.0 for a in CLASSES[:-2] for b in CLASSES}
        found |= {f"out_{a}": float(self.kinds[out] == a) for a in CLASSES}
        found |= {f"out_of_{a}": 0.0 for a in CLASSES}
        for i in self.live[0]:
            for arg in nodes[i].args:
                _count(found, f"{self.kinds[i]}_of_{self.kinds[arg]}")
        for arg in nodes[out].args:
            _count(found, f"out_of_{self.kinds[arg]}")
        return found

    # ---- ranges --------------------------------------------------------------------------------

    def bounds(self) -> dict[str, float]:
        """Bounded values, gates, and products that nothing bounds."""
        graph, (nodes, states) = self.graph, self.live
        ends = [(self.ranges[i].re.low, self.ranges[i].re.high) for i in range(len(graph.nodes))]
        finite = [math.isfinite(low) and math.isfinite(high) for low, high in ends]
        gates = [i for i in range(len(ends)) if ends[i][0] >= 0 and ends[i][1] <= 1]
        of_x = self.costs.reached("x")
        products = [
            graph.nodes[i] for i in nodes if self.kinds[i] == "product" and len(graph.nodes[i].args) > 1
        ]
        blends = [graph.nodes[i] for i in nodes if self.kinds[i] == "blend"]
        low, high = ends[graph.out]
        new = [self.following[name] for name in states]
        return {
            "out_finite": float(finite[graph.out]),
            "out_width": min(high - low, _WIDEST),
            "out_positive": float(low >= 0),
            "states_without_bounds": float(sum(not finite[i] for i in new)),
            "states_positive": float(sum(ends[i][0] >= 0 for i in new)),
            "products_bounded": float(sum(any(finite[a] for a in node.args) for node in products)),
            "products_free": float(sum(not any(finite[a] for a in node.args) for node in products)),
            "blends_gated": float(sum(node.args[0] in gates for node in blends)),
            "blends_free": float(sum(node.args[0] not in gates for node in blends)),
            "blends_of_x": float(sum(bool(of_x[node.args[0]]) for node in blends)),
            "blends_of_states": float(
                sum(any(self.kinds[a] == "state" for a in node.args[1:]) for node in blends)
            ),
        }

    # ---- time ----------------------------------------------------------------------------------

    def time(self) -> dict[str, float]:
        """Steps from x to the output, the lags at which it gets there, and loops."""
        names, out = list(self.following), self.graph.out
        from_x = self.costs.reached("x")
        readers = {name: [r for r in names if self.costs.reads([self.following[name]], r)] for name in names}
        seen_by_out = [r for r in names if self.costs.reads([out], r)]
        lags = {0} if from_x[out] else set()
        front = set(seen_by_out)
        for lag in range(1, LAGS):
            if any(from_x[self.following[name]] for name in front):
                lags.add(lag)
            front = {r for name in front for r in readers[name]}
        return {
            "x_delay": float(min(lags, default=_NEVER)),
            **{f"lag{lag}": float(lag in lags) for lag in range(LAGS)},
            "states_seen_by_out": float(len(seen_by_out)),
            "state_edges": float(sum(map(len, readers.values()))),
            "self_loops": float(sum(name in readers[name] for name in names)),
        }

    def paths(self) -> dict[str, float]:
        """Costs of paths from x, from any state and from the emitted one, to the output and to states."""
        costs, out, states = self.costs, self.graph.out, self.live[1]
        inner = [costs.from_source("x", i) for name in states if (i := self.following[name]) != out]
        own = [costs.from_state(name, self.following[name]) for name in states]
        ways = {
            "x_to_out": [costs.from_source("x", out)],
            "x_to_states": inner,
            "state_to_out": [costs.from_source("every", out)],
            "own_to_out": [costs.from_source("own", out)],
            "self": own,
        }
        best = {name: _best(found) for name, found in ways.items()}
        loops = costs.loops({name: [i] for name, i in self.following.items()})
        emitted = [place for place, name in enumerate(self.following) if name in self.emitted]
        cheapest = loops.min(axis=0, initial=math.inf), loops[emitted].min(axis=0, initial=math.inf)
        found: dict[str, float] = {}
        for place, cost_name in enumerate(COSTS):
            for end, name in enumerate(("min", "max")):
                for way, costs_of in best.items():
                    found[f"{way}_{cost_name}_{name}"] = _shown(costs_of[end][place])
            found[f"loop_{cost_name}"] = _shown(cheapest[0][place])
            found[f"own_loop_{cost_name}"] = _shown(cheapest[1][place])
        return found


@functools.cache
def _costs_of(name: str, operands: int) -> tuple[float, ...]:
    """What an operation adds to a path, for each of COSTS; a leaf nothing."""
    kind = _kind(name, operands)
    return tuple(float(name in OPS and (some is None or kind in some)) for some in COSTS.values())


def _count(found: dict[str, float], name: str) -> None:
    if name in found:
        found[name] += 1.0


def _best(ways: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """The least and the greatest of several costs."""
    none = np.full(len(COSTS), math.inf)
    least = np.min([none, *(least for least, _ in ways)], axis=0)
    return least, np.max([-none, *(greatest for _, greatest in ways)], axis=0)


def _shown(cost: float) -> float:
    return float(cost) if math.isfinite(cost) else NO_PATH
