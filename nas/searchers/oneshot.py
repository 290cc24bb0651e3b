"""One-shot search: supernets are trained as trials of their own kind, and the cells that they give are proposed."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from grammar import Sketch, parse, suggest
from nas.errors import SearchError
from nas.searchers.around import TRIES, Best, Sources, Whole
from nas.searchers.base import Observation, Proposal, Searcher, SpaceLike
from nas.searchers.options import check_choice, check_number, check_whole
from nas.searchers.random_search import sample_new
from nas.searchers.seeding import Seeds, read_seeds
from nas.supernet import SupernetOptions
from search_spaces import GrammarSpace

SEEDS = 1 << 31
AROUND = ("best", "space")
AUTO = "auto"
OF_BEST = {"candidates": 32, "keep": 8}
"""Other defaults of supernets around a cell."""
SHORTER = 3
"""Times the steps of such a supernet that the recipe has, where `steps` is not given: more did not rank better."""


class OneShot(Searcher):
    """Trains supernets and proposes what they give; what counts is what a cell does when it is trained by itself.

    While no cell waits to be proposed, a supernet is: at most `supernets` of them (None: as many as the budget has room
    for), each with a seed of its own, so that two workers begin with two. What each gives is proposed in its order, the
    selected cell first.

    `around` says what a supernet is of. "space": a sketch of the space; several take turns, and a space of rules is
    unrolled (`depth`, see `search_spaces.unroll`). Once supernets fail or give nothing new the space is sampled.
    "best", for a space of rules: one of the `centres` best cells so far and `changes` mutations of it, each in a
    `share` of the candidates (see `GrammarSpace.neighbourhood`), after `seeds` (see `read_seeds`) and `samples` cells
    of the space that have a score; see `Best`. With `fresh` "auto" samples go on for as long as no cell is better than
    the task's trivial score by 15 % of it, where that is known; with 0 they do not. All candidates are in the record
    then, and the `keep` best that are new are proposed; `steps` is a third of the recipe's by default. None: "best" for
    rules, else "space".

    The other options are those of `nas.supernet.SupernetOptions`; for a space of rules `method` is by default
    "uniform".
    """

    name = "oneshot"

    def __init__(
        self,
        space: SpaceLike,
        *,
        supernets: int | None = None,
        around: str | None = None,
        samples: int = 8,
        seeds: Seeds | None = None,
        fresh: float | str = AUTO,
        centres: int = 4,
        changes: int = 12,
        share: float = 0.125,
        **options: Any,
    ) -> None:
        super().__init__(space)
        _check_names(options)
        if supernets is not None:
            check_whole("oneshot", 1, supernets=supernets)
        check_whole("oneshot", 1, samples=samples, centres=centres, changes=changes)
        check_number("oneshot", 0.0, share=share)
        if fresh != AUTO and (isinstance(fresh, bool) or fresh != 0):
            raise SearchError(f"oneshot: fresh must be auto or 0, got {fresh!r}")
        self.supernets = supernets
        rules = isinstance(space, GrammarSpace)
        around = around or ("best" if rules else "space")
        check_choice("oneshot", AROUND, around=around)
        default = {"method": "uniform"} if rules else {}
        self._sources: Sources
        if around == "best":
            if not isinstance(space, GrammarSpace):
                raise SearchError(
                    f"oneshot: around=best needs a space of rules; got {type(space).__name__}, which has around=space"
                )
            if share > 0.5:
                raise SearchError(f"oneshot: share must be at most 0.5, got {share!r}")
            self.options = SupernetOptions.from_dict({**default, **OF_BEST, **options})
            self._sources = Best(space, samples, seeds, centres, changes, share)
        else:
            if seeds is not None:
                raise SearchError(
                    "oneshot: seeds are for around=best; with around=space there is no use for them"
                )
            self.options = SupernetOptions.from_dict({**default, **options})
            self._sources = Whole.of(space, self.options.depth, self.options.lift)
        self.around = around
        self.fresh = fresh
        self._least = math.inf
        self._found: dict[str, Proposal] = {}
        self._known: set[str] = set()
        self._entered = 0

    @classmethod
    def settled(cls, space: SpaceLike, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the texts of the seeds, wherever those were."""
        seeds = [cell.one_line for cell in read_seeds(options.get("seeds"), space)]
        return {**options, **({"seeds": seeds} if seeds else {})}

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """A cell that a supernet gave, or a supernet; None where both have come to an end."""
        for digest, proposal in self._found.items():
            if digest not in self._known:
                return proposal
        learned = self.fresh != AUTO or self.beats_trivial(self._least)
        first = self._sources.before(rng, self._known, learned)
        if first is not None:
            return first
        source = self._sources.next(rng)
        if source is None:
            return sample_new(self.space, rng, self._known, TRIES)
        if self.supernets is not None and self._entered >= self.supernets:
            return None
        sketch, cell, parents = source
        supernet = self._supernet(sketch, int(rng.integers(SEEDS)))
        return Proposal(cell, "supernet", parents, supernet=supernet)

    def planned(self) -> tuple[Mapping[str, Any], ...]:
        """One supernet of each sketch, or around a cell that may be the first."""
        planned = [self._supernet(sketch, 0) for sketch in self._sources.planned()]
        if self.around == "space":
            return tuple(planned)
        # Whether a limit of cost leaves a cell depends on which cell it is around.
        return tuple({**one, "options": {**one["options"], "cost_limit": None}} for one in planned)

    def _supernet(self, sketch: Sketch, seed: int) -> Mapping[str, Any]:
        space = getattr(self.space, "text", None) if isinstance(self.space, GrammarSpace) else None
        options = self.options.to_dict()
        about: dict[str, Any] = {"sketch": str(sketch), "space": space, "seed": seed, "options": options}
        if self.around == "best":
            options["keep"] = self.options.candidates  # which of them are new is for `tell` to say
            about["centred"] = True
            if options["steps"] is None and self.recipe:
                options["steps"] = max(1, self.recipe["steps"] // SHORTER)
        return about

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Count supernets, and do not propose again what is under way."""
        if proposal.supernet is not None:
            self._entered += 1
            self._sources.entered(proposal)
        else:
            self._known.add(proposal.cell.digest)

    def tell(self, observation: Observation) -> None:
        """Take in the cells of a supernet, or that a cell is known now."""
        if observation.supernet is None:
            self._known.add(observation.digest)
            if observation.score is not None:
                self._least = min(self._least, observation.score)
            self._sources.cell(observation)
        elif observation.status != "supernet":
            self._sources.supernet(None)
        else:
            self._sources.supernet(self._take(observation))

    def _take(self, observation: Observation) -> int:
        """Have the new cells of a supernet proposed, the best first; how many there are."""
        new = drawn = 0
        for found in observation.found:
            digest, selected = str(found["digest"]), bool(found.get("selected"))
            if (
                digest in self._known
                or digest in self._found
                or (drawn == self.options.keep and not selected)
            ):
                continue
            how = f"{self.options.method} {'selected' if selected else 'drawn'}"
            self._found[digest] = Proposal(parse(str(found["cell"])), how, tuple(observation.parents))
            drawn += not selected
            new += 1
        return new


def _check_names(options: Mapping[str, Any]) -> None:
    """Raise SearchError for an option that neither the searcher nor its supernets have, naming all that there are."""
    own = [p.name for p in inspect.signature(OneShot).parameters.values() if p.kind is p.KEYWORD_ONLY]
    names = [*own, *(field.name for field in dataclasses.fields(SupernetOptions))]
    for option in options:
        if option not in names:
            hint = suggest(option, names)
            raise SearchError(f"oneshot: no option {option!r}{hint} (options are {', '.join(names)})")
