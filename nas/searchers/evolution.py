"""Regularised evolution (Real et al. 2019, https://arxiv.org/abs/1802.01548): tournaments, and the oldest dies."""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from nas.errors import SearchError
from nas.searchers.base import STOPPED, Observation, Proposal, Searcher, SpaceLike
from nas.searchers.motifs import Motifs
from nas.searchers.operators import CHOICES, OperatorSpace, operator_choice
from nas.searchers.options import check_choice, check_share, check_whole
from nas.searchers.random_search import sample_new
from nas.searchers.seeding import Seeds, read_seeds
from search_spaces import NoCellError, Variation

CROSSOVER = "crossover"
MOTIF = "motif"
SEED = "seed"
SAMPLE = "sample"
ANY = "any"  # an operator of the space, whichever it draws


BEST = 0.25
"""The share of all cells until now that a new one has to be among for what made it to count as good."""
AUTO, LEARNED = "auto", "learned"


class Immigrants:
    """Whether the next cell is a sample or a child: Thompson sampling of how often either was among the best.

    Where the scores of a population tell nothing, as on a task that a cell learns whole or not at all, children are no
    better than samples, and nearer to what was tried. Where they tell something children win, after some samples more.
    No scale of scores, noise or trivial score has to be known: all goes by ranks.
    """

    def __init__(self) -> None:
        self._ranked: list[float] = []
        self._good = {True: 0, False: 0}  # by whether it was a sample
        self._all = {True: 0, False: 0}

    def learn(self, sampled: bool, score: float | None) -> None:
        """Take in what came of a new cell; None if it failed."""
        value = math.inf if score is None else score
        if self._ranked:
            among = score is not None and bisect_left(self._ranked, value) <= BEST * (len(self._ranked) - 1)
            self._good[sampled] += among
            self._all[sampled] += 1
        insort(self._ranked, value)

    def draw(self, rng: np.random.Generator) -> bool:
        """Whether to sample."""
        rates = {
            sampled: rng.beta(BEST + good, 1 - BEST + self._all[sampled] - good)
            for sampled, good in self._good.items()
        }
        return bool(rates[True] > rates[False])


class Evolution(Searcher):
    """A population of the last `population` cells with a score; each child enters, the oldest leaves.

    Until `samples` cells have a score, `seeds` are proposed (see `read_seeds`: "zoo", a file, a run folder, texts),
    then samples. From then on a child is the mutation of the winner of a tournament among `tournament` members drawn
    at random, with probability `crossover` the winner's crossover with the winner of a second tournament, or with
    probability `motifs` the winner with a part that is frequent among the better half of the population (see Motifs).
    A child that was tried before is dropped and another one made, `tries` times; then the space is sampled. Cells
    without a score do not enter.

    `fresh` is the share of samples among the cells after that: a number, or "learned", which makes it large for as
    long as children are no better than samples (see Immigrants), or "auto": learned for as long as no cell is better
    than the task's trivial score by 15 % of it, then 0, as it is where the trivial score is not known.

    `operators` is how the operator of the next child is chosen: "fixed" (these probabilities, and the space's own
    operators alike), "bandit" or "qlearning", which begin there and learn which operators give children better than
    their parents (see operators.py). A proposal's operator is that of the space ("insert", "rewire", ...); a crossover
    that gave nothing new is the mutation that the space made instead.

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
        fresh: float | str = AUTO,
        crossover: float = 0.2,
        motifs: float = 0.0,
        operators: str = "fixed",
        seeds: Seeds | None = None,
        tries: int = 50,
    ) -> None:
        super().__init__(space)
        check_whole("evolution", 2, population=population)
        check_whole("evolution", 1, samples=samples, tournament=tournament, tries=tries)
        check_share("evolution", crossover=crossover, motifs=motifs)
        if fresh not in (AUTO, LEARNED) and (isinstance(fresh, str | bool) or not 0 <= fresh <= 1):
            raise SearchError(f"evolution: fresh must be auto, learned or a probability, got {fresh!r}")
        check_choice("evolution", tuple(CHOICES), operators=operators)
        if samples > population:
            raise SearchError(f"evolution: samples must be at most population, got {samples} > {population}")
        if crossover + motifs > 1:
            raise SearchError(f"evolution: crossover + motifs must be at most 1, got {crossover + motifs}")
        self.samples = samples
        self.tournament = tournament
        self.tries = tries
        self.fresh = fresh
        self.seeds = read_seeds(seeds, space)
        self._adaptive = space if operators != "fixed" and isinstance(space, OperatorSpace) else None
        own = self._adaptive.operators if self._adaptive is not None else (ANY,)
        rest = (1.0 - crossover - motifs) / len(own)
        shares = dict.fromkeys(own, rest) | {CROSSOVER: crossover, MOTIF: motifs}
        self._choice = operator_choice(operators, shares)
        self._motifs = Motifs(space) if motifs else None
        self._immigrants = Immigrants()
        self._least = math.inf
        self._population: deque[Observation] = deque(maxlen=population)
        self._scores: dict[str, float | None] = {}
        self._told: set[str] = set()

    @classmethod
    def settled(cls, space: SpaceLike, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the texts of the seeds, wherever those were."""
        seeds = [cell.one_line for cell in read_seeds(options.get("seeds"), space)]
        return {**options, **({"seeds": seeds} if seeds else {})}

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A child of the population, or a seed or sample; None if there seems to be nothing that was not tried."""
        seed = next((cell for cell in self.seeds if cell.digest not in self._told), None)
        if seed is not None:
            return Proposal(seed, SEED)
        if len(self._population) >= self.samples:
            if self._samples_next(rng):
                found = sample_new(self.space, rng, self._told, self.tries)
                if found is not None:
                    return found
            for _ in range(self.tries):
                made = self._child(rng)
                if made is None:
                    break  # a space so small that a parent has no other child
                if made.cell.digest not in self._told:
                    return Proposal(made.cell, made.operator, tuple(p.digest for p in made.parents))
        return sample_new(self.space, rng, self._told, 4 * self.tries)

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Do not propose it again while it is trained."""
        self._told.add(proposal.cell.digest)

    def tell(self, observation: Observation) -> None:
        """Let the cell into the population if it has a score, and credit the operator that made it.

        A training that the machine stopped is no child: it says nothing of the operator.
        """
        self._told.add(observation.digest)
        if observation.status in STOPPED:
            return
        if observation.digest not in self._scores and not observation.duplicate:
            parents = [s for p in observation.parents[:1] if (s := self._scores.get(p)) is not None]
            if parents:
                better = observation.score is not None and observation.score < parents[0]
                self._choice.learn(observation.operator, float(better))
            if observation.operator != SEED:
                self._immigrants.learn(observation.operator == SAMPLE, observation.score)
        if observation.score is not None and not observation.duplicate:
            self._population.append(observation)
            self._least = min(self._least, observation.score)
        self._scores.setdefault(observation.digest, observation.score)

    def _samples_next(self, rng: np.random.Generator) -> bool:
        """Whether the next cell is a sample, whatever the population holds."""
        if not isinstance(self.fresh, str):
            return self.fresh > 0 and rng.random() < self.fresh
        if self.fresh == AUTO and self.beats_trivial(self._least):
            return False
        return self._immigrants.draw(rng)

    def _child(self, rng: np.random.Generator) -> Variation | None:
        """A child of a winner; None if it can have no other."""
        parent = self._select(rng).cell
        weights = self._choice.weights()
        point = rng.random() * sum(weights.values())
        other = parent
        with contextlib.suppress(NoCellError):
            if point < weights[CROSSOVER]:
                other = self._select(rng).cell
            elif self._motifs is not None and point < weights[CROSSOVER] + weights[MOTIF]:
                return self._motifs.insert(parent, self._population, rng)
        with contextlib.suppress(NoCellError):
            if other is not parent:
                return self.space.vary(parent, rng, other)
            if self._adaptive is None:
                return self.space.vary(parent, rng)
            return self._adaptive.vary(
                parent, rng, operator={n: weights[n] for n in self._adaptive.operators}
            )
        return None

    def _select(self, rng: np.random.Generator) -> Observation:
        size = min(self.tournament, len(self._population))
        drawn = rng.choice(len(self._population), size=size, replace=False)
        return min((self._population[int(i)] for i in drawn), key=lambda member: (member.score, member.trial))
