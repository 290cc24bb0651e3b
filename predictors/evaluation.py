"""How good predictors are: the benchmark's rows, each over seeds, with class-level splits.

A part of the benchmark takes a seed and gives values by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from predictors.benchmark import Benchmark
from predictors.encoding import GROUPS, encoding_names
from predictors.fitting import failing_auc, fit_rows
from predictors.metrics import coverage, kendall_tau, spearman
from predictors.models import STRUCTURE, own_columns
from predictors.predictor import Predictor
from predictors.shipping import shipped

Floats = NDArray[np.float64]

GOOD = 5.4  # WikiText-2 cells better than this are told apart worst
PTB_TEST = 500
CURVE_SIZES = (12, 25, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Row:
    """One row of the table: what it measures, one value per seed, and the goal (0 for none)."""

    name: str
    values: tuple[float, ...]
    goal: float

    def text(self) -> str:
        """The row as a line of a Markdown table."""
        values = np.array([v for v in self.values if np.isfinite(v)])
        if not len(values):
            return f"| {self.name} | none | 0 | |"
        goal = f"{self.goal:.3f}".rstrip("0") if self.goal else ""
        spread = f" +- {values.std(ddof=1):.3f}" if len(values) > 1 else ""
        return f"| {self.name} | {values.mean():.3f}{spread} | {len(values)} | {goal} |"


@dataclass(frozen=True)
class Bench:
    """The benchmark with the rows of `encode` for its cells, and those of other models that were asked for."""

    table: Benchmark
    rows: Floats
    others: dict[str, Floats] = field(default_factory=dict)

    def of(self, model: str) -> Floats:
        """The rows of a model for all cells; they are made once."""
        if model == "ensemble":
            return self.rows
        if model not in self.others:
            known = self.rows[:, : len(encoding_names(STRUCTURE))]
            own = own_columns(list(self.table.cells), model)
            self.others[model] = np.concatenate([known, own], axis=1)
        return self.others[model]

    def where(self, known: Floats) -> NDArray[np.int64]:
        return np.flatnonzero(np.isfinite(known))

    @property
    def ptb_only(self) -> NDArray[np.int64]:
        """Finite Penn Treebank cells of which WikiText-2 has no twin."""
        return np.flatnonzero(np.isfinite(self.table.ptb) & ~np.isfinite(self.table.wt2))


Measure = Callable[[Bench, int], Mapping[str, float]]


def ptb(bench: Bench, seed: int) -> Mapping[str, float]:
    """50, 100 and 200 Penn Treebank cells against 500 others."""
    order = np.random.default_rng(seed).permutation(bench.where(bench.table.ptb))
    test = order[:PTB_TEST]
    found: dict[str, float] = {}
    for count in (50, 100, 200):
        train = order[PTB_TEST : PTB_TEST + count]
        model = fit_rows(bench.rows[train], bench.table.ptb[train], seed=seed)
        said = model.predict_rows(bench.rows[test])
        truth = bench.table.ptb[test]
        best = truth <= np.quantile(truth, 1 / 3)
        found[f"PTB, {count} cells"] = kendall_tau(said.rank, truth)
        found[f"PTB, {count} cells, Spearman"] = spearman(said.rank, truth)
        found[f"PTB, {count} cells, inside the best third"] = kendall_tau(said.rank[best], truth[best])
        found[f"PTB, {count} cells, 90 % intervals cover"] = coverage(said.mean, said.std, truth)
    return found


def ptb_many(bench: Bench, seed: int) -> Mapping[str, float]:
    """1,300 Penn Treebank cells against all others."""
    order = np.random.default_rng(seed).permutation(bench.where(bench.table.ptb))
    train, test = order[:1300], order[1300:]
    model = fit_rows(bench.rows[train], bench.table.ptb[train], seed=seed, check=False)
    return {"PTB, 1,300 cells": kendall_tau(model.predict_rows(bench.rows[test]).rank, bench.table.ptb[test])}


def wt2(bench: Bench, seed: int) -> Mapping[str, float]:
    """50 and 100 WikiText-2 cells against the others; without and with one epoch of each query's curve."""
    order = np.random.default_rng(seed).permutation(bench.where(bench.table.wt2))
    found: dict[str, float] = {}
    for count in (50, 100):
        for name, extras in (
            (f"WT2, {count} cells", None),
            (f"WT2, {count} cells + 1 epoch", first_epoch(bench)),
        ):
            found |= _on_wt2(name, bench, order[:count], order[count:], seed, extras, None)
    return found


def beside_shipped(bench: Bench, seed: int) -> Mapping[str, float]:
    """The predictor of `text` that ships: without any label, and as the prior of few labels, on the same splits."""
    prior = shipped("text")
    found: dict[str, float] = {}
    for name, truth, held, counts in (
        ("PTB", bench.table.ptb, PTB_TEST, (50, 100, 200)),
        ("WT2", bench.table.wt2, 0, (50, 100)),
    ):
        order = np.random.default_rng(seed).permutation(bench.where(truth))
        found[f"{name}, no cell, by what ships"] = kendall_tau(
            prior.predict_rows(bench.rows[order]).rank, truth[order]
        )
        for count in counts:
            train, test = order[held : held + count], order[:held] if held else order[count:]
            model = fit_rows(bench.rows[train], truth[train], seed=seed, prior=prior, check=False)
            said = model.predict_rows(bench.rows[test])
            found[f"{name}, {count} cells + what ships"] = kendall_tau(said.rank, truth[test])
    return found


def first_epoch(bench: Bench) -> Floats:
    """The loss after one epoch [n, 1], -1 where there is none."""
    return np.nan_to_num(bench.table.curve[:, :1], nan=-1.0)


def prior_of(bench: Bench, seed: int) -> Predictor:
    """A predictor of all finite Penn Treebank cells without a twin in WikiText-2."""
    train = bench.ptb_only
    return fit_rows(bench.rows[train], bench.table.ptb[train], seed=seed, check=False)


def transfer(bench: Bench, prior: Predictor) -> Mapping[str, float]:
    """A predictor of Penn Treebank on all WikiText-2 cells."""
    test = bench.where(bench.table.wt2)
    rank, truth = prior.predict_rows(bench.rows[test]).rank, bench.table.wt2[test]
    good = truth < GOOD
    return {
        "PTB only, on WT2": kendall_tau(rank, truth),
        "PTB only, on WT2, below 5.4": kendall_tau(rank[good], truth[good]),
    }


def wt2_with_prior(bench: Bench, seed: int, prior: Predictor) -> Mapping[str, float]:
    """A predictor of Penn Treebank and 50 or 100 WikiText-2 cells."""
    order = np.random.default_rng(seed).permutation(bench.where(bench.table.wt2))
    found: dict[str, float] = {}
    for count in (50, 100):
        found |= _on_wt2(f"PTB + {count} WT2 cells", bench, order[:count], order[count:], seed, None, prior)
    return found


def _on_wt2(
    name: str,
    bench: Bench,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int,
    extras: Floats | None,
    prior: Predictor | None,
) -> Mapping[str, float]:
    part = (lambda index: None) if extras is None else (lambda index: extras[index])
    model = fit_rows(bench.rows[train], bench.table.wt2[train], seed=seed, extras=part(train), prior=prior)
    said, truth = model.predict_rows(bench.rows[test], part(test)), bench.table.wt2[test]
    good = truth < GOOD
    return {
        name: kendall_tau(said.rank, truth),
        f"{name}, below 5.4": kendall_tau(said.rank[good], truth[good]),
        f"{name}, 90 % intervals cover": coverage(said.mean, said.std, truth),
    }


def divergence(bench: Bench, seed: int) -> Mapping[str, float]:
    """200 Penn Treebank cells, diverged ones among them, against all others."""
    order = np.random.default_rng(seed).permutation(bench.where(bench.table.diverged))
    scores = np.where(np.isfinite(bench.table.ptb), bench.table.ptb, np.inf)
    train, test = order[:200], order[200:]
    model = fit_rows(bench.rows[train], scores[train], seed=seed, check=False)
    return {
        "divergence, 200 PTB cells (AUC)": failing_auc(model, bench.rows[test], bench.table.diverged[test])
    }


GOALS = {
    "PTB, 50 cells": 0.67,
    "PTB, 100 cells": 0.72,
    "PTB, 200 cells": 0.76,
    "PTB, 1,300 cells": 0.83,
    "WT2, 50 cells": 0.68,
    "WT2, 100 cells": 0.73,
    "PTB only, on WT2": 0.79,
    "PTB + 50 WT2 cells": 0.80,
    "PTB + 100 WT2 cells": 0.81,
    "WT2, 50 cells + 1 epoch": 0.76,
    "WT2, 100 cells + 1 epoch": 0.80,
    "WT2, 100 cells, below 5.4": 0.55,
    "divergence, 200 PTB cells (AUC)": 0.985,
}


def ablation(bench: Bench, seed: int) -> Mapping[str, float]:
    """100 Penn Treebank cells against 500 others, with some groups of columns only."""
    order = np.random.default_rng(seed).permutation(bench.where(bench.table.ptb))
    of = np.array([name.split(".")[0] for name in encoding_names()])
    return {
        f"PTB, 100 cells, by {' + '.join(groups)}": _on_ptb(
            bench, np.where(np.isin(of, groups), bench.rows, 0.0), order, 100, seed
        )
        for size in (1, 2)
        for groups in itertools.combinations(GROUPS, size)
    }


def curves(bench: Bench, seed: int) -> Mapping[str, float]:
    """From 12 to 1,000 Penn Treebank cells against 500 others."""
    order = np.random.default_rng(seed).permutation(bench.where(bench.table.ptb))
    return {f"PTB, curve, {n} cells": _on_ptb(bench, bench.rows, order, n, seed) for n in CURVE_SIZES}


def _on_ptb(bench: Bench, rows: Floats, order: NDArray[np.int64], count: int, seed: int) -> float:
    train, test = order[PTB_TEST : PTB_TEST + count], order[:PTB_TEST]
    model = fit_rows(rows[train], bench.table.ptb[train], seed=seed, check=False)
    return kendall_tau(model.predict_rows(rows[test]).rank, bench.table.ptb[test])


MEASURES: Mapping[str, Measure] = {
    "ptb": ptb,
    "wt2": wt2,
    "divergence": divergence,
    "many": ptb_many,
    "ablation": ablation,
    "curves": curves,
    "shipped": beside_shipped,
}


def rows_of(found: Iterable[Mapping[str, float]]) -> list[Row]:
    """Rows of what parts gave, one mapping for each seed: those with goals first, in the order of the goals."""
    values: dict[str, list[float]] = {}
    for one in found:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    order = [*(name for name in GOALS if name in values), *(name for name in values if name not in GOALS)]
    return [Row(name, tuple(values[name]), _goal(name)) for name in order]


def _goal(name: str) -> float:
    return 0.9 if name.startswith("novelty") else GOALS.get(name, 0.0)
