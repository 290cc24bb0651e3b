"""Recall: keep tokens over many steps and give them back, in order or for a key. Answers are read at each asking step.

The lengths of all parts follow from the length of the sequence; everything else is drawn anew for each sequence.
Answers are numbered from 0 among the tokens that can be one, and the mask has the steps at which they are asked for.
"""

from __future__ import annotations

import itertools
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from nas.tasks.base import Batch, Split
from nas.tasks.made import MadeTask

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SHORTEST = 4
CURRICULUM = 0.6
EVAL_ROWS = 128

# Of ten sequences, which one of its checksum is for which split: no split holds a sequence of another one.
_PARTS = 10
_HELD_OUT = {"valid": 8, "test": 9}


class RecallTask(MadeTask):
    """What the recall tasks share: sequences of one length, an answer at each step of the mask.

    Validation and test are `scored` sequences each of the length that the size's recipe has, from streams of their
    own. Sequences of that length are parted by a checksum, so that none is in two of training, validation and test.
    """

    embed = True

    @abstractmethod
    def sequences(self, count: int, length: int, rng: np.random.Generator) -> tuple[Ints, Ints, Bools]:
        """Random tokens [count, length], the answer at each step and which steps are asked for."""

    def train_batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Sequences of one length per batch, of at least 4 steps: of the recipe's `sequence_length` in the end.

        Over the first 60 % of the recipe's steps a bound grows from 4 to that, and lengths are from half of the bound
        to the bound. Without this curriculum copying and fuzzy recall are not learned at all in the steps of a search
        (measured).
        """
        step, longest = 0, max(self.recipe.sequence_length, SHORTEST)
        while True:
            bound = min(SHORTEST + int(longest * step / (CURRICULUM * self.recipe.steps)), longest)
            shortest = bound if bound == longest else max(bound // 2, SHORTEST)
            yield self._batch(self.recipe.batch_size, int(rng.integers(shortest, bound + 1)), rng)
            step += 1

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        """`scored` sequences, 128 together."""
        rng = np.random.default_rng([self.version, _HELD_OUT[split]])
        for start in range(0, self.scored, EVAL_ROWS):
            yield self._batch(min(EVAL_ROWS, self.scored - start), self.trained, rng, split)

    def _batch(self, count: int, length: int, rng: np.random.Generator, split: Split | None = None) -> Batch:
        x, y, mask = self.sequences(count, length, rng)
        while length == self.trained and len(wrong := np.flatnonzero(~_of_part(x, split))):
            x[wrong], y[wrong], mask[wrong] = self.sequences(len(wrong), length, rng)
        return Batch(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(mask))


class Copying(RecallTask):
    """Say the first tokens again after a long wait: the copy memory of Arjovsky et al. 2016.

    Tokens 0 to 7, then blanks (8), one step that asks (9), and as many blanks as there were tokens, where they are
    said. The tokens are a fifth of the sequence, and at most ten as there.
    """

    name = "copying"
    outputs = 8
    inputs = outputs + 2
    most: ClassVar[int] = 10

    def sequences(self, count: int, length: int, rng: np.random.Generator) -> tuple[Ints, Ints, Bools]:
        """Uniform tokens."""
        blank, ask = self.outputs, self.outputs + 1
        told = max(1, min(length // 5, self.most))
        tokens = rng.integers(self.outputs, size=(count, told))
        x = np.full((count, length), blank)
        x[:, :told] = tokens
        x[:, length - told - 1] = ask
        return x, *_at_the_end(tokens, length)


class SelectiveCopying(RecallTask):
    """Say the tokens that were among blanks, in order: Gu and Dao 2023, "Mamba", and the suite MAD.

    Tokens 0 to 7 at random places among blanks (8), then as many steps that ask (9). The tokens are an eighth of the
    sequence.
    """

    name = "selective_copying"
    outputs = 8
    inputs = outputs + 2

    def sequences(self, count: int, length: int, rng: np.random.Generator) -> tuple[Ints, Ints, Bools]:
        """Uniform tokens at uniform places."""
        blank, ask = self.outputs, self.outputs + 1
        told = max(1, length // 8)
        tokens = rng.integers(self.outputs, size=(count, told))
        places = np.sort(_some(count, length - told, told, rng), axis=1)
        x = np.full((count, length), blank)
        x[:, length - told :] = ask
        np.put_along_axis(x, places, tokens, axis=1)
        return x, *_at_the_end(tokens, length)


class MultiQueryRecall(RecallTask):
    """The value of each key, asked for later: MQAR of Arora et al. 2023, "Zoology" (arXiv 2312.04927).

    Pairs of a key and a value, an eighth of the sequence's length many and at most eight, then each key once, at the
    distances of that paper: near ones are likelier, by a power law. Between them are blanks. The answer to a key is
    its value; no key and no value is in two pairs.
    """

    name = "mqar"
    keys: ClassVar[int] = 8
    outputs = 8
    inputs = keys + outputs + 1
    power: ClassVar[float] = 0.01

    def sequences(self, count: int, length: int, rng: np.random.Generator) -> tuple[Ints, Ints, Bools]:
        """Uniform keys and values without replacement."""
        pairs = max(1, min(length // 8, self.keys))
        keys = _some(count, self.keys, pairs, rng)
        values = _some(count, self.outputs, pairs, rng)
        x = np.full((count, length), self.inputs - 1)
        x[:, 0 : 2 * pairs : 2] = keys
        x[:, 1 : 2 * pairs : 2] = self.keys + values
        gaps = (length - 2 * pairs + 1) // 2
        near = np.arange(1, gaps + 1, dtype=np.float64) ** (self.power - 1)
        places = 2 * pairs + 2 * _some(count, gaps, pairs, rng, near)
        y, mask = np.zeros_like(x), np.zeros(x.shape, dtype=np.bool_)
        np.put_along_axis(x, places, keys, axis=1)
        np.put_along_axis(y, places, values, axis=1)
        np.put_along_axis(mask, places, True, axis=1)
        return x, y, mask


class FuzzyRecall(RecallTask):
    """The value of each key where both are of one or two tokens: fuzzy recall of MAD, Poli et al. 2024.

    Pairs of a key and a value, then blanks, then each key once in another order and after it as many steps that ask
    as its value has tokens, which are the answers there. (In MAD the value stands there and the next token is asked
    for, which gives its beginning away.) No key is in two pairs, but one may be the beginning of another; within a
    key or a value no token is there twice.
    """

    name = "fuzzy_recall"
    keys: ClassVar[int] = 4
    outputs = 4
    inputs = keys + outputs + 2
    longest: ClassVar[int] = 2

    def sequences(self, count: int, length: int, rng: np.random.Generator) -> tuple[Ints, Ints, Bools]:
        """Keys and values of each number of tokens are equally likely, and uniform among those of their number."""
        most = max(1, min(self.longest, length // 4))
        pairs = max(1, length // (4 * most))
        motifs, weights = _motifs(self.keys, most)
        keys = motifs[_some(count, len(motifs), pairs, rng, weights)]
        motifs, weights = _motifs(self.outputs, most)
        values = motifs[rng.choice(len(motifs), size=(count, pairs), p=weights)]
        order = rng.permuted(np.tile(np.arange(pairs), (count, 1)), axis=1)[..., None]
        asked, wanted = np.take_along_axis(keys, order, axis=1), np.take_along_axis(values, order, axis=1)
        blank, ask = self.inputs - 2, self.inputs - 1
        told = np.concatenate([keys, np.where(values < 0, -1, self.keys + values)], axis=2)
        asking = np.concatenate([asked, np.where(wanted < 0, -1, ask)], axis=2)
        answers = np.concatenate([np.full_like(asked, -1), wanted], axis=2)
        x = np.full((count, length), -1)
        y = np.full((count, length), -1)
        part = 2 * most * pairs
        x[:, :part], x[:, length - part :] = told.reshape(count, -1), asking.reshape(count, -1)
        y[:, length - part :] = answers.reshape(count, -1)
        # What is told moves to the left, what asks to the right, and the places left over are between them.
        side = np.where(x < 0, 1, np.where(np.arange(length) < part, 0, 2))
        sorting = np.argsort(side, axis=1, kind="stable")
        x, y = np.take_along_axis(x, sorting, axis=1), np.take_along_axis(y, sorting, axis=1)
        return np.where(x < 0, blank, x), np.maximum(y, 0), y >= 0


def _of_part(x: Ints, split: Split | None) -> Bools:
    """Which sequences [B] belong to a split (None: training)."""
    parts = np.array([zlib.crc32(row.astype(np.uint8).tobytes()) % _PARTS for row in x])
    held_out = list(_HELD_OUT.values())
    return ~np.isin(parts, held_out) if split is None else parts == _HELD_OUT[split]


def _at_the_end(tokens: Ints, length: int) -> tuple[Ints, Bools]:
    """Answers [B, length] that are the tokens at the last steps, and the mask of these."""
    count, told = tokens.shape
    y, mask = np.zeros((count, length), dtype=np.int64), np.zeros((count, length), dtype=np.bool_)
    y[:, length - told :], mask[:, length - told :] = tokens, True
    return y, mask


def _some(
    count: int,
    among: int,
    wanted: int,
    rng: np.random.Generator,
    weights: NDArray[np.floating[Any]] | None = None,
) -> Ints:
    """[count, wanted] different numbers below `among` in random order, drawn one after another by their weights.

    The first to ring of alarm clocks with rates `weights`: Efraimidis and Spirakis 2006.
    """
    times = rng.exponential(size=(count, among))
    if weights is not None:
        times /= weights
    return np.argsort(times, axis=1)[:, :wanted]


@cache
def _motifs(tokens: int, most: int) -> tuple[Ints, NDArray[np.float64]]:
    """All motifs of 1 to `most` different tokens [n, most], -1 beyond their ends, and how likely each is [n]."""
    rows, weights = list[tuple[int, ...]](), list[float]()
    for size in range(1, most + 1):
        own = list(itertools.permutations(range(tokens), size))
        rows += [(*motif, *[-1] * (most - size)) for motif in own]
        weights += [1 / (most * len(own))] * len(own)
    return np.array(rows), np.array(weights)
