"""Motifs in evolution: what good cells have in common is named and used again (see search_spaces/motifs.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Protocol, runtime_checkable

import numpy as np

from grammar import Cell
from nas.errors import SearchError
from nas.searchers.base import Observation, SpaceLike
from search_spaces import Motif, NoCellError, Variation

KEPT = 12  # motifs to draw from


@runtime_checkable
class MotifSpace(Protocol):
    """What motifs need of a search space; `search_spaces.Space` has it."""

    def motifs(self, cell: Cell) -> frozenset[Motif]:
        """The parts of a cell that can be put into others."""
        ...

    def graft(self, cell: Cell, motif: Motif, rng: np.random.Generator) -> Variation:
        """The cell with a motif in it."""
        ...


class Motifs:
    """Mines the motifs of a population and puts them into cells."""

    def __init__(self, space: SpaceLike) -> None:
        """Raises SearchError for a space that has no motifs."""
        if not isinstance(space, MotifSpace):
            raise SearchError("motifs: the space has no motifs; leave the option out")
        self.space = space

    def mine(self, population: Collection[Observation]) -> dict[Motif, float]:
        """The KEPT motifs that tell the better half of a population from the worse one, each with its weight.

        A motif counts if it is in two cells or more of the better half and in fewer of the worse one. It weighs the
        difference times the operations that its name saves.
        """
        ranked = sorted(population, key=lambda member: (member.score, member.trial))
        half = (len(ranked) + 1) // 2
        good, bad = (
            Counter(m for member in part for m in self.space.motifs(member.cell))
            for part in (ranked[:half], ranked[half:])
        )
        weights = {m: float((n - bad[m]) * (m.size - 1)) for m, n in good.items() if n >= 2 and n > bad[m]}
        best = sorted(weights, key=lambda m: (-weights[m], m.order))[:KEPT]
        return {m: weights[m] for m in best}

    def insert(self, cell: Cell, population: Collection[Observation], rng: np.random.Generator) -> Variation:
        """The cell with a mined motif that it lacks. Raises NoCellError if there is none, or it does not fit."""
        own = self.space.motifs(cell)
        found = {m: w for m, w in self.mine(population).items() if m not in own}
        if not found:
            raise NoCellError("the population has no motif that the cell lacks")
        weights = np.array([*found.values()])
        at = rng.choice(len(weights), p=weights / weights.sum())
        return self.space.graft(cell, [*found][int(at)], rng)
