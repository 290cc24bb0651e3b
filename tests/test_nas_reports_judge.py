from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from made_runs import make_run

from nas.campaign import Contender, Retraining, Run
from nas.reports import verdict
from nas.reports.judge import best_baseline, estimate, paired_difference


def contender(name: str, tests: dict[int, float]) -> Contender:
    trainings = [Retraining(f"{name}-{s}", s, "ok", v - 0.1, v, params=100) for s, v in tests.items()]
    return Contender("finalist", name, "", "", "", 0, trainings)


def test_an_interval_is_that_of_student() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.303 * 1.0 / 3**0.5)
    assert estimate([5.0]) is not None
    assert estimate([5.0]).half is None  # type: ignore[union-attr]
    assert estimate([]) is None


def test_many_values_use_their_own_quantile() -> None:
    values = [float(v % 7) for v in range(40)]
    found = estimate(values)
    assert found is not None
    assert found.half == pytest.approx(2.023 * statistics.stdev(values) / 40**0.5)


def test_differences_pair_the_seeds_that_both_have() -> None:
    a, b = contender("a", {1: 1.0, 2: 2.0, 3: 3.0}), contender("b", {2: 2.5, 3: 3.7, 4: 0.0})
    found = paired_difference(a, b)
    assert found is not None
    assert found.mean == pytest.approx(-0.6)
    assert found.count == 2
    assert paired_difference(a, contender("c", {9: 1.0})) is None


@pytest.mark.parametrize(
    ("gain", "seeds", "kind", "opening"),
    [
        (0.2, 3, "better", "Better than lstm: the found cell #"),
        (0.2, 1, "ahead", "Ahead of lstm, but perhaps by chance: the found cell #"),
        (0.001, 3, "ahead", "Ahead of lstm, but perhaps by chance"),
        (-0.2, 3, "worse", "Not better than lstm: the found cell #"),
        (-0.2, 1, "worse", "Not better than lstm"),
    ],
)
def test_verdicts(tmp_path: Path, gain: float, seeds: int, kind: str, opening: str) -> None:
    run = make_run(tmp_path / "run", finalists=1, seeds=seeds, gain=gain)
    said = verdict(run)
    assert (said.kind, said.headline.startswith(opening)) == (kind, True), said
    winner, rival = run.winner, best_baseline(run)
    assert winner is not None
    assert rival is not None
    assert rival.name == "lstm"
    for c in (winner, *run.baselines):
        assert f"{c.name} {'has ' if c is winner else ''}{c.test_score:.4f}" in said.headline
    assert any(c.startswith("One seed each") for c in said.caveats) == (seeds == 1)
    assert said.to_dict()["kind"] == kind


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    said = verdict(make_run(tmp_path / "run", finish=False))
    assert said.kind == "not retrained"
    assert said.headline.endswith("on validation data; it was not retrained.")
    assert said.caveats == ("The run is not finished.",)


def test_without_finalists_nothing_is_compared(tmp_path: Path) -> None:
    said = verdict(make_run(tmp_path / "run", finalists=0))
    assert said.kind == "not retrained"
    assert said.caveats == ("No finalists were asked for, so nothing was compared with known cells.",)


def test_nothing_found(tmp_path: Path) -> None:
    said = verdict(make_run(tmp_path / "run", trials=0, finish=False))
    assert (said.kind, said.headline) == ("nothing", "Nothing found: no trial has ended yet.")


def test_without_baselines_the_cell_stands_alone(tmp_path: Path) -> None:
    said = verdict(make_run(tmp_path / "run", baselines=()))
    assert said.kind == "alone"
    assert said.headline.endswith("no known cell was trained to compare.")


def test_caveats_name_missing_seeds_and_unequal_sizes(tmp_path: Path) -> None:
    run: Run = make_run(tmp_path / "run", finalists=1)
    run.baselines[1].trainings[2].status = "timeout"
    for training in run.finalists[0].trainings:
        training.params = 120_000
    said = verdict(run)
    assert any(
        c.startswith("Not trained with every seed") and c.endswith("failed: gru.") for c in said.caveats
    )
    assert any(c.startswith("Parameters differ by more than 5 %") for c in said.caveats)
