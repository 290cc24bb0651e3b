"""Predictors that come with the package: files in `fitted/`, one for each task, written by `scripts/fit_shipped.py`."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from predictors.errors import PredictorError
from predictors.files import load
from predictors.predictor import Predictor
from predictors.trials import read_trials

FOLDER = Path(__file__).parent / "fitted"
SUFFIX = ".recell"
TABLE = Path(__file__).parent / "tables" / "own.jsonl.gz"


def shipped_tasks() -> tuple[str, ...]:
    """The tasks of which a predictor comes with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def shipped(task: str = "text") -> Predictor:
    """The predictor of a task that comes with the package; its card says what it was fitted on.

    Raises PredictorError where there is none, PredictorFileError where its file does not fit this version.
    """
    tasks = shipped_tasks()
    if task in tasks:
        return load(FOLDER / f"{task}{SUFFIX}")
    if not tasks:
        raise PredictorError(
            "no predictor comes with this copy of recell; fit one to your trials: recell predictor fit RUN... -o FILE"
        )
    raise PredictorError(
        f"predictors of the tasks {', '.join(tasks)} come with recell; received the task {task!r}"
    )


def shipped_scores(task: str = "text") -> dict[str, float]:
    """What the cells of recell's own table reached when they were trained on a task, by digest: means over seeds.

    Infinite where every training diverged. Raises PredictorError where the table cannot be read.
    """
    losses = defaultdict(list)
    for trial in read_trials(TABLE):
        if trial.task == task and not math.isnan(trial.loss):
            losses[trial.digest].append(trial.loss)
    finite = {digest: [x for x in found if math.isfinite(x)] for digest, found in losses.items()}
    return {digest: sum(found) / len(found) if found else math.inf for digest, found in finite.items()}
