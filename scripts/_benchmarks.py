"""Measure anew what docs/benchmarks/ says about this machine.

    python scripts/benchmarks                # an hour: the zoo, random cells, build times, a trial end to end
    python scripts/benchmarks --page-only    # only write the page from cpu.json

writes cpu.json and cpu.md, and by scripts/bench_trial.py trial.json and trial.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench_trial
import numpy as np
from _output import output_folder

from grammar import Cell, weight_shapes, zoo, zoo_names
from nas.bench import (
    CACHED_AIM,
    COLD_AIM,
    BenchSize,
    Plan,
    Row,
    bench,
    builds_of,
    clock,
    excess,
    machine_facts,
    outcomes,
    read_sizes,
)
from search_spaces import load_space, space_names

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "benchmarks"

MOST_WEIGHTS = 50_000_000
"""Of the known cells that are timed by default: a step of an eager loop over more takes minutes."""

INTRODUCTION = """# On a CPU

Times of `{backend}` beside torch's own layers and the frozen eager loop of `scripts/bench_eager.py`, all in one run,
in interleaved rounds on one thread, in float32. They are milliseconds of the processor's clock: on a quiet machine
those of the wall, on a busy one those of the work. {machine}, torch {torch}, commit {commit}.

f+b is a forward and a backward pass to the input and every weight. A cell's limit is 1.5 times its bound and 0.3 ms;
the bound is its matrix products alone, as torch runs them into memory that is there (those of one operand as one
product, those of a recurrence step by step, a read of a matrix state and an outer product as a product for each
sequence), and 2.5 ns for each transcendental function of each number, forward and backward together.

Written by `python scripts/benchmarks`; do not edit.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the JSON files and the pages."""
    given = _arguments(arguments)
    place = given.out / "cpu.json"
    if not given.page_only:
        facts = measured(given)
        place.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        bench_trial.main(
            [*given.trial, "--backend", given.backend, "--size", given.trial_size, "--out", str(given.out)]
        )
    facts = json.loads(place.read_text(encoding="utf-8"))
    (given.out / "cpu.md").write_text(page(facts), encoding="utf-8")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", default="c")
    parser.add_argument("--sizes", default="S,M,L")
    parser.add_argument(
        "--zoo",
        nargs="*",
        default=None,
        help=f"known cells; by default all over time with at most {MOST_WEIGHTS:,} weights",
    )
    parser.add_argument("--trial", nargs="*", default=[], help="known cells for the trial")
    parser.add_argument("--trial-size", default="M")
    parser.add_argument("--cells", type=int, default=20, help="random cells of each search space")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=6.0, help="for the rounds of one cell at one size")
    parser.add_argument("--out", type=output_folder, default=str(FOLDER))
    parser.add_argument("--page-only", action="store_true")
    return parser.parse_args(arguments)


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """All of cpu.json."""
    sizes = read_sizes(given.sizes)
    names = given.zoo or [
        name for name in zoo_names() if zoo(name).kind == "time" and weights(zoo(name), sizes) <= MOST_WEIGHTS
    ]
    known = {name: zoo(name) for name in names}
    plan = Plan(sizes, (given.backend,), ("torch", "eager"), repeats=given.repeats, seconds=given.seconds)
    lean = Plan(sizes, (given.backend,), (), ("training",), given.repeats, given.seconds)
    rows, others = bench(known, plan, _tell), bench(_random(given.cells), lean, _tell)
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "machine": machine_facts("cpu") | {"clock": clock("cpu")},
        "commit": done.stdout.strip(),
        "backend": given.backend,
        "aims": [outcome.to_dict() for outcome in outcomes(rows, given.backend)],
        "builds": [build.to_dict() for build in builds_of(known, sizes[0], given.backend)],
        "rows": [_facts(row, given.backend) for row in rows],
        "random": [_facts(row, given.backend) for row in others],
    }


def weights(cell: Cell, sizes: Sequence[BenchSize]) -> int:
    """How many weights a layer of the cell has at the size where it has most."""
    shapes = (
        weight_shapes(cell, input_size=size.width, hidden_size=size.width, heads=size.heads) for size in sizes
    )
    return max(sum(map(math.prod, found.values())) for found in shapes)


def _random(number: int) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for name in space_names():
        space, rng = load_space(name), np.random.default_rng(0)
        drawn = {f"{name}#{k}": space.sample(rng) for k in range(number)}
        found |= {label: cell for label, cell in drawn.items() if cell.kind == "time"}
    return found


def _tell(row: Row) -> None:
    print(f"{row.name} at {row.size.name}", file=sys.stderr, flush=True)


def _facts(row: Row, backend: str) -> dict[str, Any]:
    return row.to_dict() | {"of_limit": {s: excess(row, backend, s) for s in ("median", "min")}}


# ---- the page ---------------------------------------------------------------------------------


def page(facts: dict[str, Any]) -> str:
    """The result as a page, from its JSON alone."""
    backend, machine = facts["backend"], facts["machine"]
    parts = [
        INTRODUCTION.format(
            backend=backend, machine=machine["processor"], torch=machine["torch"], commit=facts["commit"]
        ),
        _aims(facts),
        _limits(facts),
        _built(facts),
        "## Every known cell",
        _times(facts["rows"], backend),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _aims(facts: dict[str, Any]) -> str:
    lines = ["## Aims", "", "| | size | ratio | aim | |", "|---|---|---|---|---|"]
    for one in facts["aims"]:
        met = {True: "met", False: "**missed**", None: ""}[one["met"]]
        sign = ">=" if "over" in one["name"] else "<="
        wanted = "" if one["aim"] is None else f"{sign} {one['aim']:g}"
        cells = f" ({one['cells']})" if one["cells"] > 1 else ""
        lines.append(f"| {one['name']}{cells} | {one['size']} | {one['value']:.2f} | {wanted} | {met} |")
    return "\n".join(lines)


def _limits(facts: dict[str, Any]) -> str:
    """Who misses the limit, by the least of the times."""
    lines = ["## Limits", ""]
    for title, rows in (("known cells", facts["rows"]), ("random cells", facts["random"])):
        timed = [row for row in rows if row["of_limit"]["min"] is not None]
        late = sorted(
            (row for row in timed if row["of_limit"]["min"] > 1), key=lambda r: -r["of_limit"]["min"]
        )
        lines.append(
            f"Of {len(timed)} times of {title}, {len(late)} miss their limit by the least of the rounds."
        )
        lines += [
            f"- {row['cell']} at {row['size']['name']}: {row['of_limit']['min']:.2f} times the limit"
            + ("" if title == "known cells" else f": `{row['text']}`")
            for row in late
        ]
        lines.append("")
    return "\n".join(lines)


def _built(facts: dict[str, Any]) -> str:
    every = facts["builds"]
    if not every:
        return ""
    lines = [
        "## From a text to the first step",
        "",
        f"Milliseconds of the processor, the compiler's included; aims {COLD_AIM:g} and {CACHED_AIM:g}.",
        "",
        "| | median | slowest |",
        "|---|---|---|",
    ]
    for title, key in (("never seen", "cold_ms"), ("cached", "cached_ms")):
        by_time = sorted(every, key=lambda build: build[key]["all"])
        middle, last = by_time[len(by_time) // 2], by_time[-1]
        lines.append(f"| {title} | {middle[key]['all']:.0f} | {last[key]['all']:.0f} ({last['cell']}) |")
    return "\n".join(lines)


def _times(rows: Sequence[dict[str, Any]], backend: str) -> str:
    lines = [
        f"Medians in ms, {backend} first.",
        "",
        f"| cell | kind | size | {backend} fwd | {backend} f+b | eager f+b | torch f+b | eager/{backend} | of limit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        taken = {
            which: {name: t["median"] for name, t in subjects.items()}
            for which, subjects in row["ms"].items()
        }
        own, eager = taken["training"].get(backend), taken["training"].get("eager")
        shown = [taken.get("forward", {}).get(backend), own, eager, taken["training"].get("torch")]
        ratio = f"{eager / own:.1f}" if own and eager else ""
        part = row["of_limit"]["median"]
        numbers = " | ".join("" if ms is None else f"{ms:.2f}" for ms in shown)
        limit = "" if part is None else f"{part:.2f}"
        lines.append(
            f"| {row['cell']} | {row['group']} | {row['size']['name']} | {numbers} | {ratio} | {limit} |"
        )
    timed = {row["cell"] for row in rows}
    left_out = [name for name in zoo_names() if zoo(name).kind == "time" and name not in timed]
    if left_out:
        lines += ["", f"Not timed (`--zoo` names those that are): {', '.join(left_out)}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
