"""The eager baseline computes what the reference does, and makes the calls of torch that it has always made."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_suite import as_tuple, built, drawn
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from grammar import Cell, parse, zoo, zoo_names
from nas.bench.subjects import eager_loop
from nas.errors import BuildError
from nas.nn import build

GOLDEN = Path(__file__).parent / "golden" / "eager_calls.json"
KNOWN = [name for name in zoo_names() if zoo(name).kind == "time"]
ODD = (
    "state h: vec; u = lin(x); h' = lin(h, share=w, bias=no) + lin(u, share=w, transpose=yes, bias=no); out h' * u",
    "state h: vec; w = param:vec(init=normal(1)); h' = tanh(lin(x, h, x, w)); out lin(w, h') + shift(h')",
    "state h: vec, g: vec; g' = param:vec(init=ones); h' = h + lin(x, h, rank=2) + lin(x, blocks=heads); out g",
)


@pytest.mark.parametrize("cell", [zoo(name) for name in KNOWN] + [parse(f"cell odd {{ {t} }}") for t in ODD])
def test_agrees_with_the_reference(cell: Cell) -> None:
    module = built(cell)
    x = drawn(module, 6)
    for found, expected in zip(results(eager_loop(module), x), results(module, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_goes_on_from_a_state() -> None:
    module = built(zoo("mamba"))
    x, eager = drawn(module, 9), eager_loop(module)
    whole, _ = module(x)
    _, state = eager(x[:, :4])
    torch.testing.assert_close(eager(x[:, 4:], state)[0], whole[:, 4:])


def test_never_gets_slower(request: pytest.FixtureRequest) -> None:
    """Frozen: the same calls of torch per step, forward and backward."""
    found = {name: calls_per_step(zoo(name)) for name in KNOWN}
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert {name: golden[name] for name in found if name in golden} == found


def test_only_products_of_x_are_hoisted() -> None:
    """A map of what is computed from x is made step by step, and equal maps are not merged."""
    products = "mm.default", "addmm.default"
    for text, expected in (
        ("h' = tanh(lin(x) + lin(x)) + h", 0),
        ("h' = tanh(lin(x, h))", 1),
        ("u = tanh(lin(x)); h' = lin(u) + lin(u) + h", 2),
        ("h' = lin(h) + lin(h) + lin(x)", 2),
    ):
        cell = parse(f"cell c {{ state h: vec; {text}; out h' }}")
        counted = counts(cell, backward=False)
        assert sum(counted[name] for name in products) == expected


def test_refuses_what_it_cannot_run() -> None:
    with pytest.raises(BuildError, match="runs cells over time; ut is a depth cell"):
        eager_loop(build(zoo("ut"), 4, 4, backend="reference"))
    with pytest.raises(BuildError, match="has one layer, one direction and the batch first"):
        eager_loop(build(zoo("lstm"), 4, 4, num_layers=2, backend="reference"))
    with pytest.raises(BuildError, match="sequences of equal length"):
        eager_loop(build(zoo("lstm"), 4, 4, backend="reference"))(torch.ones(2, 3, 4), lengths=[3, 1])


def test_importing_it_leaves_the_path_alone() -> None:
    before = list(sys.path)
    eager_loop(built(zoo("elman")))
    assert sys.path == before


def results(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y, after = module(x)
    values = [y, *as_tuple(after)]
    real = [torch.view_as_real(v) if v.is_complex() else v for v in values]
    loss = torch.stack([v.sin().sum() for v in real]).sum()
    inputs = [x, *(p for p in module.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    return [*values, *gradients]


class Counted(TorchDispatchMode):
    """Counts the calls of torch's kernels that are made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func).removeprefix("aten.")] += 1
        return func(*args, **(kwargs or {}))


def calls_per_step(cell: Cell) -> int:
    return sum(counts(cell).values())


def counts(cell: Cell, backward: bool = True) -> Counter[str]:
    """The calls of a sequence of six steps less those of one of five."""
    five, six = (_counted(cell, steps, backward) for steps in (5, 6))
    six.subtract(five)
    return six


def _counted(cell: Cell, steps: int, backward: bool) -> Counter[str]:
    module = built(cell)
    eager, x = eager_loop(module), drawn(module, steps)
    counted = Counted()
    with counted:
        y, _ = eager(x)
        if backward:
            torch.autograd.grad(
                y.sum(), [p for p in module.parameters() if p.requires_grad], allow_unused=True
            )
    return counted.calls
