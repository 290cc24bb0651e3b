"""The plain dense LSTM, GRU and tanh network by torch's own kernels, which on a CUDA device are cuDNN's.

As in torch's own layers, their float32 operands are rounded to TF32 unless `torch.backends.cudnn.allow_tf32` is False.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from grammar import Cell, Graph, canonical_weights, label, simplify, zoo
from nas.backends.steps import Steps
from nas.ir import compile_program

# Of each gate in torch's order: the equation of the zoo's cell for the map of x and that for the map of h.
_GATES = {
    "lstm": (("i", "i"), ("f", "f"), ("g", "g"), ("o", "o")),
    "gru": (("r", "r"), ("z", "z"), ("n", "n_2")),
    "elman": (("h", "h"),),
}


@cache
def plain_name(cell: Cell) -> str | None:
    """The name in the zoo of the cell that this one equals, if torch has a kernel for it."""
    return next((name for name in _GATES if cell.digest == zoo(name).digest), None)


class TorchRunner:
    """See `nas.backends.Runner`."""

    def __init__(self, cell: Cell) -> None:
        name = plain_name(cell)
        assert name is not None
        self.name, known = name, zoo(name)
        program = compile_program(cell)
        same = dict(zip(_addresses(known.graph), _addresses(cell.graph), strict=True))
        places = {(a.weight, a.spec.role): k for k, a in enumerate(program.arrays)}
        sites = {weight.site: k for k, weight in enumerate(known.graph.weights)}

        def place(site: str, role: str) -> int:
            return places[same[sites[site], role]]

        gates = _GATES[name]
        hidden = [("w0" if h != x else "w1") for x, h in gates]  # a map of its own, or the second operand
        # Of torch's arrays (of x, of h, and their biases) the places of their gates in `Program.arrays`; None: zeros.
        self.sources: tuple[list[int | None], ...] = (
            [place(x, "w0") for x, _ in gates],
            [place(h, role) for (_, h), role in zip(gates, hidden, strict=True)],
            [place(x, "b") for x, _ in gates],
            [place(h, "b") if h != x else None for x, h in gates],
        )
        ranks, own = _state_ranks(known.graph), _state_ranks(cell.graph)
        self.order = [own.index(rank) for rank in ranks]  # of each of torch's states, where the cell has it

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `nas.backends.Runner`."""
        arrays = self._arrays(weights)
        first = [state[k].unsqueeze(0).contiguous() for k in self.order]
        given = tuple(first) if self.name == "lstm" else first[0]
        function = getattr(torch._VF, {"elman": "rnn_tanh"}.get(self.name, self.name))
        options = (
            True,
            1,
            0.0,
            torch.is_grad_enabled(),
            False,
        )  # biases, layers, dropout, training, one direction
        if steps.even:
            y, *last = function(x.view(steps.count, steps.batch, -1), given, arrays, *options, False)
            y = y.flatten(0, 1)
        else:
            sizes = torch.tensor(steps.sizes, device="cpu")
            y, *last = function(x, sizes, given, arrays, *options)
        final: list[Tensor] = [y] * len(self.order)
        for k, value in zip(self.order, last, strict=True):
            final[k] = value.squeeze(0)
        return y, tuple(final)

    def _arrays(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Torch's four arrays, side by side in memory as cuDNN wants them."""
        nothing = torch.zeros_like(weights[self.sources[2][0] or 0])
        stacks = [
            torch.cat([nothing if k is None else weights[k] for k in places]) for places in self.sources
        ]
        pieces = torch.cat([stack.flatten() for stack in stacks]).split([stack.numel() for stack in stacks])
        return [piece.view(stack.shape) for piece, stack in zip(pieces, stacks, strict=True)]


def _addresses(graph: Graph) -> list[tuple[int, str]]:
    """The arrays of a cell in canonical order."""
    return [(one.weight, one.role) for one in canonical_weights(graph)]


def _state_ranks(graph: Graph) -> list[int]:
    """The places of a cell's states in the canonical order."""
    return list(label(simplify(graph)).states)
