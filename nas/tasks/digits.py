"""Written digits, pixel by pixel: which digit is it? The images of scikit-learn, 8 by 8, which come with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from nas.tasks.base import Batch, Split
from nas.tasks.made import MadeTask

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

PIXELS = 64
HELD_OUT = 40  # of each digit in validation, and as many in test
BRIGHTEST = 16


class Digits(MadeTask):
    """1,797 digits in 64 steps of one pixel, row by row, from 0 (empty) to 1; ten classes.

    The split is fixed by the task's version: of each digit 40 images are for validation (of which the size scores the
    first `scored`), 40 for test, and the other 94 to 103 for training. A recipe whose `sequence_length` is below 64
    trains on the last pixels alone.
    """

    name = "digits"
    embed = False
    inputs = 1
    outputs = 10

    @property
    def data_digest(self) -> str:
        """SHA-256 of the version and of all images and their classes."""
        digest = hashlib.sha256(f"{self.name} {self.version}".encode())
        for array in _images():
            digest.update(array.tobytes())
        return digest.hexdigest()

    def train_batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Each image once in random order, then again in another; what does not fill a batch goes to the next."""
        images, classes = self.part(None)
        left = np.zeros(0, dtype=np.int64)
        while True:
            while len(left) < self.recipe.batch_size:
                left = np.concatenate([left, rng.permutation(len(images))])
            rows, left = left[: self.recipe.batch_size], left[self.recipe.batch_size :]
            yield _batch(images[rows, -self.recipe.sequence_length :], classes[rows])

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        """`scored` images of each digit, 128 images together."""
        images, classes = self.part(split)
        for start in range(0, len(images), 128):
            yield _batch(images[start : start + 128, -self.trained :], classes[start : start + 128])

    def part(self, split: Split | None) -> tuple[Floats, Ints]:
        """The images [n, 64] of a split (None: training) and their classes [n]."""
        images, classes = _images()
        rng = np.random.default_rng([self.version])
        rows = []
        for digit in range(self.outputs):
            own = rng.permutation(np.flatnonzero(classes == digit))
            parts = {"valid": own[: self.scored], "test": own[HELD_OUT : HELD_OUT + self.scored]}
            rows.append(own[2 * HELD_OUT :] if split is None else parts[split])
        chosen = np.concatenate(rows)
        return images[chosen], classes[chosen]


@cache
def _images() -> tuple[Floats, Ints]:
    """All images [1797, 64] from 0 to 1, and their classes [1797]."""
    images, classes = load_digits(return_X_y=True)
    return (images / BRIGHTEST).astype(np.float32), classes.astype(np.int64)


def _batch(images: Floats, classes: Ints) -> Batch:
    return Batch(torch.from_numpy(images[..., None].copy()), torch.from_numpy(classes))
