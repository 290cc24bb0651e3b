"""A search without training: a searcher asks, a table or a surrogate answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from grammar import Cell
from nas.errors import SearchError
from nas.searchers.base import Observation, Searcher
from nas.searchers.lab.pool import Pool

ASKS = 20  # for each trial of the budget: asks that were answered from the record cost nothing, but come to an end


@dataclass(frozen=True)
class Answer:
    """What stands for a training: the score that the searcher is told, None if it failed, and its mean over runs."""

    score: float | None
    mean: float | None


Answerer = Callable[[Cell, np.random.Generator], Answer]


@dataclass(frozen=True)
class Trace:
    """One search: what it was told of each new cell (`scores`), and the means behind that; None where one failed."""

    method: str
    seed: int
    scores: tuple[float | None, ...]
    means: tuple[float | None, ...]
    operators: tuple[str, ...] = ()

    def best(self, worst: float) -> list[float]:
        """After each trial the mean of the cell with the best score until then; `worst` while there is none."""
        found: list[float] = []
        least, held = math.inf, worst
        for score, mean in zip(self.scores, self.means, strict=True):
            if score is not None and mean is not None and score < least:
                least, held = score, mean
            found.append(held)
        return found

    def reached(self, level: float) -> int | None:
        """The number of the first trial of a cell whose mean is at most `level`."""
        for number, mean in enumerate(self.means, start=1):
            if mean is not None and mean <= level:
                return number
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        kept = {name: list(getattr(self, name)) for name in ("scores", "means", "operators")}
        return {"method": self.method, "seed": self.seed, **kept}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Trace:
        """Of what `to_dict` gave."""
        parts = (tuple(given[name]) for name in ("scores", "means", "operators"))
        return cls(str(given["method"]), int(given["seed"]), *parts)


def table_answers(pool: Pool) -> Answerer:
    """Answers with the scores of a pool, the same at every run."""

    def answer(cell: Cell, rng: np.random.Generator) -> Answer:
        score = float(pool.scores[pool.index[cell.digest]])
        known = score if math.isfinite(score) else None
        return Answer(known, known)

    return answer


def replay(method: str, searcher: Searcher, answer: Answerer, budget: int, seed: int) -> Trace:
    """Let a searcher try `budget` different cells, as a campaign with one worker does.

    A cell that it proposes again is answered from the record and costs nothing. Ends early where nothing is proposed.
    Raises SearchError for a searcher of several objectives, and where one asks for less than a whole training, or for
    that of a supernet.
    """
    if searcher.objectives != ("loss",):
        aims = ", ".join(searcher.objectives)
        raise SearchError(f"{method} minimises {aims}: tables and surrogates know the loss alone")
    known: dict[str, Observation] = {}
    scores: list[float | None] = []
    means: list[float | None] = []
    operators: list[str] = []
    for number in range(ASKS * budget):
        proposal = searcher.ask(np.random.default_rng([seed, number]))
        if proposal is None or len(scores) == budget:
            break
        if proposal.steps is not None:
            raise SearchError(
                f"{method} trains cells in several steps: tables and surrogates know whole trainings"
            )
        if proposal.supernet is not None:
            raise SearchError(f"{method} trains supernets: tables and surrogates know cells alone")
        digest = proposal.cell.digest
        earlier = known.get(digest)
        if earlier is None:
            given = answer(proposal.cell, np.random.default_rng([seed, number, 1]))
            scores.append(given.score)
            means.append(given.mean)
            operators.append(proposal.operator)
            status = "diverged" if given.score is None else "ok"
            observation = Observation(
                proposal.cell, digest, given.score, status, len(scores), proposal.operator, proposal.parents
            )
            known[digest] = observation
            searcher.entered(proposal, len(scores))
        else:
            observation = Observation(
                proposal.cell,
                digest,
                earlier.score,
                earlier.status,
                earlier.trial,
                proposal.operator,
                proposal.parents,
                duplicate=True,
            )
        searcher.tell(observation)
        if len(scores) == budget:
            break
    return Trace(method, seed, tuple(scores), tuple(means), tuple(operators))
