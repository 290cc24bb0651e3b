"""Errors of search spaces."""

from __future__ import annotations

from grammar import LocatedError


class SpaceError(Exception):
    """Root of every error of this package."""


class SpaceFileError(LocatedError, SpaceError):
    """A fault in a space file, with its place: `str()` has the line, the column and a caret."""


class UnknownSpaceError(SpaceError):
    """A name that is no shipped space and no file."""


class NotAMemberError(SpaceError):
    """A cell that was given to a space's operator and is not a member of the space."""


class NoCellError(SpaceError):
    """A request that no cell meets, or that none was found for in a bounded number of attempts."""
