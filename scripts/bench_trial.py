"""Steps per second of a search trial on a backend and on the eager loop, and where the time goes.

    python scripts/bench_trial.py lstm gru mingru --backend c --out docs/benchmarks

A trial is what a search runs: data, embedding, cell, head, loss, gradients, clipping, AdamW; here on the task `text` at
size M (32 sequences of 128 steps, 64 wide), one thread. Three take turns step by step, timed by the processor's clock:
the trial as the training loop takes it; the same but for the cell, which is the eager loop; and the plain one, with the
eager loop and all else as torch has it. The parts are measured inside the same steps. Writes trial.json and trial.md.
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
from _output import output_folder
from torch import Tensor, nn

from grammar import Cell, parse, zoo
from nas.bench import clock, machine_facts, read_sizes
from nas.bench.run import group_of, one_thread
from nas.bench.subjects import eager_loop
from nas.nn import CellModule, Stack, State, detach_state
from nas.tasks import Batch, Task, load_task
from nas.training.losses import mean_loss
from nas.training.optimiser import Optimiser

PARTS = (
    "data",
    "embedding",
    "cell, forward",
    "head and loss",
    "head, backward",
    "cell, backward",
    "embedding, backward",
    "clipping and AdamW",
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
OURS, SAME, PLAIN = "trial", "eager cell", "plain"


def plain_optimiser(model: nn.Module, task: Task) -> torch.optim.Optimizer:
    """AdamW in one call of torch for all arrays; matrices decay."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": task.recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=task.recipe.lr, fused=True)


MEANING = (
    "Steps per second of data, embedding, cell, head, loss, gradients, clipping and AdamW, in one run, step by step in",
    "turn; one thread, the processor's clock, medians. *Trial* is what the training loop does; *eager cell* the same",
    "with the loop of `scripts/bench_eager.py` as the cell; *plain* that loop with torch's embedding, linear head,",
    "cross entropy, clipping and AdamW. The aim is for the trial over the plain one.",
)
WHY = (
    "Maps of x are done for the rows of the embedding instead of all steps, and gradients summed by token before they",
    "are multiplied: the embedding costs nothing of its own, and such maps little. Head and loss are one pass that",
    "never has all logits and makes their gradients on the way; three quarters of its time are its three products.",
)


class Trial:
    """A model in training, step by step, with the milliseconds of each part. With PLAIN, nothing of it is ours."""

    def __init__(self, cell: Cell, task: Task, width: int, which: str, backend: str) -> None:
        torch.manual_seed(0)
        self.plain = which == PLAIN
        built = backend if which == OURS else "reference"
        self.model = Stack(cell, task.inputs, task.outputs, width, embed=task.embed, backend=built)
        if which != OURS:
            self.model.cell = cast(CellModule, eager_loop(self.model.cell))
        self.task, self.state = task, cast("State | None", None)
        self.optimiser = (
            plain_optimiser(self.model, task) if self.plain else Optimiser(self.model, task.recipe)
        )
        self.batches = task.train_batches(np.random.default_rng(0))
        self.taken: list[float] = []
        self.last = self.loss = 0.0
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}
        self.table = self.model.head.weight.register_hook(lambda gradient: None)
        self._watch()

    def _watch(self) -> None:
        """Marks where the cell begins and ends, both ways: autograd computes one gradient after the other."""

        def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._mark("embedding")
            seen = named.get("table", given[0])
            if seen.is_leaf:
                self.table.remove()
                self.table = seen.register_hook(lambda gradient: self._mark("cell, backward"))
            else:
                seen.register_hook(lambda gradient: self._mark("cell, backward"))

        def after(module: nn.Module, given: tuple[Any, ...], made: tuple[Tensor, State]) -> None:
            self._mark("cell, forward")
            made[0].register_hook(lambda gradient: self._mark("head, backward"))

        self.model.cell.register_forward_pre_hook(before, with_kwargs=True)
        self.model.cell.register_forward_hook(after)

    def _mark(self, part: str) -> None:
        now = time.process_time()
        self.parts[part].append(1e3 * (now - self.last))
        self.last = now

    def step(self) -> None:
        """One step as the training loop takes it (nas/training/loop.py), or in plain torch."""
        started = self.last = time.process_time()
        batch: Batch = next(self.batches)
        before = detach_state(self.state) if self.state is not None and not batch.fresh else None
        self._mark("data")
        if self.plain:
            y, self.state = self.model.cell(self.model.input(batch.x), before, batch.lengths)
            logits = self.model.head(y).flatten(0, 1)
            mean = nn.functional.cross_entropy(logits, batch.y.flatten(), reduction="sum") / batch.y.numel()
        else:
            mean, _, self.state = mean_loss(self.model, self.task, batch, before)
        self.optimiser.zero_grad(set_to_none=True)
        self._mark("head and loss")
        torch.autograd.backward(mean)
        self._mark("embedding, backward")
        if isinstance(self.optimiser, Optimiser):
            self.optimiser.clipped_step(self.task.recipe.lr, self.task.recipe.clip)
        else:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.task.recipe.clip)
            self.optimiser.step()
        self._mark("clipping and AdamW")
        self.taken.append(1e3 * (time.process_time() - started))
        self.loss = float(mean.detach())

    def facts(self) -> dict[str, Any]:
        """Medians in ms, without the first steps."""
        whole = statistics.median(self.taken[WARMUP:])
        parts = {part: statistics.median(taken[WARMUP:]) for part, taken in self.parts.items()}
        return {"ms": whole, "steps_per_second": 1e3 / whole, "parts_ms": parts, "loss": self.loss}


def compare(cells: dict[str, Cell], size: str, backend: str, steps: int) -> Iterator[dict[str, Any]]:
    """One row for each cell: the three trials, step by step in turn."""
    (chosen,) = read_sizes(size)
    task = load_task("text")
    recipe = task.recipe.replace(batch_size=chosen.batch, sequence_length=chosen.steps, steps=steps)
    task = task.with_recipe(recipe)
    for name, cell in cells.items():
        trials = {which: Trial(cell, task, chosen.width, which, backend) for which in (OURS, SAME, PLAIN)}
        for _ in range(WARMUP + steps):
            for trial in trials.values():
                trial.step()
        facts = {which: trial.facts() for which, trial in trials.items()}
        ratios = {which: facts[which]["ms"] / facts[OURS]["ms"] for which in (SAME, PLAIN)}
        group = group_of(cell)
        yield {"cell": name, "group": group, "ratios": ratios, "aim": AIMS.get(group), "trials": facts}


def page(facts: dict[str, Any]) -> str:
    """The result as a page."""
    backend, rows, chosen = facts["backend"], facts["rows"], read_sizes(facts["size"])[0]
    lines = [
        "# A search trial, end to end",
        "",
        f"Task `text` at size {facts['size']} ({chosen.batch} sequences of {chosen.steps} steps, {chosen.width} wide).",
        f"The trial is on the backend `{backend}`.",
        *MEANING,
        f"{facts['machine']['processor']}, torch {facts['machine']['torch']}.",
        "Written by `python scripts/bench_trial.py`.",
        "",
        "| cell | kind | plain, steps/s | eager cell, steps/s | trial, steps/s | over eager cell | over plain | aim |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        each = [f"{row['trials'][which]['steps_per_second']:.1f}" for which in (PLAIN, SAME, OURS)]
        each += [f"{row['ratios'][which]:.1f}" for which in (SAME, PLAIN)]
        aim = f"{row['aim']:g}" if row["aim"] else ""
        lines.append(f"| {row['cell']} | {row['group']} | {' | '.join(each)} | {aim} |")
    for which, what in (
        (OURS, "Where the time of a step of the trial goes"),
        (PLAIN, "And of the plain one"),
    ):
        lines += [
            "",
            f"{what}, in ms:",
            "",
            f"| cell | all | {' | '.join(PARTS)} |",
            "|---" * (len(PARTS) + 2) + "|",
        ]
        for row in rows:
            trial = row["trials"][which]
            shown = [f"{trial['parts_ms'][part]:.2f}" for part in PARTS]
            lines.append(f"| {row['cell']} | {trial['ms']:.2f} | {' | '.join(shown)} |")
    lines += [
        "",
        *WHY,
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cells", nargs="*", help="texts, or names of known cells")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--size", default="M")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=output_folder, help="a folder for trial.json and trial.md")
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
            ratios = "".join(f"{ratio:6.2f}x" for ratio in row["ratios"].values())
            print(f"{row['cell']:16}{row['group']:12}{ratios}  steps/s {both}", flush=True)
    whole = {**facts, "machine": machine, "rows": rows}
    if given.out is not None:
        (given.out / "trial.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        (given.out / "trial.md").write_text(page(whole), encoding="utf-8")


if __name__ == "__main__":
    main()
