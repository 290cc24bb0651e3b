"""Costs of paths through one step of a cell, from several sets of leaves at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from grammar import Graph, Node

Floats = NDArray[np.float64]

# Leaves that carry a state: its previous value, a child's, and the running and final values inside `depth ... until`.
CARRIERS = frozenset({"state", "child", "carry", "final"})


def state_of(node: Node) -> str:
    """The state that a leaf of CARRIERS carries."""
    return str(node.attr("state" if node.op == "child" else "name"))


class Paths:
    """The least and greatest costs of paths within one step, by source and by kind of cost.

    `costs` gives for an operation or a leaf of so many operands what it adds to a path, by kind. A source is a set
    of leaves: those given as `sources`, and the carriers of each state, under its name.
    """

    def __init__(
        self,
        graph: Graph,
        costs: Callable[[str, int], Sequence[float]],
        sources: Mapping[str, Iterable[int]],
    ) -> None:
        self.carriers: dict[str, list[int]] = {s.name: [] for s in graph.states}
        for i, node in enumerate(graph.nodes):
            if node.op in CARRIERS:
                self.carriers[state_of(node)].append(i)
        starts = [*sources.values(), *self.carriers.values()]
        self._place = {name: i for i, name in enumerate(sources)}
        self._state = {name: i for i, name in enumerate(self.carriers, start=len(sources))}
        added = np.array([costs(node.op, len(node.args)) for node in graph.nodes], np.float64)
        self._least = _settled(graph, np.concatenate([added, -added], axis=1), starts)
        self._count = added.shape[1]

    def from_source(self, name: str, end: int) -> tuple[Floats, Floats]:
        """Least and greatest costs [kinds] of a path from a source to the node `end`: inf and -inf for none."""
        found = self._least[end, self._place[name]]
        return found[: self._count], -found[self._count :]

    def from_state(self, name: str, end: int) -> tuple[Floats, Floats]:
        """The same from the leaves of a state."""
        found = self._least[end, self._state[name]]
        return found[: self._count], -found[self._count :]

    def reached(self, source: str) -> NDArray[np.bool_]:
        """Which nodes a source reaches [nodes]."""
        return np.isfinite(self._least[:, self._place[source], 0])

    def reads(self, roots: Iterable[int], name: str) -> bool:
        """Whether one of `roots` sees the state `name`."""
        return bool(np.isfinite(self._least[list(roots), self._state[name], 0]).any())

    def loops(self, ends: Mapping[str, Iterable[int]]) -> Floats:
        """The least cost [states, kinds] of a way from each state back to itself over time; inf for none.

        `ends` are the nodes that give a state its values.
        """
        names = list(self.carriers)
        cost = np.full((len(names), len(names), self._count), np.inf)
        for j, name in enumerate(names):
            for root in ends[name]:
                into = self._least[root, [self._state[n] for n in names], : self._count]
                cost[:, j] = np.minimum(cost[:, j], into)
        for k in range(len(names)):  # Floyd and Warshall
            cost = np.minimum(cost, cost[:, k, None] + cost[None, k, :])
        own = np.arange(len(names))
        return np.asarray(cost[own, own])


def _settled(graph: Graph, costs: Floats, starts: Sequence[Iterable[int]]) -> Floats:
    """The least cost [nodes, starts, kinds] of a path from each set of leaves to each node."""
    found = np.full((len(graph.nodes), len(starts), costs.shape[1]), np.inf)
    for place, leaves in enumerate(starts):
        found[list(leaves), place] = 0.0
    for index, node in enumerate(graph.nodes):
        if len(node.args) == 1:
            found[index] = found[node.args[0]] + costs[index]
        elif len(node.args) == 2:
            np.minimum(found[node.args[0]], found[node.args[1]], out=found[index])
            found[index] += costs[index]
        elif node.args:
            found[index] = found[list(node.args)].min(axis=0) + costs[index]
    return found
