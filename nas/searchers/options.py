"""Checks of what users give as options of a searcher."""

from __future__ import annotations

import math

from nas.errors import SearchError


def check_whole(searcher: str, least: int, **options: object) -> None:
    """Raise SearchError unless each is a whole number of at least `least`."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SearchError(f"{searcher}: {name} must be a whole number of at least {least}, got {value!r}")


def check_share(searcher: str, **options: object) -> None:
    """Raise SearchError unless each is a number from 0 to 1."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise SearchError(f"{searcher}: {name} must be a probability, got {value!r}")


def check_number(searcher: str, above: float | None = None, **options: object) -> None:
    """Raise SearchError unless each is a finite number of at least 0, or greater than `above`."""
    for name, value in options.items():
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value < 0 or (above is not None and value <= above):  # type: ignore[operator]
            rule = "a number of at least 0" if above is None else f"a number above {above:g}"
            raise SearchError(f"{searcher}: {name} must be {rule}, got {value!r}")


def check_switch(searcher: str, **options: object) -> None:
    """Raise SearchError unless each is a bool."""
    for name, value in options.items():
        if not isinstance(value, bool):
            raise SearchError(f"{searcher}: {name} must be yes or no, got {value!r}")


def check_choice(searcher: str, among: tuple[str, ...], **options: object) -> None:
    """Raise SearchError unless each is one of the names `among`."""
    for name, value in options.items():
        if value not in among:
            raise SearchError(f"{searcher}: {name} must be one of {', '.join(among)}; got {value!r}")
