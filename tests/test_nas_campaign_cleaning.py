"""What is removed from a run folder, and what never is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from made_runs import ask, cells, make_run
from source_tree import ROOT

from nas.campaign import Cleaned, Run, clean, open_run
from nas.campaign.cleaning import _models
from nas.campaign.journal import JOURNAL, Journal, holder
from nas.errors import RunError


def put(run: Run, name: str, size: int = 10) -> Path:
    """A file in a run's folder."""
    path = run.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def files(run: Run) -> set[str]:
    return {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()} - {"lock"}


def removed(cleaned: Cleaned) -> dict[str, str]:
    """The kind of everything that was removed, by its place."""
    return {item.path.name: item.kind for item in cleaned.removed}


@pytest.fixture(autouse=True)
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Ray's sessions."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray"


def finished(folder: Path) -> Run:
    """A finished run with models of every finalist and seed, and of a baseline."""
    run = make_run(folder, trials=7, finalists=2, seeds=2)
    for finalist in run.finalists:
        for training in finalist.done:
            put(run, f"{training.weights}/weights.safetensors", 100)
    return run


def test_nothing_is_needed_of_a_finished_run_but_what_can_be_asked_for(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    before = files(run)
    kept = {"report.html", "mine.txt", "weights/mine/a", "snapshots/mine/a", "best/cell.py", "snapshots/note"}
    for name in kept:
        put(run, name)
    put(run, ".report.html.part", 1)
    put(run, f".{JOURNAL}", 2)
    put(run, "snapshots/trial-3/state", 3)
    put(run, "snapshots/.trial-4/state", 4)
    put(run, f"weights/.{run.finalists[0].trainings[0].key}/weights.safetensors", 5)
    size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    (dry,) = clean([run.path], dry_run=True)
    (wet,) = clean([run.path])
    assert dry == wet
    assert wet.bytes == 1 + 2 + 3 + 4 + 5
    assert wet.bytes_left == size - wet.bytes
    assert files(run) == before | kept
    assert set(removed(wet).values()) == {"temporary", "snapshot"}
    (again,) = clean([run.path])
    assert (again.removed, again.bytes, again.failed) == ((), 0, ())


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    put(run, "snapshots/trial-3/state", 3)
    put(run, "snapshots/.trial-4/state", 4)
    for name in ("snapshots", "weights"):
        (run.path / name).rename(tmp_path / name)
        (run.path / name).symlink_to(tmp_path / name)
    put(run, ".report.html.part", 1)
    outside = sorted(tmp_path.glob("[sw]*/**/*"))
    assert len(outside) > 6
    for dry in (True, False):
        (cleaned,) = clean([run.path], everything=True, dry_run=dry)
        assert removed(cleaned) == {".report.html.part": "temporary"}
        assert sorted(tmp_path.glob("[sw]*/**/*")) == outside
    links = sum((run.path / name).lstat().st_size for name in ("snapshots", "weights"))
    assert cleaned.bytes_left == (run.path / JOURNAL).stat().st_size + links


def test_the_models_that_are_exported_stay_always(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (some,) = clean([run.path])
    best = {min(f.done, key=lambda t: t.score or 0.0).key for f in run.finalists}
    assert len(some.spared) == 2
    assert not best & {item.path.name for item in some.spared}
    assert {item.kind for item in some.spared} == {"model"}
    assert some.bytes == 0
    (every,) = clean([run.path], everything=True)
    assert [item.path.name for item in every.removed] == [item.path.name for item in some.spared]
    assert every.bytes == 200
    assert {path.name for path in (run.path / "weights").iterdir()} == best


def test_models_of_baselines_are_never_exported(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    training = run.baselines[0].done[0]
    training.weights = f"weights/{training.key}"
    put(run, f"{training.weights}/weights.safetensors")
    found = {item.path.name: item.why for item, always in _models(run) if not always}
    assert found[training.key] == "of a baseline, which no export takes"


@pytest.mark.parametrize("named", ["../precious", ".", "snapshots", "weights"])
def test_a_journal_from_others_does_not_name_what_is_removed(named: str, tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    put(run, "../precious/thesis")
    put(run, "snapshots/note")
    run.baselines[0].done[0].weights = named
    found = [item.path for item, _ in _models(run)]
    assert found
    assert run.path / named not in found


def unfinished(folder: Path) -> Run:
    """A run that stopped: trial 0 was carried on by trial 1, which is done; 2 can be carried on; 3 is under way."""
    journal = make_run(folder, trials=3, finish=False)
    again, _ = Journal.take_over(journal.path)
    made = cells(9)
    for number, (cell, until, continues) in enumerate(
        ((made[4], 10, None), (made[4], 20, 4), (made[5], 10, None)), start=4
    ):
        ask(again, 9.0, number, cell, until=until, continues=continues)
        again.append("start", 9.0, trial=number, attempt=1, seed=0)
        again.append("finish", 9.0, trial=number, score=2.0, params=5)
    again.close()
    return open_run(folder)


def test_a_run_that_stopped_keeps_what_carries_it_on(tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    assert [trial.status for trial in run.trials[3:]] == ["running", "ok", "ok", "ok"]
    for number in (3, 4, 5, 6, 77):
        put(run, f"snapshots/trial-{number}/state")
    put(run, "weights/trial-0-seed-9/weights.safetensors")
    (some,) = clean([run.path])
    assert removed(some) == dict.fromkeys(("trial-3", "trial-4", "trial-77"), "snapshot")
    assert [item.path.name for item in some.spared] == ["trial-5", "trial-6"]
    (every,) = clean([run.path], everything=True)
    assert removed(every) == dict.fromkeys(("trial-5", "trial-6"), "snapshot")
    assert files(run) == {JOURNAL, "weights/trial-0-seed-9/weights.safetensors"}
    assert not (run.path / "snapshots").exists()
    assert [trial.status for trial in open_run(run.path).trials] == [t.status for t in run.trials]


HOLDING = """
import sys
from pathlib import Path
from nas.campaign.journal import Lock
lock = Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("dry_run", [False, True])
def test_beside_a_live_driver_nothing_is_removed_from_any_run(dry_run: bool, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, trials=3) for name in ("idle", "live")]
    left = [put(run, "snapshots/trial-1/state") for run in runs]
    driver = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(runs[1].path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=rf"live is in use by the live process {driver.pid} on"):
        clean([run.path for run in runs], dry_run=dry_run)
    driver.communicate("\n", timeout=100)
    assert all(path.exists() for path in left)
    assert holder(runs[0].path) is None
    assert [one.bytes for one in clean([runs[0].path, *(run.path for run in runs)])] == [10, 10]


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(RunError, match=r"notes is not a run"):
        clean([tmp_path / "notes"])
    assert not list((tmp_path / "notes").iterdir())


def session(ray: Path, started: float, pid: int) -> Path:
    """The folder of a Ray that was started then by this process."""
    folder = ray / datetime.fromtimestamp(started).strftime(f"session_%Y-%m-%d_%H-%M-%S_%f_{pid}")
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "worker.out").write_bytes(b"1234567")
    return folder


def test_folders_of_the_rays_that_the_run_started_here(
    ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")  # where made runs were driven, by process 1
    run = make_run(tmp_path / "run", trials=3)
    began = float(run.sittings[0]["t"])
    own = session(ray, began - 20, 1)
    others = [session(ray, began - 20, 11), session(ray, began - 4000, 1), session(ray, began + 20, 1)]
    (ray / "session_latest").symlink_to(own)
    with monkeypatch.context() as patch:
        patch.setattr("nas.campaign.cleaning._command_lines", lambda: f"gcs_server --session-name={own.name}")
        assert clean([run.path])[0].removed == ()
    (cleaned,) = clean([run.path])
    assert removed(cleaned) == {own.name: "session"}
    assert cleaned.bytes == 7
    assert not own.exists()
    assert all(path.exists() for path in others)


def test_of_another_machines_rays_nothing_is_known(ray: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=3)
    session(ray, float(run.sittings[0]["t"]) - 20, 1)
    assert clean([run.path])[0].removed == ()


def test_what_cannot_be_removed_is_told_and_the_rest_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", trials=3)
    stuck, other = put(run, "snapshots/trial-0/state").parent, put(run, ".report.html.part")
    rmdir = os.rmdir

    def refuses(path: str | Path, *, dir_fd: int | None = None) -> None:
        if str(path).endswith("trial-0"):
            raise PermissionError(13, "Permission denied")
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", refuses)
    (cleaned,) = clean([run.path])
    assert [(item.path, why) for item, why in cleaned.failed] == [(stuck, "Permission denied")]
    assert not other.exists()
