from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from source_tree import ROOT

from predictors import Benchmark, evaluation
from predictors.evaluation import GOALS, Bench, Row, rows_of

sys.path.insert(0, str(ROOT / "scripts"))

import eval_predictors

NONE = np.empty(0)
EMPTY = Bench(Benchmark((), NONE, NONE, NONE, np.empty((0, 5))), np.empty((0, 3)))


def test_rows_say_mean_spread_seeds_and_goal() -> None:
    assert Row("a", (0.5, 0.7, np.nan), 0.67).text() == "| a | 0.600 +- 0.141 | 2 | 0.67 |"  # of a sample
    assert Row("a", (0.5,), 0.0).text() == "| a | 0.500 | 1 |  |"
    assert Row("a", (np.nan,), 0.0).text() == "| a | none | 0 | |"


def test_rows_with_goals_come_first() -> None:
    goal = next(iter(GOALS))
    rows = rows_of([{"other": 1.0, goal: 0.5}, {goal: 0.7}])
    assert [(row.name, row.values, row.goal) for row in rows] == [
        (goal, (0.5, 0.7), GOALS[goal]),
        ("other", (1.0,), 0.0),
    ]


def test_what_a_seed_gave_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def part(bench: Bench, seed: int) -> Mapping[str, float]:
        asked.append(seed)
        if seed == 2:
            raise KeyboardInterrupt
        return {"row": float(seed)}

    monkeypatch.setitem(evaluation.MEASURES, "ptb", part)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        eval_predictors.measured(EMPTY, ["ptb"], 3, 1, tmp_path)
    found, _ = eval_predictors.measured(EMPTY, ["ptb"], 2, 1, tmp_path)
    assert asked == [0, 1, 2]
    assert found == {("ptb", 0): {"row": 0.0}, ("ptb", 1): {"row": 1.0}}
