"""The values at the nodes of many trees, level by level: all merges of one level at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nas.backends import FlexibleTreeRunner, TreeRunner, merged
from nas.nn.merges import CPU, Merges


@dataclass(frozen=True)
class Grown:
    """What a tree cell makes of the nodes of `merges`: `values` has a row for each node made, `[nodes, *shape]`.

    `place` `[B, leaves + m]` says which row is that of a node. `outputs` `[1 + merges, H]` are zero in row 0, then in
    the order of the rows of the merges.
    """

    merges: Merges
    values: tuple[Tensor, ...]
    place: Tensor
    outputs: Tensor

    def states(self, nodes: Tensor) -> list[Tensor]:
        """The states at nodes `[B, ...]` int64, each `[B, ..., *shape]`."""
        index = self._rows(nodes)
        return [value[index.to(value.device)] for value in self.values]

    def y(self, nodes: Tensor, meant: Tensor) -> Tensor:
        """The outputs at merges `[B, ...]`, `[B, ..., H]`; zero where they are not `meant`."""
        leaves = len(self.merges.counts) * self.merges.leaves
        index = torch.where(meant, self._rows(nodes) - leaves + 1, 0)
        return self.outputs[index.to(self.outputs.device)]

    def _rows(self, nodes: Tensor) -> Tensor:
        return self.place.gather(1, nodes.reshape(len(nodes), -1)).view(nodes.shape)


def grow(
    runner: TreeRunner,
    weights: Sequence[Tensor],
    x: Tensor,
    merges: Merges,
    *,
    hidden_size: int,
    labelled: bool = False,
) -> Grown:
    """Values at all nodes, from x `[B, leaves, D]`; `labelled` where x has a row for each merge as well."""
    batch, leaves = len(merges.counts), merges.leaves
    # of each node among the values made
    place = torch.zeros(batch, leaves + merges.nodes.shape[1], dtype=torch.int64, device=CPU)
    place[:, :leaves] = torch.arange(batch * leaves, device=CPU).view(batch, leaves)
    levels, rows, made = list[Tensor](), list[Tensor](), batch * leaves
    for sequence, row in merges.levels():
        levels.append(place[sequence[:, None], merges.nodes[sequence, row]].T)
        place[sequence, leaves + row] = made + torch.arange(len(row), device=CPU)
        rows.append(sequence * x.shape[1] + leaves + row)
        made += len(row)
    labels = None
    if labelled:
        index = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64, device=CPU)
        labels = x.flatten(0, 1)[index.to(x.device)]
    run = runner.grow if isinstance(runner, FlexibleTreeRunner) else partial(merged, runner)
    values, y = run(x[:, :leaves].flatten(0, 1), labels, weights, levels)
    nothing = values[0].real.new_zeros(1, hidden_size, dtype=values[0].real.dtype if y is None else y.dtype)
    return Grown(merges, values, place, nothing if y is None else torch.cat([nothing, y]))
