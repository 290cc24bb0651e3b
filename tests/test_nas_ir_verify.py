"""One bad program for each rule of a legal one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from grammar import VEC, parse, zoo
from nas.errors import NasError
from nas.ir import RULES, Instr, Program, compile_program, verify

CELLS = {
    "lstm": compile_program(zoo("lstm")),
    "gla": compile_program(zoo("gla")),
    "ut": compile_program(zoo("ut")),
    "qrnn": compile_program(
        parse("cell q { state c: vec; c' = lerp(sigmoid(lin(x, shift(c))), c, lin(x)); out c' }")
    ),
    "scrn": compile_program(zoo("scrn")),
}


def edited(program: Program, first: str, **changes: object) -> Program:
    """The program with the first instruction of an operation changed."""
    k = next(k for k, i in enumerate(program.instrs) if i.op == first)
    instrs = list(program.instrs)
    instrs[k] = replace(instrs[k], **changes)  # type: ignore[arg-type]
    return replace(program, instrs=tuple(instrs))


def _first(program: Program, op: str) -> Instr:
    return next(i for i in program.instrs if i.op == op)


def _follows(program: Program) -> Program:
    """The program with a state that takes a value from after the loop."""
    first, *others = program.slots
    return replace(program, slots=(replace(first, next=program.out), *others))


def _uncast(program: Program) -> Program:
    """The program without the cast of its first product."""
    key, second = _first(program, "cast").args[0], _first(program, "mul").args[1]
    return edited(program, "mul", args=(key, second))


# rule -> bad programs, each with what the message says of it
BAD: dict[str, list[tuple[Callable[[], Program], str]]] = {
    "order": [
        (lambda: edited(CELLS["lstm"], "tanh", args=(99,)), "uses %99"),
        (lambda: replace(CELLS["lstm"], out=99), "a root is %99"),
    ],
    "known": [
        (lambda: edited(CELLS["lstm"], "tanh", op="tan"), "= tan"),
        (lambda: edited(CELLS["lstm"], "tanh", stage="never"), "the stage 'never'"),
    ],
    "arity": [(lambda: edited(CELLS["lstm"], "tanh", args=(0, 1)), "tanh has 2 operands")],
    "stages": [(lambda: edited(CELLS["lstm"], "tanh", stage="before"), "in `before` uses .* of `loop`")],
    "loop": [
        (lambda: edited(CELLS["lstm"], "state", stage="before"), "state in `before`"),
        (lambda: _follows(CELLS["scrn"]), "after the loop"),
    ],
    "slots": [
        (lambda: edited(CELLS["lstm"], "state", slot=7), "slot 7 of 2"),
        (lambda: edited(CELLS["lstm"], "tanh", slot=0), "tanh with slot 0"),
        (lambda: edited(CELLS["qrnn"], "shift", slot=0), "takes another value"),
    ],
    "weights": [
        (lambda: edited(CELLS["lstm"], "stack", maps=()), "with 0 maps"),
        (lambda: edited(CELLS["ut"], "attn", weight=-1), "with the weight -1"),
        (
            lambda: edited(CELLS["scrn"], "lin", maps=(replace(_first(CELLS["scrn"], "lin").maps[0], weight=9),)),
            "with the weight 9",
        ),
    ],
    "pieces": [
        (lambda: edited(CELLS["lstm"], "piece", attrs=(("index", 4),)), "piece 4 of stack"),
        (lambda: edited(CELLS["lstm"], "sigmoid", args=_first(CELLS["lstm"], "piece").args), "of a whole stack"),
    ],
    "region": [
        (lambda: replace(CELLS["ut"], region=None), "without a region"),
        (lambda: replace(CELLS["ut"], instrs=(*CELLS["ut"].instrs, Instr("tanh", (1,), VEC, "after"))), "of one round"),
    ],
    "joined": [(lambda: _uncast(CELLS["gla"]), "uses .* of key")],
}  # fmt: skip


def test_each_rule_has_a_bad_program() -> None:
    assert sorted(BAD) == sorted(rule.name for rule in RULES)


@pytest.mark.parametrize(("rule", "place"), [(rule, k) for rule, bad in BAD.items() for k in range(len(bad))])
def test_rule_is_broken(rule: str, place: int) -> None:
    make, message = BAD[rule][place]
    with pytest.raises(NasError, match=f"breaks the rule `{rule}` .*{message}"):
        verify(make(), aligned=True)


def test_legal_programs_pass() -> None:
    for program in CELLS.values():
        verify(program, aligned=True)
