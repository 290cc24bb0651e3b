from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaign_fakes import SMALL, FakePool, begin, first_event

from nas.campaign import Event, Run, open_run
from nas.campaign.journal import JOURNAL, Journal, read
from nas.campaign.pool import Ending, Job
from nas.errors import RunError
from nas.training import TrialResult

ROOT = Path(__file__).resolve().parents[1]


def test_status_of_a_finished_run(tmp_path: Path) -> None:
    def script(job: Job, start: int) -> Ending | None:
        return Ending(job.key, None, "oom", "too big") if job.key == "trial-1" else None

    run = begin(tmp_path / "run", pool=FakePool(script=script))
    status = open_run(tmp_path / "run").status()
    assert json.loads(json.dumps(status)) == status
    assert run.best is not None
    expected = {
        "state": "finished",
        "phase": "done",
        "reason": "trials",
        "finished": 5,
        "running": 0,
        "pending": 0,
        "failed": {"oom": 1},
        "asked": 6,
        "duplicates": 0,
        "budget": 1000.0,
        "retrained": 6,
        "retrain_planned": 6,
        "not_retrained": [],
        "pid": None,
    }
    assert {name: status[name] for name in expected} == expected
    assert status["budget_left"] == pytest.approx(1000.0 - 60.0 - 60.0, abs=2.0)
    assert status["best"] == {
        "trial": run.best.id,
        "cell": run.best.text,
        "digest": run.best.digest,
        "score": run.best.score,
        "params": run.best.params,
    }


def test_trainings_on_the_slow_backend_are_counted(tmp_path: Path) -> None:
    slow = TrialResult("ok", 0.5, 0.5, fallback="no C compiler")

    def script(job: Job, start: int) -> Ending | None:
        return Ending(job.key, slow) if job.key in ("trial-1", "trial-4", "gru-seed-1") else None

    run = begin(tmp_path / "run", pool=FakePool(script=script))
    assert [trial.id for trial in run.trials if trial.fallback] == [1, 4]
    assert run.training("gru-seed-1").fallback == "no C compiler"
    assert open_run(tmp_path / "run").status()["fallbacks"] == {"no C compiler": 3}
    assert begin(tmp_path / "other").status()["fallbacks"] == {}


def test_status_of_a_live_run_seen_from_outside(tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []

    def look(event: Event, run: Run) -> None:
        if event["event"] == "start" and event["trial"] == 3:
            seen.append(open_run(tmp_path / "run").status())

    begin(tmp_path / "run", on_event=look)
    (status,) = seen
    expected = {"state": "running", "phase": "search", "finished": 3, "running": 1, "pending": 0}
    assert {name: status[name] for name in expected} == expected
    assert status["pid"] == os.getpid()


def test_status_of_a_run_whose_driver_was_killed(tmp_path: Path) -> None:
    journal, _ = Journal.create(tmp_path / "run", first_event(SMALL))
    fields = {"text": "t", "digest": "d", "canonical": "c", "operator": "sample", "parents": []}
    journal.append("ask", 0.0, ask=0, trial=0, **fields)
    journal.append("start", 0.0, trial=0, attempt=1, seed=0)
    journal.close()
    status = open_run(tmp_path / "run").status()
    assert (status["state"], status["running"], status["pending"]) == ("interrupted", 0, 1)
    assert status["budget_left"] == 1000.0


def test_a_run_that_ends_between_two_looks_was_not_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin(folder)
    whole = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(whole[: whole.rstrip(b"\n").rindex(b"\n") + 1])
    read_before = open_run(folder)
    assert read_before.status()["state"] == "interrupted"
    (folder / JOURNAL).write_bytes(whole)
    assert read_before.status() == open_run(folder).status()
    assert read_before.status()["state"] == "finished"


def test_the_best_so_far_only_improves(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", SMALL.replace(max_trials=20))
    points = run.trajectory()
    assert points == sorted(points, key=lambda point: -point[2])
    assert [point[0] for point in points] == sorted(point[0] for point in points)
    assert run.best is not None
    assert points[-1][2] == run.best.score
    assert points[0][1] == 1


def test_the_best_so_far_is_of_those_trained_furthest(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", SMALL.replace(method="halving", max_trials=120, seed=2, budget=1e4))
    whole = [trial for trial in run.trials if trial.until is None and trial.status == "ok"]
    assert 1 < len(whole) < 40
    assert {trial.id for trial in run.furthest()} == {trial.id for trial in whole}
    points = run.trajectory()
    assert {(at, score) for at, _, score in points} <= {(trial.ended, trial.score) for trial in whole}
    assert run.best is not None
    assert points[-1][2] == run.best.score


def test_the_winner_is_the_finalist_that_validates_best_after_retraining(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", SMALL.replace(finalists=4, max_trials=10))
    scores = {c.trial: sum(t.score or 0.0 for t in c.trainings) / 2 for c in run.finalists}
    assert run.winner is not None
    assert run.winner.trial == min(scores, key=lambda trial: scores[trial])
    assert run.winner.score == pytest.approx(scores[run.winner.trial])
    assert run.winner.test_score == pytest.approx(scores[run.winner.trial] + 0.125)
    assert run.contender(run.winner.trial or 0) is run.winner


def test_a_run_can_be_moved(tmp_path: Path) -> None:
    def stop(event: Event, run: Run) -> None:
        if event["event"] == "start" and event["trial"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    begin(tmp_path / "here", on_event=stop)
    (tmp_path / "here").rename(tmp_path / "there")
    text = (tmp_path / "there" / JOURNAL).read_text()
    assert "here" not in text
    assert open_run(tmp_path / "there").status()["finished"] == 2


def test_an_event_out_of_place_is_refused_with_its_line(tmp_path: Path) -> None:
    journal, _ = Journal.create(tmp_path / "run", first_event(SMALL))
    journal.append("start", 0.0, trial=5, attempt=1, seed=0)
    journal.close()
    with pytest.raises(RunError, match="damaged at line 2: event 'start': IndexError"):
        open_run(tmp_path / "run")


def test_an_unknown_event_is_refused_with_its_line(tmp_path: Path) -> None:
    journal, _ = Journal.create(tmp_path / "run", first_event(SMALL))
    journal.append("dance", 0.0)
    journal.close()
    with pytest.raises(RunError, match="damaged at line 2: event 'dance': no such event in this schema"):
        open_run(tmp_path / "run")


def test_reading_needs_neither_torch_nor_ray_and_writes_nothing(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    script = (
        "import sys; from nas.campaign import open_run; run = open_run(sys.argv[1]); run.status(); run.top()\n"
        "print({'torch', 'ray', 'numpy', 'grammar'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.strip() == "set()"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_line_one_says_what_the_search_is(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    first = read(tmp_path / "run").events[0]
    assert (first["event"], first["schema"]) == ("config", 3)
    assert run.config == SMALL
    assert run.task["metric"] == "error rate"
