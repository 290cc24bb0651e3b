"""Text from trees: it parses back to the same tree, with no more parentheses than it needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import MEM, cells, exprs

from grammar import (
    KEY,
    MAT,
    SEQ,
    VEC,
    Cell,
    CellTree,
    Depth,
    Expr,
    Leaf,
    Let,
    Out,
    Repeat,
    State,
    Statement,
    X,
    call,
    choice,
    make_cell,
    num,
    parse,
    ref,
    show_expr,
    show_number,
    show_state,
    show_statement,
    zoo,
    zoo_names,
)
from grammar.parser import parse_tree
from grammar.printer import show_tree


def read_expr(text: str) -> Expr:
    """The expression that a text denotes; the tree is not typed."""
    statement = parse_tree(f"cell a {{ out {text} }}").statements[0]
    assert isinstance(statement, Out)
    return statement.expr


@given(exprs())
def test_an_expression_reads_back(expr: Expr) -> None:
    assert read_expr(show_expr(expr)) == expr


@given(exprs())
def test_no_pair_of_parentheses_can_go(expr: Expr) -> None:
    text = show_expr(expr)
    for start, end in grouping(text):
        shorter = f"{text[:start]} {text[start + 1 : end]} {text[end + 1 :]}"
        assert read_expr(shorter) != expr, f"{text} needs no parentheses at {start}"


def grouping(text: str) -> list[tuple[int, int]]:
    """Where parentheses group: those that do not follow a name, a type or a number."""
    stack: list[int] = []
    found = []
    for i, char in enumerate(text):
        if char == "(":
            stack.append(i)
        elif char == ")":
            start = stack.pop()
            before = text[:start].rstrip()
            if not (before and (before[-1].isalnum() or before[-1] in "_)")):
                found.append((start, i))
    return found


_TYPES = st.sampled_from((VEC, KEY, MAT, SEQ, MEM))
_STATES = st.lists(
    st.builds(
        State,
        st.sampled_from(("h", "c", "S_1")),
        _TYPES,
        st.one_of(
            st.just("learned"), st.just(float("-inf")), st.integers(-5, 5).map(float), st.floats(-9, 9)
        ),
    ),
    max_size=3,
)


def _statements(exprs_: st.SearchStrategy[Expr]) -> st.SearchStrategy[tuple[Statement, ...]]:
    names = st.sampled_from(("a", "b1", "h'", "c'"))
    simple = st.one_of(st.builds(Let, names, exprs_), st.builds(Out, exprs_))

    def blocks(inner: st.SearchStrategy[Statement]) -> st.SearchStrategy[Statement]:
        body = st.lists(inner, max_size=3).map(tuple)
        times = st.integers(1, 64)
        return st.one_of(
            st.builds(Leaf, body),
            st.builds(Repeat, times, st.booleans(), body),
            st.builds(Depth, times, st.one_of(st.none(), exprs_), body),
        )

    return st.lists(st.recursive(simple, blocks, max_leaves=5), max_size=4).map(tuple)


_CHILDREN = st.sampled_from(((), ("l", "r"), ("k",)))


@given(_STATES, _statements(exprs()), _CHILDREN, st.booleans(), st.booleans())
def test_a_whole_text_reads_back(
    states: list[State],
    statements: tuple[Statement, ...],
    children: tuple[str, ...],
    variadic: bool,
    one_line: bool,
) -> None:
    tree = CellTree("a", children, variadic and len(children) == 1, tuple(states), statements)
    assert parse_tree(show_tree(tree, one_line)) == tree


@given(cells(("time", "tree", "depth")))
def test_a_cell_reads_back_from_both_forms(cell: Cell) -> None:
    assert parse(str(cell)) is cell
    assert parse(cell.one_line) is cell


@pytest.mark.parametrize("name", zoo_names())
def test_the_zoo_reads_back(name: str) -> None:
    cell = zoo(name)
    assert parse(str(cell)) is cell
    assert parse(cell.one_line) is cell


a, b, c = ref("a"), ref("b"), ref("c'")


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (call("add", (a, call("mul", (b, c)))), "a + b * c'"),
        (call("mul", (call("add", (a, b)), c)), "(a + b) * c'"),
        (call("sub", (a, call("sub", (b, c)))), "a - (b - c')"),
        (call("sub", (call("sub", (a, b)), c)), "a - b - c'"),
        (call("div", (a, call("mul", (b, c)))), "a / (b * c')"),
        (call("neg", (call("mul", (a, b)),)), "-(a * b)"),
        (call("mul", (call("neg", (a,)), b)), "-a * b"),
        (call("neg", (call("neg", (a,)),)), "--a"),
        (call("mul", (num(-2.0), a)), "-2 * a"),
        (call("sub", (a, num(-2.0))), "a - -2"),
        (call("neg", (num(-2.0),)), "-(-2)"),
        (call("neg", (num(0.0),)), "-(0)"),
        (num(0.1), "0.1"),
        (num(1e-6), "1e-06"),
        (
            call("lin", (X, a), KEY, [("bias", False, None), ("rank", 4, None)]),
            "lin:key(x, a, bias=no, rank=4)",
        ),
        (call("param", (), MEM), "param:mem(4)()"),
        (call("param", (), None, [("init", ("uniform", -0.5, 2.0), None)]), "param(init=uniform(-0.5, 2))"),
        (Expr("child", (), (("child", "l"), ("state", "h"))), "l.h"),
        (choice((a, call("add", (a, b)))), "choice{ a | a + b }"),
        (choice((a, b), (1, 2.5)), "choice{ a | b [2.5] }"),
        (choice((a, b), (1, 2.5), "act"), "choice act { a | b [2.5] }"),
        (choice((a, b), (1, 1)), "choice{ a | b }"),
    ],
)
def test_how_it_looks(expr: Expr, text: str) -> None:
    assert show_expr(expr) == text
    assert read_expr(text) == expr


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (-0.0, "0"), (0.5, "0.5"), (1e300, "1e+300"), (-3.0, "-3")]
)
def test_numbers(value: float, text: str) -> None:
    assert show_number(value) == text
    assert float(text) == value


def test_statements_and_states_on_one_line() -> None:
    block = Repeat(2, True, (Let("h'", a), Let("b", c)))
    assert show_statement(block) == "repeat 2 fresh { h' = a; b = c' }"
    assert show_statement(Depth(3, a, (Let("h'", b),))) == "depth 3 until(a) { h' = b }"
    assert show_state(State("m", MAT, float("-inf"))) == "m: mat = -inf"
    assert show_state(State("m", MEM)) == "m: mem(4)"


def test_a_default_option_is_not_written() -> None:
    cell = parse("cell a { state h: vec; h' = lin:vec(x, h, bias=yes, blocks=1, transpose=no); out h' }")
    assert "lin(x, h)" in cell.one_line


def test_a_negated_number_made_by_hand_is_the_cell_that_is_read() -> None:
    made = make_cell(
        "a", [State("h", VEC)], [Let("h'", ref("h")), Out(call("mul", (call("neg", (num(2.0),)), ref("h"))))]
    )
    assert parse(str(made)) is made
