"""A predictor over HTTP: cells as JSON in, what to expect of them out. Ray is behind `nas.serving.cluster` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.serving.answers import Answerer as Answerer
    from nas.serving.application import Application as Application
    from nas.serving.cluster import serve as serve
    from nas.serving.desk import BusyError as BusyError
    from nas.serving.desk import Desk as Desk
    from nas.serving.limits import Limits as Limits
    from nas.serving.pages import open_api as open_api

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Answerer": "nas.serving.answers",
        "Application": "nas.serving.application",
        "BusyError": "nas.serving.desk",
        "Desk": "nas.serving.desk",
        "Limits": "nas.serving.limits",
        "open_api": "nas.serving.pages",
        "serve": "nas.serving.cluster",
    },
)
