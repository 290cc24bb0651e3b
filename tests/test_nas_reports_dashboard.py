from __future__ import annotations

import fcntl
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import optuna
import pytest
from cli_runner import recell, refused
from made_runs import make_run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from grammar import parse
from nas.campaign import Run, open_run
from nas.campaign.journal import Journal
from nas.errors import RunError
from nas.reports import write_study
from nas.reports.dashboard import RUN_KEY


def study(file: Path, name: str = "run") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(file))))


def begun(run: Run, other: Path) -> None:
    """Say that a run began when another one did, as a copy of its folder has it."""
    run.first["t"] = open_run(other).first["t"]


def test_the_study_has_what_ended(tmp_path: Path) -> None:
    run, file = make_run(tmp_path / "run", trials=14, finish=False), tmp_path / "studies.journal"
    assert write_study(run, file) == ("run", 14)
    found = study(file)
    assert run.best is not None
    assert found.best_value == run.best.score
    assert found.best_trial.user_attrs["trial"] == run.best.id
    assert found.user_attrs["metric"] == run.task["metric"]
    assert found.user_attrs["task"] == run.config.task
    states = [t.state for t in found.trials]
    assert states.count(TrialState.FAIL) == sum(run.failures.values()) == 2
    for trial in found.trials:
        record = run.trials[trial.user_attrs["trial"]]
        assert trial.value == record.score
        assert parse(trial.user_attrs["cell"]).digest == record.digest == trial.user_attrs["digest"]
        assert trial.params["params"] == record.params
        assert trial.params["operations"] > 1
        assert trial.params["states"] == 1
        assert trial.intermediate_values == dict(record.curve)
        assert trial.duration is not None
        assert trial.duration.total_seconds() == pytest.approx(record.wall)


def test_what_was_trained_less_far_is_pruned(tmp_path: Path) -> None:
    run, file = make_run(tmp_path / "run", trials=5, finish=False), tmp_path / "studies.journal"
    less = run.best
    assert less is not None
    less.until, less.steps, less.recipe = 9, 9, {"lr": 0.02}
    write_study(run, file)
    (first,) = [t for t in study(file).trials if t.user_attrs["trial"] == less.id]
    assert first.state == TrialState.PRUNED
    assert (first.value, first.user_attrs["steps"]) == (less.score, 9)
    assert first.user_attrs["recipe"] == {"lr": 0.02}
    assert run.best is not None
    assert study(file).best_trial.user_attrs["trial"] == run.best.id != less.id


def test_written_again_it_gets_what_is_new(tmp_path: Path) -> None:
    file = tmp_path / "studies.journal"
    write_study(make_run(tmp_path / "run", trials=5, finish=False), file)
    whole = make_run(tmp_path / "again" / "run", trials=9)
    begun(whole, tmp_path / "run")
    assert write_study(whole, file) == ("run", 4)
    assert write_study(whole, file) == ("run", 0)
    assert [t.user_attrs["trial"] for t in study(file).trials] == [*range(9)]


def test_another_run_of_the_same_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "studies.journal"
    write_study(make_run(tmp_path / "run", trials=3), file)
    other = make_run(tmp_path / "other" / "run", trials=3)
    assert other.first["hash"] == open_run(tmp_path / "run").first["hash"]  # of one configuration
    with pytest.raises(RunError, match="the study 'run' is of another run; give another file"):
        write_study(other, file)


def test_a_run_that_was_moved_keeps_its_study(tmp_path: Path) -> None:
    file = tmp_path / "studies.journal"
    write_study(make_run(tmp_path / "run", trials=3), file)
    (tmp_path / "run").rename(tmp_path / "renamed")
    assert write_study(open_run(tmp_path / "renamed"), file) == ("run", 0)
    assert len(study(file).trials) == 3


def test_a_copy_of_a_run_that_went_another_way_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "studies.journal"
    write_study(make_run(tmp_path / "run", trials=5), file)
    other = make_run(tmp_path / "copy", trials=5)
    begun(other, tmp_path / "run")
    other.trials[3].digest = "0" * 64
    with pytest.raises(RunError, match="the study 'run' is of another run; give another file"):
        write_study(other, file)


def test_a_study_of_before_is_carried_on(tmp_path: Path) -> None:
    """Then it was the hash of the settings alone that said which run it was."""
    run, file = make_run(tmp_path / "run", trials=3), tmp_path / "studies.journal"
    write_study(run, file)
    study(file).set_user_attr(RUN_KEY, run.first["hash"])
    assert write_study(run, file) == ("run", 0)
    assert study(file).user_attrs[RUN_KEY] != run.first["hash"]


def test_two_that_write_at_once_add_each_trial_once(tmp_path: Path) -> None:
    run, file = make_run(tmp_path / "run", trials=3), tmp_path / "studies.journal"
    with ThreadPoolExecutor(1) as pool:
        with file.open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waiting = pool.submit(write_study, run, file)
            assert not wait([waiting], timeout=0.5).done
        assert waiting.result() == ("run", 3)
    assert write_study(run, file) == ("run", 0)


def test_what_is_no_journal_of_optuna_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=3)
    (tmp_path / "notes.txt").write_text("my notes\n")
    (tmp_path / "list.json").write_text("[1]\n")
    for file in (tmp_path / "notes.txt", tmp_path / "list.json", tmp_path / "no" / "such" / "folder"):
        with pytest.raises(RunError, match="cannot keep a study in"):
            write_study(run, file)
    assert (tmp_path / "notes.txt").read_text() == "my notes\n"


def test_the_command(tmp_path: Path) -> None:
    run, file = make_run(tmp_path / "run", trials=4), tmp_path / "studies.journal"
    said = recell("export-optuna", run.path, file)
    assert said.code == 0
    assert said.out.splitlines() == [
        f"4 trials added to study run of {file}",
        f"look at it with: optuna-dashboard {file}",
    ]
    assert recell("export-optuna", run.path, file, "--follow", "--quiet").out == ""
    found = recell("export-optuna", run.path, file, "--json").json
    assert found == {"file": str(file), "study": "run", "new": 0}
    assert "is not a run" in refused("export-optuna", tmp_path / "nothing", file)


def test_what_a_run_writes_last_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", trials=4, finish=False)
    whole = make_run(tmp_path / "whole", trials=6)

    def ends(self: Run) -> None:
        shutil.copy(whole.path / "journal.jsonl", run.path)

    monkeypatch.setattr(Run, "live", ends)
    found = recell("export-optuna", run.path, tmp_path / "studies.journal", "--follow", "--json").json
    assert found["new"] == 6


def test_supernets_are_no_trials_of_the_study(tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "studies.journal"
    make_run(folder, trials=3, finish=False)
    journal, _ = Journal.take_over(folder)
    about = {"text": "t", "digest": "d", "canonical": "c", "operator": "supernet", "parents": []}
    journal.append("ask", 20.0, ask=4, trial=4, supernet={"seed": 1}, **about)
    journal.append("finish", 30.0, trial=4, found=[], wall=9.0)
    journal.close()
    assert write_study(open_run(folder), file) == ("run", 3)
