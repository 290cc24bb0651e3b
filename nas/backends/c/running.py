"""A half of a layer with its library loaded: one call of C, from rows in to rows out.

What runs at each call is kept short: at small sizes, microseconds of Python count. All tensors of a call are in one
list; `place` tells where a key's tensor is in it.
"""

from __future__ import annotations

import ctypes
import mmap
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from nas.backends.c.compiler import each, kit
from nas.backends.c.world import Key
from nas.backends.steps import CPU

Values = list[Tensor | None]

_LARGE = 4 << 20  # bytes from which on memory is asked for in large pages
_PAGE = 2 << 20
_ADVICE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux has it


def room(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that C writes, whatever torch's default dtype and device are."""
    made = torch.empty(shape, dtype=dtype, device=CPU)
    if made.nbytes >= _LARGE:
        _in_large_pages(made.data_ptr(), made.nbytes)
    return made


def _in_large_pages(address: int, size: int) -> None:
    """Ask for large pages where memory is fresh: the system zeroes and hands out a page at a time, at the first touch.

    With pages of 4 KiB that takes a third of the time of a large call. Where it has none, the system says no, and
    nothing is lost.
    """
    first = -(-address // _PAGE) * _PAGE
    whole = (address + size - first) // _PAGE * _PAGE
    if _ADVICE is not None and whole > 0:
        _libc().madvise(first, whole, _ADVICE)


@cache
def _libc() -> ctypes.CDLL:
    found = ctypes.CDLL(None)
    found.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found


@dataclass(frozen=True)
class Geometry:
    """Where the rows of steps and sequences lie: row `t * step + b * sequence`, or at `offsets[t] + b * sequence`.

    `offsets` and `sizes` (sequences that are running) are int64 of each step, where sequences differ in length.
    """

    batch: int
    count: int
    step: int
    sequence: int
    rows: int
    reverse: bool = False
    offsets: Tensor | None = None
    sizes: Tensor | None = None
    numbers: tuple[array[int], array[int]] = field(init=False, compare=False)  # forward and backward
    layout: array[int] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        one = (self.batch, self.count, self.step, self.sequence)
        both = (array("q", (*one, self.reverse, self.rows)), array("q", (*one, not self.reverse, self.rows)))
        object.__setattr__(self, "numbers", both)
        pointers = (0 if t is None else t.data_ptr() for t in (self.offsets, self.sizes))
        object.__setattr__(self, "layout", array("q", pointers))


class Running:
    """A half, ready to run: its name, and the keys of the pointers that it takes.

    `backward` says that it goes through the steps the other way round.
    """

    def __init__(self, half: str, ports: Sequence[Key], weights: int, backward: bool = False) -> None:
        self.name, self.weights, self.back = f"recell_{half}", weights, int(backward)
        self.places: dict[Key, int] = {}
        self.pointers = [self.place(key) for key in ports]

    def attach(self, library: ctypes.CDLL) -> None:
        """Take the function from the library."""
        self.function = library[self.name]
        self.function.restype = ctypes.c_int
        self.function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        self.kit = kit()
        self.address = ctypes.cast(self.function, ctypes.c_void_p).value

    def place(self, key: Key) -> int:
        """Where the tensor for a key is among the values of a call; the first are the weights."""
        if key[0] == "w":
            return key[1]
        return self.places.setdefault(key, self.weights + len(self.places))

    def __call__(self, values: Values, geometry: Geometry, candidates: int = 0) -> None:
        """Compute into the tensors that `values` has for results; one that is None is not wanted or not given.

        With `candidates` all tensors have an axis over them before their own, and one call goes through it.
        """
        pointers = geometry.layout[:]
        pointers.extend([0 if (v := values[p]) is None else v.data_ptr() for p in self.pointers])
        given = (self.kit.buffer_info()[0], geometry.numbers[self.back].buffer_info()[0])
        if candidates:
            apart = array("q", (0, 0))  # of the layout, which is the same for all
            apart.extend([0 if (v := values[p]) is None else v.stride(0) * v.itemsize for p in self.pointers])
            last = (len(pointers), candidates, apart.buffer_info()[0])
            failed = each()(self.address, *given, pointers.buffer_info()[0], *last)
        else:
            failed = self.function(*given, pointers.buffer_info()[0])
        if failed == 2:
            raise IndexError("a token is not one of the table")
        if failed:
            raise MemoryError("there is no memory for the values of a compiled cell")
