"""A run as an Optuna study in a journal file, for optuna-dashboard and for Optuna's own plots."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from grammar import OPS, parse
from nas.campaign import Run, TrialRecord
from nas.errors import RunError

RUN_KEY = "recell:run"  # which run a study is of: the hash of its settings, and when it began

LARGEST = 1 << 40
PARAMS: dict[str, BaseDistribution] = dict.fromkeys(
    ("operations", "states", "params", "width"), IntDistribution(0, LARGEST)
)
"""What of a cell stands as parameters of a trial; its text and lineage are user attributes."""


def write_study(run: Run, file: str | Path) -> tuple[str, int]:
    """Add what of a run has ended to its study in `file`; the study's name, and how many trials are new.

    A study has the name of the folder that the run had when it was first written. The file is made if need be, and may
    hold other studies. Written again, it gets the trials that ended since. A trial that failed is one of state FAIL;
    one that was trained less far than the recipe is PRUNED; duplicates and supernets are none. Raises RunError if the
    study of that name is of another run, if the run's trials are not those of its study (a copy of the folder went
    another way), or if the file is no journal of Optuna.
    """
    _check(Path(file))
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each study and trial otherwise
    try:
        with _alone(Path(file)):
            storage = JournalStorage(JournalFileBackend(str(file)))
            name = _name(run, storage)
            study = optuna.create_study(
                storage=storage, study_name=name, direction="minimize", load_if_exists=True
            )
            new = _add(run, study)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"cannot keep a study in {file}: {error}") from error
    finally:
        optuna.logging.set_verbosity(said)
    return name, new


def _check(file: Path) -> None:
    """Raise RunError for a file that is something else: Optuna would write into it all the same."""
    if not file.exists():
        return
    try:
        with file.open(encoding="utf-8") as lines:
            first = lines.readline()
        journal = not first or "op_code" in json.loads(first)
    except (OSError, ValueError, TypeError):
        journal = False
    if not journal:
        raise RunError(f"cannot keep a study in {file}: it is no journal file of Optuna")


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Nobody else adds trials here meanwhile: what two find missing they would both add."""
    with file.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _key(run: Run) -> str:
    """Runs of one configuration have one hash; no two began in the same moment."""
    return f"{run.first['hash']} {run.first['t']}"


def _name(run: Run, storage: JournalStorage) -> str:
    """The name of the run's study: the one that it has already, wherever its folder was, or that of its folder."""
    for frozen in storage.get_all_studies():
        if frozen.user_attrs.get(RUN_KEY) == _key(run):
            return frozen.study_name
    return run.path.resolve().name


def _add(run: Run, study: optuna.Study) -> int:
    """Add the trials that the study lacks; how many."""
    known = study.user_attrs.get(RUN_KEY)
    there = {t.user_attrs["trial"]: t.user_attrs["digest"] for t in study.get_trials(deepcopy=False)}
    same = known in (None, _key(run), run.first["hash"])  # the hash alone: written before there was more
    if not same or any(
        number >= len(run.trials) or run.trials[number].digest != d for number, d in there.items()
    ):
        raise RunError(f"the study {study.study_name!r} is of another run; give another file")
    if known != _key(run):
        facts = {"metric": run.task["metric"], "space": run.space["name"], "method": run.config.method}
        for key, value in {**facts, "task": run.config.task, RUN_KEY: _key(run)}.items():
            study.set_user_attr(key, value)
    new = [t for t in run.trials if t.ended is not None and t.supernet is None and t.id not in there]
    for trial in sorted(new, key=lambda t: (t.ended, t.id)):
        study.add_trial(_frozen(run, trial))
    return len(new)


def _state(trial: TrialRecord) -> TrialState:
    """A score after fewer steps than the recipe has is no answer to the same question: Optuna calls that pruned."""
    if trial.score is None:
        return TrialState.FAIL
    return TrialState.COMPLETE if trial.until is None else TrialState.PRUNED


def _frozen(run: Run, trial: TrialRecord) -> FrozenTrial:
    """The trial as Optuna has it. Its times are those of an undisturbed run from the same start."""
    ended = datetime.fromtimestamp(float(run.first["t"])) + timedelta(seconds=trial.ended or 0.0)
    cell = parse(trial.canonical)
    facts: dict[str, Any] = {
        "trial": trial.id,
        "status": trial.status,
        "cell": trial.text,
        "digest": trial.digest,
        "operator": trial.operator,
        "parents": list(trial.parents),
        "seconds": round(trial.seconds, 3),
        "steps": trial.steps,
        "recipe": dict(trial.recipe or {}),
        "message": trial.message,
    }
    values = {
        "operations": sum(node.op in OPS for node in cell.graph.nodes),
        "states": len(cell.states),
        "params": trial.params,
        "width": trial.width,
    }
    return FrozenTrial(
        number=-1,  # given by the study
        trial_id=-1,
        state=_state(trial),
        value=trial.score,
        datetime_start=ended - timedelta(seconds=trial.wall),
        datetime_complete=ended,
        params=values,
        distributions=dict(PARAMS),
        user_attrs=facts,
        system_attrs={},
        intermediate_values={
            step: loss for step, loss in trial.curve if loss is not None and math.isfinite(loss)
        },
    )
