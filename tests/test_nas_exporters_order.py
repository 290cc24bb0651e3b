from __future__ import annotations

from pathlib import Path

from made_runs import make_run

from nas.exporters import ranking


def test_what_was_retrained_comes_first_by_its_new_score(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finalists=3)
    order = ranking(run)
    retrained = sorted(run.finalists, key=lambda f: f.score or 0.0)
    assert [trial.id for trial in order[:3]] == [f.trial for f in retrained]
    assert [t.id for t in order[3:]] == [t.id for t in run.top() if t.id not in {f.trial for f in retrained}]
    assert len(order) == len(run.top())


def test_without_finalists_it_is_the_order_of_the_search(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finalists=0)
    assert ranking(run) == run.top()
