from __future__ import annotations

import pytest
import torch
from torch import nn

from grammar import Poly, State, Weight, WeightSpec, parse
from grammar.poly import D, H, K, N, V
from grammar.types import SCAL, VEC
from nas.errors import ExportError
from nas.exporters.sizes import axes, fill_text, init_source, size_text

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


def array(weight: Weight, role: str) -> nn.Parameter:
    """The array that the source makes."""
    import math

    def uniform(*shape: int, fan_in: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))

    spec = next(s for s in weight.specs if s.role == role)
    space = {**SIZES, "nn": nn, "torch": torch, "math": math, "uniform": uniform}
    made = eval(init_source(spec, weight), space)  # noqa: S307
    assert isinstance(made, nn.Parameter)
    return made
