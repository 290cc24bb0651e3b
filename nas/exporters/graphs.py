"""`cell.pt2` and `cell.onnx`: an exported cell as graphs of any batch and number of steps, checked like `cell.py`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.errors import ExportError
from nas.exporters.check import save_expected
from nas.exporters.errors import ExportMismatchError
from nas.exporters.subject import Subject

TOLERANCE = 1e-5
"""Of a graph in float32 from the original in float64, relative to the largest number if that is above 1."""
CHAOTIC = 10.0
"""So many times what the original's own float32 errs may be exceeded: the same sums in another order."""
STATE = "state.safetensors"
_CHILD = Path(__file__).with_name("graphs_child.py")
_SECONDS = 900


def graph_files(graphs: Sequence[str]) -> tuple[str, ...]:
    """The names of the files that `write_graphs` leaves."""
    return (*(f"cell.{kind}" for kind in graphs), STATE) if graphs else ()


def write_graphs(
    folder: Path, subject: Subject, graphs: Sequence[str], states: Sequence[Mapping[str, str]], seed: int = 0
) -> dict[str, float]:
    """Write `cell.pt2` and `cell.onnx` beside `cell.py`, and check them in a fresh process without recell.

    `states` are the parts of the state (`Source.states`); its value before the first step goes to `state.safetensors`.
    Returns the largest difference of each from the original in float32. Raises ExportMismatchError if torch cannot
    trace the cell, or if a graph differs, and ExportError for complex states in ONNX.
    """
    complex_ones = [state["name"] for state in states if state["type"] in ("cvec", "cmat")]
    if "onnx" in graphs and complex_ones:
        raise ExportError(
            f"the states {', '.join(complex_ones)} of {subject.cell.name} are complex, which ONNX does not have; "
            "leave it out with --format pt2"
        )
    named = json.dumps([(state["name"], state["name"] in complex_ones) for state in states])
    what = [str(folder.resolve()), ",".join(graphs), named]
    done = _child("write", *what)
    if done.returncode != 0:
        raise ExportMismatchError(
            f"{subject.cell.name} cannot be written as {' and '.join(graphs)}: {_last(done.stderr)}"
        )
    with tempfile.TemporaryDirectory(prefix="recell-check-") as elsewhere:
        save_expected(Path(elsewhere), subject, seed)
        done = _child("check", *what, elsewhere)
    if done.returncode != 0:
        raise ExportMismatchError(f"an exported graph does not load by itself: {_last(done.stderr)}")
    found: dict[str, dict[str, tuple[float, float]]] = json.loads(done.stdout.splitlines()[-1])
    for kind, said in found.items():
        for name, (difference, own) in said.items():
            if not difference <= max(TOLERANCE, CHAOTIC * own):
                raise ExportMismatchError(
                    f"cell.{kind} differs from the original: {name} by {difference:.2g}, more than {TOLERANCE:g}"
                )
    return {f"cell.{kind}": max(error for error, _ in said.values()) for kind, said in found.items()}


def _child(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-B", str(_CHILD), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ExportError(f"the graphs of the cell did not come within {_SECONDS} s") from None


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
