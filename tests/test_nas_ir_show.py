"""Programs as text."""

from __future__ import annotations

import pytest

from grammar import parse, zoo
from nas.errors import BuildError, NasError
from nas.ir import compile_program, describe, show, show_after

MGU = """\
program mgu (time)

before   for all steps at once
  %1 = x                                       in
  %2 = stack f[w0,b] h[w0,b](%1)
  %3 = piece(%2, index=0)                      vec
  %7 = piece(%2, index=1)                      vec

loop     in each step
  %0 = state h                                 vec
  %4 = lin f[w1]+%3(%0)                        vec
  %5 = sigmoid(%4)                             vec
  %6 = mul(%5, %0)                             vec
  %8 = lin h[w1]+%7(%6)                        vec
  %9 = tanh(%8)                                vec
  %10 = lerp(%5, %0, %9)                       vec

slot     h: vec = 0, then %10
out      %10"""


def test_program_is_shown_by_stage() -> None:
    assert show(compile_program(zoo("mgu"))) == MGU


def test_regions_leaves_and_windows_are_shown() -> None:
    ut = show(compile_program(zoo("ut")))
    assert "region   at most 6 rounds until %11: h' = %9" in ut
    assert "round    in each round of the region" in ut
    tree = show(compile_program(zoo("treelstm")))
    assert "at a leaf %" in tree
    assert "child(child=l, state=h)" in tree
    window = show(compile_program(parse("cell c { state h: vec = learned; h' = tanh(conv(h)); out h' }")))
    assert "slot     h: vec = learned, then %" in window
    assert "slot     conv1: vec x 3 = 0, then %0" in window


def test_expressions_are_described_to_a_depth() -> None:
    program = compile_program(
        parse("cell c { state h: vec; h' = h * tanh(1 - lin(exp(x))); out h' }"), "lower"
    )
    assert describe(program, program.out) == "(h * tanh((1 - ...)))"


def test_what_computes_matrices_again_names_the_slots_of_the_forward_program() -> None:
    again = show_after(zoo("mamba"), "adjoint").partition(" computed again, by\n")[2]
    read = {tuple(line.split()[2:4]) for line in again.splitlines() if " past " in line}
    assert read == {("past", "conv1"), ("past", "conv1.1"), ("past", "conv1.2")}
    assert "slot     S: mat = 0, then %" in again


ELMAN_ADJOINT = """\
program elman (time)

const    once, from weights alone
  %4 = num(value=1.0)                          num

before   for all steps at once
  %0 = dy                                      vec
  %3 = saved(of=7)                             vec
  %5 = mul(%3, %3)                             vec
  %6 = sub(%4, %5)                             vec
  %8 = past h                                  vec
  %11 = x                                      in

loop     in each step
  %1 = state h                                 vec
  %2 = add(%0, %1)                             vec
  %7 = mul(%2, %6)                             vec
  %10 = lin h(%7, role=w1, transpose=True)     vec

after    for all steps at once
  %13 = lin h(%7, role=w0, transpose=True)     in

end      once, from totals over all steps
  %9 = gram(%7, %8)                            block
  %12 = gram(%7, %11)                          block
  %14 = total(%7)                              vec

slot     h: vec = 0, then %10
out      %13

gradient x = %13
gradient h.w1 += %9
gradient h.w0 += %12
gradient h.b += %14
kept     %7, h"""


def test_adjoint_of_an_elman_cell_is_what_one_would_write() -> None:
    assert show_after(zoo("elman"), "adjoint") == ELMAN_ADJOINT


def test_normal_forms_and_adjoints_are_shown_of_time_and_tree_cells() -> None:
    assert "S computed again, by" in show_after(zoo("deltanet"), "adjoint")
    assert show_after(zoo("treelstm"), "normal").count("program treelstm") == 2
    assert "gradient h of child 1 = %" in show_after(zoo("treelstm"), "adjoint")
    assert show_after(zoo("mgu"), "stack") == MGU


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(NasError, match=r"no pass 'nromal'; the passes are lower, .*, stack, normal, adjoint"):
        show_after(zoo("mgu"), "nromal")
    with pytest.raises(BuildError, match="ut works on whole sequences"):
        show_after(zoo("ut"), "normal")
