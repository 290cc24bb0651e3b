"""The error that is not the user's: what was written does not do what it should."""

from __future__ import annotations

from nas.errors import ExportError


class ExportMismatchError(ExportError):
    """The exported files cannot be loaded alone, or do not do what the original does. Nothing is left behind."""
