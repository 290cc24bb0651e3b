"""What a backend in float64 is held against: the NumPy interpreter, single steps, single sequences, the reference.

A new backend has a line in `conformance.TOLERANCES`; one that runs in float64 has another one here, and
test_nas_backends_conformance.py runs all of this on it.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from strategies import HEADS, HIDDEN, input_size, key_size
from torch import Tensor

from grammar import Cell, evaluate
from nas.nn import CellModule, build

# (backend, dtype) -> how far it may be from the interpreter, and from the reference in float64
TOLERANCES = {
    ("reference", torch.float64): 1e-9,
    ("reference", torch.float32): 2e-3,
    ("triton", torch.float64): 1e-9,
    ("triton", torch.float32): 2e-3,
}
BATCH, STEPS = 3, 5
WILD = 1e6  # numbers of random cells beyond this are compared no further


def built(cell: Cell, backend: str = "reference", dtype: torch.dtype = torch.float64) -> CellModule:
    """The cell with every array some way from where it starts; the same numbers for every backend and dtype."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the output of cell")
        module = build(
            cell, input_size(cell), HIDDEN, heads=HEADS, key_size=key_size(cell), backend=backend
        ).double()
    module.reset_parameters(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for array in (*module.parameters(), *module.buffers()):
            array.add_(0.1 * torch.randn(array.shape, generator=generator, dtype=array.dtype))
    return module.to(dtype)


def drawn(module: CellModule, steps: int = STEPS) -> Tensor:
    """An input for a module, the same for every dtype."""
    like = next(module.parameters(), torch.empty(0, dtype=torch.float64))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, steps, module.input_size, generator=generator, dtype=torch.float64)
    return x.to(like.dtype)


def as_tuple(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A state as the tuple it is where it is not alone."""
    return state if isinstance(state, tuple) else (state,)


def agrees_with_the_interpreter(cell: Cell, backend: str) -> None:
    """The module gives what the interpreter gives; shorter sequences and single steps give the same again."""
    tolerance = TOLERANCES[backend, torch.float64]
    module = built(cell, backend)
    x = drawn(module)
    arrays = {name.removeprefix("layers.0."): value.numpy() for name, value in module.state_dict().items()}
    expected = evaluate(cell, x.numpy(), arrays, hidden_size=HIDDEN, heads=HEADS, key_size=key_size(cell))
    with torch.no_grad():
        y, after = module(x)
        found = (y, *(part[0] for part in as_tuple(after)))
        for ours, theirs in zip(found, (expected.y, *expected.state), strict=True):
            assert ours.shape == theirs.shape
            if not np.isfinite(theirs).all() or np.abs(theirs).max() > WILD:
                return
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=tolerance, atol=tolerance)
        _lengths_are_loops(module, x, tolerance)
        if cell.kind == "time":
            _steps_are_sequences(module, x, found, tolerance)


def _lengths_are_loops(module: CellModule, x: Tensor, tolerance: float) -> None:
    lengths = [2, STEPS, 3]
    padded = x.clone()
    for k, length in enumerate(lengths):
        padded[k, length:] = torch.nan
    y, after = module(padded, lengths=lengths)
    for k, length in enumerate(lengths):
        one, end = module(x[k, :length])
        torch.testing.assert_close(y[k, :length], one, rtol=tolerance, atol=tolerance)
        assert bool((y[k, length:] == 0).all())
        for whole, part in zip(as_tuple(after), as_tuple(end), strict=True):
            own = whole[:, k, :length] if module.cell.kind == "depth" else whole[:, k]
            torch.testing.assert_close(own, part, rtol=tolerance, atol=tolerance)


def _steps_are_sequences(module: CellModule, x: Tensor, found: tuple[Tensor, ...], tolerance: float) -> None:
    state: Tensor | tuple[Tensor, ...] | None = None
    outputs = []
    for x_t in x.unbind(1):
        y_t, state = module.step(x_t, state)
        outputs.append(y_t)
    assert state is not None
    ours = (torch.stack(outputs, 1), *(part[0] for part in as_tuple(state)))
    torch.testing.assert_close(ours, found, rtol=tolerance, atol=tolerance)


def agrees_with_the_reference(cell: Cell, backend: str, dtype: torch.dtype, steps: int = 63) -> None:
    """Outputs, final states and every gradient are those of the reference in float64."""
    tolerance = TOLERANCES[backend, dtype]
    module, plain = built(cell, backend, dtype), built(cell)
    ours, theirs = results(module, drawn(module, steps)), results(plain, drawn(plain, steps))
    assert list(ours) == list(theirs)
    for what, value in theirs.items():
        found = ours[what].to(value.dtype)
        scale = float(value.abs().max()) + 1e-12
        torch.testing.assert_close(
            found / scale, value / scale, rtol=0, atol=tolerance, msg=f"{cell.name}: {what}"
        )


def results(module: CellModule, x: Tensor) -> dict[str, Tensor]:
    """Output, final states, and the gradients of a fixed functional of them all; sequences differ in length."""
    x = x.clone().requires_grad_()
    y, after = module(x, lengths=[x.shape[-2], 1, x.shape[-2] // 2])
    outputs = {"y": y} | dict(zip(module.state_names, as_tuple(after), strict=True))
    loss = torch.zeros((), dtype=x.dtype, device=x.device)
    for value in outputs.values():
        flat = torch.view_as_real(value) if value.is_complex() else value
        weight = torch.linspace(-1, 1, flat.numel(), dtype=torch.float64).mul(37).cos().view(flat.shape)
        loss = loss + (flat * weight.to(flat)).mean()
    inputs = {"x": x} | {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    outputs |= {f"gradient of {name}": value for name, value in zip(inputs, gradients, strict=True)}
    return {name: value.detach() for name, value in outputs.items()}
