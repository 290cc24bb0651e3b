"""Lints: each fires where it should, says what to write instead, and known cells are almost free of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scramble import scramble
from strategies import cells

from grammar import LINTS, Cell, Lint, lint, parse, zoo, zoo_names


def _cell(body: str, states: str = "h: vec", out: str = "h'") -> Cell:
    return parse(f"cell a {{ state {states}; {body}; out {out} }}")


def _names(cell: Cell) -> list[str]:
    return [found.name for found in lint(cell)]


# Why a known cell has a lint: name of the cell -> names of its lints.
EXCEPTIONS = {
    # The p-norm is written with exp(1.2 * log(|a|)), a power that grows more slowly than a square.
    "lrnn_block": ["unbounded-exp"],
    # The published rule divides by the norms of the slots without an epsilon; slots start from random values.
    "lattice": ["zero-division"] * 3,
}


@pytest.mark.parametrize("name", zoo_names())
def test_known_cells_have_no_lints(name: str) -> None:
    assert _names(zoo(name)) == EXCEPTIONS.get(name, []), "\n".join(map(str, lint(zoo(name))))


def test_exceptions_are_known_cells() -> None:
    assert EXCEPTIONS.keys() <= {*zoo_names()}


FIRES = [
    ("h' = tanh(lin(h))", ["unused-input"]),
    ("h' = tanh(lin(h) + 0 * lin(x))", ["unused-input"]),
    ("h' = tanh(lin(h) + relu(-exp(lin(x))))", ["unused-input"]),
    ("h' = tanh(lin(x))", ["unused-state", "no-memory"]),
    ("h' = tanh(lin(x, h - h))", ["unused-state", "no-memory"]),
    ("h' = conv(x)", ["unused-state", "no-memory"]),
    ("h' = 2 * h + lin(x)", ["must-explode"]),
    ("h' = -1.5 * h + lin(x)", ["must-explode"]),
    ("h' = (1 + sigmoid(lin(x))) * h + lin(x)", ["must-explode"]),
    ("h' = lerp(-0.1, lin(x), h) / 0.05", ["must-explode", "gate-out-of-range"]),
    ("repeat 2 { h' = 1.1 * h + lin(x) }", ["must-explode"]),
    ("h' = 2 * sigmoid(lin(x)) * h + lin(x)", ["loose-coefficient"]),
    ("h' = 5 * sigmoid(lin(x)) * h + lin(x)", ["loose-coefficient"]),
    ("h' = (sigmoid(lin(x)) + sigmoid(lin(x))) * h + lin(x)", ["loose-coefficient"]),
    ("h' = (1 - 3 * sigmoid(lin(x))) * h + lin(x)", ["loose-coefficient"]),
    ("h' = tanh(lin(h)) + log(relu(x))", ["zero-log"]),
    ("h' = tanh(lin(x, h)) + log(0)", ["zero-log"]),
    ("h' = tanh(lin(x, h)) * exp(-1 * log(abs(tanh(h))))", ["unbounded-exp", "zero-log"]),
    ("u = log(abs(tanh(x))); h' = tanh(lin(x, h)) * exp(u) + u", ["zero-log"]),
    ("h' = lin(x) * h + lin(x)", ["unbounded-coefficient"]),
    ("h' = relu(x) * h + lin(x)", ["unbounded-coefficient"]),
    ("h' = diag(h) + lin(x)", ["unbounded-coefficient"]),
    ("h' = lerp(lin(x), h, lin(x))", ["unbounded-coefficient", "loose-gate"]),
    ("h' = h + softplus(lin(x)) * (lin(x) - h)", ["unbounded-coefficient", "loose-gate"]),
    ("h' = lerp(1.5 + tanh(lin(x, h)) / 4, h, tanh(lin(x, h)))", ["gate-out-of-range"]),
    ("h' = lerp(-sigmoid(lin(x, h)), h, tanh(lin(x, h)))", ["gate-out-of-range"]),
    ("h' = lerp(tanh(lin(x, h)), h, tanh(lin(x, h)))", ["loose-gate"]),
    ("h' = lerp(2 * sigmoid(lin(x)), h, lin(x, h))", ["loose-gate"]),
    ("h' = h * h + lin(x)", ["self-product"]),
    ("h' = square(h) + lin(x)", ["self-product"]),
    ("h' = relu(h) * lin(h) + lin(x)", ["self-product"]),
    ("h' = h * (1 + 0.5 * lin(x, h)) + lin(x)", ["self-product"]),
    ("h' = tanh(lin(x, stopgrad(h)))", ["stopped-gradient"]),
    ("h' = stopgrad(tanh(lin(x, h)))", ["stopped-gradient"]),
    ("g = stopgrad(h); h' = lerp(sigmoid(lin(x, g)), g, tanh(lin(x)))", ["stopped-gradient"]),
    # x is read, but the state is 0 for ever, since it begins at 0 and is only multiplied
    ("h' = sigmoid(lin(x, h)) * tanh(h)", ["unused-input", "constant-state"]),
    ("h' = relu(h * lin(x)) / (1 + square(x))", ["unused-input", "constant-state"]),
    ("h' = tanh(lin(h)) + exp(lin(x))", ["unbounded-exp"]),
    ("h' = lin(x, exp(abs(h)))", ["unbounded-exp"]),
    ("u = exp(lin(x, h)); v = exp(lin(x, h)); h' = tanh(u / (u + v))", ["unbounded-exp"]),
    ("h' = tanh(lin(x, h)) / h", ["zero-division"]),
    ("h' = tanh(lin(x, h)) / relu(lin(x))", ["zero-division"]),
    ("h' = tanh(lin(x, h)) / param()", ["zero-division"]),
    ("h' = tanh(lin(h)) + log(x)", ["outside-domain"]),
    ("h' = tanh(lin(h)) + sqrt(tanh(x))", ["outside-domain"]),
]


@pytest.mark.parametrize(("body", "names"), FIRES)
def test_a_lint_fires(body: str, names: list[str]) -> None:
    assert _names(_cell(body)) == names, "\n".join(map(str, lint(_cell(body))))


QUIET = [
    "h' = h + lin(x)",  # a sum of all inputs: on the border, and not beyond it
    "h' = -h + lin(x)",
    "h' = (1 - 2 * sigmoid(lin(x))) * h + lin(x)",
    "h' = (2 - sigmoid(lin(x))) * 0.5 * h + lin(x)",
    "h' = 0.5 * (sigmoid(lin(x)) + sigmoid(lin(x))) * h + lin(x)",
    "h' = param(init=0.9, fixed=yes) * h + lin(x)",
    "h' = tanh(lin(x, h)) * exp(3 * log(abs(tanh(h))))",  # a power, 0 at 0
    "h' = tanh(lin(x, h)) + log(1 + relu(h))",
    "h' = tanh(lin(x, h)) + log(sigmoid(h))",
    "h' = exp(-relu(lin(x))) * h + lin(x)",
    "u = lin(x); h' = exp(u - max(u, 0)) * h + lin(x)",
    "u = softplus(lin(x)); v = softplus(lin(x)); h' = u / (u + v) * h + lin(x)",
    "u = softplus(lin(x)); v = softplus(lin(x)); h' = u * h / (u + v) + lin(x)",
    "h' = tanh(exp(lin(x, h)))",  # tanh takes infinity in
    "h' = h / (1 + exp(lin(x))) + lin(x)",
    "h' = exp(param()) * tanh(lin(x, h))",  # a positive parameter, no function of the input
    "h' = tanh(lin(x, h)) / (abs(h) + 0.001)",
    "h' = 3 * tanh(lin(x, h))",  # dense: the weights decide
    "h' = 2 * h - 2 * tanh(lin(x, h))",
    "h' = shift(h) + lin(x)",
    "h' = tanh(h * h) + lin(x)",
    "h' = rmsnorm(h * h) + lin(x)",
    "h' = tanh(lin(x, h)) * lin(x, h)",  # one factor is bounded
    "h' = h * softplus(h) / (1 + abs(h)) + lin(x)",
    "h' = lerp(sigmoid(lin(x)), stopgrad(h), tanh(lin(x, h)))",  # one way is open
    "h' = lerp(0.5 + 0.5 * tanh(lin(x)), h, lin(x))",
    "u = exp(lin(x)); h' = tanh(lin(x, h))",  # dead code hurts nobody
]


@pytest.mark.parametrize("body", QUIET)
def test_no_lint_without_a_reason(body: str) -> None:
    assert _names(_cell(body)) == [], "\n".join(map(str, lint(_cell(body))))


def test_a_stabilised_exponential_is_told_from_a_bare_one() -> None:
    text = str(zoo("mlstm"))
    assert "m' = max(f + m, i)" in text
    assert _names(parse(text.replace("max(f + m, i)", "max(m, i)"))) == []  # f is never positive
    assert "unbounded-exp" in _names(parse(text.replace("max(f + m, i)", "f + m")))
    bare = "u' = u + exp(lin(x)); w' = w + exp(lin(x))"
    assert _names(_cell(bare, "u: vec, w: vec", "u' / w'")) == ["unbounded-exp"]


def test_states_that_do_nothing() -> None:
    kept = _cell("h' = tanh(lin(x, h, c)); c' = c", "h: vec, c: vec = 1")
    assert [(f.name, f.where) for f in lint(kept)] == [("constant-state", "c")]
    zero = _cell("h' = tanh(lin(x, h, c)); c' = c * sigmoid(lin(x, h))", "h: vec, c: vec")
    assert [(f.name, f.where) for f in lint(zero)] == [("constant-state", "c")]
    dead = _cell("h' = tanh(lin(x, h)); c' = tanh(lin(h, c))", "h: vec, c: vec")
    assert [(f.name, f.where) for f in lint(dead)] == [("unused-state", "c")]
    passed = _cell("h' = lin(x); c' = lin(h)", "h: vec, c: vec", "lin(c')")
    assert "no-memory" in _names(passed)
    circle = _cell("h' = tanh(lin(c)); c' = tanh(lin(x, h))", "h: vec, c: vec")
    assert _names(circle) == []
    assert _names(parse("cell a { out lin(x) }")) == ["no-memory"]


def test_states_multiply_themselves_through_others() -> None:
    both = _cell("h' = h * c; c' = h + lin(x)", "h: vec = 1, c: vec = 1")
    assert [(f.name, f.where) for f in lint(both)] == [("self-product", "h")]
    outside = _cell("h' = tanh(lin(x, h, readt(c, h))); c' = c + outer(tokey(h), h)", "h: vec, c: mat")
    assert "self-product" not in _names(outside)


def test_lints_of_one_kind_come_in_the_order_of_the_states() -> None:
    """And not in that of a set of names, which differs from process to process."""
    names = [f"s{i}" for i in range(8)]
    body = "; ".join(f"{n}' = {n} * {n} + lin(x)" for n in names)
    cell = _cell(body, ", ".join(f"{n}: vec" for n in names), " + ".join(f"{n}'" for n in names))
    assert [found.where for found in lint(cell)] == names


def test_a_state_that_can_only_be_zero_is_found_through_others() -> None:
    found = lint(_cell("h' = c * lin(x); c' = relu(h) * sigmoid(lin(x)); ", "h: vec, c: vec", "h' + c'"))
    assert [(f.name, f.where) for f in found] == [
        ("unused-input", "x"),
        ("constant-state", "h"),
        ("constant-state", "c"),
    ]


def test_coupled_states_explode_together() -> None:
    body = "h' = c + lin(x); c' = {} * h"
    states = "h: vec, c: vec"
    assert _names(_cell(body.format("2"), states)) == ["must-explode"]
    assert _names(_cell(body.format("-2"), states)) == ["must-explode"]
    assert _names(_cell(body.format("(1.5 + softplus(lin(x)))"), states)) == ["must-explode"]
    assert _names(_cell(body.format("0.9"), states)) == []
    assert _names(_cell(body.format("-sigmoid(lin(x))"), states)) == []


def test_matrix_and_complex_states_are_scanned_too() -> None:
    matrix = "S' = {} * S + outer(lin:key(x), lin(x))"
    read = "read(S', lin:key(x))"
    assert _names(_cell(matrix.format("lin:scal(x)"), "S: mat", read)) == ["unbounded-coefficient"]
    assert _names(_cell(matrix.format("(2 + relu(lin:key(x)))"), "S: mat", read)) == ["must-explode"]
    assert _names(_cell(matrix.format("sigmoid(lin:key(x))"), "S: mat", read)) == []
    turning = "h' = {} * cis(lin(x)) * h + lin:cvec(x)"
    assert _names(_cell(turning.format("1.01"), "h: cvec", "re(h')")) == ["must-explode"]
    assert _names(_cell(turning.format("1"), "h: cvec", "re(h')")) == []


def test_trees_and_depth() -> None:
    tree = "cell a(l, r) {{ state h: vec; leaf {{ h' = lin(x) }}; h' = {}; out h' }}"
    assert _names(parse(tree.format("tanh(lin(l.h, r.h))"))) == []
    assert "unused-input" in _names(parse(tree.format("tanh(param())")))
    assert "no-memory" in _names(parse(tree.format("tanh(param())")))
    assert _names(parse(tree.format("tanh(lin(l.h))"))) == ["unused-child"]
    assert _names(parse(tree.format("tanh(lin(l.h + 0 * r.h))"))) == ["unused-child"]
    assert _names(parse(tree.format("l.h * r.h"))) == ["self-product"]
    assert _names(parse(tree.format("tanh(l.h * r.h)"))) == []
    any_number = "cell a(*k) { state h: vec; leaf { h' = lin(x) }; h' = tanh(lin(sum(k.h))); out h' }"
    assert _names(parse(any_number)) == []
    depth = "cell a {{ state h: seq{}; depth 3 {{ h' = lnorm(h + attn(h)) }}; out h' }}"
    assert _names(parse(depth.format(" = x"))) == []
    assert _names(parse(depth.format(""))) == ["unused-input"]


def test_a_lint_names_the_place_and_the_repair() -> None:
    (found,) = lint(_cell("h' = tanh(lin(x, h)) / relu(lin(x))"))
    assert isinstance(found, Lint)
    assert found.where == "tanh(lin(x, h)) / relu(lin(x))"
    assert "relu(lin(x)) lies in [0, inf)" in found.message
    assert "relu(lin(x)) + 0.000001" in found.repair
    assert str(found).startswith("zero-division: tanh(lin(x, h)) / relu(lin(x)): ")


def test_every_kind_of_lint_is_exercised() -> None:
    assert {*LINTS} == {name for _, names in FIRES for name in names} | {"unused-child"}


@pytest.mark.parametrize("name", ["lstm", "lattice", "trm", "ut", "treegru"])
def test_scrambled_cells_have_the_same_kinds_of_lints(name: str) -> None:
    other = scramble(zoo(name), np.random.default_rng(0))
    extra = {"unused-state"} if zoo(name).kind == "time" else set()  # scramble adds a dead state
    assert {*_names(other)} == {*_names(zoo(name))} | extra


@settings(deadline=None, max_examples=60)
@given(cells(kinds=("time", "tree", "depth")))
def test_any_cell_can_be_linted(cell: Cell) -> None:
    found = lint(cell)
    assert {f.name for f in found} <= {*LINTS}
    assert all(f.where and f.message.endswith(".") and f.repair.endswith(".") for f in found)
    assert [*LINTS].index(found[-1].name) >= [*LINTS].index(found[0].name) if found else True
