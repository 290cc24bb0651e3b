"""Models of one cell side by side (`nas.nn.Ensemble`) against the same models one after the other.

    python scripts/bench_ensemble.py lstm gru mingru gla tkan --out docs/benchmarks

A sample is forward, backward and a step of AdamW of all models, on rows that they share; one thread, float32. Both ways
take turns in one run, timed by the processor's clock. Writes ensemble.json and ensemble.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _output import output_folder
from torch import nn

from grammar import Cell, parse, zoo
from nas.bench import BenchSize, machine_facts, read_sizes
from nas.bench.run import one_thread
from nas.bench.timing import interleaved
from nas.nn import Ensemble, build

CELLS = ("lstm", "gru", "mingru", "gla", "tkan")
SIZES = "8x64x16,8x64x32,32x128x64"
COUNTS = (4, 16)
SECONDS = 4.0  # of one row


def measured(cell: Cell, size: BenchSize, count: int, repeats: int) -> dict[str, Any]:
    """The times of a step of all models, side by side and one after the other."""
    batch, steps, width = size.batch, size.steps, size.width
    apart = [build(cell, width, width) for _ in range(count)]
    together = Ensemble.of(apart)
    x, pull = torch.randn(batch, steps, width), torch.randn(count, batch, steps, width)

    def step(module: nn.Module, pull: torch.Tensor) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(module.parameters(), 1e-4)

        def run() -> None:
            optimiser.zero_grad()
            module(x)[0].backward(pull)
            optimiser.step()

        return run

    single = [step(module, own) for module, own in zip(apart, pull, strict=True)]

    def one_by_one() -> None:
        for run in single:
            run()

    times = interleaved({"together": step(together, pull), "apart": one_by_one}, repeats, SECONDS)
    row = {"cell": cell.name, "batch": batch, "steps": steps, "width": width, "models": count}
    ratio = times["apart"].median / times["together"].median
    return row | {name: one.to_dict() for name, one in times.items()} | {"ratio": ratio}


def page(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The rows as a page."""
    lines = [
        "# Models side by side",
        "",
        "A step of k models of one cell (forward, backward, AdamW; x is the same for all): `nas.nn.Ensemble` against "
        "k modules, ms by the processor's clock, medians. "
        f"{facts['processor']}, torch {facts['torch']}, one thread, float32; load {facts['load'][0]}; "
        "written by `python scripts/bench_ensemble.py --out docs/benchmarks`.",
        "",
        "| cell | B, T, H | k | side by side | one by one | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = f"{row['batch']}, {row['steps']}, {row['width']}"
        times = f"{row['together']['median']:.2f} | {row['apart']['median']:.2f} | {row['ratio']:.2f}"
        lines.append(f"| {row['cell']} | {size} | {row['models']} | {times} |")
    lines += [
        "",
        "On a CPU what is saved is the overhead of calls, of the models' and of the optimiser's. Where a kernel takes "
        "milliseconds there is nothing to save, and many models are slower: what all of them keep for the backward "
        "pass is in memory at once. On a GPU small models run at the same time, which was not measured.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", nargs="*", default=list(CELLS), help="names of the zoo, or texts")
    parser.add_argument("--sizes", default=SIZES, help=f"BxTxH, divided by commas (default {SIZES})")
    parser.add_argument("--models", type=int, nargs="+", default=list(COUNTS), help="how many models")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--out", type=output_folder, default=".", help="folder for ensemble.json and ensemble.md"
    )
    given = parser.parse_args(arguments)
    rows = []
    with one_thread():
        facts = machine_facts("cpu")
        for name in given.cells:
            cell = parse(name) if "{" in name else zoo(name.removeprefix("zoo:"))
            for size in read_sizes(given.sizes):
                for count in given.models:
                    rows.append(measured(cell, size, count, given.repeats))
                    print(f"{cell.name} {size.name} k={count}: {rows[-1]['ratio']:.2f}", flush=True)
    whole = json.dumps({"machine": facts, "rows": rows}, indent=1)
    (given.out / "ensemble.json").write_text(whole + "\n", encoding="utf-8")
    (given.out / "ensemble.md").write_text(page(rows, facts), encoding="utf-8")


if __name__ == "__main__":
    main()
