"""The normal form: made of primitives, real, and the same function as the cell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from normal_cases import ODD_TIME, SPACES, TIME, case, interpreted, parts, reference, sampled
from source_tree import ROOT, sources
from strategies import cells
from torch import Tensor

from grammar import NUM, OPS, Cell, GrammarError, Op, Type, parse, zoo
from grammar import ops as table
from grammar.rules import each, real
from nas.backends import renderings
from nas.errors import BuildError
from nas.ir import (
    DEPTH_ONLY,
    EXPANSIONS,
    PRIMITIVES,
    Builder,
    Instr,
    compile_program,
    expansions,
    normal,
    normal_cell,
    register_expansion,
)
from nas.ir.expansions import COMPLEX

TOLERANCE = 1e-9
WILD = 1e6  # numbers of random cells beyond this are compared no further
# Lowered in a way of their own: to slots, to maps, or to the sum over children.
SPECIAL = ("shift", "conv", "lin", "sum")


def agrees(cell: Cell) -> None:
    """The normal form gives the outputs and final states of the reference."""
    example = case(cell)
    y, final = reference(example)
    made = interpreted(example)
    pairs = [
        (made.rows(example.normal.program.out), y),
        *zip(made.final, parts(final, example.normal), strict=True),
    ]
    for ours, theirs in pairs:
        same(ours, theirs)


def same(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Equal to a relative error, as far as the numbers are not wild."""
    assert ours.shape == theirs.shape
    if bool(theirs.isfinite().all()) and float(theirs.abs().max()) < WILD:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def is_normal(cell: Cell) -> None:
    program = normal_cell(cell).program
    for k, instr in enumerate(program.instrs):
        assert len(instr.args) == PRIMITIVES[instr.op]
        assert all(a < k for a in instr.args)
        assert not instr.type.is_complex
    assert len(program.slots) == len(normal_cell(cell).slots)


@pytest.mark.parametrize("name", TIME)
def test_known_cells(name: str) -> None:
    is_normal(zoo(name))
    agrees(zoo(name))


@pytest.mark.parametrize("cell", ODD_TIME)
def test_odd_cells(cell: Cell) -> None:
    is_normal(cell)
    agrees(cell)


@pytest.mark.parametrize("space", SPACES)
def test_cells_of_each_space(space: str) -> None:
    for cell in sampled(space, 6):
        is_normal(cell)
        agrees(cell)


@given(cells(smooth=True))
@settings(max_examples=25)
def test_any_cell(cell: Cell) -> None:
    is_normal(cell)
    agrees(cell)


def test_each_operation_of_the_table_is_a_primitive_or_expanded() -> None:
    known = {*PRIMITIVES, *EXPANSIONS, *COMPLEX, *DEPTH_ONLY, *SPECIAL}
    assert set(OPS) - known == set()
    assert not set(EXPANSIONS) & set(PRIMITIVES)
    assert not set(DEPTH_ONLY) & known - set(DEPTH_ONLY)


def test_each_operation_on_complex_values_is_expanded() -> None:
    kinds = [Type(kind) for kind in ("vec", "key", "scal", "mat", "cvec", "cmat")] + [NUM]
    for op in OPS.values():
        if op.name in SPECIAL:
            continue
        for types in itertools.product(kinds, repeat=op.arity[0]):
            try:
                result = op.rule(types, {})
            except GrammarError:
                continue
            if result.is_complex or any(t.is_complex for t in types):
                assert op.name in COMPLEX, (op.name, types)


def test_lstm_is_what_one_would_write() -> None:
    ops = [i.op for i in normal_cell(zoo("lstm")).program.instrs]
    counts = {op: ops.count(op) for op in set(ops)}
    assert counts == {
        "state": 2, "x": 1, "param": 4, "lin": 8, "add": 9, "sigmoid": 3, "tanh": 2, "mul": 3,
    }  # fmt: skip


def test_rounds_end_where_those_of_the_reference_do() -> None:
    """One number for the evaluator, the layers in torch and the kernels."""
    defined = [
        p
        for p in sources()
        if any(line.startswith("HALT = ") for line in (ROOT / p).read_text().splitlines())
    ]
    assert defined == ["grammar/graph.py"]
    text = "state h: vec; depth 3 until(sigmoid(lin:scal(h))) { h' = tanh(lin(h, x)) }; out h'"
    ops = [i.op for i in normal_cell(parse(f"cell a {{ {text} }}")).program.instrs]
    assert ops.count("tanh") == 3
    assert ops.count("ge") == 2  # the last round always ends them


def test_depth_cells_are_refused() -> None:
    with pytest.raises(BuildError, match="works on whole sequences"):
        normal(compile_program(zoo("trm"), "sink"))


def cube(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    return b.mul(args[0], b.mul(args[0], args[0]))


def test_own_operation_is_what_its_expansion_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table._OPS, "cube", Op("cube", (1, 1), real, each(2), "a * a * a"))
    cell = parse("cell own { state h: vec; h' = tanh(lin(h, x) + cube(h)); out h' }")
    with pytest.raises(BuildError, match=r"'cube' has no expansion: nas\.ir\.register_expansion"):
        normal(compile_program(cell, "sink"))
    monkeypatch.setitem(renderings._RENDERINGS, "cube", lambda instr, kinds, sizes: lambda a: a * a * a)
    monkeypatch.setitem(expansions._EXPANSIONS, "cube", cube)
    agrees(cell)


def test_expansions_are_of_known_operations_and_one_each() -> None:
    with pytest.raises(BuildError, match="'cube' is not in the table of operations"):
        register_expansion("cube", cube)
    with pytest.raises(BuildError, match="one expansion, but 'silu' has one"):
        register_expansion("silu", cube)
