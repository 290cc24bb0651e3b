"""Linear recurrences over time in a number of rounds that grows with the logarithm of the steps.

h_t = A_t h_{t-1} + b_t, where every entry of h is a short vector with one number per slot and A_t a small matrix of
them. Two steps are one of the same form, so pairs of steps make a recurrence of half the length; its solution is every
second h, and the others follow from those (G. E. Blelloch, Prefix sums and their applications, 1990). The same holds in
the max-plus algebra.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SHORT = 4  # steps that are not worth pairing

Matrix = Sequence[Sequence[Tensor | None]]  # each [T, ...]; None is the algebra's nothing
Vector = Sequence[Tensor]


class Algebra(NamedTuple):
    """What a recurrence multiplies and adds by, and what adding leaves as it is."""

    times: Callable[[Tensor, Tensor], Tensor]
    plus: Callable[[Tensor, Tensor], Tensor]
    nothing: float


LINEAR = Algebra(torch.mul, torch.add, 0.0)
MAX_PLUS = Algebra(torch.add, torch.maximum, float("-inf"))


def solved(a: Matrix, b: Vector, algebra: Algebra = LINEAR) -> list[Tensor]:
    """All h_t for h_{-1} of nothing: `[T, ...]` for each slot."""
    count = b[0].shape[0]
    if count <= SHORT:
        return stepwise(a, b, algebra)
    even = count - count % 2
    first, second = slice(0, even, 2), slice(1, even, 2)
    late = _part(a, second)
    pairs = _product(late, _part(a, first), algebra)
    ends = _applied(late, [v[first] for v in b], [v[second] for v in b], algebra)
    odd = solved(pairs, ends, algebra)
    # The steps between: the first is b itself, each of the others follows the h before it.
    after = slice(2, count, 2)
    rest = _applied(_part(a, after), [v[: (count - 1) // 2] for v in odd], [v[after] for v in b], algebra)
    whole = [torch.empty_like(v) for v in b]
    for h, own, between, v in zip(whole, odd, rest, b, strict=True):
        h[1::2] = own
        h[0] = v[0]
        h[2::2] = between
    return whole


def stepwise(a: Matrix, b: Vector, algebra: Algebra = LINEAR) -> list[Tensor]:
    """The same, one step after the other."""
    h = [v[0] for v in b]
    steps = [h]
    for t in range(1, b[0].shape[0]):
        h = _applied([[None if m is None else m[t] for m in row] for row in a], h, [v[t] for v in b], algebra)
        steps.append(h)
    return [torch.stack(values) for values in zip(*steps, strict=True)]


def _part(a: Matrix, steps: slice) -> Matrix:
    return [[None if m is None else m[steps] for m in row] for row in a]


def _product(a: Matrix, b: Matrix, algebra: Algebra) -> Matrix:
    size = range(len(a))
    return [[_sum([_times(a[i][k], b[k][j], algebra) for k in size], algebra) for j in size] for i in size]


def _applied(a: Matrix, h: Vector, b: Vector, algebra: Algebra) -> list[Tensor]:
    """a h + b"""
    made = []
    for row, rest in zip(a, b, strict=True):
        for m, v in zip(row, h, strict=True):
            if m is not None:
                if algebra is LINEAR:
                    rest = torch.addcmul(rest, m, v)
                else:
                    rest = algebra.plus(rest, algebra.times(m, v))
        made.append(rest)
    return made


def _times(a: Tensor | None, b: Tensor | None, algebra: Algebra) -> Tensor | None:
    return None if a is None or b is None else algebra.times(a, b)


def _sum(terms: Sequence[Tensor | None], algebra: Algebra) -> Tensor | None:
    total: Tensor | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else algebra.plus(total, term)
    return total
