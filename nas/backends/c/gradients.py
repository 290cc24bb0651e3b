"""The gradients of a layer's arrays, as parts of one tensor that has all sums over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nas.backends.c.driver import Driver
from nas.ir import Adjoint

Parts = Sequence[Tensor]
Result = Callable[[Parts, torch.Size], Tensor]
Summands = tuple[tuple[tuple[int, int], ...], ...]


def summands_of(adjoint: Adjoint, driver: Driver, arrays: int) -> Summands:
    """Of each array the sums over rows of a backward half that make up its gradient, as `Gradients` takes them."""
    index = {key: n for n, key in enumerate(driver.sums)}
    plan = driver.half.schedule
    found: list[list[tuple[int, int]]] = [[] for _ in range(arrays)]
    for w in adjoint.weights:
        k = plan.at[w.value]
        op = plan.nodes[k].op
        kind = op if op in ("total", "gram") else "end"
        found[w.array].append((w.column, index[kind, k]))
    return tuple(map(tuple, found))


class Gradients:
    """Called with all sums over rows of a backward half, gives the gradient of each array; None where it has none.

    `sums` has the floats of each, `summands` of each array which of them its gradient is made of, each for one place of
    its last axis, or for all of it (-1). No gradient is in the memory of another: torch keeps what it is given, and
    adds to it in place.
    """

    def __init__(self, sums: Sequence[int], summands: Summands, shapes: Sequence[tuple[int, ...]]) -> None:
        self.widths, self.floats = list(sums), sum(sums)
        self.results: list[Result | None] = []
        taken: set[int] = set()
        for shape, own in zip(shapes, summands, strict=True):
            places = {place for _, place in own}
            self.results.append(_result(shape, own, alone=not places & taken))
            taken |= places

    def __call__(self, sums: Tensor) -> list[Tensor | None]:
        """See the class. Axes of `sums` before the last are axes of every gradient."""
        parts = sums.split_with_sizes(self.widths, -1) if self.widths else ()
        lead = sums.shape[:-1]
        return [None if result is None else result(parts, lead) for result in self.results]


def _result(shape: tuple[int, ...], summands: Sequence[tuple[int, int]], alone: bool) -> Result | None:
    """The gradient of an array, from summands for all of it or for one place of its last axis; `alone`: only its."""
    if not summands:
        return None
    if len(summands) == 1 and summands[0][0] < 0 and alone:
        ((_, place),) = summands
        return _shaped(place, shape)
    columns = dict(summands)
    if len(summands) == len(columns) and sorted(columns) == list(range(shape[-1] if shape else 0)):
        made = [_shaped(columns[column], shape[:-1]) for column in range(shape[-1])]
        return lambda parts, lead: torch.stack([part(parts, lead) for part in made], -1)

    def result(parts: Parts, lead: torch.Size) -> Tensor:
        whole = [parts[place].view(lead + shape) for column, place in summands if column < 0]
        total = sum(whole[1:], whole[0].clone()) if whole else parts[0].new_zeros(lead + shape)
        for column, place in summands:
            if column >= 0:
                part = total[..., column]
                part += parts[place].view(part.shape)
        return total

    return result


def _shaped(place: int, shape: tuple[int, ...]) -> Result:
    """One of the sums in this shape."""
    if len(shape) == 1:  # as it is
        return lambda parts, lead: parts[place]
    return lambda parts, lead: parts[place].view(lead + shape)
