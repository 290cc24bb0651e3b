from __future__ import annotations

import numpy as np

from predictors.novelty import fit_novelty


def test_what_is_far_depends_on_how_close_the_fitted_cells_lie() -> None:
    rng = np.random.default_rng(0)
    dense, loose = rng.normal(size=(60, 4)) * 0.2, rng.normal(size=(60, 4)) * 2 + 20
    novelty = fit_novelty(np.concatenate([dense, loose]), 4)
    beside = np.array([[2.0, 0, 0, 0], [22.0, 20, 20, 20]])
    near_dense, near_loose = novelty(beside)
    assert near_dense > 1 > near_loose


def test_only_the_first_columns_count() -> None:
    x = np.random.default_rng(0).normal(size=(40, 5))
    other = np.c_[x[:, :3], 100 + x[:, 3:]]
    novelty = fit_novelty(x, 3)
    np.testing.assert_array_equal(novelty(x), novelty(other))


def test_rows_that_are_all_the_same_are_usual() -> None:
    novelty = fit_novelty(np.ones((12, 3)), 3)
    assert novelty(np.ones((1, 3)))[0] < 1 < novelty(np.full((1, 3), 2.0))[0]
