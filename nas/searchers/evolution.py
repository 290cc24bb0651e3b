"""Regularised evolution (Real et al. 2019, https://arxiv.org/abs/1802.01548): tournaments, and the oldest dies."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from grammar import Cell
from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.motifs import Motifs
from nas.searchers.operators import CHOICES, OperatorSpace, operator_choice
from nas.searchers.options import check_choice, check_share, check_whole
from nas.searchers.random_search import sample_new
from nas.searchers.seeding import Seeds, read_seeds, untried
from search_spaces import NoCellError, Variation

CROSSOVER = "crossover"
MOTIF = "motif"
ANY = "any"  # an operator of the space, whichever it draws


class Evolution(Searcher):
    """A population of the last `population` cells with a score; each child enters, the oldest leaves.

    Until `samples` cells have a score, `seeds` are proposed (see `read_seeds`: "zoo", a file, a run folder, texts), then
    samples. From then on a child is the mutation of the winner of a tournament among `tournament` members drawn at
    random, with probability `crossover` the winner's crossover with the winner of a second tournament, or with
    probability `motifs` the winner with a part that is frequent among the better half of the population (see Motifs). A
    child that was tried before is dropped and another one made, `tries` times; then the space is sampled. Cells without
    a score do not enter.

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
        check_choice("evolution", tuple(CHOICES), operators=operators)
        if samples > population:
            raise SearchError(f"evolution: samples must be at most population, got {samples} > {population}")
        if crossover + motifs > 1:
            raise SearchError(f"evolution: crossover + motifs must be at most 1, got {crossover + motifs}")
        self.samples = samples
        self.tournament = tournament
        self.tries = tries
        self.seeds = read_seeds(seeds, space)
        own = space.operators if operators != "fixed" and isinstance(space, OperatorSpace) else ()
        rest = 1.0 - crossover - motifs
        shares = {name: rest / len(own) for name in own} or {ANY: rest}
        shares |= {CROSSOVER: crossover, MOTIF: motifs}
        self._choice = operator_choice(operators, {name: share for name, share in shares.items() if share})
        self._motifs = Motifs(space) if motifs else None
        self._population: deque[Observation] = deque(maxlen=population)
        self._scores: dict[str, float | None] = {}

    @classmethod
    def settled(cls, space: SpaceLike, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the texts of the seeds, wherever those were."""
        seeds = [cell.one_line for cell in read_seeds(options.get("seeds"), space)]
        return {**options, **({"seeds": seeds} if seeds else {})}

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A child of the population, or a seed or sample; None if there seems to be nothing that was not tried."""
        told = self._scores.keys()
        first = untried(self.seeds, told, rng)
        if first is not None:
            return first
        if len(self._population) >= self.samples:
            for _ in range(self.tries):
                made = self._child(rng)
                if made is None:
                    break  # a space so small that a parent has no other child
                if made.cell.digest not in told:
                    return Proposal(made.cell, made.operator, tuple(p.digest for p in made.parents))
        return sample_new(self.space, rng, told, 4 * self.tries)

    def tell(self, observation: Observation) -> None:
        """Let the cell into the population if it has a score, and credit the operator that made it."""
        if observation.digest not in self._scores and not observation.duplicate:
            parents = [s for p in observation.parents[:1] if (s := self._scores.get(p)) is not None]
            if parents:
                better = observation.score is not None and observation.score < parents[0]
                self._choice.learn(observation.operator, float(better))
        if observation.score is not None and not observation.duplicate:
            self._population.append(observation)
        self._scores.setdefault(observation.digest, observation.score)

    def _child(self, rng: np.random.Generator) -> Variation | None:
        """A child by the operator that is chosen; where it gives none for this parent, by any other."""
        parent = self._select(rng)
        among = list(self._choice.shares)
        while among:
            name = self._choice.choose(rng, among)
            try:
                return self._vary(parent.cell, name, rng)
            except NoCellError:
                among.remove(name)
        return None

    def _vary(self, cell: Cell, operator: str, rng: np.random.Generator) -> Variation:
        if operator == MOTIF:
            assert self._motifs is not None
            return self._motifs.insert(cell, self._population, rng)
        if operator == CROSSOVER:
            other = self._select(rng).cell
            return self.space.vary(cell, rng, None if other is cell else other)
        if operator == ANY or not isinstance(self.space, OperatorSpace):
            return self.space.vary(cell, rng)
        return self.space.vary(cell, rng, operator=operator)

    def _select(self, rng: np.random.Generator) -> Observation:
        size = min(self.tournament, len(self._population))
        drawn = rng.choice(len(self._population), size=size, replace=False)
        return min((self._population[int(i)] for i in drawn), key=lambda member: (member.score, member.trial))
