"""What `gpu_check` runs in its processes, each for one cell; see _gpu_check.py."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from conformance import cases, check, poisoned, whole_float32

from grammar import Cell, zoo
from nas.backends import backend_names, choose
from nas.bench import BenchSize, Plan, Row, bench, builds_of, clock, machine_facts
from nas.bench.subjects import cell_module, training
from nas.errors import BuildError, NasError

ROOT = Path(__file__).resolve().parents[1]
BAD = ("failed", "crashed", "refused")
MODULES = ("pytest", "hypothesis", "pytest_timeout")


def prepare() -> None:
    """One thread: there are as many processes as cores."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for torch.use_deterministic_algorithms
    torch.set_num_threads(1)


def healthy() -> None:
    """Raises what a kernel has left behind."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def machine(device: str, left_out: Sequence[str]) -> dict[str, Any]:
    """What the machine is, which backends run on it, and why others do not; the rate of a copy."""
    reasons: dict[str, str] = dict.fromkeys(left_out, f"not for {device}")
    works = []
    for name in backend_names():
        if name not in reasons:
            try:
                choose(name, zoo("elman"))
                works.append(name)
            except BuildError as error:
                reasons[name] = str(error)
    facts = machine_facts(device) | {"clock": clock(device)}
    return {
        "machine": facts,
        "backends": works,
        "without": reasons,
        "copy_bytes_per_second": copy_rate(device),
    }


def copy_rate(device: str) -> float:
    """Bytes read and written per second by a copy on the device."""
    count = 2**28 if device == "cuda" else 2**22
    source, target = (torch.zeros(count, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        healthy()
        started = time.perf_counter()
        target.copy_(source)
        healthy()
        best = min(best, time.perf_counter() - started)
    return 8 * count / best


def held(name: str, cell: Cell, index: int, backend: str, dtype: str, device: str) -> dict[str, Any]:
    """A cell against the float64 reference at three shapes."""
    with poisoned(), whole_float32():
        made = [check(case, backend, getattr(torch, dtype), device) for case in cases(name, cell, index)]
    return {
        "counts": Counter(outcome.status for outcome in made),
        "worst": max((outcome.worst for outcome in made if outcome.status == "ok"), default=0.0),
        "bad": [outcome.to_dict() for outcome in made if outcome.status in BAD],
    }


def built(cell: Cell, size: BenchSize, backend: str, device: str) -> float | None:
    """Seconds until a module has done a first training step, which compiles its kernels. None where it is refused."""
    started = time.perf_counter()
    try:
        module = cell_module(cell, size, backend, device)
    except BuildError:
        return None
    training(module, size, device)()
    healthy()
    return time.perf_counter() - started


def timed(
    name: str, cell: Cell, size: BenchSize, backends: Sequence[str], against: Sequence[str], device: str
) -> Row:
    """One cell at one size."""
    plan = Plan((size,), tuple(backends), tuple(against), repeats=7, seconds=4, device=device)
    return bench({name: cell}, plan)[0]


def builds(cells: Mapping[str, Cell], size: BenchSize, backend: str, device: str) -> list[dict[str, Any]]:
    """From text to first step, never seen and cached."""
    return [build.to_dict() for build in builds_of(cells, size, backend, device)]


def tests(device: str, seconds: float) -> str | list[str]:
    """The tests marked `gpu`, where pytest and hypothesis are installed: the last lines of what they say."""
    missing = [name for name in MODULES if not _installed(name)]
    if missing or device != "cuda":
        return f"not run: {', '.join(missing) or 'no GPU'}"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--maxfail=20",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "tests",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(30.0, seconds)
    )
    lines = done.stdout.splitlines()[-30:]
    if done.returncode not in (0, 5):  # 5: there are none
        raise NasError(f"pytest exited with {done.returncode}: {' | '.join(lines)}")
    return lines


def _installed(name: str) -> bool:
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec(name) is not None
    return False
