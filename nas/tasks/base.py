"""What a task is: batches, a loss and a score. A user's own task is a subclass of `Task` with two methods."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.tasks.recipe import Recipe

Split = Literal["valid", "test"]


@dataclass(frozen=True)
class Batch:
    """One step of training or evaluation.

    `x` [B, T] int64 tokens or [B, T, F] floats. `y` [B, T] int64 (a target at each step), or [B] (one target for a
    sequence, read at its last step), or whatever the task's own `loss` takes. `mask` [B, T] bool: which steps count
    (None: all). `lengths` [B] int64: how long each sequence is (None: all T). `fresh` says that the sequences start
    here; otherwise they continue those of the previous batch, row by row, and the model's state is carried over.
    `tree` [B, T - 1, 2] int64 is the parse of each sequence for tree cells, as `nas.nn.TreeModule` takes it (None:
    there is none); it stays on the CPU.
    """

    x: Tensor
    y: Tensor
    mask: Tensor | None = None
    lengths: Tensor | None = None
    fresh: bool = True
    tree: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        mask = None if self.mask is None else self.mask.to(device)
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Batch(self.x.to(device), self.y.to(device), mask, lengths, self.fresh, self.tree)

    def inputs(self) -> dict[str, Tensor | None]:
        """What a model is called with, by name."""
        trees = {} if self.tree is None else {"tree": self.tree}
        return {"x": self.x, "lengths": self.lengths, **trees}


class Task(ABC):
    """Data, head, loss and metric. Every score is better when it is lower.

    A subclass sets the attributes below (on the class or in `__init__`, which takes `data` and `size`) and defines
    `train_batches` and `eval_batches`; `loss` and `measure` are given for classification and may be replaced.
    """

    name: str
    version: int = 1
    size: str
    metric: str
    """"nats/char", "nats/word", "error rate" or the task's own; with "error rate" `measure` counts wrong answers."""
    trivial_score: float
    """The score of the best answer that ignores the input: what a cell must beat to have learned anything."""
    trivial_loss: float
    """The loss of that answer: a trial that stays above it is stopped as hopeless."""
    best_known: str | None = None
    """The best published score, with its source."""
    inputs: int
    """Size of the vocabulary if `embed`, else number of features F."""
    outputs: int
    """Number of classes, or of numbers forecast: the last dimension of the logits."""
    embed: bool
    vocabulary: tuple[str, ...] | None = None
    """What the tokens stand for, in the order of their numbers; None where they stand for themselves."""
    causal: bool = False
    """Whether the answer at a step must not depend on later steps, which would give it away."""
    recipe: Recipe
    params: int
    """Default budget of trainable parameters, embedding and head included."""

    @property
    def data_digest(self) -> str:
        """64 hex digits that change when the data do. By default those of the name and version."""
        return hashlib.sha256(f"{self.name} {self.version}".encode()).hexdigest()

    @abstractmethod
    def train_batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Training batches without end, of the shape that `self.recipe` says, all randomness from `rng`."""

    @abstractmethod
    def eval_batches(self, split: Split) -> Iterator[Batch]:
        """The batches of a split: finite, the same at every call and for every recipe."""

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """Sum of the losses [] and how many answers it sums over.

        `logits` are [B, T, outputs], or those of a tree's root, [B, outputs].
        """
        answers, targets = self.answers(logits, batch)
        return F.cross_entropy(answers.float(), targets, reduction="sum"), targets.numel()

    def measure(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """Sum [] and count of what the score is the mean of: losses, or wrong answers for an error rate."""
        if self.metric != "error rate":
            return self.loss(logits, batch)
        answers, targets = self.answers(logits, batch)
        return (answers.argmax(dim=-1) != targets).sum(), targets.numel()

    @property
    def by_rows(self) -> bool:
        """Whether `loss`, `measure` and `answers` are the given ones, so that other steps than answers do not count.

        A training loop may then apply the head to the answers alone.
        """
        given = ("loss", "measure", "answers")
        own = any(getattr(type(self), name) is not getattr(Task, name) for name in given)
        return not own and not vars(self).keys() & set(given)

    def score(self, total: float, count: int) -> float:
        """The score from the sums of `measure` over a split."""
        return total / count

    def with_recipe(self, recipe: Recipe) -> Self:
        """This task, its training batches shaped by another recipe. The data are shared."""
        other = copy.copy(self)
        other.recipe = recipe
        return other

    @staticmethod
    def answers(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits that count [n, outputs] and their targets [n]."""
        if logits.dim() == 2:
            return logits, batch.y
        if batch.y.dim() == 1:
            if batch.lengths is None:
                return logits[:, -1], batch.y
            rows = torch.arange(len(batch.y), device=logits.device)
            return logits[rows, batch.lengths - 1], batch.y
        if batch.mask is None:
            return logits.flatten(0, 1), batch.y.flatten()
        return logits[batch.mask], batch.y[batch.mask]
