"""What kernels would read as something that it is not: states and weights of another kind than the cell's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from grammar import zoo
from nas.errors import BuildError
from nas.nn import CellModule, Ensemble, build

X = torch.ones(2, 3, 4)
BACKENDS = ("auto", "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("s4d", torch.float32, "the state S is of complex numbers; received torch.float32"),
        ("gru", torch.complex64, "the state h is of real floating-point numbers; received torch.complex64"),
        ("gru", torch.int64, "the state h is of real floating-point numbers; received torch.int64"),
    ],
)
def test_states_of_another_kind_of_number_are_refused(
    name: str, dtype: torch.dtype, message: str, backend: str
) -> None:
    module = build(zoo(name), 4, 4, backend=backend)
    state = module.init_state(2)
    assert isinstance(state, Tensor)
    given = torch.zeros(state.shape, dtype=dtype)
    with pytest.raises(BuildError, match=message):
        module(X, given)
    with pytest.raises(BuildError, match=message):
        module.step(X[:, 0], given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_states_of_another_precision_are_cast(dtype: torch.dtype) -> None:
    module = build(zoo("lstm"), 4, 4, backend="c")
    state = tuple(torch.full((1, 2, 4), value) for value in (0.5, -0.25))  # exact in all of them
    torch.testing.assert_close(module(X, tuple(s.to(dtype) for s in state)), module(X, state), rtol=0, atol=0)


def _wide(module: CellModule) -> None:
    module.get_submodule("layers.0.z").double()


def _elsewhere(module: CellModule) -> None:
    module.get_submodule("layers.0.z").to("meta")


def _small(module: CellModule) -> None:
    module.get_submodule("layers.0.z").w0 = nn.Parameter(torch.ones(1, 1))


WEIGHTS: list[tuple[Callable[[CellModule], None], str]] = [
    (_wide, r"of one type and on one device, the first torch.float32 on cpu; z\.w0 is torch.float64 on cpu"),
    (_elsewhere, r"the first torch.float32 on cpu; z\.w0 is torch.float32 on meta"),
    (_small, r"the weight z\.w0 must have the shape \[.*\]; received \[1, 1\]"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("change", "message"), WEIGHTS)
def test_weights_that_were_changed_are_refused(
    change: Callable[[CellModule], None], message: str, backend: str
) -> None:
    for module in (build(zoo("gru"), 4, 4, backend=backend), Ensemble(zoo("gru"), 2, 4, 4, backend=backend)):
        change(module)
        with pytest.raises(BuildError, match=message):
            module(X)


def test_weights_of_later_layers_and_of_trees_are_looked_at_too() -> None:
    deep = build(zoo("lstm"), 4, 4, num_layers=2)
    deep.get_submodule("layers.1.f").double()
    tree = build(zoo("treelstm"), 4, 4, policy="left")
    tree.get_submodule("layers.0.fl").double()
    for module, name in ((deep, "f"), (tree, "fl")):
        with pytest.raises(BuildError, match=rf"{name}\.w0 is torch.float64 on cpu"):
            module(X)


def test_whole_modules_change_their_type_and_place() -> None:
    module = build(zoo("s4d"), 4, 4)
    assert module.double()(X.double())[0].dtype == torch.float64
    assert module.to("meta")(X.double().to("meta"))[0].device.type == "meta"


def test_batches_that_are_no_number_of_sequences() -> None:
    module = build(zoo("lstm"), 4, 4)
    for batch in (-1, 2.5, None):
        with pytest.raises(BuildError, match=f"init_state takes the number of sequences; received {batch}"):
            module.init_state(batch)  # type: ignore[arg-type]
    assert [part.shape for part in module.init_state(0)] == [(1, 0, 4)] * 2


def test_numbers_that_are_none_are_refused_under_autocast_too() -> None:
    module = build(zoo("lstm"), 4, 4)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(BuildError, match=r"received torch\.int64"):
        module(X.long())
    with pytest.raises(BuildError, match="lengths are 2 whole numbers from 1 to 3"):
        module(X, lengths=torch.tensor([True, True]))
