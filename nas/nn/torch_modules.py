"""nn.LSTM, nn.GRU and nn.RNN as CellModules, under torch's own names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from grammar import Cell, parse, zoo
from nas.errors import BuildError
from nas.nn.module import CellModule

_RELU = "cell rnn_relu { state h: vec; h' = relu(lin(x, h)); out h' }"

# For each equation with weights, in the order of torch's gates: the gate, and the stacks (of x, of h) it takes from.
_GATES: dict[str, dict[str, tuple[int, str]]] = {
    "lstm": {"i": (0, "xh"), "f": (1, "xh"), "g": (2, "xh"), "o": (3, "xh")},
    "gru": {"r": (0, "xh"), "z": (1, "xh"), "n": (2, "x"), "n_2": (2, "h")},
    "elman": {"h": (0, "xh")},
    "rnn_relu": {"h": (0, "xh")},
}


def from_torch(module: nn.RNNBase, backend: str = "auto") -> CellModule:
    """The CellModule that equals an nn.LSTM, nn.GRU or nn.RNN: outputs, final state and gradients.

    Its parameters have torch's names, shapes and values (`weight_ih_l0`, `bias_hh_l1_reverse`, ...), so that state
    dicts are interchangeable; they are copies. States are torch's: `(h, c)` for nn.LSTM, else the bare tensor.

    Raises BuildError for other modules, and for an nn.LSTM with `proj_size`.
    """
    if not isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        raise BuildError(f"from_torch takes an nn.LSTM, nn.GRU or nn.RNN; received {type(module).__name__}")
    if module.proj_size:
        raise BuildError(
            f"from_torch takes an nn.LSTM without a projection; received proj_size={module.proj_size}"
        )
    made = TorchNamed(module, backend)
    like = module.weight_ih_l0
    assert isinstance(like, Tensor)
    made.to(device=like.device, dtype=like.dtype).load_state_dict(module.state_dict())
    return made.train(module.training)


def _cell(module: nn.RNNBase) -> Cell:
    if isinstance(module, nn.RNN):
        return zoo("elman") if module.nonlinearity == "tanh" else parse(_RELU)
    return zoo("lstm" if isinstance(module, nn.LSTM) else "gru")


class TorchNamed(CellModule):
    """A CellModule whose arrays are views of stacked parameters with torch's names."""

    def __init__(self, module: nn.RNNBase, backend: str) -> None:
        self._bias = module.bias  # asked for while the parameters are made
        cell = _cell(module)
        super().__init__(
            cell,
            module.input_size,
            module.hidden_size,
            num_layers=module.num_layers,
            batch_first=module.batch_first,
            bidirectional=module.bidirectional,
            dropout=module.dropout,
            backend=backend,
        )

    def _make_weights(self) -> None:
        gates = 1 + max(gate for gate, _ in _GATES[self.cell.name].values())
        for layer, sizes in enumerate(self.sizes):
            for direction in range(self.directions):
                rows = gates * self.hidden_size
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, sizes.input_size),
                    "weight_hh": (rows, self.hidden_size),
                }
                if self._bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    self.register_parameter(_name(name, layer, direction), nn.Parameter(torch.empty(shape)))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew as torch does, from U(-s, s) with s = 1 / sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def _arrays(self, layer: int, direction: int) -> Sequence[Tensor]:
        names = ("weight_ih", "weight_hh") + (("bias_ih", "bias_hh") if self._bias else ())
        size = self.hidden_size
        stacks = [getattr(self, _name(name, layer, direction)).split(size) for name in names]
        nothing = stacks[0][0].new_zeros(size)
        arrays = []
        for weight in self.program.weights:
            gate, seen = _GATES[self.cell.name][weight.site]
            places = ["xh".index(s) for s in seen]
            arrays += [stacks[place][gate] for place in places]
            biases = [stacks[2 + place][gate] for place in places] if self._bias else [nothing]
            arrays.append(biases[0] if len(biases) == 1 else biases[0] + biases[1])
        return arrays

    def load_canonical_weights(
        self, weights: Mapping[str, Tensor], layer: int = 0, reverse: bool = False
    ) -> None:
        """Refused: the arrays of the cell are parts and sums of torch's. Load a state dict instead."""
        raise BuildError("a module with torch's names loads torch's state dicts, not canonical weights")

    def _learned(self, layer: int, direction: int, slot: int) -> Tensor | None:
        return None


def _name(name: str, layer: int, direction: int) -> str:
    return f"{name}_l{layer}{'_reverse' if direction else ''}"
