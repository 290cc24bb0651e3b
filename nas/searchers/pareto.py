"""Non-dominated sorting and crowding distance of NSGA-II (Deb et al. 2002). Lower is better in every objective."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates."""
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):  # who dominates comes first
        if not any(dominates(points[k], points[i]) for k in kept):
            kept.append(i)
    return sorted(kept)


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """Indices by rank: first those that no other dominates, then those that only these dominate, and so on."""
    dominated: list[list[int]] = [[] for _ in points]
    count = [0] * len(points)
    for i, a in enumerate(points):
        for j, b in enumerate(points):
            if dominates(a, b):
                dominated[i].append(j)
                count[j] += 1
    found: list[list[int]] = []
    front = [i for i, n in enumerate(count) if n == 0]
    while front:
        found.append(front)
        after = []
        for i in front:
            for j in dominated[i]:
                count[j] -= 1
                if count[j] == 0:
                    after.append(j)
        front = sorted(after)
    return found


def crowding(points: Sequence[Point]) -> list[float]:
    """How far apart each point's neighbours are, summed over the objectives; infinite for the ends of the front."""
    distance = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: (points[i][axis], i))
        low, high = points[order[0]][axis], points[order[-1]][axis]
        distance[order[0]] = distance[order[-1]] = math.inf
        if high > low:
            for before, i, after in zip(order, order[1:], order[2:], strict=False):
                distance[i] += (points[after][axis] - points[before][axis]) / (high - low)
    return distance
