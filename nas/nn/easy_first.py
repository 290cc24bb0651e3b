"""Easy first: the best of all neighbours is merged, then the best of those that are then neighbours, to the root."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.backends import TreeRunner

FAR_BELOW = -1e9  # a score that never wins; finite, so that no gradient is lost in inf - inf


class Query(nn.Module):
    """Scores a candidate by the product of its output `[..., H]` and a learned query."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(hidden_size))

    def reset(self, generator: torch.Generator | None) -> None:
        """Draw the query from U(-s, s), s = 1 / sqrt(H)."""
        bound = 1 / math.sqrt(len(self.query))
        with torch.no_grad():
            self.query.uniform_(-bound, bound, generator=generator)

    def forward(self, y: Tensor) -> Tensor:
        """Scores `[...]`."""
        return y @ self.query


def easy_first(
    runner: TreeRunner, weights: Sequence[Tensor], query: Query, x: Tensor, lengths: Tensor
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Outputs `[B, n - 1, H]`, states at the root `[B, ...]`, and where each merge was, `[B, n - 1]`.

    At each step every two neighbours of x `[B, n, D]` are tried, and the one with the highest score is kept. The
    gradient is that of a softmax in its place (straight through); in training, Gumbel noise is added to the scores.
    J. Choi, K. Yoo and S. Lee, "Learning to compose task-specific tree structures", AAAI 2018 (arXiv 1707.02786).
    """
    batch, leaves = x.shape[:2]
    lengths = lengths.to(x.device)
    made = runner.leaves(x.flatten(0, 1), weights)
    values = [value.unflatten(0, (batch, leaves)) for value in made]
    outputs, places = [], []
    for step in range(leaves - 1):
        left, right = [v[:, :-1] for v in values], [v[:, 1:] for v in values]
        children = [(a.flatten(0, 1), b.flatten(0, 1)) for a, b in zip(left, right, strict=True)]
        tried, states = runner.merge(None, weights, children)
        tried = tried.unflatten(0, (batch, -1))
        there = torch.arange(tried.shape[1], device=x.device) < (lengths - step - 1)[:, None]
        choice, place = _choice(torch.where(there, query(tried), FAR_BELOW), query.training)
        going = there[:, :1]
        choice = choice * going  # a sequence that is at its root stays as it is
        after = choice.cumsum(1) - choice
        before = 1 - choice - after
        values = [
            _times(choice, new.unflatten(0, (batch, -1))) + _times(before, a) + _times(after, b)
            for new, a, b in zip(states, left, right, strict=True)
        ]
        outputs.append((choice[..., None] * tried).sum(1))
        places.append(place)
    if not outputs:
        return (
            values[0].real.new_zeros(batch, 0, len(query.query)),
            [v[:, 0] for v in values],
            lengths[:, None][:, :0],
        )
    return torch.stack(outputs, 1), [value[:, 0] for value in values], torch.stack(places, 1)


def _choice(scores: Tensor, noise: bool) -> tuple[Tensor, Tensor]:
    """One-hot `[B, candidates]` of the highest score, with the gradient of a softmax; and its place `[B]`."""
    scores = gumbel_noise(scores) if noise else scores
    soft = F.softmax(scores, 1)
    place = scores.argmax(1)
    hard = F.one_hot(place, scores.shape[1]).to(soft.dtype)
    return hard + soft - soft.detach(), place


def gumbel_noise(scores: Tensor) -> Tensor:
    """Scores plus standard Gumbel noise from torch's generator, as for dropout: their maximum is then a sample."""
    return scores - torch.empty_like(scores).exponential_().log()


def _times(weight: Tensor, value: Tensor) -> Tensor:
    return weight.view(*weight.shape, *[1] * (value.dim() - weight.dim())) * value
