"""Tree cells as modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from grammar import Cell
from nas.backends import Runner, tree_runner
from nas.errors import BuildError
from nas.nn.merges import CPU, Merges, by_policy, given
from nas.nn.module import CellModule, State
from nas.nn.rows import checked_lengths

POLICIES = ("given", "balanced", "left")


class TreeModule(CellModule):
    """A tree cell over the leaves of many trees at once. Made by `build`.

    `y, state = m(x, lengths=None, tree=None)` with x `[B, n, D]`, one row for each leaf, and y `[B, m, H]`, one row
    for each merge; the state is that at the root, a tuple of `[1, B, ...]` (a lone one: the bare tensor).

    `policy` says what is merged: "balanced" neighbours in rounds, "left" from left to right, "given" what `tree` says,
    a LongTensor `[B, m, children]` whose row i makes node n + i of earlier nodes (0 to n - 1 are the leaves). Where
    the body sees x, x has n + m rows: those of the leaves, then those of the merges. `lengths` are the numbers of
    leaves; of a shorter sequence the first rows of the tree count, and y is zero after them.
    """

    _kinds = ("tree",)

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        heads: int = 1,
        key_size: int | None = None,
        batch_first: bool = True,
        backend: str = "auto",
        policy: str = "given",
    ) -> None:
        if policy not in POLICIES:
            raise BuildError(f"the policies of a tree cell are {', '.join(POLICIES)}; received {policy!r}")
        super().__init__(
            cell,
            input_size,
            hidden_size,
            heads=heads,
            key_size=key_size,
            batch_first=batch_first,
            backend=backend,
        )
        self.policy = policy
        graph = cell.graph
        self._children = None if graph.variadic else len(graph.children)
        self._labelled = any(graph.nodes[k].op == "x" for k in graph.reachable([*graph.next, graph.out]))
        if policy != "given" and self._labelled:
            raise BuildError(
                f"cell {cell.name} sees x in its merges: only policy 'given' has rows of x for them"
            )
        if policy != "given" and self._children not in (None, 2):
            raise BuildError(f"policy {policy!r} merges two nodes; cell {cell.name} takes {self._children}")

    def _find_runners(self) -> tuple[Runner, ...]:
        return ()

    def extra_repr(self) -> str:
        """Cell, sizes and policy, for print."""
        return f"{super().extra_repr()}, policy={self.policy!r}"

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        tree: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Outputs of the merges and the state at the root: see the class. Raises BuildError where a shape is wrong."""
        if state is not None:
            raise BuildError(f"a tree begins at its leaves: cell {self.cell.name} takes no state")
        if isinstance(x, PackedSequence) or x.dim() != 3 or x.shape[2] != self.input_size or 0 in x.shape:
            wanted = f"[B, n, {self.input_size}]" if self.batch_first else f"[n, B, {self.input_size}]"
            shown = "a PackedSequence" if isinstance(x, PackedSequence) else list(x.shape)
            raise BuildError(f"x must have the shape {wanted}; received {shown}")
        rows = x if self.batch_first else x.transpose(0, 1)
        y, parts = self._merge(rows, self._merges(rows, lengths, tree))
        after = tuple(part.unsqueeze(0) for part in parts)
        return (y if self.batch_first else y.transpose(0, 1)), after[0] if len(after) == 1 else after

    def _merges(self, x: Tensor, lengths: Tensor | Sequence[int] | None, tree: Tensor | None) -> Merges:
        batch, leaves = x.shape[:2]
        if self.policy == "given":
            if tree is None or tree.dim() != 3 or tree.shape[0] != batch or tree.is_floating_point():
                shown = None if tree is None else f"{tree.dtype} {list(tree.shape)}"
                raise BuildError(
                    f"policy 'given' needs a tree [{batch}, m, children] of int64; received {shown}"
                )
            leaves -= tree.shape[1] * self._labelled
        elif tree is not None:
            raise BuildError(f"a tree is for policy 'given'; the policy of this module is {self.policy!r}")
        if leaves < 1:
            raise BuildError(f"x has a row for each leaf and each merge; received {x.shape[1]} rows")
        own = (
            torch.full((batch,), leaves, device=CPU)
            if lengths is None
            else checked_lengths(lengths, batch, leaves)
        )
        return (
            by_policy(self.policy, own, leaves) if tree is None else given(tree, own, leaves, self._children)
        )

    def _merge(self, x: Tensor, merges: Merges) -> tuple[Tensor, list[Tensor]]:
        """Level by level, all merges of one level at once."""
        batch, leaves = len(merges.counts), merges.leaves
        runner = tree_runner(self.backend, self.cell, self.sizes[0])
        weights = self._arrays(0, 0)
        made = runner.leaves(x[:, :leaves].flatten(0, 1), weights)
        rows = merges.nodes.shape[1]
        place = torch.zeros(
            batch, leaves + rows, dtype=torch.int64, device=CPU
        )  # of each node among the values made
        place[:, :leaves] = torch.arange(batch * leaves, device=CPU).view(batch, leaves)
        outputs: list[Tensor] = []
        for sequence, row in merges.levels():
            children = place[sequence[:, None], merges.nodes[sequence, row]].to(x.device)
            labels = x[sequence.to(x.device), (leaves + row).to(x.device)] if self._labelled else None
            values = [[value[child] for child in children.unbind(1)] for value in made]
            y, new = runner.merge(labels, weights, values)
            place[sequence, leaves + row] = len(made[0]) + torch.arange(len(row), device=CPU)
            made = tuple(torch.cat([old, value]) for old, value in zip(made, new, strict=True))
            outputs.append(y)
        root = place[torch.arange(batch, device=CPU), merges.root()].to(x.device)
        return self._in_order(outputs, place[:, leaves:], merges, made[0]), [value[root] for value in made]

    def _in_order(self, outputs: list[Tensor], place: Tensor, merges: Merges, like: Tensor) -> Tensor:
        """The merges' outputs `[B, m, H]` from those by level; zero where there is no merge."""
        batch, rows = place.shape
        nothing = like.new_zeros(1, self.hidden_size, dtype=outputs[0].dtype if outputs else like.real.dtype)
        by_level = torch.cat([nothing, *outputs])
        meant = torch.arange(rows, device=CPU) < merges.counts[:, None]
        index = torch.where(meant, place - batch * merges.leaves + 1, 0)
        return by_level[index.to(like.device)]
