"""Smallest cuts of small graphs."""

from __future__ import annotations

from collections.abc import Iterable

FOREVER = 1 << 60  # the capacity of an edge that is never cut


def after_cut(edges: Iterable[tuple[int, int, int]], source: int, sink: int) -> set[int]:
    """The nodes behind the smallest cut that is nearest to the sink: those that still reach it.

    Edges are (from, to, capacity). Capacities are integers, so the answer is exact and does not depend on the way in
    which it is found: E. Dinic, "Algorithm for solution of a problem of maximum flow in networks", 1970.
    """
    heads: dict[int, list[int]] = {
        source: [],
        sink: [],
    }  # of each node its edges, the reverse of edge e is e ^ 1
    to: list[int] = []
    left: list[int] = []
    for a, b, capacity in edges:
        heads.setdefault(a, []).append(len(to))
        heads.setdefault(b, []).append(len(to) + 1)
        to += (b, a)
        left += (capacity, 0)
    while True:
        level = _levels(heads, to, left, source)
        if sink not in level:
            return _reaching(heads, to, left, sink)
        _block(heads, to, left, level, source, sink)


def _levels(heads: dict[int, list[int]], to: list[int], left: list[int], source: int) -> dict[int, int]:
    """How many edges with room lead to each node."""
    level, row = {source: 0}, [source]
    for a in row:
        for e in heads[a]:
            if left[e] and to[e] not in level:
                level[to[e]] = level[a] + 1
                row.append(to[e])
    return level


def _block(
    heads: dict[int, list[int]],
    to: list[int],
    left: list[int],
    level: dict[int, int],
    source: int,
    sink: int,
) -> None:
    """Fill shortest ways until each has a full edge."""
    todo = {a: list(own) for a, own in heads.items()}
    path: list[int] = []
    here = source
    while True:
        if here == sink:
            least = min(left[e] for e in path)
            for e in path:
                left[e] -= least
                left[e ^ 1] += least
            full = next(n for n, e in enumerate(path) if not left[e])
            here = to[path[full] ^ 1]
            del path[full:]
        own = todo[here]
        while own and not (left[own[-1]] and level.get(to[own[-1]]) == level[here] + 1):
            own.pop()
        if own:
            path.append(own[-1])
            here = to[own[-1]]
        elif path:
            here = to[path.pop() ^ 1]
            todo[here].pop()
        else:
            return


def _reaching(heads: dict[int, list[int]], to: list[int], left: list[int], sink: int) -> set[int]:
    found, row = {sink}, [sink]
    for b in row:
        for e in heads[b]:
            if left[e ^ 1] and to[e] not in found:
                found.add(to[e])
                row.append(to[e])
    return found
