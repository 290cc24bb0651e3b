from __future__ import annotations

import networkx
import numpy as np
import pytest

from nas.ir.circles import circles_of, reached


def test_circles_are_those_of_networkx() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        count = int(rng.integers(1, 24))
        edges = [(int(a), int(b)) for a, b in rng.integers(0, count, (int(rng.integers(0, 40)), 2))]
        graph: networkx.DiGraph[int] = networkx.DiGraph(edges)
        components = networkx.strongly_connected_components(graph)
        wanted = [c for c in components if len(c) > 1 or any(graph.has_edge(k, k) for k in c)]
        assert sorted(map(sorted, circles_of(count, edges))) == sorted(map(sorted, wanted))


def test_a_long_chain_needs_no_recursion() -> None:
    edges = [(k, k + 1) for k in range(4999)]
    assert circles_of(5000, edges) == []
    assert circles_of(5000, [*edges, (4999, 0)]) == [set(range(5000))]


@pytest.mark.parametrize(("start", "found"), [({0}, {0, 1, 2}), ({3}, {3}), (set(), set())])
def test_reached_is_the_start_and_what_edges_lead_to(start: set[int], found: set[int]) -> None:
    assert reached(4, [(0, 1), (1, 2), (2, 0), (2, 1)], start) == found
