"""ListOps: what does a nested list of operations on digits come to?

N. Nangia and S. Bowman, "ListOps: A diagnostic dataset for latent tree learning", NAACL 2018 (SRW).
"""

from __future__ import annotations

import zlib
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from statistics import median
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from nas.tasks.base import Batch, Split
from nas.tasks.made import MadeTask

Ints = NDArray[np.int64]
Merge = tuple[int, int]

DEEPEST = 4  # operations within each other
ARGUMENTS = (2, 3, 4, 5)
NESTED = 0.25  # how likely an argument is a list
SHORTEST = 4  # tokens: an operation, two digits, the end
SHORTEST_BOUND = 7
CURRICULUM = 0.6

OPERATIONS: Mapping[str, Callable[[Sequence[int]], int]] = MappingProxyType(
    {
        "[MAX": max,
        "[MIN": min,
        "[MED": lambda values: int(median(values)),
        "[SM": lambda values: sum(values) % 10,
    }
)
TOKENS = (*map(str, range(10)), *OPERATIONS, "]")
_END = len(TOKENS) - 1

# Of ten expressions, which one of its checksum is for which split: no split holds an expression of another one.
_PARTS = 10
_HELD_OUT = {"valid": 8, "test": 9}


class ListOps(MadeTask):
    """The value of `[MAX 2 9 [MIN 4 7 ] 0 ]`, ten classes, from the tokens `[MAX`, `2`, ... `]`.

    Expressions are those of Nangia and Bowman (2 to 5 arguments, each a list with probability 1/4), of at most four
    operations within each other, and exactly as likely as there among those of their length; the length is uniform
    from 4 tokens to the recipe's `sequence_length`. `batch.tree` is the parse, binarised as there from left to right:
    `((((([MAX 2) 9) ...) 0) ])`. Validation and test have the lengths of the size's recipe, equally many of each,
    and no expression of training.
    """

    name = "listops"
    embed = True
    inputs = len(TOKENS)
    outputs = 10
    vocabulary = TOKENS

    def train_batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Expressions of one length per batch, from 4 to a bound.

        The bound grows from 7, lists without lists in them, to the recipe's `sequence_length` over the first 60 % of
        the recipe's steps: sums modulo 10 are learned from short lists (measured).
        """
        step, longest = 0, max(self.recipe.sequence_length, SHORTEST)
        while True:
            grown = SHORTEST_BOUND + int(longest * step / (CURRICULUM * self.recipe.steps))
            length = int(rng.integers(SHORTEST, min(grown, longest) + 1))
            yield self.batch([length] * self.recipe.batch_size, rng)
            step += 1

    def eval_batches(self, split: Split) -> Iterator[Batch]:
        """`scored` expressions of each length, neighbouring lengths together."""
        yield from self.splits(split, range(SHORTEST, self.trained + 1), self.scored)

    def splits(self, split: Split, lengths: Sequence[int], count: int) -> Iterator[Batch]:
        """The same of any lengths, `count` of each: for accuracy by length, and beyond the lengths of training."""
        rng = np.random.default_rng([self.version, _HELD_OUT[split]])
        together = max(128 // count, 1)
        for start in range(0, len(lengths), together):
            own = np.repeat(lengths[start : start + together], count)
            yield self.batch(own.tolist(), rng, split)

    def batch(self, lengths: Sequence[int], rng: np.random.Generator, split: Split | None = None) -> Batch:
        """One expression of each length, of the training part or of a split. Lengths are at least 4."""
        longest = max(lengths)
        x, tree = (
            np.zeros((len(lengths), longest), np.int64),
            np.zeros((len(lengths), longest - 1, 2), np.int64),
        )
        y = np.zeros(len(lengths), np.int64)
        for row, length in enumerate(lengths):
            tokens, merges, y[row] = _of_part(length, rng, split)
            made = np.array(merges)
            x[row, :length] = tokens
            tree[row, : length - 1] = np.where(made < length, made, made + longest - length)
        return Batch(
            torch.from_numpy(x),
            torch.from_numpy(y),
            lengths=torch.tensor(lengths),
            tree=torch.from_numpy(tree),
        )


def written(tokens: Sequence[int]) -> str:
    """An expression as people write it."""
    return " ".join(TOKENS[token] for token in tokens)


def _of_part(
    length: int, rng: np.random.Generator, split: Split | None
) -> tuple[list[int], list[Merge], int]:
    """Draw until the expression belongs to the split (None: training)."""
    while True:
        drawing = _Drawing(length, rng)
        part = zlib.crc32(bytes(drawing.tokens)) % _PARTS
        if part == _HELD_OUT[split] if split is not None else part not in _HELD_OUT.values():
            return drawing.tokens, drawing.merges, drawing.value


class _Drawing:
    """One expression of `length` tokens: its tokens, the merges of its parse and its value."""

    def __init__(self, length: int, rng: np.random.Generator) -> None:
        self.length, self.rng = length, rng
        self.tokens: list[int] = []
        self.merges: list[Merge] = []
        _, self.value = self._draw(length, 1)

    def _draw(self, length: int, depth: int) -> tuple[int, int]:
        """Append an expression; its node in the parse and its value."""
        if length == 1:
            digit = int(self.rng.random() * 10)
            return self._token(digit), digit
        operation = int(self.rng.random() * len(OPERATIONS))
        node, values, inner = self._token(10 + operation), list[int](), length - 2
        for count in range(self._arguments(inner, depth), 0, -1):
            own = self._length(inner, count, depth)
            inner -= own
            child, value = self._draw(own, depth + 1)
            node = self._merge(node, child)
            values.append(value)
        node = self._merge(node, self._token(_END))
        return node, OPERATIONS[TOKENS[10 + operation]](values)

    def _arguments(self, length: int, depth: int) -> int:
        return ARGUMENTS[_place(_argument_counts(length, depth), self.rng)]

    def _length(self, length: int, count: int, depth: int) -> int:
        """Of the first of `count` arguments that have `length` tokens together."""
        return 1 + _place(_first_lengths(length, count, depth), self.rng)

    def _token(self, token: int) -> int:
        self.tokens.append(token)
        return len(self.tokens) - 1

    def _merge(self, left: int, right: int) -> int:
        self.merges.append((left, right))
        return self.length + len(self.merges) - 1


def _place(cumulative: Sequence[float], rng: np.random.Generator) -> int:
    return bisect(cumulative, rng.random() * cumulative[-1])


@cache
def _argument_counts(length: int, depth: int) -> list[float]:
    """Cumulated: how likely each number of arguments is for a list at `depth` whose arguments have `length` tokens."""
    return list(accumulate(_together(length, count, depth + 1) for count in ARGUMENTS))


@cache
def _first_lengths(length: int, count: int, depth: int) -> list[float]:
    """Cumulated: how likely the first of `count` arguments has 1, 2, ... of the `length` tokens."""
    return list(
        accumulate(
            _alone(own, depth + 1) * _together(length - own, count - 1, depth + 1)
            for own in range(1, length + 1)
        )
    )


@cache
def _together(length: int, count: int, depth: int) -> float:
    """How likely `count` expressions at `depth` have `length` tokens together."""
    if count == 0:
        return float(length == 0)
    return sum(
        _alone(own, depth) * _together(length - own, count - 1, depth) for own in range(1, length - count + 2)
    )


@cache
def _alone(length: int, depth: int) -> float:
    """How likely an expression at `depth` has `length` tokens."""
    if depth > DEEPEST:
        return float(length == 1)
    if length == 1:
        return 1 - NESTED
    whole = sum(_together(length - 2, count, depth + 1) for count in ARGUMENTS)
    return NESTED * whole / len(ARGUMENTS)
