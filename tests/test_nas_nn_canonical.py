"""Equal digest means equal function: modules exchange their weights under canonical names."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scramble import scramble
from strategies import HEADS, HIDDEN, cells, input_size, key_size
from torch import nn

from grammar import Cell, evaluate, parse, zoo
from nas.errors import BuildError
from nas.nn import CellModule, build, from_torch


def built(cell: Cell, **options: object) -> CellModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the output of cell")
        return build(cell, input_size(cell), HIDDEN, heads=HEADS, key_size=key_size(cell), **options).double()  # type: ignore[arg-type]


def same_outputs(cell: Cell, other: Cell) -> None:
    first, second = built(cell), built(other)
    with torch.no_grad():
        for array in first.parameters():
            array.add_(0.1 * torch.randn_like(array))
    second.load_canonical_weights(first.canonical_weights())
    x = torch.randn(2, 4, first.input_size, dtype=torch.float64)
    torch.testing.assert_close(first(x)[0], second(x)[0], rtol=1e-6, atol=1e-6, equal_nan=True)


def test_names_order_and_dead_code_do_not_matter() -> None:
    cell = parse(
        "cell a { state h: vec = learned; u = lin(x); z = sigmoid(lin(x, h));"
        " h' = lerp(z, h, tanh(lin(x, h))); out h' }"
    )
    other = parse(
        "cell b { state s: vec = learned; out s'; s' = (1 - g) * s + g * tanh(lin(s, x)); g = sigmoid(lin(s, x)) }"
    )
    assert cell.digest == other.digest
    same_outputs(cell, other)
    assert list(built(cell).canonical_weights()) == ["w0", "w1", "w2", "w3", "w4", "w5", "s0"]


@settings(max_examples=40)
@given(cells(kinds=("time", "depth"), smooth=True), st.integers(0, 2**32 - 1))
def test_scrambled_cells_are_the_same_function(cell: Cell, seed: int) -> None:
    same_outputs(cell, scramble(cell, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", ["lstm", "deltanet", "lru", "ut"])
def test_canonical_cells_are_the_same_function(name: str) -> None:
    same_outputs(zoo(name), zoo(name).canonical())


def test_the_interpreter_takes_the_same_names() -> None:
    module = built(zoo("gru"))
    x = torch.randn(2, 4, module.input_size, dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in module.canonical_weights().items()}
    expected = evaluate(
        zoo("gru"), x.numpy(), weights, hidden_size=HIDDEN, heads=HEADS, key_size=key_size(zoo("gru"))
    )
    np.testing.assert_allclose(module(x)[0].detach().numpy(), expected.y, rtol=1e-9, atol=1e-9)


def test_layers_and_directions_have_their_own() -> None:
    module = built(zoo("gru"), num_layers=2, bidirectional=True)
    module.load_canonical_weights(module.canonical_weights(1), 1, reverse=True)
    torch.testing.assert_close(module.canonical_weights(1, reverse=True), module.canonical_weights(1))
    with pytest.raises(BuildError, match="there is no layer 2: num_layers=2"):
        module.canonical_weights(2)
    with pytest.raises(BuildError, match="there is no layer 0 in reverse"):
        built(zoo("gru")).canonical_weights(0, reverse=True)


def test_other_names_and_shapes_are_refused() -> None:
    module = built(zoo("elman"))
    weights = module.canonical_weights()
    with pytest.raises(BuildError, match="the canonical weights of elman are w0, w1, w2; received w0, w1"):
        module.load_canonical_weights({name: weights[name] for name in ("w0", "w1")})
    with pytest.raises(BuildError, match=r"weight w0 has the shape \[8, 6\]; received \[8, 8\]"):
        module.load_canonical_weights(weights | {"w0": torch.zeros(8, 8)})
    with pytest.raises(BuildError, match="loads torch's state dicts, not canonical weights"):
        from_torch(nn.GRU(3, 4)).load_canonical_weights({})
    assert len(from_torch(nn.GRU(3, 4)).canonical_weights()) == 10
