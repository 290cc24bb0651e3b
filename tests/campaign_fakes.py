"""A campaign without Ray and without time: a pool that makes up its answers and a clock that the pool moves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from searcher_suite import ToySpace, made_up_found

from grammar import DIGEST_VERSION, Cell, parse, zoo
from nas.campaign import Event, Run, SearchConfig
from nas.campaign.driver import Campaign, OnEvent
from nas.campaign.journal import Journal
from nas.campaign.pool import Ending, Job, Progress
from nas.searchers import make_searcher
from nas.tasks import Recipe
from nas.training import TrialResult, TrialSpec

SMALL = SearchConfig(
    budget=1000.0, workers=1, method="random", max_trials=6, finalists=2, seeds=2, baselines=("gru",)
)


STEPS = 27
"""Of the made-up recipe."""


class Clock:
    """Seconds that pass when the pool says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time now."""
        return self.now


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def made_up_latency(cell: str) -> float:
    """Microseconds between 0 and 10 that depend on the text."""
    return round(10 * unit_hash(f"latency {cell}"), 3)


def made_up_costs(cell: Cell, recipe: Recipe) -> dict[str, float]:
    """Metrics that depend on the cell."""
    return {"params": float(int(1000 * unit_hash(cell.one_line))), "flops": 100.0 * recipe.num_layers}


def made_up_result(spec: TrialSpec, test: bool = False) -> TrialResult:
    """A training that ends "ok", its score decided by cell and seed."""
    score = unit_hash(f"{spec.cell} {spec.seed}")
    curve = ((1, 2.0), (2, score))
    params = int(made_up_costs(parse(spec.cell), spec.recipe)["params"])
    if spec.supernet is not None:
        found = made_up_found(ToySpace(), spec.supernet)
        return TrialResult("ok", score, None, curve, 5 * params, 16, 2, 0.5, found=found)
    return TrialResult("ok", score, score + 0.125 if test else None, curve, params, 16, 2, 0.5)


Script = Callable[[Job, int], Ending | None]
"""What becomes of the n-th start (from 0) of a job; None for the usual result."""


@dataclass
class FakePool:
    """Jobs take `seconds(job)` of the clock's time."""

    clock: Clock = field(default_factory=Clock)
    slots: int = 1
    seconds: Callable[[Job], float] = lambda job: 10.0
    script: Script = lambda job, start: None
    memory: Callable[[Job], int] = lambda job: 0
    submitted: list[Job] = field(default_factory=list)
    running: dict[str, tuple[Job, float]] = field(default_factory=dict)
    aborted: dict[str, Ending] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)

    def idle(self) -> int:
        """How many jobs can be submitted now."""
        return self.slots - len(self.running)

    def submit(self, job: Job) -> None:
        """Start a job."""
        assert self.idle() > 0
        assert job.key not in self.running
        self.submitted.append(job)
        self.starts[job.key] = self.starts.get(job.key, -1) + 1
        self.running[job.key] = (job, self.clock.now + self.seconds(job))

    def wait(self, seconds: float) -> list[Ending]:
        """Move the clock to the next ending, but not by more than `seconds`."""
        if self.aborted:
            return [self._end(key) for key in list(self.aborted)]
        until = self.clock.now + seconds
        first = min((end for _, end in self.running.values()), default=until)
        self.clock.now = max(self.clock.now, min(first, until))
        return [self._end(key) for key, (_, end) in list(self.running.items()) if end <= self.clock.now]

    def _end(self, key: str) -> Ending:
        job, _ = self.running.pop(key)
        if key in self.aborted:
            return self.aborted.pop(key)
        scripted = self.script(job, self.starts[key])
        if scripted is not None:
            return scripted
        files = {"weights.safetensors": job.key.encode(), "trial.json": b"{}"} if job.keep else {}
        if job.snapshot:
            files = {"snapshot": f"{job.spec.cell} at {job.spec.steps}".encode()}
        result = made_up_result(job.spec, job.test)
        start = int(job.carry_on["snapshot"].split()[-1]) if job.carry_on else 0
        metrics = {name: made_up_latency(job.spec.cell) for name in job.limits}
        over = [name for name, limit in job.limits.items() if metrics[name] > limit]
        if over:
            return Ending(key, None, "constraint", f"{over[0]} is {metrics[over[0]]:g}", metrics=metrics)
        return Ending(key, replace(result, steps=job.spec.steps, start=start), files=files, metrics=metrics)

    def progress(self) -> Mapping[str, Progress]:
        """Half way, always."""
        return {key: Progress(1, 2.0, self.memory(job)) for key, (job, _) in self.running.items()}

    def abort(self, key: str, failure: str, message: str) -> None:
        """End a job as it is."""
        self.aborted.setdefault(key, Ending(key, None, failure, message))


def baseline(name: str) -> dict[str, str]:
    """A cell of the zoo as line 1 has it."""
    cell = zoo(name)
    canonical = cell.canonical().one_line
    return {"name": name, "text": cell.one_line, "canonical": canonical, "digest": cell.digest}


def first_event(config: SearchConfig) -> dict[str, Any]:
    """Line 1 of a made-up run, as `launch` writes it for a real one."""
    baselines = [baseline(name) for name in config.baselines]
    task = {
        "name": "toy",
        "version": 1,
        "size": "search",
        "metric": "error rate",
        "trivial_score": 1.0,
        "best_known": None,
        "data_digest": "0" * 64,
        "recipe": Recipe(STEPS, 1, 1, 0.1).to_dict(),
        "params": 1000,
    }
    what = {"config": config.to_dict(), "task": task, "space": {"name": "toy"}, "baselines": baselines}
    what["objectives"] = list(make_searcher(config.method, ToySpace(), config.options).objectives)
    return {"recell": "0.0", "digests": DIGEST_VERSION, "hash": "0" * 64, **what, "versions": {}}


def begin(
    folder: Path,
    config: SearchConfig = SMALL,
    pool: FakePool | None = None,
    on_event: OnEvent | None = None,
    space: ToySpace | None = None,
) -> Run:
    """Start a made-up run and drive it as far as it goes."""
    journal, event = Journal.create(folder, first_event(config))
    return _drive(journal, [event], pool or FakePool(slots=config.workers), on_event, space or ToySpace())


def carry_on(
    folder: Path,
    pool: FakePool | None = None,
    on_event: OnEvent | None = None,
    space: ToySpace | None = None,
) -> Run:
    """Take over a made-up run and drive it as far as it goes."""
    journal, events = Journal.take_over(folder)
    slots = events[0]["config"]["workers"]
    return _drive(journal, events, pool or FakePool(slots=slots), on_event, space or ToySpace())


def _drive(
    journal: Journal, events: Sequence[Event], pool: FakePool, on_event: OnEvent | None, space: ToySpace
) -> Run:
    config = SearchConfig.from_dict(events[0]["config"])
    searcher = make_searcher(config.method, space, config.options)
    try:
        return Campaign(journal, events, searcher, pool, clock=pool.clock, costs=made_up_costs).run(on_event)
    finally:
        journal.close()


def gist(run: Run) -> list[tuple[object, ...]]:
    """What a run found, without what depends on clocks and interruptions."""
    rows: list[tuple[object, ...]] = [
        (t.id, t.text, t.digest, t.canonical, t.operator, t.parents, t.status, t.score, t.curve, t.params)
        for t in run.trials
    ]
    for contender in run.contenders:
        trainings = [(t.key, t.seed, t.status, t.score, t.test_score, t.weights) for t in contender.trainings]
        rows.append((contender.kind, contender.name, contender.digest, *trainings))
    return [*rows, (run.search_end, run.finished, run.asks, run.duplicates)]
