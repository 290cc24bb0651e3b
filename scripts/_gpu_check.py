"""Kernel tests and benchmarks on a GPU machine, into one JSON file.

    python scripts/gpu_check --minutes 9 --out result.json

needs torch, triton, numpy, networkx and lark, and nothing else (lark is pure Python: its wheel on the PYTHONPATH will
do). It holds every backend for the device against the float64 reference, runs the tests marked `gpu` where pytest is
installed, and times cells beside torch's own layers and the eager loop. Parts, in this order, or those of `--parts`:

    first        the cells that aims name: held against the reference, compiled, timed
    conformance  the rest of the zoo, odd cells, random ones
    timing       the zoo at a small size
    builds       from text to first step, never seen and cached
    tests        pytest

Every cell is a job with a limit of time in a process of its own (`_isolated.py`), so that a kernel which hangs, or
breaks its process, is one error among the results; jobs run side by side, but for those that time. The file is written
anew after each job, so that a run which is cut off leaves what it has found; what still runs when the minutes are over
is ended. `--device cpu` does the same without a GPU
(with TRITON_INTERPRET=1 in the environment by Triton's interpreter, too).

Exits with 0 where every case agreed and there was no error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import _gpu_jobs as work
import torch
from _isolated import Done, Job, Manners, run_jobs
from _output import output_file
from conformance import TOLERANCES, known_cells, random_cells

from grammar import Cell, parse, zoo
from nas.bench import BenchSize, Row, outcomes, products_of, read_sizes
from nas.bench.subjects import sizes_of
from nas.errors import BenchError

DTYPES = {dtype: str(dtype).removeprefix("torch.") for _, dtype in TOLERANCES}
GATES = "ifgo"
BLOCK_LSTM = parse(
    "cell block_lstm { state h: vec, c: vec; "
    + "; ".join(f"{g} = lin(x) + lin(h, blocks=heads, bias=no)" for g in GATES)
    + "; c' = sigmoid(f) * c + sigmoid(i) * tanh(g); h' = sigmoid(o) * tanh(c'); out h' }"
)
# The cells that aims name, then one of each kind.
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
# What share of the time each part may take; what one leaves is the next one's.
PARTS = {"first": 6, "conformance": 4, "timing": 3, "builds": 1, "tests": 2}
# Seconds that a job may take.
LIMITS = {"machine": 120.0, "held": 150.0, "built": 150.0, "timed": 90.0, "builds": 240.0}
GRACE = 15.0  # seconds after the last minute for what has begun
Timing = tuple[str, Cell, BenchSize, tuple[str, ...]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every part, write the file, exit."""
    check = Check(_arguments(arguments))
    check.run()
    summary = {name: check.facts.get(name) for name in ("agreed", "errors", "seconds")}
    print(json.dumps(summary, indent=1))
    sys.exit(0 if check.facts["agreed"] and not check.facts["errors"] else 1)


class Check:
    """One run: what was asked for, and what was found so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.device = given, str(given.device)
        self.started = time.perf_counter()
        self.parts = [name for name in PARTS if name in given.parts]
        self.rows: list[Row] = []
        self.backends: list[str] = []
        self.facts: dict[str, Any] = {"agreed": True, "errors": [], "parts": {}}

    def run(self) -> None:
        """Every part that was asked for."""
        self.write()
        job = Job("machine", work.machine, (self.device, self._left_out()), LIMITS["machine"])
        self.jobs("machine", [job], self._machine, always=True)
        self.backends = [b for b in self.facts.get("backends", []) if b != "reference"]
        if not self.backends and not self.facts["errors"]:
            self._nothing_to_check()
        used, whole = 0, sum(PARTS[name] for name in self.parts)
        for name in self.parts:
            used += PARTS[name]
            self.until = used / whole
            print(f"{name} ...", file=sys.stderr, flush=True)
            before = time.perf_counter()
            getattr(self, name)()
            self.facts["parts"][name] = round(time.perf_counter() - before, 1)
            self.write()

    until = 1.0

    def jobs(
        self,
        kind: str,
        jobs: Sequence[Job],
        take: Callable[[Done], None],
        alone: bool = False,
        always: bool = False,
    ) -> None:
        """Run jobs and take what comes of each, errors among the rest; those that time anything run alone."""
        processes = min(1, self.given.processes) if alone else self.given.processes
        manners = Manners(work.prepare, work.healthy)
        rest = 60 * float(self.given.minutes) - (time.perf_counter() - self.started)
        latest = math.inf if always else time.monotonic() + rest + GRACE
        for done in run_jobs(jobs, processes, manners, lambda: always or self.left(), latest):
            if not done.reached:
                self.facts.setdefault("not_reached", []).append(f"{kind} {done.job.name}")
                continue
            if done.error:
                self.facts["errors"].append({"part": kind, "job": done.job.name, "error": done.error})
                print(f"{kind} {done.job.name}: {done.error}", file=sys.stderr, flush=True)
            take(done)
            self.write()
        self.write()

    def write(self) -> None:
        """The file as it stands, replaced in one step."""
        self.facts["seconds"] = round(time.perf_counter() - self.started, 1)
        beside = self.given.out.with_suffix(".part")
        beside.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.given.out)

    def left(self) -> bool:
        """Whether there is time left for another job of this part."""
        return time.perf_counter() - self.started < 60 * self.until * float(self.given.minutes)

    def _left_out(self) -> tuple[str, ...]:
        """Backends that do not run on the device."""
        if self.device == "cuda":
            return ("c",)
        return () if os.environ.get("TRITON_INTERPRET") == "1" else ("triton",)

    def _machine(self, done: Done) -> None:
        self.facts |= done.value or {}

    def _nothing_to_check(self) -> None:
        """Where the reference alone runs on the device, everything would agree with itself."""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.facts["without"].items())
        error = f"no backend but the reference runs here: {reasons}"
        self.facts["errors"].append({"part": "machine", "job": "machine", "error": error})
        print(error, file=sys.stderr, flush=True)

    # -- parts ------------------------------------------------------------------------------

    def first(self) -> None:
        """The cells that aims name, most of all: right, then quick."""
        big, _ = self._sizes()
        cells = {name: zoo(name) for name in self._only(FIRST)}
        block = dict.fromkeys(self._only(("block_lstm",)), BLOCK_LSTM)
        self._held(cells | block)
        wide = BenchSize("dense", big.batch, big.steps, big.width)
        plans: list[Timing] = [(n, c, wide, ("torch",)) for n, c in cells.items() if n in ("lstm", "gru")]
        plans += [(name, cell, big, ("torch", "eager")) for name, cell in (block | cells).items()]
        self._timed(plans)

    def conformance(self) -> None:
        """Every backend and dtype against the float64 reference: known cells, odd ones, random ones."""
        known = known_cells()
        cells = {
            name: known[name] for name in self._only(known) if name not in FIRST or "first" not in self.parts
        }
        some = self.given.cells and not self.given.only
        self._held(cells | (random_cells(self.given.cells) if some else {}))

    def timing(self) -> None:
        """The zoo's cells at the small size."""
        _, small = self._sizes()
        known = known_cells()
        names = [name for name in self._only(known) if not name.startswith("odd")]
        self._timed([(name, known[name], small, ("torch", "eager")) for name in names])

    def builds(self) -> None:
        """From text to first step, never seen and cached."""
        _, small = self._sizes()
        found = self.facts["builds"] = []

        def take(done: Done) -> None:
            found.extend(done.value or [])

        cells = {name: zoo(name) for name in self._only(FIRST[:6])}
        jobs = [
            Job(
                f"{name} {backend}",
                work.builds,
                ({name: cell}, small, backend, self.device),
                LIMITS["builds"],
            )
            for backend in self.backends
            for name, cell in cells.items()
        ]
        self.jobs("builds", jobs, take, alone=True)

    def tests(self) -> None:
        """The tests marked `gpu`, where pytest and hypothesis are installed."""
        seconds = 60 * float(self.given.minutes) - (time.perf_counter() - self.started)

        def take(done: Done) -> None:
            self.facts["tests"] = done.value

        job = Job("pytest", work.tests, (self.device, seconds), max(60.0, seconds + 30))
        self.jobs("tests", [job], take, alone=True)

    # -- conformance ------------------------------------------------------------------------

    def _held(self, cells: Mapping[str, Cell]) -> None:
        jobs, of = [], {}
        for index, (name, cell) in enumerate(cells.items()):
            for backend, dtype in TOLERANCES:
                complex_ = any(state.type.is_complex for state in cell.states)
                if backend not in self.backends or (dtype == torch.bfloat16 and complex_):
                    continue  # torch has no complex bfloat16
                job = Job(
                    f"{name} {backend} {DTYPES[dtype]}",
                    work.held,
                    (name, cell, index, backend, DTYPES[dtype], self.device),
                    LIMITS["held"],
                )
                jobs.append(job)
                of[job.name] = (f"{backend} {DTYPES[dtype]}", TOLERANCES[backend, dtype])

        def take(done: Done) -> None:
            where, tolerance = of[done.job.name]
            nothing = {"tolerance": tolerance, "cases": {}, "worst": 0.0, "bad": [], "seconds": {}}
            found = self.facts.setdefault("conformance", {}).setdefault(where, nothing)
            found["seconds"][done.job.given[0]] = round(done.seconds, 1)
            value = done.value or {"counts": {"no result": 1}, "worst": 0.0, "bad": []}
            for status, count in value["counts"].items():
                found["cases"][status] = found["cases"].get(status, 0) + count
            found["worst"] = max(found["worst"], value["worst"])
            found["bad"] += value["bad"]
            self.facts["agreed"] &= not value["bad"] and done.value is not None

        self.jobs("conformance", jobs, take)

    # -- timing -----------------------------------------------------------------------------

    def _timed(self, plans: Sequence[Timing]) -> None:
        """Compile what is to be timed, side by side; then time one after the other."""
        first = self.facts.setdefault("first_step_seconds", {})

        def compiled(done: Done) -> None:
            first[done.job.name] = done.value

        jobs = [
            Job(
                f"{name} {size.name} {backend}",
                work.built,
                (cell, size, backend, self.device),
                LIMITS["built"],
            )
            for name, cell, size, _ in plans
            for backend in self.backends
        ]
        if self.device == "cuda":  # elsewhere nothing is kept between processes but by `c`, which is quick
            self.jobs("compilation", jobs, compiled)
        failed: list[Timing] = []

        def take(done: Done) -> None:
            if done.error and len(done.job.given[4]) > 1:
                failed.append((*done.job.given[:3], ("torch",)))
            if done.value is not None:
                self.rows.append(done.value)
                self._tell()

        self.jobs("timing", self._timings(plans), take, alone=True)
        self.jobs("timing again", self._timings(failed), take, alone=True)  # without the eager loop

    def _timings(self, plans: Sequence[Timing]) -> list[Job]:
        return [
            Job(
                f"{name} {size.name}",
                work.timed,
                (name, cell, size, tuple(self.backends), against, self.device),
                LIMITS["timed"],
            )
            for name, cell, size, against in plans
        ]

    def _sizes(self) -> tuple[BenchSize, BenchSize]:
        """That of the aims and that of the zoo."""
        return self.given.sizes[0], self.given.sizes[-1]

    def _only(self, names: Sequence[str] | Mapping[str, Cell]) -> list[str]:
        return [name for name in names if not self.given.only or name in self.given.only]

    def _tell(self) -> None:
        rows = self.rows
        self.facts["timing"] = [
            row.to_dict() | {"bandwidth": {name: self._bandwidth(row, name) for name in self.backends}}
            for row in rows
        ]
        self.facts["aims"] = [o.to_dict() for name in self.backends for o in outcomes(rows, name)]
        if self.device == "cuda":
            self.facts["block_lstm_ms"] = {
                "FlashRNN": 8.6,  # published for an H100: head 64, B 16, T 1024, 12 heads, forward + backward
                **{name: row.ms(name) for row in rows for name in self.backends if row.name == "block_lstm"},
            }

    def _bandwidth(self, row: Row, backend: str) -> float | None:
        """Of an elementwise cell: bytes that its kernels must move, by their time and the rate of a copy.

        Forward the products of x are read and the output written; backward they are read again with the states and
        the output's gradient, and their gradients written. The time is that without the matrix products.
        """
        taken, products = row.ms(backend), row.ms("products")
        if row.group != "elementwise" or taken is None or products is None or taken <= products:
            return None
        width = sum(p.outer * p.count for p in products_of(row.cell, sizes_of(row.cell, row.size)))
        moved = 4 * row.size.batch * row.size.steps * (3 * width + 3 * row.size.width)
        return float(moved / (1e-3 * (taken - products)) / self.facts["copy_bytes_per_second"])


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together, about")
    parser.add_argument("--parts", nargs="+", default=tuple(PARTS), choices=tuple(PARTS))
    parser.add_argument("--only", nargs="*", default=(), help="these cells alone, of those that are known")
    parser.add_argument(
        "--cells", type=int, default=3, help="random cells of each search space, for conformance"
    )
    parser.add_argument(
        "--processes", type=int, help="jobs side by side; 0 runs them in this process, unwatched"
    )
    parser.add_argument("--sizes", default="", help="the size of the aims and that of the zoo, e.g. G,L")
    parser.add_argument("--out", type=output_file, default="gpu_check.json")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu does without")
    known = {*FIRST, "block_lstm", *known_cells()}
    if unknown := [name for name in given.only if name not in known]:
        parser.error(
            f"--only names cells of the suite, such as lstm or block_lstm; received {', '.join(unknown)}"
        )
    try:
        given.sizes = read_sizes(given.sizes or ("G,L" if given.device == "cuda" else "L,S"))
    except BenchError as error:
        parser.error(f"--sizes: {error}")
    if given.processes is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        given.processes = max(1, min(12, cores - 2))
    return given


if __name__ == "__main__":
    main()
