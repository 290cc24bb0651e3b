from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from predictor_fixtures import rows, sampled, scores, small

import predictors
from grammar import parse, zoo
from predictors import PredictorError, coverage, encode, encoding_names, fit, fit_rows, kendall_tau

ZOO = ("elman", "lstm", "gru", "gru_cho", "mgu", "lstm_cifg", "mingru", "minlstm", "leaky")


def test_it_learns_and_knows_its_errors() -> None:
    x = rows(seed=1)
    truth = scores(x, fail=False)
    said = small(False).predict(sampled(seed=1))
    assert kendall_tau(said.mean, truth) > 0.45
    assert 0.75 <= coverage(said.mean, said.std, truth) <= 1
    assert np.isnan(said.diverges).all()
    assert (said.std > 0).all()
    assert len(said) == len(truth)


def test_failed_cells_are_learnt_too() -> None:
    failed = ~np.isfinite(scores(rows()))
    assert 3 < failed.sum() < 30
    said = small().predict(sampled())
    assert said.diverges[failed].min() > said.diverges[~failed].max()
    assert np.isfinite(said.mean).all()
    assert small().card["failed_cells"] == failed.sum()


def test_cells_of_another_space_are_flagged() -> None:
    others = small().predict(sampled("matrix", 10))
    own = small().predict(sampled(seed=1))
    assert others.out_of_distribution.mean() > 0.8
    assert own.out_of_distribution.mean() < 0.3
    assert predictors.auc(np.r_[others.novelty, own.novelty], np.r_[np.ones(10), np.zeros(40)]) > 0.9


def test_the_same_seed_gives_the_same_predictor_in_another_process() -> None:
    program = (
        "from grammar import zoo\n"
        "from predictors import fit\n"
        f"cells = [zoo(name) for name in {ZOO}]\n"
        "print(*fit(cells, range(len(cells)), seed=3).predict(cells[:3]).rank)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="tests",
        env={**os.environ, "PYTHONPATH": ".."},
    )  # fmt: skip
    cells = [zoo(name) for name in ZOO]
    here = fit(cells, range(len(cells)), seed=3).predict(cells[:3]).rank
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], here, rtol=1e-6)


def test_order_and_twins_of_the_table_mean_nothing() -> None:
    cells, y = list(sampled()[:20]), scores(rows(), fail=False)[:20]
    twin = parse(str(cells[3].canonical()))
    one = fit([*cells, twin], [*y[:3], y[3] - 0.1, *y[4:], y[3] + 0.1])
    other = fit(cells[::-1], y[::-1])
    query = sampled(seed=1)[:5]
    np.testing.assert_allclose(one.predict(query).mean, other.predict(query).mean, rtol=1e-6)
    assert one.card["cells"] == 20


def test_a_prior_that_knows_less_than_the_labels_hardly_counts() -> None:
    x, test = rows(), rows(seed=1, count=60)
    y, truth = scores(x, fail=False), scores(test, fail=False)
    noise = fit_rows(x, np.random.default_rng(0).normal(size=len(x)), check=False)
    alone, beside = fit_rows(x, y, check=False), fit_rows(x, y, prior=noise, check=False)
    assert beside.ranker.slope < 0.2
    assert sum(beside.ranker.shares) > 0.8
    loss = kendall_tau(alone.predict_rows(test).rank, truth) - kendall_tau(
        beside.predict_rows(test).rank, truth
    )
    assert loss < 0.05  # other trees are drawn


def test_a_prior_of_another_task_helps() -> None:
    x, test = rows(), rows(seed=1)
    y, truth = scores(x, fail=False), scores(test, fail=False)
    alone = fit_rows(x[:10], y[:10]).predict_rows(test).rank
    helped = fit_rows(x[:10], 5 * y[:10], prior=small(False)).predict_rows(test).rank
    assert kendall_tau(helped, truth) > kendall_tau(alone, truth) + 0.05


def test_extras_are_wanted_again() -> None:
    x, y = rows(), scores(rows(), fail=False)
    model = fit_rows(x[:25], y[:25], extras=y[:25, None])
    assert kendall_tau(model.predict_rows(x[25:], y[25:, None]).rank, y[25:]) > 0.6
    with pytest.raises(PredictorError, match=r"extras have the shape \[1, 1\]; received \[1, 0\]"):
        model.predict([zoo("gru")])


def test_wrong_use_is_refused() -> None:
    cells = sampled()[:10]
    with pytest.raises(PredictorError, match=r"there is one score for each of 10 cells; received \(9,\)"):
        fit(cells, np.ones(9))
    with pytest.raises(PredictorError, match=r"at least 8 different cells with finite scores; received 4"):
        fit(cells, [1.0, 2.0, 3.0, 4.0, *[np.nan] * 6])
    with pytest.raises(PredictorError, match=r"extras have a row for each of 10 cells; received \(3, 1\)"):
        fit(cells, np.arange(10.0), extras=np.ones((3, 1)))
    with pytest.raises(PredictorError, match=r"rows are what `encode` gives, \[n, \d+\]; received \(2, 3\)"):
        small().predict_rows(np.ones((2, 3)))
    with pytest.raises(
        PredictorError, match="an encoding is made of statistics, flow, probes; received 'text'"
    ):
        encode(cells, ["text"])
    assert len(encoding_names(["flow"])) < len(encoding_names())


def test_scores_that_are_all_equal_do_no_harm() -> None:
    model = fit_rows(rows()[:12], np.ones(12))
    assert model.card["held_out"]["kendall_tau"] is None  # and no NaN, which JSON has not
    said = model.predict_rows(rows()[12:20])
    np.testing.assert_allclose(said.mean, 1, atol=1e-2)
    assert np.isfinite(said.std).all()
