from __future__ import annotations

import os
from pathlib import Path

import pytest
from campaign_fakes import SMALL, FakePool, begin, unit_hash
from hypothesis import given, settings
from hypothesis import strategies as st
from searcher_suite import ToySpace

from nas.campaign import SearchConfig
from nas.campaign.journal import read
from nas.campaign.pool import Job
from nas.campaign.timing import makespan

SPACE = ToySpace(shifts=200)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def config(budget: float, workers: int, finalists: int, seeds: int = 1) -> SearchConfig:
    changes = {"budget": budget, "workers": workers, "finalists": finalists, "seeds": seeds}
    return SMALL.replace(**changes, max_trials=None, baselines=("lstm", "gru"))


@settings(max_examples=40)
@given(
    rounds=st.floats(0.3, 12.0),
    workers=st.integers(1, 4),
    finalists=st.integers(0, 3),
    seeds=st.integers(1, 3),
    least=st.floats(2.0, 40.0),
    spread=st.floats(0.0, 2.0),
)
def test_the_budget_is_overspent_by_no_more_than_what_is_in_flight(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: float,
    workers: int,
    finalists: int,
    seeds: int,
    least: float,
    spread: float,
) -> None:
    folder = tmp_path_factory.mktemp("runs") / "run"
    budget = rounds * least

    def seconds(job: Job) -> float:
        return least * (1 + spread * unit_hash(job.key))

    pool = FakePool(slots=workers, seconds=seconds)
    run = begin(folder, config(budget, workers, finalists, seeds), pool, space=SPACE)
    assert run.finished
    starts = [e["active"] for e in read(folder).events if e["event"] in ("start", "retrain_start")]
    assert all(at < budget for at in starts)
    assert run.active <= max(starts) + least * (1 + spread) + 1.0
    assert run.active <= budget + least * (1 + spread) + 1.0
    if not finalists:
        assert not run.contenders


@pytest.mark.parametrize(("workers", "seconds", "trials"), [(2, 10.0, 15), (2, 15.0, 10), (1, 10.0, 10)])
def test_three_minutes_are_enough_for_many_trials_and_the_comparison(
    tmp_path: Path, workers: int, seconds: float, trials: int
) -> None:
    pool = FakePool(slots=workers, seconds=lambda job: seconds)
    run = begin(tmp_path / "run", config(180.0, workers, finalists=1), pool, space=SPACE)
    assert sum(trial.status == "ok" for trial in run.trials) >= trials
    assert run.search_end == "budget"
    assert [contender.retrained for contender in run.contenders] == [True] * 3
    assert run.active <= 180.0


def test_about_a_third_is_kept_for_many_finalists_and_seeds(tmp_path: Path) -> None:
    pool = FakePool(slots=2, seconds=lambda job: 10.0)
    run = begin(tmp_path / "run", config(600.0, 2, finalists=3, seeds=3), pool, space=SPACE)
    searched = max(trial.ended or 0.0 for trial in run.trials)
    assert 0.6 * 600 <= searched <= 0.9 * 600
    assert all(contender.retrained for contender in run.contenders)
    assert run.active <= 600.0


def test_what_does_not_fit_is_not_retrained_and_what_compares_comes_first(tmp_path: Path) -> None:
    pool = FakePool(slots=1, seconds=lambda job: 20.0)
    run = begin(tmp_path / "run", config(180.0, 1, finalists=2, seeds=3), pool, space=SPACE)
    assert run.finished
    assert [len(contender.done) for contender in (run.finalists[0], *run.baselines)] == [1, 1, 1]
    assert {f"{name}-seed-{seed}" for name in ("lstm", "gru") for seed in (2, 3)} <= set(run.not_retrained)
    assert run.status()["not_retrained"] == run.not_retrained
    assert run.active <= 180.0


def test_a_straggler_does_not_eat_the_time_of_the_comparison(tmp_path: Path) -> None:
    def seconds(job: Job) -> float:
        return 500.0 if job.key == "trial-6" else 10.0

    pool = FakePool(slots=2, seconds=seconds)
    run = begin(tmp_path / "run", config(180.0, 2, finalists=1), pool, space=SPACE)
    assert run.trials[6].status == "timeout"
    assert run.trials[6].message == "was still running when the finalists had to be retrained"
    assert [contender.retrained for contender in run.contenders] == [True] * 3
    assert run.active <= 180.0 + 1.0


def test_a_trial_longer_than_the_budget_is_stopped_at_the_budget(tmp_path: Path) -> None:
    pool = FakePool(slots=2, seconds=lambda job: 1e6)
    run = begin(tmp_path / "run", config(60.0, 2, finalists=1), pool, space=SPACE)
    assert run.finished
    assert run.failures == {"timeout": 2}
    assert run.active == pytest.approx(60.0, abs=1.0)


def test_baselines_start_while_the_last_trials_run(tmp_path: Path) -> None:
    def seconds(job: Job) -> float:
        return 10.0 + 8.0 * unit_hash(job.key)

    pool = FakePool(slots=4, seconds=seconds)
    begin(tmp_path / "run", config(120.0, 4, finalists=1), pool, space=SPACE)
    names = [event["event"] for event in read(tmp_path / "run").events]
    assert names.index("retrain_start") < names.index("finalists")


def test_a_slow_best_cell_is_retrained_beside_the_baselines_not_before_them(tmp_path: Path) -> None:
    """Two slots: 36 s for the best and 2 x 18 s for the baselines are 36 s, not 72."""
    assert makespan([36.0, 18.0, 18.0], 2) == 36.0
    assert makespan([10.0] * 3, 2) == 20.0
    assert makespan([10.0] * 3, 4) == 10.0
    assert makespan([], 2) == 0.0

    def seconds(job: Job) -> float:
        return 36.0 if unit_hash(f"{job.spec.cell} 0") < 0.1 else 16.0  # the best cells are slow

    pool = FakePool(slots=2, seconds=seconds)
    run = begin(tmp_path / "run", config(180.0, 2, finalists=1), pool, space=SPACE)
    assert run.best is not None
    assert run.best.wall == pytest.approx(36.0, abs=0.5)
    assert max(trial.ended or 0.0 for trial in run.trials) > 110.0
    assert [contender.retrained for contender in run.contenders] == [True] * 3
    assert run.active <= 180.0


def test_without_time_for_any_finalist_no_baseline_is_retrained(tmp_path: Path) -> None:
    def seconds(job: Job) -> float:
        return 10.0 if "seed" in job.key else 70.0

    pool = FakePool(slots=1, seconds=seconds)
    run = begin(tmp_path / "run", config(100.0, 1, finalists=1), pool, space=SPACE)
    assert run.finished
    assert len(run.trials) == 1
    assert len(run.not_retrained) == 3
    assert run.winner is None
