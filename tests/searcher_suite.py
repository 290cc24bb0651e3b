"""What every searcher must keep, and a small space to try it on. A new searcher is one line in `OPTIONS`."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grammar import Cell, parse
from nas.searchers import Observation, Proposal, Searcher, make_searcher
from search_spaces import Variation

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "random": {},
    "evolution": {"samples": 4, "population": 10},
    "guided": {"samples": 8, "candidates": 8, "every": 4},
}
"""For each registered searcher the options that make it show its working within tens of trials."""

GATES = ("x", "h", "x, h")
ACTIVATIONS = ("tanh", "relu", "sigmoid", "silu")

Score = Callable[[Cell], float | None]


@dataclass(frozen=True)
class ToySpace:
    """Gated cells that differ in three genes: what the gate sees, the activation, and a shift before it."""

    shifts: int = 4

    @property
    def size(self) -> int:
        """How many cells there are."""
        return len(GATES) * len(ACTIVATIONS) * self.shifts

    def cell(self, genes: Sequence[int]) -> Cell:
        """The cell of three genes, each taken modulo the number of its values."""
        gate, act, shift = genes
        return _toy(gate % len(GATES), act % len(ACTIVATIONS), shift % self.shifts)

    def genes(self, cell: Cell) -> list[int]:
        """The genes of a cell of this space."""
        found = _TOY.fullmatch(cell.one_line)
        assert found is not None, f"not of this space: {cell.one_line}"
        return [GATES.index(found["seen"]), ACTIVATIONS.index(found["act"]), int(found["shift"]) - 1]

    def sample(self, rng: np.random.Generator) -> Cell:
        """A cell, uniformly."""
        return self.cell([int(gene) for gene in rng.integers(0, 1 << 16, size=3)])

    def mutate(self, cell: Cell, rng: np.random.Generator) -> Cell:
        """The cell with one gene moved by a few steps."""
        genes = self.genes(cell)
        genes[int(rng.integers(3))] += int(rng.choice([-3, -2, -1, 1, 2, 3]))
        return self.cell(genes)

    def crossover(self, a: Cell, b: Cell, rng: np.random.Generator) -> Cell:
        """Each gene from one of the two."""
        pairs = zip(self.genes(a), self.genes(b), strict=True)
        return self.cell([pair[int(rng.integers(2))] for pair in pairs])

    def vary(self, cell: Cell, rng: np.random.Generator, other: Cell | None = None) -> Variation:
        """A mutation, or a crossover with another cell."""
        if other is None:
            return Variation(self.mutate(cell, rng), "mutate", (cell,))
        return Variation(self.crossover(cell, other, rng), "crossover", (cell, other))

    def __contains__(self, cell: Cell) -> bool:
        try:
            self.genes(cell)
        except AssertionError:
            return False
        return True


_TOY = re.compile(
    r"cell toy { state h: vec; z = sigmoid\(lin\((?P<seen>.*?)\)\); "
    r"h' = lerp\(z, h, (?P<act>\w+)\(lin\(x, h\) \+ (?P<shift>\d+)\)\); out h' }"
)


@functools.cache
def _toy(gate: int, act: int, shift: int) -> Cell:
    value = f"{ACTIVATIONS[act]}(lin(x, h) + {1 + shift})"
    return parse(
        f"cell toy {{ state h: vec; z = sigmoid(lin({GATES[gate]})); h' = lerp(z, h, {value}); out h' }}"
    )


def made_up_score(cell: Cell) -> float:
    """A score in [0, 1) that depends on the digest alone."""
    return int(hashlib.sha256(cell.digest.encode()).hexdigest()[:8], 16) / 16**8


def suite_searcher(name: str, space: ToySpace) -> Searcher:
    """A registered searcher with the suite's options for it."""
    return make_searcher(name, space, OPTIONS[name])


def drive(
    searcher: Searcher, asks: int, seed: int = 0, score: Score = made_up_score
) -> tuple[list[Proposal], list[Observation]]:
    """Ask and tell in turn, as a campaign with one worker does, until `asks` or until nothing is proposed."""
    proposals: list[Proposal] = []
    observations: list[Observation] = []
    trials: dict[str, Observation] = {}
    for index in range(asks):
        proposal = searcher.ask(np.random.default_rng([seed, index]))
        if proposal is None:
            break
        digest = proposal.cell.digest
        value = score(proposal.cell)
        status = "diverged" if value is None else "ok"
        number = trials[digest].trial if digest in trials else len(trials)
        made = (proposal.operator, proposal.parents, digest in trials)
        observation = Observation(proposal.cell, digest, value, status, number, *made)
        trials.setdefault(digest, observation)
        searcher.tell(observation)
        proposals.append(proposal)
        observations.append(observation)
    return proposals, observations
