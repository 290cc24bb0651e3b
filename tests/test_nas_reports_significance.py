from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_runs import make_run

from nas._student import student_p
from nas.campaign import Contender, Retraining, Run
from nas.reports import verdict
from nas.reports.judge import estimate, final_tests, p_text
from nas.reports.significance import holm, paired_p


@pytest.mark.parametrize(
    ("freedom", "t"),  # two-sided 5 % quantiles, as in any table of Student's t
    [
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (4, 2.776),
        (5, 2.571),
        (6, 2.447),
        (9, 2.262),
        (15, 2.131),
        (30, 2.042),
    ],
)
def test_student_has_its_quantiles(freedom: int, t: float) -> None:
    assert student_p(t, freedom) == pytest.approx(0.05, abs=1e-4)
    assert student_p(-t, freedom) == student_p(t, freedom)
    assert student_p(0.0, freedom) == 1.0


def test_many_degrees_of_freedom_are_nearly_normal() -> None:
    assert student_p(1.0, 400) == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=1e-3)


def test_the_paired_test_agrees_with_the_interval() -> None:
    for shift in (0.9, 1.1):
        differences = [-4.303 / 3**0.5 * shift + d for d in (-1.0, 0.0, 1.0)]
        found, p = estimate(differences), paired_p(differences)
        assert found is not None
        assert found.half is not None
        assert p is not None
        assert (p < 0.05) == (found.mean + found.half < 0)


def test_without_spread_or_pairs() -> None:
    assert paired_p([-0.5, -0.5]) == 0.0
    assert paired_p([0.0, 0.0, 0.0]) == 1.0
    assert paired_p([1.0]) is None


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def set_tests(run: Run, who: Contender, values: list[float]) -> None:
    """Give a contender these test scores, by seed."""
    trainings: list[Retraining] = who.trainings
    assert len(trainings) == len(values)
    for training, value in zip(trainings, values, strict=True):
        training.test_score = training.score = value


def test_the_verdict_is_corrected_for_the_number_of_finalists(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finalists=3, seeds=4)
    for baseline in run.baselines:
        set_tests(run, baseline, [2.0, 2.0, 2.0, 2.0])
    gains = [0.1, 0.1, 0.15, 0.3]
    set_tests(run, run.finalists[0], [2.0 - g for g in gains])
    for other in run.finalists[1:]:
        set_tests(run, other, [2.1, 1.9, 2.05, 1.97])
    first = final_tests(run)[0]
    assert (first.name, first.rival) == (run.finalists[0].name, "lstm")
    assert 0.01 < first.p < 0.05 < first.corrected == pytest.approx(3 * first.p)
    said = verdict(run)
    assert said.kind == "ahead"
    assert (
        f"{p_text(first.p)}, {p_text(first.corrected)} after Holm's correction for 3 finalists"
        in said.caveats[0]
    )
    assert [row["name"] for row in said.to_dict()["tests"]] == [f.name for f in run.finalists]
    set_tests(run, run.finalists[0], [1.9, 1.9, 1.89, 1.91])
    assert verdict(run).kind == "better"


def test_one_finalist_needs_no_correction(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finalists=1, gain=0.2)
    (test,) = final_tests(run)
    assert test.p == test.corrected
    assert "Holm" not in verdict(run).caveats[0]


@pytest.mark.parametrize(
    ("p", "text"), [(0.0001, "p < 0.001"), (0.0312, "p = 0.031"), (0.4567, "p = 0.46"), (1.0, "p = 1.00")]
)
def test_p_for_people(p: float, text: str) -> None:
    assert p_text(p) == text
