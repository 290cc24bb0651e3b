"""What the command line itself has to say about wrong use."""

from __future__ import annotations

from nas.errors import NasError


class UsageError(NasError):
    """An argument that no command can make sense of."""
