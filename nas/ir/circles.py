"""Circles in the flow of values: strongly connected components, without a graph object for every program."""

from __future__ import annotations

from collections.abc import Iterable


def circles_of(count: int, edges: Iterable[tuple[int, int]]) -> list[set[int]]:
    """The strongly connected components of nodes below `count` that have an edge inside.

    R. Tarjan, "Depth-first search and linear graph algorithms", 1972, without recursion.
    """
    after: list[list[int]] = [[] for _ in range(count)]
    found: list[set[int]] = []
    loops = set[int]()
    for a, b in edges:
        after[a].append(b)
        if a == b:
            loops.add(a)
    number, least = (
        [0] * count,
        [0] * count,
    )  # in the order of visits, from 1; the least that a node leads back to
    done = [False] * count
    visited, open_ = 0, list[int]()
    for root in range(count):
        if number[root]:
            continue
        visited += 1
        number[root] = least[root] = visited
        open_.append(root)
        path = [(root, iter(after[root]))]
        while path:
            k, rest = path[-1]
            for b in rest:
                if not number[b]:
                    visited += 1
                    number[b] = least[b] = visited
                    open_.append(b)
                    path.append((b, iter(after[b])))
                    break
                if not done[b]:
                    least[k] = min(least[k], number[b])
            else:
                path.pop()
                if path:
                    least[path[-1][0]] = min(least[path[-1][0]], least[k])
                if least[k] == number[k]:
                    members = set[int]()
                    while k not in members:
                        member = open_.pop()
                        done[member] = True
                        members.add(member)
                    if len(members) > 1 or k in loops:
                        found.append(members)
    return found


def reached(count: int, edges: Iterable[tuple[int, int]], start: set[int]) -> set[int]:
    """These nodes below `count` and all that edges from them lead to."""
    after: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        after[a].append(b)
    found, todo = set(start), list(start)
    while todo:
        for k in after[todo.pop()]:
            if k not in found:
                found.add(k)
                todo.append(k)
    return found
