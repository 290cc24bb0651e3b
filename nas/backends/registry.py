"""The backends by name."""

from __future__ import annotations

from functools import lru_cache

from grammar import Cell, Sizes, suggest
from nas.backends.base import Backend, Runner, TreeRunner
from nas.backends.c.backend import C
from nas.backends.fallback import fell_back
from nas.backends.reference import Reference
from nas.backends.triton.backend import TritonBackend
from nas.errors import BuildError

_BACKENDS: dict[str, Backend] = {}


def register_backend(backend: Backend) -> Backend:
    """Add a backend; `auto` prefers those added later. Raises BuildError where the name is taken."""
    if backend.name in (*_BACKENDS, "auto"):
        raise BuildError(f"a backend is registered once, but {backend.name!r} is there already")
    _BACKENDS[backend.name] = backend
    return backend


def backend_names() -> tuple[str, ...]:
    """The names of all backends, whether they work here or not."""
    return tuple(_BACKENDS)


def choose(name: str, cell: Cell, candidates: bool = False) -> Backend:
    """The backend called `name`, or for "auto" the best one here that can run the cell; `candidates`: side by side.

    Where "auto" is left with the reference for a cell that a faster backend is meant for, it warns and keeps count
    (`fallbacks`).

    Raises BuildError for an unknown name, and where the backend does not work here or cannot run the cell.
    """
    if name == "auto":
        fit = [b for b in _BACKENDS.values() if b.candidates or not candidates]
        able = [b for b in fit if b.available() is None and b.refuses(cell) is None]
        # The reference refuses least: what it cannot run, it explains best.
        best = able[-1] if able else choose("reference", cell)
        if isinstance(best, Reference):
            meant = [b for b in _BACKENDS.values() if cell.kind in b.meant_for]
            for backend in meant:
                fell_back(
                    cell, f"the backend {backend.name!r}: {backend.available() or backend.refuses(cell)}"
                )
        return best
    if name not in _BACKENDS:
        known = ", ".join(("auto", *_BACKENDS))
        raise BuildError(f"unknown backend {name!r}{suggest(name, _BACKENDS)}; the backends are {known}")
    reason = _BACKENDS[name].available() or _BACKENDS[name].refuses(cell)
    if reason:
        raise BuildError(f"the backend {name!r} cannot run cell {cell.name!r}: {reason}")
    return _BACKENDS[name]


@lru_cache(maxsize=256)
def runner(name: str, cell: Cell, sizes: Sizes) -> Runner:
    """The compiled cell, kept for the next caller. Raises BuildError like `choose`."""
    return choose(name, cell).compile(cell, sizes, fallback=name == "auto")


@lru_cache(maxsize=256)
def candidates_runner(name: str, cell: Cell, sizes: Sizes) -> Runner:
    """The same for candidates side by side."""
    return choose(name, cell, candidates=True).compile_candidates(cell, sizes, fallback=name == "auto")


@lru_cache(maxsize=256)
def tree_runner(name: str, cell: Cell, sizes: Sizes) -> TreeRunner:
    """The same for a tree cell."""
    return choose(name, cell).compile_tree(cell, sizes, fallback=name == "auto")


register_backend(Reference())
register_backend(C())
register_backend(TritonBackend())
