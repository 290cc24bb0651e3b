"""Cells out of a trained supernet: scored with the shared weights, or chosen by what it loses without their options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from grammar import Cell, Expr, Let, Out, make_cell, ref
from nas.nn import State
from nas.supernet.architecture import Architecture
from nas.supernet.model import Picks, Supernet
from nas.supernet.options import SupernetOptions
from nas.tasks import Task

_MOST_DRAWS = 20
"""Times the number of candidates that are drawn at most: a sketch may have few cells, or few that are accepted."""


_PLAIN = ("ref", "x", "num")
"""What may stand in several places and is the same in all: it has no weights."""


@dataclass(frozen=True)
class Scored:
    """A cell of the sketch: its text on one line, and its score with the shared weights (not a score of its own)."""

    cell: str
    digest: str
    score: float
    cost: float | None = None
    selected: bool = False


def shown(cell: Cell) -> Cell:
    """The same cell with helper names in place of places of a sketch, and only where something is used twice."""
    lets = {s.name: s.expr for s in cell.statements if isinstance(s, Let) and not s.primed}
    if cell.kind != "time" or len(lets) + len(cell.tree.states) + 1 != len(cell.statements):
        return cell  # it has blocks
    refs = [e for s in cell.statements if isinstance(s, Let | Out) for e in s.expr.walk() if e.op == "ref"]
    uses = Counter(str(e.attr("name")) for e in refs)
    taken = {s.name for s in cell.tree.states}
    free = (name for n in count(1) if (name := f"v{n}") not in taken)
    again = [name for name, expr in lets.items() if uses[name] > 1 and expr.op not in _PLAIN]
    names = {name: next(free) for name in again}

    def rewritten(expr: Expr) -> Expr:
        name = str(expr.attr("name")) if expr.op == "ref" else ""
        if name in names:
            return ref(names[name])
        return rewritten(lets[name]) if name in lets else replace(expr, args=tuple(map(rewritten, expr.args)))

    body: list[Let | Out] = []
    for s in cell.statements:
        if isinstance(s, Out):
            body.append(Out(rewritten(s.expr)))
        elif isinstance(s, Let) and (s.primed or s.name in names):
            body.append(Let(names.get(s.name, s.name), rewritten(s.expr)))
    return make_cell(cell.name, cell.tree.states, body)


def score_path(net: Supernet, task: Task, picks: Picks, batches: int) -> float:
    """The score of a path with the shared weights on the first validation batches; lower is better."""
    names = net.state_names(picks)
    return _score(
        net, task, batches, lambda inputs, state: net.run(picks, **inputs, state=state), bool(names)
    )


def score_mixture(net: Supernet, task: Task, gates: Sequence[Tensor], batches: int) -> float:
    """The mean loss of the mixture there, for an error rate too: perturbations want what is smooth."""
    return _score(
        net, task, batches, lambda inputs, state: net.mix(gates, **inputs, state=state), True, smooth=True
    )


def _score(
    net: Supernet,
    task: Task,
    batches: int,
    call: Callable[..., tuple[Tensor, State]],
    carried: bool,
    smooth: bool = False,
) -> float:
    device = next(net.parameters()).device
    total, count, state = torch.zeros((), dtype=torch.float64, device=device), 0, None
    carried = carried and net.relaxed.sketch.kind == "time"
    training = net.training
    net.eval()
    with torch.no_grad():
        for batch in islice(task.eval_batches("valid"), batches):
            batch = batch.to(device)
            logits, state = call(batch.inputs(), state if carried and not batch.fresh else None)
            measured, answers = (task.loss if smooth else task.measure)(logits, batch)
            total, count = total + measured.double(), count + answers
    net.train(training)
    return float(total) / count if smooth else task.score(float(total), count)


def candidates(
    net: Supernet,
    architecture: Architecture,
    task: Task,
    options: SupernetOptions,
    rng: np.random.Generator,
    chosen: Picks | None,
    accept: Callable[[Cell], bool],
) -> tuple[Scored, ...]:
    """The chosen cell, if there is one, then the best of `options.candidates` others.

    Each keeps the architecture's limit of cost: `of` of the cell itself, not an expectation.
    """
    found: dict[str, Scored] = {}

    def score(picks: Picks, selected: bool) -> None:
        path = architecture.within(picks, rng)
        cell = net.relaxed.derived(path)
        if cell.digest in found or not accept(cell):
            return
        cost = None if architecture.cost is None else architecture.cost.of(path)
        value = score_path(net, task, path, options.score_batches)
        if np.isfinite(value):
            found[cell.digest] = Scored(cell.one_line, cell.digest, value, cost, selected)

    if chosen is not None:
        score(chosen, True)
    wanted = len(found) + options.candidates
    for _ in range(_MOST_DRAWS * options.candidates):
        if len(found) >= wanted:
            break
        score(architecture.sample(rng), False)
    first = [s for s in found.values() if s.selected]
    others = sorted((s for s in found.values() if not s.selected), key=lambda s: (s.score, s.digest))
    return (*first, *others[: options.keep])


def perturbed(
    net: Supernet,
    architecture: Architecture,
    task: Task,
    options: SupernetOptions,
    rng: np.random.Generator,
    tune: Callable[[int], None],
) -> None:
    """Fix the holes one after the other, in a random order, to the option whose removal costs the mixture most.

    After each the shared weights are trained for `options.tune_steps` steps (Wang et al. 2021, algorithm 1). An option
    that cannot be afforded any more under the architecture's limit is passed over.
    """
    holes = [i for i, site in enumerate(net.relaxed.holes) if len(site.options) > 1]
    for hole in (holes[int(i)] for i in rng.permutation(len(holes))):
        now = [p.detach() for p in architecture.probabilities()]
        losses = []
        for option in range(len(now[hole])):
            without = now[hole].clone()
            without[option] = 0.0
            gates = [*now[:hole], without / without.sum().clamp(min=1e-12), *now[hole + 1 :]]
            losses.append(score_mixture(net, task, gates, options.score_batches))
        order = sorted(
            range(len(losses)), key=lambda k: (-losses[k] if np.isfinite(losses[k]) else -np.inf, k)
        )
        architecture.fix(hole, next(k for k in order if architecture.affords(hole, k)))
        tune(options.tune_steps)
