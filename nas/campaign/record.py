"""A run as its journal tells it: every number that status, top and the report show is folded from the events here.

The driver folds the same events as it writes them, so what it knows is what a reader sees. No torch and no Ray.

| event | says | fields beside line, t, active |
|---|---|---|
| config | the search, once, on line 1 | schema, recell, hash, config, task, space, baselines, versions |
| sitting | a driver starts or carries on | pid, host, versions, device, workers, data, task |
| ask | a new candidate | ask, trial, text, digest, fingerprint, canonical, lints, metrics, operator, parents |
| duplicate | a candidate known by digest or fingerprint: no trial | ask, text, digest, of, by, operator, parents |
| refuse | a candidate with warnings, where lint is strict, or one that violates a constraint: no trial | ask, text, \
digest, lints or violates and metrics, operator, parents |
| start | a trial goes to a worker | trial, attempt, seed |
| finish | it was trained as far as asked | trial, score, curve, params, width, steps, start, seconds, wall, metrics |
| fail | it was not | trial, class, message, attempt, retry, and what finish has as far as known |
| tick | time passes | progress |
| search_end | no new candidates from here | reason |
| finalists | the cells to retrain | trials |
| retrain_start, retrain_finish, retrain_fail | as above, from scratch | key, seed; test_score, weights |
| stop | the sitting ends | reason, finished, message |

`ask`, `duplicate` and `refuse` also have `until`, `continues` and `recipe` where the proposal has them.
A supernet's `ask` has `supernet`, its `finish` has `found` and perhaps `passed`; it has no fingerprint and no metrics.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.campaign import journal
from nas.campaign.config import SearchConfig
from nas.campaign.entries import OPEN, Contender, Retraining, TrialRecord, fail, fill, variant
from nas.campaign.journal import Event
from nas.errors import NasError, RunError
from nas.searchers import front
from nas.training import Recipe, TrialSpec

_PASSING = ("timeout", "infrastructure")
"""Failures that say nothing about the cell."""


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
        self.searched: float | None = None  # active seconds at which the search ended
        self.chosen = False
        self.stopped: Event | None = None
        self.active = 0.0
        self.started = False
        self.last: Event = {}
        self.progress: dict[str, Any] = {}
        self._by_digest: dict[str, TrialRecord] = {}
        self._by_fingerprint: dict[str, TrialRecord] = {}
        self._refused: dict[str, Mapping[str, Any]] = {}
        self._over = 0  # trials in a row that were refused for what was measured
        self._superseded: set[int] = set()
        self._front: list[TrialRecord] | None = None
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
        self._front = None
        self.active = max(self.active, float(event["active"]))
        self.last = event

    def _bad(self, event: Event, why: str) -> RunError:
        where = self.path / journal.JOURNAL
        return RunError(f"{where} is damaged at line {event.get('line')}: event {event['event']!r}: {why}")

    def trial_of(
        self, digest: str, until: int | None = None, recipe: Mapping[str, Any] | None = None
    ) -> TrialRecord | None:
        """The trial that answers for a canonical digest trained this way, None if none is known to."""
        return self._by_digest.get(variant(digest, until, recipe))

    def trial_at(self, key: str) -> TrialRecord | None:
        """The trial that a job of this key trains (`trial-3`), None for a retraining."""
        number = key.removeprefix("trial-")
        known = number != key and number.isdigit() and int(number) < len(self.trials)
        return self.trials[int(number)] if known else None

    def trial_like(
        self, fingerprint: str, until: int | None = None, recipe: Mapping[str, Any] | None = None
    ) -> TrialRecord | None:
        """The trial of a cell that computes the same (`grammar.fingerprint`) trained this way, None without one."""
        return self._by_fingerprint.get(variant(fingerprint, until, recipe))

    def refusal_of(self, digest: str, recipe: Mapping[str, Any] | None = None) -> Mapping[str, Any] | None:
        """Why a canonical digest was refused (`lints`, or `violates` and `metrics`), None if it was not."""
        return self._refused.get(variant(digest, None, recipe))

    @property
    def place(self) -> tuple[str, str | None]:
        """The name of the task and where its data are, as the last sitting had them."""
        if not self.sittings:
            return self.config.task, self.config.data
        last = self.sittings[-1]
        return last.get("task") or self.config.task, last["data"]

    def spec(self, canonical: str, seed: int, changes: Mapping[str, Any] | None = None) -> TrialSpec:
        """What a worker is given to train a cell of this run (on a CPU); `changes` are to the recipe, by field."""
        task, data = self.place
        return TrialSpec(
            canonical,
            task,
            Recipe.from_dict({**self.task["recipe"], **(changes or {})}),
            data=data,
            data_digest=self.task["data_digest"],
            size=self.config.size,
            params=None if self.config.width is not None else self.task["params"],
            width=self.config.width,
            heads=self.config.heads,
            seed=seed,
        )

    def training(self, key: str) -> Retraining:
        """The retraining with this key."""
        return self._trainings[key]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: resuming such a run changes nothing."""
        return self.stopped is not None and bool(self.stopped["finished"])

    @property
    def best(self) -> TrialRecord | None:
        """The first of `top`, None before the first score."""
        return next(iter(self.top(1)), None)

    @property
    def full_steps(self) -> int:
        """The steps of the task's recipe."""
        return int(self.task["recipe"]["steps"])

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the search minimises: "loss", and metrics."""
        return tuple(self.first.get("objectives", ("loss",)))

    def top(self, n: int | None = None) -> list[TrialRecord]:
        """The `n` best trials (default: all with a score), the lowest validation score first.

        Where trials were trained for different numbers of steps, those that were trained furthest come first; one that
        another carried on is left out.
        """
        scored = [trial for trial in self.trials if trial.status == "ok" and trial.score is not None]
        scored = [trial for trial in scored if trial.id not in self._superseded]
        return sorted(scored, key=lambda trial: (-(trial.until or self.full_steps), trial.score, trial.id))[
            :n
        ]

    def furthest(self) -> list[TrialRecord]:
        """Those of `top` that were trained as far as its first: with their scores none of fewer steps compares."""
        best = self.top()
        return [trial for trial in best if trial.until == best[0].until]

    def front(self) -> list[TrialRecord]:
        """The trials that no other beats in all objectives, in the order of `top`; those trained furthest only."""
        if self._front is None:  # the driver asks for it several times a second
            self._front = self._find_front()
        return list(self._front)

    def _find_front(self) -> list[TrialRecord]:
        found = self.furthest()
        known = [t for t in found if all(name == "loss" or name in t.metrics for name in self.objectives)]
        points = [
            [t.score or 0.0 if name == "loss" else t.metrics[name] for name in self.objectives] for t in known
        ]
        return [known[i] for i in front(points)]

    def choice(self) -> list[TrialRecord]:
        """The trials to retrain: the first of `top`, of a search with several objectives the first of the front."""
        found = self.front() if len(self.objectives) > 1 else self.top()
        return found[: self.config.finalists]

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
        return dict(Counter(t.status for t in self.trials if t.status not in (*OPEN, "ok", "supernet")))

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
        """Each time the best score of `furthest` improved: (active seconds, trials ended by then, score)."""
        points: list[tuple[float, int, float]] = []
        counted = {trial.id for trial in self.furthest()}
        ended = sorted((t for t in self.trials if t.ended is not None), key=lambda t: t.ended or 0.0)
        for count, trial in enumerate(ended, start=1):
            if (
                trial.id in counted
                and trial.score is not None
                and (not points or trial.score < points[-1][2])
            ):
                points.append((trial.ended or 0.0, count, trial.score))
        return points

    def live(self) -> tuple[int, str] | None:
        """The pid and host of the driver that works on this run now, None if there is none."""
        return journal.holder(self.path)

    def status(self) -> dict[str, Any]:
        """The state of the run as JSON can hold it. Reads the lock to tell a live run from a stopped one."""
        live = self.live()
        if live is None and self.stopped is None:
            now = Run.load(self.path)  # its driver may have ended since it was read, and no kill ended it
            if now.stopped is not None:
                return now.status()
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
            "supernets": sum(trial.status == "supernet" for trial in self.trials),
            "passed": sum(trial.passed for trial in self.trials),
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
            until=event.get("until"),
            continues=event.get("continues"),
            recipe=event.get("recipe"),
            metrics=event.get("metrics", {}),
            supernet=event.get("supernet"),
        )
        self.trials.append(trial)
        self.asks = event["ask"] + 1
        self.duplicates_in_a_row = 0
        self.refused_in_a_row = self._over  # that it is a trial does not say yet that it is trained
        if trial.supernet is not None:
            return  # it answers for no cell
        self._by_digest[variant(trial.digest, trial.until, trial.recipe)] = trial
        self._by_fingerprint.setdefault(variant(trial.fingerprint, trial.until, trial.recipe), trial)

    def _on_duplicate(self, event: Event) -> None:
        self.asks = event["ask"] + 1
        self.duplicates += 1
        self.duplicates_in_a_row += 1
        self.alike += event.get("by") == "fingerprint"
        key = variant(event["digest"], event.get("until"), event.get("recipe"))
        self._by_digest[key] = self.trials[event["of"]]

    def _on_refuse(self, event: Event) -> None:
        self.asks = event["ask"] + 1
        self.refused += 1
        self.refused_in_a_row += 1
        why: dict[str, Any] = {
            name: event[name] for name in ("lints", "violates", "metrics") if name in event
        }
        self._refused[variant(event["digest"], None, event.get("recipe"))] = why

    def _on_start(self, event: Event) -> None:
        self.trials[event["trial"]].status = "running"
        self.started = True

    def _on_finish(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        fill(trial, event, "ok" if trial.supernet is None else "supernet")
        if trial.supernet is not None:
            trial.score, trial.found, trial.passed = None, tuple(event["found"]), event.get("passed", 0)
        self._supersede(trial)
        self.duplicates_in_a_row = self.refused_in_a_row = self._over = 0

    def _on_fail(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        fail(trial, event)
        self.duplicates_in_a_row = 0
        if trial.status == "constraint":
            self._over += 1
            self.refused_in_a_row += 1
            return
        if trial.status not in (*OPEN, *_PASSING):
            self._supersede(trial)
        self.refused_in_a_row = self._over = 0

    def _supersede(self, trial: TrialRecord) -> None:
        if trial.continues is not None:
            self._superseded.add(trial.continues)

    def _on_tick(self, event: Event) -> None:
        self.progress = event["progress"]

    def _on_search_end(self, event: Event) -> None:
        self.search_end = event["reason"]
        self.searched = float(event["active"])
        if self.config.finalists:
            for row in self.first["baselines"]:
                cell = (row["text"], row["canonical"], row["digest"])
                self.baselines.append(self._enter(Contender("baseline", row["name"], *cell, None)))

    def _on_finalists(self, event: Event) -> None:
        self.chosen = True
        for number in event["trials"]:
            trial = self.trials[number]
            cell = (trial.text, trial.canonical, trial.digest)
            self.finalists.append(
                self._enter(Contender("finalist", f"#{number}", *cell, number, recipe=trial.recipe))
            )

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
        fill(training, event, "ok")
        training.test_score = event["test_score"]
        training.weights = event["weights"]

    def _on_retrain_fail(self, event: Event) -> None:
        fail(self._trainings[event["key"]], event)

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


def _brief(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial": trial.id,
        "cell": trial.text,
        "digest": trial.digest,
        "score": trial.score,
        "params": trial.params,
    }
