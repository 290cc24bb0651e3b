"""How well novelty tells cells of another space from cells like those that were fitted."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from grammar import Cell
from predictors.encoding import encode
from predictors.evaluation import Bench
from predictors.metrics import auc
from predictors.novelty import fit_novelty
from search_spaces import Space, load_space

Floats = NDArray[np.float64]

FITTED, ASKED = 200, 200
_STRUCTURE = ("statistics", "flow")  # the columns that novelty compares
# Fitted on samples of the first (`PTB`: on NAS-Bench-NLP cells of the benchmark), asked with samples of the others.
PAIRS: Mapping[str, tuple[str, ...]] = {
    "PTB": ("gated", "diagonal", "mixed", "matrix", "darts_rnn", "depth", "tree"),
    "gated": ("diagonal", "mixed", "nasbench_nlp", "matrix", "darts_rnn"),
    "diagonal": ("gated", "mixed", "matrix", "nasbench_nlp"),
    "mixed": ("gated", "matrix", "diagonal", "nasbench_nlp"),
    "matrix": ("gated", "diagonal", "mixed"),
    "darts_rnn": ("gated", "nasbench_nlp"),
}


def strangers(bench: Bench, seed: int) -> Mapping[str, float]:
    """The AUC of novelty for cells of another space against held-out cells of the fitted one.

    Cells of the other space that the fitted space has too are left out: they are no strangers.
    """
    found: dict[str, float] = {}
    for fitted, others in PAIRS.items():
        rows, space = _fitted(bench, fitted)
        order = np.random.default_rng(seed).permutation(len(rows))
        novelty = fit_novelty(rows[order[:FITTED]], rows.shape[1])
        own = novelty(rows[order[FITTED : FITTED + ASKED]])
        for other in others:
            cells, asked = _sampled(other)
            foreign = [
                i for i in np.random.default_rng(seed).permutation(len(cells)) if cells[i] not in space
            ]
            said = novelty(asked[foreign[:ASKED]])
            strange = np.repeat([0.0, 1.0], [len(own), len(said)])
            found[f"novelty: {fitted} cells, asked with {other} (AUC)"] = auc(
                np.concatenate([own, said]), strange
            )
    return found


def _fitted(bench: Bench, name: str) -> tuple[Floats, Space]:
    if name != "PTB":
        return _sampled(name)[1], load_space(name)
    structure = encode([], _STRUCTURE).shape[1]
    return bench.rows[bench.where(bench.table.ptb), :structure], load_space("nasbench_nlp")


@functools.cache
def _sampled(name: str) -> tuple[tuple[Cell, ...], Floats]:
    """Distinct cells of a space, and the structure columns of their encoding."""
    rng, space = np.random.default_rng(7), load_space(name)
    found: dict[str, Cell] = {}
    while len(found) < FITTED + ASKED:
        cell = space.sample(rng)
        found.setdefault(cell.digest, cell)
    cells = tuple(found.values())
    return cells, encode(cells, _STRUCTURE)
