"""The known cells nearest to a cell, and what differs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from grammar import Cell
from predictors.encoding import encode

_GROUPS = ("statistics", "flow")
_LEAST_SPREAD = 0.25  # of a column, so that what few cells have does not outweigh all else


@dataclass(frozen=True)
class Neighbour:
    """A known cell: `distance` is 0 for the same function, about 1 for two cells of the pool taken at random.

    `difference` are lines of canonical text: `-` only the known cell has, `+` only the query.
    """

    name: str
    cell: Cell
    distance: float
    difference: tuple[str, ...]


def similar(cell: Cell, known: Mapping[str, Cell], count: int = 5) -> list[Neighbour]:
    """The `count` nearest of `known` cells, nearest first; ties in the order of their names.

    Near means alike in what the graph counts and in what flows through it (see `encode`), in equal parts.
    """
    names = sorted(known)
    if not names:
        return []
    square = np.zeros(len(names))
    for group in _GROUPS:
        rows = encode([cell, *(known[name] for name in names)], [group])
        gap = (rows[1:] - rows[0]) / np.maximum(rows[1:].std(axis=0), _LEAST_SPREAD)
        square += (np.clip(gap, -4, 4) ** 2).mean(axis=1) / len(_GROUPS)
    digest = cell.digest
    distance = np.where([known[name].digest == digest for name in names], 0.0, np.sqrt(square / 2))
    nearest = sorted(range(len(names)), key=lambda i: (distance[i], names[i]))[:count]
    return [
        Neighbour(names[i], known[names[i]], float(distance[i]), difference(known[names[i]], cell))
        for i in nearest
    ]


def difference(old: Cell, new: Cell) -> tuple[str, ...]:
    """The lines by which two canonical texts differ; empty for the same function."""
    lines = difflib.ndiff(str(old.canonical()).splitlines(), str(new.canonical()).splitlines())
    return tuple(line for line in lines if line[:1] in "+-")
