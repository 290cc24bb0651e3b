"""The cache of compiled cells on disk: where it is, how large it may become, and what is removed from it.

Those who build for it call `prune_when_due`. What is removed may be in use: a library that a process has loaded stays
in its memory, and the next process builds it anew. Loading a file touches it, so its last change is its last use.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import shutil
import stat
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nas.errors import NasError

SIZE = "RECELL_CACHE_SIZE"
LARGEST = 2**30
"""Bytes that the cache may have, unless $RECELL_CACHE_SIZE says otherwise."""
SPARED = 3600.0
"""Seconds for which nothing is removed after it was used."""
PAUSE = 600.0
"""Seconds between two looks at the size, all processes together."""
ROOM = 0.9
"""The part of the largest size that is left where the cache was larger, so that there is room for a while."""
BUILD = ".build-"
"""What the folders begin with in which files are made; one that is there for long was left by a process that died."""
STAMP = ".pruned"
"""The file whose last change is the last look at the size. Who looks holds its lock."""

_OURS = re.compile(r"[0-9a-f]{64}\.(so|json|h|h\.gch)")
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class Usage:
    """What is in the cache: files and their bytes. `largest` is None where there is no bound."""

    folder: Path
    files: int
    bytes: int
    largest: int | None


@dataclass(frozen=True)
class Pruned:
    """Files that were removed and their bytes, those that are left, and how many could not be removed."""

    folder: Path
    files: int
    bytes: int
    files_left: int
    bytes_left: int
    refused: int


@dataclass(frozen=True)
class _Entry:
    path: Path
    bytes: int
    used: float


def cache_folder() -> Path:
    """Where compiled cells are kept: $RECELL_CACHE, else `recell` in the user's cache folder. Nothing is made here."""
    given, own = os.environ.get("RECELL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path(own or "~/.cache") / "recell") / "c"


def largest_size() -> int | None:
    """How many bytes the cache may have: $RECELL_CACHE_SIZE as 500M or 2G, None for `none`. Raises NasError."""
    text = os.environ.get(SIZE, "").strip().lower()
    if not text:
        return LARGEST
    if text == "none":
        return None
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) ?([kmgt]?)(i?b)?", text)
    size = math.nan if found is None else float(found[1]) * 1024 ** _UNITS[found[2]]
    if not math.isfinite(size):
        given = repr(os.environ[SIZE])
        shown = given if len(given) <= 60 else f"{given[:60]}..."
        raise NasError(f"{SIZE} must be a number of bytes such as 500M or 2G, or none; received {shown}")
    return int(size)


def usage() -> Usage:
    """What is in the cache now. Raises NasError where $RECELL_CACHE_SIZE is none."""
    folder = _expanded()
    entries = list(_entries(folder))
    return Usage(folder, len(entries), sum(entry.bytes for entry in entries), largest_size())


def mark_used(path: Path) -> None:
    """Note that a file of the cache is used now; where it cannot be written, that is not known."""
    with contextlib.suppress(OSError):
        os.utime(path)


def prune_when_due(folder: Path) -> None:
    """Bound the cache in `folder`, if nobody did so for `PAUSE` seconds; never raises, and mostly it is one look.

    Least recently used files go first, none that was used within `SPARED` seconds.
    """
    stamp = folder / STAMP
    try:
        with contextlib.suppress(FileNotFoundError):
            if abs(time.time() - stamp.stat().st_mtime) < PAUSE:
                return
        fd = os.open(stamp, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # a folder that cannot be written
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(fd)
        largest, entries = largest_size(), list(_entries(folder))
        fits = largest is None or sum(entry.bytes for entry in entries) <= largest
        _prune(folder, entries, None if largest is None or fits else int(ROOM * largest))
    except OSError:  # another process is at it
        pass
    except NasError as error:
        warnings.warn(f"the cache {folder} is not bounded: {error}", RuntimeWarning, stacklevel=2)
    finally:
        os.close(fd)


def prune(
    folder: Path | None = None, *, most: int | None = 0, older_than: float = SPARED, dry_run: bool = False
) -> Pruned:
    """Remove what was not used for `older_than` seconds, the least recently used first, until `most` bytes are left.

    With `most` None no more than what builds left that died. In a `dry_run` it is counted and nothing is removed.
    What cannot be removed is left.
    """
    folder = _expanded() if folder is None else folder
    return _prune(folder, list(_entries(folder)), most, older_than, dry_run)


def _prune(
    folder: Path, entries: list[_Entry], most: int | None, older_than: float = SPARED, dry_run: bool = False
) -> Pruned:
    """`prune`, of these entries of a folder."""
    before = time.time() - max(older_than, SPARED)
    left, files, removed, refused = sum(entry.bytes for entry in entries), 0, 0, 0
    for entry in sorted(entries, key=lambda entry: entry.used):
        enough = most is None or left <= most
        if entry.used >= before or (enough and not entry.path.name.startswith(BUILD)):
            continue
        try:
            if not dry_run and not _remove(entry):
                continue
        except OSError:
            refused += 1
            continue
        files, removed, left = files + 1, removed + entry.bytes, left - entry.bytes
    return Pruned(folder, files, removed, len(entries) - files, left, refused)


def _remove(entry: _Entry) -> bool:
    """Remove a file, or the folder of a build; False where it was used since it was looked at. Raises OSError."""
    try:
        if os.lstat(entry.path).st_mtime != entry.used:
            return False
        if entry.path.name.startswith(BUILD):
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink()
    except FileNotFoundError:  # another process removed it
        pass
    return True


def _entries(folder: Path) -> Iterator[_Entry]:
    """What recell has put in a cache folder; none where it cannot be read, and nothing that is not ours."""
    try:
        found = list(os.scandir(folder))
    except OSError:
        return
    for each in found:
        try:
            facts = each.stat(follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode) and _OURS.fullmatch(each.name):
                yield _Entry(Path(each.path), facts.st_size, facts.st_mtime)
            elif stat.S_ISDIR(facts.st_mode) and each.name.startswith(BUILD):
                inside = sum(file.stat(follow_symlinks=False).st_size for file in os.scandir(each.path))
                yield _Entry(Path(each.path), inside, facts.st_mtime)
        except OSError:  # gone since it was listed
            continue


def _expanded() -> Path:
    """The cache folder without `~`. Raises NasError for a user without a home."""
    try:
        return cache_folder().expanduser()
    except RuntimeError as error:
        raise NasError(f"there is no cache folder: {error}; set RECELL_CACHE to one") from None
