"""The exceptions of this package: one root, whose messages state the rule and what was received."""

from __future__ import annotations


class PredictorError(Exception):
    """Root of every error of this package: bad tables, too few cells, options that make no sense."""


class PredictorFileError(PredictorError):
    """A predictor file that is damaged, of another version, not one, or that cannot be written."""
