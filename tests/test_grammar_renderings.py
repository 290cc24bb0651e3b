"""The NumPy functions of operations: against the standard library, at the edges, and between types."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import KEY, MAT, NUM, OPS, RENDERINGS, SCAL, VEC, Call, Node, Sizes, Type
from grammar.renderings import align, erf, fold, gelu, modrelu, sigmoid, softplus

SIZES = Sizes.of(6, 6, 2, 5)  # V = 3


def apply(name: str, args: Sequence[Any], types: Sequence[Type], result: Type) -> np.ndarray:
    return RENDERINGS[name](Call(Node(name, (), (), result), args, types, {}, SIZES))


reals = st.floats(-1e3, 1e3, allow_nan=False)
SCALAR: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)) if a > 0 else math.exp(a) / (1 + math.exp(a)),
    "tanh": math.tanh,
    "relu": lambda a: max(a, 0),
    "leaky_relu": lambda a: a if a >= 0 else 0.01 * a,
    "gelu": lambda a: 0.5 * a * math.erfc(-a / math.sqrt(2)),
    "silu": lambda a: a * SCALAR["sigmoid"](a),
    "softplus": lambda a: max(a, 0) + math.log1p(math.exp(-abs(a))),
    "logsigmoid": lambda a: -SCALAR["softplus"](-a),
    "sqrt1m2": lambda a: math.sqrt(max(0, 1 - a * a)),
    "square": lambda a: a * a,
    "sin": math.sin,
    "cos": math.cos,
    "abs": abs,
    "neg": lambda a: -a,
    "stopgrad": lambda a: a,
}


@pytest.mark.parametrize("name", SCALAR)
@given(st.lists(reals, min_size=1, max_size=6))
def test_functions_of_one_number(name: str, values: list[float]) -> None:
    found = apply(name, [np.array(values)], [VEC], VEC)
    np.testing.assert_allclose(found, [SCALAR[name](v) for v in values], rtol=1e-12, atol=1e-13)
    bounds = OPS[name].bounds
    assert bounds is None or (bounds[0] <= found.min() <= found.max() <= bounds[1])


def test_erf_to_the_last_digits() -> None:
    a = np.concatenate([np.linspace(-8, 8, 4001), [0.0, -0.0, 1.0, -1.0, 1e-300, 1e30, np.inf, -np.inf]])
    np.testing.assert_allclose(erf(a), [math.erf(v) for v in a], rtol=0, atol=4e-16)
    assert np.isnan(erf(np.array([np.nan]))).all()
    single = erf(a.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, [math.erf(v) for v in a], atol=3e-7)


@pytest.mark.parametrize("function", [sigmoid, softplus, gelu, np.tanh])
def test_nothing_overflows(function: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for kind in (np.float32, np.float64):
            found = function(np.array([-1e4, -200, -50, 0, 50, 200, 1e4], kind))
            assert found.dtype == kind
            assert np.isfinite(found).all()


def test_modrelu_keeps_the_direction() -> None:
    z = np.array([3 + 4j, -2j, 0.0])
    np.testing.assert_allclose(modrelu(z, np.array(-1.0)), [4 * (0.6 + 0.8j), -1j, 0])
    np.testing.assert_allclose(modrelu(z, np.array(-9.0)), 0)


def test_a_val_seen_as_a_key() -> None:
    v = np.arange(6.0)
    sizes = Sizes.of(6, 6, 2)
    key = RENDERINGS["tokey"](Call(Node("tokey", (), (), KEY), [v], [VEC], {}, sizes))
    np.testing.assert_array_equal(key, [[0, 1, 2], [3, 4, 5]])
    back = RENDERINGS["toval"](Call(Node("toval", (), (), VEC), [key], [KEY], {}, sizes))
    np.testing.assert_array_equal(back, v)


def test_reflections() -> None:
    rng = np.random.default_rng(0)
    for kind, imaginary in (("vec", 0), ("cvec", 1j)):
        z, v = (rng.standard_normal(6) + imaginary * rng.standard_normal(6) for _ in range(2))
        found = apply("reflect", [z, v], [Type(kind)] * 2, Type(kind)).reshape(2, 3)
        for part, direction, wanted in zip(z.reshape(2, 3), v.reshape(2, 3), found, strict=True):
            unit = direction / np.linalg.norm(direction)
            householder = np.eye(3) - 2 * np.outer(unit, unit.conj())
            np.testing.assert_allclose(wanted, householder @ part, atol=1e-12)
        np.testing.assert_array_equal(apply("reflect", [z, 0 * v], [Type(kind)] * 2, Type(kind)), z)


def test_the_highest_positions() -> None:
    a = np.array([[[0.5, 3], [2, 3], [2, 1], [-1, 3], [7, 0]]])  # [B, T, N], with equal values

    def chosen(**options: float) -> list[list[float]]:
        node = Node("top", (), tuple(options.items()), SCAL)
        found = RENDERINGS["top"](Call(node, [a], [SCAL], {}, SIZES, batch=2, length=5))
        return [list(row) for row in found[0].T]

    assert chosen(part=0.4) == [[0, 1, 0, 0, 1], [1, 1, 0, 0, 0]]
    assert chosen() == chosen(part=0.5) == chosen(part=0.59)
    assert chosen(part=0.6) == [[0, 1, 1, 0, 1], [1, 1, 0, 1, 0]]
    assert chosen(part=0.01) == [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]
    assert chosen(part=1.0) == [[1] * 5, [1] * 5]


def test_norms_are_over_each_head() -> None:
    a = np.arange(1.0, 7.0)
    np.testing.assert_allclose(np.linalg.norm(apply("l2norm", [a], [VEC], VEC).reshape(2, 3), axis=1), 1)
    np.testing.assert_allclose(apply("softmax", [a], [VEC], VEC).reshape(2, 3).sum(1), 1)
    centred = apply("lnorm", [a], [VEC], VEC).reshape(2, 3)
    np.testing.assert_allclose(centred.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(centred.var(1), 1, rtol=1e-4)
    np.testing.assert_allclose((apply("rmsnorm", [a], [VEC], VEC).reshape(2, 3) ** 2).mean(1), 1, rtol=1e-6)
    whole = apply("l2norm", [a], [Type("in")], Type("in"))
    np.testing.assert_allclose(np.linalg.norm(whole), 1)
    key = apply("l2norm", [np.ones((2, 5))], [KEY], KEY)
    np.testing.assert_allclose(key, 5**-0.5)


def test_matrices() -> None:
    rng = np.random.default_rng(0)
    k, v, S = rng.standard_normal((2, 5)), rng.standard_normal(6), rng.standard_normal((2, 5, 3))
    heads = v.reshape(2, 3)
    np.testing.assert_allclose(apply("outer", [k, v], [KEY, VEC], MAT), np.einsum("nk,nv->nkv", k, heads))
    np.testing.assert_allclose(apply("read", [S, k], [MAT, KEY], VEC), np.einsum("nkv,nk->nv", S, k).ravel())
    np.testing.assert_allclose(apply("readt", [S, v], [MAT, VEC], KEY), np.einsum("nkv,nv->nk", S, heads))
    np.testing.assert_allclose(apply("dot", [v, v], [VEC, VEC], SCAL), (heads**2).sum(1))
    np.testing.assert_allclose(apply("dot", [k, k], [KEY, KEY], SCAL), (k**2).sum(1))
    np.testing.assert_allclose(apply("hsum", [v], [VEC], SCAL), heads.sum(1))
    np.testing.assert_array_equal(apply("hmax", [v], [VEC], SCAL), heads.max(1))
    np.testing.assert_array_equal(apply("hmax", [k], [KEY], SCAL), k.max(1))


@pytest.mark.parametrize(
    ("value", "from_", "to", "place"),
    [
        (np.arange(2.0), SCAL, VEC, lambda n, k, v: n),
        (np.arange(2.0), SCAL, MAT, lambda n, k, v: n),
        (np.arange(10.0).reshape(2, 5), KEY, MAT, lambda n, k, v: 5 * n + k),
        (np.arange(6.0), VEC, MAT, lambda n, k, v: 3 * n + v),
    ],
)
def test_what_joins_how(value: np.ndarray, from_: Type, to: Type, place: Callable[..., int]) -> None:
    wanted = np.array([[[float(place(n, k, v)) for v in range(3)] for k in range(5)] for n in range(2)])
    zero = np.zeros((2, 5, 3) if to == MAT else 6)
    found = np.asarray(align(value, from_, to, SIZES)) + zero
    np.testing.assert_array_equal(found, wanted if to == MAT else wanted[:, 0].ravel())


def test_scal_joins_key_by_heads() -> None:
    found = apply("mul", [np.array([2.0, 3.0]), np.ones((2, 5))], [SCAL, KEY], KEY)
    np.testing.assert_array_equal(found, [[2] * 5, [3] * 5])


def test_lerp_is_b_at_one_and_a_at_zero() -> None:
    a, b = np.full(6, 2.0), np.full(6, 5.0)
    assert (apply("lerp", [1.0, a, b], [NUM, VEC, VEC], VEC) == 5).all()
    assert (apply("lerp", [0.0, a, b], [NUM, VEC, VEC], VEC) == 2).all()


@pytest.mark.parametrize(
    ("op", "values", "result"),
    [
        ("add", [1, 2], 3.0),
        ("lerp", [0.5, 1, 2], 1.5),
        ("sqrt", [2], math.sqrt(2)),
        ("sigmoid", [0], 0.5),
        ("exp", [0], 1.0),
        ("div", [1, 0], None),
        ("sqrt", [-1], None),
        ("mul", [1e300, 1e300], None),
        ("exp", [1], None),  # its last bit differs from machine to machine
        ("lin", [1], None),
        ("param", [], None),
        ("quux", [1], None),
    ],
)
def test_folding(op: str, values: list[float], result: float | None) -> None:
    assert fold(op, values) == result
