"""Files that a run keeps: trained models for good, snapshots of trainings while they may be carried on.

And those that a worker has during one training.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nas.campaign.entries import TrialRecord
from nas.campaign.record import Run

WEIGHTS = "weights"
SNAPSHOTS = "snapshots"
KEPT = 60
"""Snapshots that are kept of each number of steps, those of the best scores."""
SCRATCH = "recell-trial-"
"""What the temporary folders of workers begin with."""
_YOUNG = 60.0
"""Seconds after its last change for which a folder may be one that is about to be locked."""


def store(root: Path, place: Path, files: Mapping[str, bytes]) -> str | None:
    """Store files in the folder `place` below `root`, all or none; the place as text, None without files."""
    if not files:
        return None
    folder = root / place
    beside = folder.with_name(f".{folder.name}")
    for left in (folder, beside):  # a kill between the copy and its event leaves one behind
        if left.exists():
            shutil.rmtree(left)
    beside.mkdir(parents=True)
    for name, content in files.items():
        with (beside / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    beside.rename(folder)
    return place.as_posix()


class Snapshots:
    """Snapshots of the trials of a run that were not trained to the end of the recipe.

    They save time and decide nothing: a trial whose snapshot is gone is trained from the first step, to the same
    result. So what is kept can be bounded, and a run can be moved without them.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, trial: TrialRecord, files: Mapping[str, bytes]) -> None:
        """Store the snapshot of a trial."""
        store(self._root, self._place(trial.id), files)

    def of(self, trial: int | None) -> dict[str, bytes]:
        """The files of a trial's snapshot, none if there is none."""
        folder = self._root / self._place(-1 if trial is None else trial)
        return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}

    def drop(self, trial: int | None) -> None:
        """Remove the snapshot of a trial, if there is one."""
        shutil.rmtree(self._root / self._place(-1 if trial is None else trial), ignore_errors=True)

    def thin(self, run: Run, until: int | None) -> None:
        """Keep those of the best `KEPT` trials that were trained as far as `until`."""
        alike = [t for t in run.trials if t.until == until and t.status == "ok" and t.score is not None]
        if len(alike) > KEPT:
            for trial in sorted(alike, key=lambda t: (t.score, t.id))[KEPT:]:
                self.drop(trial.id)

    def clear(self) -> None:
        """Remove all: nothing will be carried on any more."""
        shutil.rmtree(self._root / SNAPSHOTS, ignore_errors=True)

    def _place(self, trial: int) -> Path:
        return Path(SNAPSHOTS) / f"trial-{trial}"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, locked as long as this process lives: `sweep` tells by that what a killed one left."""
    with tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as folder:
        fd = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: there nothing is swept
                fcntl.flock(fd, fcntl.LOCK_SH)
            yield Path(folder)
        finally:
            os.close(fd)


def sweep() -> None:
    """Remove the temporary folders of workers on this machine that were killed at a trial."""
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):  # another's, or gone meanwhile
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(fd).st_mtime > _YOUNG:
                    shutil.rmtree(path)
            finally:
                os.close(fd)
