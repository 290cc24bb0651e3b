"""Time series: the next values of all columns of a file, from those before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nas.errors import TrainingError
from nas.tasks.base import Batch, Split, Task
from nas.tasks.columns import Ints, load_series
from nas.tasks.table import TASKS

EVAL_ROWS = 32


class Series(Task):
    """Next-step forecasting: the values of all columns at the next time, from all times so far.

    The first 80 % of the times are for training, the next 10 % for validation, the last for test. Inputs are
    normalised: a column has mean 0 and variance 1 in the training part. The model answers the change from the last
    value to the next one, in units in which a column's mean squared change in training is 1, and the loss is the mean
    over columns of its squared error. The trivial answer is no change: the last value once more, with a loss of 1 in
    training and about 1 elsewhere.

    The file is read when the task is made. Without `data` the series is that of Mackey and Glass.
    """

    name = "series"
    embed = False
    causal = True

    def __init__(self, data: str | None = None, size: str = "search") -> None:
        info = TASKS[self.name]
        row = info.sizes[size]
        self.version, self.metric, self.best_known = info.version, info.metric, info.best_known
        self.size, self.recipe, self.params = size, row.recipe, row.params
        self.window, self.scored = row.recipe.sequence_length, row.scored
        self.data = data
        self.table = load_series(data, self.window)
        self.inputs = self.outputs = self.table.x.shape[1]
        self.trivial_score = self.table.trivial_score(self.scored)
        self.trivial_loss = 1.0

    @property
    def data_digest(self) -> str:
        """SHA-256 of the numbers."""
        return self.table.digest

    def train_batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Windows from random places of the training part; each value but the first is an answer."""
        places = self.table.bounds[0] - self.recipe.sequence_length
        if places < 1:
            raise TrainingError(
                f"task {self.name}: a window of {self.recipe.sequence_length} steps needs one value more, and the "
                f"training part has {self.table.bounds[0]}"
            )
        while True:
            starts = rng.integers(places, size=self.recipe.batch_size)
            x, y = self._windows(starts, self.recipe.sequence_length)
            yield Batch(x, y)

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        """Each of the first `scored` values of a split once, after at least a window of the values before it."""
        first, end = self.table.scored(split, self.scored)
        wanted = np.arange(first, end, self.window)
        for at in range(0, len(wanted), EVAL_ROWS):
            own = wanted[at : at + EVAL_ROWS]
            starts = np.minimum(own, end - self.window) - self.window - 1
            x, y = self._windows(starts, 2 * self.window)
            answered = starts[:, None] + np.arange(1, 2 * self.window + 1)
            yield Batch(x, y, torch.from_numpy(answered >= own[:, None]))

    def _windows(self, starts: Ints, length: int) -> tuple[Tensor, Tensor]:
        """Inputs and answers [B, length, C] from the times `starts` on."""
        steps = starts[:, None] + np.arange(length)
        return torch.from_numpy(self.table.x[steps]), torch.from_numpy(self.table.y[steps])

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """Sum of the squared errors [], the mean over columns of each, and how many steps it sums over."""
        errors = (logits.float() - batch.y).square().mean(dim=-1)
        if batch.mask is None:
            return errors.sum(), errors.numel()
        return errors[batch.mask].sum(), int(batch.mask.sum())
