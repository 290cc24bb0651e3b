"""What is exported: a cell with its module, and where it comes from. From a run or from a cell alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from grammar import Cell, parse
from nas.campaign import Retraining, Run, TrialRecord
from nas.errors import ExportError
from nas.exporters.order import ranking
from nas.exporters.source import ModelSizes, Sizes
from nas.nn import CellModule, Stack, build
from nas.training import load_trained, trained_vocabulary


@dataclass(frozen=True)
class Subject:
    """A cell to export. `stack` is the trained model of a task around it, None if there is none.

    `facts` go into `cell.json`; `remarks` are sentences for the docstring of `cell.py`.
    """

    cell: Cell
    module: CellModule
    stack: Stack | None
    sizes: Sizes
    name: str
    text: str
    """The equations to show: as they were derived, where `cell` is their canonical form."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether the weights are trained."""
        return self.stack is not None

    @property
    def model(self) -> ModelSizes | None:
        """The sizes of what stands around the cell."""
        if self.stack is None:
            return None
        inputs = self.stack.input.weight.shape[0 if self.stack.embed else 1]
        return ModelSizes(inputs, self.stack.head.out_features, self.stack.embed)


def subject_of_cell(
    cell: Cell,
    input_size: int = 64,
    hidden_size: int = 64,
    num_layers: int = 1,
    heads: int = 1,
    key_size: int | None = None,
    seed: int = 0,
) -> Subject:
    """A cell with fresh weights, drawn from `seed`. Raises BuildError where the sizes do not fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(cell, input_size, hidden_size, num_layers, heads, key_size, backend="reference")
    sizes = Sizes(input_size, hidden_size, num_layers, heads, key_size)
    remark = f"The weights are not trained: they were drawn from seed {seed}."
    return Subject(
        cell, module.eval(), None, sizes, cell.name, str(cell), {"source": "cell", "seed": seed}, (remark,)
    )


def subject_of_run(run: Run, rank: int = 1, trial: int | None = None) -> Subject:
    """A cell that a run found: the one of this `rank`, or the one of `trial`.

    Trained if the cell was retrained as a finalist: then it is the model of the seed with the best validation score.
    Else the weights are fresh, at the width that the search used. Raises ExportError if the run has no such cell.
    """
    record = _ranked(run, rank) if trial is None else _numbered(run, trial)
    contender = run.contender(record.id)
    trainings = [t for t in contender.done if t.weights] if contender else []
    best = min(trainings, key=lambda t: t.score or 0.0, default=None)
    if best is not None:
        return _trained(run, record, best)
    if record.status != "ok" or not record.width:
        raise ExportError(f"trial #{record.id} of {run.path} has no score: it is {record.status}")
    layers = int(run.task["recipe"].get("num_layers", 1))
    cell = parse(record.canonical)
    fresh = subject_of_cell(cell, record.width, record.width, layers, run.config.heads)
    why = "it was not retrained" if contender is None else "its retraining left no weights"
    remark = f"The weights are not trained, since {why}: they were drawn from seed 0."
    facts = {**_facts(run, record), "metrics": {"search_validation": record.score}}
    return Subject(
        cell,
        fresh.module,
        None,
        fresh.sizes,
        _name(run, record),
        str(parse(record.text)),
        facts,
        (*_remarks(run, record), remark),
    )


def _ranked(run: Run, rank: int) -> TrialRecord:
    order = ranking(run)
    if not order:
        raise ExportError(f"{run.path} has no cell with a score yet")
    if not 1 <= rank <= len(order):
        raise ExportError(f"{run.path} has {len(order)} cells with a score; there is no rank {rank}")
    return order[rank - 1]


def _numbered(run: Run, trial: int) -> TrialRecord:
    if not 0 <= trial < len(run.trials):
        raise ExportError(f"{run.path} has the trials #0 to #{len(run.trials) - 1}; there is no #{trial}")
    return run.trials[trial]


def _trained(run: Run, record: TrialRecord, training: Retraining) -> Subject:
    assert training.weights is not None
    folder = run.path / Path(training.weights)
    stack, spec, _ = load_trained(folder)
    vocabulary = trained_vocabulary(folder)
    cell = parse(spec.cell)
    sizes = Sizes(training.width, training.width, spec.recipe.num_layers, spec.heads)
    metrics = {
        "validation": training.score,
        "test": training.test_score,
        "search_validation": record.score,
        "seed": training.seed,
    }
    facts = {
        **_facts(run, record),
        "metrics": metrics,
        "recipe": spec.recipe.to_dict(),
        "vocabulary": None if vocabulary is None else list(vocabulary),
    }
    unit = run.task.get("metric", "")
    scores = f"validation {training.score:.4f}"
    if training.test_score is not None:
        scores += f", test {training.test_score:.4f}"
    remark = (
        f"Trained from scratch with seed {training.seed}: {scores} {unit}, {training.params:,} parameters."
    )
    remarks = (*_remarks(run, record), remark)
    return Subject(
        cell, stack.cell, stack, sizes, _name(run, record), str(parse(record.text)), facts, remarks
    )


def _name(run: Run, record: TrialRecord) -> str:
    """`notes#12`; it stands in docstrings, so odd characters of a folder's name are replaced."""
    return re.sub(r"[^\w.#+-]", "_", f"{run.path.resolve().name}#{record.id}")


def _facts(run: Run, record: TrialRecord) -> dict[str, Any]:
    contender = run.contender(record.id)
    means = {"validation": contender.score, "test": contender.test_score} if contender else None
    return {
        "source": "run",
        "task": dict(run.task),
        "run": {
            "name": run.path.resolve().name,
            "hash": run.first.get("hash"),
            "space": run.config.space,
            "method": run.config.method,
            "seed": run.config.seed,
            "versions": run.first.get("versions"),
        },
        "trial": record.id,
        "operator": record.operator,
        "parents": list(record.parents),
        "means_over_seeds": means,
    }


def _remarks(run: Run, record: TrialRecord) -> tuple[str, ...]:
    unit = run.task.get("metric", "")
    return (
        f"Found by {run.config.method} in the space {run.config.space} on the task {run.config.task}, trial "
        f"#{record.id}: {record.score:.4f} {unit} on validation data in the search."
        if record.score is not None
        else f"Trial #{record.id} of a search on the task {run.config.task}.",
    )


def exported_weights(
    subject: Subject, parameters: Mapping[tuple[int, str], str], learned: Mapping[str, str]
) -> dict[str, Tensor]:
    """The state dict of the exported module: a copy of the subject's arrays under the names of `cell.py`."""
    prefix = "" if subject.stack is None else "cell."
    found = {
        f"{prefix}layers.{number}.{name}": array
        for number, layer in enumerate(subject.module.layers)
        for name, array in _layer_weights(subject.cell, cast(Any, layer), parameters, learned)
    }
    if subject.stack is not None:
        around = (("inputs", subject.stack.input), ("head", subject.stack.head))
        found |= {f"{name}.{key}": value for name, part in around for key, value in part.state_dict().items()}
    return {name: array.detach().cpu().float().contiguous().clone() for name, array in found.items()}


def _layer_weights(
    cell: Cell, layer: Any, parameters: Mapping[tuple[int, str], str], learned: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    places = [(i, spec.role) for i, weight in enumerate(cell.graph.weights) for spec in weight.specs]
    for place, array in zip(places, layer.arrays(), strict=True):
        if place in parameters:  # those of dead code stay behind
            yield parameters[place], array
    for slot, state in enumerate(cell.states):
        if state.name in learned:
            yield learned[state.name], layer.initial(slot)
