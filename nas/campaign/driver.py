"""The campaign loop: ask, train, tell, until the time kept for the final comparison begins; then that.

Everything that happens is an event: written to the journal, folded into the `Run`, then told to the searcher and to
whoever watches, in this order. To carry a run on is to fold its events, tell its searcher again and go on.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from grammar import Cell, parse
from nas.campaign.config import SearchConfig
from nas.campaign.constraints import parse_constraint
from nas.campaign.entries import OPEN, Contender, Retraining, TrialRecord
from nas.campaign.journal import Event, Journal
from nas.campaign.pool import Ending, Job, Pool
from nas.campaign.proposals import Costs, enter
from nas.campaign.record import Run
from nas.campaign.stores import WEIGHTS, Snapshots, store
from nas.campaign.timing import MARGIN, least_need, training_fits, trial_fits
from nas.errors import BrokenRunError, NasError, RunError, SearchError
from nas.searchers import MEASURED, Observation, Proposal, Searcher
from nas.training import TrialResult, TrialSpec

POLL = 0.25
"""Seconds between looks at the clocks, the memory and the interrupt."""
BEAT = 10.0
"""Seconds without an event after which the time is written down, so that a kill loses no more of it."""
ATTEMPTS = 3
"""Workers that may die under one trial before it counts as failed."""
DEATHS = 6
"""Workers that may die in a row, under any trials, before the campaign stops: it is not the cells then."""
DUPLICATES = 50
"""Proposals known already, in a row, before the search ends."""
REFUSALS = 500
"""Proposals refused for warnings or constraints, in a row, before the search ends."""
READ = 1000
"""Cells that are kept in memory: each is read again for each event that is about it."""
FAILURES = 30
"""Trials that may fail before the first one has a score; it is the settings then."""

OnEvent = Callable[[Event, Run], None]


@dataclass(frozen=True)
class Sitting:
    """What holds for one sitting of a run and may differ in the next, on another machine."""

    device: str = "cpu"
    data: str | None = None
    memory: int | None = None
    """Bytes of resident memory at which a worker is stopped, None for no cap."""
    versions: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    """The name of the task here, None for the one in the configuration."""


class Campaign:
    """One sitting of a run: from the events so far to the end, or to the interrupt.

    Ending and interrupting both leave the journal in order; closing it and the pool is the caller's.
    """

    def __init__(
        self,
        journal: Journal,
        events: Sequence[Event],
        searcher: Searcher,
        pool: Pool,
        sitting: Sitting | None = None,
        *,
        read: Callable[[str], Cell] = parse,
        costs: Costs = lambda cell, recipe: {},
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = journal
        self.searcher = searcher
        self.pool = pool
        self.sitting = sitting or Sitting()
        self.run_so_far = Run(journal.folder)
        self._read = lru_cache(READ)(read)
        self._costs = costs
        self._snapshots = Snapshots(journal.folder)
        self._clock = clock
        self._started: dict[str, float] = {}
        self._deaths = 0
        self._watch: OnEvent = lambda event, run: None
        for event in events:
            self._take(event)
        config = self.run_so_far.config
        self._constraints = tuple(map(parse_constraint, config.constraints))
        self._base = self.run_so_far.active
        self._origin: float | None = None
        self._written = clock()

    @property
    def active(self) -> float:
        """Seconds of the budget that are spent: all sittings, each from its first start of a trial."""
        return self._base + (0.0 if self._origin is None else self._clock() - self._origin)

    def run(self, on_event: OnEvent | None = None) -> Run:
        """Carry the run on to its end, or until SIGINT, SIGTERM or SIGHUP (a second signal does not wait).

        `on_event` is called with each event of the journal and, some times a second, with one called "progress" that
        is in no journal. Raises RunError if the workers keep dying; the run can be resumed then too.
        """
        self._watch = on_event or self._watch
        self._log(
            "sitting",
            pid=os.getpid(),
            host=socket.gethostname(),
            device=self.sitting.device,
            workers=self.pool.slots,
            data=self.sitting.data,
            versions=dict(self.sitting.versions),
            task=self.sitting.task,
        )
        try:
            with _interrupts() as interrupted:
                while not interrupted.is_set():
                    self._end_search_when_due()
                    if self._fill() and not self._started:
                        return self._stop(self.run_so_far.search_end or "done", finished=True)
                    for ending in self.pool.wait(POLL):
                        self._settle(ending)
                    self._enforce_caps()
                    self._report_progress()
            for ending in self.pool.wait(0.0):
                self._settle(ending)
            return self._stop("interrupted", finished=False)
        except BaseException as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            with contextlib.suppress(RunError):  # the disk may be what failed
                self._stop(reason, finished=False, message=f"{type(error).__name__}: {error}")
            raise

    def _log(self, event: str, /, **fields: Any) -> None:
        written = self.journal.append(event, self.active, **fields)
        self._written = self._clock()
        self._take(written)
        self._watch(written, self.run_so_far)

    def _take(self, event: Event) -> None:
        """Fold an event, and tell the searcher if it is the answer to a proposal."""
        run = self.run_so_far
        run.apply(event)
        kind = event["event"]
        if kind == "config":
            self.searcher.trivial_score = run.task.get("trivial_score")
            with _named(run.config):
                self.searcher.begin(run.task["recipe"])
        elif kind == "ask":
            made = (event["operator"], tuple(event["parents"]))
            how = [event.get(name) for name in ("until", "continues", "recipe", "supernet")]
            proposal = Proposal(self._read(event["text"]), *made, *how)
            with _named(run.config):
                self.searcher.entered(proposal, event["trial"])
        elif kind == "duplicate":
            known = run.trials[event["of"]]
            if known.status not in OPEN:
                self._tell(event, known, duplicate=True)
        elif kind == "refuse":
            self._tell(event, None)
        elif kind in ("finish", "fail"):
            trial = run.trials[event["trial"]]
            if trial.status not in OPEN:
                self._tell(vars(trial), trial)

    def _tell(self, asked: Mapping[str, Any], trial: TrialRecord | None, duplicate: bool = False) -> None:
        """Tell the searcher what came of the proposal that `asked` describes: its trial, or none if refused."""
        outcome: tuple[float | None, str, int | None] = (None, "refused", None)
        if trial is not None:
            status = "refused" if trial.status == "constraint" else trial.status
            outcome = (trial.score, status, trial.id)
        curve = () if trial is None else trial.curve
        observation = Observation(
            self._read(asked["text"]),
            asked["digest"],
            *outcome,
            asked["operator"],
            tuple(asked["parents"]),
            duplicate,
            metrics=dict(asked.get("metrics", {}) if trial is None else trial.metrics),
            curve=tuple((step, loss) for step, loss in curve if loss is not None),
            steps=asked.get("until") or self.run_so_far.full_steps,
            recipe=asked.get("recipe"),
            supernet=asked.get("supernet"),
            found=() if trial is None else trial.found,
        )
        with _named(self.run_so_far.config):
            self.searcher.tell(observation)

    def _stop(self, reason: str, finished: bool, message: str = "") -> Run:
        self._log("stop", reason=reason, finished=finished, message=message)
        if finished:
            self._snapshots.clear()
        return self.run_so_far

    def _fill(self) -> bool:
        """Give idle workers what there is to do. True if a worker is idle and there is nothing for it now."""
        while self.pool.idle():
            job = self._next()
            if job is None:
                return True
            self._start(job)
        return False

    def _next(self) -> Job | None:
        run = self.run_so_far
        pending = next((trial for trial in run.trials if trial.status == "pending"), None)
        if pending is not None and not run.chosen and self._time_for_trial():
            return self._trial_job(pending)
        if run.search_end is None:
            trial = self._ask()
            if trial is not None:
                return self._trial_job(trial)
        return self._next_training() if run.search_end is not None else None

    def _time_for_trial(self) -> bool:
        return trial_fits(self.run_so_far, self.active, self.pool.slots)

    def _end_search_when_due(self) -> None:
        run = self.run_so_far
        if run.search_end is not None:
            return
        if run.config.max_trials is not None and len(run.trials) >= run.config.max_trials:
            self._log("search_end", reason="trials")
        elif run.best is None and sum(run.failures.values()) - run.failures.get("constraint", 0) >= FAILURES:
            self._log("search_end", reason="failures")
        elif not self._time_for_trial():
            self._log("search_end", reason="budget")

    def _ask(self) -> TrialRecord | None:
        """The next candidate that is new, or None: wait for a running trial, or the search is over."""
        run = self.run_so_far
        while True:
            self._end_search_when_due()
            if run.search_end is not None:
                return None
            tired = run.duplicates_in_a_row >= DUPLICATES
            strict = run.refused_in_a_row >= REFUSALS
            rng = np.random.default_rng([run.config.seed, run.asks])
            with _named(run.config):
                proposal = None if tired or strict else self.searcher.ask(rng)
            if proposal is None:
                if not self._started:  # else what is running may open the way
                    reason = "duplicates" if tired else "refusals" if strict else "exhausted"
                    self._log("search_end", reason=reason)
                return None
            event, fields = enter(run, proposal, self._costs, self._constraints)
            self._log(event, **fields)
            if event == "ask":
                return run.trials[-1]

    def _next_training(self) -> Job | None:
        """The next retraining of the final comparison, None if none can start now."""
        run = self.run_so_far
        if not run.config.finalists:
            return None
        if not run.chosen and not any(trial.status == "running" for trial in run.trials):
            self._log("finalists", trials=[trial.id for trial in run.choice()])
        if not run.top(1):
            return None
        ready = [
            (contender, training)
            for contender, training in self._trainings_in_order()
            if training.status == "pending" and training_fits(run, contender, self.active)
        ]
        alone = not any(contender.kind == "finalist" for contender, _ in ready)
        if run.chosen and alone and not any(finalist.begun for finalist in run.finalists):
            return None  # baselines by themselves are no comparison
        if not ready:
            return None
        contender, training = ready[0]
        spec = self._spec(contender.canonical, training.seed, contender.recipe)
        return Job(training.key, spec, test=True, keep=True)

    def _trainings_in_order(self) -> list[tuple[Contender, Retraining]]:
        """Seed by seed, the best finalist and the baselines first: what is cut short still compares.

        While the last trials of the search are running, the baselines' first seed is all that can be done.
        """
        run = self.run_so_far
        seeds = range(run.config.seeds if run.chosen else 1)
        order = [*run.finalists[:1], *run.baselines, *run.finalists[1:]]
        return [(contender, contender.trainings[index]) for index in seeds for contender in order]

    def _trial_job(self, trial: TrialRecord) -> Job:
        spec = self._spec(trial.canonical, self.run_so_far.config.seed, trial.recipe, trial.until)
        if trial.supernet is not None:
            return Job(_key(trial), spec.replace(seed=trial.supernet["seed"], supernet=trial.supernet))
        limits = {c.metric: c.limit for c in self._constraints if c.metric in MEASURED}
        limits = {name: math.inf for name in self.searcher.needs if name in MEASURED} | limits
        limits = {name: limit for name, limit in limits.items() if name not in trial.metrics}
        carried = self._snapshots.of(trial.continues)
        return Job(_key(trial), spec, snapshot=trial.until is not None, carry_on=carried, limits=limits)

    def _spec(
        self, canonical: str, seed: int, changes: Mapping[str, Any] | None, until: int | None = None
    ) -> TrialSpec:
        device = "cuda" if self.sitting.device == "cuda" else "cpu"
        return self.run_so_far.spec(canonical, seed, changes).replace(device=device, until=until)

    def _start(self, job: Job) -> None:
        now = self._clock()
        if self._origin is None:
            self._origin = now
        self._started[job.key] = now
        trial = self.run_so_far.trial_at(job.key)
        if trial is not None:
            self._log("start", trial=trial.id, attempt=trial.attempts + 1, seed=job.spec.seed)
        else:
            self._log("retrain_start", key=job.key, seed=job.spec.seed)
        self.pool.submit(job)

    def _settle(self, ending: Ending) -> None:
        wall = self._clock() - self._started.pop(ending.key)
        trial = self.run_so_far.trial_at(ending.key)
        prefix = "" if trial is not None else "retrain_"
        fields: dict[str, Any] = {"trial": trial.id} if trial is not None else {"key": ending.key}
        result = ending.result
        if result is not None:
            fields |= _outcome(result) | {"wall": round(wall, 3)}
        if ending.metrics:
            fields["metrics"] = dict(ending.metrics)
        if trial is not None and trial.continues is not None and ending.failure != "infrastructure":
            self._snapshots.drop(trial.continues)
        if result is not None and result.status == "ok" and _finite(result.score):
            self._deaths = 0
            if trial is None:
                weights = store(self.journal.folder, Path(WEIGHTS) / ending.key, ending.files)
                fields |= {"test_score": result.test_score, "weights": weights}
            elif trial.until is not None:
                self._snapshots.keep(trial, ending.files)
            self._log(f"{prefix}finish", **fields)
            if trial is not None and trial.until is not None:
                self._snapshots.thin(self.run_so_far, trial.until)
        else:
            self._log(f"{prefix}fail", **fields | self._failure(ending, trial, wall))
            if self._deaths >= DEATHS:
                raise BrokenRunError(
                    f"{self._deaths} workers died in a row, the last with: {ending.message}; once that is mended, "
                    f"carry on with `recell resume {self.journal.folder}`"
                )

    def _failure(self, ending: Ending, trial: TrialRecord | None, wall: float) -> dict[str, Any]:
        record = trial or self.run_so_far.training(ending.key)
        result = ending.result
        if result is None:
            kind, message = ending.failure, ending.message
        else:
            # A score that is not finite is what the training loop calls diverged, whoever wrote the loop.
            kind = "diverged" if result.status == "ok" else result.status
            message = result.message
        died = kind == "infrastructure"
        self._deaths = self._deaths + 1 if died else 0
        attempt = record.attempts + 1
        retry = died and attempt < ATTEMPTS
        return {
            "class": kind,
            "message": message,
            "attempt": attempt,
            "retry": retry,
            "wall": round(wall, 3),
        }

    def _enforce_caps(self) -> None:
        """Stop what is over its time or memory, and trials that would eat the time of the final comparison."""
        run, now = self.run_so_far, self._clock()
        limit = run.config.trial_timeout or run.config.budget
        progress = self.pool.progress()
        for key, started in self._started.items():
            memory = progress[key].memory if key in progress else 0
            if now - started > limit:
                self.pool.abort(key, "timeout", f"took more than {limit:g} s")
            elif self.sitting.memory is not None and memory > self.sitting.memory:
                used, cap = memory / 1e9, self.sitting.memory / 1e9
                self.pool.abort(
                    key, "oom", f"its worker used {used:.2f} GB, more than the cap of {cap:.2f} GB"
                )
        if run.search_end is None or run.chosen or run.best is None or not run.config.finalists:
            return
        if run.config.budget - self.active < MARGIN * least_need(run, self.pool.slots):
            for key in self._started:
                if run.trial_at(key) is not None:
                    self.pool.abort(
                        key, "timeout", "was still running when the finalists had to be retrained"
                    )

    def _report_progress(self) -> None:
        run = self.run_so_far
        run.progress = {key: [at.steps, at.loss] for key, at in self.pool.progress().items()}
        if self._clock() - self._written >= BEAT and self._started:
            self._log("tick", progress=run.progress)
        else:
            self._watch({"event": "progress", "active": self.active, "progress": run.progress}, run)


def _key(trial: TrialRecord) -> str:
    return f"trial-{trial.id}"


def _finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _outcome(result: TrialResult) -> dict[str, Any]:
    values = result.to_dict()
    found = {
        name: values[name] for name in ("score", "curve", "params", "width", "steps", "start", "seconds")
    }
    return found | {name: values[name] for name in ("fallback", "found", "passed") if values[name]}


@contextlib.contextmanager
def _named(config: SearchConfig) -> Iterator[None]:
    """Say of a searcher of the user's own what it raised and where: that is no bug of recell."""
    try:
        yield
    except NasError:
        raise
    except Exception as error:
        own = next((n for n in (config.method, str(config.options.get("proposer"))) if ":" in n), None)
        if own is None:
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({at.filename}, line {at.lineno})"
        raise SearchError(f"searcher {own} raised {what}") from error


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that the first signal to stop sets; the second one raises KeyboardInterrupt."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's choice stands
                before[number] = signal.signal(number, handle)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
