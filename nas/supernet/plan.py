"""What a supernet will be, worked out from its sketch and sizes before anything of it is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grammar import Cell, GrammarError, Sizes, parse_sketch
from nas.backends import backend_names, choose
from nas.errors import BuildError, SearchError
from nas.supernet.architecture import Architecture
from nas.supernet.cost import Cost
from nas.supernet.memory import check_memory
from nas.supernet.options import SupernetOptions
from nas.tasks import Task
from nas.training import TrialSpec, match_width
from search_spaces import Relaxed, SpaceError

LITTLE = 5
"""Times the weights of a path that a mixture has at most if paths are to run through it."""


@dataclass(frozen=True)
class Plan:
    """The mixture of a sketch, its width, what its cells cost, and where its architecture begins."""

    relaxed: Relaxed
    width: int
    cost: Cost | None
    typical: float
    """The cost of the cell that the width is matched to, 1 where cost plays no part."""
    architecture: Architecture
    through: bool
    """Whether paths run through the mixture: it is little larger than they are, and compiled once."""
    centred: bool
    """Whether the sketch is around a cell, that of the first option of each hole."""

    @classmethod
    def of(cls, spec: TrialSpec, options: SupernetOptions, task: Task, rng: np.random.Generator) -> Plan:
        """The plan for the sketch `spec.cell`; its width is that of a cell drawn from it, or of the one it is around.

        Raises BuildError or SpaceError for a sketch that has no mixture, or one that takes too much memory, and
        SearchError where `cost_limit` leaves no cell.
        """
        relaxed = Relaxed(parse_sketch(spec.cell), lift=options.lift)
        recipe = task.recipe
        budget = task.params if spec.params is None else spec.params
        centred = bool(spec.supernet and spec.supernet.get("centred"))
        first = dict.fromkeys(range(len(relaxed.holes)), 0) if centred else {}
        picks = relaxed.template.complete(first, np.random.default_rng(0))
        typical = relaxed.derived(picks)
        width = spec.width or match_width(typical, task, budget, spec.heads, recipe.num_layers)[0]
        sizes = Sizes.of(width, width, spec.heads)
        through = (
            options.method == "uniform"
            and _little(relaxed.cell, typical)
            and _compiled(options.backend, relaxed.cell)
        )
        whole = options.runs_mixture or through
        check_memory(relaxed, sizes, recipe, options.memory_gb, None if whole else typical)
        wanted = options.cost_weight > 0 or options.cost_limit is not None
        cost = Cost(relaxed, sizes, options.cost) if wanted else None
        price = cost.of(picks) if cost else 1.0
        architecture = Architecture(relaxed, rng, cost, options.cost_limit)
        return cls(relaxed, width, cost, price, architecture, through, centred)


def _little(mixture: Cell, path: Cell) -> bool:
    """Whether a mixture has at most LITTLE times the weights of a path: products with them are what takes the time."""
    whole, one = (sum(not weight.fixed for weight in cell.graph.weights) for cell in (mixture, path))
    return whole <= LITTLE * one


def _compiled(backend: str, mixture: Cell) -> bool:
    """Whether a backend that compiles would run the mixture here; one that cannot be had is refused elsewhere."""
    try:
        return choose(backend, mixture).name != "reference"
    except BuildError:
        return False


def check_supernet(spec: TrialSpec, task: Task, here: bool = True) -> None:
    """Raise SearchError for what the training of `spec.supernet` would refuse, without training or building it.

    `here`: it will be trained on a machine like this one, so that a backend which does not work here is refused.
    """
    assert spec.supernet is not None
    options = SupernetOptions.from_dict(spec.supernet["options"])
    if options.backend not in ("auto", *backend_names()):
        names = ", ".join(("auto", *backend_names()))
        raise SearchError(f"oneshot: backend must be one of {names}; got {options.backend!r}")
    try:
        plan = Plan.of(
            spec.replace(cell=spec.supernet["sketch"]), options, task, np.random.default_rng(spec.seed)
        )
        if here and options.backend != "auto" and options.runs_mixture:
            choose(options.backend, plan.relaxed.cell)
    except (GrammarError, BuildError, SpaceError) as error:
        raise SearchError(f"oneshot: {error}") from error
