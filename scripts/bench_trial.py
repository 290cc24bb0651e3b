"""Steps per second of a search trial on a backend and on the eager loop, and where the time goes.

    python scripts/bench_trial.py lstm gru mingru --backend c --out docs/benchmarks

A trial is what a search runs: data, embedding, cell, head, loss, gradients, clipping, AdamW; here on the task `text` at
size M (32 sequences of 128 steps, 64 wide), one thread. Steps of both take turns, timed by the processor's clock. The
parts are measured inside the same steps. Writes trial.json and trial.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from grammar import Cell, parse, zoo
from nas.bench import clock, machine_facts, read_sizes
from nas.bench.run import group_of, one_thread
from nas.bench.subjects import eager_loop
from nas.nn import CellModule, Stack, State, detach_state
from nas.tasks import Batch, Task, load_task
from nas.training.loop import _optimiser

PARTS = (
    "data",
    "embedding",
    "cell, forward",
    "head",
    "loss",
    "head, backward",
    "cell, backward",
    "embedding, backward",
    "clipping",
    "AdamW",
)
AIMS = {"dense": 2.0, "elementwise": 3.0}
DEFAULT = (
    "elman",
    "lstm",
    "gru",
    "gru_cho",
    "slstm",
    "indrnn",
    "mingru",
    "hgrn",
    "rglru",
    "sru",
    "mamba",
    "gated_deltanet",
)
WARMUP = 3


class Trial:
    """A model in training, step by step, with the milliseconds of each part."""

    def __init__(self, cell: Cell, task: Task, width: int, backend: str) -> None:
        torch.manual_seed(0)
        built = "reference" if backend == "eager" else backend
        self.model = Stack(cell, task.inputs, task.outputs, width, embed=task.embed, backend=built)
        self.optimiser = _optimiser(self.model, task.recipe)
        if backend == "eager":
            eager = eager_loop(self.model.cell)
            self.model.cell = cast(CellModule, eager)
        self.task, self.state = task, cast("State | None", None)
        self.batches = task.train_batches(np.random.default_rng(0))
        self.taken: list[float] = []
        self.last = self.loss = 0.0
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}
        self._watch()

    def _watch(self) -> None:
        """Marks where the cell begins and ends, both ways: autograd computes one gradient after the other."""

        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            self._mark("embedding")
            if given[0].requires_grad:
                given[0].register_hook(lambda gradient: self._mark("cell, backward"))

        def after(module: nn.Module, given: tuple[Any, ...], made: tuple[Tensor, State]) -> None:
            self._mark("cell, forward")
            made[0].register_hook(lambda gradient: self._mark("head, backward"))

        self.model.cell.register_forward_pre_hook(before)
        self.model.cell.register_forward_hook(after)

    def _mark(self, part: str) -> None:
        now = time.process_time()
        self.parts[part].append(1e3 * (now - self.last))
        self.last = now

    def step(self) -> None:
        """One step as the training loop takes it (nas/training/loop.py)."""
        started = self.last = time.process_time()
        batch: Batch = next(self.batches)
        before = detach_state(self.state) if self.state is not None and not batch.fresh else None
        self._mark("data")
        logits, self.state = self.model(batch.x, lengths=batch.lengths, state=before)
        self._mark("head")
        loss, answers = self.task.loss(logits, batch)
        self.optimiser.zero_grad(set_to_none=True)
        mean = loss / answers
        self._mark("loss")
        torch.autograd.backward(mean)
        self._mark("embedding, backward")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.task.recipe.clip)
        self._mark("clipping")
        self.optimiser.step()
        self._mark("AdamW")
        self.taken.append(1e3 * (time.process_time() - started))
        self.loss = float(mean.detach())

    def facts(self) -> dict[str, Any]:
        """Medians in ms, without the first steps."""
        whole = statistics.median(self.taken[WARMUP:])
        parts = {part: statistics.median(taken[WARMUP:]) for part, taken in self.parts.items()}
        return {"ms": whole, "steps_per_second": 1e3 / whole, "parts_ms": parts, "loss": self.loss}


def compare(cells: dict[str, Cell], size: str, backend: str, steps: int) -> Iterator[dict[str, Any]]:
    """One row for each cell: the trial on the backend and on the eager loop, step by step in turn."""
    (chosen,) = read_sizes(size)
    task = load_task("text")
    recipe = task.recipe.replace(batch_size=chosen.batch, sequence_length=chosen.steps, steps=steps)
    task = task.with_recipe(recipe)
    for name, cell in cells.items():
        trials = {which: Trial(cell, task, chosen.width, which) for which in (backend, "eager")}
        for _ in range(WARMUP + steps):
            for trial in trials.values():
                trial.step()
        facts = {which: trial.facts() for which, trial in trials.items()}
        ratio = facts["eager"]["ms"] / facts[backend]["ms"]
        group = group_of(cell)
        yield {"cell": name, "group": group, "ratio": ratio, "aim": AIMS.get(group), "trials": facts}


def page(facts: dict[str, Any]) -> str:
    """The result as a page."""
    backend, rows = facts["backend"], facts["rows"]
    lines = [
        "# A search trial, end to end",
        "",
        f"Steps per second of a trial (task `text` at size {facts['size']}: 32 sequences of 128 steps, 64 wide; data,",
        f"embedding, cell, head, loss, gradients, clipping, AdamW) on `{backend}` and on the eager loop of",
        "`scripts/bench_eager.py`, in one run, step by step in turn; one thread, the processor's clock, medians.",
        f"{facts['machine']['processor']}, torch {facts['machine']['torch']}.",
        "Written by `python scripts/bench_trial.py`.",
        "",
        f"| cell | kind | eager, steps/s | {backend}, steps/s | ratio | aim |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        both = [row["trials"][which]["steps_per_second"] for which in ("eager", backend)]
        aim = f"{row['aim']:g}" if row["aim"] else ""
        lines.append(
            f"| {row['cell']} | {row['group']} | {both[0]:.1f} | {both[1]:.1f} | {row['ratio']:.1f} | {aim} |"
        )
    lines += [
        "",
        f"Where the time of a step goes on `{backend}`, in ms:",
        "",
        f"| cell | all | {' | '.join(PARTS)} |",
        "|---" * (len(PARTS) + 2) + "|",
    ]
    for row in rows:
        trial = row["trials"][backend]
        shown = [f"{trial['parts_ms'][part]:.2f}" for part in PARTS]
        lines.append(f"| {row['cell']} | {trial['ms']:.2f} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cells", nargs="*", help="texts, or names of known cells")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--size", default="M")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a folder for trial.json and trial.md")
    given = parser.parse_args(arguments)
    cells = {}
    for text in given.cells or DEFAULT:
        cell = parse(text) if "{" in text else zoo(text.removeprefix("zoo:"))
        cells[cell.name] = cell
    rows = []
    with one_thread():
        facts = {"backend": given.backend, "size": given.size, "steps": given.steps}
        machine = machine_facts("cpu") | {"clock": clock("cpu")}
        for row in compare(cells, given.size, given.backend, given.steps):
            rows.append(row)
            both = {which: f"{trial['steps_per_second']:.1f}" for which, trial in row["trials"].items()}
            print(f"{row['cell']:16}{row['group']:12}{row['ratio']:6.2f}x  steps/s {both}", flush=True)
    whole = {**facts, "machine": machine, "rows": rows}
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "trial.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        (given.out / "trial.md").write_text(page(whole), encoding="utf-8")


if __name__ == "__main__":
    main()
