"""Stack: embedding, cell, head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from grammar import Cell
from nas.errors import BuildError
from nas.nn.building import build
from nas.nn.module import CellModule, State
from nas.nn.trees import TreeModule


class Stack(nn.Module):
    """What tasks train: tokens or numbers come in, a CellModule runs over them, a linear map gives the outputs.

    `inputs` is the number of different tokens where `embed`, else that of features; `outputs` that of the head's
    numbers; `width` the input and hidden size of the cell. `heads`, `num_layers`, `dropout` (here also before the cell
    and before the head), `backend` and the `policy` of a tree cell are those of `build`.
    """

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        outputs: int,
        width: int,
        num_layers: int = 1,
        heads: int = 1,
        dropout: float = 0.0,
        embed: bool = True,
        backend: str = "auto",
        policy: str | None = None,
    ) -> None:
        super().__init__()
        if inputs < 1 or outputs < 1:
            raise BuildError(f"inputs and outputs must be at least 1; received {inputs} and {outputs}")
        self.embed = embed
        self.cell = build(
            cell,
            width,
            width,
            num_layers=num_layers,
            heads=heads,
            dropout=0.0 if cell.kind == "tree" else dropout,  # a tree has one layer, so none between layers
            backend=backend,
            policy=policy,
        )
        self.input = nn.Embedding(inputs, width) if embed else nn.Linear(inputs, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, from `generator` or torch's global one."""
        self.cell.reset_parameters(generator)
        with torch.no_grad():
            for layer in (self.input, self.head):
                # As nn.Embedding and nn.Linear start; embeddings of norm 1 cost 0.05 to 0.2 nats in a 10 s trial.
                if isinstance(layer, nn.Embedding):
                    layer.weight.normal_(0.0, 1.0, generator=generator)
                else:
                    bound = 1 / math.sqrt(layer.in_features)
                    layer.weight.uniform_(-bound, bound, generator=generator)
                    layer.bias.uniform_(-bound, bound, generator=generator)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | Sequence[int] | None = None,
        state: State | None = None,
        tree: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Outputs `[B, T, outputs]` and the final state, for x `[B, T]` int64 (`embed`) or `[B, T, inputs]`.

        `state` is that of an earlier call, for text that goes on: detach it (`detach_state`) to stop gradients there.
        A tree cell gives outputs at the root, `[B, outputs]`, and the state there; `tree` is for its policy "given",
        and other cells and policies pass it over.
        """
        rows, after = self.features(x, lengths, state, tree)
        return self.head(rows), after

    def features(
        self,
        x: Tensor,
        lengths: Tensor | Sequence[int] | None = None,
        state: State | None = None,
        tree: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """What the head is given, `[B, T, width]` or, of a tree, `[B, width]`; else as `forward`."""
        wanted = "[B, T] of tokens" if self.embed else f"[B, T, {self.input.weight.shape[1]}]"
        if x.dim() != (2 if self.embed else 3):
            raise BuildError(f"x must have the shape {wanted}; received {list(x.shape)}")
        dropped = self.training and self.dropout.p > 0
        if isinstance(self.input, nn.Embedding) and type(self.cell) is CellModule and not dropped:
            y, after = self.cell(x, state, lengths, table=self.input.weight)
            return self.dropout(cast(Tensor, y)), after
        leaves = self.dropout(self.input(x))
        if isinstance(self.cell, TreeModule):
            root, after = self.cell.root(leaves, lengths, tree if self.cell.policy == "given" else None)
            return self.dropout(root), after
        y, after = self.cell(leaves, state, lengths)
        return self.dropout(cast(Tensor, y)), after


def detach_state(state: State) -> State:
    """The same state without its past, so that gradients stop here (truncated backpropagation through time)."""
    return state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)
