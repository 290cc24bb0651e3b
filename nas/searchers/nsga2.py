"""NSGA-II (Deb et al. 2002, https://doi.org/10.1109/4235.996017): evolution towards the whole Pareto front."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.metrics import MEASURED, OBJECTIVES
from nas.searchers.options import check_share, check_whole
from nas.searchers.pareto import crowding, fronts
from nas.searchers.random_search import sample_new
from search_spaces import NoCellError


@dataclass(frozen=True)
class _Member:
    """A cell with all its objectives; `rank` and `crowd` are those among the survivors."""

    seen: Observation
    point: tuple[float, ...]
    rank: int = 0
    crowd: float = 0.0


class NSGA2(Searcher):
    """Generations of `population` cells, of which the non-dominated and the least crowded survive.

    `objectives` are two or more of "loss", "params", "flops", "state_bytes", "gemm_depth" and "latency_us" (a comma
    between them in a text). The first generation is sampled. From then on a child is the mutation of the winner of a
    binary tournament by rank, then by crowding distance, or with probability `crossover` its crossover with the winner
    of another. Once as many children as the population holds have ended, the best of both become the parents, as in
    the paper; children that end later count in the next generation. A child that was tried before is dropped and
    another made, `tries` times; then the space is sampled.

    Cells without a score do not enter. Constraints are the campaign's: a cell that violates one is not trained, so that
    the paper's rule for them (what is feasible dominates what is not) holds.
    """

    name = "nsga2"

    def __init__(
        self,
        space: SpaceLike,
        *,
        objectives: str | Sequence[str] = "loss,flops",
        population: int = 20,
        crossover: float = 0.5,
        tries: int = 50,
    ) -> None:
        super().__init__(space)
        names = objectives.split(",") if isinstance(objectives, str) else objectives
        self.objectives = tuple(str(name).strip() for name in names)
        wrong = [name for name in self.objectives if name not in OBJECTIVES]
        if wrong:
            raise SearchError(f"nsga2: there is no objective {wrong[0]!r}; there are {', '.join(OBJECTIVES)}")
        if len(self.objectives) < 2 or len(set(self.objectives)) < len(self.objectives):
            raise SearchError(f"nsga2: two or more different objectives are needed, got {objectives!r}")
        check_whole("nsga2", 2, population=population)
        check_whole("nsga2", 1, tries=tries)
        check_share("nsga2", crossover=crossover)
        self.needs = tuple(name for name in self.objectives if name in MEASURED)
        self.population = population
        self.crossover = crossover
        self.tries = tries
        self._parents: list[_Member] = []
        self._children: list[_Member] = []
        self._told: set[str] = set()

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A child of the parents, or a sample; None if the space seems to hold nothing that was not tried."""
        if self._parents:
            with contextlib.suppress(NoCellError):  # a space so small that a parent has no other child
                for _ in range(self.tries):
                    child = self._child(rng)
                    if child.cell.digest not in self._told:
                        return child
        return sample_new(self.space, rng, self._told, 4 * self.tries)

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Do not propose it again while it is trained."""
        self._told.add(proposal.cell.digest)

    def tell(self, observation: Observation) -> None:
        """Let the cell in among the children if it has all objectives; a full generation is followed by selection."""
        self._told.add(observation.digest)
        point = self._point(observation)
        if point is None or observation.duplicate:
            return
        self._children.append(_Member(observation, point))
        if len(self._children) == self.population:
            self._parents = survivors([*self._parents, *self._children], self.population)
            self._children = []

    def _point(self, seen: Observation) -> tuple[float, ...] | None:
        if seen.score is None:
            return None
        values = [seen.score if name == "loss" else seen.metrics.get(name) for name in self.objectives]
        known = [float(value) for value in values if value is not None and math.isfinite(value)]
        return tuple(known) if len(known) == len(values) else None

    def _child(self, rng: np.random.Generator) -> Proposal:
        parent = other = self._select(rng)
        if rng.random() < self.crossover:
            other = self._select(rng)
        partner = None if other.seen.digest == parent.seen.digest else other.seen.cell
        made = self.space.vary(parent.seen.cell, rng, partner)
        return Proposal(made.cell, made.operator, tuple(p.digest for p in made.parents))

    def _select(self, rng: np.random.Generator) -> _Member:
        drawn = [self._parents[int(i)] for i in rng.integers(len(self._parents), size=2)]
        return min(drawn, key=lambda member: (member.rank, -member.crowd, member.seen.trial))


def survivors(members: Sequence[_Member], size: int) -> list[_Member]:
    """The best `size` by rank, those of the last rank that fits in part by crowding distance."""
    kept: list[_Member] = []
    for rank, front in enumerate(fronts([member.point for member in members])):
        crowds = crowding([members[i].point for i in front])
        ranked = [
            _Member(members[i].seen, members[i].point, rank, c) for i, c in zip(front, crowds, strict=True)
        ]
        kept += sorted(ranked, key=lambda member: (-member.crowd, member.seen.trial))
        if len(kept) >= size:
            break
    return kept[:size]
