"""Manners of backward halves: what they have no derivative for, and whose memory gradients are in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable


def transformed() -> bool:
    """Whether this is inside a transform of torch.func."""
    return torch._C._are_functorch_transforms_active()


def refuse_transforms(*given: Sequence[Tensor | None]) -> None:
    """Raise NotImplementedError where what is wanted of `given` cannot see into compiled code.

    That is any transform of torch.func, and forward-mode derivatives: without gradients a tangent would be lost.
    """
    if transformed():
        raise NotImplementedError(
            "transforms of torch.func (grad, jvp, vmap and others) do not go through compiled cells; "
            'build the module with backend="reference" and solver="exact"'
        )
    if forward_ad._current_level >= 0 and any(
        value is not None and forward_ad.unpack_dual(value).tangent is not None
        for values in given
        for value in values
    ):
        raise NotImplementedError(
            "forward-mode derivatives (torch.autograd.forward_ad) do not go through compiled cells; "
            'build the module with backend="reference" and solver="exact"'
        )


def refuse_second_order() -> None:
    """Raise NotImplementedError in a backward half where gradients of its gradients are asked for."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            'gradients of gradients (create_graph=True) are not compiled; build the module with backend="reference"'
        )


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward half for gradients alone: where those of gradients are asked for it raises NotImplementedError.

    torch's `once_differentiable` says nothing when the incoming gradient needs none, as that of a sum: a penalty on
    gradients would count for nothing.
    """
    once = once_differentiable(backward)

    @functools.wraps(backward)
    def half(ctx: Any, *gradients: Any) -> Any:
        refuse_second_order()
        return once(ctx, *gradients)

    return half


def apart(values: Sequence[Tensor | None], given: Sequence[Tensor | None] = ()) -> list[Tensor | None]:
    """The same values, none in the memory of another or of what was given.

    torch keeps a gradient that it is handed as `.grad`, and adds to it in place: two weights must not share one.
    """
    seen = {value.untyped_storage().data_ptr() for value in given if value is not None}
    made = list(values)
    for k, value in enumerate(made):
        if value is not None:
            place = value.untyped_storage().data_ptr()
            if place in seen:
                made[k] = value.clone(memory_format=torch.contiguous_format)
            seen.add(place)
    return made
