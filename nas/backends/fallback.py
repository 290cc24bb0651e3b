"""Cells that run slower than they could because something failed: said once for each reason, and counted."""

from __future__ import annotations

import warnings

import torch

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


def said_elsewhere(cell: Cell, device: torch.device) -> None:
    """Note a cell that generated C was chosen for, and whose tensors lie on a GPU or the like."""
    if device.type not in ("cpu", "meta") and cell not in _REASONS and not torch.compiler.is_compiling():
        fell_back(cell, f"generated C is for tensors on a CPU, and these are on {device.type}")


def fallbacks() -> dict[Cell, str]:
    """What fell back in this process, and why."""
    return dict(_REASONS)
