"""`search` and `resume` over a made-up campaign: no Ray, no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from campaign_fakes import FakePool, begin, carry_on
from cli_runner import recell, refused
from made_runs import make_run

from nas.campaign import SearchConfig, open_run
from nas.campaign.pool import Ending
from nas.errors import RunError
from nas.searchers import searcher_names
from nas.searchers.registry import SYNONYMS


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `search` and `resume` asked of the campaign."""
    seen: dict[str, Any] = {}

    def start(config: SearchConfig, out: Path, on_event: Any) -> Any:
        seen.update(config=config)
        return begin(out, config.replace(baselines=("gru",)), on_event=on_event)

    def resume(path: Path, on_event: Any, **changes: Any) -> Any:
        seen.update(path=path, changes=changes)
        return carry_on(path, on_event=on_event)

    monkeypatch.setattr("nas.campaign.start", start)
    monkeypatch.setattr("nas.campaign.resume", resume)
    return seen


def test_options_become_the_configuration(given: dict[str, Any], tmp_path: Path) -> None:
    options = (
        "--space gated --task parity --data d.txt --size smoke --method random --budget 5m --workers 3 --device cpu "
        "--seed 7 --params 20k --heads 2 --finalists 1 --seeds 2 --max-trials 4 --trial-timeout 1m --trial-memory 2.5 "
        "--gpus-per-trial 0.5 --lint strict --constraint params<=30k --constraint flops<=1e6 -O tries=9"
    )
    said = recell("search", *options.split(), "--address", "h:1", "--out", tmp_path / "run")
    assert said.code == 0, said.error
    assert given["config"] == SearchConfig(
        space="gated",
        task="parity",
        data="d.txt",
        size="smoke",
        method="random",
        budget=300.0,
        workers=3,
        address="h:1",
        device="cpu",
        gpus_per_trial=0.5,
        seed=7,
        params=20_000,
        heads=2,
        finalists=1,
        seeds=2,
        max_trials=4,
        lint="strict",
        constraints=("params<=30000", "flops<=1000000"),
        options={"tries": 9},
        trial_timeout=60.0,
        trial_memory_gb=2.5,
    )


def test_limits_and_aims_have_options_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(config: SearchConfig, out: Path, on_event: Any) -> Any:
        seen.append(config)
        raise RunError("that was all")

    seen: list[SearchConfig] = []
    monkeypatch.setattr("nas.campaign.start", start)
    for options in (
        "--max-params 150k --max-latency-us 42.5 --constraint flops<=1e6",
        "--objective loss,flops -O population=4",
        "--objective loss --method random",
    ):
        assert refused("search", *options.split(), "--out", tmp_path / "a") == "that was all"
    assert seen == [
        SearchConfig(constraints=("flops<=1000000", "params<=150000", "latency_us<=42.5")),
        SearchConfig(method="nsga2", options={"population": 4, "objectives": "loss,flops"}),
        SearchConfig(method="random"),
    ]


def test_defaults_are_those_of_the_configuration(given: dict[str, Any], tmp_path: Path) -> None:
    recell("search", "--out", tmp_path / "run", "--max-trials", 1)
    assert given["config"] == SearchConfig(max_trials=1)


def test_a_search_prints_its_events_and_what_it_found(given: dict[str, Any], tmp_path: Path) -> None:
    said = recell(
        "search",
        "--out",
        tmp_path / "run",
        *"--method random --max-trials 3 --finalists 1 --workers 1".split(),
    )
    lines = said.out.splitlines()
    assert "1 worker(s) on cpu" in lines[0]
    run = open_run(tmp_path / "run")
    for trial in run.trials:
        assert any(
            f"] #{trial.id} {trial.score:.4f} error rate" in line and trial.text in line for line in lines
        )
    assert any("search ended (trials): " in line for line in lines)
    assert any(f"retraining #{run.finalists[0].trial} beside gru, 3 seed(s) each" in line for line in lines)
    assert sum("] retrained " in line for line in lines) == 6
    assert f"recell export {tmp_path / 'run'} --rank 1 -o DIR" in lines
    assert said.code == 0


def test_help_names_every_method() -> None:
    said = recell("search", "--help").out
    assert not [name for name in (*searcher_names(), *SYNONYMS) if name not in said]


def test_quiet_prints_nothing(given: dict[str, Any], tmp_path: Path) -> None:
    said = recell("search", "--out", tmp_path / "run", "--max-trials", 2, "--quiet")
    assert (said.code, said.out, said.error) == (0, "", "")


def test_a_search_that_finds_nothing_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(config: SearchConfig, out: Path, on_event: Any) -> Any:
        pool = FakePool(
            script=lambda job, start: Ending(job.key, None, "oom", "used too much"), slots=config.workers
        )
        return begin(out, config, pool=pool, on_event=on_event)

    monkeypatch.setattr("nas.campaign.start", start)
    said = recell("search", "--out", tmp_path / "run", "--max-trials", 2)
    assert said.code == 1
    assert "#0 failed: oom: used too much" in said.out
    assert "Nothing found: every trial failed." in said.out


def test_an_interrupted_search_says_how_to_carry_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(config: SearchConfig, out: Path, on_event: Any) -> Any:
        return make_run(out, finish=False)

    monkeypatch.setattr("nas.campaign.start", start)
    said = recell("search", "--out", tmp_path / "run")
    assert said.code == 130
    assert f"stopped; carry it on with: recell resume {tmp_path / 'run'}" in said.out


def test_resume_carries_on_with_what_may_change(given: dict[str, Any], tmp_path: Path) -> None:
    config = SearchConfig(method="random", max_trials=4, finalists=0, workers=1)

    def stop(event: Any, run: Any) -> None:
        if event["event"] == "finish" and event["trial"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        begin(tmp_path / "run", config, on_event=stop)
    said = recell("resume", tmp_path / "run", "--workers", 2, "--data", "there.txt", "--task", "a.py:Mine")
    assert said.code == 0, said.error
    assert given["changes"] == {"data": "there.txt", "task": "a.py:Mine", "workers": 2}
    assert open_run(tmp_path / "run").finished


def test_resuming_a_finished_run_says_so(given: dict[str, Any], tmp_path: Path) -> None:
    make_run(tmp_path / "run", trials=3)
    said = recell("resume", tmp_path / "run")
    assert (said.code, said.out) == (0, f"{tmp_path / 'run'} is finished: nothing is left to do\n")
    assert given == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--budget 0", "--budget must be more than 0; received '0'"),
        ("--budget soon", "--budget must be a length of time"),
        ("--params 0", "--params must be a whole number"),
        ("--device tpu", "device must be one of auto, cpu, cuda; got 'tpu'"),
        ("--method evolutoin", "unknown method 'evolutoin'; did you mean 'evolution'?"),
        ("--max-params 0", "--max-params must be a whole number"),
        ("--max-latency-us -1", "--max-latency-us must be a number above 0; received -1"),
        ("--max-latency-us nan", "--max-latency-us must be a number above 0; received nan"),
        (
            "--objective loss,params",
            "method nsga2 is to minimise params, and the width of every model is matched",
        ),
        ("--objective flops", "nsga2: two or more different objectives are needed"),
        ("--objective loss,speed", "nsga2: there is no objective 'speed'"),
        ("--objective loss,flops --method random", "is for --method nsga2; random minimises the loss alone"),
        (
            "--objective loss,flops -O objectives=loss,params",
            "give --objective or -O objectives=..., not both",
        ),
        ("--method darts -O method=gdas --space darts_rnn", "method darts is oneshot with method=darts"),
        ("--space gatd", "unknown space 'gatd'; did you mean 'gated'"),
        ("--task txt", "unknown task 'txt'; did you mean 'text'?"),
        ("--data nowhere.txt", "data file"),
        ("--size huge", "unknown size 'huge'"),
        ("--task parity --size table", "task parity has no size 'table'; it has smoke, search, full"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    options: str, message: str, tmp_path: Path
) -> None:
    assert message in refused("search", *options.split(), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run", trials=1)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert "already holds a run; carry it on with `recell resume" in refused(
        "search", "--out", tmp_path / "run"
    )
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
