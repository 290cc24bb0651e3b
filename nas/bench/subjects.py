"""What is timed: a cell on a backend, torch's own layer, the eager loop."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grammar import Cell, Sizes, zoo
from nas.bench.sizes import BenchSize
from nas.bench.timing import Subject
from nas.errors import BenchError
from nas.nn import CellModule, build

BASELINES = ("torch", "eager")
TORCH_LAYERS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}


def sizes_of(cell: Cell, size: BenchSize) -> Sizes:
    """The sizes of a cell as it is timed: D = H, K = V."""
    return Sizes.of(size.width, size.width, size.heads)


def cell_module(cell: Cell, size: BenchSize, backend: str, device: str) -> CellModule:
    """The cell as a module, with weights of a fixed seed. Raises BuildError where the backend cannot run it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the output of cell")
        module = build(cell, size.width, size.width, heads=size.heads, backend=backend)
    module.reset_parameters(torch.Generator().manual_seed(0))
    return module.to(device)


def torch_layer(cell: Cell, size: BenchSize, device: str) -> nn.Module | None:
    """The layer of torch that computes the same, None where there is none."""
    for name, layer in TORCH_LAYERS.items():
        if cell.digest == zoo(name).digest and size.heads == 1:
            return layer(size.width, size.width, batch_first=True).to(device)
    return None


def eager_loop(module: CellModule) -> nn.Module:
    """The module on the frozen eager loop. Raises BenchError outside a checkout, where there is no such script."""
    made: nn.Module = _eager_script().EagerModule(module)
    return made


@cache
def _eager_script() -> Any:
    path = Path(__file__).resolve().parents[2] / "scripts" / "bench_eager.py"
    if not path.is_file():
        raise BenchError(f"the eager baseline is a script of the checkout of recell; there is no {path}")
    spec = importlib.util.spec_from_file_location("bench_eager", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_eager"] = module
    spec.loader.exec_module(module)
    return module


def forward(module: nn.Module, size: BenchSize, device: str) -> Subject:
    """One forward pass without gradients."""
    x = _input(size, device)

    def run() -> None:
        with torch.no_grad():
            module(x)

    return run


def training(module: nn.Module, size: BenchSize, device: str) -> Subject:
    """One forward and one backward pass, to the input and every weight."""
    x = _input(size, device).requires_grad_()
    inputs = [x, *(p for p in module.parameters() if p.requires_grad)]
    gradient = torch.randn(size.batch, size.steps, size.width, device=device)

    def run() -> None:
        y: Tensor = module(x)[0]
        torch.autograd.grad(y, inputs, gradient, allow_unused=True)

    return run


def _input(size: BenchSize, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size.batch, size.steps, size.width, generator=generator).to(device)
