"""A finite table of trained cells, and a search space made of nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grammar import Cell, parse, zoo
from nas.errors import SearchError
from nas.searchers.base import UNTRIED
from predictors import read_benchmark, read_trials
from search_spaces import NoCellError, Variation

Floats = NDArray[np.float64]

TABLES = ("ptb", "wt2")


@dataclass(frozen=True, eq=False)
class Pool:
    """Cells of different digests with what their training gave: `scores` [n], lower is better, NaN where it failed."""

    name: str
    cells: tuple[Cell, ...]
    scores: Floats

    @classmethod
    def of(cls, name: str, cells: Iterable[Cell], scores: Iterable[float | None]) -> Pool:
        """From trials: cells of one digest become one, with the mean of their scores; None or NaN is a failure.

        Raises SearchError where no cell has a score.
        """
        known: dict[str, Cell] = {}
        found: dict[str, list[float]] = {}
        for cell, score in zip(cells, scores, strict=True):
            known.setdefault(cell.digest, cell)
            found.setdefault(cell.digest, []).append(np.nan if score is None else float(score))
        order = sorted(known)  # the order of the table means nothing
        means = [_mean(found[digest]) for digest in order]
        if not np.isfinite(means).any():
            raise SearchError(f"a pool needs cells with scores; {name} has {len(means)} cells and no score")
        return cls(name, tuple(known[digest] for digest in order), np.array(means, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """The place of each digest."""
        return {cell.digest: place for place, cell in enumerate(self.cells)}

    @property
    def worst(self) -> float:
        """The highest score: what a cell that failed counts as in means."""
        return float(np.nanmax(self.scores))

    @property
    def best(self) -> float:
        """The lowest score."""
        return float(np.nanmin(self.scores))

    def top(self, share: float) -> float:
        """The score of the last of the best `share` of all cells, at least one; those that failed are cells, too."""
        ordered = np.sort(np.where(np.isfinite(self.scores), self.scores, np.inf))
        return float(ordered[max(int(share * len(ordered)), 1) - 1])


def benchmark_pool(folder: Path, table: str = "ptb") -> Pool:
    """NAS-Bench-NLP on Penn Treebank ("ptb") or WikiText-2 ("wt2"), by class, as `read_benchmark` reads it."""
    if table not in TABLES:
        raise SearchError(f"the tables are {', '.join(TABLES)}; received {table!r}")
    found = read_benchmark(folder)
    scores = found.ptb if table == "ptb" else found.wt2
    there = np.isfinite(found.diverged) if table == "ptb" else np.isfinite(found.wt2)
    return Pool.of(table, [c for c, yes in zip(found.cells, there, strict=True) if yes], scores[there])


def trials_pool(file: Path, task: str) -> Pool:
    """The trials of `task` in a table as `read_trials` reads it; recell's own is predictors/tables/own.jsonl.gz.

    What was stopped early for being hopeless failed, as what diverged. Raises SearchError for a task that the table
    has not, and for one that it has in several sizes: their scores do not compare.
    """
    rows = read_trials(file)
    found = [row for row in rows if row.task == task and row.status not in UNTRIED]
    if not found:
        tasks = ", ".join(sorted({row.task for row in rows})) or "none"
        raise SearchError(f"{file} has no trials of task {task!r}; its tasks are {tasks}")
    sizes = sorted({row.size for row in found})
    if len(sizes) > 1:
        raise SearchError(f"{file} has {task} in the sizes {', '.join(sizes)}: their scores do not compare")
    name = f"{file.name.split('.')[0]}-{task}"
    return Pool.of(name, [parse(row.cell) for row in found], [row.score for row in found])


class PoolSpace:
    """A pool as a search space: every searcher that asks for samples and children runs on it unchanged.

    `sample` draws uniformly. A child of `vary` is one of the `near` nearest cells of its parent, drawn uniformly; with
    a second parent, one of those with the least sum of distances to both. The distance of two cells is by structure
    alone: the number of operations, each with those of its arguments (and whether these are x, an old state or a new
    one), that one canonical form has and the other has not.
    """

    operators = ("near",)

    def __init__(self, pool: Pool, near: int = 16) -> None:
        if len(pool) < 2:
            raise SearchError(f"a pool of {len(pool)} cells is no search space: it needs 2")
        self.pool = pool
        self.near = min(near, len(pool) - 1)
        self._counts = _counts(pool.cells)
        self._nearest: dict[int, NDArray[np.int64]] = {}

    @property
    def name(self) -> str:
        """The name of the pool."""
        return self.pool.name

    @cached_property
    def claims(self) -> tuple[str, ...]:
        """Names of known cells that are in the pool."""
        known = ("elman", "lstm", "lstm_cifg", "gru", "gru_cho", "mgu")
        return tuple(name for name in known if zoo(name).digest in self.pool.index)

    def sample(self, rng: np.random.Generator) -> Cell:
        """A cell of the pool."""
        return self.pool.cells[int(rng.integers(len(self.pool)))]

    def vary(
        self, cell: Cell, rng: np.random.Generator, other: Cell | None = None, operator: str | None = None
    ) -> Variation:
        """A cell of the pool near `cell`, or between it and `other`. Raises NoCellError for cells of no pool."""
        if operator not in (None, *self.operators):
            raise SearchError(
                f"the operators of a pool are {', '.join(self.operators)}; received {operator!r}"
            )
        first = self._place(cell)
        if other is None or other.digest == cell.digest:
            near = self._near(first)
            return Variation(self.pool.cells[int(near[rng.integers(len(near))])], "near", (cell,))
        second = self._place(other)
        sums = self._distances(first) + self._distances(second)
        sums[[first, second]] = np.inf
        least = np.argsort(sums, kind="stable")[: max(1, min(self.near, len(self.pool) - 2))]
        if not np.isfinite(sums[least[0]]):
            return self.vary(cell, rng)
        return Variation(self.pool.cells[int(least[rng.integers(len(least))])], "between", (cell, other))

    def __contains__(self, cell: object) -> bool:
        return isinstance(cell, Cell) and cell.digest in self.pool.index

    def _place(self, cell: Cell) -> int:
        place = self.pool.index.get(cell.digest)
        if place is None:
            raise NoCellError(f"not a cell of the pool {self.pool.name}: {cell.one_line}")
        return place

    def _near(self, place: int) -> NDArray[np.int64]:
        if place not in self._nearest:
            distances = self._distances(place)
            distances[place] = np.inf
            self._nearest[place] = np.argsort(distances, kind="stable")[: self.near]
        return self._nearest[place]

    def _distances(self, place: int) -> Floats:
        """To every cell of the pool, [n]."""
        return np.asarray(np.abs(self._counts - self._counts[place]).sum(axis=1), dtype=np.float64)


def _counts(cells: Sequence[Cell]) -> NDArray[np.int16]:
    """How often each label occurs in each cell, [n, labels]."""
    bags = [Counter(_labels(cell)) for cell in cells]
    names = {label: i for i, label in enumerate(sorted({label for bag in bags for label in bag}))}
    found = np.zeros((len(cells), len(names)), dtype=np.int16)
    for row, bag in zip(found, bags, strict=True):
        for label, count in bag.items():
            row[names[label]] = count
    return found


def _labels(cell: Cell) -> Iterable[str]:
    """Each operation of the canonical form with those of its arguments; what gives new states and the output."""
    graph = cell.canonical().graph
    for node in graph.nodes:
        yield f"{node.op}({','.join(sorted(graph.nodes[arg].op for arg in node.args))})"
    for new in graph.next:
        yield f"new {graph.nodes[new].op}"
    yield f"out {graph.nodes[graph.out].op}"


def _mean(scores: Sequence[float]) -> float:
    finite = [score for score in scores if np.isfinite(score)]
    return float(np.mean(finite)) if finite else float("nan")
