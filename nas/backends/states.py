"""What compiled backends share: which cells have a normal form, and how its slots lie in those of the Program."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grammar import Cell
from nas.errors import BuildError
from nas.ir import Place, normal_cell, normal_tree


def refused(cell: Cell, kinds: Sequence[str]) -> str | None:
    """Why a backend that renders normal forms of cells of these kinds cannot run a cell; None where it can."""
    if cell.kind not in kinds:
        able = " and ".join({"time": "time", "tree": "trees"}[kind] for kind in kinds)
        why = ": products and attention over whole sequences stay with torch" if cell.kind == "depth" else ""
        return f"it runs cells over {able}, and this is a {cell.kind} cell{why}"
    try:
        if cell.kind == "tree":
            normal_tree(cell)
        else:
            normal_cell(cell)
    except BuildError as error:
        return str(error)
    return None


def divided(state: Sequence[Tensor], places: Sequence[Place], axis: int = 1) -> list[Tensor]:
    """The values of normal slots: parts of complex states and places of windows stand alone. Differentiable.

    `axis` is the one over a window's steps.
    """
    values = []
    for place in places:
        value = state[place.slot]
        if place.part:
            value = torch.view_as_real(value.resolve_conj())[..., 0 if place.part == "re" else 1]
        values.append(value.select(axis, place.step) if place.step >= 0 else value)
    return values


def united(
    values: Sequence[Tensor], places: Sequence[Place], count: int, axis: int = 1
) -> tuple[Tensor, ...]:
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
            made.append(torch.stack(found, axis))
        else:
            made.append(found[0])
    return tuple(made)
