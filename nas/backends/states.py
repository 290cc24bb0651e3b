"""Between the slots of a Program and those of its normal form, which compiled backends carry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.ir import Place


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
