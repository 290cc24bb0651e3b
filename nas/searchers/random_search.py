"""Random search: the baseline that every other searcher has to beat (Li & Talwalkar 2019)."""

from __future__ import annotations

import numpy as np

from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike


class RandomSearch(Searcher):
    """Independent samples of the space, without those already tried.

    After `tries` samples in a row that were all tried before, the space counts as exhausted.
    """

    name = "random"

    def __init__(self, space: SpaceLike, *, tries: int = 200) -> None:
        super().__init__(space)
        if tries < 1:
            raise SearchError(f"random: tries must be at least 1, got {tries}")
        self.tries = tries
        self._told: set[str] = set()

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A sample that was not tried yet, None if none was found."""
        return sample_new(self.space, rng, self._told, self.tries)

    def tell(self, observation: Observation) -> None:
        """Remember what was tried."""
        self._told.add(observation.digest)


def sample_new(space: SpaceLike, rng: np.random.Generator, told: set[str], tries: int) -> Proposal | None:
    """The first of at most `tries` samples whose digest is not in `told`."""
    for _ in range(tries):
        cell = space.sample(rng)
        if cell.digest not in told:
            return Proposal(cell, "sample")
    return None
