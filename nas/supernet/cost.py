"""What a cell of a sketch costs, and what is expected under a distribution over its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grammar import OPS, Graph, Sizes, analyse
from nas.supernet.model import Picks
from search_spaces import Relaxed

_MOVING = ("x", "state", "child", "carry", "final", "posemb")


@dataclass(frozen=True)
class _Step:
    """How probable it is that a node is reached: the sum over its users, each times a gate if one stands between."""

    node: int
    users: tuple[tuple[int, tuple[int, int] | None], ...]


class Cost:
    """The cost "params" or "flops" (per step and sample) of the cells of a sketch, the cell alone, at these sizes.

    `of(picks)` is that of one cell, exactly. `expected(probabilities)` is a polynomial in the probabilities of the
    options, as in RC-DARTS: the sum over operations of their cost times the probability that they are part of the cell.
    For what several equations use that probability is bounded by the sum over the uses, at most 1; so the true
    expectation is never above `expected`, and equal to it where each operation has one use or is always there.
    """

    def __init__(self, relaxed: Relaxed, sizes: Sizes, kind: str) -> None:
        self.relaxed, self.sizes, self.kind = relaxed, sizes, kind
        self._known: dict[tuple[tuple[int, int], ...], float] = {}
        graph = relaxed.plain.graph
        gated = _gated(graph, relaxed)
        self._steps = _steps(graph, gated)
        self._roots = set(graph.roots())
        self._prices = self._price(graph, gated)

    def of(self, picks: Picks) -> float:
        """The cost of the cell with these options."""
        key = tuple(sorted(picks.items()))
        if key not in self._known:
            facts = analyse(self.relaxed.derived(picks))
            self._known[key] = float(
                self.sizes.at(facts.parameters if self.kind == "params" else facts.flops)
            )
        return self._known[key]

    def expected(self, probabilities: Sequence[Tensor]) -> Tensor:
        """The expected cost [] under independent choices with these probabilities, differentiable."""
        one = torch.ones((), dtype=probabilities[0].dtype, device=probabilities[0].device)
        found: Tensor = self._total(probabilities, one, lambda value: value.clamp(max=1.0))
        return found

    def expectation(self, probabilities: Sequence[Tensor]) -> float:
        """The same as a number, without a gradient, much quicker."""
        numbers = [p.detach().double().tolist() for p in probabilities]
        return float(self._total(numbers, 1.0, lambda value: min(1.0, value)))

    def _total(self, probabilities: Sequence[Any], one: Any, capped: Callable[[Any], Any]) -> Any:
        reach: dict[int, Any] = {}
        for step in self._steps:
            parts = [
                reach[user] if gate is None else reach[user] * probabilities[gate[0]][gate[1]]
                for user, gate in step.users
                if reach[user] is not None
            ]
            if step.node in self._roots or any(part is one for part in parts):
                reach[step.node] = one  # the same object, so that what is certain costs nothing
            else:
                reach[step.node] = (parts[0] if len(parts) == 1 else capped(sum(parts))) if parts else None
        found = 0 * one
        for price, nodes in self._prices:
            parts = [reach[n] for n in nodes if reach[n] is not None]
            found = found + price * (one if any(p is one for p in parts) else capped(sum(parts, 0 * one)))
        return found

    def cheapest(self, start: Picks, choose: Callable[[Picks], dict[int, int]]) -> dict[int, int]:
        """Options of low cost: the best single change again and again, from `start`; `choose` completes picks."""
        best = dict(start)
        while True:
            changed = [
                choose({**best, hole: k})
                for hole, site in enumerate(self.relaxed.holes)
                for k in range(len(site.options))
                if hole in best and k != best[hole]
            ]
            better = min(changed, key=self.of, default=best)
            if self.of(better) >= self.of(best):
                return best
            best = better

    def _price(self, graph: Graph, gated: _Gated) -> list[tuple[float, tuple[int, ...]]]:
        """Prices, and the nodes of which one at least must be reached for it to be paid."""
        if self.kind == "params":
            nodes: dict[int, list[int]] = {}
            for index, node in enumerate(graph.nodes):
                if node.weight >= 0 and not graph.weights[node.weight].fixed:
                    nodes.setdefault(node.weight, []).append(index)
            prices = [
                (sum(self._size(spec) for spec in graph.weights[weight].specs), tuple(used))
                for weight, used in nodes.items()
            ]
            learned = [
                s.type.width * (2 if s.type.is_complex else 1) for s in graph.states if s.init == "learned"
            ]
            return prices + [(float(self.sizes.at(width)), (graph.out,)) for width in learned]
        moving: set[int] = set()
        prices = []
        for index, node in enumerate(graph.nodes):
            if node.op in _MOVING or any(a in moving for a in node.args):
                moving.add(index)
            if node.op in OPS and index in moving and index not in gated.own:
                types = [graph.nodes[a].type for a in node.args]
                price = self.sizes.at(OPS[node.op].cost(types, dict(node.attrs), node.type))
                times = graph.region.times if graph.region else 1
                prices.append((float(price * times), (index,)))
        return prices

    def _size(self, spec: object) -> float:
        size = 2.0 if spec.complex else 1.0  # type: ignore[attr-defined]
        for extent in spec.shape:  # type: ignore[attr-defined]
            size *= self.sizes.at(extent)
        return size


@dataclass(frozen=True)
class _Gated:
    """The nodes of a mixture that are its own: `times` are products with a gate, `own` these and the sums of them."""

    times: dict[int, tuple[int, int]]
    own: frozenset[int]


def _gated(graph: Graph, relaxed: Relaxed) -> _Gated:
    place = {name: (i, k) for i, hole in enumerate(relaxed.gates) for k, name in enumerate(hole)}
    times: dict[int, tuple[int, int]] = {}
    sums: dict[int, tuple[int, frozenset[int]]] = {}  # a sum of some options of a hole
    for index, node in enumerate(graph.nodes):
        first = graph.nodes[node.args[0]] if node.args else node
        if node.op == "mul" and first.op == "param" and (at := place.get(graph.weights[first.weight].site)):
            times[index] = at
            sums[index] = at[0], frozenset({at[1]})
        elif node.op == "add" and all(a in sums for a in node.args):
            (i, some), (j, others) = (sums[a] for a in node.args)
            if i == j and not some & others:
                sums[index] = i, some | others
    return _Gated(times, frozenset(sums))


def _steps(graph: Graph, gated: _Gated) -> list[_Step]:
    users: dict[int, list[tuple[int, tuple[int, int] | None]]] = {n: [] for n in range(len(graph.nodes))}
    for index, node in enumerate(graph.nodes):
        for arg in set(node.args):
            users[arg].append((index, gated.times.get(index)))
    return [_Step(n, tuple(users[n])) for n in reversed(range(len(graph.nodes)))]
