"""Beam tree cells: the k most likely sequences of merges are followed, and their roots averaged.

J. Ray Chowdhury and C. Caragea, "Beam tree recursive cells", ICML 2023 (arXiv 2305.19999), with two nodes scored
before they are merged, as in "Efficient beam tree recursion", NeurIPS 2023 (arXiv 2307.10779), by the same authors.

The search itself needs no gradient. It is done first, without; then the nodes that the final beams are made of, most
of them shared, are computed once more level by level, and the scores of what was chosen from the pairs it was chosen
among. This is the same function of the weights, and several times faster than a gradient through the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.backends import TreeRunner
from nas.nn.easy_first import FAR_BELOW, gumbel_noise
from nas.nn.levels import Grown
from nas.nn.merges import CPU, Merges


class PairScorer(nn.Module):
    """Scores two neighbours before they are merged: w . gelu(L a + R b + c), with all states of each in a row."""

    def __init__(self, features: int, hidden_size: int) -> None:
        super().__init__()
        self.sides = nn.Linear(features, 2 * hidden_size)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def reset(self, generator: torch.Generator | None) -> None:
        """Draw all weights from U(-s, s), s = 1 / sqrt(number of inputs)."""
        with torch.no_grad():
            for layer in (self.sides, self.score):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)

    def project(self, states: Sequence[Tensor]) -> Tensor:
        """Of nodes with states `[rows, *shape]`: what they add to a score as left and as right child, `[rows, 2 S]`."""
        real = [torch.view_as_real(s) if s.is_complex() else s for s in states]
        sides: Tensor = self.sides(torch.cat([s.flatten(1) for s in real], 1))
        return sides

    def pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Scores `[...]` of neighbours from their projections `[..., 2 S]`."""
        scores: Tensor = self.score(F.gelu(left.chunk(2, -1)[0] + right.chunk(2, -1)[1]))
        return scores.squeeze(-1)


@dataclass(frozen=True)
class Beams:
    """What the search found, k sequences of merges for each sequence of leaves, in steps 0 to n - 2.

    `nodes` `[B, k, n - 1]` is the node that a beam makes at a step, a row of `merges`; `place` where in what was left
    then, `among` `[B, k, n - 1, n - 1]` the pairs that it was chosen from, as numbers of rows of `pairs`
    `[B, P, 2]`: two nodes each. `going` `[B, n - 1]` says which steps there are, `alive` `[B, k]` which beams: short
    sequences have fewer ways than k.
    """

    merges: Merges
    nodes: Tensor
    place: Tensor
    among: Tensor
    pairs: Tensor
    going: Tensor
    alive: Tensor

    def likelihoods(self, scorer: PairScorer, grown: Grown) -> Tensor:
        """Log-probability of each beam, `[B, k]`, with gradients."""
        there = self.candidates()
        read = torch.zeros(self.pairs.shape[:2], dtype=torch.int64, device=CPU)
        read.scatter_add_(1, self.among.flatten(1), there[:, None].expand_as(self.among).flatten(1).long())
        sequence, pair = (read > 0).nonzero(as_tuple=True)
        rows = grown.place[sequence[:, None], self.pairs[sequence, pair]].to(grown.values[0].device)
        sides = scorer.project(grown.values)
        scores = scorer.pairs(sides[rows[:, 0]], sides[rows[:, 1]])
        where = torch.zeros_like(read)
        where[sequence, pair] = torch.arange(len(pair), device=CPU)
        every = scores[where.gather(1, self.among.flatten(1)).view_as(self.among).to(scores.device)]
        masked = torch.where(there[:, None].to(scores.device), every, FAR_BELOW)
        chosen = masked.log_softmax(-1).gather(-1, self.place[..., None].to(scores.device)).squeeze(-1)
        total = torch.where(self.going[:, None].to(scores.device), chosen, 0.0).sum(-1)
        return torch.where(self.alive.to(scores.device), total, FAR_BELOW)

    def roots(self) -> Tensor:
        """The node at the root of each beam, `[B, k]`."""
        last = self.going.sum(1)[:, None, None].expand(-1, self.nodes.shape[1], 1) - 1
        if not self.nodes.shape[2]:
            return torch.zeros_like(last[..., 0])
        return torch.where(last < 0, 0, self.nodes.gather(2, last.clamp(min=0)))[..., 0]

    def candidates(self) -> Tensor:
        """Which pairs there are to choose from, `[B, n - 1, n - 1]`: one less at each step."""
        left = self.going.sum(1)[:, None, None] - torch.arange(self.going.shape[1], device=CPU)[:, None]
        return torch.arange(self.going.shape[1], device=CPU) < left


def averaged(share: Tensor, value: Tensor) -> Tensor:
    """The mean over beams of value `[B, k, ...]`, weighted by `share` `[B, k]`."""
    return (share.view(*share.shape, *[1] * (value.dim() - 2)) * value).sum(1)


def search(
    runner: TreeRunner, weights: Sequence[Tensor], scorer: PairScorer, x: Tensor, lengths: Tensor, k: int
) -> Beams:
    """The `k` best beams for x `[B, n, D]`; in training, Gumbel noise on the scores draws them."""
    with torch.no_grad():
        state = _Search(runner, weights, scorer, x, lengths.to(x.device), k)
        for step in range(x.shape[1] - 1):
            state.step(step)
        return state.beams()


class _Search:
    """Nodes are numbered: the leaves, then k for each step. A pair that an earlier beam has merged is its node."""

    def __init__(
        self,
        runner: TreeRunner,
        weights: Sequence[Tensor],
        scorer: PairScorer,
        x: Tensor,
        lengths: Tensor,
        k: int,
    ) -> None:
        self.runner, self.weights, self.scorer, self.lengths, self.k = runner, weights, scorer, lengths, k
        self.batch, self.leaves = x.shape[:2]
        whole = self.leaves + (self.leaves - 1) * k
        made = runner.leaves(x.flatten(0, 1), weights)
        self.values = [value.new_zeros(self.batch, whole, *value.shape[1:]) for value in made]
        sides = scorer.project(made)
        self.sides = sides.new_zeros(self.batch, whole, sides.shape[1])
        self._keep(0, made, sides)
        self.beam = torch.arange(k, device=x.device)
        self.row = torch.arange(self.batch, device=x.device)[:, None]
        self.items = torch.arange(self.leaves, device=x.device).expand(self.batch, k, -1)
        self.children = self.items.new_zeros(self.batch, whole - self.leaves, 2)
        ends = torch.stack([self.items[:, :1, :-1], self.items[:, :1, 1:]], -1)
        self.pairs = [ends.flatten(1, 2)]
        self.number = torch.arange(self.leaves - 1, device=x.device).expand(self.batch, k, -1)
        self.score = self._scores(ends).expand(-1, k, -1)
        self.total = self.score.new_full((self.batch, k), FAR_BELOW)
        self.total[:, 0] = 0
        self.history: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []

    def step(self, step: int) -> None:
        """One more merge in each beam."""
        count = self.score.shape[2]
        left = (self.lengths - step - 1)[:, None]
        going = left > 0
        there = torch.arange(count, device=left.device) < left
        every = self.total[..., None] + torch.where(there[:, None], self.score, FAR_BELOW).log_softmax(-1)
        every = every.flatten(1)
        best = (gumbel_noise(every) if self.scorer.training else every).topk(self.k, 1).indices
        self.total = torch.where(going, every.gather(1, best), self.total)
        parent = torch.where(going, best // count, self.beam)
        place = torch.minimum(best % count, (left - 1).clamp(min=0))
        items, number, score = (
            a.gather(1, parent[..., None].expand(-1, -1, a.shape[2]))
            for a in (self.items, self.number, self.score)
        )
        ends = torch.cat([items.gather(2, place[..., None] + side) for side in (0, 1)], 2)
        node = self._merge(step, ends)
        self.history.append((node, place, number, parent, going))
        place = torch.where(going, place, count + 1)[..., None]  # where nothing is merged, nothing moves
        after = torch.arange(count, device=left.device)
        shift = after + (after > place).long()
        self.items = torch.where(after == place, node[..., None], items.gather(2, shift))
        if count > 1:
            self._neighbours(place, after[:-1], number, score)

    def _merge(self, step: int, ends: Tensor) -> Tensor:
        """The nodes `[B, k]` that join `ends` `[B, k, 2]`."""
        first = step * self.k
        values = [[value[self.row, ends[..., c]].flatten(0, 1) for c in (0, 1)] for value in self.values]
        _, made = self.runner.merge(None, self.weights, values)
        self._keep(self.leaves + first, made, self.scorer.project(made))
        self.children[:, first : first + self.k] = ends
        rows = torch.arange(first + self.k, device=ends.device)
        same = (self.children[:, None, : first + self.k] == ends[:, :, None]).all(-1)
        return self.leaves + torch.where(same, rows, first + self.k).amin(-1)

    def _neighbours(self, place: Tensor, slot: Tensor, number: Tensor, score: Tensor) -> None:
        """Move the pairs, and score the two that the new node is in."""
        fresh = torch.stack([place[..., 0] - 1, place[..., 0]], 2).clamp(0, len(slot) - 1)
        ends = torch.stack([self.items.gather(2, fresh), self.items.gather(2, fresh + 1)], -1)
        own = sum(part.shape[1] for part in self.pairs) + 2 * self.beam[:, None]
        self.pairs.append(ends.flatten(1, 2))
        new, shift = self._scores(ends), slot + (slot > place).long()
        self.number, self.score = number.gather(2, shift), score.gather(2, shift)
        for side in (0, 1):
            here = slot == place - 1 + side
            self.number = torch.where(here, own + side, self.number)
            self.score = torch.where(here, new[..., side : side + 1], self.score)

    def _scores(self, ends: Tensor) -> Tensor:
        """Of pairs `[B, ..., 2]`."""
        row = self.row.view(-1, *[1] * (ends.dim() - 2))
        return self.scorer.pairs(self.sides[row, ends[..., 0]], self.sides[row, ends[..., 1]])

    def _keep(self, first: int, made: Sequence[Tensor], sides: Tensor) -> None:
        count = sides.shape[0] // self.batch
        for whole, value in zip((*self.values, self.sides), (*made, sides), strict=True):
            whole[:, first : first + count] = value.unflatten(0, (self.batch, count))

    def beams(self) -> Beams:
        """What the k beams are at their ends, and only the nodes that they are made of, on the CPU."""
        steps = self.leaves - 1
        nodes, places = (
            torch.zeros(self.batch, self.k, steps, dtype=torch.int64, device=CPU) for _ in range(2)
        )
        among = torch.zeros(self.batch, self.k, steps, steps, dtype=torch.int64, device=CPU)
        goings = torch.zeros(self.batch, steps, dtype=torch.bool, device=CPU)
        beam = torch.arange(self.k, device=CPU).expand(self.batch, -1)
        for step, entries in reversed(list(enumerate(self.history))):
            node, place, number, parent, going = (entry.cpu() for entry in entries)
            nodes[..., step], places[..., step] = node.gather(1, beam), place.gather(1, beam)
            among[:, :, step, : number.shape[2]] = number.gather(1, beam[..., None].expand_as(number))
            goings[:, step] = going[:, 0]
            beam = parent.gather(1, beam)
        used = torch.zeros(self.batch, steps * self.k, dtype=torch.int64, device=CPU)
        used.scatter_add_(
            1,
            (nodes - self.leaves).clamp(min=0).flatten(1),
            goings[:, None].expand_as(nodes).flatten(1).long(),
        )
        used = (used > 0).long()
        renumbered = torch.cat(
            [torch.arange(self.leaves, device=CPU).expand(self.batch, -1), self.leaves - 1 + used.cumsum(1)],
            1,
        )
        counts = used.sum(1)
        rows = (1 - used).argsort(stable=True, dim=1)[:, : int(counts.max())]

        def renumber(numbers: Tensor) -> Tensor:
            return renumbered.gather(1, numbers.flatten(1)).view(numbers.shape)

        children = renumber(self.children.cpu().gather(1, rows[..., None].expand(-1, -1, 2)))
        meant = torch.arange(rows.shape[1], device=CPU)[:, None] < counts[:, None, None]
        return Beams(
            Merges(torch.where(meant, children, 0), counts, self.leaves),
            renumber(nodes),
            places,
            among,
            renumber(torch.cat(self.pairs, 1).cpu()),
            goings,
            self.total.cpu() > FAR_BELOW / 2,
        )
