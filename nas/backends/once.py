"""Backward halves that have no gradient themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable


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
