"""Analyses held against numbers: what they say of a step must be true of it at random points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from grammar import Analysis, Cell, CellBuildError, analyse, check
from nas.errors import AnalysisError
from nas.ir.adjoint import adjoint_cell
from nas.ir.normal import normal_cell
from nas.ir.program import Program
from nas.ir.recurrence import Recurrence, recurrences
from nas.ir.stepping import Array, Step, fitting_sizes

_CLOSE = 1e-7  # beside the largest number that a difference is made of
_FAR = 1e4  # beyond any other number of a step, for max-plus
_SEED = 20


@lru_cache(maxsize=1024)
def checked_analysis(cell: Cell) -> Analysis:
    """`grammar.analyse(cell)`, a time cell's held against the numbers of its text's own interpreter, once per cell.

    Raises AnalysisError, naming the cell, where they refute it: then the analysis is wrong, or what the row of a user's
    own operation says.
    """
    analysis = analyse(cell)
    if cell.kind == "time":
        try:
            wrong = check(cell, np.random.default_rng(_SEED), claims=analysis, points=1)
        except CellBuildError:  # its blocks do not fit the size that is checked
            wrong = ()
        if wrong:
            raise AnalysisError(f"the analysis of cell {cell.name} is refuted by numbers: {'; '.join(wrong)}")
    return analysis


@lru_cache(maxsize=1024)
def checked_recurrences(cell: Cell) -> tuple[tuple[Recurrence, ...], tuple[Recurrence, ...]]:
    """The recurrences of a time cell's normal form and of its adjoint, held against numbers once per cell.

    Raises AnalysisError, naming the cell, where a step at a random point refutes a class.
    """
    made = []
    for what, program in (("", normal_cell(cell).program), ("adjoint ", adjoint_cell(cell).backward)):
        found = recurrences(program)
        wrong = list(refuted(program, found))
        if wrong:
            raise AnalysisError(
                f"the {what}recurrence of cell {cell.name} is refuted by numbers: {'; '.join(wrong)}"
            )
        made.append(found)
    return made[0], made[1]


def refuted(program: Program, claims: Sequence[Recurrence]) -> Iterator[str]:
    """What is claimed of a program's recurrences and does not hold at a random point, in words."""
    if not claims:
        return
    rng = np.random.default_rng(_SEED)
    rank = max(claim.rank for claim in claims)
    try:
        sizes = fitting_sizes(program, max(4, 2 * rank + 2))
    except CellBuildError:
        return
    step = Step(program, sizes, rng)
    for claim in claims:
        names = ", ".join(program.slots[s].name for s in claim.slots)
        for fault in _faults(step, claim):
            yield f"{names}: {claim}, but {fault}"


def _faults(step: Step, claim: Recurrence) -> Iterator[str]:
    base = step.start()
    if claim.degree == "affine":
        after = _moved(step, claim, base, [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)])
        if not all(_zero(a[2] - 2 * a[1] + a[0], a) for a in after):
            yield "its second difference is not zero"
    elif claim.degree == "max-plus":
        places = [(way, far) for way in (-4.0, 0.0, 4.0) for far in (0.0, _FAR, -_FAR)]
        for a in _moved(step, claim, base, places):
            largest = np.maximum(a[1::3] - _FAR, a[2::3])
            if not _zero(largest - a[::3], a[::3]):
                yield "it is not the larger of a shifted state and a constant"
    yield from _mixed(step, claim, base)
    if claim.side:
        yield from _ranks(step, claim, base)


def _moved(
    step: Step, claim: Recurrence, base: list[Array], places: Sequence[tuple[float, float]]
) -> list[Array]:
    """The slots of a circle after a step from `base`, moved so far along a random way, and up so far everywhere."""
    states = [np.repeat(a, len(places), axis=0) for a in base]
    for s in claim.slots:
        way = step.rng.standard_normal(base[s].shape)[0]
        for row, (along, up) in enumerate(places):
            states[s][row] += along * way + up
    after = step(states)
    return [after[s] for s in claim.slots]


def _zero(difference: Array, values: Array) -> bool:
    """Whether a difference of values is rounding alone; what is not finite says nothing."""
    finite = np.isfinite(difference)
    scale = np.abs(values[np.isfinite(values)]).max(initial=1.0)
    return bool((np.abs(difference[finite]) <= _CLOSE * scale).all())


def _mixed(step: Step, claim: Recurrence, base: list[Array]) -> Iterator[str]:
    """Move single entries: which others change?"""
    if claim.mixing == "dense":
        return
    places = [(s, int(step.rng.integers(base[s].size))) for s in claim.slots for _ in range(2)]
    states = [np.repeat(a, len(places) + 1, axis=0) for a in base]
    for row, (s, entry) in enumerate(places):
        states[s][row + 1].reshape(-1)[entry] += 1.0
    after = step(states)
    for row, (s, entry) in enumerate(places):
        for t in claim.slots:
            changed = _changed(after[t][0].reshape(-1), after[t][row + 1].reshape(-1))
            own = _group(step, claim, s, np.array([entry]))
            if (_group(step, claim, t, changed) != own).any():
                yield f"entry {entry} of {step.program.slots[s].name} changes others of {step.program.slots[t].name}"


def _changed(before: Array, now: Array) -> NDArray[np.intp]:
    """The entries that differ by more than rounding: a product of matrices rounds the same row otherwise elsewhere."""
    finite = np.isfinite(before) & np.isfinite(now)
    scale = np.abs([before[finite], now[finite]]).max(initial=1.0)
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(finite & (np.abs(now - before) > _CLOSE * scale))


def _group(step: Step, claim: Recurrence, slot: int, entries: NDArray[np.intp]) -> NDArray[np.intp]:
    """The number of the entry, block, column or row that may see only itself."""
    type_, sizes = step.program.slots[slot].type, step.sizes
    width = sizes.at(type_.width)
    if claim.side:
        head, inside = np.divmod(entries, sizes.key_size * sizes.value_size)
        line = inside % sizes.value_size if claim.side == "key" else inside // sizes.value_size
        return np.asarray(head * sizes.value_size + line)
    if claim.mixing == "elementwise":
        return entries
    count = sizes.heads if claim.blocks == "heads" else int(claim.blocks)
    return np.asarray(entries // (width // count))


def _ranks(step: Step, claim: Recurrence, base: list[Array]) -> Iterator[str]:
    """Of the map of one column (row) to itself, a block off the diagonal has at most the rank claimed."""
    size = step.sizes.key_size
    half = size // 2
    moves = [(s, k) for s in claim.slots for k in range(half)]
    states = [np.repeat(a, len(moves) + 1, axis=0) for a in base]
    for row, (s, k) in enumerate(moves):
        states[s][row + 1, 0][(k, 0) if claim.side == "key" else (0, k)] += 1.0
    after = step(states)
    lines = []
    for t in claim.slots:
        change = after[t][1:, 0] - after[t][:1, 0]
        lines.append(change[:, half:, 0] if claim.side == "key" else change[:, 0, half:])
    block = np.concatenate(lines, axis=1)
    if (
        np.isfinite(block).all()
        and np.linalg.matrix_rank(block, tol=_CLOSE * np.abs(block).max(initial=1.0)) > claim.rank
    ):
        yield f"beside the diagonal its rank is above {claim.rank}"
