"""Formal languages: one answer for a string, trained on short strings and tested on longer ones.

Set-up of Delétang et al. 2023, "Neural Networks and the Chomsky Hierarchy" (ICLR): symbols one-hot, trained on lengths
up to 40, tested at lengths 41 to 100; after the string one extra symbol asks for the answer.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from nas.tasks.base import Batch, Split
from nas.tasks.made import MadeTask

Ints = NDArray[np.int64]

LONGEST_TESTED = 100
SHORTEST_BOUND = 3
CURRICULUM = 0.8
_STREAMS = {"valid": 1, "test": 2}


class FormalTask(MadeTask):
    """What the formal languages share: lengths, one-hot batches and splits.

    Validation has the lengths of the longer half of training, an equal number of strings for each. They come from a
    stream of their own and are too long for training to meet the same strings but by rare chance. Test has the
    lengths beyond training, up to 100.
    """

    embed = False
    symbols: ClassVar[int]
    odd_only: ClassVar[bool] = False

    def __init__(self, data: str | None = None, size: str = "search") -> None:
        super().__init__(data, size)
        self.inputs = self.symbols + 1

    @abstractmethod
    def strings(self, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Random strings [n, max(lengths)] of symbol numbers, anything beyond each length, and their answers [n]."""

    def train_batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Strings of one length per batch, drawn uniformly from 1 to a bound.

        The bound grows from a few symbols to the recipe's `sequence_length` over the first 80 % of the recipe's steps.
        Without this curriculum modular arithmetic is not learned in the thousand steps of a search (measured).
        """
        step, longest = 0, self.recipe.sequence_length
        while True:
            grown = SHORTEST_BOUND + int(longest * step / (CURRICULUM * self.recipe.steps))
            length = rng.choice(self._lengths(1, min(grown, longest)))
            yield self._batch(np.full(self.recipe.batch_size, length), rng)
            step += 1

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        """`scored` strings of each length of the split, neighbouring lengths together."""
        rng = np.random.default_rng([self.version, _STREAMS[split]])
        if split == "valid":
            lengths = self._lengths((self.trained + 1) // 2, self.trained)
        else:
            lengths = self._lengths(self.trained + 1, LONGEST_TESTED)
        together = max(128 // self.scored, 1)
        for start in range(0, len(lengths), together):
            yield self._batch(np.repeat(lengths[start : start + together], self.scored), rng)

    def _lengths(self, first: int, last: int) -> Ints:
        lengths = np.arange(first, last + 1)
        return lengths[lengths % 2 == 1] if self.odd_only else lengths

    def _batch(self, lengths: Ints, rng: np.random.Generator) -> Batch:
        """One-hot strings [B, max length + 1, symbols + 1]; the last symbol, at each string's end, asks."""
        strings, answers = self.strings(lengths, rng)
        ask = np.full((len(lengths), 1), self.symbols)
        places = np.arange(strings.shape[1] + 1)
        strings = np.where(places < lengths[:, None], np.hstack([strings, ask]), self.symbols)
        x = np.eye(self.inputs, dtype=np.float32)[strings] * (places <= lengths[:, None])[..., None].astype(
            np.float32
        )
        return Batch(torch.from_numpy(x), torch.from_numpy(answers), lengths=torch.from_numpy(lengths + 1))


class Parity(FormalTask):
    """Is the number of ones odd?"""

    name = "parity"
    symbols = 2
    outputs = 2

    def strings(self, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Uniform bits."""
        width = int(lengths.max())
        bits = rng.integers(2, size=(len(lengths), width))
        return bits, (bits * (np.arange(width) < lengths[:, None])).sum(axis=1) % 2


class EvenPairs(FormalTask):
    """Do the pairs 01 and 10 sum up to an odd number? They do where the first symbol is not the last."""

    name = "even_pairs"
    symbols = 2
    outputs = 2

    def strings(self, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Uniform bits."""
        bits = rng.integers(2, size=(len(lengths), int(lengths.max())))
        return bits, (bits[:, 0] != bits[np.arange(len(bits)), lengths - 1]).astype(np.int64)


class CycleNavigation(FormalTask):
    """Where on a cycle of five places one is after staying (0), going on (1) and going back (2)."""

    name = "cycle_navigation"
    symbols = 3
    outputs = 5

    def strings(self, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Uniform moves."""
        width = int(lengths.max())
        moves = rng.integers(self.symbols, size=(len(lengths), width))
        steps = np.where(moves == 2, -1, moves) * (np.arange(width) < lengths[:, None])
        return moves, steps.sum(axis=1) % self.outputs


class S5(FormalTask):
    """The product of permutations of five things, which are numbered in the order of `itertools.permutations`.

    The word problem of a group that is not solvable: Merrill et al. 2024, https://arxiv.org/abs/2404.08819.
    """

    name = "s5"
    symbols = 120
    outputs = 120

    def strings(self, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Uniform permutations; those further to the right are applied to the result of those before."""
        width = int(lengths.max())
        factors = rng.integers(self.symbols, size=(len(lengths), width))
        product = factors[:, 0].copy()
        for i in range(1, width):
            product = np.where(i < lengths, PRODUCTS[product, factors[:, i]], product)
        return factors, product


def _products() -> Ints:
    """[120, 120]: the number of "first a, then b" for two permutations by their numbers."""
    every = np.array(list(itertools.permutations(range(5))))
    number = {tuple(row): i for i, row in enumerate(every.tolist())}
    return np.array([[number[tuple(after[before].tolist())] for after in every] for before in every])


PRODUCTS = _products()


class Dyck(FormalTask):
    """Which of two kinds of bracket has to come to close the innermost open one. Lengths are odd: one is open."""

    name = "dyck"
    symbols = 4
    outputs = 2
    odd_only = True

    def strings(self, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Beginnings of balanced strings: 0 and 1 open, 2 and 3 close these; as many of both where any is open."""
        count, width = len(lengths), int(lengths.max())
        rows = np.arange(count)
        text = np.empty((count, width), dtype=np.int64)
        stack = np.zeros((count, width + 1), dtype=np.int64)
        depth = np.zeros(count, dtype=np.int64)
        answers = np.zeros(count, dtype=np.int64)
        opens, kinds = rng.integers(2, size=(2, count, width))
        for i in range(width):
            opening = (depth == 0) | (opens[:, i] == 1)
            top = stack[rows, depth]
            text[:, i] = np.where(opening, kinds[:, i], top + 2)
            depth += np.where(opening, 1, -1)
            stack[rows[opening], depth[opening]] = kinds[opening, i]
            answers = np.where(i == lengths - 1, stack[rows, depth], answers)
        return text, answers


class ModularArithmetic(FormalTask):
    """The value modulo 5 of digits joined by + - and *, where * binds stronger. Lengths are odd."""

    name = "modular_arithmetic"
    modulus: ClassVar[int] = 5
    symbols = 8
    outputs = 5
    odd_only = True

    def strings(self, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Uniform digits (symbols 0 to 4) and operators (5 is +, 6 is -, 7 is *)."""
        width = int(lengths.max())
        text = np.empty((len(lengths), width), dtype=np.int64)
        digits, operators = text[:, ::2], text[:, 1::2]
        digits[:] = rng.integers(self.modulus, size=digits.shape)
        operators[:] = rng.integers(self.modulus, self.symbols, size=operators.shape)
        total, term = np.zeros(len(lengths), dtype=np.int64), digits[:, 0].copy()
        for i in range(operators.shape[1]):
            within = 2 * i + 1 < lengths
            product = operators[:, i] == 7
            total = np.where(within & ~product, total + term, total)
            signed = np.where(operators[:, i] == 6, -digits[:, i + 1], digits[:, i + 1])
            term = np.where(within, np.where(product, term * digits[:, i + 1], signed), term) % self.modulus
        return text, (total + term) % self.modulus
