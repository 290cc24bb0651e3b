from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from campaign_fakes import SMALL, FakePool, begin, carry_on, gist, made_up_result
from test_nas_campaign_driver import Killed, kill_at

from nas.campaign import open_run
from nas.campaign.pool import Ending, Job
from nas.cli.live import event_line
from nas.reports import report_html
from nas.training import TrialSpec

ONESHOT = SMALL.replace(method="oneshot", max_trials=8)


def slow_supernets(job: Job) -> float:
    """Supernets take most of the search's time."""
    return 300.0 if job.spec.supernet is not None else 10.0


def test_supernets_are_trials_of_their_own_kind(tmp_path: Path) -> None:
    pool = FakePool(seconds=slow_supernets)
    run = begin(tmp_path / "run", ONESHOT, pool)
    supernets = [trial for trial in run.trials if trial.supernet is not None]
    cells = [trial for trial in run.trials if trial.supernet is None]
    assert [trial.id for trial in supernets] == [0, 4]
    assert {trial.status for trial in supernets} == {"supernet"}
    assert {trial.score for trial in supernets} == {None}
    assert [found["digest"] for found in supernets[0].found] == [trial.digest for trial in cells[:3]]
    assert run.best in cells
    assert all(finalist.trial not in (0, 4) for finalist in run.finalists)
    assert run.failures == {}
    assert run.status()["finished"] == len(cells)
    spec = pool.submitted[0].spec
    assert spec.supernet is not None
    assert spec.seed == spec.supernet["seed"]
    assert TrialSpec.from_dict(spec.to_dict()) == spec
    reread = open_run(tmp_path / "run")
    assert gist(reread) == gist(run)
    assert [trial.found for trial in reread.trials] == [trial.found for trial in run.trials]


def test_a_supernet_that_takes_long_does_not_end_the_search(tmp_path: Path) -> None:
    run = begin(
        tmp_path / "run", ONESHOT.replace(budget=500.0, max_trials=None), FakePool(seconds=slow_supernets)
    )
    assert len(run.top()) >= 3


def test_a_failed_supernet_is_a_failed_trial(tmp_path: Path) -> None:
    def script(job: Job, start: int) -> Ending | None:
        return Ending(job.key, None, "oom", "too large") if job.spec.supernet is not None else None

    run = begin(tmp_path / "run", ONESHOT, FakePool(script=script))
    assert run.failures == {"oom": 3}
    assert [trial.operator for trial in run.trials] == ["supernet"] * 3 + ["sample"] * 5


def test_what_a_supernet_passed_over_is_in_the_record(tmp_path: Path) -> None:
    def script(job: Job, start: int) -> Ending | None:
        result = made_up_result(job.spec)
        return Ending(job.key, replace(result, passed=1)) if job.spec.supernet is not None else None

    run = begin(tmp_path / "run", ONESHOT, FakePool(script=script))
    assert [trial.passed for trial in run.trials] == [1, 0, 0, 0, 1, 0, 0, 0]
    assert [trial.passed for trial in open_run(tmp_path / "run").trials] == [t.passed for t in run.trials]
    assert run.status()["passed"] == 2
    line = event_line({"event": "finish", "trial": 0}, run)
    assert line is not None
    assert "gave 3 cells, 1 of 2 paths passed over, " in line
    assert "2 supernets trained (2 of their paths passed over)" in " ".join(
        re.sub(r"<[^>]+>", " ", report_html(run)).split()
    )


def test_killed_at_any_event_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gist(begin(tmp_path / "whole", ONESHOT))
    for line in range(3, 30, 4):
        folder = tmp_path / f"killed-{line}"
        with monkeypatch.context() as patch:
            kill_at(patch, line, torn=bool(line % 2))
            with pytest.raises(Killed, match="the driver dies"):
                begin(folder, ONESHOT)
        assert gist(carry_on(folder)) == whole
