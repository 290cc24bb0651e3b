"""`recell clean`: what it says, its exit codes, and wrong use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_runner import recell, refused
from made_runs import make_run

from nas.campaign import Run
from nas.cli import look, machine
from nas.cli.console import bytes_text


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RECELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RECELL_CACHE_SIZE", raising=False)


def littered(folder: Path, finish: bool = True) -> tuple[Run, Path]:
    """A run, and a snapshot in its folder that its trial 1 left."""
    run = make_run(folder, trials=3, finalists=0, finish=finish)
    snapshot = run.path / "snapshots" / "trial-1"
    snapshot.mkdir(parents=True)
    (snapshot / "state").write_bytes(b"x" * 2000)
    return run, snapshot


def test_a_dry_run_lists_and_a_run_removes(tmp_path: Path) -> None:
    run, snapshot = littered(tmp_path / "run")
    size = (run.path / "journal.jsonl").stat().st_size
    dry = recell("clean", run.path, "--dry-run")
    assert dry.code == 0
    assert str(snapshot) in dry.out
    assert "the run is finished" in dry.out
    assert f"1 snapshot can be removed, 2 kB; {bytes_text(size)} would be left" in dry.out
    assert recell("clean", run.path, "--dry-run", "--quiet").out == ""
    assert snapshot.exists()
    assert (
        recell("clean", run.path).out
        == f"{run.path}: 1 snapshot removed, 2 kB; {bytes_text(size)} are left\n"
    )
    assert not snapshot.exists()
    assert recell("clean", run.path).out == f"{run.path}: nothing to remove; {bytes_text(size)} are left\n"


def test_json_says_what_was_freed(tmp_path: Path) -> None:
    run, snapshot = littered(tmp_path / "run")
    found = recell("clean", run.path, "--json").json
    assert (found["dry_run"], found["bytes"], found["cache"]) == (False, 2000, None)
    (one,) = found["runs"]
    assert (one["run"], one["finished"], one["bytes"]) == (str(run.path), True, 2000)
    assert [(item["path"], item["kind"]) for item in one["removed"]] == [(str(snapshot), "snapshot")]
    assert (one["spared"], one["failed"]) == ([], [])


def test_a_run_that_is_not_finished_says_what_stays(tmp_path: Path) -> None:
    run, snapshot = littered(tmp_path / "run", finish=False)
    said = recell("clean", run.path).out
    assert "nothing to remove" in said
    assert "kept unless --all is given: 1 snapshot, 2 kB, with which `recell resume` saves time" in said
    assert f"what carries it on stays: recell resume {run.path}" in said
    assert snapshot.exists()
    assert "1 snapshot removed, 2 kB" in recell("clean", run.path, "--all").out
    assert not snapshot.exists()


def test_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "c"
    folder.mkdir(parents=True)
    for number, age in enumerate((0.0, 1e6, 1e7)):
        library = folder / f"{number:064x}.so"
        library.write_bytes(b"x" * 1500)
        os.utime(library, (library.stat().st_mtime - age,) * 2)
    found = machine._cache([])
    assert found == {"folder": str(folder), "files": 3, "bytes": 4500, "largest": 2**30}
    assert look._cache_text(found) == f"{folder}: 3 compiled files, 4.5 kB (at most 1.07 GB)"
    dry = recell("clean", "--cache", "--older-than", "30d", "--dry-run").out
    assert dry == f"{folder}: 1.5 kB in 1 file can be removed; 3 kB in 2 would be left\n"
    found = recell("clean", "--cache", "--older-than", "30d", "--json").json
    assert found["bytes"] == 1500
    assert found["cache"]["files_left"] == 2
    assert recell("clean", "--cache").out == f"{folder}: 1.5 kB in 1 file removed; 1.5 kB in 1 are left\n"
    assert len(list(folder.iterdir())) == 1  # it was used within the hour


def test_what_cannot_be_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, snapshot = littered(tmp_path / "run")

    def refuses(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nas.campaign.cleaning._remove", refuses)
    said = recell("clean", run.path)
    assert said.code == 1
    assert said.error == f"error: cannot remove {snapshot}: Permission denied\n"


def test_wrong_use(tmp_path: Path) -> None:
    assert refused("clean").startswith("clean takes the folders of runs, or --cache")
    assert refused("clean", tmp_path, "--older-than", "30d").startswith("--older-than is for --cache")
    assert refused("clean", "--cache", "--older-than", "5m").startswith("--older-than must be at least 1h")
    assert "is not a run" in refused("clean", tmp_path)


def test_a_size_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECELL_CACHE_SIZE", "much")
    monkeypatch.setattr("nas.cli.machine._ray", lambda problems: "can be imported")
    said = recell("doctor")
    assert said.code == 1
    assert "problem: RECELL_CACHE_SIZE must be a number of bytes" in said.out


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (4_214_000, "4.21 MB"),
        (999_600, "1 MB"),
    ],
)
def test_bytes(number: int, text: str) -> None:
    assert bytes_text(number) == text
