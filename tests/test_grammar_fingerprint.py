"""Fingerprints: never finer than digests, the same for algebraically equal cells, different for different ones."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scramble import scramble
from strategies import cells

from grammar import (
    Cell,
    Depth,
    Expr,
    GrammarError,
    Leaf,
    Let,
    Out,
    Repeat,
    Statement,
    fingerprint,
    make_cell,
    parse,
    simplify,
    zoo,
    zoo_names,
)


def _cell(body: str, states: str = "h: vec") -> Cell:
    return parse(f"cell a {{ state {states}; z = sigmoid(lin(x, h)); {body}; out h' }}")


@cache
def _key(name: str) -> str:
    return fingerprint(zoo(name))


# ---- equal digests ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo_names())
def test_equal_digests_have_equal_fingerprints(name: str) -> None:
    other = scramble(zoo(name), np.random.default_rng(0))
    assert other is not zoo(name)
    assert fingerprint(other) == _key(name)
    assert len(_key(name)) == 64


@settings(deadline=None, max_examples=25)
@given(cells(kinds=("time", "tree", "depth")), st.integers(0, 2**32 - 1))
def test_equal_digests_of_random_cells_have_equal_fingerprints(cell: Cell, seed: int) -> None:
    assume(
        cell.kind != "depth" or simplify(cell.graph).states
    )  # else what is left is no depth cell: no digest
    other = scramble(cell, np.random.default_rng(seed))
    assert other.digest == cell.digest
    assert fingerprint(other) == fingerprint(cell)


# ---- other brackets ---------------------------------------------------------------------------


def _rebracketed(cell: Cell, rng: np.random.Generator) -> Cell:
    """The same cell with its sums and products in another order, bracketed at random."""
    body = [_in_statement(s, rng) for s in cell.statements]
    return make_cell("other", cell.states, body, cell.tree.children, cell.tree.variadic)


def _in_statement(statement: Statement, rng: np.random.Generator) -> Statement:
    if isinstance(statement, Let):
        return Let(statement.name, _in_expr(statement.expr, rng))
    if isinstance(statement, Out):
        return Out(_in_expr(statement.expr, rng))
    body = tuple(_in_statement(s, rng) for s in statement.body)
    if isinstance(statement, Leaf):
        return Leaf(body)
    if isinstance(statement, Repeat):
        return Repeat(statement.times, statement.fresh, body)
    return Depth(statement.times, statement.until and _in_expr(statement.until, rng), body)


def _in_expr(expr: Expr, rng: np.random.Generator) -> Expr:
    if expr.op not in ("add", "mul"):
        return Expr(expr.op, tuple(_in_expr(a, rng) for a in expr.args), expr.attrs)
    parts = [_in_expr(a, rng) for a in _operands(expr, expr.op)]
    while len(parts) > 1:
        i, j = (int(k) for k in rng.choice(len(parts), 2, replace=False))
        joined = Expr(expr.op, (parts[i], parts[j]))
        parts = [p for k, p in enumerate(parts) if k not in (i, j)] + [joined]
    return parts[0]


def _operands(expr: Expr, op: str) -> list[Expr]:
    return [part for a in expr.args for part in _operands(a, op)] if expr.op == op else [expr]


@pytest.mark.parametrize("name", zoo_names())
def test_other_brackets_of_known_cells_do_not_matter(name: str) -> None:
    other = _rebracketed(zoo(name), np.random.default_rng(1))
    assert fingerprint(other) == _key(name), str(other)


def test_other_brackets_of_random_cells_hardly_ever_matter() -> None:
    """Where arrays with equal effects are not exchangeable, matching may fail: rarely, and only to equate."""
    compared: list[bool] = []

    @settings(deadline=None, max_examples=100, database=None, derandomize=True)
    @given(cells(smooth=True, linear=True, fuel=10), st.integers(0, 2**32 - 1))
    def compare(cell: Cell, seed: int) -> None:
        try:
            other = _rebracketed(cell, np.random.default_rng(seed))
        except GrammarError:  # key + mat + vec can be added in one order only
            return
        if other.digest != cell.digest:
            compared.append(fingerprint(other) == fingerprint(cell))

    compare()
    assert len(compared) >= 10
    assert sum(compared) >= 0.9 * len(compared), f"{sum(compared)} of {len(compared)}"


# ---- more equal functions ---------------------------------------------------------------------

EQUAL = [
    ("h' = (lin(x) + h) + tanh(h)", "h' = lin(x) + (h + tanh(h))"),
    ("u = lin(x); h' = z * u + z * tanh(h)", "u = lin(x); h' = z * (u + tanh(h))"),
    ("u = lin(x); h' = (1 - sigmoid(u)) * h + z", "u = lin(x); h' = sigmoid(-u) * h + z"),
    ("h' = z * tanh(lin(x))", "u = lin(x); h' = z * (2 * sigmoid(2 * u) - 1)"),
    ("h' = tanh(lin(x, h)) * z", "h' = tanh(lin(x) + lin(h, bias=no)) * z"),
    ("h' = z + diag(h)", "h' = z + param(init=uniform(-1, 1)) * h"),
    ("h' = z + lin(x, init=normal(1))", "h' = z + lin(x, bias=no, init=normal(1)) + param()"),
    ("u = lin(x); h' = u * sigmoid(u) * h + z", "u = lin(x); h' = silu(u) * h + z - 0 * u"),
    ("h' = exp(tanh(h)) * exp(z) + lin(x)", "h' = exp(tanh(h) + z) + lin(x)"),
    ("u = lin(x); h' = relu(u) + z * h", "u = lin(x); h' = u - min(u, 0) + z * h"),
    ("h' = z - 3 * (z - h) + lin(x)", "h' = 3 * h - 2 * z + lin(x)"),
    ("q = lin:key(h); h' = dot(lin:key(x), q) * z", "q = lin:key(h); h' = read(outer(lin:key(x), z), q)"),
    ("h' = hsum(lin:key(x)) + z", "h' = dot(lin:key(x), param:key(init=ones, fixed=yes)) + z"),
    ("h' = lin(x) * lin(x) + z + h", "h' = z + (h + lin(x) * lin(x))"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_functions_of_equal_weights_have_equal_fingerprints(one: str, other: str) -> None:
    assert _cell(one).digest != _cell(other).digest
    assert fingerprint(_cell(one)) == fingerprint(_cell(other))


def test_the_unit_of_a_state_does_not_matter() -> None:
    text = "cell a {{ state c: vec; z = sigmoid(lin(x)); c' = z * c + {0} * lin(x); out tanh({1} * c') }}"
    assert fingerprint(parse(text.format("2", "0.5"))) == fingerprint(parse(text.format("4", "0.25")))


# ---- different functions ----------------------------------------------------------------------

DIFFERENT = [
    ("l = lin(x); h' = h + l + tanh(l)", "h' = h + lin(x) + tanh(lin(x))"),
    ("h' = lin(x, h)", "h' = lin(x) + lin(h)"),
    ("h' = lin(x) + lin(h)", "h' = lin(x) + lin(h, bias=no)"),
    ("h' = h - lin(x)", "h' = lin(x) - h"),
    ("h' = lerp(z, h, lin(x))", "h' = lerp(z, lin(x), h)"),
    ("h' = tanh(lin(x, h))", "h' = tanh(lin(x, h, fixed=yes))"),
    ("h' = lin(x) + diag(h)", "h' = lin(x) + diag(h, init=1)"),
    ("h' = lin(x) + diag(h, init=1)", "h' = lin(x) + diag(h, init=1, fixed=yes)"),
    ("g = tanh(lin(x, h)); h' = tanh(lin(x, g))", "repeat 2 { h' = tanh(lin(x, h)) }"),
    ("h' = h * 0.5 + lin(x)", "h' = h * 0.25 + lin(x)"),
    ("h' = tanh(lin(x, h)) + stopgrad(z)", "h' = tanh(lin(x, h)) + z"),
    ("h' = stopgrad(tanh(lin(x, h))) * z", "h' = tanh(lin(x, h)) * stopgrad(z)"),
    (
        "u = tanh(lin(x)); h' = stopgrad(lerp(z, h, u))",
        "u = tanh(lin(x)); h' = lerp(z, stopgrad(h), stopgrad(u))",
    ),
    ("h' = tanh(min(relu(lin(x, h)), 1.5))", "h' = tanh(relu(lin(x, h)))"),
    ("h' = tanh(min(lin(x, h), 3))", "h' = tanh(min(lin(x, h), 4))"),
    ("h' = tanh(min(lin(x, h), 4))", "h' = tanh(lin(x, h))"),
    ("h' = z * min(lin(x), 3) + lin(h)", "h' = z * min(lin(x), 4) + lin(h)"),
    ("h' = z * min(lin(tanh(h)), 4) + lin(x)", "h' = z * lin(tanh(h)) + lin(x)"),
    ("h' = tanh(lin(x, shift(x)))", "h' = tanh(lin(x, shift(shift(x))))"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_functions_have_different_fingerprints(one: str, other: str) -> None:
    assert fingerprint(_cell(one)) != fingerprint(_cell(other))


def test_known_cells_have_different_fingerprints() -> None:
    keys = {_key(name): name for name in zoo_names()}
    assert len(keys) == len({zoo(name).digest for name in zoo_names()})


def test_initial_values_count() -> None:
    body = "h' = tanh(lin(x, h))"
    assert len({fingerprint(_cell(body, s)) for s in ("h: vec", "h: vec = 1", "h: vec = learned")}) == 3


def test_long_delays_are_told_apart() -> None:
    def delayed(steps: int) -> Cell:
        text = "x"
        for _ in range(steps):
            text = f"shift({text})"
        return parse(f"cell a {{ state h: vec; h' = 0.5 * h + {text}; out h' }}")

    assert len({fingerprint(delayed(n)) for n in range(1, 12)}) == 11


# ---- outputs that say nothing -----------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "h' = 0 * lin(x, h)",
        "h' = h / (h - h) + lin(x)",
        "h' = 1e-9 * tanh(lin(x, h))",
        "h' = tanh(lin(x) + lin(h, blocks=4093) + lin(h, blocks=4091))",  # too large to be run
    ],
)
def test_cells_without_useful_outputs_are_known_by_their_digest(body: str) -> None:
    cell, other = _cell(body), _cell(f"{body}; u = tanh(x)")
    assert fingerprint(cell) == fingerprint(other)
    assert fingerprint(cell) != fingerprint(_cell(f"{body} + 0 * h"))


def test_every_size_of_block_and_any_kind_of_weight_can_be_run() -> None:
    texts = [
        "h' = tanh(lin(x) + lin(h, blocks=3))",
        "h' = tanh(lin(x) + lin(h, blocks=heads))",
        "h' = tanh(lin(x) + lin(h, rank=2))",
        "u = lin(x, share=w, bias=no); h' = tanh(lin(h, share=v) + u)",
        "h' = tanh(conv(x, k=3) + lin(h)) + mlp(h)",
    ]
    assert len({fingerprint(_cell(t)) for t in texts}) == len(texts)


def test_a_fingerprint_takes_milliseconds() -> None:
    """The bound is loose, for busy machines: an idle core takes 2 to 10 ms for most cells."""
    spent = []
    for name in ("lstm", "gru", "mingru", "mlstm", "rwkv4"):
        cell = zoo(name)
        start = time.process_time()
        fingerprint(cell)
        spent.append(time.process_time() - start)
    assert np.median(spent) < 0.1
