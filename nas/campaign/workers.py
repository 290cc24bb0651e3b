"""Workers on Ray: one actor per slot, one training at a time in each. The only file that imports Ray.

A dead actor is replaced by a new one here rather than by Ray's `max_restarts`: then a worker is starting, idle or
busy, and nothing else, and a job that was under way is never run again behind the campaign's back. A worker is also
replaced after `RECYCLE` jobs (leaks) and when its memory stays high.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from grammar import GrammarError
from nas._modules import own_modules
from nas.campaign.pool import Ending, Job, Progress
from nas.campaign.stores import scratch, sweep
from nas.errors import BrokenRunError, BuildError, RunError, SnapshotError, TaskError, TrainingError
from nas.training import TrialResult, TrialSpec

TRAIN = "nas.training:train"
TRAIN_SUPERNET = "nas.supernet:train_trial"
RECYCLE = 500
START_SECONDS = 120.0
"""How long to wait for a first worker, or for any while none is left."""
STARTS = 4
"""Workers in a row that may die before they are ready."""
STORE_BYTES = 200 * 2**20
"""Ray's object store: only results and trained models pass through it."""
_OOM_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


class Worker:
    """The actor: trains in one thread and answers `peek` from another."""

    def __init__(self, train: str) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, by the first `prepare` or `run`
        self._train = train
        self._progress: tuple[int, float | None] = (0, None)

    def prepare(self, task: Mapping[str, Any] | None) -> dict[str, Any]:
        """Import what a training needs and check that the task's data are here, so that no trial pays for it."""
        _load(self._train)
        _warm_up()
        sweep()
        if task is not None:
            from nas.tasks import load_task

            found = load_task(task["name"], task["data"], task["size"]).data_digest
            if found != task["data_digest"]:
                raise RunError(
                    f"on {socket.gethostname()} the data of task {task['name']} differ from those of this run"
                )
        return {"host": socket.gethostname(), "pid": os.getpid()}

    def run(self, spec: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Train; always returns: a result, or the class and message of the failure. `wanted` are fields of a Job."""
        self._progress = (0, None)
        metrics: dict[str, float] = {}
        try:
            import torch

            torch.set_num_threads(1)
            whole = TrialSpec.from_dict(spec)
            over = _measure(whole, wanted["limits"], metrics)
            if over:
                return {"failure": "constraint", "message": over, "metrics": metrics}
            with scratch() as folder:
                place, before = folder / "made", folder / "before"
                places = {"save_to": place} if wanted["keep"] else {}
                if wanted["snapshot"]:
                    places["snapshot_to"] = place
                if wanted["carry_on"]:
                    before.mkdir()
                    for name, content in wanted["carry_on"].items():
                        (before / name).write_bytes(content)
                    places["carry_on"] = before
                result = self._run(whole, wanted["test"], places)
                files = {p.name: p.read_bytes() for p in sorted(place.glob("*"))}
            return {"result": result.to_dict(), "files": files, "metrics": metrics}
        except Exception as error:
            return {
                "failure": classify(error),
                "message": f"{type(error).__name__}: {error}",
                "metrics": metrics,
            }

    def _run(self, spec: TrialSpec, test: bool, places: Mapping[str, Path]) -> TrialResult:
        train = _load(self._train if spec.supernet is None else TRAIN_SUPERNET)
        given = {"test": test, "on_progress": self._on_progress}
        try:
            result = train(spec, **given, **places)
        except SnapshotError:  # it only saves time
            result = train(spec, **given, **{name: at for name, at in places.items() if name != "carry_on"})
        assert isinstance(result, TrialResult)
        return result

    def _on_progress(self, steps: int, loss: float) -> None:
        self._progress = (steps, loss)

    def peek(self) -> tuple[int, float | None, int]:
        """Steps, last loss and resident bytes of this process, at any time."""
        import psutil

        return (*self._progress, int(psutil.Process().memory_info().rss))


@dataclass(eq=False)
class _Slot:
    """A worker: starting (no job, not ready), idle (no job, ready) or busy. `answer` is what Ray will answer."""

    actor: Any
    answer: Any
    since: float
    ready: bool = False
    job: Job | None = None
    jobs: int = 0
    progress: Progress = field(default_factory=Progress)
    peek: Any = None
    verdict: tuple[str, str] | None = None


class RayPool:
    """A pool of Ray actors. Entering starts the workers and waits for them; leaving ends them.

    With `address` None a local Ray of `workers` CPU cores and `gpus_here` GPUs is started and ended with the pool;
    otherwise the cluster there, which `check_address` has found, is joined and left running. A Ray that this process
    has already joined is used and left as it is. Each worker takes one core and `gpus` of a GPU. `task` (name, data,
    size, data_digest) is loaded by every worker before it counts as ready. Raises RunError if there is no cluster, no
    worker starts, or the data are not there or differ.
    """

    def __init__(
        self,
        workers: int,
        *,
        address: str | None = None,
        gpus: float = 0.0,
        gpus_here: int = 0,
        task: Mapping[str, Any] | None = None,
        memory: int | None = None,
        train: str = TRAIN,
    ) -> None:
        self._workers = workers
        self._address = address
        self._gpus = gpus
        self._gpus_here = gpus_here
        self._task = task
        self._memory = memory
        self._train = train
        self._slots: list[_Slot] = []
        self._started_ray = False
        self._failed_starts = 0
        self._sigterm: Any = None

    def __enter__(self) -> Self:
        self._connect()
        try:
            self._slots = [self._make() for _ in range(self._workers)]
            self._wait_until_ready()
        except BaseException:
            self._disconnect()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disconnect()

    def _connect(self) -> None:
        # Nobody is told of what users do here unless they say so; and Ray's own reports of dead workers, which go to
        # stdout, say less than the journal does.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        import ray

        if ray.is_initialized():
            return
        self._sigterm = signal.getsignal(signal.SIGTERM)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self._address is not None:
                ray.init(address=self._address, **quiet)
            else:
                with own_modules():
                    ray.init(
                        address="local",
                        num_cpus=self._workers,
                        num_gpus=self._gpus_here,
                        include_dashboard=False,
                        object_store_memory=STORE_BYTES,
                        **quiet,
                    )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as problem:
            raise BrokenRunError(f"Ray could not be started: {str(problem).splitlines()[0]}") from problem
        self._started_ray = True

    def _disconnect(self) -> None:
        import ray

        for slot in self._slots:
            ray.kill(slot.actor)
        self._slots = []
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, self._sigterm or signal.SIG_DFL)  # Ray put its own there

    def _make(self) -> _Slot:
        import ray

        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": self._gpus,
            "max_restarts": 0,
            "max_concurrency": 2,
        }
        actor: Any = ray.remote(Worker).options(**options).remote(self._train)
        return _Slot(actor, actor.prepare.remote(self._task), time.monotonic())

    def _replace(self, slot: _Slot) -> None:
        import ray

        ray.kill(slot.actor)  # it may be alive after all, beyond a broken connection
        self._slots[self._slots.index(slot)] = self._make()

    def _wait_until_ready(self) -> None:
        """Until all workers are ready; if the cluster has no room for all, a while longer than the first took."""
        began = time.monotonic()
        first: float | None = None
        while not all(slot.ready for slot in self._slots):
            self.wait(0.25)
            now = time.monotonic()
            if first is None and any(slot.ready for slot in self._slots):
                first = now
            if first is not None and now - first > 10 + (first - began):
                return

    @property
    def slots(self) -> int:
        """How many workers there are."""
        return self._workers

    def idle(self) -> int:
        """How many workers are ready and have no job."""
        return sum(slot.ready and slot.job is None for slot in self._slots)

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""
        slot = next(slot for slot in self._slots if slot.ready and slot.job is None)
        slot.job = job
        slot.jobs += 1
        slot.progress, slot.verdict = Progress(), None
        slot.since = time.monotonic()
        wanted = {name: getattr(job, name) for name in ("test", "keep", "snapshot", "carry_on", "limits")}
        slot.answer = slot.actor.run.remote(job.spec.to_dict(), wanted)

    def wait(self, seconds: float) -> list[Ending]:
        """The endings since the last call; waits up to `seconds` for the first one. Replaces workers that died."""
        import ray

        waiting = [slot for slot in self._slots if slot.answer is not None]
        if waiting:
            ray.wait([slot.answer for slot in waiting], timeout=seconds)
        endings = [ending for slot in waiting if (ending := self._look_at(slot)) is not None]
        self._peek()
        self._check_starting()
        return endings

    def _look_at(self, slot: _Slot) -> Ending | None:
        """Take a slot's answer if there is one: it becomes ready, or idle, or is replaced."""
        import ray

        if not ray.wait([slot.answer], timeout=0)[0]:
            return None
        job = slot.job
        try:
            answer = ray.get(slot.answer)
        except ray.exceptions.RayTaskError as error:
            if job is None:
                raise BrokenRunError(f"a worker could not be made ready: {_last_line(error)}") from error
            failure = "infrastructure", _last_line(error)
        except ray.exceptions.RayError as error:
            if job is None:
                self._failed_starts += 1
                if self._failed_starts >= STARTS:
                    raise BrokenRunError(f"workers die as they start: {_last_line(error)}") from error
            failure = _cause(error)
        else:
            self._failed_starts = 0
            slot.answer, slot.job, slot.ready, slot.peek = None, None, True, None
            high = self._memory is not None and slot.progress.memory > self._memory // 2
            if slot.verdict or slot.jobs >= RECYCLE or (job is not None and high):
                self._replace(slot)
            return _ending(job, answer) if job is not None else None
        self._replace(slot)
        return Ending(job.key, None, *(slot.verdict or failure)) if job is not None else None

    def _peek(self) -> None:
        """Take the answers to the last look into the busy workers, and look again."""
        import ray

        for slot in self._slots:
            if slot.job is None:
                continue
            if slot.peek is not None:
                if not ray.wait([slot.peek], timeout=0)[0]:
                    continue
                try:
                    slot.progress = Progress(*ray.get(slot.peek))
                except ray.exceptions.RayError:
                    slot.peek = None
                    continue  # what became of the worker is for the job's own answer to say
            slot.peek = slot.actor.peek.remote()

    def _check_starting(self) -> None:
        if self._slots and not any(slot.ready for slot in self._slots):
            waited = time.monotonic() - max(slot.since for slot in self._slots)
            if waited > START_SECONDS:
                need = f"one CPU core{f' and {self._gpus:g} GPU' if self._gpus else ''}"
                raise BrokenRunError(
                    f"no worker started within {START_SECONDS:g} s; each needs {need} to be free"
                )

    def progress(self) -> dict[str, Progress]:
        """The last that is known of the running jobs, by key."""
        return {slot.job.key: slot.progress for slot in self._slots if slot.job is not None}

    def abort(self, key: str, failure: str, message: str) -> None:
        """Kill the worker of a job. The ending, with this class and message, comes from `wait`."""
        import ray

        for slot in self._slots:
            if slot.job is not None and slot.job.key == key and slot.verdict is None:
                slot.verdict = failure, message
                ray.kill(slot.actor)


def _ending(job: Job, answer: Mapping[str, Any]) -> Ending:
    metrics = answer["metrics"]
    if "failure" in answer:
        return Ending(job.key, None, answer["failure"], answer["message"], metrics=metrics)
    return Ending(job.key, TrialResult.from_dict(answer["result"]), files=answer["files"], metrics=metrics)


def _cause(error: Exception) -> tuple[str, str]:
    """The class and message of a worker's death."""
    import ray

    text = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in text:
        return "oom", "Ray stopped its worker: the machine ran low on memory"
    return "infrastructure", f"its worker died ({type(error).__name__})"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def classify(error: BaseException) -> str:
    """The class of failure of an exception out of a training."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(sign in text for sign in _OOM_SIGNS):
        return "oom"
    # What the machine did; another try, perhaps elsewhere, may go well. The rest would happen again.
    if isinstance(error, OSError | TaskError | TrainingError) or "cuda error" in text:
        return "infrastructure"
    return "invalid"


def _measure(spec: TrialSpec, limits: Mapping[str, float], metrics: dict[str, float]) -> str:
    """Measure what has a limit, into `metrics`; what is above its limit in words, "" if nothing is."""
    if not limits:
        return ""
    latency = _load("nas.training:measure_latency")
    try:
        metrics["latency_us"] = round(float(latency(spec)), 3)
    except (BuildError, GrammarError):
        return ""  # the training will say so
    limit = limits["latency_us"]
    found = metrics["latency_us"]
    return f"latency_us<={limit:g} (is {found:g})" if found > limit else ""


def _warm_up() -> None:
    """Take one step of an optimiser: torch loads seconds' worth of modules at the first one of a process."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.AdamW([parameter]).step()


def _load(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
