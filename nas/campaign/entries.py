"""What a run holds: candidates, trainings of the final comparison, and who takes part in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.campaign.journal import Event

OPEN = ("pending", "running")
"""Statuses of what is still to be done; any other but "ok" is a class of failure."""


@dataclass
class TrialRecord:
    """One candidate: the cell as derived (`text`), what is trained (`canonical`), and what came of it.

    `status` is "pending", "running", "ok", or the class of the failure: "invalid", "diverged", "hopeless", "oom",
    "timeout", "infrastructure", or "constraint" for one whose measured metrics violate a constraint: it was not
    trained. `score` is on the validation split, lower is better. `seconds` were spent training, `wall` on the trial as
    a whole; `ended` is when, in active seconds of the campaign. `attempts` counts workers that died under it.
    """

    id: int
    text: str
    digest: str
    canonical: str
    operator: str
    parents: tuple[str, ...]
    status: str = "pending"
    score: float | None = None
    curve: tuple[tuple[int, float | None], ...] = ()
    params: int = 0
    width: int = 0
    steps: int = 0
    seconds: float = 0.0
    wall: float = 0.0
    ended: float | None = None
    attempts: int = 0
    message: str = ""
    fingerprint: str = ""
    """What the cell computes (`grammar.fingerprint`), the second key of the record; empty in journals of schema 1."""
    lints: tuple[str, ...] = ()
    """Names of the warnings about it (`grammar.LINTS`)."""
    until: int | None = None
    """The step that it is trained to, None for the recipe's last."""
    continues: int | None = None
    """The trial of the same cell, trained less far, that it carries on."""
    recipe: Mapping[str, Any] | None = None
    """What it changes in the task's recipe."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What else is known of it, by name in `nas.searchers.METRICS`."""
    fallback: str = ""
    """Why it ran on the slow reference backend although a faster one was meant to run it; empty where it did not."""
    start: int = 0
    """The step from which it was trained: that of a snapshot, 0 without one."""
    supernet: Mapping[str, Any] | None = None
    """Where it is no cell that is trained but a supernet: its sketch, seed and options. It ends as "supernet"."""
    found: tuple[Mapping[str, Any], ...] = ()
    """The cells that a supernet gave, as `nas.training.TrialResult` has them."""
    passed: int = 0
    """Its steps that taught it nothing, since the path drawn could not be trained."""


@dataclass
class Retraining:
    """One training from scratch for the final comparison, of a finalist or a baseline, with one seed."""

    key: str
    seed: int
    status: str = "pending"
    score: float | None = None
    test_score: float | None = None
    curve: tuple[tuple[int, float | None], ...] = ()
    params: int = 0
    width: int = 0
    steps: int = 0
    seconds: float = 0.0
    wall: float = 0.0
    ended: float | None = None
    attempts: int = 0
    message: str = ""
    fallback: str = ""
    weights: str | None = None
    """Folder of the trained model, relative to the run's."""


@dataclass
class Contender:
    """A cell in the final comparison, with a training per seed: a finalist (of the trial `trial`) or a baseline."""

    kind: str
    name: str
    text: str
    canonical: str
    digest: str
    trial: int | None
    trainings: list[Retraining] = field(default_factory=list)
    recipe: Mapping[str, Any] | None = None

    @property
    def done(self) -> list[Retraining]:
        """The trainings that ended with a score."""
        return [training for training in self.trainings if training.status == "ok"]

    @property
    def begun(self) -> bool:
        """Whether a training runs or has ended."""
        return any(training.status != "pending" for training in self.trainings)

    @property
    def retrained(self) -> bool:
        """Whether every seed was trained to the end."""
        return bool(self.trainings) and len(self.done) == len(self.trainings)

    @property
    def score(self) -> float | None:
        """Mean validation score over the seeds that were trained, None without any."""
        return _mean([training.score for training in self.done])

    @property
    def test_score(self) -> float | None:
        """Mean test score over the seeds that were trained, None without any."""
        return _mean([training.test_score for training in self.done])

    @property
    def params(self) -> int:
        """Trainable parameters, embedding and head included; 0 if it was never trained."""
        return max((training.params for training in self.trainings), default=0)


def variant(key: str, until: int | None, recipe: Mapping[str, Any] | None) -> str:
    """A digest or fingerprint as the key of one way to train the cell; itself for the whole recipe as it is."""
    return (
        key if until is None and not recipe else f"{key} {json.dumps([until, recipe or {}], sort_keys=True)}"
    )


def fill(record: TrialRecord | Retraining, event: Event, status: str) -> None:
    """Take over what an event says of a training that ended."""
    record.status = status
    record.score = event.get("score")
    record.curve = tuple((int(step), loss) for step, loss in event.get("curve", ()))
    record.params = event.get("params", 0)
    record.width = event.get("width", 0)
    record.steps = event.get("steps", 0)
    record.seconds = event.get("seconds", 0.0)
    record.wall = event.get("wall", 0.0)
    record.ended = event["active"]
    record.message = event.get("message", "")
    record.fallback = event.get("fallback", "")
    if isinstance(record, TrialRecord):
        record.start = event.get("start", 0)
        exact = {"params": float(record.params)} if record.params else {}
        record.metrics = {**record.metrics, **exact, **event.get("metrics", {})}


def fail(record: TrialRecord | Retraining, event: Event) -> None:
    """Take over what an event says of a training that failed, or that is to be tried again."""
    if event["class"] == "infrastructure":
        record.attempts = event["attempt"]
    if event["retry"]:
        record.status = "pending"
        record.message = event["message"]
    else:
        fill(record, event, event["class"])
        record.score = None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
