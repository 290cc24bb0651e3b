from __future__ import annotations

from dataclasses import replace

import numpy as np
from predictor_fixtures import rows, small

from predictors.scaling import at_ends, ends, normal_scores


def test_ends_tell_apart_what_is_best_and_what_is_worst() -> None:
    y = np.concatenate([np.linspace(4.5, 5.0, 80), np.linspace(6.0, 8.0, 20)])
    good, bad = ends(y)
    np.testing.assert_allclose([good.mean(), bad.mean()], 0, atol=1e-12)
    np.testing.assert_allclose([good.std(), bad.std()], 1)
    ranked = normal_scores(y)
    assert good[1] - good[0] > ranked[1] - ranked[0]
    assert bad[80] - bad[79] > 5 * (
        ranked[80] - ranked[79]
    )  # a gap of the scores, of which ranks know nothing
    assert (np.diff(good) > 0).all()
    assert (np.diff(bad) > 0).all()


def test_one_score_far_from_all_others_is_no_end_of_its_own() -> None:
    y = np.linspace(1, 2, 50)
    far, farther = y.copy(), y.copy()
    far[-1], farther[-1] = 1e3, 1e9
    np.testing.assert_allclose(ends(far), ends(farther))
    assert ends(far)[1].max() < 8
    np.testing.assert_array_equal(ends(np.ones(8)), 0)


def test_what_is_said_of_an_end_counts_there_only() -> None:
    said = np.array([[-3.0, -0.4, 0.0, 2.0], [-3.0, 0.0, 0.4, 2.0]])
    found = at_ends(said)
    assert found[0] < 0 < found[3]
    np.testing.assert_array_equal(found[1:3], 0)
    np.testing.assert_array_equal(at_ends(np.zeros((0, 4))), np.zeros(4))


def test_cells_in_the_middle_keep_their_rank() -> None:
    ranker = small(False).ranker
    assert ranker.process is not None
    plain = replace(ranker, process=replace(ranker.process, alphas=ranker.process.alphas[:, :1]))
    changed = ranker(rows(seed=1))[0] - plain(rows(seed=1))[0]
    rank = plain(rows(seed=1))[0]
    assert (changed[rank < -0.8] < 0).all()
    assert (changed[rank > 0.8] >= 0).all()
    assert (np.abs(changed) < 1e-12).sum() > 5


def test_one_score_far_better_than_all_others_does_not_hide_the_bad_end() -> None:
    y = np.linspace(1, 2, 50)
    far, farther = y.copy(), y.copy()
    far[0], farther[0] = -1e3, -1e9
    np.testing.assert_allclose(ends(far), ends(farther))
    assert (ends(far)[1] > 0.5).sum() >= 5  # the cells of which at_ends hears
    assert (ends(y)[1] > 0.5).sum() < 20
