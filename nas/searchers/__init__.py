"""Searchers: they propose cells and learn from what came of them. No torch, no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.searchers.base import Observation as Observation
    from nas.searchers.base import Proposal as Proposal
    from nas.searchers.base import Searcher as Searcher
    from nas.searchers.base import SpaceLike as SpaceLike
    from nas.searchers.metrics import MEASURED as MEASURED
    from nas.searchers.metrics import METRICS as METRICS
    from nas.searchers.metrics import OBJECTIVES as OBJECTIVES
    from nas.searchers.pareto import crowding as crowding
    from nas.searchers.pareto import front as front
    from nas.searchers.pareto import fronts as fronts
    from nas.searchers.registry import make_searcher as make_searcher
    from nas.searchers.registry import searcher_names as searcher_names

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "MEASURED": "nas.searchers.metrics",
        "METRICS": "nas.searchers.metrics",
        "OBJECTIVES": "nas.searchers.metrics",
        "Observation": "nas.searchers.base",
        "Proposal": "nas.searchers.base",
        "Searcher": "nas.searchers.base",
        "SpaceLike": "nas.searchers.base",
        "crowding": "nas.searchers.pareto",
        "front": "nas.searchers.pareto",
        "fronts": "nas.searchers.pareto",
        "make_searcher": "nas.searchers.registry",
        "searcher_names": "nas.searchers.registry",
    },
)
