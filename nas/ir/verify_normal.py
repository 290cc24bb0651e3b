"""What makes a normal program legal (forward, backward or a replay), as data: tests check every rule on all of them."""

from __future__ import annotations

from collections.abc import Iterator

from grammar import KEY, MAT, NUM, VEC
from nas.errors import NasError
from nas.ir.builder import BINARY, ONE, UNARY
from nas.ir.normal import PRIMITIVES
from nas.ir.program import STAGES, Instr, Program
from nas.ir.verify import Rule

_VECTORS = ("in", "vec")
_FEWER = {"scal": ("key", "vec", "mat"), "key": ("mat",), "vec": ("mat",), "in": ("mat",)}


def verify_normal(program: Program) -> None:
    """Raise NasError with the first fault of a normal program."""
    for rule in NORMAL_RULES:
        for fault in rule.faults(program):
            raise NasError(
                f"normal program {program.name} breaks the rule `{rule.name}` ({rule.doc}): {fault}"
            )


def _each(program: Program) -> Iterator[tuple[str, Instr]]:
    for k, instr in enumerate(program.instrs):
        yield f"%{k} = {instr.op}", instr


def _order(program: Program) -> Iterator[str]:
    for k, instr in enumerate(program.instrs):
        yield from (f"%{k} = {instr.op} uses %{a}" for a in instr.args if not 0 <= a < k)
    yield from (f"a root is %{r}" for r in program.roots if not 0 <= r < len(program.instrs))


def _known(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        if instr.op not in PRIMITIVES:
            yield name
        elif len(instr.args) != PRIMITIVES[instr.op]:
            yield f"{name} has {len(instr.args)} operands"


def _types(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        types = [program.instrs[a].type for a in instr.args]
        result = instr.type
        if result.is_complex:
            yield f"{name} is {result}"
        elif instr.op in UNARY or instr.op in BINARY:
            same = {"vec" if t.kind in _VECTORS else str(t) for t in (*types, result)} - {str(NUM)}
            if len(same) > 1 or (result == NUM and same):
                yield f"{name} of {', '.join(map(str, types))} is {result}"
        elif instr.op in ("cast", "reduce"):
            small, large = (types[0], result) if instr.op == "cast" else (result, types[0])
            spread = (instr.op == "cast" and small == NUM) or large.kind in _FEWER.get(small.kind, ())
            whole = small == ONE and large.kind in ("in", "vec", "mem")
            split = small.kind == "scal" and large.kind == "in"
            if not (spread or whole or split):
                yield f"{name} of {types[0]} is {result}"
        elif instr.op in _SHAPES:
            kinds = ["vec" if t.kind == "in" else t.kind for t in (*types, result)]
            if kinds != _SHAPES[instr.op]:
                yield f"{name} of {', '.join(map(str, types))} is {result}"


_SHAPES = {
    "outer": [KEY.kind, VEC.kind, MAT.kind],
    "read": [MAT.kind, KEY.kind, VEC.kind],
    "readt": [MAT.kind, VEC.kind, KEY.kind],
    "tokey": [VEC.kind, KEY.kind],
    "toval": [KEY.kind, VEC.kind],
}


def _slots(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        if instr.op in ("state", "child"):
            if not 0 <= instr.slot < len(program.slots):
                yield f"{name} with slot {instr.slot} of {len(program.slots)}"
            elif program.slots[instr.slot].type != instr.type:
                yield f"{name} of type {instr.type}, but the slot is {program.slots[instr.slot].type}"
        elif (instr.slot >= 0) != (instr.op in ("past", "next")):
            yield f"{name} with slot {instr.slot}"
    for slot in program.slots:
        following = program.instrs[slot.next].type
        if following != slot.type and {following.kind, slot.type.kind} != set(_VECTORS):
            yield f"slot {slot.name} is {slot.type}, its new value {following}"


def _weights(program: Program) -> Iterator[str]:
    known = {(a.weight, a.spec.role): a.spec for a in program.arrays}
    for name, instr in _each(program):
        if instr.op not in ("lin", "param"):
            if instr.weight >= 0:
                yield f"{name} with the weight {instr.weight}"
            continue
        spec = known.get((instr.weight, str(instr.attr("role"))))
        if spec is None:
            yield f"{name} of the array {instr.attr('role')!r} of weight {instr.weight}"
        elif instr.op == "lin" and len(spec.shape) != (2 if instr.attr("blocks", 1) == 1 else 3):
            yield f"{name} of an array with {len(spec.shape)} axes"


def _stages(program: Program) -> Iterator[str]:
    once = ("const", "end")
    for name, instr in _each(program):
        for a in instr.args:
            other = program.instrs[a].stage
            if instr.op in ("total", "gram") and instr.stage == "end":
                continue
            if STAGES.index(other) > STAGES.index(instr.stage) or (instr.stage in once and other not in once):
                yield f"{name} in `{instr.stage}` uses %{a} of `{other}`"


NORMAL_RULES = (
    Rule("order", "an instruction uses earlier ones", _order),
    Rule("known", "it is made of primitives with their operands", _known),
    Rule("types", "values are real, and elementwise operands have the axes of the result", _types),
    Rule("slots", "what reads a slot has its type, and so has the slot's new value", _slots),
    Rule("weights", "`lin` and `param` name an array of a weight", _weights),
    Rule("stages", "a value is computed no earlier than what it uses", _stages),
)
