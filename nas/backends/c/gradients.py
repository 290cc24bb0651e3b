"""The gradients of a layer's arrays, from sums over rows and products of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nas.backends.c.running import Geometry, Running, Values, side_by_side
from nas.ir import Adjoint


class Gradients:
    """What follows the sweeps of a backward half: `prepare` makes room for sums, a call gives all gradients."""

    def __init__(self, adjoint: Adjoint, running: Running, shapes: Sequence[tuple[int, ...]]) -> None:
        self.running, half = running, running.half
        self.nodes, self.size, self.column = half.schedule.nodes, half.world.size, half.column
        self.heads = half.world.sizes.heads
        count = range(len(self.nodes))
        totals = [k for k in count if self.nodes[k].op == "total"]
        swept = [k for sweep in half.sweeps.values() for k in sweep.sweep.grams]
        place = running.place
        self.room = [(place(("total", k)), self.size(self.nodes[k].args[0])) for k in totals]
        self.room += [(place(("end", k)), self.size(k)) for k in half.ends]
        self.widths = [n for _, n in self.room]
        self.whole = sum(self.widths)
        self.squares = [(place(("gram", k)), tuple(self.size(a) for a in self.nodes[k].args)) for k in swept]
        counted = {k for sweep in half.sweeps.values() for k in sweep.sweep.totals}
        self.loose = [
            (place(("total", k)), running.column(self.column(a), self.size(a)))
            for k in totals
            if k not in counted
            for a in self.nodes[k].args
        ]
        self.grams = self._grouped([k for k in count if self.nodes[k].op == "gram" and k not in swept])
        self.shapes = list(shapes)
        summands: dict[int, list[tuple[int, int]]] = {}
        for w in adjoint.weights:
            summands.setdefault(w.array, []).append((w.column, self._value(half.schedule.at[w.value])))
        self.results = [self._result(n, summands.get(n, [])) for n in range(len(self.shapes))]

    def _value(self, k: int) -> int:
        """Where the value of a node of the stage `end` is."""
        return self.running.place(({"total": "total", "gram": "gram"}.get(self.nodes[k].op, "end"), k))

    def prepare(self, values: Values) -> None:
        """Room for the sums over rows and what is made of them."""
        if self.whole:
            parts = torch.empty(self.whole).split_with_sizes(self.widths)
            for (place, _), part in zip(self.room, parts, strict=True):
                values[place] = part
        for place, shape in self.squares:
            values[place] = torch.zeros(shape)

    def __call__(self, values: Values, geometry: Geometry) -> list[Tensor | None]:
        """The gradient of each array; None where it has none."""
        for place, rows in self.loose:
            torch.sum(rows(values), 0, out=values[place])
        if self.running.end:
            self.running.end(values, geometry)
        for gram in self.grams:
            gram(values)
        return [None if result is None else result(values) for result in self.results]

    # -- products of rows -------------------------------------------------------------------

    def _grouped(self, grams: Sequence[int]) -> list[Callable[[Values], None]]:
        """Products of rows; those with the same second operand and first ones side by side are one."""
        groups: dict[tuple[int, object], list[int]] = {}
        for k in grams:
            groups.setdefault((self.nodes[k].args[1], self.nodes[k].attr("blocks", 1)), []).append(k)
        made = []
        for (b, blocks), members in groups.items():
            second = self.running.column(self.column(b), self.size(b))
            if blocks != 1:
                count = self.heads if blocks == "heads" else int(blocks)  # type: ignore[call-overload]
                made += [self._in_blocks(k, second, count) for k in members]
                continue
            firsts = {k: self.column(self.nodes[k].args[0]) for k in members}
            members.sort(key=lambda k: (firsts[k].key, firsts[k].first))
            widths = [self.size(self.nodes[k].args[0]) for k in members]
            for run, places in side_by_side([firsts[k] for k in members], widths):
                own = [widths[p] for p in places]
                first = self.running.column(run, sum(own))
                made.append(_gram(first, second, [self._value(members[p]) for p in places], own))
        return made

    def _in_blocks(self, k: int, second: Callable[[Values], Tensor], blocks: int) -> Callable[[Values], None]:
        a = self.nodes[k].args[0]
        first, place = self.running.column(self.column(a), self.size(a)), self._value(k)

        def gram(values: Values) -> None:
            left, right = (
                rows.reshape(rows.shape[0], blocks, -1).transpose(0, 1)
                for rows in (first(values), second(values))
            )
            values[place] = torch.bmm(left.transpose(1, 2), right)

        return gram

    # -- results ----------------------------------------------------------------------------

    def _result(self, n: int, summands: Sequence[tuple[int, int]]) -> Callable[[Values], Tensor] | None:
        """The gradient of an array, from summands for all of it or for one place of its last axis."""
        if not summands:
            return None
        shape = self.shapes[n]
        if len(summands) == 1 and summands[0][0] < 0:
            place = summands[0][1]
            return lambda values: values[place].view(shape)  # type: ignore[union-attr]

        def result(values: Values) -> Tensor:
            whole = [values[place].reshape(shape) for column, place in summands if column < 0]  # type: ignore[union-attr]
            total = sum(whole[1:], whole[0]) if whole else torch.zeros(shape)
            for column, place in summands:
                if column >= 0:
                    part = total[..., column]
                    part += values[place].reshape(part.shape)  # type: ignore[union-attr]
            return total

        return result


def _gram(
    first: Callable[[Values], Tensor],
    second: Callable[[Values], Tensor],
    places: Sequence[int],
    widths: Sequence[int],
) -> Callable[[Values], None]:
    if len(places) == 1:
        (place,) = places

        def one(values: Values) -> None:
            values[place] = torch.mm(first(values).t(), second(values))

        return one

    def several(values: Values) -> None:
        parts = torch.mm(first(values).t(), second(values)).split_with_sizes(widths)
        for place, part in zip(places, parts, strict=True):
            values[place] = part

    return several
