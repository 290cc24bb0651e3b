"""What every searcher must keep, and a small space to try it on. A new searcher is one line in `OPTIONS`."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grammar import Cell, Sketch, parse, parse_sketch
from nas.searchers import Observation, Proposal, Searcher, make_searcher
from nas.searchers.base import SpaceLike
from nas.tasks import Recipe
from search_spaces import Choice, Chooser, Operator, Variation

GATES = ("x", "h", "x, h")
ACTIVATIONS = ("tanh", "relu", "sigmoid", "silu")
LISTED = [
    f"cell toy {{ state h: vec; z = sigmoid(lin({seen})); h' = lerp(z, h, {act}(lin(x, h) + {1 + shift})); out h' }}"
    for shift in range(4)
    for seen in GATES
    for act in ACTIVATIONS
]
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "random": {},
    "evolution": {"samples": 4, "population": 10, "operators": "bandit", "fresh": "learned"},
    "guided": {"candidates": 4, "every": 8, "features": "statistics"},
    "reinforce": {"samples": 4, "rate": 0.1},
    "nsga2": {"population": 6},
    "halving": {"proposer": "evolution", "proposer.samples": 4, "proposer.population": 10},
    "hyperband": {"rungs": 3},
    "oneshot": {"steps": 1},
    "list": {"cells": LISTED},
}
"""For each registered searcher the options that make it show its working within tens of trials."""

Score = Callable[[Cell], float | None]
Entry = Observation | tuple[Proposal, int]
"""What a searcher is told: what came of a trial, or that a proposal became one."""
RECIPE = Recipe(steps=27, batch_size=1, sequence_length=1, lr=0.1)


@dataclass(frozen=True)
class ToySpace:
    """Gated cells that differ in three genes: what the gate sees, the activation, and a shift before it."""

    shifts: int = 4

    @property
    def size(self) -> int:
        """How many cells there are."""
        return len(GATES) * len(ACTIVATIONS) * self.shifts

    @property
    def sketches(self) -> tuple[Sketch, ...]:
        """The space as a sketch, for searchers that want one."""
        shift = (
            f"choice{{ {' | '.join(str(1 + n) for n in range(self.shifts))} }}" if self.shifts > 1 else "1"
        )
        gate = " | ".join(f"sigmoid(lin({seen}))" for seen in GATES)
        value = " | ".join(f"{act}(lin(x, h) + {shift})" for act in ACTIVATIONS)
        text = f"z = choice{{ {gate} }}; h' = lerp(z, h, choice{{ {value} }})"
        return (parse_sketch(f"cell toy {{ state h: vec; {text}; out h' }}"),)

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

    @property
    def operators(self) -> tuple[str, ...]:
        """Mutations by name: a gene moved by one step, or to any value."""
        return ("near", "far")

    def vary(
        self, cell: Cell, rng: np.random.Generator, other: Cell | None = None, operator: Operator = None
    ) -> Variation:
        """A mutation, or a crossover with another cell."""
        if isinstance(operator, Mapping):
            shares = np.array([*operator.values()])
            operator = [*operator][int(rng.choice(len(shares), p=shares / shares.sum()))]
        if operator is not None:
            genes = self.genes(cell)
            moves = [-1, 1] if operator == "near" else range(1, max(2, self.shifts))
            genes[int(rng.integers(3))] += int(rng.choice(moves))
            return Variation(self.cell(genes), operator, (cell,))
        if other is None:
            return Variation(self.mutate(cell, rng), "mutate", (cell,))
        return Variation(self.crossover(cell, other, rng), "crossover", (cell, other))

    @property
    def sites(self) -> dict[str, int]:
        """The genes, as choices."""
        return {"gate": len(GATES), "act": len(ACTIVATIONS), "shift": self.shifts}

    def walk(self, choose: Chooser) -> Cell:
        """The cell of these choices."""
        return self.cell([choose(site, [1.0] * n) for site, n in self.sites.items()])

    def choices(self, cell: Cell) -> list[Choice]:
        """The choices that give a cell."""
        pairs = zip(self.sites.items(), self.genes(cell), strict=True)
        return [Choice(site, (1.0,) * n, gene) for (site, n), gene in pairs]

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


def made_up_metrics(cell: Cell) -> dict[str, float]:
    """What a campaign would know of a cell, made up of its digest."""
    number = int(cell.digest[:8], 16)
    return {"params": 1000.0 + number % 97, "flops": 2000.0 + number % 89, "latency_us": 1.0 + number % 7}


def suite_searcher(name: str, space: ToySpace) -> Searcher:
    """A registered searcher with the suite's options for it, begun."""
    searcher = make_searcher(name, space, OPTIONS[name])
    searcher.begin(RECIPE.to_dict())
    return searcher


Way = tuple[str, int, str]
"""A cell and how it is trained: what the record knows trials by."""


def way(cell: Cell, steps: int | None, recipe: Mapping[str, Any] | None) -> Way:
    """How a proposal is to be trained, or an observation was."""
    return cell.digest, steps or RECIPE.steps, repr(sorted((recipe or {}).items()))


def made_up_found(space: SpaceLike, supernet: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Cells that a supernet could have given, by its seed alone."""
    rng = np.random.default_rng(supernet["seed"])
    cells = [space.sample(rng) for _ in range(3)]
    return tuple(
        {"cell": cell.one_line, "digest": cell.digest, "score": made_up_score(cell)} for cell in cells
    )


def replay(searcher: Searcher, log: Sequence[Entry]) -> None:
    """Repeat to a fresh searcher what another was told, as a campaign that is carried on does."""
    for entry in log:
        if isinstance(entry, Observation):
            searcher.tell(entry)
        else:
            searcher.entered(*entry)


def drive(
    searcher: Searcher, asks: int, seed: int = 0, score: Score = made_up_score
) -> tuple[list[Proposal], list[Observation]]:
    """Ask and tell in turn, as a campaign with one worker does, until `asks` or until nothing is proposed."""
    log = Drive(searcher, seed, score=score)
    log.go_on(asks)
    return log.proposals, [entry for entry in log.entries if isinstance(entry, Observation)]


class Drive:
    """A campaign in small, with `workers` trials under way: what it did so far, and how it goes on."""

    def __init__(
        self, searcher: Searcher, seed: int = 0, workers: int = 1, score: Score = made_up_score
    ) -> None:
        self.searcher = searcher
        self.seed = seed
        self.workers = workers
        self.score = score
        self.asks = 0
        self.proposals: list[Proposal] = []
        self.entries: list[Entry] = []
        self.trials: dict[Way, Observation] = {}
        self.running: list[Observation] = []

    def carried_on(self, searcher: Searcher) -> Drive:
        """The same campaign after a kill, with a fresh searcher that was told all again."""
        replay(searcher, self.entries)
        other = Drive(searcher, self.seed, self.workers, self.score)
        other.asks, other.proposals, other.entries = self.asks, list(self.proposals), list(self.entries)
        other.trials, other.running = dict(self.trials), list(self.running)
        return other

    def go_on(self, events: int) -> bool:
        """Ask, or end a trial if all workers are busy, so many times; False once nothing is left to do."""
        for _ in range(events):
            proposal = None
            if len(self.running) < self.workers:
                proposal = self.searcher.ask(np.random.default_rng([self.seed, self.asks]))
            if proposal is not None:
                self._enter(proposal)
                if self.workers == 1:
                    self._end()
            elif self.running:
                self._end()
            else:
                return False
        return True

    def _enter(self, proposal: Proposal) -> None:
        self.asks += 1
        self.proposals.append(proposal)
        cell = proposal.cell
        key = way(cell, proposal.steps, proposal.recipe)
        if proposal.supernet is not None:
            self._enter_supernet(proposal, key)
            return
        known = self.trials.get(key)
        value = self.score(cell)
        observation = Observation(
            cell,
            cell.digest,
            value,
            "diverged" if value is None else "ok",
            len(self.trials) if known is None else known.trial,
            proposal.operator,
            proposal.parents,
            known is not None,
            made_up_metrics(cell),
            ((1, 2.0), (key[1], 1.0)),
            key[1],
            proposal.recipe,
        )
        if known is None:
            self.trials[key] = observation
            self._note((proposal, len(self.trials) - 1))
            self.running.append(observation)
        elif known not in self.running:
            self._note(observation)

    def _enter_supernet(self, proposal: Proposal, key: Way) -> None:
        supernet = proposal.supernet
        assert supernet is not None
        cell, well = proposal.cell, self.score(proposal.cell) is not None
        observation = Observation(
            cell,
            cell.digest,
            None,
            "supernet" if well else "diverged",
            len(self.trials),
            proposal.operator,
            proposal.parents,
            supernet=supernet,
            found=made_up_found(self.searcher.space, supernet) if well else (),
        )
        self.trials[(repr(supernet), *key[1:])] = observation
        self._note((proposal, len(self.trials) - 1))
        self.running.append(observation)

    def _end(self) -> None:
        if self.running:
            self._note(self.running.pop(self.asks % len(self.running)))

    def _note(self, entry: Entry) -> None:
        self.entries.append(entry)
        replay(self.searcher, [entry])
