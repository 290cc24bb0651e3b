"""Cells that run slower than they could because something failed: said once for each reason, and counted."""

from __future__ import annotations

import warnings

_FOUND: list[tuple[str, str]] = []


def fell_back(cell: str, reason: str) -> None:
    """Note that a cell runs on the reference although a faster backend was meant to; warn if the reason is new."""
    new = reason not in {known for _, known in _FOUND}
    _FOUND.append((cell, reason))
    if new:
        warnings.warn(
            f"cell {cell} runs on the slow reference backend: {reason}", RuntimeWarning, stacklevel=3
        )


def fallbacks() -> tuple[tuple[str, str], ...]:
    """What fell back in this process: names of cells, with reasons."""
    return tuple(_FOUND)
