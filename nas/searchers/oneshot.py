"""One-shot search: supernets are trained as trials of their own kind, and the cells that they give are proposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from grammar import Cell, Sketch, parse
from nas.errors import SearchError
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.options import check_whole
from nas.supernet import SupernetOptions
from search_spaces import GrammarSpace, Relaxed, SpaceError, unroll

SEEDS = 1 << 31
DRY = 2
"""Supernets in a row that gave nothing new, after which the space is sampled."""
FAILED = 3
"""Supernets in a row that failed, after which the space is sampled too."""
TRIES = 200


class OneShot(Searcher):
    """Trains supernets and proposes what they give; what counts is what a cell does when it is trained by itself.

    While no cell waits to be proposed, a supernet over a sketch of the space is: at most `supernets` of them (None: as
    many as the budget has room for), each with a seed of its own, so that two workers begin with two. What each gives
    is proposed in its order, the selected cell first. A space of several sketches takes them in turn; a space of rules
    is unrolled (`depth`, see `search_spaces.unroll`). Once supernets fail or give nothing new the space is sampled.

    The other options are those of `nas.supernet.SupernetOptions`; for a space of rules, whose mixture is large,
    `method` is "uniform" by default.
    """

    name = "oneshot"

    def __init__(self, space: SpaceLike, *, supernets: int | None = None, **options: Any) -> None:
        super().__init__(space)
        if supernets is not None:
            check_whole("oneshot", 1, supernets=supernets)
        self.supernets = supernets
        default = {"method": "uniform"} if isinstance(space, GrammarSpace) else {}
        self.options = SupernetOptions.from_dict({**default, **options})
        self.sketches = _sketches(space, self.options.depth)
        try:
            mixtures = [Relaxed(sketch, self.options.lift) for sketch in self.sketches]
        except SpaceError as error:
            raise SearchError(f"oneshot: {error}") from None
        # It stands for all the cells of the sketch: the record shows it, and the width is matched to it.
        self._typical = [m.derived(m.template.complete({}, np.random.default_rng(0))) for m in mixtures]
        self._found: dict[str, Proposal] = {}
        self._known: set[str] = set()
        self._entered = self._dry = self._failed = 0

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A cell that a supernet gave, or a supernet; None where both have come to an end."""
        for digest, proposal in self._found.items():
            if digest not in self._known:
                return proposal
        if self._dry >= DRY or self._failed >= FAILED:
            return self._sample(rng)
        if self.supernets is not None and self._entered >= self.supernets:
            return None
        which = self._entered % len(self.sketches)
        supernet = self._supernet(self.sketches[which], int(rng.integers(SEEDS)))
        return Proposal(self._typical[which], "supernet", supernet=supernet)

    def planned(self) -> tuple[Mapping[str, Any], ...]:
        """One supernet of each sketch."""
        return tuple(self._supernet(sketch, 0) for sketch in self.sketches)

    def _supernet(self, sketch: Sketch, seed: int) -> Mapping[str, Any]:
        space = getattr(self.space, "text", None) if isinstance(self.space, GrammarSpace) else None
        return {"sketch": str(sketch), "space": space, "seed": seed, "options": self.options.to_dict()}

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Count supernets, and do not propose again what is under way."""
        if proposal.supernet is not None:
            self._entered += 1
        else:
            self._known.add(proposal.cell.digest)

    def tell(self, observation: Observation) -> None:
        """Take in the cells of a supernet, or that a cell is known now."""
        if observation.supernet is None:
            self._known.add(observation.digest)
            return
        if observation.status != "supernet":
            self._failed += 1
            return
        self._failed = 0
        new = 0
        for found in observation.found:
            digest = str(found["digest"])
            if digest not in self._known and digest not in self._found:
                selected = "selected" if found.get("selected") else "drawn"
                self._found[digest] = Proposal(parse(str(found["cell"])), f"{self.options.method} {selected}")
                new += 1
        self._dry = 0 if new else self._dry + 1

    def _sample(self, rng: np.random.Generator) -> Proposal | None:
        for _ in range(TRIES):
            cell: Cell = self.space.sample(rng)
            if cell.digest not in self._known:
                return Proposal(cell, "sample")
        return None


def _sketches(space: SpaceLike, depth: int) -> tuple[Sketch, ...]:
    """The sketches of a space, or those that its rules unroll to."""
    given = getattr(space, "sketches", None)
    if given is not None:
        return tuple(given)
    if isinstance(space, GrammarSpace):
        try:
            return unroll(space, depth)
        except SpaceError as error:
            raise SearchError(f"oneshot: {error}") from None
    raise SearchError(f"oneshot needs a space of sketches or of rules; got {type(space).__name__}")
