"""How unlike the fitted cells a cell is: a nearest-neighbour distance, in units of what is usual among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NEIGHBOURS = 3
_USUAL = 0.99  # this part of the fitted cells, each left out in turn, is not flagged
_LIMIT = 30.0
_LEAST = 0.1  # spread of columns that (nearly) all fitted cells agree on: another value there is far away


@dataclass(frozen=True)
class Novelty:
    """The mean distance to the nearest fitted rows, divided by what is usual; above 1 is out of distribution."""

    rows: NDArray[np.float32]  # [n, F], scaled
    mean: Floats
    spread: Floats
    usual: float

    def __call__(self, x: Floats) -> Floats:
        """The novelty of rows [m, F'] of an encoding, of which the first F columns are compared."""
        scaled = np.clip((x[:, : len(self.mean)] - self.mean) / self.spread, -_LIMIT, _LIMIT)
        return _nearest(scaled, self.rows.astype(np.float64), 0) / self.usual


def fit_novelty(x: Floats, columns: int) -> Novelty:
    """From the first `columns` columns of the rows fitted."""
    mean, spread = x[:, :columns].mean(axis=0), np.maximum(x[:, :columns].std(axis=0), _LEAST)
    rows = np.clip((x[:, :columns] - mean) / spread, -_LIMIT, _LIMIT)
    own = _nearest(rows, rows, 1)
    usual = max(float(np.quantile(own, _USUAL)), 1e-6)
    return Novelty(rows.astype(np.float32), mean, spread, usual)


def _nearest(a: Floats, b: Floats, skip: int) -> Floats:
    """The mean distance of each row of `a` to its nearest rows of `b`, after `skip` of them (itself)."""
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    count = min(_NEIGHBOURS + skip, len(b))
    near = np.sqrt(np.maximum(np.sort(square, axis=1)[:, min(skip, count - 1) : count], 0))
    return np.asarray(near.mean(axis=1) / np.sqrt(a.shape[1]))
