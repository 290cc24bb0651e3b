"""One launch of a kernel: memory for what it gives, and its grid, over candidates too where tensors have their axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from nas.backends.triton.emit import Kernel
from nas.backends.triton.jit import load


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that a kernel writes."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel with all that it is given but tensors; of those, `pointers` has the rooms, and None for the others."""

    kernel: Kernel
    grid: tuple[int, int]
    scalars: tuple[int, int, int]  # steps, sequences, steps between two checkpoints
    even: bool
    pointers: tuple[Room | None, ...]


def launch(call: Call, layout: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor]:
    """The rooms of a call, filled. `layout` is where each step's rows begin and how many they are.

    Under torch.vmap, over candidates, one launch is for all of them: their axis is the grid's third.
    """
    if any(is_batchedtensor(tensor) for tensor in given):
        return list(_OverCandidates.apply(call, *layout, *given))  # type: ignore[no-untyped-call]
    return _launched(call, layout, given, [False] * len(given), 0)


def _launched(
    call: Call, layout: Sequence[Tensor], given: Sequence[Tensor], own: Sequence[bool], candidates: int
) -> list[Tensor]:
    """See `launch`. `own` says which tensors have the candidates' axis, first; with candidates all rooms have it."""
    kernel, lead = call.kernel, (candidates,) if candidates else ()
    tensors, strides, apart, made = [], [], [], []
    values = iter(zip(given, own, strict=True))
    for (kind, k), room in zip(kernel.pointers, call.pointers, strict=True):
        if room is not None:
            tensor, has = given[0].new_empty((*lead, *room.shape), dtype=room.dtype), bool(lead)
            made.append(tensor)
        else:
            tensor, has = next(values)
            inner = tensor[0] if has else tensor
            strided = kind == "load" and k in kernel.strided
            if not (_side_by_side(inner) if strided else inner.is_contiguous()):
                tensor = tensor.contiguous()
            if strided:
                strides.append(tensor.stride(int(has)))
        tensors.append(tensor)
        apart.append(tensor.stride(0) if has else 0)
    # One stage: the compiler's own pipelining would take shared memory twice for what products read.
    options = {"EVEN": call.even, "num_warps": kernel.tiles.warps, "num_stages": 1, "enable_fp_fusion": True}
    if kernel.registers is not None:
        options["maxnreg"] = kernel.registers
    if candidates:
        function, grid = load(over_candidates(kernel)), (*call.grid, candidates)
        function[grid](*call.scalars, *strides, *layout, *apart, *tensors, **options)
    else:
        load(kernel.text)[call.grid](*call.scalars, *strides, *layout, *tensors, **options)
    return made


class _OverCandidates(torch.autograd.Function):
    """What torch.vmap calls in place of a launch. Gradients are those of the whole layer: it has none."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(_launched(call, tensors[:2], tensors[2:], [False] * (len(tensors) - 2), 0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[int | None], call: Call, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        axes = in_dims[3:]
        given = [t if axis is None else t.movedim(axis, 0) for t, axis in zip(tensors[2:], axes, strict=True)]
        own = [axis is not None for axis in axes]
        made = _launched(call, tensors[:2], given, own, info.batch_size)
        return tuple(made), (0,) * len(made)


@lru_cache(maxsize=1024)
def over_candidates(kernel: Kernel) -> str:
    """A kernel's text with the candidates as the third axis of its grid; `apart` of each pointer is an argument."""
    names = [f"{kind}{k}" for kind, k in kernel.pointers]
    before, after = kernel.text.split("offsets, counts, ", 1)
    head, body = after.split("\n", 1)
    moved = [f"    {name} += tl.program_id(2).to(tl.int64) * apart_{name}" for name in names]
    given = "".join(f"apart_{name}, " for name in names)
    return f"{before}offsets, counts, {given}{head}\n" + "\n".join(moved) + f"\n{body}"


def _side_by_side(value: Tensor) -> bool:
    """Whether the numbers of each row lie together, however far it is to the next row."""
    one = value[:1]
    return one.is_contiguous() or one.stride()[1:] == torch.empty(one.shape, device="meta").stride()[1:]
