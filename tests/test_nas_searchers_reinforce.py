from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from searcher_suite import ToySpace, drive

from grammar import Cell, zoo
from nas.errors import SearchError
from nas.searchers import Observation, make_searcher
from nas.searchers.base import UNTRIED
from nas.searchers.reinforce import STEP, Controller, Reinforce
from search_spaces import Choice, load_space

SPACE = ToySpace(shifts=20)
CHOICES = [
    Choice("a", (1.0, 2.0), 1),
    Choice("b", (0.5, 0.0, 1.5), 2),
    Choice("a", (1.0, 1.0), 0),
    Choice("b", (1.0, 1.0), 1),
]


def value(controller: Controller, reward: float, entropy: float) -> float:
    return controller.gradient(CHOICES, reward, entropy)[0]


@pytest.mark.parametrize(("reward", "entropy"), [(1.0, 0.0), (-0.5, 0.0), (0.0, 1.0), (0.7, 0.3)])
def test_the_gradient_is_that_of_finite_differences(reward: float, entropy: float) -> None:
    controller = Controller({"a": 2, "b": 3}, hidden=4, seed=1)
    rng = np.random.default_rng(0)
    controller.weights = [w + 0.3 * rng.normal(size=w.shape) for w in controller.weights]
    _, gradient = controller.gradient(CHOICES, reward, entropy)
    for w, g in zip(controller.weights, gradient, strict=True):
        for at in np.ndindex(w.shape):
            kept = w[at]
            w[at] = kept + 1e-6
            above = value(controller, reward, entropy)
            w[at] = kept - 1e-6
            below = value(controller, reward, entropy)
            w[at] = kept
            assert g[at] == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_begins_with_the_weights_of_the_space() -> None:
    controller = Controller({"a": 3}, hidden=4, seed=0)
    p = controller.probabilities(controller.start, "a", (1.0, 0.0, 3.0))
    assert p == pytest.approx([0.25, 0.0, 0.75])


def log_p(searcher: Reinforce, cell: Cell) -> float:
    return searcher.controller.gradient(SPACE.choices(cell), 1.0, 0.0)[0]


def test_what_scores_well_becomes_likelier() -> None:
    searcher = make_searcher("reinforce", SPACE, {"samples": 2, "rate": 0.1})
    assert isinstance(searcher, Reinforce)
    good, bad = SPACE.cell((0, 1, 2)), SPACE.cell((2, 3, 7))
    before = log_p(searcher, good), log_p(searcher, bad)
    for trial in range(20):
        cell, score = (good, 1.0) if trial % 2 else (bad, 2.0)
        searcher.tell(Observation(cell, cell.digest, score, "ok", trial))
    assert log_p(searcher, good) > before[0]
    assert log_p(searcher, bad) < before[1]


def mean_of_last(name: str, seed: int) -> float:
    """The mean score of the last 20 of 60 cells, where one gene decides and enough cells are good."""
    space, scores = ToySpace(shifts=300), []
    searcher = make_searcher(name, space)
    for trial in range(60):
        proposal = searcher.ask(np.random.default_rng([seed, trial]))
        assert proposal is not None
        scores.append(abs(space.genes(proposal.cell)[1] - 1.0))
        searcher.tell(Observation(proposal.cell, proposal.cell.digest, scores[-1], "ok", trial))
    return float(np.mean(scores[40:]))


def test_learns_what_matters() -> None:
    learned, sampled = ([mean_of_last(name, seed) for seed in range(2)] for name in ("reinforce", "random"))
    assert np.mean(learned) < 0.4 * np.mean(sampled)


def test_failures_count_as_the_worst_score() -> None:
    searcher = make_searcher("reinforce", SPACE, {"samples": 2, "rate": 0.1})
    assert isinstance(searcher, Reinforce)
    fails = SPACE.cell((2, 3, 7))
    before = log_p(searcher, fails)
    for trial in range(12):
        cell = SPACE.cell((0, 1, trial))
        searcher.tell(Observation(cell, cell.digest, 1.0 + trial % 3, "ok", trial))
    middle = log_p(searcher, fails)
    for status in UNTRIED:  # the machine failed, or nothing was trained
        searcher.tell(Observation(fails, fails.digest, None, status, 12))
    assert log_p(searcher, fails) == middle
    searcher.tell(Observation(fails, fails.digest, None, "diverged", 12))
    assert log_p(searcher, fails) < middle
    assert before != middle


@pytest.mark.parametrize("name", ["gated", "darts_rnn"])
def test_writes_cells_of_real_spaces_and_learns_from_any(name: str) -> None:
    space = load_space(name)
    searcher = make_searcher("reinforce", space, {"samples": 1})
    for trial, known in enumerate(map(zoo, space.claims[:3])):
        searcher.tell(Observation(known, known.digest, float(trial), "ok", trial, "seed"))
    proposals, _ = drive(searcher, 4, score=lambda cell: float(len(cell.one_line)))
    assert all(p.cell in space and p.operator == "controller" for p in proposals)


class Closed:
    def sample(self, rng: np.random.Generator) -> Cell:
        return SPACE.sample(rng)

    def vary(self, cell: Cell, rng: np.random.Generator, other: Sequence[Cell] | None = None) -> None:
        raise AssertionError


def test_a_space_without_choices_is_refused() -> None:
    with pytest.raises(SearchError, match="cannot be walked choice by choice"):
        make_searcher("reinforce", Closed(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_at_no_rate_it_ends_with_samples_of_the_space(rate: float) -> None:
    """A few good scores in a row once made it certain of cells that had been tried."""
    space = load_space("gated")
    searcher = make_searcher("reinforce", space, {"rate": rate, "samples": 2})
    assert isinstance(searcher, Reinforce)
    proposals, seen = drive(searcher, 60, score=lambda cell: float(len(cell.one_line)))
    assert sum(p.operator == "sample" for p in proposals) == 0
    before = searcher.controller.policy(space.choices(seen[-1].cell))
    short = space.choices(seen[-1].cell)
    searcher.tell(Observation(seen[-1].cell, seen[-1].digest, 0.0, "ok", 60))
    after = searcher.controller.policy(short)
    moved = [float(p[p > 0] @ np.log(p[p > 0] / q[p > 0])) for p, q in zip(before, after, strict=True)]
    assert 0 < np.mean(moved) <= STEP
