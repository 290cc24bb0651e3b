"""Cells as rows of numbers: statistics of the graph, flow through it, and untrained probes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from grammar import Cell
from predictors.errors import PredictorError
from predictors.flow import flow_features, flow_names
from predictors.given import cells_of
from predictors.probes import probe_features, probe_names
from predictors.statistics import cell_statistics, statistic_names

GROUPS = ("statistics", "flow", "probes")
ENCODING_VERSION = 2  # raised when any column changes what it means


def encoding_names(groups: Sequence[str] = GROUPS) -> tuple[str, ...]:
    """The names of the columns of `encode`, as `group.name`. Raises PredictorError for an unknown group."""
    return _names(tuple(groups))


@functools.cache
def _names(groups: tuple[str, ...]) -> tuple[str, ...]:
    names: dict[str, Callable[[], tuple[str, ...]]] = {
        "statistics": statistic_names,
        "flow": flow_names,
        "probes": probe_names,
    }
    for group in groups:
        if group not in names:
            raise PredictorError(f"an encoding is made of {', '.join(GROUPS)}; received {group!r}")
    return tuple(f"{group}.{name}" for group in groups for name in names[group]())


def encode(cells: Iterable[Cell], groups: Sequence[str] = GROUPS) -> NDArray[np.float64]:
    """One row per cell, all finite: float64 [n, len(encoding_names(groups))]. Depends on the canonical form only."""
    width = len(encoding_names(groups))
    asked = [cell.canonical() for cell in cells_of(cells)]
    small = list(dict.fromkeys(asked))  # of one class there is one canonical cell
    makers: dict[str, Callable[[Sequence[Cell]], NDArray[np.float64]]] = {
        "statistics": cell_statistics,
        "flow": _flow,
        "probes": probe_features,
    }
    columns = [makers[group](small) for group in groups]
    rows = np.concatenate(columns, axis=1) if columns else np.empty((len(small), width))
    if len(small) == len(asked):
        return rows
    place = {cell: i for i, cell in enumerate(small)}
    return rows[[place[cell] for cell in asked]]


def encoding_key(groups: Sequence[str] = GROUPS) -> str:
    """16 hex digits that change when the columns do: a predictor refuses to read rows of another encoding."""
    text = f"{ENCODING_VERSION}:" + ",".join(encoding_names(groups))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flow(cells: Sequence[Cell]) -> NDArray[np.float64]:
    rows = [list(flow_features(cell).values()) for cell in cells]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(flow_names()))
