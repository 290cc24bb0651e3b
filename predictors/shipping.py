"""Predictors that come with the package: files in `fitted/`, one for each task, written by `scripts/fit_shipped.py`."""

from __future__ import annotations

from pathlib import Path

from predictors.errors import PredictorError
from predictors.files import load
from predictors.predictor import Predictor

FOLDER = Path(__file__).parent / "fitted"
SUFFIX = ".recell"


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
