"""Tree cells as modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from grammar import Cell
from nas.backends import Runner, TreeRunner, tree_runner
from nas.errors import BuildError
from nas.nn.beam import PairScorer, averaged, search
from nas.nn.easy_first import Query, easy_first
from nas.nn.levels import grow
from nas.nn.merges import CPU, by_policy, given
from nas.nn.module import CellModule, State, slot_shape
from nas.nn.rows import check_dtype, check_tensor, check_weights, checked_lengths

POLICIES = ("given", "balanced", "left", "easy-first", "beam")
LEARNED = POLICIES[3:]


class TreeModule(CellModule):
    """A tree cell over the leaves of many trees at once. Made by `build`.

    `y, state = m(x, lengths=None, tree=None)` with x `[B, n, D]`, one row for each leaf, and y `[B, m, H]`, one row
    for each merge; the state is that at the root, a tuple of `[1, B, ...]` (a lone one: the bare tensor).

    `policy` says what is merged: "balanced" neighbours in rounds, "left" from left to right, "given" what `tree` says,
    a LongTensor `[B, m, children]` whose row i makes node n + i of earlier nodes (0 to n - 1 are the leaves). Where
    the body sees x, x has n + m rows: those of the leaves, then those of the merges. `lengths` are the numbers of
    leaves; of a shorter sequence the first rows of the tree count, and y is zero after them.

    Two policies are learned, and own the weights `scorer`. "easy-first" tries all neighbours and merges those whose
    output scores highest, straight through (`nas.nn.easy_first`). "beam" follows the `beam_size` (5) most likely
    sequences of merges, and y and the state are their averages, weighted by their likelihoods (`nas.nn.beam`). In
    training mode both draw their merges with Gumbel noise, from torch's generator as dropout does.

    `labelled` says whether the body sees x.
    """

    _kinds = ("tree",)
    _found = (*CellModule._found, "_grower")
    beam_size: int = 5
    scorer: Query | PairScorer

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
        self.policy = policy  # before the weights are made: a learned policy has some
        super().__init__(
            cell,
            input_size,
            hidden_size,
            heads=heads,
            key_size=key_size,
            batch_first=batch_first,
            backend=backend,
        )
        graph = cell.graph
        self._children = None if graph.variadic else len(graph.children)
        self.labelled = any(graph.nodes[k].op == "x" for k in graph.reachable([*graph.next, graph.out]))
        if policy != "given" and self.labelled:
            raise BuildError(
                f"cell {cell.name} sees x in its merges: only policy 'given' has rows of x for them"
            )
        if policy != "given" and self._children not in (None, 2):
            raise BuildError(f"policy {policy!r} merges two nodes; cell {cell.name} takes {self._children}")

    def _make_weights(self) -> None:
        super()._make_weights()
        if self.policy == "easy-first":
            self.scorer = Query(self.hidden_size)
        elif self.policy == "beam":
            numbers = (
                math.prod(slot_shape(slot, self.sizes[0])) * (2 if slot.type.is_complex else 1)
                for slot in self.program.slots
            )
            self.scorer = PairScorer(sum(numbers), self.hidden_size)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, those of a learned policy too, from `generator` (default: torch's global one)."""
        super().reset_parameters(generator)
        if self.policy in LEARNED:
            self.scorer.reset(generator)

    def _find_runners(self) -> tuple[Runner, ...]:
        self._grower = tree_runner(self.backend, self.cell, self.sizes[0])
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
        check_tensor(x)
        if isinstance(x, PackedSequence) or x.dim() != 3 or x.shape[2] != self.input_size or 0 in x.shape:
            wanted = f"[B, n, {self.input_size}]" if self.batch_first else f"[n, B, {self.input_size}]"
            shown = "a PackedSequence" if isinstance(x, PackedSequence) else list(x.shape)
            raise BuildError(f"x must have the shape {wanted}; received {shown}")
        rows = x if self.batch_first else x.transpose(0, 1)
        y, parts = self._grown(rows, *self._leaves(rows, lengths, tree), tree)
        after = tuple(part.unsqueeze(0) for part in parts)
        return (y if self.batch_first else y.transpose(0, 1)), after[0] if len(after) == 1 else after

    def root(
        self,
        x: Tensor,
        lengths: Tensor | Sequence[int] | None = None,
        tree: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """The output `[B, H]` of each sequence's last merge, and the state there.

        Where there is one leaf and no merge, it is the first state of type `vec` instead; zero if there is none.
        """
        y, after = self(x, lengths=lengths, tree=tree)
        parts = (after,) if isinstance(after, Tensor) else after
        rows, outputs = (x, y) if self.batch_first else (x.transpose(0, 1), y.transpose(0, 1))
        _, own = self._leaves(rows, lengths, tree)
        width = 2 if tree is None else tree.shape[2]
        counts = torch.full_like(own, outputs.shape[1]) if width == 1 else (own - 1) // (width - 1)
        kinds = [slot.type.kind for slot in self.program.slots]
        leaf = (
            parts[kinds.index("vec")][0] if "vec" in kinds else outputs.new_zeros(len(own), self.hidden_size)
        )
        every = torch.cat([leaf[:, None], outputs], 1)
        return every[torch.arange(len(own), device=x.device), counts.to(x.device)], after

    def _leaves(
        self, x: Tensor, lengths: Tensor | Sequence[int] | None, tree: Tensor | None
    ) -> tuple[int, Tensor]:
        """How many leaves the longest sequence has, and each `[B]` on the CPU."""
        batch, leaves = x.shape[:2]
        if self.policy == "given":
            if not _is_tree(tree, batch):
                shown = f"{tree.dtype} {list(tree.shape)}" if isinstance(tree, Tensor) else repr(tree)
                raise BuildError(
                    f"policy 'given' needs a tree [{batch}, m, children] of int64; received {shown}"
                )
            leaves -= tree.shape[1] * self.labelled
        elif tree is not None:
            raise BuildError(f"a tree is for policy 'given'; the policy of this module is {self.policy!r}")
        if leaves < 1:
            raise BuildError(f"x has a row for each leaf and each merge; received {x.shape[1]} rows")
        if lengths is None:
            return leaves, torch.full((batch,), leaves, device=CPU)
        return leaves, checked_lengths(lengths, batch, leaves)

    def _grown(self, x: Tensor, leaves: int, own: Tensor, tree: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The outputs `[B, m, H]` and the states at the roots, `[B, *shape]`."""
        runner, weights = self._grower, self._arrays(0, 0)
        check_weights(weights, self._shapes[0], self.program)
        check_dtype(x, weights, self.program)
        if self.policy == "easy-first":
            return easy_first(runner, weights, cast(Query, self.scorer), x, own)[:2]
        if self.policy == "beam":
            return self._beam(runner, weights, x, own)
        if tree is None:
            merges = by_policy(self.policy, own, leaves)
        else:
            merges = given(tree, own, leaves, self._children)
        grown = grow(runner, weights, x, merges, hidden_size=self.hidden_size, labelled=self.labelled)
        row = torch.arange(merges.nodes.shape[1], device=CPU).expand(len(own), -1)
        return grown.y(leaves + row, row < merges.counts[:, None]), grown.states(merges.root())

    def _beam(
        self, runner: TreeRunner, weights: Sequence[Tensor], x: Tensor, own: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        scorer = cast(PairScorer, self.scorer)
        beams = search(runner, weights, scorer, x, own, self.beam_size)
        grown = grow(runner, weights, x, beams.merges, hidden_size=self.hidden_size)
        share = beams.likelihoods(scorer, grown).softmax(1)
        y = grown.y(beams.nodes, beams.going[:, None].expand_as(beams.nodes))
        roots = grown.states(beams.roots())
        return averaged(share, y), [averaged(share, value) for value in roots]


def _is_tree(tree: Tensor | None, batch: int) -> TypeGuard[Tensor]:
    """Whether a caller's tree is whole numbers `[batch, m, children]`."""
    if not isinstance(tree, Tensor) or tree.dim() != 3:
        return False
    whole = not (tree.is_floating_point() or tree.is_complex() or tree.dtype is torch.bool)
    return whole and tree.shape[0] == batch and tree.shape[2] > 0
