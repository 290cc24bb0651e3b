"""Asynchronous successive halving and Hyperband (Li et al. 2018 and 2020), over any proposer of cells.

Many cells are trained for few steps, the best of them for more, the best of those for more again. A promoted cell is
carried on from where it stood, not trained anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.options import check_whole
from nas.searchers.registry import make_searcher, settled_options

PROMOTE = "promote"
"""The operator of a proposal that carries a trial on."""
_PREFIX = "proposer."


@dataclass
class _Rung:
    """The trials that were trained to one number of steps: those that ended with a score, and those promoted."""

    steps: int
    ended: dict[int, Observation] = field(default_factory=dict)
    promoted: set[int] = field(default_factory=set)

    def best(self, eta: int) -> Observation | None:
        """The best trial of the best 1/eta that is not promoted yet; None without one."""
        order = sorted(self.ended.values(), key=lambda seen: (seen.score, seen.trial))
        for seen in order[: len(order) // eta]:
            if seen.trial not in self.promoted:
                return seen
        return None


class Halving(Searcher):
    """Asynchronous successive halving (ASHA, https://arxiv.org/abs/1810.05934), with promotion.

    Rungs are at 1, 1/`eta`, 1/`eta`^2, ... of the recipe's steps, `rungs` of them. Whenever a rung holds a trial among
    its best 1/`eta` that was not promoted yet, that one goes on to the next rung, the highest such rung first; else
    `proposer` is asked for a new cell for the lowest rung. The proposer is any searcher by name, its options are those
    here with the prefix `proposer.`; it is told what comes of its cells on the lowest rung, so that all scores that it
    compares are of as many steps.
    """

    name = "halving"

    def __init__(
        self,
        space: SpaceLike,
        *,
        proposer: str = "random",
        eta: int = 3,
        rungs: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(space)
        check_whole(self.name, 2, eta=eta)
        check_whole(self.name, 1, rungs=rungs)
        wrong = [option for option in options if not option.startswith(_PREFIX)]
        if wrong:
            raise SearchError(
                f"method {self.name} has no option {wrong[0]!r}; options are proposer, eta, rungs, and those of the "
                f"proposer as {_PREFIX}NAME"
            )
        self.proposer = self._make(proposer, space, options)
        self.needs = self.proposer.needs
        self.eta = eta
        self.rungs = rungs
        self._brackets: list[list[_Rung]] = []
        self._place: dict[int, tuple[int, int]] = {}

    @classmethod
    def settled(cls, space: SpaceLike, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with those of the proposer settled."""
        inner = {n.removeprefix(_PREFIX): v for n, v in options.items() if n.startswith(_PREFIX)}
        found = settled_options(options.get("proposer", "random"), space, inner)
        return {**options, **{f"{_PREFIX}{name}": value for name, value in found.items()}}

    def _make(self, proposer: str, space: SpaceLike, options: Mapping[str, Any]) -> Searcher:
        made = make_searcher(
            proposer, space, {name.removeprefix(_PREFIX): value for name, value in options.items()}
        )
        if isinstance(made, Halving) or made.objectives != ("loss",):
            raise SearchError(
                f"{self.name}: {proposer} cannot be the proposer: it must aim at the loss of whole cells"
            )
        return made

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Set up the rungs from the recipe's steps."""
        super().begin(recipe)
        self.proposer.begin(recipe)
        steps = [max(1, round(recipe["steps"] / self.eta**k)) for k in reversed(range(self.rungs))]
        ladder = sorted(set(steps))
        self._brackets = [[_Rung(n) for n in ladder[skip:]] for skip in self._skips(len(ladder))]

    def _skips(self, count: int) -> list[int]:
        """How many of the lowest rungs each bracket leaves out."""
        return [0]

    def planned(self) -> tuple[Mapping[str, Any], ...]:
        """Those of the proposer."""
        return self.proposer.planned()

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A promotion if there is one, else a new cell on the lowest rung of a bracket."""
        if not self._brackets:
            raise SearchError(
                f"{self.name} needs to know the recipe's steps before it is asked: begin it first"
            )
        for bracket in self._brackets:
            for low, high in reversed(list(pairwise(bracket))):
                seen = low.best(self.eta)
                if seen is not None:
                    how = (high.steps, seen.trial, seen.recipe)
                    return Proposal(seen.cell, PROMOTE, (seen.digest,), *how)
        made = self.proposer.ask(rng)
        if (
            made is None or made.supernet is not None
        ):  # a supernet is trained as it is: its cells climb the rungs
            return made
        rung = self._brackets[self._next_bracket()][0]
        return Proposal(made.cell, made.operator, made.parents, rung.steps, None, made.recipe)

    def _next_bracket(self) -> int:
        """The bracket of the next new cell."""
        return 0

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Note the place of a trial, and that what it carries on is promoted."""
        if proposal.supernet is not None:
            self.proposer.entered(proposal, trial)
            return
        if proposal.continues is not None:
            bracket, rung = self._place[proposal.continues]
            self._brackets[bracket][rung].promoted.add(proposal.continues)
            self._place[trial] = bracket, rung + 1
            return
        self._place[trial] = self._next_bracket(), 0
        self._count(self._place[trial][0])
        self.proposer.entered(proposal, trial)

    def _count(self, bracket: int) -> None:
        """A new cell has entered a bracket."""

    def tell(self, observation: Observation) -> None:
        """Put the trial on its rung; tell the proposer of those on the lowest, and of supernets."""
        if observation.supernet is not None:
            self.proposer.tell(observation)
            return
        if observation.duplicate:
            self._tell_duplicate(observation)
            return
        bracket, rung = self._place.get(-1 if observation.trial is None else observation.trial, (0, 0))
        if observation.score is not None and observation.trial is not None:
            self._brackets[bracket][rung].ended[observation.trial] = observation
        if rung == 0:
            self.proposer.tell(observation)

    def _tell_duplicate(self, seen: Observation) -> None:
        """A promotion that the record answers, since another bracket trained the cell as far, is a promotion too."""
        if seen.operator != PROMOTE:
            self.proposer.tell(seen)
            return
        for bracket in self._brackets:
            for low, high in pairwise(bracket):
                same = (seen.digest, seen.recipe)
                alike = {n for n, other in low.ended.items() if (other.digest, other.recipe) == same}
                if high.steps == seen.steps and alike:
                    low.promoted |= alike
                    if seen.score is not None and seen.trial is not None:
                        high.ended.setdefault(seen.trial, seen)


class Hyperband(Halving):
    """Asynchronous Hyperband: successive halving in several brackets, as a hedge against a first rung that misleads.

    The first bracket begins at the lowest rung, each other one rung higher, the last one trains every cell to the end.
    New cells are dealt to the brackets in the proportions of the paper (https://arxiv.org/abs/1603.06560), so that each
    bracket takes about as many steps. The proposer is told what comes of a cell on the first rung that it is on: scores
    of different steps, unlike in `halving`, so a proposer that learns (evolution) is better off there.
    """

    name = "hyperband"

    def __init__(self, space: SpaceLike, **options: Any) -> None:
        super().__init__(space, **options)
        self._entered: list[int] = []

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Set up the brackets."""
        super().begin(recipe)
        self._entered = [0] * len(self._brackets)

    def _skips(self, count: int) -> list[int]:
        return list(range(count))

    def _next_bracket(self) -> int:
        """The bracket that is furthest behind its share."""
        rungs = len(self._brackets)
        # Of a bracket with s halvings: ceil(rungs / (s + 1) * eta^s) cells, which costs each about as many steps.
        shares = [math.ceil(rungs / (s + 1) * self.eta**s) for s in reversed(range(rungs))]
        return min(range(rungs), key=lambda b: (self._entered[b] / shares[b], b))

    def _count(self, bracket: int) -> None:
        self._entered[bracket] += 1
