"""Kernel tests and benchmarks on a GPU machine, into one JSON file.

    python scripts/gpu_check --minutes 9 --out result.json

needs torch, triton, numpy, networkx and lark, and nothing else (lark is pure Python: its wheel on the PYTHONPATH will
do). It holds every backend for the device against the float64 reference, runs the tests marked `gpu` where pytest is
installed, and times cells beside torch's own layers and the eager loop. The file is written anew after each part, so
that a run which is cut off leaves what it has found. `--device cpu` does the same without a GPU.

Exits with 0 where every case agreed and no part crashed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from conformance import TOLERANCES, cases, check, known_cells, poisoned, random_cells

from grammar import Cell, parse, zoo
from nas.backends import backend_names, choose
from nas.bench import (
    BenchSize,
    Plan,
    Row,
    bench,
    builds_of,
    clock,
    machine_facts,
    outcomes,
    products_of,
    read_sizes,
)
from nas.bench.subjects import sizes_of
from nas.errors import BuildError, NasError

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {"cuda": ("c",), "cpu": ("triton",)}  # backends that do not run on a device
DTYPES = {dtype: str(dtype).removeprefix("torch.") for _, dtype in TOLERANCES}
GATES = "ifgo"
BLOCK_LSTM = parse(
    "cell block_lstm { state h: vec, c: vec; "
    + "; ".join(f"{g} = lin(x) + lin(h, blocks=heads, bias=no)" for g in GATES)
    + "; c' = sigmoid(f) * c + sigmoid(i) * tanh(g); h' = sigmoid(o) * tanh(c'); out h' }"
)
# What is timed first: the cells that aims name; then one of each kind, then the rest of the zoo as time allows.
FIRST = (
    "lstm",
    "gru",
    "mingru",
    "rglru",
    "hgrn",
    "indrnn",
    "gated_deltanet",
    "gla",
    "mamba2",
    "deltanet",
    "slstm",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every part, write the file, exit."""
    given = _arguments(arguments)
    torch.set_num_threads(1)
    check_ = Check(given)
    for part in (check_.conformance, check_.timing, check_.builds, check_.tests):
        check_.part(part)
    summary = {name: check_.facts.get(name) for name in ("agreed", "errors", "seconds")}
    print(json.dumps(summary, indent=1))
    sys.exit(0 if check_.facts["agreed"] and not check_.facts["errors"] else 1)


class Check:
    """One run: what was asked for, and what was found so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.device = given, str(given.device)
        self.started = time.perf_counter()
        self.backends = [name for name in backend_names() if self._works(name)]
        self.facts: dict[str, Any] = {
            "machine": machine_facts(self.device) | {"clock": clock(self.device)},
            "backends": self.backends,
            "agreed": True,
            "errors": [],
        }

    def part(self, run: Callable[[], None]) -> None:
        """Run one part; an error in it is recorded and ends that part alone."""
        name = run.__name__
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            run()
        except Exception as error:
            self.facts["errors"].append({"part": name, "error": f"{type(error).__name__}: {error}"})
            traceback.print_exc()
        self.write()

    def write(self) -> None:
        """The file as it stands, replaced in one step."""
        self.facts["seconds"] = round(time.perf_counter() - self.started, 1)
        beside = self.given.out.with_suffix(".part")
        beside.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.given.out)

    def left(self, share: float) -> bool:
        """Whether less than this share of the time is used."""
        return time.perf_counter() - self.started < 60 * share * float(self.given.minutes)

    def _works(self, name: str) -> bool:
        if name in ELSEWHERE[self.device]:
            return False
        try:
            choose(name, zoo("elman"))
        except BuildError as error:
            print(f"without {name}: {error}", file=sys.stderr)
            return False
        return True

    # -- parts ------------------------------------------------------------------------------

    def conformance(self) -> None:
        """Every backend and dtype against the float64 reference: known cells, odd ones, random ones."""
        cells = known_cells() | random_cells(self.given.cells)
        found = self.facts["conformance"] = {}
        for backend, dtype in TOLERANCES:
            if backend in self.backends and backend != "reference":
                found[f"{backend} {DTYPES[dtype]}"] = self._held(backend, dtype, cells)

    def _held(self, backend: str, dtype: torch.dtype, cells: Mapping[str, Cell]) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        bad = []
        worst = 0.0
        for index, (name, cell) in enumerate(cells.items()):
            if not self.left(0.5):
                counts["not reached"] = len(cells) - index
                break
            with poisoned():
                made = [check(case, backend, dtype, self.device) for case in cases(name, cell, index)]
            counts.update(outcome.status for outcome in made)
            worst = max(worst, *(outcome.worst for outcome in made if outcome.status == "ok"), 0.0)
            bad += [o.to_dict() for o in made if o.status in ("failed", "crashed", "refused")]
        self.facts["agreed"] &= not bad
        return {"tolerance": TOLERANCES[backend, dtype], "cases": dict(counts), "worst": worst, "bad": bad}

    def timing(self) -> None:
        """The cells of the aims at the device's sizes; then the zoo at the first of them."""
        big, small = self._sizes()
        against = ("torch", "eager")
        wide = BenchSize("dense", big.batch, big.steps, big.width)
        plans: list[tuple[dict[str, Cell], BenchSize, tuple[str, ...]]]
        plans = [({"lstm": zoo("lstm"), "gru": zoo("gru")}, wide, ("torch",))]
        plans += [({"block_lstm": BLOCK_LSTM}, big, against)]
        plans += [({name: zoo(name)}, big, against) for name in FIRST]
        plans += [({name: cell}, small, against) for name, cell in known_cells().items() if "odd" not in name]
        rows: list[Row] = []
        self.facts |= {"timing": [], "not_timed": 0}
        for cells, size, baselines in plans:
            if not self.left(0.85):
                self.facts["not_timed"] += 1
                continue
            plan = Plan((size,), tuple(self.backends), baselines, repeats=7, seconds=4, device=self.device)
            rows += bench(cells, plan)
            self._tell(rows)
            self.write()

    def _sizes(self) -> tuple[BenchSize, BenchSize]:
        if self.given.sizes:
            sizes = read_sizes(self.given.sizes)
            return sizes[0], sizes[-1]
        big, small = read_sizes("G,L" if self.device == "cuda" else "L,S")
        return big, small

    def _tell(self, rows: Sequence[Row]) -> None:
        copied = self._copy_rate()
        self.facts["copy_bytes_per_second"] = copied
        self.facts["timing"] = [
            row.to_dict()
            | {"bandwidth": {name: self._bandwidth(row, name, copied) for name in self.backends}}
            for row in rows
        ]
        self.facts["aims"] = [o.to_dict() for name in self.backends for o in outcomes(rows, name)]
        if self.device == "cuda":
            self.facts["block_lstm_ms"] = {
                "FlashRNN": 8.6,  # published for an H100: head 64, B 16, T 1024, 12 heads, forward + backward
                **{name: row.ms(name) for row in rows for name in self.backends if row.name == "block_lstm"},
            }

    def _bandwidth(self, row: Row, backend: str, copied: float) -> float | None:
        """Of an elementwise cell: bytes that its kernels must move, by their time and the rate of a copy.

        Forward the products of x are read and the output written; backward they are read again with the states and
        the output's gradient, and their gradients written. The time is that without the matrix products.
        """
        taken, products = row.ms(backend), row.ms("products")
        if row.group != "elementwise" or taken is None or products is None or taken <= products:
            return None
        width = sum(p.outer * p.count for p in products_of(row.cell, sizes_of(row.cell, row.size)))
        moved = 4 * row.size.batch * row.size.steps * (3 * width + 3 * row.size.width)
        return moved / (1e-3 * (taken - products)) / copied

    def _copy_rate(self) -> float:
        """Bytes read and written per second by a copy on the device."""
        if "copy_bytes_per_second" in self.facts:
            return float(self.facts["copy_bytes_per_second"])
        count = 2**28 if self.device == "cuda" else 2**24
        source, target = (torch.zeros(count, device=self.device) for _ in range(2))
        best = float("inf")
        for _ in range(10):
            self._wait()
            started = time.perf_counter()
            target.copy_(source)
            self._wait()
            best = min(best, time.perf_counter() - started)
        return 8 * count / best

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def builds(self) -> None:
        """From text to first step, never seen and cached."""
        _, small = self._sizes()
        cells = {name: zoo(name) for name in FIRST[:6]}
        self.facts["builds"] = [
            build.to_dict()
            for name in self.backends
            if name != "reference" and self.left(0.95)
            for build in builds_of(cells, small, name, self.device)
        ]

    def tests(self) -> None:
        """The tests marked `gpu`, where pytest and hypothesis are installed."""
        missing = [
            name for name in ("pytest", "hypothesis", "pytest_timeout") if not importlib.util.find_spec(name)
        ]
        if missing or self.device != "cuda":
            self.facts["tests"] = f"not run: {', '.join(missing) or 'no GPU'}"
            return
        limit = max(30.0, 60 * float(self.given.minutes) - (time.perf_counter() - self.started))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit,
        )
        self.facts["tests"] = done.stdout.splitlines()[-30:]
        if done.returncode not in (0, 5):  # 5: there are none
            raise NasError(f"pytest exited with {done.returncode}: {' '.join(done.stdout.splitlines()[-1:])}")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together, about")
    parser.add_argument(
        "--cells", type=int, default=3, help="random cells of each search space, for conformance"
    )
    parser.add_argument("--sizes", default="", help="the size of the aims and that of the zoo, e.g. G,L")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu does without")
    return given


if __name__ == "__main__":
    main()
