"""Smallest cuts against those of networkx."""

from __future__ import annotations

import networkx
from hypothesis import given
from hypothesis import strategies as st

from nas.ir.cutting import FOREVER, after_cut

NODES = 7
edges = st.lists(
    st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1), st.integers(0, 9)).filter(
        lambda edge: edge[0] != edge[1]
    ),
    max_size=20,
    unique_by=lambda edge: edge[:2],
)


@given(edges)
def test_as_small_as_can_be_and_nearest_to_the_sink(edges: list[tuple[int, int, int]]) -> None:
    graph: networkx.DiGraph[int] = networkx.DiGraph()
    graph.add_nodes_from(range(NODES))
    for a, b, capacity in edges:
        graph.add_edge(a, b, capacity=capacity)
    value, (before, behind) = networkx.minimum_cut(graph, 0, NODES - 1)
    found = after_cut(edges, 0, NODES - 1)
    assert sum(c for a, b, c in edges if a not in found and b in found) == value
    assert found == set(behind)
    assert not found & set(before)


def test_what_is_forever_is_not_cut() -> None:
    assert after_cut([(0, 1, FOREVER), (1, 2, 5), (2, 3, FOREVER), (1, 3, 1)], 0, 3) == {2, 3}
