"""Tables of trained cells: JSON lines, compressed, one for each trial. recell's own is `tables/own.jsonl.gz`."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predictors.errors import PredictorError

MOST_BYTES = 1 << 28  # of a table, once it is read


@dataclass(frozen=True)
class Trial:
    """One training. `cell` is canonical text; `score` is None unless `status` is "ok", and lower is better.

    `origin` is "zoo", "sample" or "mutant", `space` that of a sample or mutant, `name` that of a cell of the zoo; each
    is "" where it is not known. `curve` holds losses after numbers of steps.
    """

    cell: str
    digest: str
    task: str
    size: str
    seed: int
    status: str
    score: float | None
    name: str
    origin: str
    space: str
    curve: tuple[tuple[int, float], ...]
    params: int
    width: int
    steps: int
    seconds: float

    @property
    def loss(self) -> float:
        """The score; infinite where training diverged, NaN where it says nothing about the cell."""
        if self.status == "ok" and self.score is not None:
            return self.score
        return math.inf if self.status == "diverged" else math.nan


def read_trials(path: str | Path) -> list[Trial]:
    """The rows of a table (.jsonl.gz). Raises PredictorError for a file that is none, naming the first bad line."""
    place = Path(path)
    try:
        with gzip.open(place) as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise PredictorError(f"cannot read the table of trials {place}: {error}") from error
    if len(data) > MOST_BYTES:
        raise PredictorError(f"{place}: a table of trials holds at most {MOST_BYTES} bytes")
    return list(_rows(place, data))


def _rows(place: Path, data: bytes) -> Iterator[Trial]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield _trial(json.loads(line))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise PredictorError(
                f"{place}: line {number} is not a trial: {type(error).__name__}: {error}"
            ) from error


def _trial(row: Any) -> Trial:
    score = None if row["score"] is None else float(row["score"])
    if score is not None and not math.isfinite(score):
        raise ValueError(f"a score is a finite number or null; received {score}")
    return Trial(
        cell=_text(row, "cell"),
        digest=_text(row, "digest"),
        task=_text(row, "task"),
        size=_text(row, "size"),
        seed=int(row["seed"]),
        status=_text(row, "status"),
        score=score,
        name=str(row.get("name") or ""),
        origin=str(row.get("origin") or ""),
        space=str(row.get("space") or ""),
        curve=tuple((int(step), float(loss)) for step, loss in row.get("curve") or ()),
        params=int(row["params"] or 0),
        width=int(row["width"] or 0),
        steps=int(row["steps"] or 0),
        seconds=float(row["seconds"] or 0.0),
    )


def _text(row: Any, name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text; received {value!r}")
    return value
