"""Gaussian process regression on groups of columns, averaged over a grid of kernels by their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.errors import PredictorFileError

Floats = NDArray[np.float64]

LAPLACE, EXPONENTIAL, MATERN = 0, 1, 2  # kinds of kernels, as files name them
# (kind, length, share of a linear kernel). Sums of absolute differences do best with few labels, where no column
# is known to matter; with many, columns are weighted by what trees made of them, and smooth kernels do better.
FEW = tuple((LAPLACE, length, linear) for length in (0.5, 1.0, 2.0, 4.0) for linear in (0.3, 1.0))
MANY = tuple((kind, length, 0.0) for kind in (EXPONENTIAL, MATERN) for length in (1.0, 2.0))
_NOISES = (0.03, 0.1, 0.2, 0.4)
HEADS = 3  # of each row: its rank, and how far it is at either end (see `predictors.scaling.ends`)
_KEPT = 0.02  # kernels of a smaller share of the evidence are dropped


@dataclass(frozen=True)
class Process:
    """A mixture of Gaussian processes over scaled rows `rows` [n, F] (Rasmussen and Williams, 2006, chapters 2 and 5).

    `weights` [F] scale the differences of columns (squared ones, but for Laplace). Each row of `kernels` is (kind,
    length, linear, share), `alphas` [kernels, heads, n] are the solved targets, of which there are several of each row.
    """

    rows: Floats
    weights: Floats
    kernels: Floats
    alphas: Floats

    def mean(self, x: Floats) -> Floats:
        """The mean of each target at each row of `x` [m, F]: [heads, m]."""
        kernel = _Kernel(x, self.rows, self.weights, self._weighted)
        found = np.zeros((self.alphas.shape[1], len(x)))
        for (kind, length, linear, share), alpha in zip(self.kernels, self.alphas, strict=True):
            found += share * (kernel(int(kind), length, linear) @ alpha.T).T
        return found

    @cached_property
    def _weighted(self) -> Floats:
        """Its rows as distances need them: made once, not for each query."""
        return np.asarray(self.rows * self.weights)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as `process_from` takes them."""
        return {
            "rows": self.rows.astype(np.float32),
            "weights": self.weights,
            "kernels": self.kernels,
            "alphas": self.alphas,
        }


def fit_process(
    rows: Floats, targets: Floats, weights: Floats, grid: Sequence[tuple[int, float, float]] = FEW
) -> tuple[Process, Floats]:
    """Fit to `targets` [heads, n] of mean 0: every kernel of the grid counts by its marginal likelihood for the first.

    Also what it would say of each row without that row's targets [heads, n] (Rasmussen and Williams, section 5.4.2).
    """
    rows = np.ascontiguousarray(rows, np.float32).astype(np.float64)  # as it is kept
    within = _Kernel(rows, rows, weights)
    found: list[tuple[float, int, Floats, Floats]] = []
    for place, kernel in enumerate(grid):
        values, vectors = np.linalg.eigh(within(*kernel))
        turned, squared = targets @ vectors, vectors**2
        for noise in _NOISES:
            spectrum = np.maximum(values, 0) + noise
            amplitude = max(float((turned[0] ** 2 / spectrum).mean()), 1e-9)
            cost = 0.5 * len(rows) * np.log(amplitude) + 0.5 * float(np.log(spectrum).sum())
            alpha = (turned / spectrum) @ vectors.T
            found.append((cost, place, alpha, targets - alpha / (squared @ (1 / spectrum))))
    least = min(cost for cost, *_ in found)
    shares = np.exp([least - cost for cost, *_ in found])
    kept = [i for i, share in enumerate(shares) if share >= _KEPT * shares.max()]
    total = sum(shares[i] for i in kept)
    kernels = [[*grid[found[i][1]], shares[i] / total] for i in kept]
    without = sum((shares[i] / total * found[i][3] for i in kept), np.zeros(targets.shape))
    return Process(rows, weights, np.array(kernels), np.array([found[i][2] for i in kept])), without


def process_from(arrays: Mapping[str, NDArray[Any]], features: int) -> Process:
    """The process that `arrays` hold. Raises PredictorFileError where they do not fit each other."""
    found = {
        name: np.asarray(arrays[name], np.float64)
        for name in ("rows", "weights", "kernels", "alphas")
        if name in arrays
    }
    if "alphas" in found and found["alphas"].ndim == 2:  # files of version 3 have one target of each row
        found["alphas"] = found["alphas"][:, None]
    shapes = {name: array.shape for name, array in found.items()}
    n = shapes.get("rows", (0,))[0]
    k = shapes.get("kernels", (0,))[0]
    heads = HEADS if shapes.get("alphas", ())[1:2] == (HEADS,) else 1
    expected = {"rows": (n, features), "weights": (features,), "kernels": (k, 4), "alphas": (k, heads, n)}
    if shapes != expected or not n or not k or not all(np.isfinite(a).all() for a in found.values()):
        raise PredictorFileError(f"a process has finite arrays of shapes {expected}; received {shapes}")
    kind, length, linear, share = found["kernels"].T
    if not (np.isin(kind, (LAPLACE, EXPONENTIAL, MATERN)) & (length > 0) & (linear >= 0) & (share > 0)).all():
        raise PredictorFileError("kernels are of kinds 0 to 2 with positive numbers; this file has others")
    return Process(**found)


class _Kernel:
    """Kernels between rows [n, F] and [m, F]: distances are measured once, when the first kernel asks for them."""

    def __init__(self, a: Floats, b: Floats, weights: Floats, weighted: Floats | None = None) -> None:
        self.a, self.b, self.weights = a, b, weights
        self.weighted = b * weights if weighted is None else weighted

    def __call__(self, kind: int, length: float, linear: float) -> Floats:
        if kind == LAPLACE:
            shape = np.exp(-self.absolute / length)
        else:
            scaled = np.sqrt(self.squared) / length * (1.0 if kind == EXPONENTIAL else np.sqrt(3.0))
            shape = np.exp(-scaled) * (1.0 if kind == EXPONENTIAL else 1 + scaled)
        return np.asarray(shape + linear * self.products if linear else shape)

    @cached_property
    def products(self) -> Floats:
        return np.asarray((self.a * self.weights) @ self.b.T)

    @cached_property
    def squared(self) -> Floats:
        own = [(rows**2) @ self.weights for rows in (self.a, self.b)]
        return np.asarray(np.maximum(own[0][:, None] + own[1][None, :] - 2 * self.products, 0.0))

    @cached_property
    def absolute(self) -> Floats:
        from scipy.spatial.distance import cdist  # a matrix product cannot do this

        return np.asarray(cdist(self.a * self.weights, self.weighted, "cityblock"))


def column_weights(groups: Sequence[int], shares: Mapping[int, float]) -> Floats:
    """A weight for each column, so that each group has its share of the squared distance: they sum to 1."""
    which = np.asarray(groups)
    weights = np.zeros(len(which))
    for group, share in shares.items():
        weights[which == group] = share / max(int((which == group).sum()), 1)
    return np.asarray(weights / weights.sum())
