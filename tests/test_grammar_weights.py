"""Names, shapes and first values of a cell's arrays, and their canonical names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import HEADS, HIDDEN, cells, input_size, key_size

from grammar import (
    Cell,
    CellBuildError,
    Draws,
    Sizes,
    analyse,
    canonical_arrays,
    canonical_weights,
    init_weights,
    parse,
    weight_shapes,
    written_arrays,
    zoo,
)
from grammar.starts import legendre_delay


def drawn(text: str, seed: int = 0, sets: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    return init_weights(
        parse(text),
        np.random.default_rng(seed),
        input_size=60,
        hidden_size=40,
        heads=4,
        key_size=5,
        sets=sets,
    )


def drawn_square(expr: str, sets: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return init_weights(parse(f"cell a {{ out {expr} }}"), rng, input_size=40, hidden_size=40, sets=sets)


def test_names_and_shapes() -> None:
    assert weight_shapes(zoo("lstm"), input_size=3, hidden_size=4) == {
        f"{site}.{role}": shape
        for site in "ifgo"
        for role, shape in (("w0", (4, 3)), ("w1", (4, 4)), ("b", (4,)))
    }
    text = "cell a { state h: mat = learned; init = lin(x); h' = h * param:key(); out init + read(h, lin:key(x)) }"
    shapes = weight_shapes(parse(text), input_size=3, hidden_size=4, heads=2, key_size=5)
    assert shapes == {
        "init.w0": (4, 3),
        "init.b": (4,),
        "h.w": (2, 5),
        "out.w0": (10, 3),
        "out.b": (10,),
        "init_.h": (2, 5, 2),
    }


@given(cells(("time", "tree", "depth")), st.sampled_from(((), (3,), (2, 1))))
def test_drawn_arrays_have_the_shapes_and_count_as_the_analysis_says(
    cell: Cell, sets: tuple[int, ...]
) -> None:
    sizes = {
        "input_size": input_size(cell),
        "hidden_size": HIDDEN,
        "heads": HEADS,
        "key_size": key_size(cell),
    }
    shapes = weight_shapes(cell, **sizes)
    rng = np.random.default_rng(0)
    arrays = init_weights(
        cell,
        rng,
        input_size=input_size(cell),
        hidden_size=HIDDEN,
        heads=HEADS,
        key_size=key_size(cell),
        sets=sets,
    )
    assert {name: a.shape for name, a in arrays.items()} == {name: (*sets, *s) for name, s in shapes.items()}
    count = sum(math.prod(shapes[n]) * (2 if np.iscomplexobj(a) else 1) for n, a in arrays.items())
    analysis = analyse(cell)
    assert count == analysis.parameters.at(**sizes) + analysis.fixed_parameters.at(**sizes)


def test_default_ranges() -> None:
    arrays = drawn("cell a { state h: vec = learned; h' = lin(x, h) + diag(h) + param() + conv(h); out h }")
    assert 0.09 < np.abs(arrays["h.w0"]).max() <= 0.1  # 1 / sqrt(60 + 40)
    assert 0.09 < np.abs(arrays["h.b"]).max() <= 0.1
    assert 0.4 < np.abs(arrays["h_4.w"]).max() <= 0.5  # 1 / sqrt(4 taps)
    assert 0.8 < np.abs(arrays["h_2.w"]).max() <= 1
    assert not arrays["h_3.w"].any()
    assert not arrays["init.h"].any()


@pytest.mark.parametrize(
    ("init", "low", "high"),
    [
        ("2", 2, 2),
        ("-0.5", -0.5, -0.5),
        ("zeros", 0, 0),
        ("ones", 1, 1),
        ("uniform(2, 3)", 2, 3),
        ("log_uniform(0.01, 100)", 0.01, 100),
    ],
)
def test_first_values_as_the_text_says(init: str, low: float, high: float) -> None:
    arrays = drawn(f"cell a {{ out lin(x, init={init}) }}")
    w = arrays["out.w0"]
    assert low <= w.min() <= w.max() <= high
    assert w.max() - w.min() >= 0.95 * (high - low) * (0.9 if "log" not in init else 0.5)
    assert not arrays["out.b"].any()


def test_normal_and_orthogonal() -> None:
    w = drawn("cell a { out lin(x, init=normal(0.3)) }")["out.w0"]
    assert abs(w.std() - 0.3) < 0.03
    for text in ("lin(x, init=orthogonal(2))", "lin(x, blocks=heads, init=orthogonal(2))"):
        w = drawn(f"cell a {{ out {text} }}", sets=(3,))["out.w0"]
        gram = w @ np.swapaxes(w, -1, -2)
        np.testing.assert_allclose(gram, np.broadcast_to(4 * np.eye(w.shape[-2]), gram.shape), atol=1e-12)
    w = drawn("cell a { out re(lin:cvec(x, init=orthogonal(1))) }")["out.w0"]
    np.testing.assert_allclose(w @ w.conj().T, np.eye(40), atol=1e-12)


def test_known_matrices() -> None:
    maps = "lin:cvec(x, bias=no, init=fourier(1)) + lin:cvec(x, bias=no, init=fourier(-1))"
    first, second = (drawn_square(f"re({maps})", sets=(2,))[f"{site}.w0"] for site in ("out", "out_2"))
    signal = np.random.default_rng(1).standard_normal(40)
    wanted = np.broadcast_to(np.fft.fft(signal, norm="ortho"), (2, 40))
    np.testing.assert_allclose(first @ signal, wanted, atol=1e-12)
    np.testing.assert_allclose(first @ second, np.broadcast_to(np.eye(40), (2, 40, 40)), atol=1e-12)
    places = drawn_square("lin(x, init=permutation)", sets=(3,))["out.w0"]
    assert set(np.unique(places)) == {0, 1}
    assert (places.sum(-1) == 1).all()
    assert (places.sum(-2) == 1).all()
    assert (places[0] != places[1]).any()


@pytest.mark.parametrize(("order", "theta"), [(1, 3.0), (2, 0.5), (6, 4.0), (64, 128.0), (64, 2.0)])
def test_the_legendre_delay_is_held_over_a_step(order: int, theta: float) -> None:
    """Against Euler's method in many small steps, for a unit impulse and for a state of ones."""
    A, B = legendre_delay(order, theta)
    i = np.arange(order)
    rates = (2 * i[:, None] + 1) / theta
    a = rates * np.where(i[:, None] < i, -1.0, (-1.0) ** (i[:, None] - i + 1))
    b = rates[:, 0] * (-1.0) ** i
    count = 2**17  # squared, not stepped
    whole = np.eye(order + 1)
    whole[:order] += np.hstack([a, b[:, None]]) / count
    whole = np.linalg.matrix_power(whole, count)
    np.testing.assert_allclose(
        whole[:order, :order] @ np.ones(order), A @ np.ones(order), rtol=2e-2, atol=2e-2
    )
    np.testing.assert_allclose(whole[:order, order], B[:, 0], rtol=2e-2, atol=2e-2)
    assert np.abs(np.linalg.eigvals(A)).max() < 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cell a { out x * param(init=orthogonal(1)) }",
            r"orthogonal\(...\) is for matrices; out.w has shape \(60,\)",
        ),
        (
            "cell a { out lin(x, init=fourier(1)) }",
            r"for complex maps; received fourier\(1\) for out.w0, which is real",
        ),
        (
            "cell a { out lin(lin:mem(2)(x), init=legt_a(5)) }",
            r"legt_a\(...\) is for a matrix \[n, n\]; out_2.w0 has shape \(60, 2\)",
        ),
        (
            "cell a { out lin(lin:mem(2)(x), init=permutation) }",
            r"permutation is for a matrix \[n, n\]; out_2.w0 has shape \(60, 2\)",
        ),
    ],
)
def test_impossible_first_values(text: str, message: str) -> None:
    with pytest.raises(CellBuildError, match=message):
        init_weights(parse(text), np.random.default_rng(0), input_size=60, hidden_size=60)


def test_draws_depend_on_the_generator_alone() -> None:
    text = "cell a { state h: vec; h' = tanh(lin(x, h)); out lin(h') }"
    one, other = drawn(text, 1), drawn(text, 1)
    assert all((one[name] == other[name]).all() for name in one)
    assert any((one[name] != a).any() for name, a in drawn(text, 2).items())
    sets = drawn(text, 1, sets=(3,))["h.w0"]
    assert (sets[0] != sets[1]).any()


def test_the_precision_is_as_asked() -> None:
    cell = parse("cell a { out re(lin:cvec(x)) + lin(x) }")
    for real, both in ((np.float32, np.complex64), (np.float64, np.complex128)):
        arrays = init_weights(cell, np.random.default_rng(0), input_size=2, hidden_size=2, dtype=real)
        assert {a.dtype for a in arrays.values()} == {np.dtype(real), np.dtype(both)}


# ---- canonical names --------------------------------------------------------------------------

SMALL = Sizes.of(3, 4)


def test_canonical_arrays_follow_the_canonical_text() -> None:
    cell = parse(
        "cell a { state h: vec = learned, d: vec = learned; u = lin(h); d' = u; h' = tanh(lin(h, x)); out h' }"
    )
    arrays = init_weights(cell, np.random.default_rng(0), input_size=3, hidden_size=4)
    arrays["init.h"][:] = 7
    named = canonical_arrays(cell, arrays)
    assert sorted(named) == ["s0", "w0", "w1", "w2"]  # the dead state and its map are left out
    assert (named["s0"] == 7).all()
    canonical = cell.canonical()
    written = written_arrays(canonical.graph, named, SMALL)
    for one in canonical_weights(canonical.graph):
        place = f"{canonical.graph.weights[one.weight].site}.{one.role}"
        assert written[place] is named[one.name]
    same = written_arrays(cell.graph, named, SMALL)
    assert all((same[n] == arrays[n]).all() for n in arrays if n not in ("u.w0", "u.b", "init.d"))
    assert same["u.w0"].shape == (4, 4)


def test_complex_arrays_may_be_given_as_pairs_of_real_ones() -> None:
    cell = parse("cell a { out re(lin:cvec(x, bias=no)) }")
    w = np.arange(24.0).reshape(4, 3, 2)
    np.testing.assert_array_equal(
        written_arrays(cell.graph, {"out.w0": w}, SMALL)["out.w0"], w[..., 0] + 1j * w[..., 1]
    )
    with pytest.raises(
        CellBuildError, match=r"out.w0 is complex, or real with a last axis of 2; received \(4, 3\)"
    ):
        written_arrays(cell.graph, {"out.w0": w[..., 0]}, SMALL)


@pytest.mark.parametrize("most", [500, 3])
def test_draws_that_are_remembered_are_as_fresh_ones(most: int) -> None:
    draws = Draws(3, sets=(2, 3), dtype=np.float32, most=most)
    sizes = {"input_size": 4, "hidden_size": 4, "heads": 2}
    told = "cell c { state h: vec, k: vec = learned; k' = k; h' = h + diag(h, init=normal(2)) + lin(k, x); out h' }"
    cells = [zoo(name) for name in ("gru", "lstm", "mlstm", "gru", "s4d")] + [parse(told), zoo("lstm")]
    for cell in cells:
        fresh = init_weights(
            cell,
            np.random.default_rng(3),
            sets=(2, 3),
            dtype=np.float32,
            input_size=4,
            hidden_size=4,
            heads=2,
        )
        found = draws(cell, **sizes)
        assert list(found) == list(fresh)
        for name, array in fresh.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
            assert not found[name].flags.writeable
