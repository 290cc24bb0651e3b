"""The journal: one JSON object per line, appended and synced before anything depends on it, and never changed after.

A line is `{"line": 3, "t": <unix seconds>, "active": <seconds>, "event": "start", ..., "crc": "1a2b3c4d"}`. Line 1 is
the event `config` and carries the schema. `line` counts from 1, `crc` is the CRC-32 of the line without it; together
they tell damage from what was written. No torch and no Ray here: `recell status` reads a run in milliseconds.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nas.errors import BrokenRunError, RunError

SCHEMA = 3
OLDEST = 1
"""The first schema that is read. Schema 1 has no fingerprints and no warnings about cells, schema 2 no metrics and no
trainings that stop before the recipe's end; those are empty then."""
JOURNAL = "journal.jsonl"
LOCK = "lock"

Event = dict[str, Any]

_TAIL = len(',"crc":"01234567"}')


@dataclass(frozen=True)
class Reading:
    """What a journal holds: its events, how many bytes their lines take, and whether a torn line follows them."""

    events: list[Event]
    length: int
    torn: bool
    ended: bool
    """Whether the last whole line has its newline; without it the next writer puts one."""


def read(folder: Path) -> Reading:
    """Read the journal of a run folder.

    A last line that was cut short (the driver or the machine died while writing it) is left out: it has no newline.
    Raises RunError if there is no journal, if it has another schema, and for damage in any other line, with its number.
    """
    path = folder / JOURNAL
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        reason = f"it has no {JOURNAL}" if folder.is_dir() else "there is no such folder"
        raise RunError(f"{folder} is not a run: {reason}") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    lines = raw.split(b"\n")
    ended = lines[-1] == b""
    if ended:
        lines.pop()
    events: list[Event] = []
    length = 0
    for number, line in enumerate(lines, start=1):
        event = _decode(line, number, path)
        if event is None:
            if number < len(lines) or ended:  # what was cut short has no newline
                raise RunError(f"{path} is damaged at line {number}: what is there is not what was written")
            break
        events.append(event)
        length += len(line) + 1
    if not events:
        raise RunError(f"{folder} is not a run: its {JOURNAL} has no complete first line")
    torn = len(events) < len(lines)
    return Reading(events, length if ended or torn else length - 1, torn, ended or torn)


def _decode(line: bytes, number: int, path: Path) -> Event | None:
    """The event of a line, or None if it is not what a journal writes there."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    if number == 1:
        _check_schema(event, path)
    body = line[:-_TAIL] + b"}"
    if event.get("crc") != f"{zlib.crc32(body):08x}" or event.get("line") != number:
        return None
    if not isinstance(event.get("event"), str) or not isinstance(event.get("active"), int | float):
        return None
    return event


def _check_schema(first: Event, path: Path) -> None:
    schema = first.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise RunError(f"{path} is not a journal of recell: line 1 has no schema number")
    if OLDEST <= schema <= SCHEMA:
        return
    age = "newer" if schema > SCHEMA else "older"
    writer = first.get("recell", "unknown")
    raise RunError(
        f"{path} has journal schema {schema}, which is {age} than schemas {OLDEST} to {SCHEMA} that this recell reads; "
        f"it was written by recell {writer}"
    )


def encode(event: Mapping[str, Any]) -> bytes:
    """The line of an event, newline included. Numbers that JSON lacks (nan, inf) become null."""
    body = json.dumps(_plain(event), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return body[:-1] + f',"crc":"{zlib.crc32(body):08x}"}}\n'.encode()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class Lock:
    """Held by the driver of a run. The kernel drops it with the process, so `kill -9` leaves no stale lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._fd: int | None = None

    def acquire(self) -> Self:
        """Take the lock. Raises RunError that names the process which has it."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"cannot write to run folder {self.path.parent}: {error.strerror}") from error
        # A reader that looks whether the run is live holds the lock for an instant: try again before giving up.
        for attempt in range(5):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 4:
                    os.close(fd)
                    raise RunError(_in_use(self.path)) from None
                time.sleep(0.1)
        try:
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except OSError as error:
            os.close(fd)
            raise BrokenRunError(f"cannot write to {self.path}: {error.strerror}") from error
        self._fd = fd
        return self

    def release(self) -> None:
        """Give the lock back; the file stays, empty."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def holder(folder: Path) -> tuple[int, str] | None:
    """The pid and host of the driver that is at work in a run folder, None if there is none."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(folder / LOCK)
    finally:
        os.close(fd)
    return None


def check_idle(folder: Path) -> None:
    """Raise RunError that names the process, if a driver is at work in a run folder."""
    if holder(folder) is not None:
        raise RunError(_in_use(folder / LOCK))


def _read_holder(path: Path) -> tuple[int, str]:
    try:
        content = json.loads(path.read_bytes())
        return int(content["pid"]), str(content["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, "unknown"


def _in_use(path: Path) -> str:
    pid, host = _read_holder(path)
    return (
        f"run {path.parent} is in use by the live process {pid} on {host}; stop it first "
        f"(kill -INT {pid}), or follow it with `recell status {path.parent}`"
    )


class Journal:
    """The writing end. Whoever holds it holds the lock of the run folder."""

    def __init__(self, folder: Path, fd: int, lines: int, length: int, lock: Lock) -> None:
        self.folder = folder
        self._fd = fd
        self._lines = lines
        self._length = length
        self._lock = lock

    @classmethod
    def create(cls, folder: Path, config: Mapping[str, Any]) -> tuple[Journal, Event]:
        """Start a run in `folder`, which is made if need be, with the event `config` as line 1.

        Raises RunError if the folder holds a run or any other file: nothing is overwritten.
        """
        check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make run folder {folder}: {error.strerror}") from error
        lock, fd = Lock(folder).acquire(), -1
        try:
            check_free(folder)
            # Written beside and renamed, so that a journal has its first line from the moment it exists.
            beside = folder / f".{JOURNAL}"
            beside.unlink(missing_ok=True)
            fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            journal = cls(folder, fd, 0, 0, lock)
            event = journal.append("config", 0.0, schema=SCHEMA, **config)
            os.replace(beside, folder / JOURNAL)
            _sync_folder(folder)
        except BaseException:
            _close(fd)
            lock.release()
            raise
        return journal, event

    @classmethod
    def take_over(cls, folder: Path) -> tuple[Journal, list[Event]]:
        """Open the journal of a run to carry it on. A torn last line is cut off here, and only here.

        Raises RunError as `read` does, and if another process is at work in the folder.
        """
        read(folder)
        lock, fd = Lock(folder).acquire(), -1
        try:
            reading = read(folder)
            fd = os.open(folder / JOURNAL, os.O_RDWR | os.O_APPEND)
            os.ftruncate(fd, reading.length)
            journal = cls(folder, fd, len(reading.events), reading.length, lock)
            if not reading.ended:
                journal._write(b"\n")
        except BaseException:
            _close(fd)
            lock.release()
            raise
        return journal, reading.events

    def append(self, event: str, active: float, /, **fields: Any) -> Event:
        """Write an event and return it once it is on the disk."""
        whole = {
            "line": self._lines + 1,
            "t": round(time.time(), 3),
            "active": round(active, 3),
            "event": event,
        }
        line = encode({**whole, **fields})
        self._write(line)
        self._lines += 1
        written: Event = json.loads(line)
        return written

    def _write(self, line: bytes) -> None:
        try:
            done = 0
            while done < len(line):
                done += os.write(self._fd, line[done:])
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._length)  # half a line must not stay in front of the next one
            raise BrokenRunError(f"cannot write to {self.folder / JOURNAL}: {error.strerror}") from error
        self._length += len(line)

    def close(self) -> None:
        """Close the journal and release the lock of the run folder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._lock.release()


def check_free(folder: Path) -> None:
    """Raise RunError unless a run can be started in `folder`: it does not exist, or it is an empty folder."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder} is a file; give a folder for the run")
    names = sorted(entry.name for entry in folder.iterdir())
    if JOURNAL in names:
        raise RunError(
            f"{folder} already holds a run; carry it on with `recell resume {folder}` or give another folder"
        )
    others = [name for name in names if name not in (LOCK, f".{JOURNAL}")]
    if others:
        raise RunError(f"{folder} holds other files ({others[0]}); give a new or empty folder for the run")


def check_writable(folder: Path) -> None:
    """Raise RunError if `folder` cannot be made, or not be written to; nothing is made here."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise RunError(f"cannot make run folder {folder}: {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RunError(f"cannot make run folder {folder}: {place} is not writable")


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
