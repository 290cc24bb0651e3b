"""Fit the predictors that ship with recell to its own table of trained cells, and write the table's data card.

    python scripts/fit_shipped.py predictors/tables/own.jsonl.gz -o predictors/fitted --page docs/own_table.md

For each task of the table: cross validation over classes of cells (`--repeats` times 5 folds), the noise floor from
cells that were trained more than once, how the order of cells agrees with that on other tasks; then a predictor is
fitted to all cells and written as a small file, whose card holds all that. Some minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import nas  # noqa: E402
from grammar import GrammarError, parse  # noqa: E402
from nas.tasks import task_table  # noqa: E402
from predictors import (  # noqa: E402
    TABLE,
    PredictorError,
    Trial,
    cross_validation,
    encode,
    fit_rows,
    kendall_tau,
    load,
    read_trials,
)

Floats = NDArray[np.float64]

MADE_BY = "scripts/fit_shipped.py"
HOW = """## How it was made

Five campaigns (`recell search --method list --size table`, one worker each, on two cores of one machine, 1.9 hours in
all; recell 0.1.0, torch 2.13.0 for CPUs, ray 2.60.0, numpy 2.4.6, Python 3.11.7): the cells that
`scripts/own_table.py draw` gives, on both tasks; samples and mutants of `nasbench_nlp` (`--seed 7 --shares
nasbench_nlp=700+300 --without-zoo`, stopped on the way) on text only; and 40 cells of the first draw again with
another seed on each task, for the noise.

- *text* is Tiny Shakespeare (`input.txt`, SHA-256 86c4e6aa9db7c042...), 900 steps of 16 pieces of 32 characters,
  learning rate 0.01. It is high: a third of the trials diverged, five of six of them cells of `nasbench_nlp`.
- *modular_arithmetic* is generated, 2,500 steps of 32 sequences of at most 14, learning rate 0.004.
- One layer, as wide as it takes to reach `training params`; weight decay 0.01, gradients clipped at 1, warm-up of 5 %.
- A trial takes 4 to 6 seconds, less than the 20 to 30 that were planned: cells run as generated C.
"""
GUIDE = """## How to read it

Scores are validation losses in `unit`, lower is better; a cell that was trained with two seeds counts with its mean.

- *Table*: a trial is one training, a class all cells that compute the same. `from ...` counts classes, `trials ...`
  trials: `ok`, `diverged` (no finite loss), `hopeless` (stopped early, far behind). Hopeless ones are left out of
  everything below: they have no final score, so the predictors never saw how bad such cells become.
- *Noise*: `sd of seeds` is how far trainings of one cell differ, `sd of cells` how far cells differ from each other,
  `tau of two seeds` how far two trainings of the same cells agree on their order.
- `tau with task` compares the orders of the same cells on the two tasks.
- *Cross validation* holds out a fifth of the classes at a time: the figures to go by. `best third` is the order
  within the best third alone; `auc of divergence` says little where few cells failed (see `failed cells`).
- *Held out* are the same figures from the fit itself; its intervals were set with these cells.
- `cells` are classes with a finite score, `failed cells` those that always diverged.
- Intervals hold 90 % of cells that were *not* fitted. Those of fitted cells are wider, so that they hold 90 % of these
  too; `recell predict` tells what they reached.
"""


@dataclass(frozen=True)
class OnTask:
    """What a table says of one task: a mean loss for each class of cells, and the losses of each class."""

    task: str
    size: str
    trials: tuple[Trial, ...]
    losses: Mapping[str, tuple[float, ...]]

    @property
    def mean(self) -> dict[str, float]:
        """The mean of the finite losses of each class; infinite where every training diverged."""
        return {digest: _mean(found) for digest, found in self.losses.items()}


def by_task(trials: Sequence[Trial]) -> list[OnTask]:
    """The tasks of a table, by name. Raises PredictorError for one at two sizes: their scores mean different things."""
    found = []
    for task in sorted({trial.task for trial in trials}):
        own = tuple(trial for trial in trials if trial.task == task)
        sizes = sorted({trial.size for trial in own})
        if len(sizes) > 1:
            raise PredictorError(
                f"the table has the task {task} at the sizes {', '.join(sizes)}: one is wanted"
            )
        losses: dict[str, tuple[float, ...]] = {}
        for trial in own:
            if not math.isnan(trial.loss):
                losses[trial.digest] = (*losses.get(trial.digest, ()), trial.loss)
        found.append(OnTask(task, sizes[0], own, losses))
    return found


def noise(on: OnTask) -> dict[str, Any]:
    """How far scores of one cell differ from seed to seed, and the tau of two trainings of the same cells."""
    repeated = [np.array([x for x in found if math.isfinite(x)]) for found in on.losses.values()]
    repeated = [values for values in repeated if len(values) > 1]
    if len(repeated) < 3:
        return {"repeated_cells": len(repeated)}
    within = float(np.mean([values.var(ddof=1) for values in repeated]))
    finite = np.array([mean for mean in on.mean.values() if math.isfinite(mean)])
    return {
        "repeated_cells": len(repeated),
        "sd_of_seeds": round(math.sqrt(within), 5),
        "sd_of_cells": round(float(finite.std(ddof=1)), 5),
        "tau_of_two_seeds": round(
            kendall_tau([values[0] for values in repeated], [values[1] for values in repeated]), 4
        ),
    }


def agreement(on: OnTask, others: Sequence[OnTask]) -> dict[str, float]:
    """Kendall's tau of the order of cells here and on each other task, over the cells that have scores on both."""
    own, found = on.mean, {}
    for other in others:
        theirs = other.mean
        both = [d for d in own if d in theirs and math.isfinite(own[d]) and math.isfinite(theirs[d])]
        if other is not on and len(both) > 2:
            found[other.task] = round(kendall_tau([own[d] for d in both], [theirs[d] for d in both]), 4)
    return found


def card_of(on: OnTask, others: Sequence[OnTask], table: Path) -> dict[str, Any]:
    """What is said of the table and the task; `fit_rows` adds the versions, and what it measures itself."""
    known = {row.name: row for row in task_table()}.get(on.task)
    ok = [trial for trial in on.trials if trial.status == "ok"]
    origins = {trial.digest: trial.origin or "unknown" for trial in on.trials}
    spaces = {trial.digest: trial.space for trial in on.trials if trial.space}
    return {
        "task": on.task,
        "size": on.size,
        "unit": known.metric if known else "",
        "training": {
            **(known.sizes.get(on.size, {}) if known else {}),
            "median_params": int(np.median([trial.params for trial in ok])),
            "median_seconds": round(float(np.median([trial.seconds for trial in ok])), 1),
        },
        "table": {
            "file": table.name,
            "trials": len(on.trials),
            "classes": len(origins),
            **{f"from_{name}": count for name, count in sorted(Counter(origins.values()).items())},
            **{f"of_{name}": count for name, count in sorted(Counter(spaces.values()).items())},
            **{f"trials_{name}": n for name, n in sorted(Counter(t.status for t in on.trials).items())},
        },
        "noise": noise(on),
        "tau_with_task": agreement(on, others),
        "recell": nas.__version__,
        "made_by": MADE_BY,
    }


def page(cards: Sequence[Mapping[str, Any]], command: str, how: str = "") -> str:
    """The data card of the table in Markdown; `how` says what its numbers cannot."""
    names = [card["task"] for card in cards]
    lines = [
        "# recell's own table of trained cells",
        "",
        f"Trained cells of the zoo, samples of spaces and their mutants, on the tasks {' and '.join(names)}, drawn by",
        "`scripts/own_table.py` and trained by campaigns of recell; `predictors.read_trials` reads it.",
        "The predictors that ship are fitted to it.",
        f"This page is written by `{command}`.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    flat = [dict(_flat(card)) for card in cards]
    for name in dict.fromkeys(name for one in flat for name in one):
        if name not in ("task", "table file", "made by", "encoding", "extras", "prior", "seed"):
            lines.append(f"| {name} | {' | '.join(_text(one.get(name)) for one in flat)} |")
    lines += ["", *([how] if how else []), GUIDE]
    return "\n".join(lines)


def _flat(card: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in card.items():
        whole = f"{before}{name}".replace("_", " ")
        found += _flat(value, f"{whole} ") if isinstance(value, Mapping) else [(whole, value)]
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.inf


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("-o", dest="out", type=Path, required=True, help="the folder of the predictors")
    parser.add_argument("--page", type=Path, help="the Markdown file to write the data card to")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(argv)
    if asked.repeats < 1:
        parser.error(f"--repeats is at least 1; received {asked.repeats}")
    try:
        tasks = by_task(read_trials(asked.table))
        cells = {trial.digest: trial.cell for on in tasks for trial in on.trials}
        rows = {digest: encode([parse(text)])[0] for digest, text in sorted(cells.items())}
        asked.out.mkdir(parents=True, exist_ok=True)
        cards = [fitted(on, tasks, rows, asked.table, asked.out, asked.repeats) for on in tasks]
    except (GrammarError, PredictorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if asked.page:
        command = (
            f"python {MADE_BY} {asked.table} -o {asked.out} --page {asked.page} --repeats {asked.repeats}"
        )
        how = HOW if asked.table.resolve() == TABLE.resolve() else ""
        asked.page.write_text(page(cards, command, how), encoding="utf-8")
    return 0


def fitted(
    on: OnTask, tasks: Sequence[OnTask], rows: Mapping[str, Floats], table: Path, out: Path, repeats: int
) -> dict[str, Any]:
    """Measure, fit and write the predictor of one task; its card."""
    digests = sorted(on.mean)
    x, y = np.array([rows[digest] for digest in digests]), np.array([on.mean[digest] for digest in digests])
    card = {**card_of(on, tasks, table), "cross_validation": cross_validation(x, y, repeats)}
    model = fit_rows(x, y, seed=0, card=card).knowing(digests, x, y)
    path = out / f"{on.task}.recell"
    model.save(path, small=True)
    small, whole = load(path).predict_rows(x), model.predict_rows(x)
    print(
        json.dumps(dict(model.card), indent=1),
        f"\n{path}: {path.stat().st_size:,} bytes; tau of what it says and what the whole predictor says: "
        f"{kendall_tau(small.rank, whole.rank):.4f}; means differ by {np.abs(small.mean - whole.mean).mean():.2g}",
        flush=True,
    )
    return dict(model.card)


if __name__ == "__main__":
    sys.exit(main())
