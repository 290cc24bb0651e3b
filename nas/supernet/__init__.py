"""One-shot search: a supernet over all cells of a sketch, trained once. Torch is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.supernet.architecture import Architecture as Architecture
    from nas.supernet.cost import Cost as Cost
    from nas.supernet.model import Supernet as Supernet
    from nas.supernet.options import SupernetOptions as SupernetOptions
    from nas.supernet.plan import check_supernet as check_supernet
    from nas.supernet.selection import Scored as Scored
    from nas.supernet.training import SupernetResult as SupernetResult
    from nas.supernet.training import train_supernet as train_supernet
    from nas.supernet.trial import train_trial as train_trial

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Architecture": "nas.supernet.architecture",
        "Cost": "nas.supernet.cost",
        "Scored": "nas.supernet.selection",
        "Supernet": "nas.supernet.model",
        "SupernetOptions": "nas.supernet.options",
        "check_supernet": "nas.supernet.plan",
        "SupernetResult": "nas.supernet.training",
        "train_supernet": "nas.supernet.training",
        "train_trial": "nas.supernet.trial",
    },
)
