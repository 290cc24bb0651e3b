"""What is known of a cell before it is trained: its costs at the width that it would have, and its latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from grammar import Cell, GrammarError, analyse, parse
from nas.errors import BuildError
from nas.tasks import Recipe, Task
from nas.training.checkpoint import build_model
from nas.training.loop import device_of, task_of
from nas.training.spec import TrialSpec
from nas.training.width import count_parameters, match_width

SAMPLES = 7
SAMPLE_SECONDS = 5e-3
"""Shorter calls are repeated inside one sample."""
LONGEST = 256
"""Steps of the sequence that latency is measured over, at most."""


def static_metrics(
    cell: Cell,
    task: Task,
    recipe: Recipe,
    *,
    params: int | None = None,
    width: int | None = None,
    heads: int = 1,
) -> Mapping[str, float]:
    """`params`, `flops`, `state_bytes` and `gemm_depth` of the model that a trial would train; nothing is run.

    The model is that of `nas.training.train`: of this `width`, or of the one nearest to the budget `params` (None: the
    task's). Operations and bytes are those per step and sample (`grammar.analyse`) of all layers; operations include
    the head and a linear input. The depth is that of one layer. Empty where the cell cannot be built.
    """
    layers = recipe.num_layers
    try:
        if width is None:
            budget = task.params if params is None else params
            width, count = match_width(cell, task, budget, heads, layers)
        else:
            count = count_parameters(cell, task, width, heads, layers)
    except (BuildError, GrammarError):
        return {}
    found = analyse(cell)
    flops, state = (
        float(layers * poly.at(input_size=width, hidden_size=width, heads=heads))
        for poly in (found.flops, found.state_bytes)
    )
    flops += 2 * width * task.outputs + (0 if task.embed else 2 * width * task.inputs)
    return {
        "params": count,
        "flops": flops,
        "state_bytes": state,
        "gemm_depth": found.gemm_depth,
    }


def measure_latency(spec: TrialSpec) -> float:
    """Microseconds per step of the trial's model, forward, on its device and backend.

    One sequence of the task, at most 256 steps of it, from the first step to the last; a tree cell gets a whole batch,
    and the time is shared among its positions. The least of a few samples by the clock of the processor (on a GPU: of
    the wall), so that what else the machine does counts as little as can be. Raises BuildError or GrammarError for a
    cell that cannot be built, and as `train` does for data and device.
    """
    task = task_of(spec)
    cell = parse(spec.cell)
    budget = task.params if spec.params is None else spec.params
    width = spec.width or match_width(cell, task, budget, spec.heads, spec.recipe.num_layers)[0]
    device = device_of(spec)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = build_model(spec, width, inputs=task.inputs, outputs=task.outputs, embed=task.embed)
    model.to(device).eval()
    batch = next(iter(task.eval_batches("valid"))).to(device)
    inputs: dict[str, Tensor | None] = dict(batch.inputs())
    x = batch.x
    if cell.kind == "time":
        x = x[:1, :LONGEST]
        inputs = {"x": x}
    positions = x.shape[0] * x.shape[1]

    def forward() -> None:
        model(**inputs)

    with torch.no_grad():
        return 1e6 * _least_seconds(forward, device) / positions


def _least_seconds(work: Callable[[], None], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def sample(calls: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = clock()
        for _ in range(calls):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (clock() - started) / calls

    once = min(sample(1) for _ in range(2))  # the first warms up: it compiles, or chooses kernels
    calls = max(1, int(SAMPLE_SECONDS / max(once, 1e-6)))
    return min(sample(calls) for _ in range(SAMPLES))
