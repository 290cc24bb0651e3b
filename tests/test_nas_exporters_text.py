from __future__ import annotations

import ast

import pytest

from nas.exporters.text import ATOM, HELPERS, SUM, Code, call, infix, split_commas, wrapped

A, B, C = Code("a"), Code("b"), Code("c")


def test_parentheses_stand_only_where_they_are_needed() -> None:
    assert infix("*", infix("+", A, B), C).text == "(a + b) * c"
    assert infix("+", infix("*", A, B), C).text == "a * b + c"
    assert infix("-", A, infix("-", B, C)).text == "a - (b - c)"
    assert infix("/", A, infix("*", B, C)).text == "a / (b * c)"
    assert infix("+", A, B).method("sum", -1).text == "(a + b).sum(-1)"
    assert call("f", infix("+", A, B), "d").text == "f(a + b, d)"
    assert infix("+", A, B).at(SUM) == "a + b"
    assert infix("+", A, B).at(ATOM) == "(a + b)"


def test_commas_in_brackets_do_not_split() -> None:
    assert split_commas("a, f(b, c), d[e, f]") == ["a", "f(b, c)", "d[e, f]"]


@pytest.mark.parametrize("limit", [20, 40, 60])
def test_wrapped_lines_mean_the_same(limit: int) -> None:
    line = "value = torch.lerp(first(a, b, c), second(d, e), third[f, g](h), key=4)"
    lines = wrapped(line, limit)
    assert len(lines) > 1
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(line))


def test_a_group_is_no_tuple() -> None:
    lines = wrapped("u = a + (bbbbbbbb(1) + cccccccc(2))", 20)
    assert len(lines) > 1
    space = {"a": 1, "bbbbbbbb": float, "cccccccc": float}
    exec("\n".join(lines), space)
    assert space["u"] == 4


def test_a_loop_is_wrapped_with_its_colon() -> None:
    line = "for a, b in zip(first.unbind(1), second.unbind(1)):"
    lines = wrapped(line, 30)
    assert lines == ["for a, b in zip(", "    first.unbind(1),", "    second.unbind(1),", "):"]


def test_what_fits_and_what_has_no_brackets_stays() -> None:
    assert wrapped("a = f(b)") == ["a = f(b)"]
    assert wrapped("a = " + "b + " * 40 + "c") == ["a = " + "b + " * 40 + "c"]


@pytest.mark.parametrize("name", HELPERS)
def test_helpers_define_what_they_are_called(name: str) -> None:
    (function,) = ast.parse(HELPERS[name]).body
    assert isinstance(function, ast.FunctionDef)
    assert function.name == name
    assert ast.get_docstring(function)
