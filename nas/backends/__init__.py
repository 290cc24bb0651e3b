"""Ways to run a Program on tensors: the reference in eager torch, and what is faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.backends.base import Backend as Backend
    from nas.backends.base import FlexibleRunner as FlexibleRunner
    from nas.backends.base import FlexibleTreeRunner as FlexibleTreeRunner
    from nas.backends.base import Runner as Runner
    from nas.backends.base import TreeRunner as TreeRunner
    from nas.backends.fallback import fallbacks as fallbacks
    from nas.backends.levels import merged as merged
    from nas.backends.newton.runner import NewtonCount as NewtonCount
    from nas.backends.newton.runner import NewtonRunner as NewtonRunner
    from nas.backends.registry import backend_names as backend_names
    from nas.backends.registry import candidates_runner as candidates_runner
    from nas.backends.registry import choose as choose
    from nas.backends.registry import register_backend as register_backend
    from nas.backends.registry import runner as runner
    from nas.backends.registry import tree_runner as tree_runner
    from nas.backends.renderings import RENDERINGS as RENDERINGS
    from nas.backends.renderings import register_rendering as register_rendering
    from nas.backends.steps import Steps as Steps

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "RENDERINGS": "nas.backends.renderings",
        "Backend": "nas.backends.base",
        "FlexibleRunner": "nas.backends.base",
        "FlexibleTreeRunner": "nas.backends.base",
        "NewtonCount": "nas.backends.newton.runner",
        "NewtonRunner": "nas.backends.newton.runner",
        "Runner": "nas.backends.base",
        "Steps": "nas.backends.steps",
        "TreeRunner": "nas.backends.base",
        "backend_names": "nas.backends.registry",
        "candidates_runner": "nas.backends.registry",
        "choose": "nas.backends.registry",
        "fallbacks": "nas.backends.fallback",
        "merged": "nas.backends.levels",
        "register_backend": "nas.backends.registry",
        "register_rendering": "nas.backends.renderings",
        "runner": "nas.backends.registry",
        "tree_runner": "nas.backends.registry",
    },
)
