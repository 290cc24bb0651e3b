"""What variation gives: a child, the operator that made it, and its parents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import ndiff

import numpy as np

from grammar import Cell
from search_spaces.sampling import below, pick

ATTEMPTS = 1_000  # tries until a child is found
BY_NAME = 100  # of one operator or motif
OF_TWO = 100  # of a crossover: mostly one or two are enough; twins of few operations have no other child
NEUTRAL = 20  # of these, tries that gave a child of the parent's digest before one is taken


@dataclass(frozen=True, slots=True)
class Variation:
    """A child, the operator that made it, and its parents. `neutral`: it has the digest of its (first) parent."""

    cell: Cell
    operator: str
    parents: tuple[Cell, ...]
    neutral: bool = False

    @property
    def diff(self) -> str:
        """The equations of the (first) parent and of the child, line by line: `- ` gone, `+ ` new, others unchanged."""
        before, after = (str(c).splitlines()[1:-1] for c in (self.parents[0], self.cell))
        return "".join(f"{line}\n" for line in ndiff(before, after) if not line.startswith("?"))

    def __str__(self) -> str:
        parents = " and ".join(f"{p.name} {p.digest[:8]}" for p in self.parents)
        return f"{self.operator} of {parents}{', neutral' if self.neutral else ''}\n{self.diff}"


Operator = str | Mapping[str, float] | None
"""Which operator varies a cell: this one, one drawn at each try by these weights, or any drawn at each try."""


def drawn(rng: np.random.Generator, names: Collection[str], operator: Operator) -> str:
    """The operator of one try."""
    if isinstance(operator, str):
        return operator
    among = [*names]
    if operator is None:
        return among[below(rng, len(among))]
    return among[pick(rng, [operator.get(name, 0.0) for name in among])]


def until_other(
    one: Callable[[], tuple[str, Cell | None]], parents: tuple[Cell, ...], attempts: int = ATTEMPTS
) -> Variation | None:
    """The first of the cells that `one` gives, each with its operator, of a digest that no parent has.

    A neutral one if there was no such cell in NEUTRAL neutral ones or `attempts` in all; None if there was none at all.
    """
    neutral: Variation | None = None
    twins = 0
    for _ in range(attempts):
        name, cell = one()
        if cell is None or any(cell is p for p in parents):
            continue
        if all(cell.digest != p.digest for p in parents):
            return Variation(cell, name, parents)
        neutral = Variation(cell, name, parents, neutral=True)
        twins += 1
        if twins == NEUTRAL:
            break
    return neutral
