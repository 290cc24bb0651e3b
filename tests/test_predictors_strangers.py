from __future__ import annotations

import numpy as np
import pytest

from predictors import Benchmark, encode, strangers
from predictors.evaluation import Bench

NONE = np.empty(0)


def test_cells_of_another_space_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "FITTED", 14)
    monkeypatch.setattr(strangers, "ASKED", 8)
    monkeypatch.setattr(strangers, "PAIRS", {"gated": ("matrix",)})
    strangers._sampled.cache_clear()
    bench = Bench(Benchmark((), NONE, NONE, NONE, np.empty((0, 5))), encode([]))
    found = strangers.strangers(bench, 0)
    strangers._sampled.cache_clear()
    assert list(found) == ["novelty: gated cells, asked with matrix (AUC)"]
    assert found["novelty: gated cells, asked with matrix (AUC)"] > 0.9
