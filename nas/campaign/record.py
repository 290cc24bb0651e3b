"""A run as its journal tells it: every number that status, top and the report show is folded from the events here.

The driver folds the same events as it writes them, so what it knows is what a reader sees. No torch and no Ray.

| event | says | fields beside line, t, active |
|---|---|---|
| config | the search, once, on line 1 | schema, recell, hash, config, task, space, baselines, versions |
| sitting | a driver starts or carries on | pid, host, versions, device, workers, data |
| ask | a new candidate | ask, trial, text, digest, fingerprint, canonical, lints, operator, parents |
| duplicate | a candidate known by digest or fingerprint: no trial | ask, text, digest, of, by, operator, parents |
| refuse | a candidate with warnings, where lint is strict: no trial | ask, text, digest, lints, operator, parents |
| start | a trial goes to a worker | trial, attempt, seed |
| finish | it was trained to the end | trial, score, curve, params, width, steps, seconds, wall |
| fail | it was not | trial, class, message, attempt, retry, and what finish has as far as known |
| tick | time passes | progress |
| search_end | no new candidates from here | reason |
| finalists | the cells to retrain | trials |
| retrain_start, retrain_finish, retrain_fail | as above, from scratch | key, seed; test_score, weights |
| stop | the sitting ends | reason, finished, message |
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.campaign import journal
from nas.campaign.config import SearchConfig
from nas.campaign.journal import Event
from nas.errors import NasError, RunError

OPEN = ("pending", "running")
"""Statuses of what is still to be done; any other but "ok" is a class of failure."""


@dataclass
class TrialRecord:
    """One candidate: the cell as derived (`text`), what is trained (`canonical`), and what came of it.

    `status` is "pending", "running", "ok", or the class of the failure: "invalid", "diverged", "hopeless", "oom",
    "timeout", "infrastructure". `score` is on the validation split, lower is better. `seconds` were spent training,
    `wall` on the trial as a whole; `ended` is when, in active seconds of the campaign. `attempts` counts workers that
    died under it.
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
    fallback: str = ""
    """Why it ran on the slow reference backend although a faster one was meant to run it; empty where it did not."""


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


class Run:
    """A search run: its configuration, its trials, the final comparison, and the time it took."""

    def __init__(self, path: Path, events: Sequence[Event] = ()) -> None:
        self.path = path
        self.config = SearchConfig()
        self.task: Mapping[str, Any] = {}
        self.space: Mapping[str, Any] = {}
        self.first: Event = {}
        self.sittings: list[Event] = []
        self.trials: list[TrialRecord] = []
        self.finalists: list[Contender] = []
        self.baselines: list[Contender] = []
        self.asks = 0
        self.duplicates = 0
        self.duplicates_in_a_row = 0
        self.alike = 0
        self.refused = 0
        self.refused_in_a_row = 0
        self.search_end: str | None = None
        self.chosen = False
        self.stopped: Event | None = None
        self.active = 0.0
        self.started = False
        self.last: Event = {}
        self.progress: dict[str, Any] = {}
        self._by_digest: dict[str, TrialRecord] = {}
        self._by_fingerprint: dict[str, TrialRecord] = {}
        self._refused: dict[str, tuple[str, ...]] = {}
        self._trainings: dict[str, Retraining] = {}
        for event in events:
            self.apply(event)

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Read a run folder. Raises RunError if it is none, or its journal is damaged or of another schema."""
        folder = Path(path)
        return cls(folder, journal.read(folder).events)

    def apply(self, event: Event) -> None:
        """Fold the next event in. Raises RunError, with the line, for one that makes no sense here."""
        handle = _HANDLERS.get(event["event"])
        if handle is None:
            raise self._bad(event, "no such event in this schema")
        try:
            handle(self, event)
        except (KeyError, IndexError, TypeError, ValueError, NasError) as error:
            raise self._bad(event, f"{type(error).__name__}: {error}") from error
        self.active = max(self.active, float(event["active"]))
        self.last = event

    def _bad(self, event: Event, why: str) -> RunError:
        where = self.path / journal.JOURNAL
        return RunError(f"{where} is damaged at line {event.get('line')}: event {event['event']!r}: {why}")

    def trial_of(self, digest: str) -> TrialRecord | None:
        """The trial that answers for a canonical digest, None if none is known to."""
        return self._by_digest.get(digest)

    def trial_like(self, fingerprint: str) -> TrialRecord | None:
        """The trial of a cell that computes the same (`grammar.fingerprint`), None if there is none."""
        return self._by_fingerprint.get(fingerprint)

    def refusal_of(self, digest: str) -> tuple[str, ...] | None:
        """The warnings for which a canonical digest was refused, None if it was not."""
        return self._refused.get(digest)

    def training(self, key: str) -> Retraining:
        """The retraining with this key."""
        return self._trainings[key]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: resuming such a run changes nothing."""
        return self.stopped is not None and bool(self.stopped["finished"])

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the lowest validation score in the search, None before the first."""
        return next(iter(self.top(1)), None)

    def top(self, n: int | None = None) -> list[TrialRecord]:
        """The `n` best trials (default: all with a score), the lowest validation score first."""
        scored = [trial for trial in self.trials if trial.status == "ok" and trial.score is not None]
        return sorted(scored, key=lambda trial: (trial.score, trial.id))[:n]

    @property
    def contenders(self) -> list[Contender]:
        """Finalists and baselines of the final comparison."""
        return [*self.finalists, *self.baselines]

    @property
    def winner(self) -> Contender | None:
        """The finalist with the lowest mean validation score after retraining, None if none was retrained."""
        done = [finalist for finalist in self.finalists if finalist.score is not None]
        return min(done, key=lambda finalist: finalist.score or 0.0, default=None)

    def contender(self, trial: int) -> Contender | None:
        """The finalist that a trial became, None if it became none."""
        return next((finalist for finalist in self.finalists if finalist.trial == trial), None)

    @property
    def failures(self) -> dict[str, int]:
        """How many trials failed, by class."""
        return dict(Counter(t.status for t in self.trials if t.status not in (*OPEN, "ok")))

    @property
    def fallbacks(self) -> dict[str, int]:
        """How many trainings ran on the slow reference backend because a faster one failed, by reason."""
        records: list[TrialRecord | Retraining] = [*self.trials, *self._trainings.values()]
        return dict(Counter(record.fallback for record in records if record.fallback))

    @property
    def not_retrained(self) -> list[str]:
        """Keys of the retrainings that were planned and were not done."""
        return [key for key, training in self._trainings.items() if training.status in OPEN]

    @property
    def budget_left(self) -> float:
        """Seconds of the budget that are left, never negative."""
        return max(0.0, self.config.budget - self.active)

    def trajectory(self) -> list[tuple[float, int, float]]:
        """Each time the best score improved: (active seconds, trials ended by then, score)."""
        points: list[tuple[float, int, float]] = []
        ended = sorted((t for t in self.trials if t.ended is not None), key=lambda t: t.ended or 0.0)
        for count, trial in enumerate(ended, start=1):
            if trial.score is not None and (not points or trial.score < points[-1][2]):
                points.append((trial.ended or 0.0, count, trial.score))
        return points

    def live(self) -> tuple[int, str] | None:
        """The pid and host of the driver that works on this run now, None if there is none."""
        return journal.holder(self.path)

    def status(self) -> dict[str, Any]:
        """The state of the run as JSON can hold it. Reads the lock to tell a live run from a stopped one."""
        live = self.live()
        running = [trial for trial in self.trials if trial.status == "running"]
        since = max(0.0, time.time() - float(self.last.get("t", 0.0))) if live and self.started else 0.0
        best = self.best
        planned = len(self._trainings)
        return {
            "run": str(self.path),
            "state": self._state(live is not None),
            "phase": "search" if self.search_end is None else "done" if self.finished else "retrain",
            "reason": self.stopped["reason"] if self.stopped and not live else self.search_end,
            "pid": live[0] if live else None,
            "host": live[1] if live else None,
            "space": self.config.space,
            "task": self.config.task,
            "method": self.config.method,
            "metric": self.task.get("metric"),
            "trivial_score": self.task.get("trivial_score"),
            "finished": sum(trial.status == "ok" for trial in self.trials),
            "running": len(running) if live else 0,
            "pending": sum(trial.status in OPEN for trial in self.trials) - (len(running) if live else 0),
            "failed": self.failures,
            "duplicates": self.duplicates,
            "alike": self.alike,
            "refused": self.refused,
            "fallbacks": self.fallbacks,
            "asked": self.asks,
            "budget": self.config.budget,
            "active": round(self.active + since, 1),
            "budget_left": round(max(0.0, self.budget_left - since), 1),
            "sittings": len(self.sittings),
            "best": _brief(best) if best else None,
            "retrained": planned - len(self.not_retrained),
            "retrain_planned": planned,
            "not_retrained": self.not_retrained if self.finished else [],
            "progress": self.progress if live else {},
        }

    def _state(self, live: bool) -> str:
        if live:
            return "running"
        if self.finished:
            return "finished"
        return "stopped" if self.stopped else "interrupted"

    def _on_config(self, event: Event) -> None:
        self.first = event
        self.config = SearchConfig.from_dict(event["config"])
        self.task = event["task"]
        self.space = event["space"]

    def _on_sitting(self, event: Event) -> None:
        self.sittings.append(event)
        self.stopped = None
        records: list[TrialRecord | Retraining] = [*self.trials, *self._trainings.values()]
        for record in records:
            if record.status == "running":
                record.status = "pending"

    def _on_ask(self, event: Event) -> None:
        if event["trial"] != len(self.trials):
            raise ValueError(f"trial {event['trial']} after {len(self.trials)} trials")
        trial = TrialRecord(
            event["trial"],
            event["text"],
            event["digest"],
            event["canonical"],
            event["operator"],
            tuple(event["parents"]),
            fingerprint=event.get("fingerprint", ""),
            lints=tuple(event.get("lints", ())),
        )
        self.trials.append(trial)
        self._by_digest[trial.digest] = trial
        self._by_fingerprint.setdefault(trial.fingerprint, trial)
        self.asks = event["ask"] + 1
        self.duplicates_in_a_row = self.refused_in_a_row = 0

    def _on_duplicate(self, event: Event) -> None:
        self.asks = event["ask"] + 1
        self.duplicates += 1
        self.duplicates_in_a_row += 1
        self.alike += event.get("by") == "fingerprint"
        self._by_digest[event["digest"]] = self.trials[event["of"]]

    def _on_refuse(self, event: Event) -> None:
        self.asks = event["ask"] + 1
        self.refused += 1
        self.refused_in_a_row += 1
        self._refused[event["digest"]] = tuple(event["lints"])

    def _on_start(self, event: Event) -> None:
        self.trials[event["trial"]].status = "running"
        self.started = True

    def _on_finish(self, event: Event) -> None:
        _fill(self.trials[event["trial"]], event, "ok")
        self.duplicates_in_a_row = self.refused_in_a_row = 0

    def _on_fail(self, event: Event) -> None:
        _fail(self.trials[event["trial"]], event)
        self.duplicates_in_a_row = self.refused_in_a_row = 0

    def _on_tick(self, event: Event) -> None:
        self.progress = event["progress"]

    def _on_search_end(self, event: Event) -> None:
        self.search_end = event["reason"]
        if self.config.finalists:
            for row in self.first["baselines"]:
                cell = (row["text"], row["canonical"], row["digest"])
                self.baselines.append(self._enter(Contender("baseline", row["name"], *cell, None)))

    def _on_finalists(self, event: Event) -> None:
        self.chosen = True
        for number in event["trials"]:
            trial = self.trials[number]
            cell = (trial.text, trial.canonical, trial.digest)
            self.finalists.append(self._enter(Contender("finalist", f"#{number}", *cell, number)))

    def _enter(self, contender: Contender) -> Contender:
        name = f"trial-{contender.trial}" if contender.trial is not None else contender.name
        for seed in retrain_seeds(self.config):
            training = Retraining(f"{name}-seed-{seed}", seed)
            contender.trainings.append(training)
            self._trainings[training.key] = training
        return contender

    def _on_retrain_start(self, event: Event) -> None:
        self._trainings[event["key"]].status = "running"

    def _on_retrain_finish(self, event: Event) -> None:
        training = self._trainings[event["key"]]
        _fill(training, event, "ok")
        training.test_score = event["test_score"]
        training.weights = event["weights"]

    def _on_retrain_fail(self, event: Event) -> None:
        _fail(self._trainings[event["key"]], event)

    def _on_stop(self, event: Event) -> None:
        self.stopped = event
        self.progress = {}
        bool(event["finished"])


_HANDLERS = {name.removeprefix("_on_"): getattr(Run, name) for name in vars(Run) if name.startswith("_on_")}


def retrain_seeds(config: SearchConfig) -> list[int]:
    """The seeds of the final comparison. None is the search's own, with which the finalists were chosen."""
    return [config.seed + 1 + index for index in range(config.seeds)]


def open_run(path: str | Path) -> Run:
    """Open a run folder for reading; nothing in it changes. Raises RunError if it is not a run or is damaged."""
    return Run.load(path)


def _fill(record: TrialRecord | Retraining, event: Event, status: str) -> None:
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


def _fail(record: TrialRecord | Retraining, event: Event) -> None:
    if event["class"] == "infrastructure":
        record.attempts = event["attempt"]
    if event["retry"]:
        record.status = "pending"
        record.message = event["message"]
    else:
        _fill(record, event, event["class"])
        record.score = None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _brief(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial": trial.id,
        "cell": trial.text,
        "digest": trial.digest,
        "score": trial.score,
        "params": trial.params,
    }
