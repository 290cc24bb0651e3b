"""What the tasks share that make their own data: settings from the table, no `data`, a digest of what is scored."""

from __future__ import annotations

import hashlib

import numpy as np

from nas.errors import TaskError
from nas.tasks.base import Task
from nas.tasks.table import TASKS


class MadeTask(Task):
    """A task of the table without `data`, whose best constant answer is one of equally likely classes."""

    def __init__(self, data: str | None = None, size: str = "search") -> None:
        if data is not None:
            raise TaskError(f"task {self.name} makes its own data and takes none, got {data}")
        info = TASKS[self.name]
        row = info.sizes[size]
        assert info.trivial_score is not None
        self.version, self.metric, self.best_known = info.version, info.metric, info.best_known
        self.size, self.recipe, self.params = size, row.recipe, row.params
        self.trained = row.recipe.sequence_length
        self.scored = row.scored
        self.trivial_score = info.trivial_score
        self.trivial_loss = float(np.log(self.outputs))

    @property
    def data_digest(self) -> str:
        """SHA-256 of the version and of the validation sequences."""
        digest = hashlib.sha256(f"{self.name} {self.version} {self.size}".encode())
        for batch in self.eval_batches("valid"):
            digest.update(batch.x.numpy().astype(np.uint8).tobytes())
        return digest.hexdigest()
