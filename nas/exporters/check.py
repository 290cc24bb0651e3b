"""Load an export in a fresh process without recell, and compare it with the module that it was made from."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nas.exporters.errors import ExportMismatchError
from nas.exporters.subject import Subject

TOLERANCE = 1e-5
"""Largest difference in float64, relative to the largest expected number if that is above 1.

In float32 a chaotic cell makes any other order of the same sums visible: what differs there is told, not judged.
"""
_BATCH, _STEPS, _FIRST = 3, 19, 11
_SECONDS = 300


def check_export(folder: Path, subject: Subject, seed: int = 0) -> dict[str, float]:
    """Compare the files in `folder` with `subject` and return the largest difference, in float32, of each thing.

    Outputs, final states, a second call that carries the state on, step by step, and initial states. Raises
    ExportMismatchError if the files cannot be loaded alone, or differ in float64 by more than TOLERANCE.
    """
    with tempfile.TemporaryDirectory(prefix="recell-check-") as elsewhere:
        place = Path(elsewhere)
        save_expected(place, subject, seed)
        command = [
            sys.executable,
            "-I",
            "-B",
            "-c",
            _SCRIPT,
            str(folder.resolve()),
            str(place),
        ]
        try:
            done = subprocess.run(
                command, cwd=place, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ExportMismatchError(f"the exported file did not answer within {_SECONDS} s") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines() or ["no message"]
        raise ExportMismatchError(f"the exported file does not load by itself: {last[-1]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    wrong = {name: value for name, value in found["torch.float64"].items() if not value <= TOLERANCE}
    if wrong:
        name, value = max(wrong.items(), key=lambda item: item[1])
        raise ExportMismatchError(
            f"the exported module differs from the original: {name} by {value:.2g}, more than {TOLERANCE:g}"
        )
    single = found["torch.float32"]
    # A trained cell is made for what its model feeds it; on noise its float32 differences say little.
    return {name: value for name, value in single.items() if name.startswith("model")} or single


def save_expected(folder: Path, subject: Subject, seed: int) -> None:
    """Inputs, and what the original makes of them: `torch.float32.safetensors`, `torch.float64.safetensors`."""
    for dtype in (torch.float32, torch.float64):
        save_file(_expected(subject, seed, dtype), folder / f"{dtype}.safetensors")


@torch.no_grad()
def _expected(subject: Subject, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs, and what the original makes of them in this precision."""
    generator = torch.Generator().manual_seed(seed)
    module = copy.deepcopy(subject.module).to(dtype)
    inputs = torch.randn(_BATCH, _STEPS, module.input_size, generator=generator)
    tensors = {"cell.x": inputs.to(dtype)}
    y, state = module(tensors["cell.x"][:, :_FIRST])
    rest, last = module(tensors["cell.x"][:, _FIRST:], state)
    tensors |= {"cell.y": y, "cell.rest": rest} | _parts("cell.state", state) | _parts("cell.last", last)
    tensors |= _parts("cell.init", module.init_state(_BATCH))
    if subject.stack is not None:
        sizes = subject.model
        assert sizes is not None
        shape = (_BATCH, _STEPS)
        tokens = torch.randint(sizes.inputs, shape, generator=generator)
        features = torch.randn(*shape, sizes.inputs, generator=generator).to(dtype)
        stack = copy.deepcopy(subject.stack).to(dtype)
        tensors["model.x"] = tokens if sizes.embed else features
        y, state = stack(tensors["model.x"][:, :_FIRST])
        rest, last = stack(tensors["model.x"][:, _FIRST:], state=state)
        tensors |= (
            {"model.y": y, "model.rest": rest} | _parts("model.state", state) | _parts("model.last", last)
        )
    return {name: _storable(tensor) for name, tensor in tensors.items()}


def _parts(name: str, state: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    parts = (state,) if isinstance(state, Tensor) else state
    return {f"{name}.{i}": part for i, part in enumerate(parts)}


def _storable(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.contiguous().clone()


# Runs in `python -I`, in an empty folder. recell may be installed there, so it is made impossible to import.
_SCRIPT = """
import sys

OURS = ("nas", "grammar", "search_spaces", "predictors")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OURS:
            raise ImportError(f"an exported file must not import {name}")

sys.meta_path.insert(0, Refuse())

import importlib.util
import json
import pathlib

import torch
from safetensors.torch import load_file

folder = pathlib.Path(sys.argv[1])
spec = importlib.util.spec_from_file_location("cell", folder / "cell.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
everything = {}


def compare(name, value, key):
    wanted = expected[key]
    value = torch.view_as_real(value) if value.is_complex() else value
    if value.shape != wanted.shape:
        sys.exit(f"{key} has the shape {list(value.shape)}, expected {list(wanted.shape)}")
    same = (value == wanted) | (value.isnan() & wanted.isnan())
    scale = max(1.0, wanted[wanted.isfinite()].abs().max().item() if wanted.isfinite().any() else 1.0)
    difference = torch.where(same, 0.0, (value - wanted).abs()).nan_to_num(float("inf")).max().item() / scale
    found[name] = max(found.get(name, 0.0), difference)


def compare_state(name, state, key):
    parts = (state,) if torch.is_tensor(state) else state
    count = sum(k.startswith(key + ".") for k in expected)
    if len(parts) != count:
        sys.exit(f"{key} has {len(parts)} parts, expected {count}")
    for i, part in enumerate(parts):
        compare(name, part, f"{key}.{i}")


def run(name, part):
    x, first = expected[name + ".x"], expected[name + ".y"].shape[1]
    y, state = part(x[:, :first])
    compare(f"{name} output", y, name + ".y")
    compare_state(f"{name} state", state, name + ".state")
    rest, last = part(x[:, first:], state)
    compare(f"{name} output, carried on", rest, name + ".rest")
    compare_state(f"{name} state, carried on", last, name + ".last")
    state, steps = part.init_state(x.shape[0]), []
    for x_t in x.unbind(1):
        y_t, state = part.step(x_t, state)
        steps.append(y_t)
    steps = torch.stack(steps, 1)
    compare(f"{name} output, step by step", steps[:, :first], name + ".y")
    compare(f"{name} output, step by step", steps[:, first:], name + ".rest")
    compare_state(f"{name} state, step by step", state, name + ".last")


for dtype in (torch.float32, torch.float64):
    loaded = module.load().to(dtype)
    expected = load_file(pathlib.Path(sys.argv[2]) / f"{dtype}.safetensors")
    found = everything[str(dtype)] = {}
    with torch.no_grad():
        cell = getattr(loaded, "cell", loaded)
        compare_state("cell initial state", cell.init_state(expected["cell.x"].shape[0]), "cell.init")
        run("cell", cell)
        if "model.x" in expected:
            run("model", loaded)
ours = [name for name in OURS if name in sys.modules]
if ours:
    sys.exit(f"the exported file imported {ours}")
print(json.dumps(everything))
"""
