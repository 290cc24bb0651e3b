"""Predictor-guided search: an ensemble that learns from every trial chooses among cells that evolution proposes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from grammar import Cell, zoo
from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.encodings import GROUPS, encodings
from nas.searchers.random_search import sample_new
from predictors import Predictor, fit_rows
from search_spaces import NoCellError

Floats = NDArray[np.float64]

ACQUISITIONS = ("ucb", "ei", "thompson")
LEAST = 8  # cells that a predictor can be fitted to
UNTRIED = ("infrastructure", "refused", "timeout", "oom")  # failures that say nothing about the loss of a cell


class Guided(Searcher):
    """Of `candidates` new cells the one that a predictor of the trials until now finds most promising.

    The first `samples` trials are the members of the zoo that the space claims (`zoo`), then samples. Afterwards a
    predictor is fitted anew every `every` trials (`predictors.fit_rows`: trees and a Gaussian process on `features`
    of the cell; a cell that failed counts as worse than all others). Candidates are, in `rounds`, the children of the
    best cells, tried ones and candidates of the round before, and samples: `fresh` is their share.

    `acquisition` weighs promise against doubt, on the scale of ranks: "ucb" is the mean less `kappa` times the
    spread of the ensemble (Srinivas et al. 2010), "ei" the expected improvement on the best trial (Mockus 1978),
    "thompson" a draw from mean and spread. The scheme is that of BANANAS (White et al. 2021,
    https://arxiv.org/abs/1910.11858).
    """

    name = "guided"

    def __init__(
        self,
        space: SpaceLike,
        *,
        samples: int = 10,
        zoo: bool = True,
        candidates: int = 50,
        rounds: int = 2,
        fresh: float = 0.5,
        elite: int = 10,
        acquisition: str = "ucb",
        kappa: float = 0.5,
        every: int = 1,
        features: Sequence[str] = GROUPS,
        tries: int = 200,
    ) -> None:
        super().__init__(space)
        wholes = {"samples": (samples, 1), "candidates": (candidates, 2), "rounds": (rounds, 1)}
        for name, (value, least) in {**wholes, "elite": (elite, 1), "every": (every, 1), "tries": (tries, 1)}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SearchError(f"guided: {name} must be a whole number of at least {least}, got {value!r}")
        if acquisition not in ACQUISITIONS:
            raise SearchError(f"guided: acquisition must be one of {', '.join(ACQUISITIONS)}, got {acquisition!r}")
        if not 0 <= fresh <= 1:
            raise SearchError(f"guided: fresh must be a share from 0 to 1, got {fresh!r}")
        self.samples, self.candidates, self.rounds = samples, candidates, rounds
        self.fresh, self.elite, self.every, self.tries = fresh, elite, every, tries
        self.acquisition, self.kappa = acquisition, kappa
        self.encode = encodings(tuple([features] if isinstance(features, str) else features))
        self.known = _claims(space) if zoo else ()
        self._told: dict[str, Observation] = {}
        self._learnt: list[Observation] = []
        self._fitted: tuple[int, Predictor | None] = (0, None)

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The best of new candidates; None if the space seems to hold nothing that was not tried."""
        predictor = self._predictor()
        if predictor is None:
            return self._start(rng)
        pool = self._candidates(predictor, rng)
        if not pool:
            return sample_new(self.space, rng, set(self._told), self.tries)
        order = self._order(predictor, [made.cell for made in pool], rng)
        return pool[order[0]]

    def tell(self, observation: Observation) -> None:
        """Learn from a trial: its score, or that it failed."""
        if observation.digest not in self._told and observation.status not in UNTRIED:
            self._learnt.append(observation)
        self._told.setdefault(observation.digest, observation)

    # -- learning -----------------------------------------------------------------------------------

    def _predictor(self) -> Predictor | None:
        """Fitted to all trials until the last multiple of `every`; None while there are too few, or all alike."""
        count = len(self._learnt) - len(self._learnt) % self.every
        if count < max(self.samples, LEAST):
            return None
        if self._fitted[0] != count:
            self._fitted = (count, self._fit(self._learnt[:count]))
        return self._fitted[1]

    def _fit(self, trials: Sequence[Observation]) -> Predictor | None:
        scores = losses(trials)
        if np.ptp(scores) == 0:  # all failed, or all are alike
            return None
        return fit_rows(self.encode([t.cell for t in trials]), scores, seed=len(trials), check=False)

    def _order(self, predictor: Predictor, cells: Sequence[Cell], rng: np.random.Generator) -> list[int]:
        """The places of cells from the most promising on."""
        rank, spread = predictor.ranker(self.encode(cells))
        if self.acquisition == "ucb":
            value = rank - self.kappa * spread
        elif self.acquisition == "ei":
            best = NormalDist().inv_cdf(0.5 / max(len(self._learnt), 2))  # the normal score of the best trial
            value = -expected_improvement(best - rank, spread)
        else:
            value = rank + spread * rng.standard_normal(len(rank))
        return [int(i) for i in np.argsort(value, kind="stable")]

    # -- candidates ---------------------------------------------------------------------------------

    def _start(self, rng: np.random.Generator) -> Proposal | None:
        for cell in self.known:
            if cell.digest not in self._told:
                return Proposal(cell, "zoo")
        return sample_new(self.space, rng, set(self._told), self.tries)

    def _candidates(self, predictor: Predictor, rng: np.random.Generator) -> list[Proposal]:
        """New cells of different digests: children of the best, over several rounds, and samples."""
        found: dict[str, Proposal] = {}
        best = sorted(self._learnt, key=_by_score)[: self.elite]
        tried = [Proposal(trial.cell, "", (trial.digest,)) for trial in best]
        parents = tried
        for number in range(self.rounds):
            self._fill(found, self.candidates * (number + 1) // self.rounds, parents, rng)
            if number + 1 < self.rounds and found:
                pool = list(found.values())
                order = self._order(predictor, [made.cell for made in pool], rng)[: self.elite // 2]
                parents = [*(pool[i] for i in order if pool[i].parents), *tried]
        return list(found.values())

    def _fill(
        self, found: dict[str, Proposal], most: int, parents: Sequence[Proposal], rng: np.random.Generator
    ) -> None:
        """Make candidates until there are `most`, or until several in a row are nothing new."""
        failures = 0
        while len(found) < most and failures < 8:
            made = self._make(parents, rng)
            digest = made.cell.digest
            failures += 1
            if digest not in self._told and digest not in found:
                found[digest] = made
                failures = 0

    def _make(self, parents: Sequence[Proposal], rng: np.random.Generator) -> Proposal:
        """A child of one of `parents`, or a sample. It names the trials that it descends from."""
        if parents and rng.random() >= self.fresh:
            parent = parents[int(rng.integers(len(parents)))]
            with contextlib.suppress(NoCellError):  # a space so small that the parent has no other child
                made = self.space.vary(parent.cell, rng)
                return Proposal(made.cell, made.operator, parent.parents)
        return Proposal(self.space.sample(rng), "sample")


def expected_improvement(gain: Floats, spread: Floats) -> Floats:
    """How much a normal value of mean `gain` and standard deviation `spread` is above 0 on average."""
    normal = NormalDist()
    doubt = np.maximum(spread, 1e-9)
    z = gain / doubt
    below = np.array([normal.cdf(value) for value in z])
    density = np.array([normal.pdf(value) for value in z])
    return np.asarray(gain * below + doubt * density)


def losses(trials: Sequence[Observation]) -> Floats:
    """Scores of trials; that of one without a score is worse than any."""
    known = [t.score for t in trials if t.score is not None and math.isfinite(t.score)]
    worst = max(known, default=0.0) + 1.0
    return np.array([worst if t.score is None or not math.isfinite(t.score) else t.score for t in trials])


def _by_score(trial: Observation) -> tuple[float, str]:
    return (math.inf if trial.score is None else trial.score, trial.digest)


def _claims(space: SpaceLike) -> tuple[Cell, ...]:
    """The members of the zoo that a space names; spaces of other kinds name none."""
    return tuple(zoo(name) for name in getattr(space, "claims", ()))
