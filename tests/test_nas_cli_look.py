from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from campaign_fakes import SMALL, STEPS, begin
from cli_runner import recell, refused
from made_runs import make_run

from nas.campaign import Run
from nas.campaign.journal import JOURNAL
from nas.cli import machine
from nas.cli.look import failures_text
from nas.tasks import task_names
from search_spaces import space_names


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", trials=13, finalists=3)


def test_status_as_json_has_what_the_contract_names(run: Run) -> None:
    found = recell("status", run.path, "--json").json
    assert found == run.status()
    assert (found["finished"], found["running"], found["failed"]) == (11, 0, {"diverged": 2})
    assert found["budget_left"] == run.config.budget - run.active
    assert found["best"]["score"] == run.top(1)[0].score


def test_status_for_people(run: Run, tmp_path: Path) -> None:
    text = recell("status", run.path).out
    assert "finished\n" in text.splitlines()[0] + "\n"
    assert "11 finished, 0 running, 2 failed (diverged 2)" in text
    assert "15 of 15 final trainings" in text
    assert run.top(1)[0].text in text
    stopped = recell("status", make_run(tmp_path / "other", finish=False).path).out
    assert "interrupted" in stopped
    assert f"carry it on with: recell resume {tmp_path / 'other'}" in stopped


def test_failures_are_counted_by_class() -> None:
    assert failures_text({}) == "0 failed"
    assert failures_text({"timeout": 1, "oom": 2}) == "3 failed (oom 2, timeout 1)"
    assert failures_text({"constraint": 4}) == "0 failed, 4 over a measured constraint"


def test_top_is_the_order_of_the_search_with_the_rank_of_export(run: Run) -> None:
    rows = recell("top", run.path, "-n", 5, "--json").json
    assert [row["trial"] for row in rows] == [t.id for t in run.top(5)]
    assert sorted(row["rank"] for row in rows[:3]) == [1, 2, 3]
    assert [row["rank"] for row in rows[3:]] == [4, 5]
    winner = next(row for row in rows if row["rank"] == 1)
    assert run.winner is not None
    assert winner["trial"] == run.winner.trial
    assert winner["test_score"] == run.winner.test_score
    assert [row["seeds"] for row in rows] == [3, 3, 3, 1, 1]
    for row, trial in zip(rows, run.top(5), strict=True):
        assert (row["cell"], row["digest"], row["score"]) == (trial.text, trial.digest, trial.score)
        assert row["params"] == trial.params


def test_top_of_several_objectives_begins_with_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"objectives": "loss,latency_us", "population": 4}
    config = SMALL.replace(method="nsga2", options=options, max_trials=12)
    found = begin(tmp_path / "run", config)
    rows = recell("top", found.path, "-n", 12, "--json").json
    front = [trial.id for trial in found.front()]
    assert [row["trial"] for row in rows][: len(front)] == front
    assert [row["front"] for row in rows] == [True] * len(front) + [False] * (12 - len(front))
    assert rows[0]["metrics"] == found.trials[rows[0]["trial"]].metrics
    monkeypatch.setenv("COLUMNS", "160")
    out = recell("top", found.path).out
    assert "µs per step" in out.splitlines()[0]
    assert f"front: the Pareto front of loss, latency_us: {len(front)} of 12 cells" in out


def test_top_of_trials_of_different_steps_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = begin(tmp_path / "run", SMALL.replace(method="halving", max_trials=20))
    monkeypatch.setenv("COLUMNS", "160")
    assert "steps" in recell("top", found.path).out.splitlines()[0]
    rows = recell("top", found.path, "--json").json
    assert [row["steps"] for row in rows] == [trial.until or STEPS for trial in found.top(10)]


def test_top_shows_recipes_and_what_is_constrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.replace(
        method="guided",
        options={"recipe": "lr", "features": "statistics"},
        constraints=("latency_us<=9",),
        max_trials=12,
    )
    found = begin(tmp_path / "run", config)
    assert any(trial.recipe for trial in found.trials)
    monkeypatch.setenv("COLUMNS", "200")
    head, *rows = recell("top", found.path).out.splitlines()
    assert head.split()[-2:] == ["recipe", "cell"]
    assert "µs per step" in head
    assert any(" lr 0." in row for row in rows)


def test_top_for_people_folds_and_never_cuts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    out = recell("top", run.path, "-n", 2).out
    assert all(len(line) <= 70 for line in out.splitlines())
    shown = "".join(line[-60:] for line in out.splitlines()).replace(" ", "")
    assert run.top(1)[0].text.replace(" ", "")[-8:] in shown


def test_top_on_a_narrow_terminal_crops_no_number(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = recell("top", run.path, "-n", 1).out
    best = run.top(1)[0]
    assert best.score is not None
    assert best.params is not None
    assert f"#{best.id}  {best.score:.4f}" in out
    assert f"{best.params:,} parameters" in out
    assert best.text in out


def test_top_of_a_run_without_scores(tmp_path: Path) -> None:
    empty = make_run(tmp_path / "run", trials=0, finish=False)
    assert recell("top", empty.path).out == "no trial has a score yet\n"
    assert recell("top", empty.path, "--json").json == []


def test_a_damaged_journal_is_refused_with_its_line(run: Run) -> None:
    path = run.path / JOURNAL
    lines = path.read_bytes().split(b"\n")
    lines[6] = lines[6].replace(b'"', b"'", 1)
    path.write_bytes(b"\n".join(lines))
    for command in ("status", "top", "report"):
        assert "is damaged at line 7" in refused(command, run.path)


def test_a_torn_last_line_is_read_over(run: Run) -> None:
    with (run.path / JOURNAL).open("ab") as file:
        file.write(b'{"line": 9')
    assert recell("status", run.path, "--json").json["finished"] == 11


def test_spaces() -> None:
    assert [line.split()[0] for line in recell("spaces").out.splitlines()[1:] if line[0] != " "] == list(
        space_names()
    )
    assert [row["name"] for row in recell("spaces", "--json").json] == list(space_names())
    assert recell("spaces", "gated").out.startswith("space gated")
    assert recell("spaces", "gated", "--json").json["text"].count("space gated {") == 1
    assert "unknown space 'gate'; did you mean 'gated'" in refused("spaces", "gate")


def test_tasks() -> None:
    assert [row["name"] for row in recell("tasks", "--json").json] == list(task_names())
    assert all(name in recell("tasks").out for name in task_names())


def test_doctor_says_what_is_there_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ray", lambda problems: "2.60 can be imported (not started)")
    found = recell("doctor", "--json").json
    assert found["cores"] >= 1
    assert "reference" in [b["name"] for b in found["backends"]]
    assert found["backend"].startswith("auto takes ")
    assert found["problems"] == []
    assert {"folder", "files", "bytes", "largest"} == set(found["cache"])
    out = recell("doctor").out
    assert "auto takes" in out
    assert f"{found['cache']['folder']}: " in out

    monkeypatch.setattr(
        machine, "_ray", lambda problems: problems.append("ray cannot be imported: no") or "none"
    )
    said = recell("doctor")
    assert said.code == 1
    assert "problem: ray cannot be imported: no" in said.out
    assert "auto takes" in said.out  # cells are built without Ray

    monkeypatch.setattr(machine, "version", lambda name: _without("lark", name))
    said = recell("doctor")
    assert "problem: the package lark is not installed" in said.out
    assert "auto takes" not in said.out


def _without(missing: str, package: str) -> str:
    if package == missing:
        raise PackageNotFoundError(package)
    return "1.0"


def test_doctor_looks_for_the_compiler_as_the_backend_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "mine"
    place.write_text("#!/bin/sh\necho mine 1.0\n")
    place.chmod(0o755)
    monkeypatch.setenv("CC", f"{place} -O1")
    assert machine._compiler() == f"{place} (mine 1.0)"
    place.write_text("neither a script nor a program")
    assert machine._compiler() == f"{place} (cannot be started: Exec format error)"
    monkeypatch.setenv("CC", 'gcc "-O2')
    assert machine._compiler() == "none: CC is no command (No closing quotation)"


def test_doctor_tries_ray_in_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no ray here' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    problems: list[str] = []
    assert machine._ray(problems) == "cannot be imported"
    assert problems == ["ray cannot be imported: ModuleNotFoundError: no ray here"]
