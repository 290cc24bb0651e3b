"""Which nodes of a batch of trees are merged, and which of the merges can be computed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nas.errors import BuildError

CPU = torch.device("cpu")  # trees are planned there, whatever the default device is
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Merges:
    """Trees over up to `leaves` leaves: row i of `nodes` `[B, m, children]` makes node `leaves + i` of earlier ones.

    Of sequence b the first `counts[b]` rows are meant.
    """

    nodes: Tensor
    counts: Tensor
    leaves: int

    def levels(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The merges whose children are there, level by level: the places of sequence and row, `[merges]` each."""
        batch, rows, _ = self.nodes.shape
        level = torch.zeros(batch, self.leaves + rows, dtype=torch.int64, device=CPU)
        for k in range(rows):
            level[:, self.leaves + k] = level.gather(1, self.nodes[:, k]).amax(1) + 1
        inner = level[:, self.leaves :]
        inner = torch.where(torch.arange(rows, device=CPU) < self.counts[:, None], inner, 0)
        for height in range(1, int(inner.max()) + 1 if rows else 1):
            sequence, row = (inner == height).nonzero(as_tuple=True)
            yield sequence, row

    def root(self) -> Tensor:
        """The node of each sequence's last merge, or its one leaf, `[B]`."""
        return torch.where(self.counts > 0, self.leaves + self.counts - 1, 0)


def by_policy(policy: str, lengths: Tensor, leaves: int) -> Merges:
    """The merges of a fixed policy, "balanced" or "left"."""
    make = balanced if policy == "balanced" else left
    nodes = torch.zeros(len(lengths), leaves - 1, 2, dtype=torch.int64, device=CPU)
    for k, own in enumerate(lengths.tolist()):
        if own > 1:
            made = torch.tensor(make(own), device=CPU)
            nodes[k, : own - 1] = torch.where(made < own, made, made + leaves - own)
    return Merges(nodes, lengths - 1, leaves)


@lru_cache(maxsize=256)
def balanced(leaves: int) -> Pairs:
    """Neighbours in rounds; one that is left over goes on to the next round."""
    row, made, pairs = list(range(leaves)), leaves, list[tuple[int, int]]()
    while len(row) > 1:
        following = []
        for place in range(0, len(row) - 1, 2):
            pairs.append((row[place], row[place + 1]))
            following.append(made)
            made += 1
        row = following + row[len(row) - len(row) % 2 :]
    return tuple(pairs)


@lru_cache(maxsize=256)
def left(leaves: int) -> Pairs:
    """From left to right."""
    return tuple((leaves + k - 1 if k else 0, k + 1) for k in range(leaves - 1))


def given(tree: Tensor, lengths: Sequence[int] | Tensor, leaves: int, children: int | None) -> Merges:
    """The merges of a caller's trees. Raises BuildError where they are none.

    `children` is how many each node has, None where the cell takes any number.
    """
    nodes = tree.to("cpu", torch.int64)
    rows, width = nodes.shape[1:]
    if children is not None and width != children:
        raise BuildError(f"each merge has {children} children; received a tree of shape {list(tree.shape)}")
    own = torch.as_tensor(lengths, device=CPU)
    counts = torch.full_like(own, rows) if width == 1 else (own - 1) // (width - 1)
    if bool((counts * (width - 1) != own - 1).any()) or bool((counts > rows).any()):
        raise BuildError(
            f"a tree of m merges of {width} children has 1 + {width - 1} m leaves; "
            f"received {rows} merges and {own.tolist()} leaves"
        )
    place = torch.arange(rows, device=CPU)[None, :, None]
    known = (nodes < own[:, None, None]) | ((nodes >= leaves) & (nodes < leaves + place))
    meant = place < counts[:, None, None]
    if bool(((nodes < 0) | ~known)[meant.expand_as(nodes)].any()):
        raise BuildError(
            "row i of a tree names leaves, from 0, and earlier merges, n to n + i - 1 (n leaves in the longest)"
        )
    none = -1 - torch.arange(rows * width, device=CPU).view(rows, width)
    one_each = torch.where(meant, nodes, none).flatten(1).sort(1).values
    if bool((one_each[:, 1:] == one_each[:, :-1]).any()):
        raise BuildError(
            "a tree merges each leaf and each earlier merge once; received one that uses some twice"
        )
    return Merges(torch.where(meant, nodes, 0), counts, leaves)
