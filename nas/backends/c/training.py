"""What a step of training does besides the cell, in C: the head with its loss, and the optimiser.

Each has a plain form in torch, which also is what runs where this does not: on a GPU, for other dtypes, without a
compiler.
"""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.backends.c.compiler import kit, load, problem, training_text
from nas.backends.c.running import room
from nas.backends.once import first_order, transformed
from nas.backends.steps import CPU

_IGNORED = -100  # the target of rows that do not count, as torch has it
_MOST_CLASSES = 1 << 16  # with more, blocks of logits are few rows of much memory


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, *, plain: bool = False
) -> Tensor:
    """The mean cross entropy [] of the logits x W^T + b with `targets` `[n]` int64, for x `[n, D]` and weight `[V, D]`.

    In float32 on a CPU in one pass that never has all logits, and makes the gradients on the way. The mean is that of
    `torch.nn.functional.cross_entropy`: rows with a target of -100 do not count, and NaN is that of none. Raises
    IndexError for other targets that are no class.
    """
    if plain or not _takes(x, weight, bias) or not _fit(x, weight, bias, targets):
        logits = F.linear(x, weight, bias)
        logits = logits if logits.dtype is torch.float64 else logits.float()
        return F.cross_entropy(logits, targets)
    if torch.is_grad_enabled():
        found: Tensor = _Head.apply(x, weight, bias, targets)  # type: ignore[no-untyped-call]
        return found
    return _head(x.contiguous(), weight.contiguous(), bias.contiguous(), targets, ())


def can_step(parameters: Sequence[Tensor]) -> bool:
    """Whether `adamw_` takes these."""
    return _takes(*parameters) and all(p.is_contiguous() for p in parameters)


def adamw_(
    arrays: Sequence[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]],
    decays: Sequence[float],
    *,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    clip: float,
) -> float:
    """One step of AdamW in place, the norm of all gradients clipped to `clip`; returns that norm before.

    `arrays` has of each parameter its values, gradient, both moments and number of steps, as `torch.optim.AdamW` keeps
    them; `decays` its weight decay.
    """
    pointers = array("q", [tensor.data_ptr() for parts in arrays for tensor in parts])
    sizes = array("q", [parts[0].numel() for parts in arrays])
    decay = array("d", decays)
    norm: float = _library().recell_adamw(
        len(arrays), _address(pointers), _address(sizes), _address(decay), rate, *betas, eps, clip
    )
    torch.autograd.graph.increment_version([parts[0] for parts in arrays])
    return norm


def _takes(*tensors: Tensor) -> bool:
    if torch.compiler.is_compiling() or transformed() or problem() is not None:
        return False
    return all(
        t.device.type == "cpu" and t.dtype is torch.float32 and type(t) in (Tensor, torch.nn.Parameter)
        for t in tensors
    )


def _fit(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> bool:
    """Whether C can take these; where shapes or types do not fit one another, torch says so."""
    (classes, deep), rows = weight.shape if weight.dim() == 2 else (0, 0), targets.shape
    return (
        0 < classes <= _MOST_CLASSES
        and len(rows) == 1
        and rows[0] > 0
        and x.shape == (rows[0], deep)
        and bias.shape == (classes,)
        and targets.dtype is torch.int64
        and targets.device.type == "cpu"
    )


def _head(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """The mean loss; `gradients` are to hold those of x, weight and bias."""
    (rows, deep), classes = x.shape, len(weight)
    targets, loss = targets.contiguous(), ctypes.c_double()
    counted = int((targets != _IGNORED).sum())
    values = [tensor.data_ptr() for tensor in (x, weight, bias, targets)]
    places = [tensor.data_ptr() for tensor in gradients] or [0] * 3
    failed = _library().recell_cross_entropy(
        kit().buffer_info()[0], rows, classes, deep, *values, 1 / max(counted, 1), *places, ctypes.byref(loss)
    )
    if failed == 1:
        raise MemoryError("there is no memory for the logits of a head")
    if failed:
        raise IndexError(f"a target is none of the {classes} classes")
    return torch.tensor(loss.value / counted if counted else math.nan, dtype=torch.float32, device=CPU)


class _Head(torch.autograd.Function):
    """The head and its loss, with gradients made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        gradients = [room(t.shape) for t in (x, weight, bias)] if any(ctx.needs_input_grad) else []
        loss = _head(x, weight, bias, targets, gradients)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @first_order
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        if float(above) != 1:  # a loss by itself, as a training loop has it, needs no other pass
            gradients = [gradient * above for gradient in gradients]
        return (*gradients, None)


@cache
def _library() -> ctypes.CDLL:
    library = load(training_text())
    pointer, whole, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_double
    head = library.recell_cross_entropy
    head.restype = ctypes.c_int
    head.argtypes = (pointer, *[whole] * 3, *[pointer] * 4, ctypes.c_float, *[pointer] * 4)
    step = library.recell_adamw
    step.restype = real
    step.argtypes = (whole, *[pointer] * 3, *[real] * 5)
    return library


def _address(numbers: array[Any]) -> int:
    return numbers.buffer_info()[0]
