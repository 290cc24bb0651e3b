from __future__ import annotations

import numpy as np
import pytest

from predictors import PredictorFileError, kernels
from predictors.kernels import FEW, LAPLACE, MANY, MATERN, fit_process, process_from

ROWS = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32).astype(np.float64)
TARGETS = np.stack([np.sin(ROWS[:, 0]) + 0.5 * ROWS[:, 1], np.cos(ROWS[:, 2]), ROWS[:, 1]])
TARGETS -= TARGETS.mean(axis=1, keepdims=True)
WEIGHTS = np.full(5, 0.2)


@pytest.mark.parametrize("kernel", [(LAPLACE, 1.0, 0.3), (MATERN, 2.0, 0.0)])
def test_what_it_says_without_a_row_is_what_a_fit_without_it_says(
    kernel: tuple[int, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_NOISES", (0.1,))
    _, without = fit_process(ROWS, TARGETS, WEIGHTS, [kernel])
    for out in (0, 7):
        left = np.arange(20) != out
        other, _ = fit_process(ROWS[left], TARGETS[:, left], WEIGHTS, [kernel])
        np.testing.assert_allclose(other.mean(ROWS[[out]]), without[:, [out]], rtol=1e-8)


@pytest.mark.parametrize("grid", [FEW, MANY])
def test_it_follows_a_smooth_function(grid: tuple[tuple[int, float, float], ...]) -> None:
    process, without = fit_process(ROWS, TARGETS, WEIGHTS, grid)
    for head, (said, target) in enumerate(zip(process.mean(ROWS), TARGETS, strict=True)):
        assert np.corrcoef(said, target)[0, 1] > 0.95
        assert head == 1 or np.corrcoef(without[head], target)[0, 1] > 0.6  # noise, as far as 20 rows tell
    kept = process_from(process.arrays(), 5)
    np.testing.assert_allclose(kept.mean(ROWS[:3] + 0.1), process.mean(ROWS[:3] + 0.1))


@pytest.mark.parametrize("bad", [(3.0, 1.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0), (0.0, 1.0, -1.0, 1.0)])
def test_a_kernel_of_another_kind_is_refused(bad: tuple[float, ...]) -> None:
    arrays = fit_process(ROWS, TARGETS, WEIGHTS)[0].arrays()
    arrays["kernels"] = np.tile(bad, (len(arrays["kernels"]), 1))
    with pytest.raises(PredictorFileError, match="kernels are of kinds 0 to 2 with positive numbers"):
        process_from(arrays, 5)


def test_what_it_says_first_does_not_depend_on_further_targets() -> None:
    alone, without = fit_process(ROWS, TARGETS[:1], WEIGHTS)
    several, also = fit_process(ROWS, TARGETS, WEIGHTS)
    np.testing.assert_allclose(alone.mean(ROWS + 0.1)[0], several.mean(ROWS + 0.1)[0], rtol=1e-8)
    np.testing.assert_allclose(without[0], also[0], rtol=1e-8)


def test_files_of_one_target_are_read_and_others_of_two_refused() -> None:
    process, _ = fit_process(ROWS, TARGETS[:1], WEIGHTS)
    arrays = process.arrays()
    old = process_from({**arrays, "alphas": arrays["alphas"][:, 0]}, 5)
    np.testing.assert_allclose(old.mean(ROWS), process.mean(ROWS))
    with pytest.raises(PredictorFileError, match="a process has finite arrays of shapes"):
        process_from({**arrays, "alphas": np.tile(arrays["alphas"], (1, 2, 1))}, 5)
