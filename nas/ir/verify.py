"""What makes a Program legal, as data: tests check every rule after every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grammar import OPS, join
from nas.errors import NasError
from nas.ir.lowering import taps
from nas.ir.passes import joins, same_axes
from nas.ir.program import IR_OPS, STACK, STAGES, Instr, Program


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its name, what it says, and the faults it finds in a Program."""

    name: str
    doc: str
    faults: Callable[[Program], Iterator[str]]


def verify(program: Program, aligned: bool = False) -> None:
    """Raise NasError with the first fault of a Program. `aligned`: also the rules that hold after `align`."""
    for rule in RULES if aligned else RULES[:-1]:
        for fault in rule.faults(program):
            raise NasError(f"program {program.name} breaks the rule `{rule.name}` ({rule.doc}): {fault}")


def _each(program: Program) -> Iterator[tuple[str, Instr]]:
    for k, instr in enumerate(program.instrs):
        yield f"%{k} = {instr.op}", instr


def _order(program: Program) -> Iterator[str]:
    for k, instr in enumerate(program.instrs):
        for a in instr.args:
            if not 0 <= a < k:
                yield f"%{k} = {instr.op} uses %{a}"
    for root in program.roots:
        if not 0 <= root < len(program.instrs):
            yield f"a root is %{root} of {len(program.instrs)} instructions"


def _known(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        if instr.op not in OPS and instr.op not in IR_OPS:
            yield name
        elif instr.stage not in STAGES:
            yield f"{name} in the stage {instr.stage!r}"


def _arity(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        if instr.op in OPS and instr.op != "lin":
            least, most = OPS[instr.op].arity
        elif instr.op in ("lin", "stack"):
            least = len(instr.maps[0].parts) if instr.maps else 1
            most = least + sum(m.base >= 0 for m in instr.maps)
        elif instr.op == "final":
            least = most = 1 + len(program.region.next) if program.region else len(instr.args)
        else:
            least = most = 1 if instr.op in ("cast", "piece", "carry") else 0
        if len(instr.args) < least or (most is not None and len(instr.args) > most):
            yield f"{name} has {len(instr.args)} operands"


def _stages(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        for a in instr.args:
            early = STAGES.index(program.instrs[a].stage) <= STAGES.index(instr.stage)
            if not early and instr.op != "final":
                yield f"{name} in `{instr.stage}` uses %{a} of `{program.instrs[a].stage}`"


def _loop(program: Program) -> Iterator[str]:
    stepwise = "before" if program.kind == "depth" else "loop"
    allowed = {"state": (stepwise,), "final": (stepwise, "after"), "child": ("loop",), "carry": ("round",)}
    for name, instr in _each(program):
        if instr.stage not in (*allowed.get(instr.op, STAGES), "loop"):
            yield f"{name} in `{instr.stage}`"
        if instr.op == "state" and program.kind == "time":
            slot = program.slots[instr.slot]
            if program.instrs[slot.next].stage == "after":
                yield f"{name} of {slot.name}, whose new value is computed after the loop"


def _slots(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        buffered = instr.op == "shift" or (instr.op == "conv" and taps(instr) > 1)
        stateful = instr.op in ("state", "carry", "final") or (buffered and program.kind == "time")
        if stateful != (0 <= instr.slot < len(program.slots)):
            yield f"{name} with slot {instr.slot} of {len(program.slots)}"
        elif instr.op in ("shift", "conv") and stateful and program.slots[instr.slot].next != instr.args[0]:
            yield f"{name}, whose slot takes another value than its operand"


def _weights(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        if instr.op in ("lin", "stack"):
            if not instr.maps or (instr.op == "lin" and len(instr.maps) > 1):
                yield f"{name} with {len(instr.maps)} maps"
            for m in instr.maps:
                if not 0 <= m.weight < len(program.weights) or program.weights[m.weight].op != "lin":
                    yield f"{name} with the weight {m.weight}"
                elif m.base >= len(instr.args) or len(m.parts) > len(instr.args):
                    yield f"{name} with a base at {m.base} and {len(m.parts)} parts of {len(instr.args)} operands"
        elif instr.op in OPS and (OPS[instr.op].weights is not None) != (instr.weight >= 0):
            yield f"{name} with the weight {instr.weight}"


def _pieces(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        if instr.op == "piece":
            whole, index = program.instrs[instr.args[0]], int(instr.attr("index", -1))  # type: ignore[arg-type]
            if (
                whole.op != "stack"
                or not 0 <= index < len(whole.maps)
                or whole.maps[index].type != instr.type
            ):
                yield f"{name} {index} of {whole.op}"
        elif any(program.instrs[a].type == STACK for a in instr.args):
            yield f"{name} of a whole stack"


def _region(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        if instr.op in ("carry", "final") and program.region is None:
            yield f"{name} without a region"
        if instr.op != "final" and instr.stage != "round":
            yield from (
                f"{name} uses %{a} of one round" for a in instr.args if program.instrs[a].stage == "round"
            )
    for root in () if program.region is None else (program.region.until, *program.region.next):
        if program.instrs[root].stage == "after":
            yield f"%{root} is computed after the rounds"


def _joined(program: Program) -> Iterator[str]:
    for name, instr in _each(program):
        if joins(instr.op):
            for a in instr.args:
                kind = program.instrs[a].type
                if not same_axes(kind.kind, instr.type.kind) or join(kind, instr.type) is None:
                    yield f"{name} of {instr.type} uses %{a} of {kind}"


RULES = (
    Rule("order", "an instruction uses earlier ones", _order),
    Rule("known", "operations and stages are those of the tables", _known),
    Rule("arity", "an operation has as many operands as its row says", _arity),
    Rule("stages", "a value is computed no earlier than what it uses", _stages),
    Rule("slots", "states, shifts and convs have a slot; a buffer takes the operand", _slots),
    Rule(
        "loop",
        "states are read in the loop, where their new values are, and carried values in a round",
        _loop,
    ),
    Rule("weights", "operations with weights name them", _weights),
    Rule("pieces", "a stack is used by its pieces alone", _pieces),
    Rule("region", "what is not in a round sees only the final values of all rounds", _region),
    Rule("joined", "the operands of an elementwise operation have the axes of its result", _joined),
)
