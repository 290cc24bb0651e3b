"""Between the slots of a Program and those of its normal form, which compiled backends carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from nas.ir import Instr, Normal, Place, Program, normal


@lru_cache(maxsize=256)
def normal_of(program: Program) -> Normal:
    """The normal form of a time Program after all passes. Raises BuildError like `normal`."""
    return normal(unstacked(program))


def unstacked(program: Program) -> Program:
    """The program with each `piece` of a `stack` as a `lin` of its own again, as before the pass `stack`."""
    instrs = list(program.instrs)
    for k, instr in enumerate(instrs):
        if instr.op == "piece":
            whole = program.instrs[instr.args[0]]
            one = whole.maps[int(instr.attr("index"))]  # type: ignore[arg-type]
            args = [whole.args[p] for p in range(len(one.parts))]
            if one.base >= 0:
                args.append(whole.args[one.base])
                one = replace(one, base=len(args) - 1)
            instrs[k] = Instr("lin", tuple(args), one.type, instr.stage, maps=(one,))
    kept = [k for k, i in enumerate(instrs) if i.op != "stack"]
    new = {old: place for place, old in enumerate(kept)}
    return replace(
        program,
        instrs=tuple(replace(instrs[k], args=tuple(new[a] for a in instrs[k].args)) for k in kept),
        slots=tuple(replace(s, next=new[s.next]) for s in program.slots),
        out=new[program.out],
        leaf=tuple(new[k] for k in program.leaf),
    )


def divided(state: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]:
    """The values of normal slots: parts of complex states and places of windows stand alone. Differentiable."""
    values = []
    for place in places:
        value = state[place.slot]
        if place.part:
            value = torch.view_as_real(value)[..., 0 if place.part == "re" else 1]
        values.append(value[:, place.step] if place.step >= 0 else value)
    return values


def united(values: Sequence[Tensor], places: Sequence[Place], count: int) -> tuple[Tensor, ...]:
    """The reverse: the values of `count` slots of the Program. Differentiable."""
    parts: list[list[Tensor]] = [[] for _ in range(count)]
    for value, place in zip(values, places, strict=True):
        parts[place.slot].append(value)
    kinds = {place.slot: place for place in places}
    made = []
    for s, found in enumerate(parts):
        if kinds[s].part:
            made.append(torch.complex(*found))
        elif kinds[s].step >= 0:
            made.append(torch.stack(found, 1))
        else:
            made.append(found[0])
    return tuple(made)
