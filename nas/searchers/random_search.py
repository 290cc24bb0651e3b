"""Random search: the baseline that every other searcher has to beat (Li & Talwalkar 2019)."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.options import check_choice, check_whole
from search_spaces import WAYS, Space


class RandomSearch(Searcher):
    """Independent samples of the space, without those already tried.

    by="weights": with the probabilities of the space's file. by="size": a size drawn uniformly, then one of its
    derivations drawn uniformly; so large cells come as often as small ones, and no production is preferred.

    After `tries` samples in a row that were all tried before, the space counts as exhausted.
    """

    name = "random"

    def __init__(self, space: SpaceLike, *, by: str = "weights", tries: int = 200) -> None:
        super().__init__(space)
        check_choice("random", WAYS, by=by)
        check_whole("random", 1, tries=tries)
        if by == "size" and not isinstance(space, Space):
            raise SearchError("random: by=size needs a space that counts its cells; leave the option out")
        self.by = by
        self.tries = tries
        self._told: set[str] = set()

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A sample that was not tried yet, None if none was found."""
        return sample_new(self.space, rng, self._told, self.tries, self.by)

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Do not propose it again while it is trained."""
        self._told.add(proposal.cell.digest)

    def tell(self, observation: Observation) -> None:
        """Remember what was tried."""
        self._told.add(observation.digest)


def sample_new(
    space: SpaceLike, rng: np.random.Generator, told: Container[str], tries: int, by: str = "weights"
) -> Proposal | None:
    """The first of at most `tries` samples whose digest is not in `told`."""
    for _ in range(tries):
        cell = space.sample(rng, by=by) if isinstance(space, Space) else space.sample(rng)
        if cell.digest not in told:
            return Proposal(cell, "sample")
    return None
