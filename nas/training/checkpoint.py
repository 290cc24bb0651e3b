"""A trained model on disk: `weights.safetensors` and `trial.json` in a folder. No pickle is written or read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load, save
from torch import nn

from grammar import parse
from nas.errors import TrainingError
from nas.nn import Stack
from nas.tasks import Task
from nas.training.files import write_whole
from nas.training.spec import TrialResult, TrialSpec

SCHEMA = 1
WEIGHTS = "weights.safetensors"
RECORD = "trial.json"


def save_trained(folder: Path, model: nn.Module, spec: TrialSpec, task: Task, result: TrialResult) -> None:
    """Write a model, its spec and its result. Each file appears whole or not at all, the record last.

    The record carries the SHA-256 of the weights, so a folder that was cut short between the two is not believed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    )
    record = {
        "schema": SCHEMA,
        "spec": spec.to_dict(),
        "result": result.to_dict(),
        "model": {"inputs": task.inputs, "outputs": task.outputs, "embed": task.embed},
        "vocabulary": task.vocabulary,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / RECORD, json.dumps(record, indent=1).encode())


def load_trained(folder: Path) -> tuple[Stack, TrialSpec, TrialResult]:
    """The model that `train(..., save_to=folder)` wrote, on the CPU and in evaluation mode, with its spec and result.

    The task's data are not needed. Raises TrainingError for a folder that is incomplete, damaged, or of another schema.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
        weights = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise TrainingError(f"no trained model in {folder}: {error}") from error
    if record.get("schema") != SCHEMA:
        raise TrainingError(
            f"{folder / RECORD} has schema {record.get('schema')!r}, this version reads {SCHEMA}"
        )
    if hashlib.sha256(weights).hexdigest() != record["weights_sha256"]:
        raise TrainingError(
            f"{folder / WEIGHTS} is not the file that {RECORD} speaks of: its SHA-256 differs"
        )
    spec, result = TrialSpec.from_dict(record["spec"]), TrialResult.from_dict(record["result"])
    model = build_model(spec, result.width, **record["model"])
    model.load_state_dict(load(weights))
    return model.eval(), spec, result


def trained_vocabulary(folder: Path) -> tuple[str, ...] | None:
    """What the tokens of a trained model stand for, by number; None for a task without a vocabulary.

    `folder` is one that `load_trained` accepts.
    """
    stored = json.loads((folder / RECORD).read_text()).get("vocabulary")
    return None if stored is None else tuple(stored)


def build_model(spec: TrialSpec, width: int, *, inputs: int, outputs: int, embed: bool) -> Stack:
    """The model of a trial, freshly initialised from torch's generator, on the CPU."""
    return Stack(
        parse(spec.cell),
        inputs=inputs,
        outputs=outputs,
        width=width,
        num_layers=spec.recipe.num_layers,
        heads=spec.heads,
        dropout=spec.recipe.dropout,
        embed=embed,
        backend=spec.backend,
        policy=spec.policy,
    )
