"""A list of cells, tried one after the other: for comparisons, and for tables that predictors learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from grammar import Cell
from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.seeding import Seeds, read_seeds


class Listed(Searcher):
    """The cells of a list in its order, each class once, and then nothing more.

    `cells` is a file of cells (texts, or names as `zoo:lstm`), a run folder, or a list of texts. They need not be
    members of the space, which is not asked for anything.
    """

    name = "list"

    def __init__(self, space: SpaceLike, *, cells: Seeds | None = None) -> None:
        super().__init__(space)
        self._cells = _read(cells)
        self._told: set[str] = set()

    @classmethod
    def settled(cls, space: SpaceLike, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the texts of the cells, wherever those were."""
        return {**options, "cells": [cell.one_line for cell in _read(options.get("cells"))]}

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The first cell of the list that was not tried yet."""
        cell = next((cell for cell in self._cells if cell.digest not in self._told), None)
        return None if cell is None else Proposal(cell, "listed")

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Do not propose it again while it is trained."""
        self._told.add(proposal.cell.digest)

    def tell(self, observation: Observation) -> None:
        """Remember what was tried, refused or known."""
        self._told.update((observation.digest, observation.cell.digest))


def _read(cells: Seeds | None) -> tuple[Cell, ...]:
    if cells is None:
        raise SearchError("list: give the cells: -O cells=FILE, a run folder, or a list of texts")
    return read_seeds(cells, space=None, option="cells")
