"""Memory that calls of C work in, which nobody reads after them: one buffer for each thread, kept between calls.

What is freed after every call, the C library gives back to the system once it is enough, and the system hands it out
again page by page and full of zeros: between the steps of a training loop that took up to a fifth of a cell's time.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from nas.backends.c.running import Values, room

MOST = 16 * 1024 * 1024  # floats of a buffer that is kept; a larger one is made for each call
_LINE = 16  # floats of a line of the processor's cache, where parts begin

Lent = tuple[Tensor, int]  # a buffer, and how many of its floats are lent


class _Kept(threading.local):
    buffer: Tensor | None = None


_kept = _Kept()


def lend(values: Values, passing: Sequence[tuple[int, int]], rows: tuple[int, ...]) -> Lent:
    """Put memory for rows that are written and read in one call alone into `values`, until `give_back`.

    `passing` has of each its place there and its floats; `rows` is how many, after the axis over candidates if there is
    one: these follow each other, in the same memory. What a call returns or saves must not be such rows. A call inside
    of another, as from a hook, gets a buffer of its own, for the thread has none to lend then.
    """
    sizes = [-(-rows[-1] * floats // _LINE) * _LINE for _, floats in passing]
    total, first = sum(sizes), 0
    buffer = _borrowed(total)
    for (place, _), size in zip(passing, sizes, strict=True):
        part = buffer.narrow(0, first, size) if first else buffer
        values[place] = part.expand(*rows[:-1], *part.shape) if len(rows) > 1 else part
        first += size
    return buffer, total


def give_back(lent: Lent) -> None:
    """End what `lend` began. A buffer that does not come back, as after an error, is freed like any tensor."""
    buffer, floats = lent
    _poison(buffer, floats)
    kept = _kept.buffer
    if floats <= MOST and (kept is None or kept.numel() < buffer.numel()):
        _kept.buffer = buffer


def _borrowed(floats: int) -> Tensor:
    """A vector of at least so many floats, which is the caller's alone."""
    if floats > MOST:
        return room((floats,))
    buffer, _kept.buffer = _kept.buffer, None
    if buffer is None or buffer.numel() < floats:
        buffer = None  # freed before there is another one
        buffer = room((floats,))
    _poison(buffer, floats)
    return buffer


def _poison(buffer: Tensor, floats: int) -> None:
    """Fill it with NaN where torch fills fresh memory: reading what was not written, or was given back, must show."""
    fills = torch.utils.deterministic
    if torch.are_deterministic_algorithms_enabled() and fills.fill_uninitialized_memory:  # type: ignore[attr-defined]
        ctypes.memset(buffer.data_ptr(), 0xFF, 4 * floats)  # in any mode of autograd
