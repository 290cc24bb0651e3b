from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from grammar import Poly, State, Weight, WeightSpec, init_weights, parse
from grammar.poly import D, H, K, N, V
from grammar.types import SCAL, VEC
from nas.errors import ExportError
from nas.exporters.sizes import axes, fill_text, init_source, size_text
from nas.exporters.text import HELPERS

SIZES = {"D": 6, "H": 24, "N": 4, "K": 5}


@pytest.mark.parametrize(
    "poly",
    [D + H, H * K, V, H * 4, H / 2, H * Poly.var("N", -1) / 2, N * K, Poly.of(3), H * H * 8 + D, Poly()],
)
def test_sizes_read_as_python_with_the_same_value(poly: Poly) -> None:
    wanted = poly.at(input_size=6, hidden_size=24, heads=4, key_size=5)
    assert eval(size_text(poly), dict(SIZES)) == wanted  # noqa: S307


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ("", -1.0, 1.0),
        ("init=uniform(2, 3)", 2.0, 3.0),
        ("init=ones", 1.0, 1.0),
        ("init=0.25", 0.25, 0.25),
        ("init=-1", -1.0, -1.0),
        ("init=zeros", 0.0, 0.0),
        ("init=log_uniform(0.5, 2)", 0.5, 2.0),
        ("init=normal(0.001)", -0.1, 0.1),
    ],
)
def test_initial_values_are_as_the_text_says(options: str, low: float, high: float) -> None:
    cell = parse(f"cell a {{ state h: vec; h' = diag(h{', ' * bool(options)}{options}); out h' }}")
    made = array(cell.graph.weights[0], "w")
    assert made.shape == (24,)
    assert low <= made.min()
    assert made.max() <= high
    assert made.requires_grad


def test_maps_begin_uniformly_by_fan_in_and_biases_at_0_beside_an_option() -> None:
    plain = parse("cell a { out lin(x) }").graph.weights[0]
    assert array(plain, "w0").abs().max() <= 6**-0.5
    assert array(plain, "b").abs().max() > 0
    told = parse("cell a { out lin(x, init=orthogonal(2), fixed=yes) }").graph.weights[0]
    w = array(told, "w0")
    torch.testing.assert_close(w.T @ w, 4 * torch.eye(6))
    assert not w.requires_grad
    assert not array(told, "b").any()


@pytest.mark.parametrize(
    "text",
    [
        "cell a { out lin(lin:mem(6)(x, bias=no, init=legt_a(9)), bias=no) }",
        "cell a { out lin(lin:mem(6)(lin:mem(1)(x), bias=no, init=legt_b(9)), bias=no) }",
        "cell a { out re(lin:cvec(lin(x), bias=no, init=fourier(1), fixed=yes)) }",
        "cell a { out re(lin:cvec(lin(x), bias=no, init=fourier(-1), blocks=2)) }",
    ],
)
def test_known_matrices_are_those_of_the_language(text: str) -> None:
    cell = parse(text)
    wanted = init_weights(cell, np.random.default_rng(0), input_size=6, hidden_size=24, heads=4, key_size=5)
    index, weight = next((i, w) for i, w in enumerate(cell.graph.weights) if w.init is not None)
    made = array(weight, "w0").detach()
    found = torch.view_as_complex(made) if weight.specs[0].complex else made
    np.testing.assert_allclose(found, wanted[f"{cell.graph.weights[index].site}.w0"], atol=1e-6)


def test_matrices_are_orthogonal_block_by_block_and_unitary_where_they_are_complex() -> None:
    blocks = array(told("lin(x, init=orthogonal(2), blocks=2)"), "w0")
    assert blocks.shape == (2, 12, 3)
    torch.testing.assert_close(blocks.mT @ blocks, 4 * torch.eye(3).expand(2, 3, 3))
    wide = array(told("lin(lin:mem(30)(x), init=orthogonal(1))"), "w0")
    assert wide.shape == (24, 30)
    torch.testing.assert_close(wide @ wide.mT, torch.eye(24))
    unitary = array(told("re(lin:cvec(lin(x), init=orthogonal(1)))"), "w0")
    matrix = torch.view_as_complex(unitary)
    torch.testing.assert_close(matrix.mH @ matrix, torch.eye(24, dtype=torch.complex64))


@pytest.mark.parametrize(("init", "value"), [("ones", 1.0), ("zeros", 0.0), ("-0.5", -0.5)])
def test_a_number_is_the_real_part_of_complex_ones(init: str, value: float) -> None:
    made = array(told(f"re(param:cvec(init={init}) * lin(x))"), "w")
    assert made.shape == (24, 2)
    assert made.unique(dim=0).tolist() == [[value, 0.0]]


@pytest.mark.parametrize("type_", ["vec", "cvec"])
def test_permutations(type_: str) -> None:
    weight = parse(f"cell a {{ out abs(lin:{type_}(lin(x), bias=no, init=permutation)) }}").graph.weights[0]
    made = array(weight, "w0")
    matrix = torch.view_as_complex(made).real if type_ == "cvec" else made
    assert matrix.shape == (24, 24)
    assert bool((matrix.sum(0) == 1).all())
    assert bool((matrix.sum(1) == 1).all())
    assert int((matrix == 0).sum()) == 24 * 23


def test_unknown_initial_values_are_refused() -> None:
    weight = Weight("a", "diag", (WeightSpec("w", (H,), H),), ("cauchy", 1.0))
    with pytest.raises(ExportError, match=r"initial value .'cauchy', 1.0"):
        init_source(weight.specs[0], weight)
    with pytest.raises(ExportError, match="initial value 'x' of state h"):
        fill_text(State("h", VEC, "x"))


def test_numbers_that_states_begin_with() -> None:
    assert [fill_text(State("h", SCAL, value)) for value in (0.0, -1.0, float("-inf"))] == [
        "0.0",
        "-1.0",
        'float("-inf")',
    ]
    assert axes(SCAL) == ("self.heads",)


def told(text: str) -> Weight:
    """The weight of an output whose initial values the text says."""
    return next(w for w in parse(f"cell a {{ out {text} }}").graph.weights if w.init is not None)


def array(weight: Weight, role: str) -> nn.Parameter:
    """The array that the source makes."""
    import math

    def uniform(*shape: int, fan_in: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))

    spec = next(s for s in weight.specs if s.role == role)
    space = {
        **SIZES,
        "nn": nn,
        "torch": torch,
        "math": math,
        "F": torch.nn.functional,
        "Tensor": torch.Tensor,
    }
    for name in ("legt", "fourier", "permutation", "orthogonal"):
        exec(HELPERS[name], space)
    space["uniform"] = uniform
    made = eval(init_source(spec, weight), space)  # noqa: S307
    assert isinstance(made, nn.Parameter)
    return made
