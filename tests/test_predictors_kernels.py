from __future__ import annotations

import numpy as np
import pytest

from predictors import PredictorFileError, kernels
from predictors.kernels import FEW, LAPLACE, MANY, MATERN, fit_process, process_from

ROWS = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32).astype(np.float64)
TARGETS = np.sin(ROWS[:, 0]) + 0.5 * ROWS[:, 1] - np.mean(np.sin(ROWS[:, 0]) + 0.5 * ROWS[:, 1])
WEIGHTS = np.full(5, 0.2)


@pytest.mark.parametrize("kernel", [(LAPLACE, 1.0, 0.3), (MATERN, 2.0, 0.0)])
def test_what_it_says_without_a_row_is_what_a_fit_without_it_says(
    kernel: tuple[int, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_NOISES", (0.1,))
    _, without = fit_process(ROWS, TARGETS, WEIGHTS, [kernel])
    for out in (0, 7):
        left = np.arange(20) != out
        other, _ = fit_process(ROWS[left], TARGETS[left], WEIGHTS, [kernel])
        np.testing.assert_allclose(other.mean(ROWS[[out]]), without[[out]], rtol=1e-8)


@pytest.mark.parametrize("grid", [FEW, MANY])
def test_it_follows_a_smooth_function(grid: tuple[tuple[int, float, float], ...]) -> None:
    process, without = fit_process(ROWS, TARGETS, WEIGHTS, grid)
    assert np.corrcoef(process.mean(ROWS), TARGETS)[0, 1] > 0.95
    assert np.corrcoef(without, TARGETS)[0, 1] > 0.6
    kept = process_from(process.arrays(), 5)
    np.testing.assert_allclose(kept.mean(ROWS[:3] + 0.1), process.mean(ROWS[:3] + 0.1))


@pytest.mark.parametrize("bad", [(3.0, 1.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0), (0.0, 1.0, -1.0, 1.0)])
def test_a_kernel_of_another_kind_is_refused(bad: tuple[float, ...]) -> None:
    arrays = fit_process(ROWS, TARGETS, WEIGHTS)[0].arrays()
    arrays["kernels"] = np.tile(bad, (len(arrays["kernels"]), 1))
    with pytest.raises(PredictorFileError, match="kernels are of kinds 0 to 2 with positive numbers"):
        process_from(arrays, 5)
