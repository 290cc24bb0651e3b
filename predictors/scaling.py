"""Columns to one scale, scores to ranks and back."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from predictors.metrics import ranks

Floats = NDArray[np.float64]

_LIMIT = 4.0  # scaled columns lie within +- this
_LEAST = 1e-6  # columns that vary less are left out
_KNOTS = 65
_END = 0.5  # standard deviations from the mean, beyond which a cell is at an end
_GOOD, _BAD = 1.0, 0.5  # of what is beyond, how much counts
_FAR = 10.0  # widths of the middle half from the median: no score counts as worse, or as better, than this


@dataclass(frozen=True)
class Columns:
    """Which columns are used, and their mean and spread over the rows that were fitted."""

    used: NDArray[np.int64]
    mean: Floats
    spread: Floats

    def __call__(self, x: Floats) -> Floats:
        """Rows [n, F] as scaled rows [n, len(used)]."""
        return np.clip((x[:, self.used] - self.mean) / self.spread, -_LIMIT, _LIMIT)


def fit_columns(x: Floats) -> Columns:
    """Scale to mean 0 and spread 1; columns that are (nearly) constant are left out."""
    spread = x.std(axis=0)
    used = np.flatnonzero(spread > _LEAST * (1 + np.abs(x).max(axis=0, initial=0.0)))
    return Columns(used, x[:, used].mean(axis=0), spread[used])


def normal_scores(y: Floats) -> Floats:
    """Scores as normal quantiles of their ranks: what the models are fitted to."""
    places = (ranks(y) - 0.5) / len(y)
    return np.array([NormalDist().inv_cdf(place) for place in places])


def ends(y: Floats) -> Floats:
    """How far each score is at the good end, and at the bad one: [2, n], each of mean 0 and spread 1.

    At the good end the logarithm of the place tells apart what is better still. At the bad end it is the score itself:
    ranks say as little of it as few of the fitted cells are there, and others may be there more often.
    """
    median, far = float(np.median(y)), _FAR * _middle(y)
    good, bad = np.log((ranks(y) - 0.5) / len(y)), np.clip(y, median - far if far else None, median + far)
    return np.array([(one - one.mean()) / max(float(one.std()), _LEAST) for one in (good, bad)])


def _middle(y: Floats) -> float:
    """The width of the middle half."""
    low, high = np.quantile(y, [0.25, 0.75])
    return float(high - low)


def at_ends(said: Floats) -> Floats:
    """What is `said` of the ends [2, n], as a correction of ranks: 0 for cells that it says to be elsewhere.

    Also 0 where nothing is said of any: [0, n].
    """
    if not len(said):
        return np.zeros(said.shape[1])
    good, bad = said
    return np.asarray(_GOOD * np.minimum(good + _END, 0) + _BAD * np.maximum(bad - _END, 0))


@dataclass(frozen=True)
class Scale:
    """A monotone piecewise linear map from predicted ranks to scores: `at` [k] increasing, `score` [k] not falling."""

    at: Floats
    score: Floats

    def __call__(self, z: Floats) -> Floats:
        """Scores of predicted ranks. Beyond the ends it goes on, slowly, so that no two ranks give one score."""
        inner = np.interp(z, self.at, self.score)
        width = max(float(self.at[-1] - self.at[0]), 1e-9)
        slope = max(float(self.score[-1] - self.score[0]), 1e-9) / width
        return np.asarray(inner + 1e-3 * slope * z)

    def slope(self, z: Floats) -> Floats:
        """How fast the score changes around each rank."""
        step = 0.25 * max(float(self.at[-1] - self.at[0]), 1e-9)
        return np.asarray((self(z + step) - self(z - step)) / (2 * step))


def fit_scale(predicted: Floats, y: Floats) -> Scale:
    """The best monotone map from (held-out) predicted ranks to scores: pool adjacent violators, then knots."""
    order = np.argsort(predicted, kind="stable")
    at, fitted = predicted[order], _monotone(y[order])
    knots = np.unique(np.linspace(0, len(at) - 1, min(_KNOTS, len(at))).round().astype(int))
    smooth = np.array([fitted[max(0, k - len(at) // 40) : k + len(at) // 40 + 1].mean() for k in knots])
    places, first = np.unique(at[knots], return_index=True)
    return Scale(places, np.maximum.accumulate(smooth[first]))


def _monotone(values: Floats) -> Floats:
    """The nearest sequence that does not fall (least squares)."""
    means: list[float] = []
    sizes: list[int] = []
    for value in values:
        means.append(float(value))
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            size = sizes[-2] + sizes[-1]
            means[-2:] = [(means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
    return np.repeat(means, sizes)
