"""Regularised evolution (Real et al. 2019, https://arxiv.org/abs/1802.01548): tournaments, and the oldest dies."""

from __future__ import annotations

import contextlib
from collections import deque

import numpy as np

from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.random_search import sample_new
from search_spaces import NoCellError


class Evolution(Searcher):
    """A population of the last `population` cells with a score; each child enters, the oldest leaves.

    Until `samples` cells have a score, cells are sampled. From then on a child is the mutation of the winner of a
    tournament among `tournament` members drawn at random or, with probability `crossover`, the winner's crossover with
    the winner of a second tournament. A child that was tried before is dropped and another one made, `tries` times;
    then the space is sampled. Cells without a score do not enter. A proposal's operator is that of the space ("insert",
    "rewire", ...); a crossover that gave nothing new is the mutation that the space made instead.

    The paper has a population of 100 and tournaments of 25 for 20,000 trials; the defaults suit tens to hundreds.
    """

    name = "evolution"

    def __init__(
        self,
        space: SpaceLike,
        *,
        population: int = 30,
        samples: int = 8,
        tournament: int = 6,
        crossover: float = 0.2,
        tries: int = 50,
    ) -> None:
        super().__init__(space)
        _check_whole("population", population, 2)
        _check_whole("samples", samples, 1)
        _check_whole("tournament", tournament, 1)
        _check_whole("tries", tries, 1)
        if samples > population:
            raise SearchError(f"evolution: samples must be at most population, got {samples} > {population}")
        if isinstance(crossover, bool) or not 0 <= crossover <= 1:
            raise SearchError(f"evolution: crossover must be a probability, got {crossover!r}")
        self.samples = samples
        self.tournament = tournament
        self.crossover = crossover
        self.tries = tries
        self._population: deque[Observation] = deque(maxlen=population)
        self._told: set[str] = set()

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A child of the population, or a sample; None if the space seems to hold nothing that was not tried."""
        if len(self._population) >= self.samples:
            with contextlib.suppress(NoCellError):  # a space so small that a parent has no other child
                for _ in range(self.tries):
                    child = self._child(rng)
                    if child.cell.digest not in self._told:
                        return child
        return sample_new(self.space, rng, self._told, 4 * self.tries)

    def tell(self, observation: Observation) -> None:
        """Let the cell into the population if it has a score."""
        self._told.add(observation.digest)
        if observation.score is not None and not observation.duplicate:
            self._population.append(observation)

    def _child(self, rng: np.random.Generator) -> Proposal:
        parent = other = self._select(rng)
        if rng.random() < self.crossover:
            other = self._select(rng)
        made = self.space.vary(parent.cell, rng, None if other is parent else other.cell)
        return Proposal(made.cell, made.operator, tuple(p.digest for p in made.parents))

    def _select(self, rng: np.random.Generator) -> Observation:
        size = min(self.tournament, len(self._population))
        drawn = rng.choice(len(self._population), size=size, replace=False)
        return min((self._population[int(i)] for i in drawn), key=lambda member: (member.score, member.trial))


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SearchError(f"evolution: {name} must be a whole number of at least {least}, got {value!r}")
