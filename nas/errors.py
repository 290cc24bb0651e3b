"""The exceptions of the nas package: one root, one class for each place where the user can set things right."""

from __future__ import annotations


class NasError(Exception):
    """Root of every error that nas raises on purpose; its message is one line (or one diagram) for the user."""


class BuildError(NasError):
    """A cell cannot become a module with the sizes, backend or state that were given."""


class AnalysisError(NasError):
    """Numbers refute what the compiler, or the row of a user's own operation, says of a cell; names the cell."""


class TaskError(NasError):
    """A task is unknown, its data cannot be read, or its options make no sense."""


class TrainingError(NasError):
    """A training run was asked for something impossible: a bad recipe, budget, device or checkpoint."""


class SnapshotError(TrainingError):
    """A snapshot of a training that cannot be carried on: it is damaged, or of another trial."""


class TrialAborted(TrainingError):
    """Whoever started a trial asked it to stop before its last step: it has no result."""


class SearchError(NasError):
    """A searcher is unknown or was given options that it cannot work with."""


class RunError(NasError):
    """A run folder or its journal is missing, damaged, in use, or does not fit what was asked of it."""


class BrokenRunError(RunError):
    """A campaign cannot go on, whatever was asked of it: its workers die, or its journal cannot be written."""


class ExportError(NasError):
    """A cell could not be exported, or what was exported does not agree with the original."""


class BenchError(NasError):
    """A benchmark was asked for what there is not: a size, a baseline, a device."""


class ServingError(NasError):
    """A server was asked for what it cannot do: a port that is taken, limits that make no sense, no Ray Serve."""
