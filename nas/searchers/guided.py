"""Predictor-guided search: an ensemble that learns from every trial chooses among cells that evolution proposes."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grammar import zoo as _zoo
from nas.errors import SearchError
from nas.searchers.base import UNTRIED, Observation, Proposal, Searcher, SpaceLike
from nas.searchers.encodings import GROUPS, encodings, untrained_score
from nas.searchers.options import check_choice, check_number, check_share, check_switch, check_whole
from nas.searchers.random_search import sample_new
from nas.searchers.recipes import RecipeSearch, check_fields
from predictors import Predictor, PredictorError, fit_rows, shipped
from search_spaces import NoCellError

Floats = NDArray[np.float64]

ACQUISITIONS = ("ucb", "ei", "thompson")
FADING = 20  # trials after which the untrained score has half of its weight
RECIPES = 8  # that candidates are given
LEAST = 8  # cells that a predictor can be fitted to


class Guided(Searcher):
    """Of `candidates` new cells the one that a predictor of the trials until now finds most promising.

    The first `samples` trials are the members of the zoo that the space claims (`zoo`), then samples, each the best of
    `cold` by what is free: `untrained_score`. Afterwards a predictor learns from the trials (`predictors.fit_rows`:
    trees and a Gaussian process on `features` of the cell; one that failed counts as worse than all others); it is
    fitted anew after `every` trials or when there are a tenth more. To what it says the untrained score is added
    with weight `prior`, which fades as trials come in: half at 20. Candidates are, in `rounds`, the children of the
    best cells, tried ones and candidates of the round before, and samples: `fresh` is their share.

    `acquisition` weighs promise against doubt, on the scale of ranks: "ucb" is the mean less `kappa` times the
    spread of the ensemble (Srinivas et al. 2010): children that look like the best cell are sure to be no better, so
    that with little `kappa` a search of children stands still. "ei" is the expected improvement on the best trial
    (Mockus 1978), "thompson" a draw from mean and spread. The scheme is that of BANANAS (White et al. 2021,
    https://arxiv.org/abs/1910.11858).

    With `transfer` ("text") it begins with what the predictor of that task says that comes with recell: in place of the
    untrained score, and as what trials correct (`fit_rows(prior=)`). It needs all features.

    With `recipe` ("lr,weight_decay", see `nas.searchers.recipes`) it searches cell and training recipe together, as
    FBNetV3 does (Dai et al. 2021): candidates get recipes of Optuna's TPE, tried cells others than theirs, and the
    predictor sees both. A searcher that no campaign has begun knows no recipe, and searches cells alone.
    """

    name = "guided"

    def __init__(
        self,
        space: SpaceLike,
        *,
        samples: int = 8,
        zoo: bool = True,
        cold: int = 8,
        prior: float = 1.0,
        candidates: int = 50,
        rounds: int = 2,
        fresh: float = 0.25,
        elite: int = 15,
        acquisition: str = "ucb",
        kappa: float = 2.0,
        every: int = 1,
        features: str | Sequence[str] = GROUPS,
        recipe: str | Sequence[str] = (),
        transfer: str = "",
        tries: int = 200,
    ) -> None:
        super().__init__(space)
        check_whole("guided", 1, samples=samples, cold=cold, candidates=candidates, rounds=rounds)
        check_whole("guided", 1, elite=elite, every=every, tries=tries)
        check_share("guided", fresh=fresh)
        check_number("guided", kappa=kappa, prior=prior)
        check_switch("guided", zoo=zoo)
        check_choice("guided", ACQUISITIONS, acquisition=acquisition)
        self.samples, self.candidates, self.rounds = samples, candidates, rounds
        self.elite, self.every, self.tries = elite, every, tries
        self.fresh, self.acquisition, self.kappa, self.prior = fresh, acquisition, kappa, prior
        self.encode = encodings(_words(features))
        self.base = _shipped(transfer, self.encode.groups) if transfer else None
        self.cold = cold if "probes" in self.encode.groups else 1  # the untrained score needs them
        self.fields = _words(recipe)
        check_fields(self.fields)
        self.recipes: RecipeSearch | None = None
        self.known = tuple(_zoo(name) for name in getattr(space, "claims", ())) if zoo else ()
        self._told: set[str] = set()
        self._learnt: dict[tuple[str, str], Observation] = {}
        self._fitted: tuple[int, Predictor | None] = (0, None)

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Learn the task's recipe. Raises SearchError for fields to search that it does not have."""
        super().begin(recipe)
        self.recipes = RecipeSearch(self.fields, recipe) if self.fields else None

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The best of new candidates; None if the space seems to hold nothing that was not tried."""
        predictor = self._predictor()
        if predictor is None:
            made = self._start(rng)
            return made if made is None else self._with_recipes([made], 1, rng)[0]
        pool = self._candidates(predictor, rng)
        if self.recipes is not None:
            again = [Proposal(trial.cell, "recipe", (trial.digest,)) for trial in self._best()]
            pool = self._with_recipes([*pool, *again], RECIPES, rng)
        if not pool:
            return sample_new(self.space, rng, self._told, self.tries)
        return pool[self._order(predictor, pool, rng)[0]]

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Do not propose the cell as a new one while it is trained."""
        self._told.add(proposal.cell.digest)

    def tell(self, observation: Observation) -> None:
        """Learn from a trial: its score, or that it failed."""
        if observation.status not in UNTRIED:
            self._learnt.setdefault((observation.digest, _key(observation.recipe)), observation)
        self._told.add(observation.digest)

    # -- learning -----------------------------------------------------------------------------------

    def _predictor(self) -> Predictor | None:
        """Fitted to the trials until the last at which it is due; None while there are too few, or all alike."""
        count = max(self.samples, LEAST)
        if len(self._learnt) < count:
            return None
        while (due := count + max(self.every, count // 10)) <= len(self._learnt):
            count = due
        if self._fitted[0] != count:
            self._fitted = (count, self._fit([*self._learnt.values()][:count]))
        return self._fitted[1]

    def _fit(self, trials: Sequence[Observation]) -> Predictor | None:
        scores = losses(trials)
        if np.ptp(scores) == 0:  # all failed, or all are alike
            return None
        rows, extras = self.encode([t.cell for t in trials]), self._extras([t.recipe for t in trials])
        return fit_rows(rows, scores, extras=extras, prior=self.base, seed=len(trials), check=False)

    def _extras(self, recipes: Sequence[Mapping[str, Any] | None]) -> Floats | None:
        return None if self.recipes is None else self.recipes.columns(recipes)

    def _order(self, predictor: Predictor, pool: Sequence[Proposal], rng: np.random.Generator) -> list[int]:
        """The places of candidates from the most promising on."""
        rows = self.encode([made.cell for made in pool])
        said = predictor.predict_rows(rows, self._extras([made.recipe for made in pool]))
        rank = said.rank
        if self.base is None:  # what another task knows is in the predictor already
            free, weight = untrained_score(rows), self.prior * FADING / (len(self._learnt) + FADING)
            rank = rank + weight * (free - free.mean()) / max(float(free.std()), 1e-9)
        if self.acquisition == "ucb":
            value = rank - self.kappa * said.spread
        elif self.acquisition == "ei":
            best = NormalDist().inv_cdf(0.5 / len(self._learnt))  # the normal score of the best trial
            value = -expected_improvement(best - rank, said.spread)
        else:
            value = rank + said.spread * rng.standard_normal(len(rank))
        return [int(i) for i in np.argsort(value, kind="stable")]

    # -- candidates ---------------------------------------------------------------------------------

    def _best(self) -> list[Observation]:
        return sorted(self._learnt.values(), key=_by_score)[: self.elite]

    def _start(self, rng: np.random.Generator) -> Proposal | None:
        for cell in self.known:
            if cell.digest not in self._told:
                return Proposal(cell, "zoo")
        drawn = [sample_new(self.space, rng, self._told, self.tries) for _ in range(self.cold)]
        made = [proposal for proposal in drawn if proposal is not None]
        if len(made) < 2:
            return made[0] if made else None
        rows = self.encode([m.cell for m in made])
        free = untrained_score(rows) if self.base is None else self.base.predict_rows(rows).rank
        return made[int(np.argmin(free))]

    def _with_recipes(self, pool: list[Proposal], count: int, rng: np.random.Generator) -> list[Proposal]:
        """Each candidate with one of `count` recipes, drawn; all with the task's own where none is searched."""
        if self.recipes is None:
            return pool
        trials = [*self._learnt.values()]
        tried = [(t.recipe, score) for t, score in zip(trials, losses(trials), strict=True)]
        asked = self.recipes.propose(tried, count, rng)
        return [replace(made, recipe=asked[int(rng.integers(count))]) for made in pool]

    def _candidates(self, predictor: Predictor, rng: np.random.Generator) -> list[Proposal]:
        """New cells of different digests: children of the best, over several rounds, and samples."""
        found: dict[str, Proposal] = {}
        parents = tried = [Proposal(trial.cell, "", (trial.digest,)) for trial in self._best()]
        for number in range(self.rounds):
            self._fill(found, self.candidates * (number + 1) // self.rounds, parents, rng)
            if number + 1 < self.rounds and found:
                pool = list(found.values())
                order = self._order(predictor, pool, rng)[: self.elite // 2]
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


def _shipped(task: str, groups: Sequence[str]) -> Predictor:
    if tuple(groups) != GROUPS:
        raise SearchError(
            f"guided: transfer needs all features, {', '.join(GROUPS)}; received {', '.join(groups)}"
        )
    try:
        return shipped(task)
    except PredictorError as error:
        raise SearchError(f"guided: transfer={task}: {error}") from error


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


def _key(recipe: Mapping[str, Any] | None) -> str:
    return json.dumps(dict(recipe or {}), sort_keys=True)


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    """A list, or words with commas or + between them, as the command line has them."""
    if isinstance(given, str):
        return tuple(re.findall(r"\w+", given))
    if not isinstance(given, Sequence):
        raise SearchError(f"guided: features and recipe are names with commas between them, got {given!r}")
    return tuple(given)
