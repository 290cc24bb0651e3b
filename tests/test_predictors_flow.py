from __future__ import annotations

import math

import pytest

from grammar import Cell, parse, zoo, zoo_names
from predictors import flow_features


def flow(text: str) -> dict[str, float]:
    return flow_features(parse(text))


@pytest.mark.parametrize("name", zoo_names())
def test_all_cells_have_the_same_finite_features(name: str) -> None:
    found = flow_features(zoo(name))
    assert list(found) == list(flow_features(zoo("elman")))
    assert all(math.isfinite(value) for value in found.values())


def test_only_the_canonical_form_counts() -> None:
    a = "cell a { state h: vec; dead = tanh(h); z = sigmoid(lin(x, h)); h' = lerp(z, h, tanh(lin(h, x))); out h' }"
    b = "cell b { state s: vec; s' = lerp(sigmoid(lin(s, x)), s, tanh(lin(x, s))); out s' }"
    assert flow(a) == flow(b)


def test_the_lstm() -> None:
    found = flow_features(zoo("lstm"))
    assert (found["live_positive"], found["live_bounded"], found["matrices"]) == (3, 2, 8)
    assert (found["matrices_of_x"], found["matrices_of_states"], found["live_states"]) == (4, 4, 2)
    assert found["out_finite"] == 1
    assert found["states_without_bounds"] == 1  # c
    assert found["loop_dense"] == 0  # c goes round without a matrix
    assert found["x_delay"] == 0


def test_delays_and_lags() -> None:
    late = "cell c { state a: vec, b: vec; a' = lin(x); b' = tanh(lin(a)); out tanh(lin(b)) }"
    found = flow(late)
    assert found["x_delay"] == 2
    assert [found[f"lag{k}"] for k in range(5)] == [0, 0, 1, 0, 0]
    assert found["self_loops"] == 0
    never = "cell c { state a: vec, b: vec; a' = tanh(lin(x, a)); b' = tanh(lin(b)); out b' }"
    assert flow(never)["x_delay"] == 9


def test_gates_and_free_products() -> None:
    gated = flow("cell c { state h: vec; h' = sigmoid(lin(x)) * lin(x, h); out h' }")
    free = flow("cell c { state h: vec; h' = lin(x, h) * lin(x); out h' }")
    assert (gated["products_bounded"], gated["products_free"]) == (1, 0)
    assert (free["products_bounded"], free["products_free"]) == (0, 1)


def test_costs_of_paths() -> None:
    found = flow("cell c { state h: vec; a = tanh(lin(x)); h' = tanh(lin(a, h)) + a; out h' }")
    assert found["x_to_out_nonlinear_min"] == 1
    assert found["x_to_out_nonlinear_max"] == 2
    assert found["state_to_out_dense_min"] == found["own_loop_dense"] == 1


def test_cells_differ() -> None:
    assert len({tuple(flow_features(c).values()) for c in map(zoo, ("lstm", "gru", "elman", "mgu"))}) == 4
    assert isinstance(zoo("lstm"), Cell)


def test_sums_of_many_terms() -> None:
    terms = " + ".join(f"tanh(lin(x, {'h' if i % 2 else 'x'}))" for i in range(15))
    found = flow(f"cell c {{ state h: vec; h' = sigmoid({terms}); out h' * ({terms}) }}")
    assert all(math.isfinite(value) for value in found.values())
    assert found["out_finite"] == 1
