"""Cells as objects: equal texts are one object, nothing about it changes, and it survives pickling and threads."""

from __future__ import annotations

import copy
import gc
import re
import subprocess
import sys
import weakref

import pytest
from hypothesis import given
from strategies import cells

from grammar import (
    VEC,
    Cell,
    CellTypeError,
    Expr,
    GrammarError,
    Let,
    Out,
    Sketch,
    State,
    X,
    call,
    make_cell,
    num,
    parse,
    parse_sketch,
    ref,
    zoo,
)

TEXT = "cell a { state h: vec, c: scal = 2; u = tanh(lin(x, h)); h' = u * c; c' = c; out h' + u }"


def test_equal_texts_are_one_object() -> None:
    cell = parse(TEXT)
    assert parse(TEXT.replace("; ", "\n")) is cell
    assert parse(TEXT.replace("cell a", "cell b")) is not cell
    assert parse(str(cell)) is cell
    assert parse(cell.one_line) is cell
    assert len({cell, parse(TEXT)}) == 1


@given(cells(("time", "tree", "depth")))
def test_a_cell_from_its_parts_is_the_cell_of_its_text(cell: Cell) -> None:
    tree = cell.tree
    assert make_cell(tree.name, tree.states, tree.statements, tree.children, tree.variadic) is cell


def test_what_a_cell_tells() -> None:
    cell = parse(TEXT)
    assert cell.name == "a"
    assert [(s.name, str(s.type), s.init) for s in cell.states] == [("h", "vec", 0.0), ("c", "scal", 2.0)]
    assert len(cell.statements) == 4
    assert re.fullmatch("[0-9a-f]{64}", cell.digest)
    assert cell.canonical() is cell.canonical()
    assert repr(cell) == f"parse({cell.one_line!r})"
    assert "\n" not in cell.one_line
    assert str(cell).endswith("}\n")


@pytest.mark.parametrize(("name", "kind"), [("lstm", "time"), ("treelstm", "tree"), ("ut", "depth")])
def test_kinds(name: str, kind: str) -> None:
    assert zoo(name).kind == kind


@pytest.mark.parametrize("name", ["tree", "graph", "states", "name", "anything"])
def test_a_cell_cannot_be_changed(name: str) -> None:
    cell = parse(TEXT)
    with pytest.raises(AttributeError, match="a Cell is immutable; cannot set"):
        setattr(cell, name, None)


def test_a_copy_is_the_cell_itself() -> None:
    cell = parse(TEXT)
    assert copy.copy(cell) is cell
    assert copy.deepcopy([cell])[0] is cell
    function, args = cell.__reduce__()  # what pickling stores: a function and a text
    assert function is parse
    assert args == (str(cell),)
    sketch = parse_sketch("cell s { out choice{ x | tanh(x) } }")
    assert copy.copy(sketch) is sketch


def test_a_digest_is_the_same_in_another_process() -> None:
    script = f"from grammar import parse; print(parse({TEXT!r}).digest)"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        )
        assert done.stdout.strip() == parse(TEXT).digest


def test_cells_that_nobody_holds_are_forgotten() -> None:
    cell = parse("cell forgotten { out tanh(x) * 3 }")
    dead = weakref.ref(cell)
    del cell
    gc.collect()
    assert dead() is None


def test_a_sketch_is_not_a_cell() -> None:
    text = "cell s { state h: vec; h' = choice{ tanh(lin(x, h)) | h }; out h' }"
    sketch = parse_sketch(text)
    assert isinstance(sketch, Sketch)
    assert not isinstance(sketch, Cell)
    assert parse_sketch(str(sketch)) is sketch
    assert repr(sketch) == f"parse_sketch({sketch.one_line!r})"
    with pytest.raises(CellTypeError, match="this text is a sketch"):
        parse(text)
    assert parse_sketch(TEXT).tree == parse(TEXT).tree


H = State("h", VEC)


def test_parts_are_checked_like_a_text() -> None:
    with pytest.raises(CellTypeError, match="the state 'h' needs an equation"):
        make_cell("a", [H], [Out(ref("h"))])
    for name in ("1a", "é", "a b"):
        with pytest.raises(
            CellTypeError, match="a name is a letter or _ and then letters, digits or _; received"
        ):
            make_cell(name, [H], [Let("h'", ref("h")), Out(ref("h"))])
        with pytest.raises(CellTypeError, match="a name is a letter or _ and then"):
            make_cell("a", [State(name, VEC)], [Let(f"{name}'", ref(name)), Out(ref(name))])
    with pytest.raises(
        CellTypeError, match="an initial value is a number, -inf, learned, or x; received inf"
    ):
        make_cell("a", [State("h", VEC, float("inf"))], [Let("h'", ref("h")), Out(ref("h"))])
    for wrong, message in (
        (Expr("tank", (X,)), "unknown operation 'tank'; did you mean 'tanh'"),
        (Expr("tanh", (X, X)), r"`tanh` takes 1 operand\(s\); received 2"),
        (Expr("lin", (X,), (("blocks", 0),)), "`blocks` is a whole number from 1 to 4096"),
        (Expr("tanh", (X,), (("type", "key"),)), "`tanh` takes no type"),
    ):
        with pytest.raises(CellTypeError, match=message):
            make_cell("a", [H], [Let("h'", wrong), Out(ref("h"))])
    with pytest.raises(GrammarError, match="unknown name 'g'"):
        make_cell("a", [H], [Let("h'", ref("g")), Out(ref("h"))])
    with pytest.raises(CellTypeError, match=r"`h'` is vec; received num"):
        make_cell("a", [H], [Let("h'", num(1.0)), Out(ref("h"))])


def test_an_error_without_a_text_has_no_place() -> None:
    with pytest.raises(CellTypeError, match=r"^type mismatch in `read\(x, x\)`") as caught:
        make_cell("a", [], [Out(call("read", (X, X)))])
    assert caught.value.span is None
    assert "\n" not in str(caught.value)
