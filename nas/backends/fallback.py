"""Cells that run slower than they could because something failed: said once for each reason, and counted."""

from __future__ import annotations

import warnings

from grammar import Cell

_REASONS: dict[Cell, str] = {}


def fell_back(cell: Cell, reason: str) -> None:
    """Note that a cell runs on the reference although a faster backend was meant to; warn if the reason is new."""
    new = reason not in _REASONS.values()
    _REASONS[cell] = reason
    if new:
        warnings.warn(
            f"cell {cell.name} runs on the slow reference backend: {reason}", RuntimeWarning, stacklevel=3
        )


def fallbacks() -> dict[Cell, str]:
    """What fell back in this process, and why."""
    return dict(_REASONS)
