"""How long a cell takes from its text to its first step: never seen before, and in a process that finds it cached.

By the same clock as `interleaved`, in a process of its own that has imported everything and has built another cell:
`python -m nas.bench.builds` is that process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from grammar import Cell, parse
from nas.bench.run import one_thread
from nas.bench.sizes import BenchSize
from nas.bench.subjects import cell_module, training
from nas.errors import BenchError, BuildError

COLD_AIM, CACHED_AIM = 1000.0, 50.0  # ms
_ANOTHER = "cell another { state h: vec; h' = 0.5 * h + tanh(lin(x) * sigmoid(lin(h))); out h' }"


@dataclass(frozen=True)
class Build:
    """Milliseconds from the text to the end of the first training step, and of its parts."""

    cell: str
    digest: str
    backend: str
    cold: dict[str, float]
    cached: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "cell": self.cell,
            "digest": self.digest,
            "backend": self.backend,
            "cold_ms": self.cold,
            "cached_ms": self.cached,
        }


def builds_of(cells: Mapping[str, Cell], size: BenchSize, backend: str, device: str = "cpu") -> list[Build]:
    """Build times of each cell, by name: with an empty cache folder, then in another process with that folder.

    Cells that the backend refuses are left out. Raises BenchError where the process fails.
    """
    task = {
        "cells": [str(cell) for cell in cells.values()],
        "size": [size.name, size.batch, size.steps, size.width, size.heads],
        "backend": backend,
        "device": device,
    }
    with tempfile.TemporaryDirectory(prefix="recell-bench-") as folder:
        cold, cached = (_in_own_process(task, folder) for _ in range(2))
    return [
        Build(name, cell.digest, backend, first, second)
        for (name, cell), first, second in zip(cells.items(), cold, cached, strict=True)
        if first and second
    ]


def _in_own_process(task: dict[str, Any], folder: str) -> list[dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-m", "nas.bench.builds"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "RECELL_CACHE": folder,
            "TRITON_CACHE_DIR": os.path.join(folder, "triton"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        },
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"the process that measures build times failed: {last}")
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def first_step(text: str, size: BenchSize, backend: str, device: str) -> dict[str, float]:
    """Milliseconds of parsing, of building the module, of its first step, and of all; empty where it is refused.

    On a CPU they are those of the processor, the compiler's included, and `wall` is all by the wall's clock.
    """
    wall, started = time.perf_counter(), _now(device)
    cell = parse(text)
    parsed = _now(device)
    try:
        module = cell_module(cell, size, backend, device)
    except BuildError:
        return {}
    built = _now(device)
    training(module, size, device)()
    if device == "cuda":
        torch.cuda.synchronize()
    ended = _now(device)
    times = {"parse": parsed - started, "build": built - parsed, "step": ended - built}
    times |= {"all": ended - started, "wall": time.perf_counter() - wall}
    return {name: 1e3 * seconds for name, seconds in times.items()}


def _now(device: str) -> float:
    """Seconds by the clock of `interleaved`; the processor's with that of the compiler's processes."""
    if device == "cuda":
        return time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    """Read the task from standard input, print the times of each cell as JSON."""
    task = json.load(sys.stdin)
    size = BenchSize(*task["size"])
    with one_thread():
        first_step(_ANOTHER, size, task["backend"], task["device"])
        times = [first_step(text, size, task["backend"], task["device"]) for text in task["cells"]]
    print(json.dumps(times))


if __name__ == "__main__":
    main()
