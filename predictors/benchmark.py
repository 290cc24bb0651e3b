"""The two tables of trained NAS-Bench-NLP cells that predictors are judged on, by canonical class.

WikiText-2: Klyuchnikov et al., "NAS-Bench-NLP", 2020. Penn Treebank: Serianni and Kalita, "Training-free
Neural Architecture Search for RNNs and Transformers", ACL 2023. Classes are digests: cells that are
the same function are one entry, so that no split can have twins on both sides.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grammar import Cell, from_nasbench_nlp
from predictors.errors import PredictorError

PTB_FILE = Path("nas-bench-nlp-ptb") / "cells.jsonl"
WT2_FILE = Path("nas-bench-nlp-wikitext2") / "cells.jsonl"
NEVER_FINITE = 8.0  # the score of a WikiText-2 cell without a finite loss: above unigram level (6.9)
CURVE = 5  # epochs of validation loss that are kept


@dataclass(frozen=True)
class Benchmark:
    """`cells[i]` and what is known of it; NaN where nothing is. Scores are losses, lower is better.

    `ptb`: mean finite test loss on Penn Treebank, NaN also if all runs diverged. `diverged`: 1 if all runs
    diverged, 0 if not. `wt2`: mean over runs of the best validation loss. `curve`: mean
    validation losses of the first epochs on WikiText-2, [n, CURVE].
    """

    cells: tuple[Cell, ...]
    ptb: NDArray[np.float64]
    diverged: NDArray[np.float64]
    wt2: NDArray[np.float64]
    curve: NDArray[np.float64]


def read_benchmark(folder: Path) -> Benchmark:
    """The tables under `folder`. Raises PredictorError where they are missing or not of their format."""
    cells: dict[str, Cell] = {}
    runs: dict[str, dict[str, list[Any]]] = defaultdict(lambda: {"ptb": [], "wt2": [], "curve": []})
    for row in _rows(folder / PTB_FILE):
        digest = _remember(cells, row)
        runs[digest]["ptb"] += [np.nan if loss is None else float(loss) for loss in row["test_losses"]]
    for row in _rows(folder / WT2_FILE):
        digest = _remember(cells, row)
        losses = np.array([np.nan if loss is None else loss for loss in row["val_losses"]], dtype=float)
        finite = losses[np.isfinite(losses)]
        runs[digest]["wt2"].append(finite.min() if finite.size else np.nan)
        first = np.full(CURVE, np.nan)
        first[: min(CURVE, losses.size)] = losses[:CURVE]
        runs[digest]["curve"].append(first)
    order = sorted(cells)  # by digest: the order of the files, and ids, must mean nothing
    ptb = [_mean(runs[d]["ptb"]) for d in order]
    diverged = [float(np.isnan(_mean(r))) if (r := runs[d]["ptb"]) else np.nan for d in order]
    wt2 = [_mean(r, NEVER_FINITE) if (r := runs[d]["wt2"]) else np.nan for d in order]
    curve = [_mean_curve(runs[d]["curve"]) for d in order]
    arrays = (np.array(a, dtype=np.float64) for a in (ptb, diverged, wt2, curve))
    return Benchmark(tuple(cells[d] for d in order), *arrays)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PredictorError(f"cannot read the table {path}: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        row = json.loads(line)
        if "recipe" not in row:
            raise PredictorError(f"{path}:{number}: a row has a `recipe`; received {', '.join(row)}")
        yield row


def _remember(cells: dict[str, Cell], row: dict[str, Any]) -> str:
    cell = from_nasbench_nlp(row["recipe"])
    cells.setdefault(cell.digest, cell)
    return cell.digest


def _mean(losses: Iterable[float], otherwise: float = np.nan) -> float:
    finite = [loss for loss in losses if np.isfinite(loss)]
    return float(np.mean(finite)) if finite else otherwise


def _mean_curve(curves: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    if not curves:
        return np.full(CURVE, np.nan)
    stacked = np.array(curves)
    seen = np.isfinite(stacked)
    total = np.where(seen, stacked, 0.0).sum(axis=0)
    return np.where(seen.any(axis=0), total / np.maximum(seen.sum(axis=0), 1), np.nan)
