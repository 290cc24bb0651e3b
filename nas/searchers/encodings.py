"""Rows of `predictors.encode` by digest, each made once in a process: encoding a cell takes longer than ranking it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grammar import Cell
from nas.errors import SearchError
from predictors import encode, encoding_key, encoding_names

Floats = NDArray[np.float64]

GROUPS = ("statistics", "flow", "probes")
RECENT = 3  # tokens
MOST = 20_000  # rows that are kept: some 230 MB


class Encodings:
    """Rows of cells as `predictors.fit_rows` takes them; columns of groups that are left out are 0.

    The longest known row goes when there are more than MOST. Use `encodings(groups)`, which all searchers of a
    process share: a row depends on the digest alone.
    """

    def __init__(self, groups: Sequence[str] = GROUPS) -> None:
        for group in groups:
            if group not in GROUPS:
                raise SearchError(f"features are of {', '.join(GROUPS)}; received {group!r}")
        self.groups = tuple(group for group in GROUPS if group in groups)
        names = [name.split(".")[0] for name in encoding_names()]
        self._columns = np.flatnonzero([name in self.groups for name in names])
        self._width = len(names)
        self._rows: dict[str, Floats] = {}

    def __call__(self, cells: Sequence[Cell]) -> Floats:
        """One row per cell: float64 [n, len(predictors.encoding_names())]."""
        digests = [cell.digest for cell in cells]
        new = {d: cell for d, cell in zip(digests, cells, strict=True) if d not in self._rows}
        if new:
            self._keep(list(new), encode(new.values(), self.groups))
        found = np.zeros((len(cells), self._width))
        if digests:
            found[:, self._columns] = [self._rows[digest] for digest in digests]
        while len(self._rows) > MOST:
            del self._rows[next(iter(self._rows))]
        return found

    def save(self, path: Path) -> None:
        """Write the rows of this process to a file, to be read by `load`."""
        rows = np.array([*self._rows.values()]).reshape(len(self._rows), len(self._columns))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".part").open("wb") as file:
            np.savez(file, key=encoding_key(self.groups), digests=np.array([*self._rows], "U64"), rows=rows)
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> bool:
        """Take over the rows of a file; False if there is none, or if its columns mean something else."""
        if not path.is_file():
            return False
        with np.load(path, allow_pickle=False) as held:
            if str(held["key"]) != encoding_key(self.groups):
                return False
            self._keep([str(digest) for digest in held["digests"]], held["rows"])
        return True

    def _keep(self, digests: Sequence[str], rows: Floats) -> None:
        self._rows.update(zip(digests, rows, strict=True))


@functools.cache
def encodings(groups: tuple[str, ...] = GROUPS) -> Encodings:
    """The rows that this process has, for these groups of columns."""
    return Encodings(groups)


@functools.cache
def _recent() -> list[int]:
    names = encoding_names()
    return [names.index(f"probes.layer3_after0_lag{lag}_0") for lag in range(RECENT)]


def untrained_score(rows: Floats) -> Floats:
    """How little an untrained stack answers to the last three tokens, [n]; lower is better. 0 without probes.

    Minus the mean of the decimal logarithms of the response to each, relative to the spread of the output, at the
    usual initialisation: a model of sequences must see them. No label is in it. Kendall's tau with the losses of
    NAS-Bench-NLP on Penn Treebank is 0.47, but it tells little among the good cells.
    """
    return np.asarray(-rows[:, _recent()].mean(axis=1))
