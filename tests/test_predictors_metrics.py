from __future__ import annotations

import itertools

import numpy as np
import pytest

from predictors import auc, coverage, kendall_tau, spearman


@pytest.mark.parametrize("seed", range(4))
def test_tau_is_what_counting_pairs_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 12, 40), rng.integers(0, 12, 40)
    agree = untied_a = untied_b = 0
    for i, j in itertools.combinations(range(40), 2):
        agree += int(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]))
        untied_a += int(a[i] != a[j])
        untied_b += int(b[i] != b[j])
    assert kendall_tau(a, b) == pytest.approx(agree / (untied_a * untied_b) ** 0.5)


def test_spearman() -> None:
    assert spearman([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(
        0.8207826816681233
    )  # scipy.stats.spearmanr


def test_constants_have_no_order() -> None:
    assert np.isnan(kendall_tau([1, 1], [1, 2]))
    assert np.isnan(spearman([1, 1], [1, 2]))
    assert np.isnan(auc([1, 2], [1, 1]))


def test_auc() -> None:
    assert auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert auc([1, 2, 2, 4], [0, 0, 1, 1]) == 0.875
    assert auc([1, 1], [0, 1]) == 0.5


def test_coverage() -> None:
    assert coverage([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1.6, 1.7]) == 0.75


def test_lengths_must_agree() -> None:
    with pytest.raises(
        ValueError, match=r"two flat arrays of one length are compared; received \(2,\) and \(3,\)"
    ):
        kendall_tau([1, 2], [1, 2, 3])
