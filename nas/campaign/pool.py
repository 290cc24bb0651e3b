"""What a campaign needs of its workers. `workers.RayPool` is the real one; tests drive campaigns with a made-up one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from nas.training import TrialResult, TrialSpec


@dataclass(frozen=True)
class Job:
    """A training for a worker to do. `test` reads the test split at the end; `keep` brings back the trained model.

    `snapshot` brings back where the training stands at its end; `carry_on` are the files of such a snapshot. With
    `limits` the metrics in it are measured first, and the cell is not trained if one is above its limit (inf: none).
    """

    key: str
    spec: TrialSpec
    test: bool = False
    keep: bool = False
    snapshot: bool = False
    carry_on: Mapping[str, bytes] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """What became of a job: a result, or the class of its failure and a message."""

    key: str
    result: TrialResult | None
    failure: str = ""
    message: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The files of the trained model, or of the snapshot, by name, if the job was to keep it and ended "ok"."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured."""


@dataclass(frozen=True)
class Progress:
    """How far a running job is: steps done, the last training loss, bytes of resident memory of its worker."""

    steps: int = 0
    loss: float | None = None
    memory: int = 0


class Pool(Protocol):
    """A fixed number of workers, one job each at a time. Endings are handed out once, by `wait`."""

    @property
    def slots(self) -> int:
        """How many workers there are, at work, idle or starting."""
        ...

    def idle(self) -> int:
        """How many jobs can be submitted now."""
        ...

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""
        ...

    def wait(self, seconds: float) -> list[Ending]:
        """The endings since the last call; waits up to `seconds` for the first one."""
        ...

    def progress(self) -> Mapping[str, Progress]:
        """The last that is known of the running jobs, by key."""
        ...

    def abort(self, key: str, failure: str, message: str) -> None:
        """Kill the worker of a job. The ending, with this class and message, comes from `wait`."""
        ...
