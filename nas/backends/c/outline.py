"""What calls of a layer need to know besides its library, and how the cache keeps it.

To find it out anew takes most of the time from a text to the first step, so it lies beside the library as JSON. It is
filed under what it follows from: the cell, its sizes, the code that makes layers, the compiler and the processor. It
ends with its own digest, and holds that of the library; what does not fit is made anew.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from grammar import Cell, Sizes
from nas.backends.c import compiler
from nas.backends.c.world import Key
from nas.ir import compile_program, expanded_by_users

_CODE = ("grammar/*.py", "grammar/*.lark", "nas/ir/*.py", "nas/backends/*.py", "nas/backends/c/*")


@dataclass(frozen=True)
class Slotted:
    """A state as a caller knows it: its shape without batch, whether it is complex, its start (None: always given)."""

    shape: tuple[int, ...]
    complex: bool
    start: float | None


def slots_of(cell: Cell, sizes: Sizes) -> list[Slotted]:
    """The states of a cell as callers give them."""
    found = []
    for slot in compile_program(cell).slots:
        shape = ((slot.steps,) if slot.steps else ()) + sizes.shape(slot.type)
        start = None if isinstance(slot.init, str) else float(slot.init)
        found.append(Slotted(shape, slot.type.is_complex, start))
    return found


@dataclass(frozen=True)
class Outline:
    """A layer as its calls see it; tuples and numbers alone.

    `ports` are the pointers that the forward and the backward function take, in order. `made` are the floats of a row
    that the forward half makes for both halves, for the backward half, and for itself, and `own_back` those that the
    backward half makes for itself. `shapes` are those of the arrays; `sums` the floats of each sum over rows, and
    `summands` says of each array which sums make up its gradient, each for a place of its last axis (-1: for all).
    `checkpoints` are slots and their floats, stored each `every` steps; `window` the floats of what a sequence begins
    with that the backward half reads (delays.py). `seen` has the arrays that the output depends
    on, then those that each state does. `x_rows` and `dx_rows`: of a table that x is rows of, and of its gradient,
    whether all rows are needed as well.
    """

    ports: tuple[tuple[Key, ...], tuple[Key, ...]]
    made: tuple[int, ...]
    own_back: int
    shapes: tuple[tuple[int, ...], ...]
    sums: tuple[int, ...]
    summands: tuple[tuple[tuple[int, int], ...], ...]
    checkpoints: tuple[tuple[int, int], ...]
    every: int
    window: int
    seen: tuple[tuple[int, ...], ...]
    x_rows: bool
    dx_rows: bool
    has_dx: bool
    keeps_y: bool


def recalled(cell: Cell, sizes: Sizes, lanes: int) -> tuple[Outline, ctypes.CDLL] | None:
    """What an earlier process made of a cell, and its library; None where the cache has not both, whole."""
    name = _name(cell, sizes, lanes)
    content = None if name is None else compiler.kept(name)
    if content is None:
        return None
    try:
        found = json.loads(content)
        if found["of"] != _of(cell, sizes, lanes):
            return None
        outline = Outline(**{field.name: _tuples(found[field.name]) for field in fields(Outline)})
        library = compiler.found(found["library"], bytes.fromhex(found["digest"]))
    except (ValueError, TypeError, KeyError):  # sealed, but not by `remember`
        return None
    return None if library is None else (outline, library)


def remember(cell: Cell, sizes: Sizes, lanes: int, outline: Outline, text: str) -> None:
    """Keep the outline of a layer beside its library, if that is in the cache."""
    name, library = _name(cell, sizes, lanes), compiler.library_name(text)
    digest = compiler.digest_of(library)
    if name is not None and digest is not None:
        facts = {"of": _of(cell, sizes, lanes), "library": library, "digest": digest.hex(), **asdict(outline)}
        compiler.keep(name, json.dumps(facts).encode())


def _of(cell: Cell, sizes: Sizes, lanes: int) -> list[Any]:
    return [str(cell), sizes.input_size, sizes.hidden_size, sizes.heads, sizes.key_size, lanes]


def _name(cell: Cell, sizes: Sizes, lanes: int) -> str | None:
    """The name of a layer's file. None where its text does not say all: operations may be a user's own."""
    code = _code()
    if code is None or expanded_by_users(cell):
        return None
    return compiler.digest(json.dumps([code, *_of(cell, sizes, lanes)])) + ".json"


@cache
def _code() -> str | None:
    """A digest of the code that makes layers out of cells; None where it cannot be read."""
    root = Path(__file__).parents[3]
    found = hashlib.sha256()
    files = sorted(path for pattern in _CODE for path in root.glob(pattern) if path.is_file())
    if Path(__file__) not in files:
        return None
    for path in files:
        content = path.read_bytes()
        found.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
