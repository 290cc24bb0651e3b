"""The gradients of a layer's arrays, from sums over rows and products of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from grammar import Sizes
from nas.backends.c.half import Half
from nas.backends.c.running import Buffers, column_of, side_by_side
from nas.backends.c.sweep import Column
from nas.ir import Adjoint


class Gradients:
    """What follows the sweeps of a backward half."""

    def __init__(self, adjoint: Adjoint, half: Half, sizes: Sizes) -> None:
        self.half, self.sizes = half, sizes
        plan = half.schedule
        self.summands: dict[int, list[tuple[int, int]]] = {}  # of each array: columns and nodes
        for w in adjoint.weights:
            self.summands.setdefault(w.array, []).append((w.column, plan.at[w.value]))
        self.count = len(adjoint.forward.arrays)
        self.totals = [k for k, node in enumerate(plan.nodes) if node.op == "total"]
        self.loose = [
            k for k in self.totals if not any(k in sweep.sweep.totals for sweep in half.sweeps.values())
        ]
        self.grams = self._grouped([k for k, node in enumerate(plan.nodes) if node.op == "gram"])

    def _grouped(
        self, grams: Sequence[int]
    ) -> list[tuple[Column, int, Column, int, list[tuple[int, int]], int]]:
        """Products of rows, those with the same second operand and first ones side by side as one.

        Of each: both operands' columns and sizes, the nodes with their parts of the first operand, and the blocks.
        """
        nodes, size = self.half.schedule.nodes, self.half.world.size
        by_second: dict[tuple[int, object], list[int]] = {}
        for k in grams:
            by_second.setdefault((nodes[k].args[1], nodes[k].attr("blocks", 1)), []).append(k)
        made = []
        for (b, blocks), members in by_second.items():
            count = self.sizes.heads if blocks == "heads" else int(blocks)  # type: ignore[call-overload]
            second = self.half.column(b)
            members.sort(
                key=lambda k: (
                    self.half.column(nodes[k].args[0]).key,
                    self.half.column(nodes[k].args[0]).first,
                )
            )
            firsts = [self.half.column(nodes[k].args[0]) for k in members]
            widths = [size(nodes[k].args[0]) for k in members]
            for run, places in side_by_side(firsts, widths):
                own = [(members[p], widths[p]) for p in places]
                for part in [own] if count == 1 else [[one] for one in own]:
                    column = run if count == 1 else self.half.column(nodes[part[0][0]].args[0])
                    made.append((column, sum(w for _, w in part), second, size(b), part, count))
        return made

    def prepare(self, buffers: Buffers) -> None:
        """Room for the sums over rows and what is made of them."""
        plan, size = self.half.schedule, self.half.world.size
        wanted = [("total", k, size(plan.nodes[k].args[0])) for k in self.totals]
        wanted += [("end", k, size(k)) for k in self.half.ends]
        if wanted:
            parts = torch.empty(sum(n for _, _, n in wanted)).split([n for _, _, n in wanted])
            for (kind, k, _), part in zip(wanted, parts, strict=True):
                buffers[kind, k] = part

    def sum_given(self, buffers: Buffers) -> None:
        """Sums of rows that no sweep computes."""
        for k in self.loose:
            (a,) = self.half.schedule.nodes[k].args
            torch.sum(
                column_of(buffers, self.half.column(a), self.half.world.size(a)), 0, out=buffers["total", k]
            )

    def __call__(self, buffers: Buffers, weights: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradient of each array; None where it has none."""
        found: dict[int, Tensor] = {}
        for first, n, second, m, parts, blocks in self.grams:
            a, b = column_of(buffers, first, n), column_of(buffers, second, m)
            if blocks > 1:
                rows = a.shape[0]
                left, right = (v.reshape(rows, blocks, -1).transpose(0, 1) for v in (a, b))
                found[parts[0][0]] = torch.bmm(left.transpose(1, 2), right)
                continue
            product = torch.mm(a.t(), b)
            if len(parts) == 1:
                found[parts[0][0]] = product
            else:
                found |= zip([k for k, _ in parts], product.split([w for _, w in parts]), strict=True)
        for k in self.totals:
            found[k] = buffers["total", k]
        for k in self.half.ends:
            found[k] = buffers["end", k]
        result: list[Tensor | None] = [None] * self.count
        for array, summands in self.summands.items():
            result[array] = _joined([(column, found[k]) for column, k in summands], weights[array])
        return result


def _joined(summands: Sequence[tuple[int, Tensor]], like: Tensor) -> Tensor:
    """A gradient in the shape of its array, from summands for all of it or for one place of its last axis."""
    whole = [value.reshape(like.shape) for column, value in summands if column < 0]
    total = sum(whole[1:], whole[0]) if whole else torch.zeros_like(like)
    for column, value in summands:
        if column >= 0:
            place = total[..., column]
            place += value.reshape(place.shape)
    return total


def volume(shape: Sequence[int]) -> int:
    """Entries of a shape."""
    return math.prod(shape)
