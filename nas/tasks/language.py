"""Language modelling: predict the next character or word of a text, scored in nats per token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch

from nas.errors import TrainingError
from nas.tasks.base import Batch, Split, Task
from nas.tasks.corpus import Corpus, Tokens, Unit, load_corpus, streams
from nas.tasks.table import TASKS, UNITS

EVAL_WINDOW = 128


class LanguageTask(Task):
    """What `text` and `words` share. The text is read when the task is made.

    Training is truncated backpropagation through time: `batch_size` contiguous streams through the training part,
    `sequence_length` tokens at a time, the state carried from window to window.
    """

    embed = True
    causal = True
    unit: ClassVar[Unit]

    def __init__(self, data: str | None = None, size: str = "search") -> None:
        info = TASKS[self.name]
        row = info.sizes[size]
        self.version, self.metric, self.best_known = info.version, info.metric, info.best_known
        self.size, self.recipe, self.params = size, row.recipe, row.params
        self.scored = row.scored
        self.data = data
        window = row.recipe.batch_size * (row.recipe.sequence_length + 1)
        self.corpus: Corpus = load_corpus(data, self.unit, row.vocabulary, needed=window * 10 // 9 + 20)
        self.vocabulary = tuple(self.corpus.vocabulary)
        self.inputs = self.outputs = len(self.vocabulary)
        self.trivial_score = self.trivial_loss = self.corpus.unigram_score(self.scored)

    @property
    def data_digest(self) -> str:
        """SHA-256 of the text."""
        return self.corpus.digest

    def train_batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Windows of `batch_size` streams through the training part, which is read as a ring from a random place."""
        tokens, rows, window = self.corpus.train, self.recipe.batch_size, self.recipe.sequence_length
        length = len(tokens) // rows // window * window
        if length == 0:
            raise TrainingError(
                f"task {self.name}: {rows} streams of {window} tokens need {rows * window + 1} tokens "
                f"and the training part has {len(tokens)}"
            )
        while True:
            start = int(rng.integers(len(tokens)))
            ring = np.take(tokens, np.arange(start, start + rows * length + 1), mode="wrap")
            x, y = ring[:-1].reshape(rows, length), ring[1:].reshape(rows, length)
            yield from _windows(x, y, window)

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        """The scored tokens of a split, each once, in at most 32 streams."""
        yield from _windows(*streams(self.corpus.part(split), self.scored), EVAL_WINDOW)


class Text(LanguageTask):
    """Language modelling by character."""

    name = "text"
    unit = UNITS["text"]


class Words(LanguageTask):
    """Language modelling by word; a line end is a word and punctuation marks are words."""

    name = "words"
    unit = UNITS["words"]


def _windows(x: Tokens, y: Tokens, window: int) -> Iterator[Batch]:
    for start in range(0, x.shape[1], window):
        stop = start + window
        yield Batch(
            torch.from_numpy(x[:, start:stop].astype(np.int64)),
            torch.from_numpy(y[:, start:stop].astype(np.int64)),
            fresh=start == 0,
        )
