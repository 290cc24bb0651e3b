"""Gaussian process regression on two groups of columns, averaged over a grid of kernels by their evidence."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.errors import PredictorFileError

Floats = NDArray[np.float64]

_LENGTHS = (0.5, 1.0, 2.0, 4.0)
_ROUGHNESS = (0.5, 1.5)  # nu of Matern's kernel
_NOISES = (0.03, 0.1, 0.2, 0.4)
_KEPT = 0.02  # kernels of a smaller share of the evidence are dropped


@dataclass(frozen=True)
class Process:
    """A mixture of Gaussian processes over scaled rows `rows` [n, F] (Rasmussen and Williams, 2006, chapters 2 and 5).

    `weights` [F] scale the squared differences of columns. Each row of `kernels` is (length, nu,
    share), `alphas` [kernels, n] are the solved targets.
    """

    rows: Floats
    weights: Floats
    kernels: Floats
    alphas: Floats

    def mean(self, x: Floats) -> Floats:
        """The mean at each row of `x` [m, F]."""
        distance = _distances(x, self.rows, self.weights)
        found = np.zeros(len(x))
        for (length, nu, share), alpha in zip(self.kernels, self.alphas, strict=True):
            found += share * (_matern(distance, length, nu) @ alpha)
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as `process_from` takes them."""
        return {
            "rows": self.rows.astype(np.float32),
            "weights": self.weights,
            "kernels": self.kernels,
            "alphas": self.alphas,
        }


def fit_process(rows: Floats, targets: Floats, weights: Floats) -> Process:
    """Fit to `targets` [n] of mean 0: every kernel of the grid counts by its marginal likelihood."""
    rows = np.ascontiguousarray(rows, np.float32).astype(np.float64)  # as it is kept
    within = _distances(rows, rows, weights)
    found: list[tuple[float, float, float, Floats]] = []
    for length, nu in itertools.product(_LENGTHS, _ROUGHNESS):
        values, vectors = np.linalg.eigh(_matern(within, length, nu))
        turned = vectors.T @ targets
        for noise in _NOISES:
            spectrum = np.maximum(values, 0) + noise
            amplitude = max(float((turned**2 / spectrum).mean()), 1e-9)
            cost = 0.5 * len(targets) * np.log(amplitude) + 0.5 * float(np.log(spectrum).sum())
            found.append((cost, length, nu, vectors @ (turned / spectrum)))
    least = min(cost for cost, *_ in found)
    shares = np.exp([least - cost for cost, *_ in found])
    shares /= shares.sum()
    kept = [i for i, share in enumerate(shares) if share >= _KEPT * shares.max()]
    total = sum(shares[i] for i in kept)
    kernels = [[*found[i][1:3], shares[i] / total] for i in kept]
    return Process(rows, weights, np.array(kernels), np.array([found[i][3] for i in kept]))


def process_from(arrays: Mapping[str, NDArray[Any]], features: int) -> Process:
    """The process that `arrays` hold. Raises PredictorFileError where they do not fit each other."""
    found = {
        name: np.asarray(arrays[name], np.float64)
        for name in ("rows", "weights", "kernels", "alphas")
        if name in arrays
    }
    shapes = {name: array.shape for name, array in found.items()}
    n = shapes.get("rows", (0,))[0]
    k = shapes.get("kernels", (0,))[0]
    expected = {"rows": (n, features), "weights": (features,), "kernels": (k, 3), "alphas": (k, n)}
    if shapes != expected or not n or not k or not all(np.isfinite(a).all() for a in found.values()):
        raise PredictorFileError(f"a process has finite arrays of shapes {expected}; received {shapes}")
    if (found["kernels"] <= 0).any():
        raise PredictorFileError("the numbers of a kernel are positive; this file has others")
    return Process(**found)


def _distances(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Squared distances [n, m] with a weight for each column."""
    root = np.sqrt(weights)
    left, right = a * root, b * root
    square = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2 * left @ right.T
    return np.asarray(np.maximum(square, 0.0))


def _matern(square: Floats, length: float, nu: float) -> Floats:
    distance = np.sqrt(square) / length
    if nu < 1:
        return np.asarray(np.exp(-distance))
    scaled = np.sqrt(3.0) * distance
    return np.asarray((1 + scaled) * np.exp(-scaled))


def column_weights(groups: Sequence[int], shares: Mapping[int, float]) -> Floats:
    """A weight for each column, so that each group has its share of the squared distance: they sum to 1."""
    which = np.asarray(groups)
    weights = np.zeros(len(which))
    for group, share in shares.items():
        weights[which == group] = share / max(int((which == group).sum()), 1)
    return np.asarray(weights / weights.sum())
