"""What a searcher is: `ask` for a cell, `tell` what came of it. It knows nothing of Ray, torch or files.

A searcher's state is what it was told, in that order, and nothing else: a campaign that is carried on makes a new one
and tells it everything again. All randomness of `ask` comes from the generator passed in, which the campaign derives
from its seed and the number of the ask. So the same tells and the same generator give the same proposal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from grammar import Cell
from search_spaces import Variation


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
    """A cell to try, the operator that made it ("sample", "insert", ...) and the digests of what it was made from."""

    cell: Cell
    operator: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observation:
    """What came of a proposal.

    `cell` is the cell as proposed and `digest` that of its canonical form. `score` is the validation score, lower is
    better, or None if there is none; `status` is "ok" or the class of the failure ("invalid", "diverged", "hopeless",
    "oom", "timeout", "infrastructure"). `trial` is the number of the trial. A `duplicate` computes what an earlier
    trial computes and was not trained: score, status and trial are those of the earlier one. A cell that was refused
    for its warnings (`--lint strict`) was not trained either: its status is "refused" and its trial None.
    """

    cell: Cell
    digest: str
    score: float | None
    status: str
    trial: int | None
    operator: str = "sample"
    parents: tuple[str, ...] = ()
    duplicate: bool = False


class Searcher(ABC):
    """Proposes cells of a space. Options are the keyword arguments of `__init__`, after the space.

    A subclass defines `ask` and `tell`. The suite in tests/searcher_suite.py says what they must keep.
    """

    name: ClassVar[str] = ""

    def __init__(self, space: SpaceLike) -> None:
        self.space = space

    @abstractmethod
    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The next cell to try, or None if there is nothing to propose until another trial ends, or ever.

        Changes nothing: what was asked and not yet told does not count.
        """

    @abstractmethod
    def tell(self, observation: Observation) -> None:
        """Take in what came of a proposal, whoever made it."""
