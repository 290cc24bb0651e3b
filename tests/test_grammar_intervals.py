"""Intervals and ranges: every operation has a rule, no rule promises too much, and the known bounds are found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import HEADS, HIDDEN, cells, input_size, key_size

from grammar import (
    NUM,
    OPS,
    RENDERINGS,
    Call,
    Cell,
    GrammarError,
    Node,
    Sizes,
    evaluate,
    init_weights,
    parse,
    zoo,
)
from grammar.intervals import (
    INF,
    REALS,
    RULES,
    Interval,
    Range,
    add,
    hull,
    meet,
    mul,
    range_of,
    register_range,
)
from grammar.ranges import Ranges
from grammar.types import CMAT, CVEC, VEC

BUILT_IN = tuple(OPS)  # tests elsewhere register operations of their own
NUMBERS = (-INF, -1000.0, -2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0, 1000.0, INF)
ELEMENTWISE = [
    name for name in BUILT_IN
    if OPS[name].mixes == "elementwise" and not OPS[name].weights and name not in
    ("posemb", "shift", "sum", "outer", "re", "im", "complex", "cis", "modrelu")
]  # fmt: skip


def test_every_operation_has_a_rule() -> None:
    assert [name for name in BUILT_IN if name not in RULES] == []
    assert [name for name in RULES if name not in OPS] == []


def test_a_rule_is_registered_once_and_for_a_known_operation() -> None:
    with pytest.raises(GrammarError, match="received 'sine'"):
        register_range("sine", RULES["sin"])
    with pytest.raises(GrammarError, match="'sin' has one already"):
        register_range("sin", RULES["cos"])


def test_known_bounds_of_the_table_are_kept() -> None:
    for name in BUILT_IN:
        bounds = OPS[name].bounds
        if bounds is not None:
            args = [Range.real(REALS)] * OPS[name].arity[0]
            assert range_of(Node(name, (), (), VEC), args, None).re.within(Interval(*bounds))


# ---- soundness --------------------------------------------------------------------------------


@st.composite
def intervals(draw: st.DrawFn) -> tuple[Interval, float]:
    """An interval and a finite number in it."""
    low, high = sorted(draw(st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=2, unique=True)))
    found = Interval(low, high, draw(st.booleans()) or low == -INF, draw(st.booleans()) or high == INF)
    ends = max(low, -2000.0), min(high, 2000.0)
    inside = draw(st.one_of(st.sampled_from(ends), st.floats(*ends), st.sampled_from(NUMBERS)))
    if inside in found and math.isfinite(inside):
        return found, inside
    middle = (ends[0] + ends[1]) / 2
    return found, middle


def _holds(found: Interval, value: float) -> bool:
    slack = 1e-9 * (1 + abs(value))
    return found.low - slack <= value <= found.high + slack


@settings(deadline=None)
@given(st.sampled_from(ELEMENTWISE), st.lists(intervals(), min_size=3, max_size=3))
def test_no_elementwise_result_leaves_its_range(name: str, drawn: list[tuple[Interval, float]]) -> None:
    count = OPS[name].arity[0]
    node = Node(name, (), (), NUM)
    call = Call(node, [v for _, v in drawn[:count]], [NUM] * count, {}, Sizes(1, 1, 1, 1))
    with np.errstate(all="ignore"):
        value = float(RENDERINGS[name](call))
    found = range_of(node, [Range.real(i) for i, _ in drawn[:count]], None)
    assert math.isnan(value) or _holds(found.re, value), (
        f"{name} {drawn[:count]} = {value}, not in {found.re}"
    )
    assert math.isnan(value) or _holds(found.size, abs(value))


def _inside(found: Range, values: Any) -> bool:
    finite = values[np.isfinite(values)]
    parts = ((found.re, finite.real), (found.im, finite.imag), (found.size, np.abs(finite)))
    return all(_holds(i, float(v)) for i, part in parts for v in part.ravel())


@settings(deadline=None, max_examples=60)
@given(cells(kinds=("time", "tree", "depth")), st.integers(0, 2**32 - 1))
def test_no_state_and_no_output_leaves_its_range(cell: Cell, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = input_size(cell)
    weights = init_weights(
        cell, rng, input_size=size, hidden_size=HIDDEN, heads=HEADS, key_size=key_size(cell)
    )
    weights = {name: 3 * rng.standard_normal(w.shape) + 0 * w for name, w in weights.items()}
    positions, tree = 7, None
    if cell.kind == "tree":
        tree = np.array([[[0, 1], [4, 2], [5, 3]]])
        body = cell.graph.reachable([*cell.graph.next, cell.graph.out])
        positions = 4 + 3 * any(cell.graph.nodes[i].op == "x" for i in body)
    x = 2 * rng.standard_normal((1, positions, size))
    found = evaluate(cell, x, weights, hidden_size=HIDDEN, heads=HEADS, key_size=key_size(cell), tree=tree)
    ranges = Ranges(cell.graph)
    assert _inside(ranges[cell.graph.out], found.y)
    for index, value in zip(cell.graph.next, found.state, strict=False):
        assert _inside(ranges[index], np.asarray(value)), str(cell)


# ---- what is found ----------------------------------------------------------------------------

OPEN = (True, True)
STATES = {
    ("elman", "h"): Interval(-1, 1, *OPEN),
    ("gru", "h"): Interval(-1, 1, *OPEN),
    ("qrnn", "c"): Interval(-1, 1, *OPEN),
    ("scrn", "h"): Interval(0, 1, False, True),
    ("lstm", "h"): Interval(-1, 1),
    ("lstm", "c"): REALS,
    ("aaren", "m"): Interval(-INF, INF, False, True),
    ("slstm", "n"): Interval(0, INF, False, True),
    ("linear_attention", "n"): Interval(0, INF, False, True),
}


@pytest.mark.parametrize(("name", "state"), STATES)
def test_states_are_bounded_over_all_steps(name: str, state: str) -> None:
    assert Ranges(zoo(name).graph).states[state].re == STATES[name, state]


VALUES = [
    ("exp(-softplus(lin(x)))", "(0, 1)"),
    ("1 - sigmoid(lin(x))", "(0, 1)"),
    ("u - u", "{0}"),
    ("exp(u - max(u, v))", "(0, 1]"),
    ("exp(v - max(max(u, v), 0))", "(0, 1]"),
    ("exp(u + v - max(v + u, h))", "(0, 1]"),
    ("exp(min(u, v) - v)", "(0, 1]"),
    ("u - max(v, 1)", "(-inf, inf)"),
    ("exp(u) / (exp(u) + exp(v))", "(0, 1)"),
    ("square(u) / (square(u) + 1)", "[0, 1)"),
    ("abs(u) + 2", "[2, inf)"),
    ("l2norm(relu(u))", "[0, 1]"),
    ("lerp(sigmoid(u), tanh(v), 3 * tanh(v))", "(-3, 3)"),
    ("lerp(2, tanh(v), tanh(u))", "(-3, 3)"),
    ("sqrt1m2(0.5 * sigmoid(u))", "(0.866025, 1)"),
    ("shift(sigmoid(u))", "[0, 1)"),
    ("param(fixed=yes, init=uniform(0.5, 2)) * sigmoid(u)", "(0, 2)"),
    ("param(init=uniform(0.5, 2)) * sigmoid(u)", "(-inf, inf)"),
    ("diag(u, fixed=yes, init=ones) - u", "(-inf, inf)"),
    ("silu(relu(u))", "[0, inf)"),
    ("sqrt(logsigmoid(u))", "[0, inf)"),
    ("relu(sigmoid(u) - 2)", "{0}"),
    ("1 / softplus(u)", "(0, inf)"),
    ("1 / (1 + relu(u))", "(0, 1]"),
    ("abs(cis(u))", "{1}"),
    ("abs(exp(complex(-softplus(u), v)))", "(0, 1)"),
    ("re(cis(u) * cis(v))", "[-1, 1]"),
]


@pytest.mark.parametrize(("text", "shown"), VALUES)
def test_values_are_bounded(text: str, shown: str) -> None:
    cell = parse(f"cell a {{ state h: vec; u = lin(x, h); v = lin(x, h); h' = tanh(u + v); out {text} }}")
    assert str(Ranges(cell.graph)[cell.graph.out].re) == shown


def test_open_and_closed_ends_are_told_apart() -> None:
    assert 0.0 not in Interval(0, 1, True, False)
    assert 1.0 in Interval(0, 1, True, False)
    assert hull(Interval(0, 1, True), Interval(0, 0.5)) == Interval(0, 1)
    assert meet(Interval(0, 2, True), Interval(0, 1, False, True)) == Interval(0, 1, *OPEN)
    assert add(Interval(0, 1, True), Interval(1, 2)) == Interval(1, 3, True)
    assert mul(Interval(0, INF, *OPEN), Interval(0, 0)) == Interval(0, 0)
    assert mul(Interval(-1, 1), Interval(0, INF, *OPEN)) == REALS


def test_complex_values_have_a_size() -> None:
    cell = parse(
        "cell a { state h: cvec; h' = 0.5 * cis(lin(x)) * h + lin:cvec(x); out abs(0.5 * cis(lin(x))) }"
    )
    assert Ranges(cell.graph)[cell.graph.out].re == Interval(0.5, 0.5)
    assert {t.is_complex for t in (CVEC, CMAT)} == {True}
