"""Slots that are read in x: convs, shifts and states that have x of some steps before, against the reference."""

from __future__ import annotations

import pytest
import torch
from conformance import Case, Shape, check, poisoned
from torch import Tensor

from grammar import Cell, Sizes, parse
from nas.backends.c.compiler import problem
from nas.backends.c.making import Making
from nas.nn import build

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

TEXTS = {
    "three windows of x": "state h: vec; g = sigmoid(lin(conv(x), bias=no)); a = sigmoid(lin(conv(x)));"
    " h' = g / (g + a) * h + a / (g + a) * silu(lin(conv(x))); out h'",
    "a shift and a wide window": "state h: vec; h' = 0.9 * h + lin(shift(x), conv(x, k=6));"
    " out h' * lin(shift(x))",
    "states of x before": "state p: vec = 0.5, q: vec = -1, r: vec = learned; p' = x; q' = p; r' = q;"
    " out q * lin(p) + sigmoid(r) * x",
    "states of x that begin far apart": "state p: vec = 1e16, q: vec = 1e-16; p' = x; q' = x;"
    " out tanh(p) + 2 * tanh(q)",
    "a window that matrices are made of": "state S: mat; S' = 0.9 * S + outer(lin:key(conv(x)), lin(conv(x)));"
    " out read(S', lin:key(conv(x)))",
    "complex states that have x": "state z: cvec = 0.5, w: cvec, p: vec; p' = x; z' = complex(x, p); w' = z;"
    " out re(z) * im(w) + lin(im(z), p)",
    "windows of other values": "state h: vec; u = lin(x); h' = tanh(lin(h) + conv(u));"
    " out h' + conv(h', k=3) * conv(x, k=2)",
}
CELLS = {name: parse(f"cell c {{ {text} }}") for name, text in TEXTS.items()}
SHAPES = [
    Shape(3, 1, 8, 1, None, 8),
    Shape(2, 2, 8, 1, None, 8, given=True),
    Shape(3, 9, 8, 1, None, 8, lengths=(9, 1, 4), given=True),
    Shape(3, 4, 8, 1, None, 8, lengths=(2, 4, 3)),
    Shape(70, 7, 8, 1, None, 8),  # more than one block of sequences
]


@pytest.mark.parametrize("name", CELLS)
def test_it_is_what_the_reference_computes(name: str) -> None:
    with poisoned():
        for index, shape in enumerate(SHAPES):
            outcome = check(Case(f"{name}", CELLS[name], shape, index), "c", torch.float32)
            assert outcome.status == "ok", outcome


@pytest.mark.parametrize("name", ["three windows of x", "states of x before"])
def test_in_both_directions_and_of_a_table(name: str) -> None:
    cell: Cell = CELLS[name]
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(5, 8, generator=generator)
    tokens = torch.randint(0, 5, (3, 7), generator=generator)
    found: dict[str, list[Tensor]] = {}
    for backend in ("c", "reference"):
        both = build(cell, 8, 8, bidirectional=True, backend=backend)
        one = build(cell, 8, 8, backend=backend)
        for module in (both, one):
            module.reset_parameters(torch.Generator().manual_seed(1))
        rows = table.clone().requires_grad_()
        ends = [both(rows[tokens], lengths=[7, 2, 5])[0], one(tokens, table=rows)[0]]
        loss = sum(end.square().sum() for end in ends)
        inputs = [rows, *both.parameters(), *one.parameters()]
        found[backend] = [
            *ends,
            *torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True),
        ]
    for own, value in zip(found["c"], found["reference"], strict=True):
        torch.testing.assert_close(own, value, rtol=2e-5, atol=2e-5)


def test_a_backward_half_keeps_the_start_of_windows_alone() -> None:
    outline = Making(CELLS["three windows of x"], Sizes.of(8, 8, 1, None), 8).outline
    assert outline.window == 9 * 8  # three windows of three steps
    assert outline.made[1] == 4 * 8  # rows of two gates, of what they gate, and of h
    assert Making(CELLS["states of x before"], Sizes.of(8, 8, 1, None), 8).outline.made[1] <= 3 * 8


def test_a_wide_window_is_no_long_text() -> None:
    """Twice the width is about twice the text: with a case for each slot and step, compilers took minutes."""
    texts = [f"cell c {{ state h: vec; h' = 0.9 * h + conv(x, k={k}); out h' }}" for k in (16, 32)]
    lengths = [len(Making(parse(text), Sizes.of(8, 8, 1, None), 8).text) for text in texts]
    assert lengths[1] < 2.5 * lengths[0]
