"""The NumPy interpreter against plain formulas written out, and what must hold for any cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scramble import scramble
from strategies import cells, example

from grammar import (
    Cell,
    CellBuildError,
    buffer_nodes,
    canonical_arrays,
    evaluate,
    init_weights,
    parse,
    zoo,
    zoo_names,
)

Array = NDArray[Any]
seeds = st.integers(0, 2**32 - 1)


def sigmoid(a: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-a)))


def unit(a: Array) -> Array:
    return np.asarray(a / np.sqrt((a * a).sum(-1, keepdims=True) + 1e-12))


def silu(a: Array) -> Array:
    return np.asarray(a * sigmoid(a))


# ---- plain formulas ---------------------------------------------------------------------------


class Plain:
    """Weights by name: `p.f(x, h)` is the map of the site `f`."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights

    def __getattr__(self, site: str) -> Callable[..., Array]:
        def apply(*operands: Array) -> Array:
            total = sum(a @ self.weights[f"{site}.w{i}"].T for i, a in enumerate(operands))
            return np.asarray(total + self.weights.get(f"{site}.b", 0.0))

        return apply


def lstm(p: Plain, x: Array, h: Array, c: Array) -> tuple[Array, ...]:
    i, f, o = sigmoid(p.i(x, h)), sigmoid(p.f(x, h)), sigmoid(p.o(x, h))
    c = f * c + i * np.tanh(p.g(x, h))
    return o * np.tanh(c), o * np.tanh(c), c


def gru(p: Plain, x: Array, h: Array) -> tuple[Array, ...]:
    r, z = sigmoid(p.r(x, h)), sigmoid(p.z(x, h))
    n = np.tanh(p.n(x) + r * p.n_2(h))
    h = (1 - z) * n + z * h
    return h, h


def mingru(p: Plain, x: Array, h: Array) -> tuple[Array, ...]:
    z = sigmoid(p.z(x))
    h = z * p.h(x) + (1 - z) * h
    return h, h


def deltanet(p: Plain, x: Array, S: Array) -> tuple[Array, ...]:
    batch, heads, keys, values = S.shape
    k = unit(silu(p.k(x)).reshape(batch, heads, keys))
    q = unit(silu(p.out(x)).reshape(batch, heads, keys))
    b, v = sigmoid(p.b(x)), p.S(x).reshape(batch, heads, values)
    made, y = np.empty_like(S), np.empty((batch, heads, values))
    for n in range(batch):
        for m in range(heads):
            projector = np.eye(keys) - b[n, m] * np.outer(k[n, m], k[n, m])
            made[n, m] = projector @ S[n, m] + b[n, m] * np.outer(k[n, m], v[n, m])
            y[n, m] = made[n, m].T @ q[n, m]
    return y.reshape(batch, -1), made


PLAIN: dict[str, Callable[..., tuple[Array, ...]]] = {
    "lstm": lstm,
    "gru": gru,
    "mingru": mingru,
    "deltanet": deltanet,
}


@pytest.mark.parametrize("name", PLAIN)
def test_against_the_formula(name: str) -> None:
    cell = zoo(name)
    x, weights, sizes = example(cell, np.random.default_rng(1), steps=6)
    found = evaluate(cell, x, weights, **sizes)
    states = [np.zeros((2, *s.shape[1:])) for s in found.state]
    for t in range(6):
        y, *states = PLAIN[name](Plain(weights), x[:, t], *states)
        np.testing.assert_allclose(found.y[:, t], y, atol=1e-12)
    for state, wanted in zip(found.state, states, strict=True):
        np.testing.assert_allclose(state, wanted, atol=1e-12)


SMALL = {"hidden_size": 4, "heads": 2, "key_size": 3}


def of(text: str, *, steps: int = 5, width: int = 4, seed: int = 0) -> tuple[Array, dict[str, Array], Array]:
    """x [1, T, D], weights and y [T, H] of a small cell."""
    rng = np.random.default_rng(seed)
    cell = parse(text)
    drawn = init_weights(cell, rng, input_size=width, hidden_size=4, heads=2, key_size=3)
    weights = {name: a + 0.2 * rng.standard_normal(a.shape) for name, a in drawn.items()}
    x = rng.standard_normal((1, steps, width))
    return x[0], weights, evaluate(cell, x, weights, **SMALL).y[0]  # type: ignore[arg-type]


def test_shift_is_the_step_before() -> None:
    x, _, y = of("cell a { out shift(x) }")
    np.testing.assert_array_equal(y, np.vstack([np.zeros(4), x[:-1]]))
    x, _, y = of("cell a { state h: vec; h' = h + x; out shift(h') }")
    np.testing.assert_allclose(y, np.vstack([np.zeros(4), np.cumsum(x, 0)[:-1]]))
    _, weights, y = of("cell a { out shift(param()) }")
    np.testing.assert_allclose(y, np.vstack([np.zeros(4), np.tile(weights["out.w"], (4, 1))]))


def test_conv_over_one_step_of_a_constant_is_a_constant() -> None:
    _, w, y = of("cell a { out x * 0 + conv(param(), k=1) }")
    np.testing.assert_allclose(y, np.tile(w["out.w"] * w["out_2.w"][:, 0] + w["out_2.b"], (5, 1)))


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("operand", ["x", "h'"])
def test_conv_is_causal_with_the_oldest_tap_first(operand: str, taps: int) -> None:
    x, w, y = of(f"cell a {{ state h: vec; h' = h + x; out conv({operand}, k={taps}) }}", steps=6)
    values = x if operand == "x" else np.cumsum(x, 0)
    padded = np.vstack([np.zeros((taps - 1, 4)), values])
    for t in range(6):
        wanted = (w["out.w"].T * padded[t : t + taps]).sum(0) + w["out.b"]
        np.testing.assert_allclose(y[t], wanted, atol=1e-12)


def test_lin_has_blocks_ranks_and_a_transpose() -> None:
    x, w, y = of("cell a { out lin(x, blocks=heads) }")
    np.testing.assert_allclose(y[:, :2], x[:, :2] @ w["out.w0"][0].T + w["out.b"][:2])
    np.testing.assert_allclose(y[:, 2:], x[:, 2:] @ w["out.w0"][1].T + w["out.b"][2:])
    x, w, y = of("cell a { out lin(x, rank=2) }")
    np.testing.assert_allclose(y, x @ w["out.v0"].T @ w["out.u0"].T + w["out.b"])
    x, w, y = of(
        "cell a { u = lin(x); out lin(lin:mem(7)(u, share=w, bias=no), share=w, bias=no, transpose=yes) }"
    )
    np.testing.assert_allclose(y, (x @ w["u.w0"].T + w["u.b"]) @ w["w.w0"].T @ w["w.w0"])
    x, w, y = of("cell a { u = lin(x); out lin(lin(u, share=w, bias=no, blocks=2), share=w, bias=no, blocks=2, "
                 "transpose=yes) }")  # fmt: skip
    u = x @ w["u.w0"].T + w["u.b"]
    for part, block in zip((slice(0, 2), slice(2, 4)), w["w.w0"], strict=True):
        np.testing.assert_allclose(y[:, part], u[:, part] @ block.T @ block)


def test_one_head_has_one_block() -> None:
    cell = parse("cell a { out lin(x, blocks=heads) }")
    weights = init_weights(cell, np.random.default_rng(0), input_size=3, hidden_size=5)
    assert weights["out.w0"].shape == (1, 5, 3)
    found = evaluate(cell, np.ones((1, 1, 3)), weights, hidden_size=5)
    np.testing.assert_allclose(found.y[0, 0], weights["out.w0"][0].sum(1) + weights["out.b"])


def test_complex_states() -> None:
    text = "cell a { state z: cvec; z' = cis(param()) * z + lin:cvec(x, bias=no); out re(z') - im(z') }"
    x, w, y = of(text)
    z = np.zeros(4, complex)
    for t in range(5):
        z = np.exp(1j * w["z.w"]) * z + x[t] @ w["z_2.w0"].T
        np.testing.assert_allclose(y[t], z.real - z.imag)


def test_modrelu_at_zero() -> None:
    _, _, y = of("cell a { out re(modrelu(complex(x, x) * 0, 1)) }")
    np.testing.assert_array_equal(y, 0)


def test_a_state_begins_where_the_text_says() -> None:
    _, _, y = of("cell a { state h: scal = -inf; h' = max(h, -3); out h' + 0 * x }")
    np.testing.assert_array_equal(y, -3)
    _, w, y = of("cell a { state h: vec = learned; h' = h; out h }")
    np.testing.assert_array_equal(y, np.tile(w["init.h"], (5, 1)))


def test_repeat_shares_weights_unless_fresh() -> None:
    x, w, y = of("cell a { state h: vec; repeat 3 { h' = tanh(lin(h, x)) }; out h' }", steps=1)
    h = np.zeros(4)
    for _ in range(3):
        h = np.tanh(h @ w["h.w0"].T + x[0] @ w["h.w1"].T + w["h.b"])
    np.testing.assert_allclose(y[0], h)
    x, w, y = of("cell a { state h: vec; repeat 2 fresh { h' = tanh(lin(h, x)) }; out h' }", steps=1)
    h = np.zeros(4)
    for site in ("h_s1", "h_s2"):
        h = np.tanh(h @ w[f"{site}.w0"].T + x[0] @ w[f"{site}.w1"].T + w[f"{site}.b"])
    np.testing.assert_allclose(y[0], h)


def softmax(a: Array) -> Array:
    e = np.exp(a - a.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


@pytest.mark.parametrize("causal", ["yes", "no"])
def test_attention_and_positions(causal: str) -> None:
    x, w, y = of(
        f"cell a {{ state h: seq = x; depth 1 {{ h' = attn(h + posemb(), causal={causal}) }}; out h' }}"
    )
    t = np.arange(5)[:, None]
    h = x + np.concatenate([np.sin(t), np.cos(t), np.sin(t / 100), np.cos(t / 100)], 1)
    parts = []
    for head in (slice(0, 2), slice(2, 4)):
        q, k, v = (h @ w[f"h.{role}"][head].T for role in "qkv")
        scores = q @ k.T / np.sqrt(2)
        if causal == "yes":
            scores = np.where(np.tri(5) > 0, scores, -np.inf)
        parts.append(softmax(scores) @ v)
    np.testing.assert_allclose(y, np.concatenate(parts, 1) @ w["h.o"].T, atol=1e-12)


def test_depth_runs_over_the_sequence_and_memory_along_it() -> None:
    x, _, y = of("cell a { state h: seq = x; depth 3 { h' = h + shift(h) }; out h' }")
    wanted = x
    for _ in range(3):
        wanted = wanted + np.vstack([np.zeros(4), wanted[:-1]])
    np.testing.assert_allclose(y, wanted)


def halting(gates: Array, values: Array) -> Array:
    """A. Graves, arXiv 1603.08983: the values up to the round in which the gates add up to 0.99."""
    total, used = np.zeros(values.shape[1:]), 0.0
    for p, value in zip(gates[:-1], values[:-1], strict=True):
        if used + p >= 0.99:
            return np.asarray(total + (1 - used) * value)
        total, used = total + p * value, used + p
    return np.asarray(total + (1 - used) * values[-1])


@pytest.mark.parametrize("text", [
    "cell a { state h: seq = x; depth 4 until(sigmoid(lin:scal(h))) { h' = tanh(lin(h)) }; out h' }",
    "cell a { state h: vec; depth 4 until(sigmoid(lin:scal(h))) { h' = tanh(lin(h, x)) }; out h' }",
])  # fmt: skip
def test_rounds_until_a_gate_are_weighted_by_it(text: str) -> None:
    x, w, y = of(text, steps=3, seed=4)
    w["until.b"] += 1.0
    cell = parse(text)
    y = evaluate(cell, x[None], w, **SMALL).y[0]  # type: ignore[arg-type]
    old = np.zeros(4)
    for t in range(3):
        h = x[t] if cell.kind == "depth" else old
        gates, values = [], []
        for _ in range(4):
            gates.append(sigmoid(h @ w["until.w0"].T + w["until.b"]))
            operands = [h] if cell.kind == "depth" else [h, x[t]]
            h = np.tanh(sum(a @ w[f"h.w{i}"].T for i, a in enumerate(operands)) + w["h.b"])
            values.append(h.reshape(2, 2))
        heads = [halting(np.array(gates)[:, n], np.array(values)[:, n]) for n in range(2)]
        old = np.concatenate(heads)
        np.testing.assert_allclose(y[t], old, atol=1e-12)


# ---- any cell ---------------------------------------------------------------------------------


def same(found: Array, wanted: Array, tolerance: float = 1e-8) -> None:
    """Equal but for rounding wherever both are finite."""
    finite = np.isfinite(found) & np.isfinite(wanted)
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=tolerance, atol=tolerance)


@given(cells(("time", "tree", "depth")), seeds)
def test_many_weight_sets_at_once_are_each_by_itself(cell: Cell, seed: int) -> None:
    x, weights, sizes = example(cell, np.random.default_rng(seed), sets=(2, 1), lead=(3,))
    whole = evaluate(cell, x, weights, **sizes)
    for i in range(2):
        for j in range(3):
            one = {name: a[i, 0] for name, a in weights.items()}
            part = evaluate(cell, x[j], one, **sizes)
            where = (i, j) if weights else (j,)
            same(whole.y[where], part.y)
            for many, single in zip(whole.state, part.state, strict=True):
                same(many[where], single)


@given(cells(), seeds, st.integers(0, 4))
def test_going_on_from_a_state_is_one_run(cell: Cell, seed: int, cut: int) -> None:
    x, weights, sizes = example(cell, np.random.default_rng(seed), steps=4)
    whole = evaluate(cell, x, weights, **sizes)
    first = evaluate(cell, x[:, :cut], weights, **sizes)
    second = evaluate(cell, x[:, cut:], weights, state=first.state, **sizes)
    same(np.concatenate([first.y, second.y], axis=1), whole.y)
    for found, wanted in zip(second.state, whole.state, strict=True):
        assert found.shape == wanted.shape
        same(found, wanted)


@given(cells(("time", "tree", "depth"), smooth=True), seeds)
def test_equal_digest_means_equal_outputs(cell: Cell, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights, sizes = example(cell, rng)
    wanted = evaluate(cell, x, weights, **sizes).y
    other = scramble(cell, rng)
    assert other.digest == cell.digest
    arrays = canonical_arrays(cell, weights)
    for equal in (cell.canonical(), other, cell):
        same(evaluate(equal, x, arrays, **sizes).y, wanted, 1e-6)


@given(cells(("time", "tree", "depth"), smooth=True), seeds)
def test_single_precision_stays_single(cell: Cell, seed: int) -> None:
    x, weights, sizes = example(cell, np.random.default_rng(seed))
    found = evaluate(cell, x.astype(np.float32), weights, **sizes)
    assert found.y.dtype == np.float32
    assert all(s.dtype in (np.float32, np.complex64) for s in found.state)
    assert evaluate(cell, x.astype(np.int64), weights, **sizes).y.dtype == np.float64


@pytest.mark.parametrize("name", zoo_names())
def test_single_and_double_precision_agree_on_the_zoo(name: str) -> None:
    cell = zoo(name)
    x, weights, sizes = example(cell, np.random.default_rng(3))
    single = evaluate(cell, x.astype(np.float32), weights, **sizes).y
    double = evaluate(cell, x.astype(np.float32).astype(np.float64), weights, **sizes).y
    np.testing.assert_allclose(single, double, rtol=2e-3, atol=2e-3)


def test_no_steps_leave_the_state_as_it_is() -> None:
    cell = parse("cell a { state h: vec = 2; h' = lin(x, h) + conv(x, k=3) + shift(h); out h }")
    weights = init_weights(cell, np.random.default_rng(0), input_size=4, hidden_size=4)
    found = evaluate(cell, np.zeros((3, 0, 4)), weights, hidden_size=4)
    assert found.y.shape == (3, 0, 4)
    assert [s.shape for s in found.state] == [(3, 4), (3, 2, 4), (3, 4)]
    np.testing.assert_array_equal(found.state[0], 2)


def test_buffers_follow_the_states_in_node_order() -> None:
    cell = parse(
        "cell a { state h: vec; dead = shift(x); h' = conv(h, k=2) + conv(x, k=1) + lin(shift(lin:key(x))); out h }"
    )
    assert [cell.graph.nodes[i].op for i in buffer_nodes(cell.graph)] == ["conv", "shift"]
    x, weights, sizes = example(cell, np.random.default_rng(0))
    assert [s.shape for s in evaluate(cell, x, weights, **sizes).state] == [(2, 8), (2, 1, 8), (2, 2, 3)]


def test_a_state_brings_its_own_axes() -> None:
    cell = parse("cell a { state h: vec; h' = h + x; out h' }")
    found = evaluate(cell, np.zeros((2, 3, 4)), {}, hidden_size=4, state=[np.ones((5, 2, 4))])
    assert found.y.shape == (5, 2, 3, 4)


# ---- what is refused --------------------------------------------------------------------------

ELMAN = parse("cell a { state h: vec; h' = tanh(lin(x, h)); out h' }")
WEIGHTS = init_weights(ELMAN, np.random.default_rng(0), input_size=3, hidden_size=4)
X = np.zeros((2, 5, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((5, 3))}, r"x has shape \[\.\., B, T, D\]; received \(5, 3\)"),
        ({"x": np.zeros((2, 5, 4))}, r"h\.w0 has the shape \[\.\., 4, 4\]; received \(4, 3\)"),
        ({"hidden_size": 5}, r"h\.w0 has the shape \[\.\., 5, 3\]; received \(4, 3\)"),
        ({"hidden_size": 0}, "hidden_size is at least 1; received 0"),
        ({"heads": 3}, "heads divides hidden_size; received heads=3 and hidden_size=4"),
        ({"weights": {**WEIGHTS, "h.w2": X}}, r"the cell has no array 'h\.w2'; did you mean 'h\.w"),
        ({"weights": {"h.b": WEIGHTS["h.b"]}}, r"an array for each name; missing h\.w0, h\.w1"),
        ({"weights": {"w0": WEIGHTS["h.w0"]}}, "an array for each name; missing w1, w2"),
        ({"state": ()}, "this cell has 1 states and 0 buffers; received 0 arrays"),
        ({"state": [np.zeros((2, 5))]}, r"an array of this state is \[\.\., B, 4\]; received \(2, 5\)"),
        ({"tree": np.zeros((2, 4, 2), int)}, "a tree, and only for a tree cell; a is a time cell"),
        (
            {"weights": {**WEIGHTS, "h.b": np.zeros((2, 4)), "h.w0": np.zeros((3, 4, 3))}},
            "leading axes of weights",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"x": X, "weights": WEIGHTS, "hidden_size": 4, **change}
    x, weights = given.pop("x"), given.pop("weights")
    with pytest.raises(CellBuildError, match=message):
        evaluate(ELMAN, x, weights, **given)


def test_x_where_a_vec_stands_needs_its_width() -> None:
    cell = parse("cell a { state h: vec; h' = h + x; out h' }")
    with pytest.raises(CellBuildError, match="received input_size=3 and hidden_size=4"):
        evaluate(cell, X, {}, hidden_size=4)


def test_blocks_divide_the_widths() -> None:
    cell = parse("cell a { out lin(x, blocks=2) }")
    with pytest.raises(
        CellBuildError, match=r"the weight out\.w0 \[2, 1/2 H, 1/2 D\] does not fit: a size must be whole"
    ):
        init_weights(cell, np.random.default_rng(0), input_size=3, hidden_size=4)


def test_a_depth_cell_has_no_state_to_go_on_from() -> None:
    x, weights, sizes = example(zoo("ut"), np.random.default_rng(0))
    with pytest.raises(CellBuildError, match="a state is for time cells; ut is a depth cell"):
        evaluate(zoo("ut"), x, weights, state=[x], **sizes)
