"""Campaigns: a search over hours, workers and sittings, and the record of it. `open_run` needs no torch and no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.campaign.cleaning import Cleaned as Cleaned
    from nas.campaign.cleaning import clean as clean
    from nas.campaign.config import SearchConfig as SearchConfig
    from nas.campaign.entries import Contender as Contender
    from nas.campaign.entries import Retraining as Retraining
    from nas.campaign.entries import TrialRecord as TrialRecord
    from nas.campaign.journal import Event as Event
    from nas.campaign.launch import resume as resume
    from nas.campaign.launch import search as search
    from nas.campaign.launch import start as start
    from nas.campaign.record import Run as Run
    from nas.campaign.record import open_run as open_run

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Cleaned": "nas.campaign.cleaning",
        "Contender": "nas.campaign.entries",
        "Event": "nas.campaign.journal",
        "Retraining": "nas.campaign.entries",
        "Run": "nas.campaign.record",
        "SearchConfig": "nas.campaign.config",
        "TrialRecord": "nas.campaign.entries",
        "clean": "nas.campaign.cleaning",
        "open_run": "nas.campaign.record",
        "resume": "nas.campaign.launch",
        "search": "nas.campaign.launch",
        "start": "nas.campaign.launch",
    },
)
