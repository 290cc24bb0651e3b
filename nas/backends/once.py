"""What compiled cells have no derivative for: backward halves, and what torch.func asks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def transformed() -> bool:
    """Whether this is inside a transform of torch.func."""
    return torch._C._are_functorch_transforms_active()


def refuse_transforms() -> None:
    """Raise NotImplementedError inside a transform of torch.func, which cannot see into compiled code."""
    if transformed():
        raise NotImplementedError(
            "transforms of torch.func (grad, jvp, vmap and others) do not go through compiled cells; "
            'build the module with backend="reference" and solver="exact"'
        )


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward half for gradients alone: where those of gradients are asked for it raises NotImplementedError.

    torch's `once_differentiable` says nothing when the incoming gradient needs none, as that of a sum: a penalty on
    gradients would count for nothing.
    """
    once = once_differentiable(backward)

    @functools.wraps(backward)
    def half(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                'gradients of gradients (create_graph=True) are not compiled; build the module with backend="reference"'
            )
        return once(ctx, *gradients)

    return half
