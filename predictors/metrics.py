"""How well predictions rank cells, separate those that diverge, and know their own errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def kendall_tau(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b: agreement of the order of pairs, ties counted out. NaN where one side is constant.

    O(n^2) in time and memory: meant for some thousand values.
    """
    first, second = _pair(a, b)
    x = np.sign(first[:, None] - first[None, :]).astype(np.float32)
    y = np.sign(second[:, None] - second[None, :]).astype(np.float32)
    sizes = float(np.abs(x).sum(dtype=np.float64)) * float(np.abs(y).sum(dtype=np.float64))
    return float((x * y).sum(dtype=np.float64)) / sizes**0.5 if sizes else float("nan")


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, with mean ranks for ties. NaN where one side is constant."""
    first, second = (ranks(values) for values in _pair(a, b))
    if not (first.std() and second.std()):
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks 1 to n, equal values share the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """The chance that a positive has a higher score than a negative (area under the ROC curve). NaN without both."""
    first, second = _pair(scores, positive)
    is_positive = second > 0
    n, m = int(is_positive.sum()), int((~is_positive).sum())
    if not n or not m:
        return float("nan")
    return float((ranks(first)[is_positive].sum() - n * (n + 1) / 2) / (n * m))


def coverage(mean: ArrayLike, std: ArrayLike, truth: ArrayLike, width: float = 1.645) -> float:
    """The part of `truth` within `width` standard deviations of the mean (1.645: 90 % of a normal distribution)."""
    gap = np.abs(np.asarray(truth, dtype=np.float64) - np.asarray(mean, dtype=np.float64))
    return float((gap <= width * np.asarray(std, dtype=np.float64)).mean())


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"two flat arrays of one length are compared; received {first.shape} and {second.shape}"
        )
    return first, second
