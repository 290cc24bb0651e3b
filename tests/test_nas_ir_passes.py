"""The compiler's passes: legal after each of them, and each does what it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from strategies import cells

from grammar import Cell, parse, zoo, zoo_names
from nas.errors import NasError
from nas.ir import Instr, Program, compile_program, passes, verify

ALIGNED = passes().index("align")


def compiled(text: str, after: str | None = None) -> Program:
    return compile_program(parse("cell a { " + text + " }"), after)


def legal_throughout(cell: Cell) -> None:
    for place, name in enumerate(passes()):
        verify(compile_program(cell, name), aligned=place >= ALIGNED)


def stages(program: Program) -> dict[str, list[str]]:
    """The operations of each stage."""
    found: dict[str, list[str]] = {}
    for instr in program.instrs:
        found.setdefault(instr.stage, []).append(instr.op)
    return found


def only(program: Program, op: str) -> Instr:
    (found,) = [instr for instr in program.instrs if instr.op == op]
    return found


@pytest.mark.parametrize("name", zoo_names())
def test_known_cells_are_legal_after_each_pass(name: str) -> None:
    legal_throughout(zoo(name))


@given(cells(kinds=("time", "tree", "depth")))
def test_any_cell_is_legal_after_each_pass(cell: Cell) -> None:
    legal_throughout(cell)


def test_passes_are_named_in_order() -> None:
    assert passes() == ("lower", "drop_dead", "hoist", "delay", "split", "absorb", "align", "sink", "stack")


def test_unknown_pass_is_refused() -> None:
    with pytest.raises(NasError, match="no pass 'fuse'; the passes are lower, drop_dead"):
        compile_program(zoo("lstm"), "fuse")


def test_lstm_has_one_product_before_the_loop_and_one_in_it() -> None:
    found = stages(compile_program(zoo("lstm")))
    assert found["before"] == ["x", "stack", "piece", "piece", "piece", "piece"]
    assert found["loop"].count("stack") == 1
    assert "lin" not in found["loop"]
    assert "after" not in found


def test_a_buffer_is_not_called_as_a_state() -> None:
    text = "state shift1: vec, shift2: vec; shift1' = lin(x, shift(shift2)); shift2' = shift1; out shift1'"
    program = compiled(text, "lower")
    assert [slot.name for slot in program.slots] == ["shift1", "shift2", "shift3"]


def test_dead_lets_go_and_declared_states_stay() -> None:
    text = "state h: vec, c: vec; u = conv(x); v = lin(h); h' = tanh(lin(x, h)); c' = lin(x) + c; out h'"
    program = compiled(text, "drop_dead")
    assert [slot.name for slot in program.slots] == ["h", "c"]
    assert {program.weights[m.weight].site for i in program.instrs for m in i.maps} == {"h", "c"}
    assert len(compiled(text, "lower").slots) == 3


def test_arrays_are_those_of_all_weights() -> None:
    program = compiled("state h: vec; v = lin(h); h' = tanh(lin(x, h)); out h'")
    names = [(program.weights[a.weight].site, a.spec.role) for a in program.arrays]
    assert names == [("v", "w0"), ("v", "b"), ("h", "w0"), ("h", "w1"), ("h", "b")]


def test_hoist_leaves_only_what_sees_a_state() -> None:
    program = compiled("state h: vec; h' = sigmoid(param:vec()) * h + tanh(lin(x)); out h'", "hoist")
    found = stages(program)
    assert found["const"] == ["param", "sigmoid"]
    assert found["before"] == ["x", "lin", "tanh"]
    assert found["loop"] == ["state", "mul", "add"]


def test_delay_takes_states_without_recurrence_out_of_the_loop() -> None:
    text = "state p: vec, h: vec, q: vec; p' = lin(x); h' = tanh(lin(p, h)); q' = lin(h'); out q"
    program = compiled(text)
    assert [i.stage for i in program.instrs if i.op == "shift"] == ["before", "after"]
    assert [program.slots[i.slot].name for i in program.instrs if i.op == "state"] == ["h"]
    assert stages(program)["after"] == ["lin", "shift"]


def test_delay_keeps_states_that_depend_on_each_other() -> None:
    program = compiled("state a: vec, b: vec; a' = tanh(b); b' = lin(x) + a; out a'")
    assert {program.slots[i.slot].name for i in program.instrs if i.op == "state"} == {"a", "b"}


def test_delay_keeps_what_leads_from_one_recurrence_to_another() -> None:
    text = "state a: vec, b: vec, c: vec; a' = tanh(lin(x, a)); b' = a'; c' = tanh(lin(b, c)); out c'"
    program = compiled(text)
    assert {program.slots[i.slot].name for i in program.instrs if i.op == "state"} == {"a", "b", "c"}


def test_split_computes_the_part_of_x_at_once() -> None:
    program = compiled("state h: vec; h' = tanh(lin(h, x)); out h'")
    before, loop = (i for i in program.instrs if i.op == "lin")
    assert (before.stage, before.maps[0].parts, before.maps[0].bias) == ("before", (1,), True)
    assert (loop.stage, loop.maps[0].parts, loop.maps[0].bias) == ("loop", (0,), False)
    assert program.instrs[loop.args[loop.maps[0].base]] is before


@pytest.mark.parametrize("options", ["blocks=2", "rank=2"])
def test_split_leaves_special_maps_whole(options: str) -> None:
    program = compiled(f"state h: vec; h' = tanh(lin(h, x, {options})); out h'")
    assert only(program, "lin").maps[0].parts == (0, 1)


def test_absorb_makes_a_sum_one_product() -> None:
    program = compiled("state h: vec; h' = tanh(lin(x) + lin(h, bias=no)); out h'")
    assert "add" not in stages(program)["loop"]
    assert len(compiled("state h: vec; u = lin(h); h' = tanh(lin(x) + u); out u * h'", "absorb").instrs) == 7


def test_align_gives_operands_the_axes_of_the_result() -> None:
    program = compiled("state S: mat; S' = sigmoid(lin:key(x)) * S; out read(S', lin:key(x))")
    cast = only(program, "cast")
    assert (cast.stage, cast.type.kind) == ("before", "mat")


def test_sink_moves_what_only_the_output_needs() -> None:
    program = compile_program(zoo("scrn"))
    assert program.instrs[program.out].stage == "after"


def test_sink_leaves_readings_of_a_matrix_in_the_loop() -> None:
    program = compile_program(zoo("deltanet"))
    assert program.instrs[program.out].stage == "loop"
    assert all(i.type.kind != "mat" for i in program.instrs if i.stage == "after")


def test_stack_keeps_maps_of_different_operands_apart() -> None:
    program = compiled("state h: vec; u = tanh(lin(h)); h' = lin(u) + lin(h) * lin(x); out h'")
    assert only(program, "stack").args == (only(program, "state").slot,)


def test_rounds_are_a_stage_of_their_own() -> None:
    text = "state h: vec; depth 3 until(sigmoid(lin:scal(h))) { h' = tanh(lin(x, h)) }; out h'"
    program = compiled(text)
    assert {"lin", "tanh", "carry", "sigmoid"} <= {*stages(program)["round"]} | {"lin"}
    assert only(program, "final").stage == "loop"
    assert only(program, "carry").stage == "round"
