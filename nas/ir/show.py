"""A Program as text, for `recell show CELL --after PASS`."""

from __future__ import annotations

from grammar import show_number
from nas.ir.program import STACK, STAGES, Instr, Program

_TITLES = {
    "const": "const    once, from weights alone",
    "before": "before   for all steps at once",
    "loop": "loop     in each step",
    "round": "round    in each round of the region",
    "after": "after    for all steps at once",
    "end": "end      once, from totals over all steps",
}


def show(program: Program) -> str:
    """The instructions by stage, one line each, then the slots and the output."""
    lines = [f"program {program.name} ({program.kind})"]
    for stage in STAGES:
        inside = [(k, i) for k, i in enumerate(program.instrs) if i.stage == stage]
        if inside:
            lines += ["", _TITLES[stage], *(_line(program, k, i) for k, i in inside)]
    if program.region:
        r = program.region
        rounds = ", ".join(f"{program.slots[s].name}' = %{n}" for s, n in zip(r.slots, r.next, strict=True))
        lines += ["", f"region   at most {r.times} rounds until %{r.until}: {rounds}"]
    lines.append("")
    for slot, leaf in zip(program.slots, program.leaf or [None] * len(program.slots), strict=True):
        init = slot.init if isinstance(slot.init, str) else show_number(slot.init)
        window = f" x {slot.steps}" if slot.steps else ""
        at_leaf = "" if leaf is None else f", at a leaf %{leaf}"
        lines.append(f"slot     {slot.name}: {slot.type}{window} = {init}, then %{slot.next}{at_leaf}")
    lines.append(f"out      %{program.out}")
    return "\n".join(lines)


def describe(program: Program, index: int, depth: int = 3) -> str:
    """The expression that an instruction stands for, as in `x * sigmoid(lin(x))`, cut off at a depth."""
    instr = program.instrs[index]
    if instr.op == "num":
        return show_number(float(instr.attr("value")))  # type: ignore[arg-type]
    if instr.op in ("state", "carry", "final"):
        return program.slots[instr.slot].name
    if instr.op == "child":
        return f"{instr.attr('child')}.{instr.attr('state')}"
    if instr.op == "x":
        return "x"
    if depth == 0:
        return "..."
    args = [describe(program, a, depth - 1) for a in instr.args]
    symbol = {"add": "+", "sub": "-", "mul": "*", "div": "/"}.get(instr.op)
    return f"({f' {symbol} '.join(args)})" if symbol else f"{instr.op}({', '.join(args)})"


def _line(program: Program, index: int, instr: Instr) -> str:
    text = f"  %{index} = {instr.op}"
    if instr.op in ("state", "carry", "final"):
        text += f" {program.slots[instr.slot].name}"
    if instr.weight >= 0:
        text += f" {program.weights[instr.weight].site}"
    for m in instr.maps:
        parts = ",".join(f"w{p}" for p in m.parts)
        text += f" {program.weights[m.weight].site}[{parts}{',b' if m.bias else ''}]"
        text += f"+%{instr.args[m.base]}" if m.base >= 0 else ""
    bases = {m.base for m in instr.maps}
    operands = [f"%{a}" for p, a in enumerate(instr.args) if p not in bases]
    operands += [f"{k}={v}" for k, v in instr.attrs]
    text += f"({', '.join(operands)})" if operands else ""
    return text if instr.type == STACK else f"{text:<46} {instr.type}"
