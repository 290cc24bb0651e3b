"""Where supernets come from: all cells of a sketch at once, or a good cell of the search and its mutations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np

from grammar import Cell, Sketch
from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal
from nas.searchers.random_search import sample_new
from nas.searchers.seeding import Seeds, read_seeds
from search_spaces import GrammarSpace, Relaxed, SpaceError, unroll

DRY = 2
"""Supernets that gave nothing new, with none between them that did, after which the space is sampled."""
FAILED = 3
"""Supernets that failed, likewise, after which the space is sampled too."""
TRIES = 200

Source = tuple[Sketch, Cell, tuple[str, ...]]
"""Of a supernet: its sketch, the cell that stands for it in the record, the digests of what it was made from."""


class Sources(ABC):
    """The sketches that supernets are trained of, one after the other."""

    def __init__(self) -> None:
        self._dry = self._failed = 0

    @abstractmethod
    def before(self, rng: np.random.Generator, known: set[str], learned: bool) -> Proposal | None:
        """A cell to train before the next supernet, None where there is none; `learned`: some cell knows the task."""

    @abstractmethod
    def next(self, rng: np.random.Generator) -> Source | None:
        """What the next supernet is of; None where the space is to be sampled in its place."""

    @abstractmethod
    def planned(self) -> tuple[Sketch, ...]:
        """Sketches as they will be."""

    def entered(self, proposal: Proposal) -> None:  # noqa: B027 (a source may have no use for it)
        """Take note of a supernet under way."""

    def cell(self, observation: Observation) -> None:  # noqa: B027 (likewise)
        """Take in what came of a cell."""

    def supernet(self, new: int | None) -> None:
        """Take in how many new cells a supernet gave, None if it failed."""
        if new:
            self._dry = self._failed = 0
        elif new is None:
            self._failed += 1
        else:
            self._dry += 1

    @property
    def barren(self) -> bool:
        """Whether supernets gave nothing for so long that the space is to be sampled."""
        return self._dry >= DRY or self._failed >= FAILED


class Whole(Sources):
    """The sketches of a space in turn, or those that its rules unroll to. If they give nothing it is sampled."""

    def __init__(self, sketches: Sequence[Sketch], lift: bool) -> None:
        super().__init__()
        self.sketches = tuple(sketches)
        try:
            mixtures = [Relaxed(sketch, lift) for sketch in self.sketches]
        except SpaceError as error:
            raise SearchError(f"oneshot: {error}") from None
        # It stands for all the cells of the sketch: the record shows it, and the width is matched to it.
        self._typical = [m.derived(m.template.complete({}, np.random.default_rng(0))) for m in mixtures]
        self._entered = 0

    @classmethod
    def of(cls, space: object, depth: int, lift: bool) -> Whole:
        """Those of a space, whatever it is. Raises SearchError where it has none."""
        given = getattr(space, "sketches", None)
        if given is not None:
            return cls(given, lift)
        if isinstance(space, GrammarSpace):
            try:
                return cls(unroll(space, depth), lift)
            except SpaceError as error:
                raise SearchError(f"oneshot: {error}") from None
        raise SearchError(f"oneshot needs a space of sketches or of rules; got {type(space).__name__}")

    def before(self, rng: np.random.Generator, known: set[str], learned: bool) -> Proposal | None:
        """Nothing."""
        return None

    def next(self, rng: np.random.Generator) -> Source | None:
        """The next sketch, until supernets failed or gave nothing new."""
        if self.barren:
            return None
        which = self._entered % len(self.sketches)
        return self.sketches[which], self._typical[which], ()

    def planned(self) -> tuple[Sketch, ...]:
        """All of them."""
        return self.sketches

    def entered(self, proposal: Proposal) -> None:
        """Go on to the next."""
        self._entered += 1


class Best(Sources):
    """The neighbourhoods of the best cells so far, by their own training.

    Until `samples` cells have a score and one of them has learned the task, the cells of `seeds` are proposed and then
    samples: neighbours of a cell that scores as all others do are no better than samples. A supernet is around one of
    the `centres` best: of those the one that the fewest supernets were around, the better one of two alike; so a new
    best cell is taken at once, and one of which the neighbours are no better gives way. Where supernets fail or give
    nothing new, `samples` more cells have to have a score before the next one.
    """

    def __init__(
        self, space: GrammarSpace, samples: int, seeds: Seeds | None, centres: int, changes: int, share: float
    ) -> None:
        if space.rules.trees:
            raise SearchError(
                f"oneshot: space {space.name} is over trees: only cells over time have neighbourhoods in sketches"
            )
        super().__init__()
        self.space, self.samples, self.centres = space, samples, centres
        self.changes, self.share = changes, share
        self.seeds = read_seeds(seeds, space)
        self._scores: dict[str, tuple[float, str, Cell]] = {}
        self._used: Counter[str] = Counter()
        self._wanted = samples

    def before(self, rng: np.random.Generator, known: set[str], learned: bool) -> Proposal | None:
        """A seed; a sample, until there are enough scores and a good one."""
        for cell in self.seeds:
            if cell.digest not in known:
                return Proposal(cell, "seed")
        enough = learned and len(self._scores) >= self._wanted
        return None if enough else sample_new(self.space, rng, known, TRIES)

    def next(self, rng: np.random.Generator) -> Source | None:
        """The neighbourhood of a good cell; None where there is none, or none with neighbours."""
        if len(self._scores) < self._wanted:
            return None
        best = sorted(self._scores.values(), key=lambda one: one[:2])[: self.centres]
        for _, digest, cell in sorted(best, key=lambda one: (self._used[one[1]], one[:2])):
            try:
                return self.space.neighbourhood(cell, rng, self.changes, self.share), cell, (digest,)
            except SpaceError:  # it has no neighbours: the next best may have
                continue
        return None

    def planned(self) -> tuple[Sketch, ...]:
        """That of a cell which may be the first, as its size is typical."""
        rng = np.random.default_rng(0)
        for _ in range(TRIES):
            cell = self.seeds[0] if self.seeds else self.space.sample(rng)
            try:
                return (self.space.neighbourhood(cell, rng, self.changes, self.share),)
            except SpaceError:
                continue
        return ()

    def entered(self, proposal: Proposal) -> None:
        """Count what supernets are around."""
        self._used.update(proposal.parents[:1])

    def cell(self, observation: Observation) -> None:
        """Remember the score. What computes the same as an earlier cell is no other centre, and no other score."""
        if observation.score is not None and not observation.duplicate:
            known = (observation.score, observation.digest, observation.cell)
            self._scores.setdefault(observation.digest, known)

    def supernet(self, new: int | None) -> None:
        """Have the space sampled for a while after several that gave nothing."""
        super().supernet(new)
        if self.barren:
            self._wanted = len(self._scores) + self.samples
            self._dry = self._failed = 0
