"""How good predictors of a table are on cells that they were not fitted to: cross validation over classes of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grammar import Cell
from predictors.encoding import encode
from predictors.errors import PredictorError
from predictors.fitting import LEAST_CELLS, classes_of, fit_rows
from predictors.given import cells_of, numbers, scores_of
from predictors.metrics import auc, coverage, kendall_tau, spearman

Floats = NDArray[np.float64]

FOLDS = 5
_BEST = 1 / 3


def validate(
    cells: Sequence[Cell], scores: ArrayLike, *, folds: int = FOLDS, repeats: int = 1
) -> dict[str, Any]:
    """`cross_validation` of cells and their scores: equal cells count once, so that no twin is on both sides.

    Raises PredictorError for fewer folds than 2, or too few cells for them.
    """
    given = cells_of(cells)
    kept, y, _ = classes_of(given, scores_of(scores, len(given)), None)
    least = folds + LEAST_CELLS * folds // max(folds - 1, 1)
    if folds < 2 or repeats < 1:
        raise PredictorError(f"there are at least 2 folds and 1 repeat; received {folds} and {repeats}")
    have = int(np.isfinite(y).sum())
    if have < least:
        raise PredictorError(
            f"{folds} folds need at least {least} different cells with finite scores; received {have}"
        )
    return cross_validation(encode(kept), y, repeats, folds)


def cross_validation(rows: ArrayLike, y: ArrayLike, repeats: int, folds: int = FOLDS) -> dict[str, Any]:
    """How good predictors are on cells that they were not fitted to: means over folds, sd of tau over repeats.

    `rows` of `encode` and scores `y`, one for each class of cells.
    """
    x = numbers(rows, "rows")
    y = scores_of(y, len(x), "rows")
    finite = np.isfinite(y)
    measured: dict[str, list[float]] = {}
    taus = []
    for seed in range(repeats):
        drawn = np.random.default_rng(seed).permutation(len(y)) % folds
        one: dict[str, list[float]] = {}
        for fold in range(folds):
            out, ok = drawn == fold, finite[drawn == fold]
            if ok.sum() < 2 or finite[~out].sum() < LEAST_CELLS:
                continue
            said = fit_rows(x[~out], y[~out], seed=seed).predict_rows(x[out])
            truth = y[out][ok]
            best = truth <= np.quantile(truth, _BEST)
            for name, value in (
                ("kendall_tau", kendall_tau(said.rank[ok], truth)),
                ("spearman", spearman(said.rank[ok], truth)),
                ("kendall_tau_in_best_third", kendall_tau(said.rank[ok][best], truth[best])),
                ("covered_by_90", coverage(said.mean[ok], said.std[ok], truth)),
                ("mean_error", float(np.abs(said.mean[ok] - truth).mean())),
                ("auc_of_divergence", auc(np.nan_to_num(said.diverges), ~ok)),
            ):
                one.setdefault(name, []).append(value)
        if not one:
            raise PredictorError(
                f"of {len(y)} cells {int(finite.sum())} have a finite score: too few to hold out one in {folds}"
            )
        taus.append(_mean(one["kendall_tau"]))
        for name, values in one.items():
            measured.setdefault(name, []).extend(values)
    means = {name: _mean(values) for name, values in measured.items()}
    return {
        "folds": folds,
        "repeats": repeats,
        **{name: round(value, 4) if math.isfinite(value) else None for name, value in means.items()},
        "kendall_tau_sd": round(float(np.std(taus, ddof=1)), 4) if repeats > 1 else None,
    }


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.inf
