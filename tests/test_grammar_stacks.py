from __future__ import annotations

import numpy as np
import pytest

from grammar import (
    CellBuildError,
    equal_rows,
    evaluate,
    evaluate_stack,
    init_weights,
    parse,
    zoo,
    zoo_names,
    zoo_text,
)
from grammar.stack_steps import sigmoid

LAYERS, SETS, WIDTH = 3, 2, 8
TIME = [name for name in zoo_names() if zoo(name).kind == "time"]


@pytest.mark.parametrize("name", TIME)
def test_a_stack_is_one_layer_after_the_other(name: str) -> None:
    cell = zoo(name)
    x = np.random.default_rng(0).normal(size=(SETS, 3, 7, WIDTH))
    weights = init_weights(
        cell, np.random.default_rng(1), input_size=WIDTH, hidden_size=WIDTH, heads=2, sets=(LAYERS, SETS)
    )
    y = evaluate_stack(cell, x, weights, layers=LAYERS, sets=SETS, heads=2)
    assert y.shape == (7, LAYERS, SETS, 3, WIDTH)
    below = x
    for layer in range(LAYERS):
        own = {n: array[layer] for n, array in weights.items()}
        below = evaluate(cell, below, own, hidden_size=WIDTH, heads=2).y
        np.testing.assert_allclose(np.moveaxis(y[:, layer], 0, -2), below, rtol=1e-9, atol=1e-9)


def test_all_sets_may_see_the_same_input_in_single_precision() -> None:
    cell = zoo("lstm")
    x = np.random.default_rng(0).normal(size=(3, 5, WIDTH)).astype(np.float32)
    weights = init_weights(
        cell, np.random.default_rng(1), input_size=WIDTH, hidden_size=WIDTH, sets=(2, 4), dtype=np.float32
    )
    y = evaluate_stack(cell, x, weights, layers=2, sets=4)
    assert y.dtype == np.float32
    each = evaluate_stack(cell, np.broadcast_to(x, (4, *x.shape)), weights, layers=2, sets=4)
    np.testing.assert_array_equal(y, each)


def test_what_cannot_be_stacked_is_refused() -> None:
    tree, time = zoo("treelstm"), parse("cell c { state h: vec; h' = tanh(lin(x, h)); out h' }")
    x = np.zeros((2, 3, WIDTH))
    with pytest.raises(CellBuildError, match=r"a stack is of time cells; treelstm is a tree cell"):
        evaluate_stack(tree, x, {}, layers=2, sets=1)
    with pytest.raises(
        CellBuildError, match=r"x has shape \[B, T, H\] or \[sets=2, B, T, H\]; received \(3, 2"
    ):
        evaluate_stack(time, np.zeros((3, 2, 3, WIDTH)), {}, layers=2, sets=2)
    with pytest.raises(CellBuildError, match="missing"):
        evaluate_stack(time, x, {}, layers=2, sets=1)


ODD = (
    "cell a { state h: vec; u = lin(h, share=w, bias=no, transpose=yes);"
    " h' = tanh(lin(x, h, rank=2) + lin(h, blocks=2) + lin(u, share=w, bias=no)); out h' }",
    "cell b { state h: vec; a = conv(lin(x), k=3); h' = lerp(sigmoid(lin(a)), h, shift(a)); out silu(h') + a }",
    "cell c { state h: vec, s: scal; s' = sigmoid(hsum(h) + lin:scal(x)); h' = s' * h + (1 - s') * lin(x); out h' }",
    "cell e { state h: vec, z: cvec; z' = 0.5 * z + lin:cvec(h, x); h' = relu(lin(h)) + re(z') + lin(x); out h' }",
    "cell f { state h: vec, g: vec; g' = lin(x, h); a = lin(g, h); h' = sigmoid(g') * h + sigmoid(a) * a;"
    " out sigmoid(lin(h', bias=no)) + sigmoid(shift(lin(x))) }",
    "cell g { state s: scal, h: vec; u = lin(x, h); s' = sigmoid(lin:scal(h, x)); h' = s' * tanh(u); out sigmoid(u) }",
    "cell d { state S: mat; k = softmax(lin:key(x)); S' = 0.5 * S + outer(k, lin(x)); out read(S', lin:key(x)) }",
)


@pytest.mark.parametrize("text", ODD)
def test_maps_of_other_kinds_buffers_and_matrices(text: str) -> None:
    cell = parse(text)
    x = np.random.default_rng(0).normal(size=(SETS, 3, 7, WIDTH))
    weights = init_weights(
        cell, np.random.default_rng(1), input_size=WIDTH, hidden_size=WIDTH, heads=2, sets=(1, SETS)
    )
    y = evaluate_stack(cell, x, weights, layers=1, sets=SETS, heads=2)
    own = {name: array[0] for name, array in weights.items()}
    alone = evaluate(cell, x, own, hidden_size=WIDTH, heads=2).y
    np.testing.assert_allclose(np.moveaxis(y[:, 0], 0, -2), alone, rtol=1e-9, atol=1e-9)


def test_numbers_too_large_for_exp_give_the_limits_of_sigmoid() -> None:
    a = np.array([-1e4, -1.0, 0.0, 1e4, np.nan])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(sigmoid(a), [0, 1 / (1 + np.e), 0.5, 1, np.nan])


def _branching(dtype: type[np.floating]) -> np.ndarray:
    """Rows [SETS, 8, 7, WIDTH] that part from each other at steps 2, 3 and 4."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2, SETS, 7, WIDTH))
    x = np.repeat(tokens[0][:, None], 8, axis=1)
    for row in range(8):
        for place, step in enumerate((2, 3, 4)):
            if row >> (2 - place) & 1:
                x[:, row, step] = tokens[1][:, step]
    return x.astype(dtype)


def test_rows_are_equal_until_they_part() -> None:
    found = equal_rows(_branching(np.float64))
    assert [(run.start, run.rows.tolist()) for run in found] == [
        (0, [0]),
        (2, [0, 4]),
        (3, [0, 2, 4, 6]),
        (4, list(range(8))),
    ]
    assert found[1].place.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found[3].place.tolist() == list(range(8))


@pytest.mark.parametrize("text", [*map(zoo_text, ("lstm", "mlstm", "lmu", "lru", "gla")), *ODD])
def test_equal_rows_computed_once_give_the_same(text: str) -> None:
    cell, x = parse(text), _branching(np.float32)
    weights = init_weights(
        cell,
        np.random.default_rng(1),
        input_size=WIDTH,
        hidden_size=WIDTH,
        heads=2,
        sets=(3, SETS),
        dtype=np.float32,
    )
    each = evaluate_stack(cell, x, weights, layers=3, sets=SETS, heads=2)
    once = evaluate_stack(cell, x, weights, layers=3, sets=SETS, heads=2, equal=equal_rows(x))
    np.testing.assert_allclose(once, each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("text", [zoo_text("lstm"), *ODD])
def test_layers_that_end_before_others_begin(text: str, steps: int) -> None:
    cell = parse(text)
    x = np.random.default_rng(0).normal(size=(SETS, 3, steps, WIDTH))
    weights = init_weights(
        cell, np.random.default_rng(1), input_size=WIDTH, hidden_size=WIDTH, heads=2, sets=(LAYERS, SETS)
    )
    y = evaluate_stack(cell, x, weights, layers=LAYERS, sets=SETS, heads=2)
    below = x
    for layer in range(LAYERS):
        below = evaluate(cell, below, {n: a[layer] for n, a in weights.items()}, hidden_size=WIDTH, heads=2).y
        np.testing.assert_allclose(np.moveaxis(y[:, layer], 0, -2), below, rtol=1e-9, atol=1e-9)


WRITTEN_OVER = (
    "cell a { state h: vec; g = sigmoid(lin(x, h)); b = tanh(lin(x, h)); h' = lerp(g, b, g) + lerp(b, g, g); out h' }",
    "cell b { state h: vec; a = tanh(lin(x, h)); k = stopgrad(a); h' = exp(a) * sigmoid(a) - k; out h' + k }",
    "cell c { state h: vec, s: scal; s' = sigmoid(hsum(h)); a = tanh(x); h' = lerp(s', a, h) + a * a; out h' - a }",
    "cell d { state z: cvec, h: vec; u = lin:cvec(h, x) + z; z' = u * u; h' = lerp(tanh(re(z)), h, lin(x)); out h' }",
    "cell e { state h: vec; a = lin(x, h); b = sigmoid(a + shift(a)); h' = b * (1 - b) + max(b, a); out h' / (1 + b) }",
)


@pytest.mark.parametrize("text", WRITTEN_OVER)
def test_no_value_that_is_still_read_is_written_over(text: str) -> None:
    cell = parse(text)
    x = np.random.default_rng(0).normal(size=(SETS, 3, 6, WIDTH))
    weights = init_weights(
        cell, np.random.default_rng(1), input_size=WIDTH, hidden_size=WIDTH, heads=2, sets=(1, SETS)
    )
    y = evaluate_stack(cell, x, weights, layers=1, sets=SETS, heads=2)
    own = {name: array[0] for name, array in weights.items()}
    alone = evaluate(cell, x, own, hidden_size=WIDTH, heads=2).y
    np.testing.assert_allclose(np.moveaxis(y[:, 0], 0, -2), alone, rtol=1e-9, atol=1e-9)
