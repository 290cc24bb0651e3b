"""How unlike the fitted cells a cell is: the distance to its nearest, in units of what is usual around these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NEIGHBOURS = 3
_USUAL = 0.99  # this part of the fitted cells, each left out in turn, is not flagged
_LIMIT = 30.0
_LEAST = 0.1  # spread of columns that (nearly) all fitted cells agree on: another value there is far away
_FLOOR = 0.3  # of the median distance, added where the fitted cells lie close together
_ZERO = 1e-6


@dataclass(frozen=True)
class Novelty:
    """The mean distance to the nearest fitted rows, divided by what is usual there; above 1 is out of distribution.

    `near[i]` is how far the neighbours of row i are (compare the local outlier factor of Breunig et al., 2000): where
    the fitted rows lie dense, less is far away.
    """

    rows: NDArray[np.float32]  # [n, F], scaled
    near: Floats  # [n]
    mean: Floats
    spread: Floats
    usual: float

    def __call__(self, x: Floats) -> Floats:
        """The novelty of rows [m, F'] of an encoding, of which the first F columns are compared."""
        scaled = np.clip((x[:, : len(self.mean)] - self.mean) / self.spread, -_LIMIT, _LIMIT)
        distance, places = _nearest(scaled, self.rows.astype(np.float64), 0)
        return np.asarray(distance / self.near[places].mean(axis=1) / self.usual)


def fit_novelty(x: Floats, columns: int) -> Novelty:
    """From the first `columns` columns of the rows fitted."""
    mean, spread = x[:, :columns].mean(axis=0), np.maximum(x[:, :columns].std(axis=0), _LEAST)
    rows = np.clip((x[:, :columns] - mean) / spread, -_LIMIT, _LIMIT)
    own, places = _nearest(rows, rows, 1)
    near = np.maximum(own + _FLOOR * np.median(own), _ZERO)
    usual = max(float(np.quantile(own / near[places].mean(axis=1), _USUAL)), _ZERO)
    return Novelty(rows.astype(np.float32), near, mean, spread, usual)


def _nearest(a: Floats, b: Floats, skip: int) -> tuple[Floats, NDArray[np.int64]]:
    """The mean distance of each row of `a` to its nearest of `b`, and which these are; `skip` 1 leaves out itself."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    count = min(_NEIGHBOURS + skip, len(b))
    places = np.argsort(square, axis=1, kind="stable")[:, min(skip, count - 1) : count]
    near = np.sqrt(np.maximum(np.take_along_axis(square, places, axis=1), 0))
    return np.asarray(near.mean(axis=1) / np.sqrt(a.shape[1])), places
