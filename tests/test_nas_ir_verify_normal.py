"""The rules of normal programs: all that the compiler makes obeys them, and each finds its fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from normal_cases import ODD_TIME, TIME
from strategies import cells

from grammar import CVEC, KEY, Cell, zoo
from nas.errors import NasError
from nas.ir import (
    NORMAL_RULES,
    Instr,
    Program,
    adjoint_cell,
    adjoint_tree,
    normal_cell,
    normal_tree,
    verify_normal,
    with_scans,
)


def all_legal(cell: Cell) -> None:
    if cell.kind == "tree":
        for part in (*normal_tree(cell), *adjoint_tree(cell)):
            verify_normal(part.backward if hasattr(part, "backward") else part.program)
        return
    adjoint = adjoint_cell(cell)
    for program in (normal_cell(cell).program, adjoint.backward):
        verify_normal(program)
        verify_normal(with_scans(program)[0])
    if adjoint.replay is not None:
        verify_normal(adjoint.replay.program)


@pytest.mark.parametrize("name", [*TIME, "treelstm", "treegru", "grc"])
def test_known_cells(name: str) -> None:
    all_legal(zoo(name))


@pytest.mark.parametrize("cell", ODD_TIME)
def test_odd_cells(cell: Cell) -> None:
    all_legal(cell)


@given(cells(kinds=("time", "tree")))
@settings(max_examples=25)
def test_any_cell(cell: Cell) -> None:
    all_legal(cell)


def changed(op: str, change: Callable[[Instr], Instr], name: str = "lstm") -> Program:
    """A legal program but for its first instruction of an operation."""
    program = normal_cell(zoo(name)).program
    k = next(k for k, instr in enumerate(program.instrs) if instr.op == op)
    return replace(program, instrs=(*program.instrs[:k], change(program.instrs[k]), *program.instrs[k + 1 :]))


BAD: dict[str, tuple[Callable[[], Program], str]] = {
    "order": (lambda: changed("tanh", lambda i: replace(i, args=(99,))), "uses %99"),
    "known": (lambda: changed("tanh", lambda i: replace(i, op="silu")), "= silu"),
    "types": (lambda: changed("tanh", lambda i: replace(i, type=CVEC)), "is cvec"),
    "slots": (lambda: changed("state", lambda i: replace(i, type=KEY)), "type key, but the slot is vec"),
    "weights": (lambda: changed("lin", lambda i: replace(i, attrs=(("role", "w7"),))), "the array 'w7'"),
    "stages": (lambda: changed("tanh", lambda i: replace(i, stage="before")), "in `before` uses"),
}


def test_each_rule_has_a_bad_program() -> None:
    assert sorted(BAD) == sorted(rule.name for rule in NORMAL_RULES)


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_fault_is_found_and_named(name: str) -> None:
    make, fault = BAD[name]
    with pytest.raises(NasError, match=f"normal program lstm breaks the rule `{name}` .*{fault}"):
        verify_normal(make())


def test_reads_have_the_types_of_their_operands() -> None:
    bad = changed("read", lambda i: replace(i, args=i.args[::-1]), "deltanet")
    with pytest.raises(NasError, match=r"rule `types` .* = read of key, mat is vec"):
        verify_normal(bad)
