"""One-shot search: train a supernet on a task, take cells from it, and hand them over for training from scratch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grammar import Cell, GrammarError
from nas.backends import fallbacks
from nas.errors import BuildError, TrialAborted
from nas.supernet.model import Supernet
from nas.supernet.options import SupernetOptions
from nas.supernet.plan import Plan
from nas.supernet.selection import Scored, candidates, perturbed
from nas.supernet.steps import Stream, first_order, leave, mixture_loss, optimiser, path_loss, second_order
from nas.tasks import Task
from nas.training import TrialResult, TrialSpec, device_of, learning_rate, task_of
from search_spaces import SpaceError

CURVE_POINTS = 40
WORST = 2.0
"""Times the loss of the trivial answer: a path with more has states without bounds, and would spoil shared weights."""
PATIENCE = 100
"""Paths in a row that cannot be trained, after which the supernet is given up."""
_STREAMS = 7
"""Of the seed of what the architecture sees: other training batches than the weights."""

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class SupernetResult:
    """What came of a supernet: `found` are cells, the selected one first, then others by the score they have with the
    shared weights. `trial` says how the training went, as of any trial: its `score` is that of the selected cell with
    the shared weights, `params` and `width` are the supernet's. `probabilities` are those of the options at the end,
    `spent` the largest expected cost over the search (None without a cost).
    """

    trial: TrialResult
    found: tuple[Scored, ...] = ()
    probabilities: tuple[tuple[float, ...], ...] = ()
    spent: float | None = None


def train_supernet(
    spec: TrialSpec,
    options: SupernetOptions,
    *,
    accept: Callable[[Cell], bool] = lambda cell: True,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SupernetResult:
    """Train the supernet of the sketch `spec.cell` as `options` say; the rest of `spec` is as for a trial.

    The width is that of a cell of the sketch with the budget of parameters. The shared weights see the
    training batches of the seed, the architecture others of the training split; candidates are scored on validation
    batches, so the test split is not touched. Cells that `accept` refuses are not handed over. All randomness comes
    from `spec.seed`, and the global random state is left as it was found.

    A sketch that has no mixture, or one too large, gives a result with status "invalid". Raises SearchError where
    `cost_limit` leaves no cell, TaskError and TrainingError as `nas.training.train` does.
    """
    started = time.perf_counter()
    task, device = task_of(spec), device_of(spec)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)
        try:
            run = _Search(spec, options, task, device, accept)
        except (GrammarError, BuildError, SpaceError) as error:
            seconds = time.perf_counter() - started
            return SupernetResult(TrialResult("invalid", message=str(error), seconds=seconds))
        status, message = run.train(on_progress, should_stop)
        found = run.select() if status == "ok" else ()
    if status == "ok" and not found:
        status, message = "invalid", "none of the cells taken from the supernet is in the space"
    trial = TrialResult(
        status=status,  # type: ignore[arg-type]
        score=found[0].score if found else None,
        curve=tuple(run.curve),
        params=sum(p.numel() for p in run.net.parameters()),
        width=run.width,
        steps=run.steps,
        seconds=time.perf_counter() - started,
        message=message,
        fallback=fallbacks().get(run.net.relaxed.cell, ""),
        passed=run.passed,
    )
    final = tuple(tuple(round(p, 6) for p in hole.tolist()) for hole in run.architecture.probabilities())
    return SupernetResult(trial, found, final, run.spent if run.cost is not None else None)


class _Search:
    """A supernet in training."""

    def __init__(
        self, spec: TrialSpec, options: SupernetOptions, task: Task, device: torch.device, accept: Any
    ) -> None:
        self.options, self.task, self.accept = options, task, accept
        self.rng = np.random.default_rng([spec.seed, _STREAMS])
        recipe = task.recipe
        plan = Plan.of(spec, options, task, self.rng)
        self.width, self.cost, self.typical = plan.width, plan.cost, plan.typical
        self.architecture, self.centred = plan.architecture.to(device), plan.centred
        self.net = Supernet(
            plan.relaxed,
            task.inputs,
            task.outputs,
            self.width,
            num_layers=recipe.num_layers,
            heads=spec.heads,
            dropout=recipe.dropout,
            embed=task.embed,
            backend=options.backend if options.runs_mixture or plan.through else "reference",
            policy=spec.policy,
            through=plan.through,
        ).to(device)
        self.steps = options.steps or recipe.steps
        self.rate = options.lr or recipe.lr
        self.schedule = recipe.replace(steps=self.steps, lr=self.rate)
        self.weights = optimiser(self.net.stack, self.rate, recipe.weight_decay)
        self.logits = list(self.architecture.logits)
        self.adam = torch.optim.Adam(
            self.logits, lr=options.arch_lr, betas=(0.5, 0.999), weight_decay=options.arch_decay
        )
        carries = plan.relaxed.sketch.kind == "time"
        seeds = spec.seed, [spec.seed, _STREAMS + 1]
        self.first, self.other = (
            Stream(task.train_batches(np.random.default_rng(seed)), device, carries) for seed in seeds
        )
        self.curve: list[tuple[int, float]] = []
        self.passed = 0
        self.spent = 0.0

    # -- training -------------------------------------------------------------------------------

    def train(self, on_progress: Progress | None, should_stop: Callable[[], bool] | None) -> tuple[str, str]:
        """Take all steps. Returns status and message."""
        every = max(1, self.steps // CURVE_POINTS)
        total, learned, last = 0.0, 0, 0
        self.net.train()
        for step in range(1, self.steps + 1):
            if should_stop is not None and should_stop():
                raise TrialAborted(f"stopped after {step - 1} of {self.steps} steps")
            if step > self.options.warmup * self.steps and self.options.method != "uniform":
                self._learn_architecture(step)
            if self.cost is not None:
                # A path is drawn from the distribution itself, whatever the temperature.
                run_at = self._temperature(step) if self.options.mixed else 1.0
                self.architecture.project(run_at)
                self.spent = max(self.spent, self.architecture.spent(run_at))
            loss = self._learn_weights(step)
            if loss is not None:
                total, learned, last = total + loss, learned + 1, step
            elif step - last == PATIENCE or (step == self.steps and not last):
                return "diverged", f"none of the {step - last} paths before step {step} could be trained"
            if not learned or (step % every and step < self.steps):
                continue
            mean = total / learned
            total, learned = 0.0, 0
            self.curve.append((step, mean))
            if on_progress is not None:
                on_progress(step, mean)
            if not math.isfinite(mean):
                return "diverged", f"the supernet's training loss is {mean} by step {step}"
        return "ok", ""

    def _temperature(self, step: int) -> float:
        first, last = self.options.temperature, self.options.last_temperature
        return float(first * (last / first) ** (step / self.steps))

    def _learn_weights(self, step: int) -> float | None:
        """The loss, or None where the path drawn is one that cannot be trained, and nothing was learned from it."""
        for group in self.weights.param_groups:
            group["lr"] = learning_rate(step, self.schedule)
        loss = self._weights_loss(step)
        value = float(loss.detach())
        self.weights.zero_grad(set_to_none=True)
        if self.options.mixed or value <= WORST * self.task.trivial_loss:
            torch.autograd.backward(loss)
            norm = nn.utils.clip_grad_norm_(self.net.stack.parameters(), self.schedule.clip)
            if self.options.mixed or torch.isfinite(norm):
                if self.net.through:
                    leave(self.net.stack.parameters())
                self.weights.step()
                return value
        self.first.state = None  # the next path would go on from where this one exploded
        self.passed += 1
        return None

    def _weights_loss(self, step: int) -> Tensor:
        batch = self.first.next()
        if self.options.mixed:
            gates = [p.detach() for p in self.architecture.probabilities(self._temperature(step))]
            names = self.net.state_names()
            loss, state = mixture_loss(self.net, self.task, gates, batch, self.first.before(names))
        else:
            uniform = self.options.method == "uniform"
            if uniform:
                self.first.state = None  # that of another cell
                picks = self._path()
            else:
                picks = self.architecture.gumbel(self.rng, self._temperature(step))[0]
            names = self.net.state_names(picks)
            loss, state = path_loss(self.net, self.task, picks, batch, self.first.before(names))
        self.first.after(state, names)
        return loss

    def _path(self) -> dict[int, int]:
        """A path to train. Around a cell all options alike: those of small weight would look worse than they are."""
        if self.cost is not None and self.options.cost_limit is not None:
            return self.architecture.sample(self.rng)
        if self.centred:
            return self.architecture.even(self.rng)
        return self.architecture.sample(self.rng, uniform=True)

    def _learn_architecture(self, step: int) -> None:
        temperature = self._temperature(step)
        batch = self.other.next()
        if self.options.method == "gdas":
            picks, gates = self.architecture.gumbel(self.rng, temperature)
            names = self.net.state_names(picks)
            loss, state = path_loss(self.net, self.task, picks, batch, self.other.before(names), gates)
            self.other.after(state, names)
            grads = first_order(loss, self.logits)
        else:
            gates = self.architecture.probabilities(temperature)
            names = self.net.state_names()
            before = self.other.before(names)
            if self.options.method == "darts2":
                train = self.first.peek(), self.first.before(names)  # that of the step to come, as in DARTS
                rate = learning_rate(step, self.schedule)
                decay, clip = self.schedule.weight_decay, self.schedule.clip
                _, grads, state = second_order(
                    self.net, self.task, gates, self.logits, train, (batch, before), rate, decay, clip
                )
            else:
                loss, state = mixture_loss(self.net, self.task, gates, batch, before)
                grads = first_order(loss, self.logits)
            self.other.after(state, names)
        if self.cost is not None and self.options.cost_weight:
            share = self.cost.expected(self.architecture.probabilities(temperature)) / max(self.typical, 1.0)
            price = first_order(self.options.cost_weight * share, self.logits)
            grads = [g + p for g, p in zip(grads, price, strict=True)]
        if self.options.method == "gdas" and not all(torch.isfinite(g).all() for g in grads):
            self.other.state = None
            return
        for z, g in zip(self.logits, grads, strict=True):
            z.grad = g
        self.adam.step()  # the limit of cost is seen to before the next use

    # -- what is taken from it ------------------------------------------------------------------

    def select(self) -> tuple[Scored, ...]:
        """The selected cell, then the best of others drawn from the distribution."""
        chosen, before = None, self.architecture.kept()
        if self.options.selection == "perturbation":
            perturbed(self.net, self.architecture, self.task, self.options, self.rng, self._tune)
        if self.options.selection != "sampled":
            chosen = self.architecture.likeliest(self.rng)
        self.architecture.restore(before)  # the others are drawn from what was learned
        return candidates(self.net, self.architecture, self.task, self.options, self.rng, chosen, self.accept)

    def _tune(self, steps: int) -> None:
        """Steps of the shared weights in the mixture as it is now."""
        self.net.train()
        for _ in range(steps):
            batch = self.first.next()
            gates = [p.detach() for p in self.architecture.probabilities()]
            names = self.net.state_names()
            loss, state = mixture_loss(self.net, self.task, gates, batch, self.first.before(names))
            self.first.after(state, names)
            self.weights.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.net.stack.parameters(), self.schedule.clip)
            self.weights.step()
