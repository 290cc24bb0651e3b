"""A training between two steps, as one file: all that the steps to come depend on. No pickle is written or read.

Carried on from a snapshot, a training takes the very steps that it would have taken straight through: weights, the
optimiser's moments, the state carried between windows, the random generator and the running mean of the curve are
here; the batches are drawn again from the seed and passed over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nas.errors import SnapshotError
from nas.nn import State
from nas.training.files import write_whole
from nas.training.spec import TrialSpec

SCHEMA = "1"
SNAPSHOT = "snapshot.safetensors"


@dataclass
class Standing:
    """Where a training stands after `step` steps, besides its model and optimiser.

    `total` is the sum of the losses of `count` answers since the last entry of `curve`.
    """

    step: int
    curve: list[tuple[int, float]]
    total: Tensor
    count: int
    state: State | None


def save_snapshot(
    place: Path, spec: TrialSpec, model: nn.Module, optimiser: torch.optim.Optimizer, at: Standing
) -> None:
    """Write the file `place`, whole or not at all. The generator's state is torch's global one now."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    parts = () if at.state is None else (at.state,) if isinstance(at.state, Tensor) else at.state
    tensors |= {f"state.{i}": part for i, part in enumerate(parts)}
    tensors |= {"total": at.total, "random.cpu": torch.get_rng_state()}
    if spec.device == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    about = {
        "schema": SCHEMA,
        "trial": _identity(spec),
        "standing": json.dumps({"step": at.step, "curve": at.curve, "count": at.count}),
        "state": "none" if at.state is None else "one" if isinstance(at.state, Tensor) else "tuple",
    }
    # A copy of each, since safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, save(copies, about))


def load_snapshot(
    place: Path, spec: TrialSpec, model: nn.Module, optimiser: torch.optim.Optimizer
) -> Standing:
    """Bring model, optimiser and torch's global generator to where the snapshot was taken.

    Raises SnapshotError for a file that is damaged, of another schema, of another trial (any difference but `until`),
    or taken after the step that `spec` stops at.
    """
    device = next(model.parameters()).device
    try:
        with safe_open(place, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"no snapshot in {place}: {error}") from error
    if about.get("schema") != SCHEMA:
        raise SnapshotError(f"{place} has schema {about.get('schema')!r}, this version reads {SCHEMA!r}")
    if about["trial"] != _identity(spec):
        raise SnapshotError(f"{place} is a snapshot of another trial than the one that is to be carried on")
    standing = json.loads(about["standing"])
    if standing["step"] > spec.steps:
        raise SnapshotError(
            f"{place} was taken after step {standing['step']}, and the trial stops at {spec.steps}"
        )
    parts = _under(tensors, "model.")
    model.load_state_dict(parts)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimiser.").items():
        number, _, which = name.partition(".")
        moments.setdefault(int(number), {})[which] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if spec.device == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"])
    carried = [tensor.to(device) for _, tensor in sorted(_under(tensors, "state.").items(), key=_number)]
    state = None if about["state"] == "none" else carried[0] if about["state"] == "one" else tuple(carried)
    curve = [(int(step), float(loss)) for step, loss in standing["curve"]]
    return Standing(standing["step"], curve, tensors["total"].to(device), standing["count"], state)


def _identity(spec: TrialSpec) -> str:
    # Where the data and the file of a user's own task lie is no part of what they are: the digest says that.
    return json.dumps({**spec.to_dict(), "until": None, "data": None, "task": None}, sort_keys=True)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _number(item: tuple[str, Tensor]) -> int:
    return int(item[0])
