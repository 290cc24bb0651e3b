"""Classes of recurrences and costs: what they are on known cells, and that no number refutes them on random ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import HEADS, HIDDEN, cells, key_size

from grammar import (
    CMAT,
    KEY,
    MAT,
    SCAL,
    VEC,
    Cell,
    CellBuildError,
    Dependence,
    GrammarError,
    analyse,
    check,
    parse,
    zoo,
    zoo_names,
)

# "states: class" of each component in order, with the gemm depth behind.
KNOWN = {
    "elman": "h: dense nonlinear |1",
    "lstm": "h, c: dense nonlinear |1",
    "gru": "h: dense nonlinear |1",
    "gru_cho": "h: dense nonlinear |2",
    "mgu": "h: dense nonlinear |2",
    "indrnn": "h: elementwise nonlinear |0",
    "mingru": "h: elementwise affine |0",
    "minlstm": "h: elementwise affine |0",
    "rglru": "h: elementwise affine |0",
    "hgrn": "h: elementwise affine |0",
    "scrn": "s: elementwise affine, h: dense nonlinear |1",
    "linear_attention": "S: matrix-affine, diagonal, n: elementwise affine |0",
    "retnet": "S: matrix-affine, diagonal |0",
    "gla": "S: matrix-affine, diagonal |0",
    "deltanet": "S: matrix-affine, diagonal plus low rank (rank 1) |0",
    "gated_deltanet": "S: matrix-affine, diagonal plus low rank (rank 1) |0",
    "deltaproduct": "S: matrix-affine, diagonal plus low rank (rank 2) |0",
    "treelstm": "h, c: dense nonlinear |1",
    "treelstm_childsum": "h, c: dense nonlinear |1",
    "ut": "|24",
    "sru": "c: elementwise nonlinear |0",
    "qrnn": "c: elementwise affine |0",
    "lru": "h: elementwise affine |0",
    "hgrn2": "S: matrix-affine, diagonal |0",
    "mamba": "S: matrix-affine, diagonal |0",
    "mamba2": "S: matrix-affine, diagonal |0",
    "rwkv6": "S: matrix-affine, diagonal |0",
    "rwkv7": "S: matrix-affine, diagonal plus low rank (rank 1) |0",
    "titans": "M, P: matrix-affine, diagonal plus low rank (rank 1) |0",
    "rwkv4": "m: elementwise max-plus, a: elementwise affine, b: elementwise affine |0",
    "mlstm": "m: elementwise max-plus, C: matrix-affine, diagonal, n: elementwise affine |0",
    "slstm": "h, c, n, m: block nonlinear |1",
}


def classes(cell: Cell) -> str:
    analysis = analyse(cell)
    shown = ", ".join(f"{', '.join(c.states)}: {c.kind}" for c in analysis.components)
    return f"{shown} |{analysis.gemm_depth}".strip()


@pytest.mark.parametrize("name", [n for n in KNOWN if n in zoo_names()])
def test_known_cells(name: str) -> None:
    assert classes(zoo(name)) == KNOWN[name]


@pytest.mark.parametrize(
    ("equations", "expected"),
    [
        ("h' = lin(x)", "h: no recurrence |0"),
        ("h' = h", "h: elementwise affine |0"),
        ("h' = max(h, lin(x))", "h: elementwise max-plus |0"),
        ("h' = max(h + lin(x), lin(x) - 1)", "h: elementwise max-plus |0"),
        ("h' = max(lin(x) - h, 1)", "h: elementwise nonlinear |0"),
        ("h' = max(h + h, 1)", "h: elementwise nonlinear |0"),
        ("h' = max(h * lin(x), 1)", "h: elementwise nonlinear |0"),
        ("h' = min(h, 1)", "h: elementwise nonlinear |0"),
        ("h' = h * h", "h: elementwise nonlinear |0"),
        ("h' = h / lin(x)", "h: elementwise affine |0"),
        ("h' = lin(x) / h", "h: elementwise nonlinear |0"),
        ("h' = lerp(sigmoid(lin(x)), h, lin(x))", "h: elementwise affine |0"),
        ("h' = lerp(h, lin(x), 1)", "h: elementwise affine |0"),
        ("h' = lerp(h, lin(x), h)", "h: elementwise nonlinear |0"),
        ("h' = diag(stopgrad(-h))", "h: elementwise affine |0"),
        ("h' = lin(h)", "h: dense affine |1"),
        ("h' = lin(h, blocks=heads)", "h: block affine |1"),
        ("h' = lin(h, blocks=4)", "h: block affine |1"),
        ("h' = lin(lin(h, blocks=4), blocks=6)", "h: block affine |2"),
        ("h' = lin(lin(h, blocks=4), blocks=9)", "h: dense affine |2"),
        ("h' = lin(lin(h, blocks=4), blocks=heads)", "h: dense affine |2"),
        ("h' = lin(h, rank=2)", "h: dense affine |2"),
        ("h' = h * hsum(x * h)", "h: block nonlinear |0"),
        ("h' = lin(x) * hsum(h)", "h: block affine |0"),
        ("h' = lnorm(h) + lin(x)", "h: block nonlinear |0"),
        ("h' = tanh(lin(tanh(lin(h))))", "h: dense nonlinear |2"),
        ("h' = mlp(h)", "h: dense nonlinear |2"),
        ("h' = h + lin(shift(h)) * 0.5", "h, shift(h): dense affine |1"),
        ("h' = 0.5 * shift(h) + lin(x)", "h, shift(h): elementwise affine |0"),
        ("h' = 0.5 * conv(h, k=3) + lin(x)", "h, conv(h): elementwise affine |0"),
        ("h' = 0.5 * conv(h, k=1) + lin(x)", "h: elementwise affine |0"),
        ("h' = shift(lin(x)) + conv(x)", "h: no recurrence |0"),
        ("h' = 0.5 * h + shift(tanh(x))", "h: elementwise affine |0"),
        ("depth 3 until(sigmoid(lin:scal(h))) { h' = tanh(lin(h)) }", "h: dense nonlinear |3"),
        ("depth 3 until(sigmoid(lin:scal(x))) { h' = 0.5 * h }", "h: dense nonlinear |0"),
        ("repeat 3 { h' = 0.5 * h + lin(x) }", "h: elementwise affine |0"),
        ("repeat 3 { h' = tanh(lin(h)) }", "h: dense nonlinear |3"),
    ],
)
def test_one_vector(equations: str, expected: str) -> None:
    cell = parse(f"cell a {{ state h: vec; {equations}; out h }}")
    assert classes(cell) == expected
    hidden = 36 if "blocks" in equations else 8
    assert check(cell, np.random.default_rng(0), hidden_size=hidden) == ()


K, V = "lin:key(x)", "lin(x)"


@pytest.mark.parametrize(
    ("equation", "structure", "rank", "side", "decay"),
    [
        ("S + outer(k, v)", "diagonal", 0, "", ""),
        ("0.5 * S", "diagonal", 0, "", ""),
        ("lin:scal(x) * S", "diagonal", 0, "", ""),
        ("k * S", "diagonal", 0, "", "row"),
        ("v * S", "diagonal", 0, "", "column"),
        ("S * outer(k, v)", "diagonal", 0, "", "row column"),
        ("lerp(k, S, outer(k, v))", "diagonal", 0, "", "row"),
        ("diag(S)", "diagonal", 0, "", "row column"),
        ("S / (1 + square(k))", "diagonal", 0, "", "row"),
        ("S + outer(k, v - read(S, k))", "diagonal-plus-low-rank", 1, "key", ""),
        ("S + outer(k, v - read(k * S, k))", "diagonal-plus-low-rank", 1, "key", "row"),
        ("S + outer(k, v * read(S, k))", "diagonal-plus-low-rank", 1, "key", "column"),
        ("S + outer(k, read(S, k)) - outer(2 * k, read(S, 1 - k))", "diagonal-plus-low-rank", 2, "key", ""),
        ("S + read(S, k)", "diagonal-plus-low-rank", 1, "key", ""),
        ("S + outer(readt(S, v), v)", "diagonal-plus-low-rank", 1, "value", ""),
        ("S + readt(S, v)", "diagonal-plus-low-rank", 1, "value", ""),
        ("lerp(outer(k, v), read(S, k), read(S, 1 - k))", "diagonal-plus-low-rank", 2, "key", "row column"),
        ("S + outer(readt(S, v), v) + outer(k, read(S, k))", "", 0, "", ""),
        ("S * dot(read(S, k), v)", "", 0, "", ""),
        ("outer(k, v) * dot(read(S, k), v)", "", 0, "", ""),
        ("S + outer(k, lin(read(S, k)))", "", 0, "", ""),
        ("S + outer(k, tanh(read(S, k)))", "", 0, "", ""),
        ("tanh(S)", "", 0, "", ""),
        ("lin:mat(S)", "", 0, "", ""),
    ],
)
def test_one_matrix(equation: str, structure: str, rank: int, side: str, decay: str) -> None:
    cell = parse(f"cell a {{ state S: mat; k = {K}; v = {V}; S' = {equation}; out read(S, k) }}")
    component = analyse(cell).component("S")
    assert (component.structure, component.rank, component.side) == (structure, rank, side)
    assert component.decay == tuple(decay.split())
    assert check(cell, np.random.default_rng(0)) == ()


def test_states_in_a_row_and_in_a_circle() -> None:
    text = """cell a {
      state a: vec, b: vec, c: vec, d: vec
      a' = tanh(lin(b', a))
      b' = 0.5 * b + lin(x)
      c' = 0.5 * d + a'
      d' = 0.5 * c + d
      out lin(c', d')
    }"""
    assert classes(parse(text)) == "b: elementwise affine, a: dense nonlinear, c, d: elementwise affine |1"
    analysis = analyse(parse(text))
    assert str(analysis.component("d")) == "c, d: elementwise affine -> parallel scan of 2 x 2 systems"
    assert {pair: str(d) for pair, d in analysis.dependence.items()} == {
        ("a", "a"): "dense nonlinear",
        ("a", "b"): "dense nonlinear",
        ("b", "b"): "elementwise affine",
        ("c", "a"): "dense nonlinear",
        ("c", "b"): "dense nonlinear",
        ("c", "d"): "elementwise affine",
        ("d", "c"): "elementwise affine",
        ("d", "d"): "elementwise affine",
    }
    assert not analysis.parallel
    with pytest.raises(KeyError, match="a has no component with 'e'"):
        analysis.component("e")


def test_a_matrix_and_a_vector_in_one_circle_are_no_matrix_recurrence() -> None:
    cell = parse(f"cell a {{ state S: mat, h: vec; S' = S + outer({K}, h); h' = read(S, {K}); out h }}")
    assert classes(cell) == "S, h: block affine |0"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mingru", "h: elementwise affine -> parallel scan"),
        ("indrnn", "h: elementwise nonlinear -> fused sequential, backward by parallel scan"),
        ("gru_cho", "h: dense nonlinear -> sequential, 2 matrix products deep"),
        ("lstm", "h, c: dense nonlinear -> sequential, 1 matrix product deep"),
        ("gla", "S: matrix-affine, diagonal -> chunkwise scan"),
        ("deltanet", "S: matrix-affine, diagonal plus low rank (rank 1) -> chunkwise delta rule"),
        ("ut", "recursion in depth, 24 matrix products deep"),
    ],
)
def test_what_show_prints(name: str, line: str) -> None:
    assert str(analyse(zoo(name))).splitlines()[0] == line


def test_the_whole_text() -> None:
    assert str(analyse(zoo("lstm"))).splitlines()[1:] == [
        "parameters: 4 D H + 4 H^2 + 4 H",
        "flops per step: 8 D H + 8 H^2 + 28 H",
        "state bytes: 8 H",
    ]
    esn = parse("cell a { state h: vec; h' = tanh(lin(x, h, fixed=yes)); out lin(h') }")
    assert "fixed parameters: D H + H^2 + H" in str(analyse(esn))


# ---- costs ------------------------------------------------------------------------------------


def flops(text: str) -> str:
    return str(analyse(parse(text)).flops)


def test_flops() -> None:
    assert flops("cell a { out lin(x) }") == "2 D H + H"
    assert flops("cell a { out lin(x, bias=no) }") == "2 D H"
    assert flops("cell a { out lin(x, blocks=4) }") == "1/2 D H + H"
    assert flops("cell a { out lin(x, rank=8) }") == "16 D + 17 H"
    assert flops("cell a { out conv(x, k=3, bias=no) }") == "6 D"
    assert flops("cell a { out lin(x) + exp(param()) }") == "2 D H + 2 H", "constants are computed once"
    assert flops("cell a { dead = lin(x); out x }") == "0"
    assert flops("cell a { state h: vec; repeat 3 { h' = lin(h) }; out h }") == "6 H^2 + 3 H"
    assert (
        flops("cell a { state h: vec; depth 5 until(param:scal()) { h' = lin(h) }; out h' }")
        == "10 H^2 + 5 H"
    )
    assert flops("cell a(*k) { state h: vec; leaf { h' = x }; h' = sum(lin(k.h)); out h' }") == "4 H^2 + 3 H"


def test_state_bytes() -> None:
    text = "cell a { state h: vec, z: cvec, S: mat; h' = shift(h) + conv(h, k=4); z' = z; S' = S; out conv(x, k=1) }"
    assert str(analyse(parse(text)).state_bytes) == "4 H K + 28 H"
    assert str(analyse(parse("cell a { state m: mem(7); m' = m; out x }")).state_bytes) == "28"


def test_dead_code_costs_parameters_alone() -> None:
    cell = parse("cell a { state h: vec; dead = lin(x); h' = tanh(lin(x, h)); out h' }")
    whole, live = analyse(cell), analyse(cell.canonical())
    assert whole.flops == live.flops
    assert str(whole.parameters) == "2 D H + H^2 + 2 H"
    assert str(live.parameters) == "D H + H^2 + H"


def test_polynomials_at_sizes() -> None:
    analysis = analyse(zoo("gla"))
    sizes: dict[str, Any] = {"input_size": 10, "hidden_size": 64, "heads": 4}
    assert analysis.state_bytes.at(**sizes) == 4 * 64 * 16
    assert analysis.state_bytes.at(**sizes, key_size=8) == 4 * 64 * 8
    assert analysis.parameters.at(**sizes) == 3 * 10 * 64 + 10 * 64 + 64


# ---- never stronger than the truth ------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in zoo_names() if zoo(n).kind == "time"])
def test_no_number_refutes_the_zoo(name: str) -> None:
    assert check(zoo(name), np.random.default_rng(0)) == ()


@settings(max_examples=40)
@given(cells(smooth=True), st.integers(0, 2**32 - 1))
def test_no_number_refutes_random_cells(cell: Cell, seed: int) -> None:
    assert check(cell, np.random.default_rng(seed), points=1) == ()


@settings(max_examples=40)
@given(cells(smooth=True, linear=True, states=(MAT, MAT, CMAT, KEY, VEC, SCAL)), st.integers(0, 2**32 - 1))
def test_no_number_refutes_random_cells_of_matrices(cell: Cell, seed: int) -> None:
    assert check(cell, np.random.default_rng(seed), points=1) == ()


_VALUES = ("v", "read(S, k)", "read(T, q)", "v * read(T, k)", "v - read(S, k)", "lin:scal(x) * read(S, q)")
_KEYS = ("k", "q", "lin:scal(x) * k", "readt(S, v)", "k * readt(T, v)")
_FACTORS = ("1", "k", "v", "lin:scal(x)", "0.5")


@st.composite
def matrix_updates(draw: st.DrawFn) -> Cell:
    """Sums of decayed states and outer products that may read the states: mostly affine, of any structure."""

    def update() -> str:
        terms = [f"{draw(st.sampled_from(_FACTORS))} * {draw(st.sampled_from(('S', 'T')))}"]
        for _ in range(draw(st.integers(0, 2))):
            terms.append(f"outer({draw(st.sampled_from(_KEYS))}, {draw(st.sampled_from(_VALUES))})")
        return " + ".join(terms)

    return parse(
        f"cell a {{ state S: mat, T: mat; k = {K}; q = {K}; v = {V}; S' = {update()}; T' = {update()}; out v }}"
    )


@settings(max_examples=60)
@given(matrix_updates())
def test_no_number_refutes_random_matrix_recurrences(cell: Cell) -> None:
    assert check(cell, np.random.default_rng(0), points=1) == ()


@given(cells(("time", "tree", "depth")))
def test_every_cell_has_an_analysis(cell: Cell) -> None:
    analysis = analyse(cell)
    assert str(analysis)
    sizes = {"input_size": HIDDEN, "hidden_size": HIDDEN, "heads": HEADS, "key_size": key_size(cell)}
    assert analysis.flops.at(**sizes) >= 0
    assert analysis.state_bytes.at(**sizes) >= 4
    if cell.kind == "depth":
        assert analysis.components == ()
    else:
        assert {s.name for s in cell.states} <= {s for c in analysis.components for s in c.states}
        assert len(analysis.components) <= len(cell.states)


@pytest.mark.parametrize(
    ("truth", "claim", "refuted"),
    [
        ("h' = tanh(lin(h))", "h' = tanh(h)", "entries mix"),
        ("h' = tanh(h)", "h' = 0.5 * h", "it is not affine"),
        ("h' = tanh(h)", "h' = lin(x)", "it depends"),
        ("h' = 0.5 * h", "h' = max(h, 1)", "it is not max-plus affine"),
        ("h' = lin(h)", "h' = lin(h, blocks=heads)", "entries mix"),
        ("h' = lin(h, blocks=2)", "h' = lin(h, blocks=4)", "entries mix"),
    ],
)
def test_a_claim_that_is_too_strong_is_refuted(truth: str, claim: str, refuted: str) -> None:
    one, other = (parse(f"cell a {{ state h: vec; {e}; out h }}") for e in (truth, claim))
    assert check(other, np.random.default_rng(0)) == ()
    found = check(one, np.random.default_rng(0), claims=analyse(other))
    assert any(refuted in line for line in found), found


@pytest.mark.parametrize(
    ("truth", "claim", "refuted"),
    [
        ("S + outer(k, v - read(S, k))", "k * S", "entries mix"),
        ("S + outer(readt(S, v), v)", "S + outer(k, v - read(S, k))", "entries mix"),
        (
            "S + outer(k, read(S, k)) + outer(1 - k, read(S, k * k))",
            "S + outer(k, read(S, k))",
            "rank is higher",
        ),
        ("k * S", "S", "the decay varies by row"),
        ("v * S", "k * S", "the decay varies by column"),
        ("v * S + outer(k, read(S, k))", "S + outer(k, read(S, k))", "the decay varies by column"),
    ],
)
def test_a_structure_that_is_too_strong_is_refuted(truth: str, claim: str, refuted: str) -> None:
    head = f"cell a {{ state S: mat; k = {K}; v = {V}; S' = "
    one, other = (parse(f"{head}{equation}; out read(S, k) }}") for equation in (truth, claim))
    assert check(other, np.random.default_rng(0)) == ()
    found = check(one, np.random.default_rng(0), claims=analyse(other))
    assert any(refuted in line for line in found), found


def test_a_claim_on_a_pair_of_states_is_refuted() -> None:
    cell = parse("cell a { state h: vec, c: vec; h' = tanh(c); c' = c; out h }")
    claims = analyse(cell)
    weak = replace(claims, dependence={("h", "c"): Dependence("elementwise", "affine")})
    found = check(cell, np.random.default_rng(0), claims=weak)
    assert "h' of c: elementwise affine: it is not affine" in found
    assert "c' of c: none: it depends" in found


def test_only_steps_are_checked() -> None:
    with pytest.raises(CellBuildError, match="steps are checked of time cells; treelstm is a tree cell"):
        check(zoo("treelstm"), np.random.default_rng(0))
    with pytest.raises(GrammarError, match="does not fit"):
        check(parse("cell a { out lin(x, blocks=5) }"), np.random.default_rng(0))
