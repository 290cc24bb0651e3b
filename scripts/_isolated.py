"""Jobs in processes of their own: one that hangs, dies or spoils its process ends that process alone.

A kernel that reads where it must not leaves every later call of its process broken, and one that does not end is ended
by nothing but the death of its process. So processes are given one job at a time, are watched by a clock, and are
replaced. Needs nothing but Python.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

START = 180.0  # seconds that a process may take to import what it needs, beside those of its first job


@dataclass(frozen=True)
class Job:
    """A function of a module, what it is given, and the seconds after which it is ended."""

    name: str
    run: Callable[..., Any]
    given: tuple[Any, ...] = ()
    seconds: float = 60.0


@dataclass(frozen=True)
class Done:
    """What came of a job: its value, or an error; or it was not `reached`."""

    job: Job
    value: Any = None
    error: str = ""
    seconds: float = 0.0
    reached: bool = True


@dataclass(frozen=True)
class Manners:
    """What each process calls when it starts, and after every job: an error there says that it is spoiled."""

    prepare: Callable[[], None]
    healthy: Callable[[], None]


def run_jobs(
    jobs: Sequence[Job],
    processes: int,
    manners: Manners,
    more: Callable[[], bool] = lambda: True,
    latest: float = math.inf,
) -> Iterator[Done]:
    """Run jobs, so many at a time, and give what came of each as soon as it is there; none begins once not `more()`.

    What still runs at `latest`, by `time.monotonic()`, is ended and counts as not reached. With 0 processes jobs run
    here, one after the other, and nothing watches them.
    """
    if processes == 0:
        for job in jobs:
            yield _run(job)[0] if more() else Done(job, reached=False)
        return
    waiting, running = deque(jobs), list[_Process]()
    try:
        while waiting or any(p.job for p in running):
            if not more():
                yield from (Done(job, reached=False) for job in waiting)
                waiting.clear()
            _hand_out(waiting, running, processes, manners)
            busy = [p for p in running if p.job]
            if not busy:
                break
            pause = max(0.0, min(latest, *(p.limit for p in busy)) - time.monotonic())
            heard = wait([p.connection for p in busy], pause)
            if not heard and time.monotonic() >= latest:
                yield from (Done(p.job, reached=False) for p in busy if p.job)
                yield from (Done(job, reached=False) for job in waiting)
                return
            for process in busy:
                done = process.hear() if process.connection in heard else process.overdue()
                if not process.alive:
                    running.remove(process)
                if done is not None:
                    yield done
    finally:
        for process in running:
            process.end()


def _hand_out(waiting: deque[Job], running: list[_Process], processes: int, manners: Manners) -> None:
    """Give every free process a job, and start those that are missing."""
    for process in running:
        if waiting and process.job is None:
            process.give(waiting.popleft())
    while waiting and len(running) < processes:
        running.append(_Process(manners))
        running[-1].give(waiting.popleft())


class _Process:
    """A process and the job that it has."""

    def __init__(self, manners: Manners) -> None:
        context = get_context("spawn")  # a forked process has no GPU
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, manners), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.ready, self.alive = False, True
        self.begun = self.limit = time.monotonic()

    def give(self, job: Job) -> None:
        self.job, self.begun = job, time.monotonic()
        self.limit = self.begun + job.seconds + (0 if self.ready else START)
        with contextlib.suppress(OSError):  # it is dead, which `hear` finds out
            self.connection.send(job)

    def hear(self) -> Done | None:
        """What it has to say: None where it is only ready."""
        assert self.job is not None
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            return self._failed(f"its process ended, with exit code {self.process.exitcode}")
        if message is None:
            self.ready, self.begun = True, time.monotonic()
            self.limit = self.begun + self.job.seconds
            return None
        done, spoiled = message
        self.job = None
        if spoiled:
            self.end()
        return done if isinstance(done, Done) else None

    def overdue(self) -> Done | None:
        """None where there is time left; else it is ended."""
        if self.job is None or time.monotonic() < self.limit:
            return None
        self.end()
        return self._failed(f"it was ended after {time.monotonic() - self.begun:.0f} s")

    def end(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.join(10)  # one that waits for a device may take its time to die
        self.connection.close()

    def _failed(self, error: str) -> Done:
        assert self.job is not None
        return Done(self.job, error=error, seconds=time.monotonic() - self.begun)


def _serve(connection: Connection, manners: Manners) -> None:
    """A process: jobs one after the other."""
    manners.prepare()
    connection.send(None)
    while True:
        done, spoiled = _run(connection.recv(), manners)
        connection.send((done, spoiled))
        if spoiled:
            return


def _run(job: Job, manners: Manners | None = None) -> tuple[Done, bool]:
    """What came of a job, and whether it left its process spoiled."""
    started, value, error, spoiled = time.monotonic(), None, "", False
    try:
        value = job.run(*job.given)
    except Exception as problem:  # of whatever kind, it is this job's alone
        error = f"{type(problem).__name__}: {problem}"
        print(f"{job.name}:", file=sys.stderr)
        traceback.print_exc()
    try:
        if manners is not None:
            manners.healthy()
    except Exception as problem:
        error, spoiled = error or f"left its process spoiled: {type(problem).__name__}: {problem}", True
    return Done(job, value, error, time.monotonic() - started), spoiled
