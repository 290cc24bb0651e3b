from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from campaign_fakes import FakePool, gist

from grammar import DIGEST_VERSION, GrammarError
from nas.backends.c.backend import C
from nas.campaign import Event, Run, SearchConfig, launch, open_run, resume, search, start
from nas.campaign.driver import Sitting
from nas.campaign.journal import JOURNAL, read
from nas.campaign.pool import Ending, Job
from nas.errors import RunError, SearchError, TaskError
from nas.training import Recipe, TrialSpec, measure_latency, train
from search_spaces import SpaceError, space_text

ROOT = Path(__file__).resolve().parents[1]
QUICK = SearchConfig(
    task="parity",
    size="smoke",
    budget=600.0,
    workers=1,
    max_trials=7,
    finalists=1,
    seeds=1,
    baselines=("gru",),
    options={"samples": 3},
    device="cpu",
    seed=11,
)


class InlinePool(FakePool):
    """Trains in this process, one job after the other; entered and left like the pool on Ray."""

    def __init__(self, folder: Path) -> None:
        super().__init__(script=self.train)
        self.folder = folder

    def train(self, job: Job, start: int) -> Ending:
        """What a worker does."""
        place, before = self.folder / job.key, self.folder / f"{job.key}-before"
        before.mkdir(parents=True, exist_ok=True)
        for name, content in job.carry_on.items():
            (before / name).write_bytes(content)
        result = train(
            job.spec,
            test=job.test,
            save_to=place if job.keep else None,
            carry_on=before if job.carry_on else None,
            snapshot_to=place if job.snapshot else None,
        )
        metrics = {name: measure_latency(job.spec) for name in job.limits}
        return Ending(
            job.key, result, files={p.name: p.read_bytes() for p in place.glob("*")}, metrics=metrics
        )

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Ray: what is launched trains in this process."""

    def workers(config: SearchConfig, task: Any, place: str | None) -> tuple[Sitting, InlinePool]:
        return Sitting("cpu", place, None, {}, config.task), InlinePool(tmp_path / "trained")

    monkeypatch.setattr(launch, "_workers", workers)


def stop_after(count: int) -> Any:
    def watch(event: Event, run: Run) -> None:
        if event["event"] == "finish" and sum(trial.status == "ok" for trial in run.trials) == count:
            os.kill(os.getpid(), signal.SIGINT)

    return watch


def run_script(script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


@pytest.mark.timeout(400)
def test_killed_with_kill_9_and_resumed_nothing_is_lost_or_repeated(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = start(QUICK, tmp_path / "reference")
    folder = tmp_path / "run"
    script = (
        "import json, sys; from nas.campaign import SearchConfig, start\n"
        "start(SearchConfig.from_dict(json.loads(sys.argv[2])), sys.argv[1])"
    )
    driver = run_script(script, str(folder), json.dumps(QUICK.to_dict()))
    deadline = time.monotonic() + 200  # Ray starts, on a machine that may be busy
    while not (folder / JOURNAL).exists() or sum(e["event"] == "finish" for e in read(folder).events) < 3:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGSTOP)  # on a quick machine it would end before it is killed
    with pytest.raises(RunError, match=f"in use by the live process {driver.pid} on"):
        resume(folder)
    driver.kill()
    driver.communicate()
    before = [event for event in read(folder).events if event["event"] == "finish"]
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.move(folder, tmp_path / "elsewhere" / "moved"))
    again = run_script("import sys; from nas.campaign import resume; resume(sys.argv[1])", str(moved))
    _, errors = again.communicate(timeout=100)
    assert again.returncode == 0, errors
    run = open_run(moved)
    events = read(moved).events
    assert run.finished
    assert gist(run) == gist(reference)
    assert [event for event in events if event["event"] == "finish"][: len(before)] == before
    assert sum(event["event"] == "finish" for event in events) == sum(t.status == "ok" for t in run.trials)
    for contender in run.contenders:
        for training in contender.trainings:
            assert training.weights is not None
            assert (moved / training.weights / "weights.safetensors").stat().st_size > 1000
    assert errors == ""


@pytest.mark.slow
def test_interrupted_at_a_terminal_it_stops_cleanly_and_can_be_resumed(inline: None, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = (
        "import json, sys; from nas.campaign import SearchConfig, start\n"
        "run = start(SearchConfig.from_dict(json.loads(sys.argv[2])), sys.argv[1])\n"
        "print(run.finished, run.status()['state'], run.stopped['reason'])"
    )
    config = QUICK.replace(workers=2, max_trials=None, budget=60.0)
    driver = run_script(script, str(folder), json.dumps(config.to_dict()), start_new_session=True)
    deadline = time.monotonic() + 100
    while not (folder / JOURNAL).exists() or sum(e["event"] == "finish" for e in read(folder).events) < 3:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGINT)  # as the terminal does: to Ray's processes too
    output, errors = driver.communicate(timeout=60)
    assert (driver.returncode, output, errors) == (0, "False stopped interrupted\n", "")
    stopped = read(folder).events[-1]
    assert (stopped["event"], stopped["finished"]) == ("stop", False)
    run = resume(folder, stop_after(5))
    assert len(run.sittings) == 2
    assert len({event["trial"] for event in read(folder).events if event["event"] == "finish"}) == 5


def test_the_same_seed_gives_the_same_and_another_gives_others(inline: None, tmp_path: Path) -> None:
    config = QUICK.replace(max_trials=3, finalists=0)
    first, again = (start(config, tmp_path / name) for name in ("first", "again"))
    other = start(config.replace(seed=12), tmp_path / "other")
    assert gist(first) == gist(again)
    assert first.first["hash"] == again.first["hash"] != other.first["hash"]
    assert [trial.digest for trial in first.trials] != [trial.digest for trial in other.trials]


def test_a_promoted_trial_has_the_result_of_a_training_straight_through(inline: None, tmp_path: Path) -> None:
    options = {"eta": 2, "rungs": 3, "proposer": "evolution", "proposer.samples": 3}
    config = QUICK.replace(method="halving", options=options, max_trials=14, finalists=1)
    run = start(config, tmp_path / "run")
    whole = [trial for trial in run.trials if trial.until is None]
    assert whole
    assert all(trial.start == 10 for trial in whole)
    assert {trial.until for trial in run.trials} == {5, 10, None}
    recipe = Recipe.from_dict(run.task["recipe"])
    for trial in whole[:2]:
        spec = TrialSpec(trial.canonical, "parity", recipe, size="smoke", params=run.task["params"], seed=11)
        straight = train(spec)
        assert (trial.score, trial.curve, trial.params) == (straight.score, straight.curve, straight.params)
        assert trial.metrics["params"] == straight.params
        assert set(trial.metrics) == {"params", "flops", "state_bytes", "gemm_depth"}
    assert run.finalists[0].trial in {trial.id for trial in whole}


def test_a_search_for_small_and_quick_cells_keeps_to_its_constraints(inline: None, tmp_path: Path) -> None:
    options = {"objectives": "loss,params,latency_us", "population": 3}
    config = QUICK.replace(
        method="nsga2", options=options, width=16, constraints=("params<=900",), max_trials=6, finalists=0
    )
    run = start(config, tmp_path / "run")
    assert run.objectives == ("loss", "params", "latency_us")
    for trial in run.trials:
        assert trial.width == 16
        assert trial.metrics["params"] == trial.params <= 900
        assert 0 < trial.metrics["latency_us"] < 1e6
    assert run.front()


def test_a_task_of_ones_own_may_move(inline: None, tmp_path: Path) -> None:
    code = (
        "from nas.tasks import load_task\nclass Mine(type(load_task('parity', None, 'smoke'))):\n    pass\n"
    )
    place = tmp_path / "own.py"
    place.write_text(code)
    config = QUICK.replace(task=f"{place}:Mine", max_trials=3, finalists=0)
    start(config, tmp_path / "run", stop_after(1))
    place.rename(tmp_path / "moved.py")
    with pytest.raises(TaskError, match=r"own\.py"):
        resume(tmp_path / "run")
    with pytest.raises(RunError, match=r"is of task parity, and modular_arithmetic is modular_arithmetic"):
        resume(tmp_path / "run", task="modular_arithmetic")
    assert not resume(tmp_path / "run", stop_after(2), task=f"{tmp_path / 'moved.py'}:Mine").finished
    assert resume(tmp_path / "run").finished, "the place of the task is remembered"


def test_search_takes_settings_by_name(inline: None, tmp_path: Path) -> None:
    settings = {**QUICK.to_dict(), "max_trials": 2, "finalists": 0}
    run = search(tmp_path / "run", **settings)
    assert run.finished
    assert len(run.trials) == 2
    with pytest.raises(RunError, match="unknown setting 'bugdet'; settings are"):
        search(tmp_path / "other", bugdet=3)


def test_a_finished_run_is_returned_as_it_is(inline: None, tmp_path: Path) -> None:
    run = start(QUICK.replace(max_trials=2, finalists=0), tmp_path / "run")
    before = (tmp_path / "run" / JOURNAL).read_bytes()
    again = resume(tmp_path / "run")
    assert again.finished
    assert gist(again) == gist(run)
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


def test_a_run_that_ended_while_it_was_taken_over_is_left_as_it_is(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(QUICK.replace(max_trials=1, finalists=0), tmp_path / "run")
    before = (tmp_path / "run" / JOURNAL).read_bytes()
    stale = Run(tmp_path / "run", read(tmp_path / "run").events[:-1])
    monkeypatch.setattr(Run, "load", lambda path: stale)
    assert resume(tmp_path / "run").finished
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


def test_the_space_is_that_of_the_journal_even_if_its_file_has_changed(inline: None, tmp_path: Path) -> None:
    place = tmp_path / "my.space"
    place.write_text(space_text("gated"))
    config = QUICK.replace(space=str(place), max_trials=6, finalists=0)
    whole = start(config, tmp_path / "whole")
    start(config, tmp_path / "run", stop_after(4))
    place.unlink()
    assert gist(resume(tmp_path / "run")) == gist(whole)


def test_data_may_move_but_not_change(inline: None, tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text("the quick brown fox jumps over the lazy dog. " * 2000)
    config = QUICK.replace(task="text", data=str(data), max_trials=3, finalists=0)
    start(config, tmp_path / "run", stop_after(1))
    journal_before = (tmp_path / "run" / JOURNAL).read_bytes()
    data.rename(tmp_path / "moved.txt")
    with pytest.raises(TaskError, match=r"text\.txt does not exist"):
        resume(tmp_path / "run")
    (tmp_path / "other.txt").write_text("pack my box with five dozen liquor jugs. " * 2000)
    with pytest.raises(RunError, match=r"other\.txt differ from the data of .*with --data"):
        resume(tmp_path / "run", data=str(tmp_path / "other.txt"))
    assert (tmp_path / "run" / JOURNAL).read_bytes() == journal_before
    run = resume(tmp_path / "run", stop_after(2), data=str(tmp_path / "moved.txt"))
    assert not run.finished
    assert resume(tmp_path / "run").finished, "the place of the data is remembered"


def test_what_belongs_to_the_machine_may_change_and_nothing_else(inline: None, tmp_path: Path) -> None:
    start(QUICK.replace(max_trials=3, finalists=0), tmp_path / "run", stop_after(1))
    with pytest.raises(RunError, match="seed belongs to the search and cannot change between sittings"):
        resume(tmp_path / "run", seed=3)
    with pytest.raises(RunError, match="workers must be a whole number of at least 1, got 0"):
        resume(tmp_path / "run", workers=0)
    assert resume(tmp_path / "run", workers=2).finished


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"space": "gatd"}, SpaceError, "unknown space 'gatd'.*'gated'"),
        ({"task": "parrity"}, TaskError, "unknown task 'parrity'; did you mean 'parity'"),
        ({"size": "huge"}, TaskError, "unknown size 'huge'"),
        ({"method": "evolutoin"}, SearchError, "did you mean 'evolution'"),
        ({"options": {"colour": 1}}, SearchError, "no option 'colour'"),
        ({"baselines": ("lsmt",)}, GrammarError, "lsmt.*lstm"),
        ({"baselines": ("cell c { state h: vec; h' = tanh(u); out h' }",)}, GrammarError, "u"),
        ({"task": "text", "data": "no/such/file"}, TaskError, "no/such/file does not exist"),
        ({"address": "127.0.0.1:1"}, RunError, "no Ray cluster at 127.0.0.1:1: Connection refused"),
        ({"device": "cuda"}, RunError, "device cuda: there is no GPU here"),
        ({"task": "text", "params": 10}, RunError, "10 parameters is too small: at width 1, the smallest"),
        (
            {"constraints": ("params<=10",)},
            RunError,
            r"params<=10: the width of every model is matched to 5,000",
        ),
        (
            {"method": "nsga2", "options": {"objectives": "loss,params"}},
            RunError,
            r"is to minimise params, and the width of every model is matched .*\(--width\)",
        ),
    ],
)
def test_what_cannot_be_started_is_said_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(error, match=said):
        start(QUICK.replace(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_to_is_refused_before_the_workers_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.campaign.launch._workers", lambda *a: pytest.fail("the workers were made"))
    (tmp_path / "file").write_text("here")
    with pytest.raises(RunError, match=r"cannot make run folder .*file/run: .*file is a file"):
        start(QUICK, tmp_path / "file" / "run")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(RunError, match=r"cannot make run folder .* is not writable"):
        start(QUICK, tmp_path / "run")


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_loaded(inline: None, tmp_path: Path) -> None:
    start(QUICK.replace(max_trials=1, finalists=0), tmp_path / "run")
    before = (tmp_path / "run" / JOURNAL).read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        start(QUICK.replace(space="no such space"), tmp_path / "run")
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


def test_baselines_get_names_of_their_own(inline: None, tmp_path: Path) -> None:
    text = "cell gru { state h: vec; h' = tanh(lin(x, h)); out h' }"
    config = QUICK.replace(max_trials=1, baselines=("zoo:gru", text, "mgu"))
    run = start(config, tmp_path / "run")
    assert [contender.name for contender in run.baselines] == ["gru", "gru-2", "mgu"]
    assert all(contender.retrained for contender in run.contenders)


def test_another_version_of_the_task_or_of_digests_is_refused(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(QUICK.replace(max_trials=3, finalists=0), tmp_path / "run", stop_after(1))
    with monkeypatch.context() as patch:
        patch.setattr(launch, "DIGEST_VERSION", 99)
        with pytest.raises(
            RunError, match=f"digests of version {DIGEST_VERSION}, and this recell makes version 99"
        ):
            resume(tmp_path / "run")
    monkeypatch.setattr(launch, "load_task", lambda *names: SimpleNamespace(name="parity", version=7))
    with pytest.raises(RunError, match=r"task parity has version 7 here, and .* was made with version 1"):
        resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_gb": 0.0001}, r"oneshot: the supernet of \w+ would take .* more than memory_gb=0.0001"),
        ({"method": "uniform", "memory_gb": 0.0001}, "more than memory_gb=0.0001"),
        ({"cost_limit": 5}, "oneshot: cost_limit=5 params leaves no cell"),
        ({"backend": "d"}, "oneshot: backend must be one of auto, reference, c, triton; got 'd'"),
    ],
)
@pytest.mark.parametrize("method", ["oneshot", "halving"])
def test_supernets_that_cannot_be_trained_are_refused_before_anything_is_written(
    inline: None, tmp_path: Path, options: dict[str, Any], message: str, method: str
) -> None:
    if method == "halving":
        options = {"proposer": "oneshot", **{f"proposer.{name}": value for name, value in options.items()}}
    config = QUICK.replace(space="darts_rnn", method=method, options=options)
    with pytest.raises(SearchError, match=message):
        start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_supernet_runs_on_a_backend_that_works_here(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(C, "available", lambda self: "no compiler")
    config = QUICK.replace(space="darts_rnn", method="oneshot", options={"backend": "c"})
    with pytest.raises(SearchError, match=r"oneshot: the backend 'c' cannot run cell .*: no compiler"):
        start(config, tmp_path / "run")
