"""A Program as text, for `recell show CELL --after PASS`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from grammar import Cell, show_number
from nas.errors import NasError
from nas.ir.adjoint import Adjoint, adjoint_cell, adjoint_tree
from nas.ir.normal import normal_cell, normal_tree
from nas.ir.passes import compile_program, passes
from nas.ir.program import STACK, STAGES, Instr, Program, Slot

_TITLES = {
    "const": "const    once, from weights alone",
    "before": "before   for all steps at once",
    "loop": "loop     in each step",
    "round": "round    in each round of the region",
    "after": "after    for all steps at once",
    "end": "end      once, from totals over all steps",
}


def show(program: Program, forward: Program | None = None) -> str:
    """The instructions by stage, one line each, then the slots and the output.

    `past` and `next` are slots of `forward`, by default of the program itself.
    """
    outer = (program if forward is None else forward).slots
    lines = [f"program {program.name} ({program.kind})"]
    for stage in STAGES:
        inside = [(k, i) for k, i in enumerate(program.instrs) if i.stage == stage]
        if inside:
            lines += ["", _TITLES[stage], *(_line(program, k, i, outer) for k, i in inside)]
    if program.region:
        r = program.region
        rounds = ", ".join(f"{program.slots[s].name}' = %{n}" for s, n in zip(r.slots, r.next, strict=True))
        lines += ["", f"region   at most {r.times} rounds until %{r.until}: {rounds}"]
    lines.append("")
    for slot, leaf in zip(program.slots, program.leaf or [None] * len(program.slots), strict=True):
        init = str(slot.init) if slot.init in ("learned", "x", -math.inf) else show_number(float(slot.init))
        window = f" x {slot.steps}" if slot.steps else ""
        at_leaf = "" if leaf is None else f", at a leaf %{leaf}"
        lines.append(f"slot     {slot.name}: {slot.type}{window} = {init}, then %{slot.next}{at_leaf}")
    lines.append(f"out      %{program.out}")
    return "\n".join(lines)


def show_after(cell: Cell, name: str) -> str:
    """The program of a cell after a pass, its normal form (`normal`), or its gradients (`adjoint`), as text.

    Raises NasError for an unknown name, and BuildError where a cell has no normal form.
    """
    if name == "normal":
        parts = normal_tree(cell) if cell.kind == "tree" else (normal_cell(cell),)
        return "\n\n".join(show(part.program) for part in parts)
    if name == "adjoint":
        adjoints = adjoint_tree(cell) if cell.kind == "tree" else (adjoint_cell(cell),)
        return "\n\n".join(show_adjoint(part) for part in adjoints)
    if name not in passes():
        raise NasError(f"there is no pass {name!r}; the passes are {', '.join(passes())}, normal, adjoint")
    return show(compile_program(cell, name))


def show_adjoint(adjoint: Adjoint) -> str:
    """A backward program, which of its values are gradients of what, and how matrices are computed again."""
    forward = adjoint.forward
    lines = [show(adjoint.backward), ""]
    lines += [] if adjoint.dx is None else [f"gradient x = %{adjoint.dx}"]
    for child in adjoint.children:
        lines.append(f"gradient {forward.slots[child.slot].name} of child {child.child} = %{child.value}")
    for gradient in adjoint.weights:
        array = forward.arrays[gradient.array]
        column = f"[..., {gradient.column}]" if gradient.column >= 0 else ""
        site = forward.weights[array.weight].site
        lines.append(f"gradient {site}.{array.spec.role}{column} += %{gradient.value}")
    kept = [f"%{k}" for k in adjoint.saved] + [forward.slots[s].name for s in adjoint.past]
    lines.append(f"kept     {', '.join(kept) or 'nothing'}")
    if adjoint.replay is not None:
        again = ", ".join(forward.slots[s].name for s in adjoint.replay.slots)
        lines += ["", f"{again} computed again, by", show(adjoint.replay.program, forward)]
    return "\n".join(lines)


def describe(program: Program, index: int, depth: int = 3) -> str:
    """The expression that an instruction stands for, as in `x * sigmoid(lin(x))`, cut off at a depth."""
    instr = program.instrs[index]
    if instr.op == "num":
        return show_number(float(instr.attr("value")))  # type: ignore[arg-type]
    if instr.op in ("state", "carry", "final"):
        return program.slots[instr.slot].name
    if instr.op == "child" and instr.slot < 0:
        return f"{instr.attr('child')}.{instr.attr('state')}"
    if instr.op == "x":
        return "x"
    if depth == 0:
        return "..."
    args = [describe(program, a, depth - 1) for a in instr.args]
    symbol = {"add": "+", "sub": "-", "mul": "*", "div": "/"}.get(instr.op)
    return f"({f' {symbol} '.join(args)})" if symbol else f"{instr.op}({', '.join(args)})"


def _line(program: Program, index: int, instr: Instr, outer: Sequence[Slot]) -> str:
    text = f"  %{index} = {instr.op}"
    if instr.op in ("state", "carry", "final", "child") and instr.slot >= 0:
        text += f" {program.slots[instr.slot].name}"
    if instr.op in ("past", "next"):
        text += f" {outer[instr.slot].name}"
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
