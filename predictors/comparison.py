"""The models beside each other, on the splits of `predictors.evaluation`: alone, and averaged with the ensemble."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from predictors.evaluation import PTB_TEST, Bench
from predictors.fitting import fit_rows
from predictors.metrics import coverage, kendall_tau
from predictors.models import MODELS, model_rows

_TIMED = 60  # cells whose encoding is timed
_WITH_INTERVALS = 100  # labels at which intervals are looked at


def compare(bench: Bench, seed: int) -> Mapping[str, float]:
    """Each model on 50, 100 and 200 Penn Treebank cells and on 50 and 100 WikiText-2 ones, and the mean of its rank
    and the ensemble's."""
    found: dict[str, float] = {}
    for name, truth, held, counts in (
        ("PTB", bench.table.ptb, PTB_TEST, (50, 100, 200)),
        ("WT2", bench.table.wt2, 0, (50, 100)),
    ):
        order = np.random.default_rng(seed).permutation(bench.where(truth))
        for count in counts:
            train = order[held : held + count]
            test = order[:held] if held else order[count:]
            found |= _setting(f"{name}, {count} cells", bench, train, test, truth, seed)
    return found


def _setting(
    name: str,
    bench: Bench,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    truth: NDArray[np.float64],
    seed: int,
) -> Mapping[str, float]:
    found: dict[str, float] = {}
    ranks: dict[str, NDArray[np.float64]] = {}
    for model in MODELS:
        check = model != "ensemble" and len(train) == _WITH_INTERVALS
        rows = bench.of(model)
        fitted = fit_rows(rows[train], truth[train], seed=seed, check=check, model=model)
        said = fitted.predict_rows(rows[test])
        ranks[model] = said.rank
        found[f"{name}, {model}"] = kendall_tau(said.rank, truth[test])
        if model != "ensemble":
            both = kendall_tau(said.rank + ranks["ensemble"], truth[test])
            found[f"{name}, {model} + ensemble"] = both
        if check:
            found[f"{name}, {model}, 90 % intervals cover"] = coverage(said.mean, said.std, truth[test])
    found[f"{name}, all four"] = kendall_tau(sum(ranks.values(), np.zeros(len(test))), truth[test])
    return found


def costs(bench: Bench, seed: int) -> Mapping[str, float]:
    """Seconds of a processor for the rows of 1,000 cells, read already, in this process."""
    chosen = np.random.default_rng(seed).permutation(len(bench.table.cells))[:_TIMED]
    cells = [bench.table.cells[i] for i in chosen]
    found = {}
    for model in MODELS:
        model_rows(cells[:1], model)  # what is loaded once
        start = time.process_time()
        model_rows(cells, model)
        found[f"seconds for 1,000 cells, {model}"] = (time.process_time() - start) * 1000 / len(cells)
    return found
