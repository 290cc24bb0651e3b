"""Steps of training a supernet: of the shared weights on one batch, of the architecture on another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.errors import TaskError
from nas.nn import State, detach_state
from nas.supernet.model import Arrays, Gates, Picks, Supernet
from nas.tasks import Batch, Task

RADIUS = 0.01
"""How far the finite difference of the second order goes, over the norm of the gradient (as in DARTS)."""


@dataclass
class Stream:
    """Batches without end, and the state that goes on from one into the next where the model is the same."""

    batches: Iterator[Batch]
    device: torch.device
    carries: bool
    state: State | None = None
    names: tuple[str, ...] = ()
    _ahead: Batch | None = None

    def next(self) -> Batch:
        """The next batch."""
        batch, self._ahead = self.peek(), None
        return batch

    def peek(self) -> Batch:
        """The batch that `next` will give; the state is then the one that it goes on from."""
        if self._ahead is None:
            self._ahead = self._read()
        return self._ahead

    def _read(self) -> Batch:
        batch = next(self.batches, None)
        if batch is None:
            raise TaskError("the task ran out of training batches: they must not end")
        batch = batch.to(self.device)
        if batch.fresh or not self.carries:
            self.state = None
        return batch

    def before(self, names: tuple[str, ...]) -> State | None:
        """The state that a model with these states goes on from."""
        return None if self.state is None or names != self.names else detach_state(self.state)

    def after(self, state: State, names: tuple[str, ...]) -> None:
        """Take in the state that a batch ended with."""
        self.state, self.names = detach_state(state), names


def mixture_loss(
    net: Supernet,
    task: Task,
    gates: Gates,
    batch: Batch,
    state: State | None = None,
    arrays: Arrays | None = None,
) -> tuple[Tensor, State]:
    """Mean loss [] of the mixture on a batch, and the final state."""
    logits, after = net.mix(gates, **batch.inputs(), state=state, arrays=arrays)  # type: ignore[arg-type]
    loss, answers = task.loss(logits, batch)
    return loss / answers, after


def path_loss(
    net: Supernet,
    task: Task,
    picks: Picks,
    batch: Batch,
    state: State | None = None,
    gates: Gates | None = None,
) -> tuple[Tensor, State]:
    """The same of one path."""
    logits, after = net.run(picks, **batch.inputs(), state=state, gates=gates)  # type: ignore[arg-type]
    loss, answers = task.loss(logits, batch)
    return loss / answers, after


def first_order(loss: Tensor, logits: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of a loss by the logits, the weights taken as they are."""
    return gradients(loss, logits)


def gradients(loss: Tensor, inputs: Sequence[Tensor], keep: bool = False) -> list[Tensor]:
    """The gradient of a loss by each input, 0 where it does not depend on it; `keep` leaves the graph for another."""
    found = torch.autograd.grad(
        loss, list(inputs), allow_unused=True, materialize_grads=True, retain_graph=keep
    )
    return list(found)


def second_order(
    net: Supernet,
    task: Task,
    gates: Gates,
    logits: Sequence[Tensor],
    train: tuple[Batch, State | None],
    valid: tuple[Batch, State | None],
    rate: float,
    decay: float = 0.0,
    clip: float | None = None,
) -> tuple[Tensor, list[Tensor], State]:
    """Loss on `valid` after one step of the weights on `train`, its gradient by the logits through that step, and the
    state that `valid` ends with.

    The step is w' = w - rate * (c g + decay * w), with c what clips the gradient to the norm `clip`, taken as constant;
    the second derivative is a central difference (DARTS, equation 8). Five passes where the first order has one.
    `gates` depend on `logits`.
    """
    weights = {name: p for name, p in net.stack.named_parameters() if p.requires_grad}
    own = {name: p.detach() for name, p in weights.items()}

    def by_logits(arrays: Arrays) -> list[Tensor]:
        loss = mixture_loss(net, task, gates, train[0], train[1], arrays)[0]
        return gradients(loss, logits, keep=True)

    fixed = [g.detach() for g in gates]
    loss = mixture_loss(net, task, fixed, *train)[0]
    step = gradients(loss, list(weights.values()))
    norm = torch.sqrt(sum((g.square().sum() for g in step), torch.zeros(())))
    share = 1.0 if clip is None else float(torch.clamp(clip / (norm + 1e-6), max=1.0))
    ahead = {
        name: (p - rate * (share * g + decay * p)).requires_grad_()
        for (name, p), g in zip(own.items(), step, strict=True)
    }
    loss, after = mixture_loss(net, task, gates, valid[0], valid[1], ahead)
    whole = gradients(loss, [*logits, *ahead.values()], keep=True)
    loss, after = loss.detach(), detach_state(after)  # what they kept of this pass makes room for the next
    direct, along = whole[: len(logits)], whole[len(logits) :]
    radius = RADIUS / float(torch.sqrt(sum((v.square().sum() for v in along), torch.zeros(())) + 1e-24))
    there = by_logits({n: p + radius * v for (n, p), v in zip(own.items(), along, strict=True)})
    here = by_logits({n: p - radius * v for (n, p), v in zip(own.items(), along, strict=True)})
    scale = rate * share / (2 * radius)
    return loss, [d - scale * (a - b) for d, a, b in zip(direct, there, here, strict=True)], after


def optimiser(model: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    """AdamW as a trial has it: matrices decay, vectors do not. Weights that a path lacks have no gradient and stay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate)


def leave(parameters: Iterable[nn.Parameter]) -> None:
    """Take away gradients that are all 0: what a path through the mixture does not use stays as it is in a step."""
    for p in parameters:
        if p.grad is not None and not p.grad.any():
            p.grad = None
