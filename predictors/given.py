"""What users give to be fitted or asked for: cells, scores, records of trials and further columns, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grammar import Cell, parse
from predictors.errors import PredictorError
from predictors.trials import Trial, read_trials

Floats = NDArray[np.float64]
Records = str | Path | Iterable[Trial | tuple[Cell | str, float]]

LARGEST = 1e12  # no number in the file of a predictor is larger
MOST_CARD = 1 << 20
_MISSING = -1.0  # of a further column, where a cell has none
_FAR = 20.0  # widths of the middle half beyond which entries of a further column are all the same


def cells_of(cells: Iterable[Cell]) -> list[Cell]:
    """The cells as a list. Raises PredictorError for one cell alone, and for texts or anything else among them."""
    if isinstance(cells, Cell | str):
        raise PredictorError("several cells are wanted, as a list; received one")
    if not isinstance(cells, Iterable):
        raise PredictorError(f"several cells are wanted, as a list; received {type(cells).__name__}")
    found = list(cells)
    for cell in found:
        if not isinstance(cell, Cell):
            raise PredictorError(
                f"a predictor sees cells, and `grammar.parse` makes one of a text; received {type(cell).__name__}"
            )
    return found


def numbers(values: ArrayLike, what: str) -> Floats:
    """An array of float64. Raises PredictorError, which says `what` they are, for what are no real numbers."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "cmM":  # complex numbers and dates would be cast, and mean something else then
            raise TypeError(f"received {array.dtype}")
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise PredictorError(f"{what} are numbers: {error}") from None


def scores_of(scores: ArrayLike, count: int, of: str = "cells") -> Floats:
    """One score for each, float64 [count]. Raises PredictorError for what is none, or too large to be kept."""
    y = numbers(scores, "scores")
    if y.shape != (count,):
        raise PredictorError(f"there is one score for each of {count} {of}; received {y.shape}")
    largest = float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
    if largest > LARGEST:
        raise PredictorError(
            f"scores are at most {LARGEST:g} in size, and inf where training failed; received {largest:g}"
        )
    return y


def rows_of(rows: ArrayLike, width: int, what: str) -> Floats:
    """Rows of an encoding, float64 [n, width]. Raises PredictorError for another shape, and where one is not finite."""
    x = numbers(rows, "rows")
    if x.ndim != 2 or x.shape[1] != width:
        raise PredictorError(f"rows {what} [n, {width}]; received {x.shape}")
    if not np.abs(x).max(initial=0.0) <= LARGEST:
        raise PredictorError(f"rows are finite numbers of at most {LARGEST:g}; received others")
    return x


def extras_of(extras: ArrayLike, count: int, of: str = "cells") -> Floats:
    """Further columns, float64 [count, E]. Raises PredictorError for another shape, and for what are no numbers."""
    more = numbers(extras, "extras")
    if more.ndim != 2 or len(more) != count:
        raise PredictorError(f"extras have a row for each of {count} {of}; received {more.shape}")
    return more


def records_of(records: Records) -> tuple[list[Cell], list[float], dict[str, str]]:
    """Cells, scores, and what a card says of them, of a table of trials (a path), of trials, or of (cell, score) pairs.

    Trials that were stopped early say nothing and are left out. Raises PredictorError for trials of several tasks.
    """
    if isinstance(records, Cell | Mapping) or not isinstance(records, Iterable | Path):
        raise PredictorError("records are a table of trials, trials, or pairs of a cell and its score")
    found = list(read_trials(records) if isinstance(records, str | Path) else records)
    cells: list[Cell] = []
    scores: list[float] = []
    tasks: set[tuple[str, str]] = set()
    for number, record in enumerate(found, start=1):
        if isinstance(record, Trial):
            tasks.add((record.task, record.size))
            if not math.isnan(record.loss):
                cells.append(parse(record.cell, f"record {number}"))
                scores.append(record.loss)
            continue
        try:
            cell, score = record
            scores.append(float(score))
        except (TypeError, ValueError, OverflowError):
            raise PredictorError(
                f"a record is a trial, or a cell and its score; received {str(record)[:80]!r}"
            ) from None
        cells.append(parse(cell, f"record {number}") if isinstance(cell, str) else cell)
    if len(tasks) > 1:
        names = ", ".join(sorted(" at size ".join(task) for task in tasks))
        raise PredictorError(f"one predictor is of one task at one size; these are trials of {names}")
    return cells, scores, dict(zip(("task", "size"), next(iter(tasks), ()), strict=False))


def check_card(card: Mapping[str, Any] | None) -> None:
    """Raise PredictorError for a card that no file could hold."""
    try:
        size = len(json.dumps(dict(card or {}), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise PredictorError(f"a card is JSON: {error}") from None
    if size > MOST_CARD:
        raise PredictorError(f"a card has at most {MOST_CARD} characters of JSON; received {size}")


def finite(columns: Floats) -> Floats:
    """Further columns with a number everywhere: what is missing as -1, what is infinite or beyond as very large."""
    return np.clip(np.nan_to_num(columns, nan=_MISSING), -LARGEST, LARGEST)


def tamed(columns: Floats) -> Floats:
    """Columns [n, E] without entries so far from the others (a loss that is infinite, say) that these are all alike."""
    low, high = np.quantile(columns, [0.25, 0.75], axis=0)
    width = high - low
    inner = np.where(np.abs(columns) < LARGEST, columns, np.nan)
    some = np.isfinite(inner).any(axis=0)
    least = np.where(some, np.nanmin(np.where(some, inner, 0.0), axis=0), low)
    most = np.where(some, np.nanmax(np.where(some, inner, 0.0), axis=0), high)
    near, far = low - _FAR * width, high + _FAR * width
    return np.clip(columns, np.where(width > 0, near, least), np.where(width > 0, far, most))
