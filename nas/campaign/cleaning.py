"""Remove from run folders what is of no use any more. The journal and what was made for the user always stay.

| kind | what | removed |
|---|---|---|
| temporary | files that were being written when a process died | always |
| snapshot | from which a trial may be carried on: it saves time and decides nothing | of a finished run, and where no \
trial will be carried on from it; else with `everything` |
| model | a trained model that no export takes: of a baseline, or of another seed of a finalist than the best | of a \
finished run, with `everything` |
| session | Ray's own folder, logs and all, of a sitting of the run on this machine | unless Ray still runs there |

No torch and no Ray here.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from nas.campaign.entries import OPEN
from nas.campaign.journal import JOURNAL, LOCK, Lock, check_idle
from nas.campaign.record import Run
from nas.campaign.stores import SNAPSHOTS, WEIGHTS

STARTING = 600.0
"""Seconds that may lie between the start of a Ray and the sitting that it is for: workers import torch meanwhile."""

_SESSION = re.compile(r"session_(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d{6})_(\d+)")
_REPORT = ".report.html.part"


@dataclass(frozen=True)
class Item:
    """A file or folder that can be removed, its bytes, and why."""

    path: Path
    kind: str
    bytes: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"path": str(self.path), "kind": self.kind, "bytes": self.bytes, "why": self.why}


@dataclass(frozen=True)
class Cleaned:
    """What became of a run folder: what was removed, what only `everything` removes, and what could not be removed."""

    run: Path
    finished: bool
    removed: tuple[Item, ...]
    spared: tuple[Item, ...]
    failed: tuple[tuple[Item, str], ...]
    bytes_left: int

    @property
    def bytes(self) -> int:
        """Bytes that were freed."""
        return sum(item.bytes for item in self.removed)


def clean(paths: Iterable[str | Path], *, everything: bool = False, dry_run: bool = False) -> list[Cleaned]:
    """Clean run folders; `dry_run` removes nothing and tells the same.

    Raises RunError, before anything is removed, if one is no run or a live driver is at work on it.
    """
    folders = list({Path(path).resolve(): Path(path) for path in paths}.values())
    with ExitStack() as locks:
        runs = []
        for folder in folders:
            Run.load(folder)  # a folder that is no run gets no lock
            if dry_run:
                check_idle(folder)
            else:
                locks.callback(Lock(folder).acquire().release)
            runs.append(Run.load(folder))
        return [_cleaned(run, everything, dry_run) for run in runs]


def _cleaned(run: Run, everything: bool, dry_run: bool) -> Cleaned:
    useless, spared = [*_temporary(run), *_sessions(run)], list[Item]()
    for item, always in (*_snapshots(run), *_models(run)):
        (useless if always or everything else spared).append(item)
    removed, failed = [], []
    for item in useless:
        try:
            if not dry_run:
                _remove(item.path)
            removed.append(item)
        except OSError as error:
            failed.append((item, error.strerror or str(error)))
    left = sum(_bytes(path) for path in run.path.iterdir() if path.name != LOCK)  # which says who cleans
    if dry_run:
        left -= sum(item.bytes for item in removed if item.kind != "session")
    return Cleaned(run.path, run.finished, tuple(removed), tuple(spared), tuple(failed), left)


def _temporary(run: Run) -> Iterator[Item]:
    """What is written beside its place and renamed when it is whole."""
    for name in (f".{JOURNAL}", _REPORT):
        if (run.path / name).is_file():
            yield _item(run.path / name, "temporary", "half written when a process died")
    for folder in (SNAPSHOTS, WEIGHTS):
        for path in _inside(run, folder):
            if path.name.startswith(".trial-") or path.name[1:] in _keys(run):
                yield _item(path, "temporary", "half written when a process died")


def _snapshots(run: Run) -> Iterator[tuple[Item, bool]]:
    """Snapshots, each with whether it is useless."""
    carried = {trial.continues for trial in run.trials if trial.status not in OPEN}
    for path in _inside(run, SNAPSHOTS):
        number = path.name.removeprefix("trial-")
        if number == path.name or not number.isdecimal():
            continue
        trial = run.trials[int(number)] if int(number) < len(run.trials) else None
        if run.finished:
            yield _item(path, "snapshot", "the run is finished"), True
        elif trial is None or trial.status != "ok":
            yield _item(path, "snapshot", "its trial is not done and will be trained anew"), True
        elif trial.id in carried:
            yield _item(path, "snapshot", "its trial was carried on already"), True
        else:
            yield _item(path, "snapshot", "saves time when the run is resumed"), False


def _models(run: Run) -> Iterator[tuple[Item, bool]]:
    """Trained models that no export takes, each with False: they cost time to make. None before the run is finished."""
    if not run.finished:
        return
    made = frozenset(_inside(run, WEIGHTS))
    for contender in run.contenders:
        models = [training for training in contender.done if training.weights]
        best = min(models, key=lambda training: training.score or 0.0, default=None)
        for training in models:
            path = run.path / WEIGHTS / training.key
            # A journal may come from others, and must not name what is removed.
            if path not in made or training.weights != f"{WEIGHTS}/{training.key}":
                continue
            if contender.kind == "baseline":
                yield _item(path, "model", "of a baseline, which no export takes"), False
            elif training is not best:
                yield _item(path, "model", "another seed of the finalist is better, and exported"), False


def _sessions(run: Run) -> Iterator[Item]:
    """Folders of the Rays that drivers of this run started here, and that have ended."""
    here = socket.gethostname()
    drivers = [(s["pid"], float(s["t"])) for s in run.sittings if s.get("host") == here]
    found = []
    for path in _folders(_ray_folder()):
        named = _SESSION.fullmatch(path.name)
        if named is None:
            continue
        began = datetime.strptime(named[1], "%Y-%m-%d_%H-%M-%S_%f").timestamp()
        if any(pid == int(named[2]) and 0 <= t - began <= STARTING for pid, t in drivers):
            found.append(path)
    words = _command_lines() if found else ""
    for path in found:
        if path.name not in words:
            yield _item(path, "session", "of a Ray that has ended")


def _ray_folder() -> Path:
    """Where Ray puts the folders of its sessions, as Ray has it."""
    own = os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None
    return Path(os.environ.get("RAY_TMPDIR") or own or "/tmp") / "ray"


def _command_lines() -> str:
    """Those of all processes: each of Ray's names its session."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return "\n".join(lines)


def _keys(run: Run) -> frozenset[str]:
    """The names of the models that the run has or will have."""
    return frozenset(training.key for contender in run.contenders for training in contender.trainings)


def _folders(place: Path) -> list[Path]:
    """The folders in a folder; none if it is not there."""
    try:
        return sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def _inside(run: Run, name: str) -> list[Path]:
    """The folders in a folder of a run; none where that is a link: what it leads to is not the run's."""
    place = run.path / name
    return [] if place.is_symlink() else _folders(place)


def _item(path: Path, kind: str, why: str) -> Item:
    return Item(path, kind, _bytes(path), why)


def _bytes(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; a link counts as the link that it is."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,)
    total = 0
    for file in files:
        try:
            if file.is_symlink() or not file.is_dir():
                total += file.lstat().st_size
        except OSError:  # gone meanwhile
            continue
    return total


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        if path.parent.name in (SNAPSHOTS, WEIGHTS) and not any(path.parent.iterdir()):
            path.parent.rmdir()
    else:
        path.unlink()
