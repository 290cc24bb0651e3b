"""Cells as torch modules: `build`, `from_torch`, and `Stack`, which tasks train. Torch is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.nn.building import build as build
    from nas.nn.ensemble import Ensemble as Ensemble
    from nas.nn.module import CellModule as CellModule
    from nas.nn.module import State as State
    from nas.nn.stack import Stack as Stack
    from nas.nn.stack import detach_state as detach_state
    from nas.nn.torch_modules import from_torch as from_torch
    from nas.nn.trees import TreeModule as TreeModule

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "CellModule": "nas.nn.module",
        "Ensemble": "nas.nn.ensemble",
        "Stack": "nas.nn.stack",
        "State": "nas.nn.module",
        "TreeModule": "nas.nn.trees",
        "build": "nas.nn.building",
        "detach_state": "nas.nn.stack",
        "from_torch": "nas.nn.torch_modules",
    },
)
