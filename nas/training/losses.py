"""Loss and score of a model on a batch. Where the task has the given ones, of the steps alone that are answers.

The head is then applied to these, and with its cross entropy it is one operator. A task's own `loss`, `measure` or
`answers` gets the logits of all steps; so does any with `plain`, which keeps to torch.
"""

from __future__ import annotations

from torch import Tensor, nn

from nas.backends import linear_cross_entropy
from nas.nn import Stack, State
from nas.tasks import Batch, Task


def mean_loss(
    model: nn.Module, task: Task, batch: Batch, state: State | None, plain: bool = False
) -> tuple[Tensor, int, State]:
    """The mean loss [] of a batch, of how many answers, and the final state."""
    if plain or not isinstance(model, Stack) or not task.by_rows:
        logits, after = model(**batch.inputs(), state=state)
        loss, answers = task.loss(logits, batch)
        return loss / answers, answers, after
    rows, after = model.features(batch.x, batch.lengths, state, batch.tree)
    rows, targets = task.answers(rows, batch)
    return linear_cross_entropy(rows, model.head.weight, model.head.bias, targets), len(targets), after


def measure(
    model: nn.Module, task: Task, batch: Batch, state: State | None, plain: bool = False
) -> tuple[Tensor, int, State]:
    """What `task.measure` sums [], over how many answers, and the final state."""
    if plain or not isinstance(model, Stack) or not task.by_rows:
        logits, after = model(**batch.inputs(), state=state)
        return *task.measure(logits, batch), after
    if task.metric != "error rate":
        mean, answers, after = mean_loss(model, task, batch, state)
        return mean * answers, answers, after
    rows, after = model.features(batch.x, batch.lengths, state, batch.tree)
    rows, targets = task.answers(rows, batch)
    return (model.head(rows).argmax(dim=-1) != targets).sum(), len(targets), after
