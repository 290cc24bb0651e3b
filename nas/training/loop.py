"""The training loop. A trial is a fixed number of steps on fixed data, so the same spec gives the same losses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from grammar import GrammarError, parse
from nas.backends import fallbacks
from nas.errors import BuildError, TaskError, TrainingError, TrialAborted
from nas.nn import Stack, TreeModule, detach_state
from nas.tasks import Batch, Recipe, Split, Task, load_task
from nas.training.checkpoint import build_model, save_trained
from nas.training.losses import mean_loss, measure
from nas.training.optimiser import Optimiser
from nas.training.snapshot import SNAPSHOT, Standing, load_snapshot, save_snapshot
from nas.training.spec import Status, TrialResult, TrialSpec
from nas.training.width import match_width, trainable

CURVE_POINTS = 40

# A trial is hopeless when its loss is this many times the trivial one, after this part of its steps and this many.
HOPELESS_ABOVE = 1.05
HOPELESS_AFTER = 1 / 3
HOPELESS_LEAST_STEPS = 100

Progress = Callable[[int, float], None]
Curve = tuple[tuple[int, float], ...]


def train(
    spec: TrialSpec,
    *,
    test: bool = False,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    save_to: Path | None = None,
    carry_on: Path | None = None,
    snapshot_to: Path | None = None,
) -> TrialResult:
    """Train one cell as `spec` says and score it on the validation split, and on the test split if `test`.

    About 40 times per trial `on_progress(steps, loss)` is told the mean training loss since the last time. Once
    `should_stop()` is true the trial ends with TrialAborted; nothing else depends on a clock. A trial that ends "ok"
    is written to the folder `save_to` (see `load_trained`). The global random state is left as it was found.

    `snapshot_to` is a folder for a snapshot of the training after its last step, `carry_on` one that has a snapshot of
    the same trial at an earlier step: the result is that of the training straight through, to the last bit on a CPU.

    A cell that cannot be built with its width or budget gives a result with status "invalid". Raises TaskError for
    the task and its data, TrainingError if the data are not those of the spec or there is no such device, SnapshotError
    if the snapshot is damaged or not one of this trial.
    """
    started = time.perf_counter()
    task, device = task_of(spec), device_of(spec)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)
        try:
            cell = parse(spec.cell)
            budget = task.params if spec.params is None else spec.params
            layers = spec.recipe.num_layers
            width = spec.width or match_width(cell, task, budget, spec.heads, layers)[0]
            model = build_model(spec, width, inputs=task.inputs, outputs=task.outputs, embed=task.embed)
        except (GrammarError, BuildError) as error:
            return TrialResult("invalid", message=str(error), seconds=time.perf_counter() - started)
        model.to(device)
        if cell.kind == "tree" and (message := _no_tree(model, spec, task)):
            return TrialResult("invalid", message=message, seconds=time.perf_counter() - started)
        if task.causal and _sees_ahead(model, task):
            message = f"cell {cell.name} sees steps ahead, and task {task.name} asks for what comes next"
            return TrialResult("invalid", message=message, seconds=time.perf_counter() - started)
        fit = _Fit(model, task, spec, carry_on)
        start = fit.at.step
        status, message, curve = fit.run(on_progress, should_stop)
        if snapshot_to is not None and status == "ok":
            save_snapshot(snapshot_to / SNAPSHOT, spec, model, fit.optimiser, fit.at)
        score = test_score = None
        if status == "ok":
            score = evaluate(model, task, "valid", fit.plain)
            test_score = evaluate(model, task, "test", fit.plain) if test else None
            if not math.isfinite(score):
                status, message, score, test_score = "diverged", f"validation score is {score}", None, None
    result = TrialResult(
        status=status,
        score=score,
        test_score=test_score,
        curve=curve,
        params=trainable(model),
        width=width,
        steps=curve[-1][0],
        seconds=time.perf_counter() - started,
        message=message,
        start=start,
        fallback=fallbacks().get(cell, ""),
    )
    if save_to is not None and status == "ok":
        save_trained(save_to, model, spec, task, result)
    return result


class _Fit:
    """The steps of a trial: from the first one, or from a snapshot, to the last one."""

    def __init__(self, model: nn.Module, task: Task, spec: TrialSpec, carry_on: Path | None) -> None:
        self.model, self.task, self.spec = model, task, spec
        self.plain = spec.backend == "reference"
        self.optimiser = Optimiser(model, task.recipe, self.plain)
        self.at = Standing(0, [], torch.zeros((), device=_device_of(model)), 0, None)
        if carry_on is not None:
            self.at = load_snapshot(carry_on / SNAPSHOT, spec, model, self.optimiser)

    def run(
        self, on_progress: Progress | None, should_stop: Callable[[], bool] | None
    ) -> tuple[Status, str, Curve]:
        """Take the steps, unless the loss says that there is no point. Returns status, message and curve."""
        task, at, last = self.task, self.at, self.spec.steps
        batches = task.train_batches(np.random.default_rng(self.spec.seed))
        for passed in range(at.step):
            self._next(batches, passed + 1)
        every = max(1, task.recipe.steps // CURVE_POINTS)
        carried = _carries(self.model)
        self.model.train()
        for step in range(at.step + 1, last + 1):
            if should_stop is not None and should_stop():
                raise TrialAborted(f"stopped after {step - 1} of {last} steps")
            loss, answers = self._step(self._next(batches, step), step, carried)
            at.step, at.total, at.count = step, at.total + loss, at.count + answers
            if step % every and step < last:
                continue
            mean = float(at.total) / at.count
            curve = (*at.curve, (step, mean))
            if step % every == 0 or step == task.recipe.steps:  # else a longer trial has no entry here
                at.total, at.count, at.curve = torch.zeros_like(at.total), 0, list(curve)
            if on_progress is not None:
                on_progress(step, mean)
            if not math.isfinite(mean):
                return "diverged", f"training loss is {mean} by step {step}", curve
            if self._hopeless(step, mean):
                trivial = f"the trivial answer has {task.trivial_loss:.4g}"
                return "hopeless", f"training loss is {mean:.4g} at step {step}, {trivial}", curve
        return "ok", "", tuple(at.curve) if not at.count else (*at.curve, (last, float(at.total) / at.count))

    def _next(self, batches: Iterator[Batch], step: int) -> Batch:
        batch = next(batches, None)
        if batch is None:
            raise TaskError(
                f"task {self.task.name} ran out of training batches at step {step}: they must not end"
            )
        return batch

    def _step(self, batch: Batch, step: int, carried: bool) -> tuple[Tensor, int]:
        """One step of the optimiser; the sum of the losses, detached, and the number of answers."""
        at, recipe, device = self.at, self.task.recipe, _device_of(self.model)
        batch = batch.to(device)
        with _precision(device):
            before = detach_state(at.state) if carried and at.state is not None and not batch.fresh else None
            mean, answers, at.state = mean_loss(self.model, self.task, batch, before, self.plain)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(mean)
        self.optimiser.clipped_step(learning_rate(step, recipe), recipe.clip)
        return mean.detach() * answers, answers

    def _hopeless(self, step: int, mean: float) -> bool:
        late = step >= max(HOPELESS_AFTER * self.task.recipe.steps, HOPELESS_LEAST_STEPS)
        return late and mean > HOPELESS_ABOVE * self.task.trivial_loss


def evaluate(model: nn.Module, task: Task, split: Split, plain: bool = False) -> float:
    """The score of a model on a split ("valid" or "test"); lower is better. The model's mode is left as it was.

    `plain` is that of `nas.training.losses`.
    """
    device, training, carried = _device_of(model), model.training, _carries(model)
    total, count, state = torch.zeros((), dtype=torch.float64, device=device), 0, None
    model.eval()
    with torch.no_grad(), _precision(device):
        for batch in task.eval_batches(split):
            batch = batch.to(device)
            before = state if carried and not batch.fresh else None
            measured, answers, state = measure(model, task, batch, before, plain)
            total, count = total + measured.double(), count + answers
    model.train(training)
    if count == 0:
        raise TaskError(f"task {task.name} has no {split} batches")
    return task.score(float(total), count)


def learning_rate(step: int, recipe: Recipe) -> float:
    """The rate of step 1, 2, ..., steps: a linear warm-up to the peak, then half a cosine down to 0."""
    warm = math.ceil(recipe.warmup * recipe.steps)
    if step <= warm:
        return recipe.lr * step / warm
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - 1 - warm) / (recipe.steps - warm)))


def _carries(model: nn.Module) -> bool:
    """Whether a state goes on into the next window. That of a cell over depth belongs to the steps of its window."""
    return not isinstance(model, Stack) or model.cell.cell.kind == "time"


def _sees_ahead(model: nn.Module, task: Task) -> bool:
    """Whether an answer changes with a later step: such a cell (attention without a mask) would only copy."""
    x = next(iter(task.eval_batches("valid"))).x[:1, :8].to(_device_of(model))
    other = x.clone()
    other[:, -1] = (x[:, -1] + 1) % task.inputs if task.embed else x[:, -1] + 1
    model.eval()
    with torch.no_grad():
        logits, _ = model(torch.cat([x, other]))
    first, second = logits[:, :-1]
    return not torch.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True)


def _no_tree(model: nn.Module, spec: TrialSpec, task: Task) -> str:
    """Why a tree cell cannot be trained on the task; "" where it can."""
    batch = next(iter(task.eval_batches("valid"))).to(_device_of(model))
    if batch.y.dim() > 1:
        return f"task {task.name} asks for an answer at each step, and a tree cell gives one at the root"
    if batch.tree is None and spec.policy in (None, "given"):
        return f"task {task.name} has no parses: a tree cell needs another policy than 'given' there"
    if isinstance(model, Stack) and isinstance(model.cell, TreeModule) and model.cell.labelled:
        return f"cell {model.cell.cell.name} sees x in its merges, and task {task.name} has x at the leaves alone"
    try:
        with torch.no_grad():
            model(**batch.inputs())
    except BuildError as error:  # its trees are not those of the task
        return str(error)
    return ""


def _precision(device: torch.device) -> torch.autocast:
    """bfloat16 where it is fast: on a GPU. On a CPU everything stays float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def task_of(spec: TrialSpec) -> Task:
    """The task of a trial, with its recipe. Raises TaskError; TrainingError if the data are not those of the spec."""
    task = load_task(spec.task, spec.data, spec.size)
    if spec.data_digest not in ("", task.data_digest):
        raise TrainingError(
            f"the data of task {spec.task} are not those the trial was made for: "
            f"digest {task.data_digest[:12]}, expected {spec.data_digest[:12]}"
        )
    return task.with_recipe(spec.recipe)


def device_of(spec: TrialSpec) -> torch.device:
    """The device of a trial. Raises TrainingError if there is none."""
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError('device "cuda" was asked for, but torch finds no CUDA device')
    return torch.device(spec.device)


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
