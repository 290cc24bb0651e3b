"""The cells that a predictor was fitted on: what they reached, and how far predictions of them are from it.

A predictor says of such a cell nearly what it was told, but drawn to the scores of others, and its members agree too
much: intervals of width for new cells hold half of those fitted. So these have a width of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.errors import PredictorError, PredictorFileError

Floats = NDArray[np.float64]

COVERED = 0.9
NORMAL = 1.645  # half the width of a 90 % interval of the normal distribution
_KEPT = 15  # hex digits of a digest: 60 bits
_PARTS: Mapping[str, type[np.generic]] = {"digests": np.int64, "scores": np.float64, "failed": np.int32}


@dataclass(frozen=True)
class Known:
    """Digests (their first 60 bits, ascending), mean scores (0 where training failed), whether it failed; all [n].

    `error` widens their intervals: the standard deviation is sqrt(std^2 + error^2).
    """

    digests: NDArray[np.int64]
    scores: Floats
    failed: NDArray[np.int32]
    error: float

    def reached(self, digests: Sequence[str]) -> Floats:
        """What each cell reached when it was fitted: infinite where training failed, NaN for a cell that is new."""
        asked = _short(digests)
        places = np.minimum(np.searchsorted(self.digests, asked), len(self.digests) - 1)
        found = np.where(self.failed[places] != 0, np.inf, self.scores[places])
        return np.where(self.digests[places] == asked, found, np.nan)

    def widened(self, std: Floats, digests: Sequence[str]) -> Floats:
        """`std` of predictions, wider for the cells that were fitted."""
        return np.where(np.isnan(self.reached(digests)), std, np.hypot(std, self.error))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as `known_from` takes them."""
        return {**{name: getattr(self, name) for name in _PARTS}, "error": np.array([self.error])}


def make_known(digests: Sequence[str], scores: Floats, mean: Floats, std: Floats) -> Known:
    """Of predictions `mean` and `std` for the cells fitted: their `error` is such that 90 % of scores are within."""
    finite = np.isfinite(scores)
    wanted = np.square((scores - mean)[finite] / NORMAL) - np.square(std[finite])
    place = min(1.0, COVERED * (1 + 1 / max(int(finite.sum()), 1)))
    error = float(np.quantile(np.maximum(wanted, 0.0), place, method="higher")) ** 0.5 if len(wanted) else 0.0
    short = _short(digests)
    if len(short) != len(scores) or len(np.unique(short)) != len(short):
        raise PredictorError(
            f"cells that were fitted have a digest each; received {len(np.unique(short))} for {len(scores)} cells"
        )
    order = np.argsort(short)
    return Known(short[order], np.where(finite, scores, 0.0)[order], (~finite)[order].astype(np.int32), error)


def known_from(arrays: Mapping[str, NDArray[Any]]) -> Known | None:
    """What `arrays` hold: None where there are none. Raises PredictorFileError where they do not fit each other."""
    if not arrays:
        return None
    shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    count = len(arrays["digests"]) if arrays.get("digests") is not None and arrays["digests"].ndim else 0
    expected = {name: (np.dtype(kind), (count,)) for name, kind in _PARTS.items()}
    if not count or shapes != {**expected, "error": (np.dtype(np.float64), (1,))}:
        raise PredictorFileError("what is known of fitted cells has a digest, a score and a mark for each")
    known = Known(arrays["digests"], arrays["scores"], arrays["failed"], float(arrays["error"][0]))
    if not (np.isfinite(known.scores).all() and 0 <= known.error < np.inf):
        raise PredictorFileError("the scores of fitted cells are finite; this file has others")
    if (np.diff(known.digests) <= 0).any():
        raise PredictorFileError("the digests of fitted cells ascend; those of this file do not")
    return known


def _short(digests: Sequence[str]) -> NDArray[np.int64]:
    if isinstance(digests, str):
        raise PredictorError("several digests are wanted, as a list; received one")
    try:
        return np.array([int(digest[:_KEPT], 16) for digest in digests], dtype=np.int64)
    except (TypeError, ValueError):
        raise PredictorError(f"digests are those of cells, in hex digits; received {digests!r:.80}") from None
