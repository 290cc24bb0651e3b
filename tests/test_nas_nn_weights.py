"""Parameters: their names, and how they start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grammar import parse, zoo
from nas.errors import BuildError
from nas.nn import CellModule, build


def built(equations: str, **options: object) -> CellModule:
    given = {"input_size": 6, "hidden_size": 8, "heads": 2} | options
    return build(parse(f"cell c {{ {equations}; out h' }}"), **given)  # type: ignore[arg-type]


def array(module: CellModule, name: str) -> Tensor:
    found: Tensor = module.state_dict()[f"layers.0.{name}"]
    return found


def test_names_are_those_of_the_text() -> None:
    names = [name for name, _ in build(zoo("lstm"), 3, 4, bidirectional=True).named_parameters()]
    sites = [f"{site}.{role}" for site in "ifgo" for role in ("w0", "w1", "b")]
    assert names == [f"layers.0.{s}" for s in sites] + [f"reverse_layers.0.{s}" for s in sites]


def test_names_that_mean_something_to_torch_get_an_underscore() -> None:
    module = built("state train: vec = learned, h: vec; float = lin(x); init = lin(x);"
                   " train' = float * train; h' = tanh(lin(h)) + train' + init")  # fmt: skip
    names = {name.removeprefix("layers.0.").split(".")[0] for name, _ in module.named_parameters()}
    assert names == {"float_", "init", "h", "init_"}
    assert "layers.0.init_.train_" in module.state_dict()
    module(torch.ones(1, 2, 6))[0].sum().backward()


def test_default_start_is_uniform_by_fan_in() -> None:
    torch.manual_seed(0)
    module = built(
        "state h: vec; h' = tanh(lin(x, h)) + diag(h) + param:vec() + conv(h, k=4)", hidden_size=64
    )
    values = {name.removeprefix("layers.0."): p.detach() for name, p in module.named_parameters()}
    bounds = {"h.w0": 70**-0.5, "h.w1": 70**-0.5, "h.b": 70**-0.5, "h_2.w": 1.0, "h_4.w": 0.5, "h_4.b": 0.5}
    for name, bound in bounds.items():
        assert float(values[name].abs().max()) == pytest.approx(bound, rel=0.2)
        assert float(values[name].abs().max()) <= bound
    assert bool((values["h_3.w"] == 0).all())


@pytest.mark.parametrize(
    ("init", "least", "most"),
    [
        ("zeros", 0, 0),
        ("ones", 1, 1),
        ("-2", -2, -2),
        ("uniform(3, 6)", 3, 6),
        ("log_uniform(0.001, 0.1)", 0.001, 0.1),
    ],
)
def test_start_as_told(init: str, least: float, most: float) -> None:
    module = built(f"state h: vec; h' = lin(h, init={init}) + x", input_size=8)
    weight = array(module, "h.w0")
    assert least <= float(weight.min()) <= float(weight.max()) <= most
    assert bool((array(module, "h.b") == 0).all())


def test_normal_start() -> None:
    torch.manual_seed(0)
    weight = array(built("state h: vec; h' = lin(h, x, init=normal(0.1))", hidden_size=64), "h.w0")
    assert float(weight.std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("type_", ["vec", "cvec"])
@pytest.mark.parametrize("input_size", [5, 8, 13])
def test_orthogonal_start(type_: str, input_size: int) -> None:
    module = built("state h: vec; h' = h + re(lin:cvec(x, init=orthogonal(2)))" if type_ == "cvec" else
                   "state h: vec; h' = h + lin(x, init=orthogonal(2))", input_size=input_size)  # fmt: skip
    weight = array(module, "h.w0")
    if type_ == "cvec":
        weight = torch.view_as_complex(weight)
    short = weight if input_size > 8 else weight.mH
    product = short @ short.mH if input_size > 8 else short @ weight
    expected = 4 * torch.eye(min(8, input_size), dtype=weight.dtype)
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-5)


def test_legendre_start() -> None:
    """A delay of theta: the polynomial that the coefficients stand for is, at its end, the signal theta steps ago."""
    text = "state m: mem(12), h: vec; h' = x + lin(m'); a = lin:mem(12)(m, bias=no, init=legt_a(40));"
    module = built(
        f"{text} m' = a + lin:mem(12)(lin:mem(1)(x, bias=no), bias=no, init=legt_b(40))", input_size=8
    )
    A, B = array(module, "a.w0").double(), array(module, "m_2.w0").double()
    signal = torch.sin(torch.arange(400, dtype=torch.float64) / 50)
    m = torch.zeros(12, dtype=torch.float64)
    for u in signal:
        m = A @ m + B[:, 0] * u
    assert float(m.sum()) == pytest.approx(
        float(signal[-1 - 40]), abs=0.03
    )  # each polynomial is 1 at its end


@pytest.mark.parametrize("option", ["", ", blocks=2"])
def test_fourier_start(option: str) -> None:
    text = "state z: cvec, h: vec; h' = x + re(z'); b = lin:cvec(z, bias=no, init=fourier(-1){0});"
    module = built(f"{text} z' = b + lin:cvec(z, bias=no, init=fourier(1){{0}})".format(option), input_size=8)
    forward, back = (torch.view_as_complex(array(module, f"{site}.w0")) for site in "zb")
    size = forward.shape[-1]
    signal = torch.randn(size, dtype=forward.dtype)
    torch.testing.assert_close(
        forward @ signal, torch.fft.fft(signal, norm="ortho").expand(forward.shape[:-1])
    )
    torch.testing.assert_close(forward @ back, torch.eye(size, dtype=forward.dtype).expand(forward.shape))


@pytest.mark.parametrize("type_", ["vec", "cvec"])
@pytest.mark.parametrize("option", ["", ", blocks=2"])
def test_permutation_start(type_: str, option: str) -> None:
    torch.manual_seed(0)
    module = built(
        f"state z: {type_}, h: vec; h' = x + abs(z'); z' = lin:{type_}(z, init=permutation{option})",
        input_size=8,
    )
    drawn = []
    for _ in range(2):
        matrix = array(module, "z.w0").clone()
        if type_ == "cvec":
            matrix = torch.view_as_complex(matrix).real
        assert bool(((matrix == 0) | (matrix == 1)).all())
        assert bool((matrix.sum(-1) == 1).all())
        assert bool((matrix.sum(-2) == 1).all())
        drawn.append(matrix)
        module.reset_parameters(torch.Generator().manual_seed(1))
    assert not torch.equal(*drawn)


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        (
            "lin(x, init=legt_a(9))",
            r"legt_a\(...\) is for a matrix \[n, n\]; the weight h has shape \(8, 6\)",
        ),
        (
            "lin(h, init=legt_b(9))",
            r"legt_b\(...\) is for a matrix \[n, 1\]; the weight h has shape \(8, 8\)",
        ),
        (
            "lin(h, init=legt_a(0))",
            r"with theta >= 1e-06; received legt_a\(0\) for the weight h, which is real",
        ),
        ("lin(h, init=legt_a(1e-300))", r"with theta >= 1e-06; received legt_a\(1e-300\) for the weight h"),
        (
            "lin(h, init=fourier(1))",
            r"for complex maps; received fourier\(1\) for the weight h, which is real",
        ),
        ("re(lin:cvec(h, init=fourier(2)))", r"received fourier\(2\) for the weight h, which is complex"),
        (
            "diag(h, init=fourier(1))",
            r"fourier\(...\) is for a matrix \[n, n\]; the weight h has shape \(8,\)",
        ),
        (
            "lin(x, init=permutation)",
            r"permutation is for a matrix \[n, n\]; the weight h has shape \(8, 6\)",
        ),
    ],
)
def test_starts_that_do_not_fit(equation: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        built(f"state h: vec; h' = {equation}")


def test_orthogonal_blocks() -> None:
    blocks = array(
        built("state h: vec; h' = tanh(lin(h, blocks=heads, init=orthogonal(1))) + lin(x)"), "h.w0"
    )
    assert blocks.shape == (2, 4, 4)
    torch.testing.assert_close(blocks @ blocks.mT, torch.eye(4).expand(2, 4, 4), rtol=1e-5, atol=1e-5)


def test_complex_arrays_are_real_pairs() -> None:
    torch.manual_seed(0)
    module = built("state h: vec, z: cvec = learned; z' = 0.5 * z + lin:cvec(x); h' = re(z') + h")
    weight = array(module, "z.w0")
    assert weight.shape == (8, 6, 2)
    assert bool((weight.abs().amax((0, 1)) > 0.3).all())
    assert array(module, "init.z").shape == (8, 2)
    assert module.double()(torch.ones(1, 2, 6, dtype=torch.float64))[1][1].dtype == torch.complex128


def test_fixed_weights_are_buffers() -> None:
    module = built("state h: vec; h' = tanh(lin(h, fixed=yes, init=orthogonal(1)) + lin(x))")
    assert {name for name, _ in module.named_buffers()} == {"layers.0.h.w0", "layers.0.h.b"}
    assert {name for name, _ in module.named_parameters()} == {"layers.0.h_2.w0", "layers.0.h_2.b"}


def test_learned_states_are_parameters() -> None:
    module = built(
        "state h: vec, S: mat = learned; S' = 0.9 * S + outer(lin:key(x), h); h' = read(S', lin:key(x))"
    )
    start = module.get_parameter("layers.0.init.S")
    assert start.shape == (2, 4, 4)
    module(torch.ones(2, 3, 6))[0].sum().backward()
    assert start.grad is not None


def test_same_generator_same_weights_in_any_order() -> None:
    cell = zoo("gru")
    first, second = build(cell, 3, 4, num_layers=2), build(cell, 3, 4, num_layers=2)
    first.reset_parameters(torch.Generator().manual_seed(7))
    torch.rand(5)
    second.reset_parameters(torch.Generator().manual_seed(7))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert math.isfinite(sum(float(p.detach().sum()) for p in first.parameters()))
