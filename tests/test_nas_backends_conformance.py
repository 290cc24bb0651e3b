"""Backends in float64 against the NumPy interpreter, and the reference's gradients against differences.

test_conformance.py holds every backend against the reference at sizes that are used.
"""

from __future__ import annotations

import pytest
import torch
from backend_suite import TOLERANCES, agrees_with_the_interpreter, agrees_with_the_reference, as_tuple
from conformance import ODD as ODD_OVER_TIME
from hypothesis import given, settings
from strategies import cells
from torch import Tensor

from grammar import Cell, parse, zoo, zoo_names
from nas.nn import build

HERE = ("reference",)  # test_conformance.py runs generated C, test_nas_backends_triton.py Triton's kernels
KNOWN = [name for name in zoo_names() if zoo(name).kind != "tree"]

ODD = (
    *ODD_OVER_TIME,
    *(
        "state h: vec, g: vec; depth 4 until(sigmoid(lin:scal(h, x))) { h' = tanh(lin(h, g, x)); g' = lin(h) + g };"
        " out h' * g'",
        "state s: seq = x, t: seq = 0.5; repeat 2 { s' = s + attn(lnorm(s), causal=yes); t' = mlp(s') + conv(t, k=3) };"
        " out s' + t' * sigmoid(lin:scal(x)) + shift(s)",
        "state s: seq = x, t: seq = learned; depth 3 until(sigmoid(lin:scal(s)))"
        " { s' = s + attn(s + posemb()) + t; t' = mlp(s') + shift(t) }; out s' + t' + lin(s)",
        "state s: seq = x; g = lin:scal(s); k = top(g); l = top(g * k, part=0.21);"
        " s' = s + attn(s, k) + attn(s, l, causal=yes) * k; out s' * top(param:scal()) + attn(s', min(g, 0))",
        "state s: seq = x; depth 3 until(sigmoid(lin:scal(s)))"
        " { k = top(lin:scal(s), part=0.7); s' = s + k * attn(s, k) }; out s' + attn(param:seq(init=ones))",
        "state h: vec; depth 3 until(sigmoid(lin:scal(conv(h, k=1)))) { h' = tanh(conv(h, k=1) + lin(x)) };"
        " out h' + conv(h)",
        "state h: vec; depth 2 until(param:scal()) { h' = param:vec(init=ones) }; out h' + x",
    ),
)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("name", KNOWN)
def test_known_cells_agree_with_the_interpreter(name: str, backend: str) -> None:
    agrees_with_the_interpreter(zoo(name), backend)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("text", ODD)
def test_odd_cells_agree_with_the_interpreter(text: str, backend: str) -> None:
    agrees_with_the_interpreter(parse(f"cell odd {{ {text} }}"), backend)


@pytest.mark.parametrize("backend", HERE)
@settings(max_examples=60)
@given(cell=cells(kinds=("time", "depth"), smooth=True))
def test_any_cell_agrees_with_the_interpreter(backend: str, cell: Cell) -> None:
    agrees_with_the_interpreter(cell, backend)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [pair for pair in TOLERANCES if pair[0] in HERE and pair != ("reference", torch.float64)],
)
@pytest.mark.parametrize("name", KNOWN)
def test_all_gradients_agree_with_the_reference(name: str, backend: str, dtype: torch.dtype) -> None:
    agrees_with_the_reference(zoo(name), backend, dtype)


@pytest.mark.parametrize(
    "name", ["lstm", "gru_cho", "scrn", "rglru", "deltanet", "mlstm", "lru", "rwkv4", "ut"]
)
def test_gradients_are_those_of_differences(name: str) -> None:
    cell = zoo(name)
    module = build(cell, 4, 4, heads=2, backend="reference").double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    parameters = [p for p in module.parameters() if p.requires_grad]

    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        y, after = module(x, lengths=[3, 2])
        parts = (torch.view_as_real(p) if p.is_complex() else p for p in as_tuple(after))
        return (y, *(part for part in parts if part.requires_grad))

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("name", ["lstm", "gru", "mgu", "rglru", "deltanet", "mlstm", "rwkv4", "gla", "ut"])
def test_runs_under_autocast(name: str) -> None:
    module = build(zoo(name), 8, 8, heads=2, backend="reference")
    x = torch.randn(2, 4, 8)
    plain, _ = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = module(x)
        y.float().sum().backward()
    torch.testing.assert_close(y.float(), plain, rtol=0.1, atol=0.1)


def test_no_gradient_flows_through_stopgrad() -> None:
    cell = parse("cell c { state h: vec; u = stopgrad(lin(h)); h' = tanh(lin(x, h)) + u; out h' }")
    module = build(cell, 3, 4, backend="reference")
    module(torch.ones(1, 3, 3))[0].sum().backward()
    sizes = {
        name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in module.named_parameters()
    }
    assert {name for name, size in sizes.items() if size == 0} == {"layers.0.u.w0", "layers.0.u.b"}
