"""The numeric check of the recurrence analysis: finite differences of one step at random points.

A class must never promise more than the numbers hold. The other way round is allowed: a cell may
happen to be simpler than its text shows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grammar.analysis import Analysis, Component, analyse, vertex_names
from grammar.cell import Cell
from grammar.dependence import Dependence, Flows
from grammar.errors import CellBuildError
from grammar.evaluate import buffer_nodes, evaluate
from grammar.renderings import Array
from grammar.sizes import Sizes
from grammar.weights import init_weights

_TOLERANCE = 1e-6  # of the largest number of a state, in float64


def check(
    cell: Cell,
    rng: np.random.Generator,
    *,
    claims: Analysis | None = None,
    hidden_size: int = 8,
    heads: int = 2,
    points: int = 2,
) -> tuple[str, ...]:
    """What an analysis claims of a time cell and the numbers refute, in words; empty where all holds.

    `claims` is `analyse(cell)` unless given; `points` are drawn, each with its own weights. Raises
    CellBuildError where the sizes do not fit the cell, or it is no time cell.
    """
    if cell.kind != "time":
        raise CellBuildError(f"steps are checked of time cells; {cell.name} is a {cell.kind} cell")
    analysis = claims or analyse(cell)
    rank = max((c.rank for c in analysis.components), default=0)
    wrong: list[str] = []
    for _ in range(points):
        step = _Step(cell, rng, hidden_size, heads, key_size=max(3, 2 * rank + 2))
        for component in analysis.components:
            places = [step.place[name] for name in component.states]
            wrong += step.refutes(component.dependence, places, places, component.blocks, str(component))
            if component.structure:
                wrong += step.refutes_structure(component, places)
        for old in cell.states:
            for new in cell.states:
                pair = analysis.dependence.get((new.name, old.name), Dependence("none", "const"))
                title = f"{new.name}' of {old.name}: {pair}"
                ends = [step.place[old.name]], [step.place[new.name]]
                wrong += step.refutes(pair, *ends, "", title)
    return tuple(dict.fromkeys(wrong))


@dataclass(frozen=True, slots=True)
class _Entry:
    """One array of the state: the shape of one value, and how many values it holds."""

    own: tuple[int, ...]
    steps: int

    def flat(self, array: Array) -> Array:
        """[rows, steps, width]."""
        return array.reshape((len(array), self.steps, -1))


class _Step:
    """One step of a cell at a random point, as a function of the state."""

    def __init__(
        self, cell: Cell, rng: np.random.Generator, hidden_size: int, heads: int, key_size: int
    ) -> None:
        self.cell, self.rng = cell, rng
        width = hidden_size if cell.graph.equal_width else hidden_size - 2
        key_size = hidden_size // heads if cell.graph.k_is_v else key_size
        self.sizes = Sizes.of(width, hidden_size, heads, key_size)
        drawn = init_weights(
            cell, rng, input_size=width, hidden_size=hidden_size, heads=heads, key_size=key_size
        )
        # Fresh parameters have zeros in them, which would hide dependence.
        self.weights = {n: a + 0.3 * rng.standard_normal(a.shape) for n, a in drawn.items()}
        self.x = rng.standard_normal((1, 1, width))
        started = self._evaluate(self.x, None)
        buffers = buffer_nodes(cell.graph)
        nodes: list[str | int] = [*(s.name for s in cell.states), *buffers]
        self.place = {name: nodes.index(v) for v, name in vertex_names(Flows(cell.graph)).items()}
        self.entries = []
        for i, array in enumerate(started):
            node = None if i < len(cell.states) else cell.graph.nodes[buffers[i - len(cell.states)]]
            conv = node is not None and node.op == "conv"
            self.entries.append(_Entry(array.shape[1 + conv :], array.shape[1] if conv else 1))
        self.base = [self._normal(a.shape, np.iscomplexobj(a)) for a in started]

    def _evaluate(self, x: Array, state: Sequence[Array] | None) -> list[Array]:
        sizes = self.sizes
        found = evaluate(
            self.cell,
            x,
            self.weights,
            hidden_size=sizes.hidden_size,
            heads=sizes.heads,
            key_size=sizes.key_size,
            state=state,
        )
        return list(found.state)

    def _normal(self, shape: tuple[int, ...], is_complex: bool) -> Array:
        drawn = self.rng.standard_normal(shape)
        return drawn + 1j * self.rng.standard_normal(shape) if is_complex else drawn

    def move(self, places: Collection[int], rows: int) -> list[Array]:
        """Random changes [rows, ...] of some arrays of the state; zeros for the others."""
        return [
            self._normal((rows, *a.shape[1:]), np.iscomplexobj(a))
            if i in places
            else np.zeros((rows, *a.shape[1:]), a.dtype)
            for i, a in enumerate(self.base)
        ]

    def run(self, state: Sequence[Array]) -> list[Array]:
        """The new state, [rows, ...]."""
        rows = max(len(a) for a in state)
        full = [np.broadcast_to(a, (rows, *a.shape[1:])) for a in state]
        x = np.broadcast_to(self.x, (rows, *self.x.shape[1:]))
        return self._evaluate(x, full)

    def moved(self, change: Sequence[Array]) -> list[Array]:
        """The new state from the base point and a change."""
        return self.run([b + c for b, c in zip(self.base, change, strict=True)])

    # -- claims -----------------------------------------------------------------------------

    def refutes(
        self, claim: Dependence, old: Sequence[int], new: Sequence[int], blocks: str, title: str
    ) -> list[str]:
        """Which parts of a claim on how `new` depends on `old` fail."""
        wrong = []
        if claim.mixing == "none" and not self._equal(
            self.moved(self.move(old, 1)), self.run(self.base), new
        ):
            wrong.append(f"{title}: it depends")
        if claim.degree == "affine" and not self._affine(old, new):
            wrong.append(f"{title}: it is not affine")
        if claim.degree == "max-plus" and not self._max_plus(old, new):
            wrong.append(f"{title}: it is not max-plus affine")
        widths = {int(np.prod(self.entries[i].own)) for i in (*old, *new)}
        if claim.mixing == "elementwise" and len(widths) == 1:
            parts = widths.pop()
        elif claim.mixing == "block" and blocks:
            parts = self.sizes.heads if blocks == "heads" else int(blocks)
        else:
            return wrong
        keys = {i: np.arange(int(np.prod(self.entries[i].own))) for i in (*old, *new)}
        groups = {i: k * parts // len(k) for i, k in keys.items()}
        if not self._separate(groups, parts, old, new):
            wrong.append(f"{title}: entries mix")
        return wrong

    def refutes_structure(self, component: Component, places: Sequence[int]) -> list[str]:
        """Which claims on the matrix of an affine step of matrices fail."""
        heads, keys, values = self.entries[places[0]].own
        cells = np.arange(heads * keys * values).reshape(heads, keys, values)
        head, row, column = cells // (keys * values), cells // values % keys, cells % values
        wrong = []
        if component.structure == "diagonal":
            group, parts = cells, heads * keys * values
        elif component.side == "key":
            group, parts = head * values + column, heads * values
        else:
            group, parts = head * keys + row, heads * keys
        if not self._separate({i: group.reshape(-1) for i in places}, parts, places, places):
            wrong.append(f"{component}: entries mix")
        wrong += self._varies(component, places)
        if component.rank and self._rank(places, component.side) > component.rank:
            wrong.append(f"{component}: the rank is higher")
        return wrong

    def _varies(self, component: Component, places: Sequence[int]) -> list[str]:
        """A change that is the same along an axis stays so where the diagonal does not vary along it."""
        wrong = []
        # A low rank on the side of the keys mixes rows, so rows can be compared for diagonals alone.
        axes = {"key": ("column",), "value": ("row",)}.get(component.side, ("row", "column"))
        for axis in (a for a in axes if a not in component.decay):
            change = self.move(places, 1)
            where = 2 if axis == "row" else 3
            for i in places:
                change[i] = np.broadcast_to(change[i].take([0], axis=where), change[i].shape).copy()
            after, before = self.moved(change), self.run(self.base)
            for i in places:
                found = after[i] - before[i]
                if not _close(found, found.take([0], axis=where), _scale(after[i], before[i])):
                    wrong.append(f"{component}: the decay varies by {axis}")
        return wrong

    def _rank(self, places: Sequence[int], side: str) -> int:
        """The rank of an off-diagonal part of the step's matrix, which no diagonal can change."""
        _, keys, values = self.entries[places[0]].own
        length = keys if side == "key" else values
        half = length // 2
        change = [np.repeat(a, half * len(places), axis=0) for a in self.move((), 1)]
        for n, i in enumerate(places):
            for k in range(half):
                where = (n * half + k, 0, k, 0) if side == "key" else (n * half + k, 0, 0, k)
                change[i][where] = 1.0
        after, before = self.moved(change), self.run(self.base)
        parts = []
        for i in places:
            found = after[i] - before[i]
            parts.append(found[:, 0, half:, 0] if side == "key" else found[:, 0, 0, half:])
        matrix = np.concatenate(parts, axis=1)
        if not np.isfinite(matrix).all():
            return 0
        singular = np.linalg.svd(matrix, compute_uv=False)
        return int((singular > _TOLERANCE * (1 + singular.max(initial=0))).sum())

    def _affine(self, old: Sequence[int], new: Sequence[int]) -> bool:
        first, second = self.move(old, 1), self.move(old, 1)
        both = [a + b for a, b in zip(first, second, strict=True)]
        ends = self.moved(both), self.run(self.base), self.moved(first), self.moved(second)
        return all(
            _close(ends[0][i] + ends[1][i], ends[2][i] + ends[3][i], _scale(*(e[i] for e in ends)))
            for i in new
        )

    def _max_plus(self, old: Sequence[int], new: Sequence[int]) -> bool:
        """F(max(a, b)) = max(F(a), F(b)), and where F(a + 1) > F(a), F goes on with slope one."""
        rows = 8
        first, second = self.move(old, rows), self.move(old, rows)
        pairs = enumerate(zip(first, second, strict=True))
        larger = [np.maximum(a, b) if i in old else a for i, (a, b) in pairs]
        once, twice = ([a + c if i in old else a for i, a in enumerate(first)] for c in (1.0, 2.0))
        one, two, top, more, most = (self.moved(m) for m in (first, second, larger, once, twice))
        for i in new:
            scale = _scale(one[i], two[i], most[i])
            rising = more[i] > one[i] + _TOLERANCE * scale
            if not _close(top[i], np.maximum(one[i], two[i]), scale):
                return False
            if not _close(np.where(rising, most[i], more[i] + 1.0), more[i] + 1.0, scale):
                return False
        return True

    def _separate(self, groups: dict[int, Array], parts: int, old: Sequence[int], new: Sequence[int]) -> bool:
        """Whether a change in one group of entries is seen in that group alone; `groups` by flat entry."""
        change = self.move(old, parts)
        for i in old:
            mask = groups[i][None, None, :] == np.arange(parts)[:, None, None]
            flat = self.entries[i].flat(change[i]) * mask
            change[i] = flat.reshape(change[i].shape)
        after, before = self.moved(change), self.run(self.base)
        for i in new:
            outside = groups[i][None, None, :] != np.arange(parts)[:, None, None]
            found, kept = self.entries[i].flat(after[i]), self.entries[i].flat(before[i])
            if not _close(np.where(outside, found, kept), kept, _scale(before[i])):
                return False
        return True

    @staticmethod
    def _equal(found: Sequence[Array], kept: Sequence[Array], new: Sequence[int]) -> bool:
        return all(_close(found[i], kept[i], _scale(kept[i])) for i in new)


def _scale(*arrays: Array) -> float:
    sizes = (np.abs(a[np.isfinite(a)]).max(initial=0.0) for a in arrays)
    return 1.0 + float(max(sizes))


def _close(found: Any, wanted: Any, scale: float) -> bool:
    """Whether two arrays agree wherever both are finite."""
    found, wanted = np.broadcast_arrays(found, wanted)
    finite = np.isfinite(found) & np.isfinite(wanted)
    return bool((np.abs(found[finite] - wanted[finite]) <= _TOLERANCE * scale).all())
