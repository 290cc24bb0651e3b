"""from_torch: the same outputs, final states and gradients as torch's modules, under the same names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from nas.errors import BuildError
from nas.nn import CellModule, from_torch

TOLERANCE = 1e-9
INPUTS, HIDDEN, BATCH, STEPS = 5, 7, 4, 9
KINDS = ("lstm", "gru", "tanh", "relu")
State = Tensor | tuple[Tensor, ...]


def original(kind: str, **options: object) -> nn.RNNBase:
    given: dict[str, Any] = {"num_layers": 2, "batch_first": True, "dtype": torch.float64} | options
    torch.manual_seed(3)
    if kind == "lstm":
        return nn.LSTM(INPUTS, HIDDEN, **given)
    return (
        nn.GRU(INPUTS, HIDDEN, **given)
        if kind == "gru"
        else nn.RNN(INPUTS, HIDDEN, nonlinearity=kind, **given)
    )


def drawn(module: nn.RNNBase) -> tuple[Tensor, State]:
    """An input, and a state for it."""
    generator = torch.Generator().manual_seed(5)
    shape = (BATCH, STEPS, INPUTS) if module.batch_first else (STEPS, BATCH, INPUTS)
    places = module.num_layers * (1 + module.bidirectional)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    h, c = torch.randn(2, places, BATCH, HIDDEN, generator=generator, dtype=torch.float64)
    return x, (h, c) if isinstance(module, nn.LSTM) else h


def results(module: nn.Module, x: Tensor | PackedSequence, state: State | None) -> dict[str, Tensor]:
    """Outputs, final states, and the gradients of all parameters, the input and the state."""
    data = (x.data if isinstance(x, PackedSequence) else x).clone().requires_grad_()
    given = PackedSequence(data, *x[1:]) if isinstance(x, PackedSequence) else data
    parts = () if state is None else tuple(p.clone().requires_grad_() for p in as_tuple(state))
    start = None if state is None else parts if isinstance(state, tuple) else parts[0]
    y, after = module(given, start)
    outputs = {"y": y.data if isinstance(y, PackedSequence) else y}
    outputs |= {f"state {k}": part for k, part in enumerate(as_tuple(after))}
    loss = sum((value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape).sin()).sum()
               for value in outputs.values())  # fmt: skip
    assert isinstance(loss, Tensor)
    inputs = dict(module.named_parameters()) | {"x": data} | {f"start {k}": p for k, p in enumerate(parts)}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return outputs | {f"gradient of {name}": g for name, g in zip(inputs, gradients, strict=True)}


def as_tuple(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def agree(theirs: nn.RNNBase, x: Tensor | PackedSequence, state: State | None) -> None:
    ours = from_torch(theirs, backend="reference")
    expected, found = results(theirs, x, state), results(ours, x, state)
    assert list(found) == list(expected)
    for what, value in expected.items():
        torch.testing.assert_close(found[what], value, rtol=TOLERANCE, atol=TOLERANCE, msg=what)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_all_numbers_and_gradients_agree(
    kind: str, bidirectional: bool, bias: bool, batch_first: bool
) -> None:
    theirs = original(kind, bidirectional=bidirectional, bias=bias, batch_first=batch_first)
    x, state = drawn(theirs)
    agree(theirs, x, state)
    agree(theirs, x, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[4, 9, 1, 6], [9, 9, 5, 2]])
def test_packed_sequences_agree(kind: str, bidirectional: bool, lengths: list[int]) -> None:
    theirs = original(kind, bidirectional=bidirectional)
    x, state = drawn(theirs)
    agree(
        theirs, pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False), state
    )
    if lengths == sorted(lengths, reverse=True):
        agree(theirs, pack_padded_sequence(x, torch.tensor(lengths), batch_first=True), state)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_batch_agrees(kind: str) -> None:
    theirs = original(kind)
    x, state = drawn(theirs)
    one = tuple(p[:, 0] for p in as_tuple(state))
    agree(theirs, x[0], one if isinstance(state, tuple) else one[0])


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_are_interchangeable(kind: str) -> None:
    theirs = original(kind, bidirectional=True, bias=kind != "gru")
    ours = from_torch(theirs)
    assert isinstance(ours, CellModule)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.reset_parameters(torch.Generator().manual_seed(0))
    assert max(float(p.detach().abs().max()) for p in ours.parameters()) <= HIDDEN**-0.5
    theirs.load_state_dict(ours.state_dict())
    x, state = drawn(theirs)
    torch.testing.assert_close(ours(x, state), theirs(x, state))


def test_parameters_are_copies_of_the_same_kind() -> None:
    theirs = original("lstm", dtype=torch.float32).eval()
    ours = from_torch(theirs)
    assert not ours.training
    assert next(ours.parameters()).dtype == torch.float32
    with torch.no_grad():
        next(ours.parameters()).zero_()
    assert float(next(theirs.parameters()).detach().abs().max()) > 0
    assert torch.get_default_dtype() == torch.float32


def test_float32_agrees_to_its_precision() -> None:
    theirs = original("lstm", dtype=torch.float32)
    x = drawn(theirs)[0].float()
    torch.testing.assert_close(from_torch(theirs)(x)[0], theirs(x)[0], rtol=1e-6, atol=1e-6)


def test_dropout_is_between_layers_in_training_alone() -> None:
    theirs = original("gru", dropout=0.5)
    ours = from_torch(theirs)
    x, _ = drawn(theirs)
    assert ours.dropout == 0.5
    assert not torch.equal(ours(x)[0], ours(x)[0])
    one = from_torch(original("gru", num_layers=1))
    one.dropout = 0.5
    torch.testing.assert_close(one(x)[0], one(x)[0])
    torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])


def test_steps_follow_torch() -> None:
    theirs = original("lstm")
    ours = from_torch(theirs)
    x, _ = drawn(theirs)
    state: State = ours.init_state(BATCH)
    for x_t in x.unbind(1):
        y, state = ours.step(x_t, state)
    expected, after = theirs(x)
    torch.testing.assert_close(y, expected[:, -1])
    torch.testing.assert_close(state, after)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LSTM(3, 4, proj_size=2), "without a projection; received proj_size=2"),
        (nn.LSTMCell(3, 4), "takes an nn.LSTM, nn.GRU or nn.RNN; received LSTMCell"),
    ],
)
def test_other_modules_are_refused(module: nn.RNNBase, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        from_torch(module)
