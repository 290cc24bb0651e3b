from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grammar import parse, zoo, zoo_names
from predictors import probe_features, probe_names, probes
from predictors.probes import MISSING


def probe(text: str) -> dict[str, float]:
    return dict(zip(probe_names(), probe_features([parse(text)])[0], strict=True))


def test_every_cell_of_the_zoo_has_finite_probes() -> None:
    cells = [zoo(name) for name in zoo_names()]
    found = probe_features(cells)
    assert found.shape == (len(cells), len(probe_names()))
    assert np.isfinite(found).all()
    for cell, row in zip(cells, found, strict=True):
        assert row[0] == (cell.kind == "time")
        assert row[0] or (row == MISSING).all()


def test_a_cell_has_the_same_probes_alone_and_among_others() -> None:
    cells = [zoo(name) for name in ("gru", "lstm", "mingru")]
    together = probe_features(cells)
    np.testing.assert_allclose(probe_features(cells[1:2])[0], together[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(probe_features(cells), together)


def test_only_the_canonical_form_counts() -> None:
    a = "cell a { state h: vec; z = sigmoid(lin(x, h)); h' = lerp(z, h, tanh(lin(x, h))); out h' }"
    b = "cell b { state s: vec; c = tanh(lin(s, x)); s' = lerp(sigmoid(lin(s, x)), s, c); out s' }"
    assert probe(a) == probe(b)


def test_a_linear_cell_has_no_interactions_and_a_product_of_two_steps_has() -> None:
    linear = probe("cell c { state h: vec; h' = lin(x, h); out h' }")
    product = probe("cell c { state h: vec; h' = lin(x); out lin(x) * lin(h) }")
    assert linear["layer1_after0_additive_1"] == pytest.approx(1, abs=1e-4)
    assert linear["layer1_after0_order2_1"] < -4
    assert product["layer1_after0_order2_1"] > -1
    assert product["layer1_after0_lag0_1_1"] > product["layer1_after0_lag0_2_1"] + 2


def test_memory_is_seen_at_its_lag() -> None:
    found = probe("cell c { state a: vec, b: vec; a' = lin(x); b' = lin(a); out lin(b) }")
    lags = [found[f"layer1_after0_lag{lag}_1"] for lag in range(5)]
    assert int(np.argmax(lags)) == 2
    assert max(lags[:2] + lags[3:]) < -4


def test_no_cells_no_rows() -> None:
    assert probe_features([]).shape == (0, len(probe_names()))


@pytest.mark.parametrize("name", ["lstm", "gru", "mingru", "mlstm", "fast_weights", "tkan"])
def test_rows_computed_once_leave_the_probes_as_they_were(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe_features([zoo(name)])
    design = probes._design()
    assert [len(run.rows) for run in design.equal] == [8, 10, 12, 16, 24, 40]
    monkeypatch.setattr(probes, "_design", lambda: replace(design, equal=()))
    other = probe_features([zoo(name)])
    # Most are logarithms, some of what rounding makes: a product of matrices may round a row otherwise elsewhere.
    np.testing.assert_allclose(found, other, rtol=2e-2, atol=1e-2)
    assert (np.abs(found - other) <= 1e-4 * (1 + np.abs(other))).mean() > 0.9
