"""Programs as text."""

from __future__ import annotations

from grammar import parse, zoo
from nas.ir import compile_program, describe, show

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
