"""Fitting predictors: trees and a Gaussian process on ranks, held-out predictions for scale, errors and card."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grammar import DIGEST_VERSION, OPS_VERSION, Cell
from predictors.encoding import ENCODING_VERSION
from predictors.errors import PredictorError
from predictors.flow import flow_names
from predictors.forests import Forest, grow
from predictors.given import Records, cells_of, check_card, extras_of, records_of, rows_of, scores_of, tamed
from predictors.kernels import FEW, MANY, column_weights, fit_process
from predictors.metrics import auc, coverage, kendall_tau, spearman
from predictors.models import (
    check_model,
    columns_of,
    described,
    distance_weights,
    model_key,
    model_names,
    model_rows,
    network_of,
)
from predictors.novelty import fit_novelty
from predictors.predictor import PRIOR_COLUMNS, Predictor, Ranker, with_extras
from predictors.scaling import Columns, Scale, at_ends, ends, fit_scale, normal_scores
from predictors.statistics import statistic_names
from predictors.targets import TOGETHER

Floats = NDArray[np.float64]

LEAST_CELLS = 8
_TREES = 120
_FAILING_TREES = 200
_HELD_TREES = 40  # of each fold: enough to know errors
_MANY = 600  # labels from which on columns are weighted by what trees made of them
_MOST_FOR_PROCESS = 3000  # a process takes time and memory of the square of the cells and more
_SHARES = (0.5, 0.5)  # of the trees and of the process
_SHARES_OF = {"wl": (0.0, 1.0)}  # a kernel's model: its trees say how sure it is, no more
_DOUBT = 1.5  # standard errors by which the labels' own model must be better, or a prior is the base of all
_DRAWN = 10  # rows that speak for the labels of the task alone, beside a prior
_SHARES_ON_PRIOR = (0.3, 0.3)  # as corrections of a prior; less than 1 in all, as few labels say little
_OUTSIDE = 0.4  # copies of outside columns, in parts of all columns, among which the trees choose
_PRIOR, _EXTRAS = 3, 4  # groups of columns from outside, behind those of the encoding
_FOLDS = 5
_LEAST_IMPORTANCE = 0.05  # of a column, in parts of the mean
_COVERED = 0.9
_WIDEST = 3.0  # times the largest gap is the widest that the usual interval is made
_NORMAL = 1.645  # half the width of a 90 % interval of the normal distribution
# What an untrained stack makes of neighbouring tokens together, beyond what it makes of each: the strongest of the
# probes without a label. Trees start from a slope along its mean, halved, as it counts less where labels are many.
_TOGETHER = re.compile(f"{TOGETHER}|(graph|text).0")  # networks foresee it as their first number
_HALF = 0.5
# Shares of the squared distance of the process: op counts, flow, probes, prior, extras.
_DISTANCE = {0: 0.1, 1: 0.3, 2: 1.0, _PRIOR: 0.7, _EXTRAS: 3.0}


def fit(
    cells: Sequence[Cell] | Records,
    scores: ArrayLike | None = None,
    *,
    seed: int = 0,
    extras: ArrayLike | None = None,
    prior: Predictor | None = None,
    card: Mapping[str, Any] | None = None,
    model: str = "ensemble",
) -> Predictor:
    """A predictor of `scores`, lower is better; a score that is not finite means that training failed.

    Without `scores`, `cells` are records that have them: the path of a table of trials, trials of one task
    (`read_trials`), or pairs of a cell (or its text) and its score.
    Cells of one class (equal digests) count once, with their mean. `extras` [n, E] are further columns, such as the
    losses of the first epochs, which `predict` then needs too. `prior` is a predictor of another
    task and of the same model, whose predictions become features. `card` is kept with the predictor. `model` is one of
    `predictors.MODELS`: what is seen of a cell. Same seed, same predictor.
    Raises PredictorError for fewer than 8 classes with finite scores, or arrays that do not fit the cells.
    """
    if scores is None:
        cells, scores, about = records_of(cast(Records, cells))
        card = {**about, **(card or {})}
    given = cells_of(cast(Sequence[Cell], cells))
    y = scores_of(scores, len(given))
    more = None if extras is None else extras_of(extras, len(given))
    _check_wishes(seed, prior, card, check_model(model))
    kept, y, more = classes_of(given, y, more)
    rows = model_rows(kept, model)
    made = fit_rows(rows, y, seed=seed, extras=more, prior=prior, card=card, model=model)
    return made.knowing([cell.digest for cell in kept], rows, y, more)


def _check_wishes(seed: object, prior: object, card: Mapping[str, Any] | None, model: str) -> None:
    """Raise PredictorError for what cannot be done, before anything is encoded."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise PredictorError(f"a seed is a whole number from 0 to {2**32 - 1}; received {seed}")
    if prior is not None and not isinstance(prior, Predictor):
        raise PredictorError(
            f"a prior is a predictor (`predictors.load` reads one); received {type(prior).__name__}"
        )
    if prior is not None and prior.model != model:
        raise PredictorError(f"a prior is of the same model; received {prior.model} for {model}")
    check_card(card)


def classes_of(
    cells: Sequence[Cell], y: Floats, extras: Floats | None
) -> tuple[list[Cell], Floats, Floats | None]:
    """One cell of each class, with means over its finite scores (infinite if there is none)."""
    members: dict[str, list[int]] = {}
    for index, cell in enumerate(cells):
        members.setdefault(cell.digest, []).append(index)
    groups = [members[digest] for digest in sorted(members)]  # the order of the table means nothing
    scores = [y[group][np.isfinite(y[group])] for group in groups]
    means = np.array([s.mean() if len(s) else np.inf for s in scores])
    columns = None if extras is None else np.array([_mean_of_known(extras[group]) for group in groups])
    return [cells[group[0]] for group in groups], means, columns


def _mean_of_known(rows: Floats) -> Floats:
    """The mean of each column, of entries that are known (not NaN) where there are any."""
    known = ~np.isnan(rows)
    sums = np.where(known, rows, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), np.nan)


def fit_rows(
    rows: ArrayLike,
    scores: ArrayLike,
    *,
    seed: int = 0,
    extras: ArrayLike | None = None,
    prior: Predictor | None = None,
    card: Mapping[str, Any] | None = None,
    check: bool = True,
    model: str = "ensemble",
) -> Predictor:
    """The same for rows of `encode`, one for each class. Without `check` errors and card are not measured.

    Rows of another model than the ensemble are those of `model_rows(cells, model)`.
    """
    names, network = model_names(check_model(model)), network_of(model)
    rows = rows_of(rows, len(names), f"of the model {model} are")
    scores = scores_of(scores, len(rows), "rows")
    more = None if extras is None else extras_of(extras, len(rows), "rows")
    _check_wishes(seed, prior, card, model)
    finite = np.isfinite(scores)
    if finite.sum() < LEAST_CELLS:
        raise PredictorError(
            f"a predictor needs at least {LEAST_CELLS} different cells with finite scores; received {int(finite.sum())}"
        )
    count = 0 if more is None else more.shape[1]
    x = with_extras(rows, more, count, prior)
    if count:
        x[:, -count:] = tamed(x[:, -count:])
    groups = _groups(names, prior is not None, count)
    ranker, held, spread = fit_ranker(x[finite], scores[finite], groups, seed, check, model)
    failing = None if finite.all() else _fit_failing(ranker.columns(x), ~finite, seed)
    if not check:
        held, spread = ranker(x[finite])
    scale, errors, measured = _calibrated(held, spread, scores[finite])
    structure = len(statistic_names()) + len(flow_names())
    about = {
        **(card or {}),
        **described(model, network),
        "cells": int(finite.sum()),
        "failed_cells": int((~finite).sum()),
        "scores": [float(scores[finite].min()), float(scores[finite].max())],
        "held_out": measured if check else {},
        "seed": int(seed),
        "prior": dict(prior.card) if prior is not None else None,
        "extras": count,
        "versions": {"encoding": ENCODING_VERSION, "digest": DIGEST_VERSION, "ops": OPS_VERSION},
        "encoding": model_key(model),
    }
    novelty = fit_novelty(rows, structure)
    return Predictor(
        ranker, scale, errors, novelty, failing, prior, count, about, model=model, network=network
    )


def fit_ranker(
    x: Floats, y: Floats, groups: Sequence[int], seed: int, check: bool = True, model: str = "ensemble"
) -> tuple[Ranker, Floats, Floats]:
    """Trees and a process on the normal scores of `y`, or on what a prior leaves of them; the process on its ends, too.

    Also the rank and spread of each row as predicted without its score: trees from folds, the process in closed
    form. Without `check` they are zeros.
    """
    names = model_names(model)
    columns = columns_of(x, model, x.shape[1] - len(names))
    if not len(columns.used):
        raise PredictorError("nothing that a predictor sees of these cells tells one from another")
    scaled, targets = columns(x), normal_scores(y)
    of = [groups[i] for i in columns.used]
    slope, shares, further = 0.0, _SHARES_OF.get(model, _SHARES), ends(y)
    base = _untrained(names, columns, scaled, targets)
    said, distance, offered = np.zeros(len(y)), _DISTANCE, of
    if _PRIOR in groups:
        said = x[:, len(names)]
        beside = _weights_beside(said, scaled, targets, of)
        if beside is None:
            slope = max(float(said @ targets / (said @ said + 1)), 0.0)
            base, targets, shares = np.zeros(len(of)), targets - slope * said, _SHARES_ON_PRIOR
            further = further[:0]  # the prior has ends of its own
        else:
            slope, shares = beside[1], (shares[0] * beside[0], shares[1] * beside[0])
            scaled = np.where(
                np.equal(of, _PRIOR), 0.0, scaled
            )  # it is beside the trees and the process, not in them
            distance = {**_DISTANCE, _PRIOR: 0.0}
            offered = [_PRIOR - 1 if group == _PRIOR else group for group in of]
    left = targets - scaled @ base
    trees, importances = _fit_trees(scaled, left, offered, seed, _TREES)
    heads = np.concatenate([targets[None], further])
    process, without = None, np.zeros(heads.shape)
    if len(y) <= _MOST_FOR_PROCESS:
        weights, grid = column_weights(of, distance), FEW
        if len(y) > _MANY:
            weights, grid = weights * (importances / importances.mean() + _LEAST_IMPORTANCE), MANY
        weights = distance_weights(columns, scaled, weights / weights.sum(), model)
        process, without = fit_process(scaled, heads, weights, grid)
    elif not slope:
        shares = (1.0, 0.0)
    ranker = Ranker(columns, trees, process, shares, slope, base, len(names))
    if not check:
        return ranker, np.zeros(len(y)), np.zeros(len(y))
    rank, spread = _held_out(scaled, left, offered, seed)
    own = shares[0] * (rank + scaled @ base) + shares[1] * without[0] + sum(shares) * at_ends(without[1:])
    return ranker, own + slope * said, spread


def _weights_beside(
    said: Floats, scaled: Floats, targets: Floats, of: Sequence[int]
) -> tuple[float, float] | None:
    """What the labels' own model and the prior weigh, where the prior is the weaker; None where it is the stronger.

    Both are held against labels that neither saw: a process leaves out each row in turn. The weights are those of
    least squares, drawn towards the labels' own model alone by the worth of a few rows.
    """
    if len(targets) > _MOST_FOR_PROCESS:
        return None
    own = [group for group in of if group != _PRIOR]
    within = scaled[:, [i for i, group in enumerate(of) if group != _PRIOR]]
    weights = column_weights(own, _DISTANCE)
    without = fit_process(within, targets[None], weights / weights.sum(), FEW)[1][0]
    if not said.std() or not without.std():
        return None
    known, own_fit = (float(np.corrcoef(one, targets)[0, 1]) for one in (said, without))
    if own_fit < known + _DOUBT * (1 - known**2) / len(targets) ** 0.5:
        return None
    both = np.stack([without, said], axis=1)
    drawn = _DRAWN * np.diag(both.var(axis=0))
    found = np.linalg.solve(both.T @ both + drawn, both.T @ targets + drawn @ [1.0, 0.0])
    return max(float(found[0]), 0.1), max(float(found[1]), 0.0)


def _untrained(names: Sequence[str], columns: Columns, scaled: Floats, targets: Floats) -> Floats:
    """Half the slope of `targets` along the mean of the columns of _TOGETHER, as a weight for each column."""
    chosen = np.array([i < len(names) and bool(_TOGETHER.fullmatch(names[i])) for i in columns.used])
    if not chosen.any():
        return np.zeros(len(columns.used))
    mean = scaled[:, chosen].mean(axis=1)
    slope = float(mean @ targets / (mean @ mean + mean.var() + 1e-9))
    return np.where(chosen, _HALF * slope / chosen.sum(), 0.0)


def _fit_trees(
    scaled: Floats, targets: Floats, groups: Sequence[int], seed: int, count: int
) -> tuple[Forest, Floats]:
    """Extremely randomised trees (Geurts et al., 2006), and how much each column lessened their errors.

    Columns that come from outside are offered more often.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    own = np.arange(scaled.shape[1])
    outside = own[np.asarray(groups) >= _PRIOR]
    copies = int(np.ceil(_OUTSIDE * len(own) / len(outside))) if len(outside) else 0
    offered = np.concatenate([own, np.tile(outside, copies)])
    leaf = 1 + len(targets) // 600
    model = ExtraTreesRegressor(count, max_features=0.1, random_state=seed, min_samples_leaf=leaf)
    model.fit(scaled[:, offered], targets)
    each = model.feature_importances_ if len(targets) > _MANY else np.ones(len(offered))  # of use there only
    importances = np.asarray(np.bincount(offered, weights=each), dtype=np.float64)
    return grow([tree.tree_ for tree in model.estimators_], of=offered), importances


def _fit_failing(scaled: Floats, failed: NDArray[np.bool_], seed: int) -> Forest:
    from sklearn.ensemble import ExtraTreesClassifier

    model = ExtraTreesClassifier(_FAILING_TREES, max_features=0.1, random_state=seed).fit(scaled, failed)
    column = list(model.classes_).index(True)
    return grow([tree.tree_ for tree in model.estimators_], column)


def _groups(names: Sequence[str], prior: bool, extras: int) -> list[int]:
    """The group of each column: 0 op counts, 1 flow, 2 probes or a model's own, then those from outside."""
    known = [{"statistics": 0, "flow": 1}.get(name.split(".")[0], 2) for name in names]
    return known + [_PRIOR] * (PRIOR_COLUMNS if prior else 0) + [_EXTRAS] * extras


def _held_out(scaled: Floats, targets: Floats, groups: Sequence[int], seed: int) -> tuple[Floats, Floats]:
    """What trees that did not see a row say of it, and how far they disagree."""
    folds = np.random.default_rng(seed).permutation(len(targets)) % min(_FOLDS, len(targets))
    rank, spread = np.empty(len(targets)), np.empty(len(targets))
    for fold in range(folds.max() + 1):
        out = folds == fold
        trees, _ = _fit_trees(scaled[~out], targets[~out], groups, seed, _HELD_TREES)
        each = trees.each(scaled[out])
        rank[out], spread[out] = each.mean(axis=1), each.std(axis=1)
    return rank, spread


def _calibrated(
    rank: Floats, spread: Floats, y: Floats
) -> tuple[Scale, tuple[float, float], dict[str, float | None]]:
    """The map to scores; errors so that 90 % of the rows lie in their intervals (split conformal, Lei et al. 2018)."""
    scale = fit_scale(rank, y)
    mean, local = np.empty(len(y)), np.empty(len(y))
    folds = np.arange(len(y)) % min(_FOLDS, len(y))
    for fold in range(folds.max() + 1):  # a scale that saw a score is too close to it
        out = folds == fold
        apart = fit_scale(rank[~out], y[~out])
        mean[out], local[out] = apart(rank[out]), spread[out] * apart.slope(rank[out])
    gaps = np.abs(y - mean)
    least = float(np.quantile(gaps, 0.25)) + 1e-9
    place = min(1.0, _COVERED * (1 + 1 / len(y)))
    # No more than what makes the usual interval a few times as wide as the largest gap: where hardly any spread is
    # known of a cell, as happens with few of them, no factor does, and all intervals are wider by as much.
    widest = _WIDEST * float(gaps.max()) / max(float(np.median(local)), 1e-9)
    low, high = 0.0, min(widest, 1e6)
    for _ in range(60):
        factor = (low + high) / 2
        reached = gaps <= _NORMAL * np.sqrt((factor * local) ** 2 + least**2)
        low, high = (low, factor) if reached.mean() >= place else (factor, high)
    lacking = np.square(gaps / _NORMAL) - np.square(high * local)
    wanted = float(np.quantile(np.maximum(lacking, 0.0), place, method="higher")) ** 0.5
    if wanted > least and high >= widest * (1 - 1e-9):
        least = wanted
    std = np.sqrt((high * local) ** 2 + least**2)
    measured = {
        "kendall_tau": kendall_tau(rank, y),
        "spearman": spearman(rank, y),
        "covered_by_90": coverage(mean, std, y),
        "mean_error": float(gaps.mean()),
    }
    known = {name: round(value, 4) if math.isfinite(value) else None for name, value in measured.items()}
    return scale, (high, least), known


def failing_auc(predictor: Predictor, rows: Floats, failed: ArrayLike) -> float:
    """How well the chance of failing separates cells that fail from others."""
    return auc(predictor.predict_rows(rows).diverges, failed)
