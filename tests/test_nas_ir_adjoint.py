"""Differentiation on the IR: every gradient is that of torch through the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from normal_cases import ODD_TIME, SPACES, TIME, Case, case, interpreted, parts, real, reference, sampled
from normal_runner import run_backward
from strategies import cells
from torch import Tensor

from grammar import Cell, parse, zoo
from nas.ir import DERIVATIVES, NO_DERIVATIVE, PRIMITIVES, adjoint, adjoint_cell, normal_cell
from nas.ir.derivatives import BACKWARD_ONLY

TOLERANCE = 1e-9
WILD = 1e6  # gradients of random cells beyond this are compared no further


def by_torch(example: Case) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
    """Gradients by torch through the reference of a fixed functional; and that of the outputs and the final slots."""
    x = example.x.clone().requires_grad_()
    weights = [w.clone().requires_grad_() for w in example.weights]
    state = [s.clone().requires_grad_() for s in example.state]
    y, final = reference(replace(example, x=x, weights=tuple(weights), state=tuple(state)))
    generator = torch.Generator().manual_seed(3)
    outputs = [y, *final]
    pull = [torch.randn(real(o).shape, generator=generator, dtype=torch.float64) for o in outputs]
    loss = sum((torch.sum(real(o) * p) for o, p in zip(outputs, pull, strict=True)), torch.zeros(()))
    inputs = (
        {"x": x} | {f"w{k}": w for k, w in enumerate(weights)} | {f"s{k}": s for k, s in enumerate(state)}
    )
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    after = [torch.view_as_complex(p) if o.is_complex() else p for o, p in zip(outputs, pull, strict=True)]
    return dict(zip(inputs, found, strict=True)), after[0], after[1:]


def agrees(cell: Cell, lengths: tuple[int, ...] = (5, 3, 1)) -> None:
    """All gradients of the adjoint are those of torch."""
    example = case(cell, lengths)
    expected, dy, final = by_torch(example)
    made = adjoint_cell(cell)
    steps = list(example.steps.sizes)
    found = run_backward(
        made,
        interpreted(example),
        list(torch.split(example.x, steps)),
        list(torch.split(dy, steps)),
        parts(final, example.normal),
    )
    dx = torch.zeros_like(example.x) if found.dx is None else found.dx
    pairs = {"x": (dx, expected["x"])}
    for k, array in enumerate(example.program.arrays):
        if not example.program.weights[array.weight].fixed:
            ours = found.weights.get(k, torch.zeros_like(example.weights[k]))
            pairs[f"w{k} {array.spec.role} of {example.program.weights[array.weight].site}"] = (
                ours,
                expected[f"w{k}"],
            )
    states = parts([expected[f"s{k}"] for k in range(len(example.state))], example.normal)
    for slot, ours, theirs in zip(example.normal.program.slots, found.initial, states, strict=True):
        pairs[f"the initial {slot.name}"] = (ours, theirs)
    for what, (ours, theirs) in pairs.items():
        assert ours.shape == theirs.shape, what
        largest = float(theirs.abs().max())
        if largest < WILD:  # false for NaN
            scale = max(1.0, largest)
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=TOLERANCE, msg=what)


@pytest.mark.parametrize("name", TIME)
def test_known_cells(name: str) -> None:
    agrees(zoo(name))


@pytest.mark.parametrize("lengths", [(1,), (2, 2, 2), (7,), (7, 7, 1)])
@pytest.mark.parametrize("name", ["lstm", "mingru", "mamba", "gated_deltanet", "urnn"])
def test_lengths(name: str, lengths: tuple[int, ...]) -> None:
    agrees(zoo(name), lengths)


@pytest.mark.parametrize("cell", ODD_TIME)
def test_odd_cells(cell: Cell) -> None:
    agrees(cell)


@pytest.mark.parametrize("space", SPACES)
def test_cells_of_each_space(space: str) -> None:
    for cell in sampled(space, 6):
        agrees(cell)


@given(cells(smooth=True))
@settings(max_examples=25)
def test_any_cell(cell: Cell) -> None:
    agrees(cell)


def test_each_primitive_has_a_rule_or_needs_none() -> None:
    assert {*DERIVATIVES, *NO_DERIVATIVE, *BACKWARD_ONLY} == set(PRIMITIVES)
    assert not set(DERIVATIVES) & {*NO_DERIVATIVE, *BACKWARD_ONLY}


def kept(name: str) -> tuple[list[str], list[str]]:
    """What a cell keeps for its backward run: the operations of rows, and the names of states."""
    made = adjoint_cell(zoo(name))
    instrs, slots = made.forward.instrs, made.forward.slots
    return sorted(instrs[k].op for k in made.saved), [slots[s].name for s in made.past]


def test_what_is_kept_is_what_one_would_keep() -> None:
    assert kept("elman") == (["tanh"], ["h"])
    assert kept("lstm") == (["sigmoid"] * 3 + ["tanh"] * 2, ["h", "c"])
    assert kept("gru") == (
        ["add", "sigmoid", "sigmoid", "tanh"],
        ["h"],
    )  # the sum is what the reset gate scales
    assert kept("gru_cho") == (["sigmoid", "sigmoid", "tanh"], ["h"])
    assert kept("mingru") == (["lin", "sigmoid"], ["h"])
    assert kept("s4d") == ([], [])  # x and the matrices, which are computed again


@pytest.mark.parametrize("name", TIME)
def test_matrices_are_computed_again_not_kept(name: str) -> None:
    made = adjoint_cell(zoo(name))
    forward = made.forward
    assert all(forward.instrs[k].type.kind != "mat" or forward.instrs[k].op == "lin" for k in made.saved)
    assert all(forward.slots[s].type.kind != "mat" for s in made.past)
    if made.replay is not None:
        assert {forward.slots[s].type.kind for s in made.replay.slots} == {"mat"}
        again = {i.op for i in made.replay.program.instrs if i.stage != "const"}
        assert not {"lin", "read", "readt", "sigmoid", "tanh"} & again


def test_lstm_backward_is_as_short_as_by_hand() -> None:
    ops = [i.op for i in adjoint_cell(zoo("lstm")).backward.instrs if i.stage in ("before", "loop", "after")]
    assert {op: ops.count(op) for op in ("mul", "add", "sub", "lin")} == {
        "mul": 16,
        "add": 8,
        "sub": 5,
        "lin": 8,
    }


def test_only_wanted_gradients_are_made() -> None:
    program = normal_cell(zoo("elman")).program
    none = adjoint(program, dx=False, weights=())
    assert none.dx is None
    assert none.weights == ()
    assert {i.op for i in none.backward.instrs} & {"gram", "total", "x"} == set()
    final_only = adjoint(program, dy=False)
    assert "dy" not in {i.op for i in final_only.backward.instrs}
    assert len(final_only.weights) == 3


def test_fixed_weights_have_no_gradient() -> None:
    made = adjoint_cell(zoo("esn"))
    trained = {k for k, a in enumerate(made.forward.arrays) if not made.forward.weights[a.weight].fixed}
    assert {w.array for w in made.weights} == trained


@pytest.mark.parametrize(
    ("first", "further", "count"),
    [
        ("param()", "p{0} * p{0}", 60),
        ("relu(lin(x, h))", "p{0} * p{0}", 60),
        ("param()", "tanh(p{0})", 1_000),
    ],
)
def test_what_is_used_twice_again_and_again_is_gone_through_once(
    first: str, further: str, count: int
) -> None:
    """Values of weights alone, and the factors of a product, in a chain of any length."""
    lets = "; ".join(f"p{i + 1} = {further.format(i)}" for i in range(count))
    cell = parse(f"cell a {{ state h: vec; p0 = {first}; {lets}; h' = tanh(lin(x, h)) * p{count}; out h' }}")
    assert len(adjoint_cell(cell).backward.instrs) < 10 * count
