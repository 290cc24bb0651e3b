"""Jobs for processes of their own, which import little: see test_scripts.py."""

from __future__ import annotations

import os
import time

_state = {"spoiled": False}


def nothing() -> None:
    """Prepares nothing."""


def healthy() -> None:
    """Raises where a job has spoiled the process."""
    if _state["spoiled"]:
        raise RuntimeError("spoiled")


def fine(number: int) -> int:
    return number


def fail(message: str) -> None:
    raise ValueError(message)


def hang() -> None:
    time.sleep(600)


def die(code: int) -> None:
    os._exit(code)


def spoil() -> None:
    _state["spoiled"] = True
