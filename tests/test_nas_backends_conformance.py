"""Every backend against the NumPy interpreter and the reference, and the reference's gradients against differences."""

from __future__ import annotations

import pytest
import torch
from backend_suite import TOLERANCES, agrees_with_the_interpreter, agrees_with_the_reference, as_tuple
from hypothesis import given, settings
from strategies import cells
from torch import Tensor

from grammar import Cell, parse, zoo, zoo_names
from nas.backends import backend_names
from nas.nn import build

BACKENDS = sorted({backend for backend, _ in TOLERANCES})
HERE = [backend for backend in BACKENDS if backend != "triton"]  # test_nas_backends_triton.py runs that one
KNOWN = [name for name in zoo_names() if zoo(name).kind != "tree"]

# What no cell of the zoo has, or no two in one cell.
ODD = (
    "state p: vec, h: vec, q: vec; p' = lin(x); q' = tanh(lin(h')); h' = tanh(lin(shift(x), conv(h), p) + lin(x));"
    " out q * h' + conv(q)",
    "state m: scal = -inf, k: key = 0.5, h: vec = learned; m' = max(m - 1, lin:scal(x));"
    " k' = lerp(sigmoid(m'), k, lin:key(h, k)); h' = exp(m - m') * h + lin(k', x, param:vec(init=normal(1)));"
    " out h' * softmax(h')",
    "state z: cvec = learned, S: cmat; z' = cis(param:vec(init=uniform(0, 3))) * z + lin:cvec(x, z);"
    " S' = lerp(0.5, S, complex(outer(lin:key(x), lin(x)), 0));"
    " out re(read(S', lin:key(re(z')))) + abs(modrelu(z', -0.1)) + im(z')",
    "state m: mem(3), h: vec; m' = lin:mem(3)(m, x, fixed=yes);"
    " h' = tanh(lin(h, x, blocks=2) + lin(m') + lin(x, rank=2) + hsum(h) * 0.1);"
    " out lnorm(h') + rmsnorm(h) * dot(h, h')",
    "state h: vec, g: vec; depth 4 until(sigmoid(lin:scal(h, x))) { h' = tanh(lin(h, g, x)); g' = lin(h) + g };"
    " out h' * g'",
    "state h: vec; a = param:vec(init=ones); h' = a * 2; out h' + h + lin(conv(a, k=2))",
    "state h: vec; h' = x; out h * 2 + max(1, 3) * shift(conv(x, k=1))",
    "state h: vec; u = lin(x); h' = lin(h, share=w, bias=no) + lin(u, share=w, transpose=yes, bias=no)"
    " * sqrt1m2(sigmoid(u)); out leaky_relu(h') + min(h', 0.5) + gelu(h) + softplus(h) + log(exp(h))",
    "state s: seq = x, t: seq = 0.5; repeat 2 { s' = s + attn(lnorm(s), causal=yes); t' = mlp(s') + conv(t, k=3) };"
    " out s' + t' * sigmoid(lin:scal(x)) + shift(s)",
    "state s: seq = x, t: seq = learned; depth 3 until(sigmoid(lin:scal(s)))"
    " { s' = s + attn(s + posemb()) + t; t' = mlp(s') + shift(t) }; out s' + t' + lin(s)",
    "state h: vec, z: cvec = learned; z' = reflect(z, lin:cvec(x)) + lin:cvec(h);"
    " h' = reflect(tanh(lin(h)), x) + abs(z'); out reflect(h', param(init=normal(1)))",
    "state S: mat; S' = 0.9 * S + outer(lin:key(x), lin(x)); v = readt(S, lin(x)); out read(shift(S'), v)",
    "state s: seq = x; g = lin:scal(s); k = top(g); l = top(g * k, part=0.21);"
    " s' = s + attn(s, k) + attn(s, l, causal=yes) * k; out s' * top(param:scal()) + attn(s', min(g, 0))",
    "state s: seq = x; depth 3 until(sigmoid(lin:scal(s))) { k = top(lin:scal(s), part=0.7); s' = s + k * attn(s, k) };"
    " out s' + attn(param:seq(init=ones))",
    "state h: vec; depth 3 until(sigmoid(lin:scal(conv(h, k=1)))) { h' = tanh(conv(h, k=1) + lin(x)) };"
    " out h' + conv(h)",
    "state h: vec; depth 2 until(param:scal()) { h' = param:vec(init=ones) }; out h' + x",
    "state h: vec; h' = tanh(lin(x)) + lin(h, blocks=heads); out lin(lin(x, h'), h, x) + lin(outer(lin:key(x), h'))",
)


def test_each_backend_is_in_the_suite() -> None:
    assert sorted(backend_names()) == BACKENDS


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
