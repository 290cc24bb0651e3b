"""The cache of compiled cells stays bounded, and takes nothing away that is in use or not its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from source_tree import ROOT

from nas._cache import BUILD, PAUSE, STAMP, Pruned, cache_folder, largest_size, prune, prune_when_due, usage
from nas.errors import NasError

HOUR = 3600.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECELL_CACHE", str(tmp_path))
    monkeypatch.delenv("RECELL_CACHE_SIZE", raising=False)
    (tmp_path / "c").mkdir()
    return tmp_path / "c"


def put(folder: Path, number: int, hours: float, size: int = 100, ending: str = "so") -> Path:
    """A file of the cache that was used so many hours ago."""
    path = folder / f"{number:064x}.{ending}"
    path.write_bytes(b"x" * size)
    return unused(path, hours)


def unused(path: Path, hours: float) -> Path:
    then = time.time() - hours * HOUR
    os.utime(path, (then, then))
    return path


def names(folder: Path) -> list[int]:
    return sorted(int(path.name.split(".")[0], 16) for path in folder.iterdir() if path.name[0] != ".")


def test_the_least_recently_used_go_first_and_none_of_the_last_hour(folder: Path) -> None:
    for number, hours in enumerate((5, 2, 9, 0.5, 3)):
        put(folder, number, hours)
    assert prune(folder, most=350, dry_run=True) == Pruned(folder, 2, 200, 3, 300, 0)
    assert names(folder) == [0, 1, 2, 3, 4]
    assert prune(folder, most=350) == Pruned(folder, 2, 200, 3, 300, 0)
    assert names(folder) == [1, 3, 4]
    assert prune(folder, older_than=2.5 * HOUR).files == 1
    assert prune(folder, older_than=0.0).files_left == 1  # never what was used within the hour
    assert names(folder) == [3]


def test_what_is_not_the_caches_own_stays(folder: Path, tmp_path: Path) -> None:
    target = put(tmp_path, 0, 9)
    own = [folder / "notes.txt", folder / f"{1:064x}.py", folder / f"{2:060x}.so", folder / "recell.so"]
    for path in own:
        path.touch()
        unused(path, 99)
    (folder / f"{3:064x}.so").symlink_to(target)
    (folder / f"{4:064x}.so").mkdir()
    assert prune(folder) == Pruned(folder, 0, 0, 0, 0, 0)
    assert len(list(folder.iterdir())) == 6
    assert target.exists()


def test_what_builds_left_that_died_goes(folder: Path) -> None:
    for name, hours in (("old", 3.0), ("new", 0.1)):
        (folder / f"{BUILD}{name}").mkdir()
        (folder / f"{BUILD}{name}" / "cell.c").write_bytes(b"12345")
        unused(folder / f"{BUILD}{name}", hours)
    put(folder, 1, 9)
    assert prune(folder, most=None) == Pruned(folder, 1, 5, 2, 105, 0)
    assert sorted(path.name[:8] for path in folder.iterdir()) == [f"{BUILD}n", "0" * 8]


def test_builders_bound_it_now_and_then(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECELL_CACHE_SIZE", "1k")
    for number in range(20):
        put(folder, number, 2 + number)
    prune_when_due(folder)
    assert names(folder) == list(range(9))  # to nine tenths of 1,024 bytes
    put(folder, 99, 99, size=5000)
    prune_when_due(folder)
    assert 99 in names(folder)  # it was looked at a moment ago
    unused(folder / STAMP, 1.01 * PAUSE / HOUR)
    prune_when_due(folder)
    assert names(folder) == list(range(9))


def test_a_cache_below_its_bound_is_left_alone(folder: Path) -> None:
    put(folder, 1, 999)
    prune_when_due(folder)
    assert names(folder) == [1]
    assert usage().bytes == 100
    assert (usage().folder, usage().files, usage().largest) == (folder, 1, 2**30)


@pytest.mark.parametrize(
    ("text", "size"),
    [("", 2**30), ("none", None), ("0", 0), ("1234", 1234), ("500M", 500 * 2**20), ("1.5 GiB", 3 * 2**29)],
)
def test_sizes(text: str, size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECELL_CACHE_SIZE", text)
    assert largest_size() == size


def test_a_size_that_is_none_is_said_and_nothing_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECELL_CACHE_SIZE", "much")
    put(folder, 1, 9)
    with pytest.raises(NasError, match=r"RECELL_CACHE_SIZE must be .* such as 500M .*; received 'much'"):
        usage()
    with pytest.warns(RuntimeWarning, match=r"is not bounded: RECELL_CACHE_SIZE must be"):
        prune_when_due(folder)
    assert names(folder) == [1]


def test_a_size_of_hundreds_of_digits_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECELL_CACHE_SIZE", "9" * 400)
    with pytest.raises(NasError, match=r"RECELL_CACHE_SIZE must be .*; received '9{59}\.\.\.$"):
        usage()
    put(folder, 1, 9)
    with pytest.warns(RuntimeWarning, match=r"is not bounded: RECELL_CACHE_SIZE must be"):
        prune_when_due(folder)
    assert names(folder) == [1]
    monkeypatch.setenv("RECELL_CACHE_SIZE", "9" * 100)  # more than any disk has, and a number
    assert largest_size() == int(float("9" * 100))


def test_no_folder_and_no_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECELL_CACHE", str(folder / "none"))
    assert (usage().files, prune().files) == (0, 0)
    assert not (folder / "none").exists()  # to ask makes nothing
    for name in ("RECELL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path("~/.cache/recell/c")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(NasError, match=r"there is no cache folder: .*set RECELL_CACHE"):
        usage()


def test_a_folder_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECELL_CACHE_SIZE", "10")
    put(folder, 1, 9)
    put(folder, 2, 8)

    def refuses(*given: object, **more: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # a superuser may write where others may not
        patch.setattr(os, "open", refuses)
        prune_when_due(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuses)
        prune_when_due(folder)
        assert prune() == Pruned(folder, 0, 0, 2, 200, 2)
    assert names(folder) == [1, 2]


WAITING = """
import sys
from pathlib import Path
from nas import _cache
print("ready", flush=True)
sys.stdin.readline()
print(_cache.prune(Path(sys.argv[1]), most=5000).files)
"""


def test_two_processes_at_once(folder: Path) -> None:
    for number in range(200):
        put(folder, number, 2 + number)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    removed = [int(process.communicate(timeout=100)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert max(removed) <= 150 <= sum(removed)
    assert names(folder) == list(range(50))  # the same as one of them leaves


HOLDING = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def test_while_one_process_looks_others_do_not_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECELL_CACHE_SIZE", "10")
    put(folder, 1, 9)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder / STAMP)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    unused(folder / STAMP, 1)
    prune_when_due(folder)
    assert names(folder) == [1]
    other.communicate("\n", timeout=100)
    prune_when_due(folder)
    assert names(folder) == []
