"""The full tier of the conformance suite, and the page that tells its last results.

    python scripts/conformance --backend c --cells 200 --jobs 2

holds a backend against the float64 reference on the zoo, on odd cells and on 200 random cells of every search space, at
three sizes each, and writes docs/benchmarks/conformance_c_float32.json and docs/benchmarks/conformance.md. Exits with 1
where a case failed. Needs torch, numpy, networkx and lark only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _output import output_folder
from conformance import TOLERANCES, Outcome, cases, check, known_cells, poisoned, random_cells, told

from grammar import Cell
from nas.bench import machine_facts

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
BAD = ("failed", "crashed", "refused")
Task = tuple[int, str, Cell]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite, write the files, exit with 0 where all is well."""
    given = _arguments(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    cells = known_cells() | (random_cells(given.cells, given.seed) if given.cells else {})
    if unknown := [name for name in given.only if name not in cells]:
        sys.exit(
            f"--only names cells of the suite, such as lstm or gated#7 (with --cells 8); received {unknown}"
        )
    started = time.perf_counter()
    done: dict[str, list[Outcome]] = {}
    for name, outcomes in _run(cells, given):
        done[name] = outcomes
        for outcome in outcomes:
            if outcome.status in BAD or given.only:
                print(_line(outcome), flush=True)
        if len(done) % 100 == 0:
            print(f"{len(done)} of {len(cells)} cells", file=sys.stderr, flush=True)
    facts = _facts(done, cells, given, time.perf_counter() - started)
    print(json.dumps(facts["cases"]))
    if not given.only:
        _write(facts, given.out, given.backend, given.dtype)
    sys.exit(1 if any(facts["cases"].get(status) for status in BAD) else 0)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", required=True, choices=sorted({backend for backend, _ in TOLERANCES}))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cells", type=int, default=200, help="random cells of each search space")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--only", nargs="*", default=(), help="these cells alone, each case told; nothing is written"
    )
    parser.add_argument("--out", type=output_folder, default=str(FOLDER))
    return parser.parse_args(arguments)


def _run(cells: Mapping[str, Cell], given: argparse.Namespace) -> Iterator[tuple[str, list[Outcome]]]:
    tasks = [
        (index, name, str(cell), given.backend, given.dtype, given.device)
        for index, (name, cell) in enumerate(cells.items())
        if name in (given.only or cells)
    ]
    if given.jobs == 1:
        yield from map(_one, tasks)
    else:
        with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
            yield from pool.map(_one, tasks, chunksize=4)


def _one(task: tuple[int, str, str, str, str, str]) -> tuple[str, list[Outcome]]:
    """The cases of one cell, in whatever process."""
    from grammar import parse

    index, name, text, backend, dtype, device = task
    torch.set_num_threads(1)
    with poisoned():
        every = cases(name, parse(text), index)
        return name, [check(case, backend, getattr(torch, dtype), device) for case in every]


def _line(outcome: Outcome) -> str:
    own = "" if outcome.own is None else f" (reference {outcome.own:.1e}"
    own += "" if outcome.moved is None else f", the exact result moves by {outcome.moved:.1e}"
    own += own and ")"
    what = f"{outcome.where} {outcome.error:.1e}{own}" if outcome.where else outcome.message
    return f"{outcome.status:8} {outcome.case}: {what}"


def _facts(
    done: Mapping[str, list[Outcome]], cells: Mapping[str, Cell], given: argparse.Namespace, seconds: float
) -> dict[str, Any]:
    every = [outcome for outcomes in done.values() for outcome in outcomes]
    compared = sorted(o.error for o in every if o.status in ("ok", "failed"))
    return {
        "backend": given.backend,
        "dtype": given.dtype,
        "device": given.device,
        "tolerance": TOLERANCES[given.backend, getattr(torch, given.dtype)],
        "commit": _commit(),
        "seed": given.seed,
        "random_cells_per_space": given.cells,
        "seconds": round(seconds),
        "machine": machine_facts(given.device),
        "cases": dict(Counter(o.status for o in every)),
        "beyond_the_tolerance_like_the_reference": sum(o.status == "ok" and o.own is not None for o in every),
        "of_these_within_what_exact_results_move": sum(
            o.status == "ok" and o.moved is not None for o in every
        ),
        "made_calmer": sum(o.case.shape.calm < 1 for o in every),
        "largest_errors": {
            f"{100 * part:g} %": told(compared[min(len(compared) - 1, int(part * len(compared)))])
            for part in ((0.5, 0.9, 0.99, 1.0) if compared else ())
        },
        "groups": _groups(done),
        "bad": [o.to_dict() | {"text": o.case.cell.one_line} for o in every if o.status in BAD],
        "cells": {
            name: {"digest": cells[name].digest[:16], "worst": told(max(o.worst for o in outcomes))}
            for name, outcomes in done.items()
        },
    }


def _groups(done: Mapping[str, list[Outcome]]) -> dict[str, dict[str, int]]:
    """The statuses by where the cells are from."""
    found: dict[str, Counter[str]] = {}
    for name, outcomes in done.items():
        group = name.partition("#")[0] if "#" in name else "odd" if name.startswith("odd") else "zoo"
        found.setdefault(group, Counter()).update(["cells", *(o.status for o in outcomes)])
    return {group: dict(counts) for group, counts in found.items()}


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


INTRODUCTION = """# Conformance

Every backend against the float64 reference: outputs, final states, and the gradients to the input, the initial states
and every weight, through output and final states alike. Three shapes for each cell (T = 1, 63 and 200; H = 40 or 96,
1 to 5 heads, B = 1 or 3), from given and from declared initial states, with sequences of several lengths, in memory
poisoned with NaN. An error is the RMS of the difference over the RMS of the array. It may be as large as the tolerance,
or four times what the reference itself errs in float32 on that array (a few chaotic cells); what errs more is judged
once more by how far the exact results move when every input and weight moves by four units in the last place.

Written by `python scripts/conformance --backend NAME --cells 200`; do not edit.
"""


def _write(facts: dict[str, Any], folder: Path, backend: str, dtype: str) -> None:
    text = json.dumps(facts, indent=1, allow_nan=False)
    (folder / f"conformance_{backend}_{dtype}.json").write_text(text + "\n", encoding="utf-8")
    every = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("conformance_*.json"))]
    (folder / "conformance.md").write_text(page(every), encoding="utf-8")


def page(results: Sequence[dict[str, Any]]) -> str:
    """The results as a page, from their JSON files alone."""
    lines = [INTRODUCTION.rstrip()]
    for facts in results:
        machine = facts["machine"]
        lines += [
            "",
            f"## {facts['backend']}, {facts['dtype']}, on {facts['device']}",
            "",
            f"Commit {facts['commit']}, {machine.get('gpu') or machine['processor']}, torch {machine['torch']}.",
            f"Tolerance {facts['tolerance']:g}.",
            f"{facts['random_cells_per_space']} random cells of each space, seed {facts['seed']}.",
            "",
            "| cells from | cells | ok | failed | crashed | refused | wild |",
            "|---|---|---|---|---|---|---|",
        ]
        for group, counts in facts["groups"].items():
            shown = [counts.get(s, 0) for s in ("cells", "ok", "failed", "crashed", "refused", "wild")]
            lines.append(f"| {group} | {' | '.join(map(str, shown))} |")
        errors = ", ".join(
            f"{part} {'not finite' if error is None else f'within {error:.1e}'}"
            for part, error in facts["largest_errors"].items()
        )
        beyond, calmer = facts["beyond_the_tolerance_like_the_reference"], facts["made_calmer"]
        moved = facts.get("of_these_within_what_exact_results_move")
        once_more = "" if moved is None else f" {moved} of them are judged by how far exact results move;"
        lines += [
            "",
            f"The largest error of a case: {errors}.",
            f"{beyond} cases err more than the tolerance, as the reference does;{once_more}",
            f"{calmer} were run with smaller weights, because their numbers explode.",
        ]
        if facts.get("again"):
            lines.append(
                f"Run again at commit {facts['again']['commit']}, and counted so: {', '.join(facts['again']['cells'])}."
            )
        for bad in facts["bad"][:50]:
            lines.append(
                f"- **{bad['status']}** {bad['cell']} at {bad['shape']}: {bad['where'] or bad['message']}"
            )
    return "\n".join(lines) + "\n"
