"""Times of several calls in one run, interleaved, so that what else the machine does meets all of them alike.

Two clocks: `wall`, and `processor`, the time that this process had a core. One thread on a quiet machine takes the same
by both; on a busy one only the second is that of the work.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Subject = Callable[[], None]

WARMUP = 2  # calls of each subject before any is timed
LEAST_SAMPLE = 1e-3  # seconds: shorter calls are repeated inside one sample
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call by the clock that was asked for, and by the wall's, in the order they were taken."""

    samples: tuple[float, ...]
    wall: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median in ms."""
        return statistics.median(self.samples)

    @property
    def min(self) -> float:
        """The least in ms: on a busy machine the nearest to that of a quiet one."""
        return min(self.samples)

    def to_dict(self) -> dict[str, float | int]:
        """As JSON can hold it."""
        wall = statistics.median(self.wall)
        return {"median": self.median, "min": self.min, "wall_median": wall, "samples": len(self.samples)}


def interleaved(
    subjects: Mapping[str, Subject], repeats: int, seconds: float = math.inf, device: str = "cpu"
) -> dict[str, Times]:
    """Time each subject `repeats` times, in rounds of one sample each; the order turns by one from round to round.

    No round begins after `seconds`, but for the first three. On a GPU the clock is the wall's, elsewhere the
    processor's.
    """
    counts = {name: _calls_per_sample(subject, device) for name, subject in subjects.items()}
    names = list(subjects)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    started = time.perf_counter()
    for turn in range(repeats):
        if turn >= LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
        for name in _turned(names, turn):
            samples[name].append(_sample(subjects[name], counts[name], device))
    return {name: Times(tuple(t for t, _ in s), tuple(w for _, w in s)) for name, s in samples.items()}


def clock(device: str) -> str:
    """Which clock the samples are by."""
    return "wall" if device == "cuda" else "processor"


def _turned(names: Sequence[str], turn: int) -> list[str]:
    place = turn % max(1, len(names))
    return [*names[place:], *names[:place]]


def _calls_per_sample(subject: Subject, device: str) -> int:
    """How often a subject is called in one sample; this warms it up, too."""
    once = math.inf
    for _ in range(WARMUP):
        once = min(once, _sample(subject, 1, device)[0] / 1e3)
    return max(1, math.ceil(LEAST_SAMPLE / max(once, 1e-7)))


def _sample(subject: Subject, calls: int, device: str) -> tuple[float, float]:
    """Milliseconds of one call, the mean of `calls`: by the device's clock, and by the wall's."""
    _synchronize(device)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        subject()
    _synchronize(device)
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    return 1e3 * (wall if device == "cuda" else processor) / calls, 1e3 * wall / calls


def _synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
