"""What a searcher is: `ask` for a cell, `tell` what came of it. It knows nothing of Ray, torch or files.

A searcher's state is what it was told, in that order, and nothing else: a campaign that is carried on makes a new one,
begins it and tells it everything again. All randomness of `ask` comes from the generator passed in, which the campaign
derives from its seed and the number of the ask. So the same tells and the same generator give the same proposal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from grammar import Cell
from search_spaces import Variation

UNTRIED = ("infrastructure", "refused", "timeout", "oom")
"""Statuses of observations that say nothing about the loss of a cell."""
STOPPED = ("infrastructure", "timeout")
"""Of these, those that the machine is to blame for: they say nothing of what made the cell either."""
MARGIN = 0.15
"""A cell that is better than the trivial score by this share of it shows that there is something to select from."""


class SpaceLike(Protocol):
    """What searchers need of a search space; `search_spaces.Space` has it."""

    def sample(self, rng: np.random.Generator) -> Cell:
        """A cell of the space."""
        ...

    def vary(self, cell: Cell, rng: np.random.Generator, other: Cell | None = None) -> Variation:
        """A cell of the space that differs from `cell` in one place, or has a part of `other`, and how it was made."""
        ...


@dataclass(frozen=True)
class Proposal:
    """A cell to try, the operator that made it ("sample", "insert", ...) and the digests of what it was made from.

    `steps` is how far to train it, None for the recipe's `steps`; the learning rate follows the whole recipe's
    schedule all the same, so that less is the beginning of more. `continues` is the number of a trial of the same cell
    and recipe that was trained less far: its checkpoint is carried on, with the result of a training straight through.
    `recipe` holds changes to the task's recipe by field ("lr", "weight_decay", ...). With `supernet` it is no cell that
    is to be trained but a supernet over many (see `nas.supernet.train_trial`): `cell` stands for those of the sketch.

    A cell is a duplicate only of a trial with the same `recipe` that was trained exactly as far.
    """

    cell: Cell
    operator: str
    parents: tuple[str, ...] = ()
    steps: int | None = None
    continues: int | None = None
    recipe: Mapping[str, Any] | None = field(default=None, hash=False)
    supernet: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class Observation:
    """What came of a proposal.

    `cell` is the cell as proposed and `digest` that of its canonical form. `score` is the validation score, lower is
    better, or None if there is none; `status` is "ok" or the class of the failure ("invalid", "diverged", "hopeless",
    "oom", "timeout", "infrastructure"). `trial` is the number of the trial. A `duplicate` computes what an earlier
    trial computes and was not trained: score, status and trial are those of the earlier one. A cell that was refused
    for its warnings (`--lint strict`) or because it violates a constraint was not trained either: its status is
    "refused" and its trial None (the number of the trial if the constraint is on what is measured).

    `metrics` are those of `METRICS` that the campaign knows. `curve` holds (step, training loss), `steps` is how far
    it was trained (or was to be, if it failed), `recipe` what the proposal changed in the recipe. Of a `supernet` that
    was trained the status is "supernet", the score None, and `found` the cells that it gave, the best first, each with
    "cell", "digest" and the "score" that it has with the shared weights.
    """

    cell: Cell
    digest: str
    score: float | None
    status: str
    trial: int | None
    operator: str = "sample"
    parents: tuple[str, ...] = ()
    duplicate: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    curve: tuple[tuple[int, float], ...] = ()
    steps: int | None = None
    recipe: Mapping[str, Any] | None = field(default=None, hash=False)
    supernet: Mapping[str, Any] | None = field(default=None, hash=False)
    found: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)


class Searcher(ABC):
    """Proposes cells of a space. Options are the keyword arguments of `__init__`, after the space.

    A subclass defines `ask` and `tell`. The suite in tests/searcher_suite.py says what they must keep.
    """

    name: ClassVar[str] = ""
    needs: tuple[str, ...] = ()
    """Metrics that cost a measurement ("latency_us") and are to be in every observation."""
    objectives: tuple[str, ...] = ("loss",)
    """Those of `OBJECTIVES` that it minimises: what is shown of its runs is the Pareto front of them."""

    trivial_score: float | None = None
    """The score on this task of an answer that reads nothing, where a campaign knows it: it sets it before `begin`."""

    def __init__(self, space: SpaceLike) -> None:
        self.space = space
        self.recipe: Mapping[str, Any] = {}

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Learn the task's training recipe ("steps", "lr", ...), once, before the first `ask` or `tell`.

        Without a campaign around it, as in a replay of a table, a searcher may not be begun: `recipe` is then empty.
        """
        self.recipe = dict(recipe)

    def beats_trivial(self, score: float) -> bool:
        """Whether a score is better than the trivial one by MARGIN of it; also where that one is not known."""
        trivial = self.trivial_score
        return trivial is None or score < (1 - math.copysign(MARGIN, trivial)) * trivial

    @classmethod
    def settled(cls, space: SpaceLike, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with what files hold in place of the files' names: with these a run is carried on anywhere."""
        return dict(options)

    def planned(self) -> tuple[Mapping[str, Any], ...]:
        """The supernets (as in `Proposal`) that it means to train, one of each kind: checked before a search starts."""
        return ()

    @abstractmethod
    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The next cell to try, or None if there is nothing to propose until another trial ends, or ever.

        Changes nothing: what was asked and not yet told does not count.
        """

    def entered(self, proposal: Proposal, trial: int) -> None:  # noqa: B027 (most have no use for it)
        """Take note that a proposal has become a trial, which will be told of when it ends.

        For searchers that may not ask for the same thing twice meanwhile, or that want to know what is under way. It
        is part of what was told: a campaign that is carried on repeats it, in the same order.
        """

    @abstractmethod
    def tell(self, observation: Observation) -> None:
        """Take in what came of a proposal, whoever made it."""
