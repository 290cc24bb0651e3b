"""Runners and operators of tensors with an axis over candidates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grammar import Sizes, parse, zoo
from nas.backends import Steps, candidates_runner, runner
from nas.backends.c.compiler import problem
from nas.ir import compile_program
from nas.nn import build

COUNT, BATCH, STEPS, WIDTH = 2, 3, 4, 8
SIZES = Sizes.of(WIDTH, WIDTH, 2)
needs_c = pytest.mark.skipif(problem() is not None, reason=str(problem()))


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def weights_of(name: str) -> list[Tensor]:
    module = build(zoo(name), WIDTH, WIDTH, heads=2, backend="reference")
    return [drawn(COUNT, *p.shape) * 0.3 for p in module.parameters()]


@needs_c
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gla"])
def test_the_operator_takes_the_axis(name: str, shared: bool) -> None:
    compiled: Any = runner("c", zoo(name), SIZES)
    x = drawn(*([] if shared else [COUNT]), BATCH * STEPS, WIDTH).expand(COUNT, -1, -1).requires_grad_()
    weights = [w.requires_grad_() for w in weights_of(name)]
    state = [drawn(COUNT, BATCH, *slot.shape).requires_grad_() for slot in compiled.slots]
    layout = (None, BATCH, STEPS, False, False)
    given = (compiled.key, x, weights, state, [True] * len(state), *layout, True)
    torch.library.opcheck(torch.ops.recell.cell.default, given)


@pytest.mark.parametrize("options", [{}, {"reverse": True}], ids=["ahead", "reverse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@needs_c
def test_rows_by_sequence_and_backwards(dtype: torch.dtype, options: dict[str, bool]) -> None:
    one, many = (make("c", zoo("gru"), SIZES) for make in (runner, candidates_runner))
    steps, x = Steps.same(BATCH, STEPS, by_sequence=True), drawn(COUNT, BATCH * STEPS, WIDTH).to(dtype)
    weights = [w.to(dtype) for w in weights_of("gru")]
    strided = torch.empty(WIDTH, COUNT, BATCH * STEPS, dtype=dtype).permute(1, 2, 0).copy_(x)
    for given in (x, strided):
        y, (h,) = many(given, weights, [None], steps, **options)  # type: ignore[list-item]
        for c in range(COUNT):
            own = one(x[c], [w[c] for w in weights], [None], steps, **options)  # type: ignore[list-item]
            torch.testing.assert_close((y[c], (h[c],)), own)


def test_rounds_end_where_those_of_single_candidates_do() -> None:
    """A value decides how many rounds there are, which cannot be asked for of all candidates at once."""
    cell = parse(
        "cell rounds { state h: vec; depth 3 until(sigmoid(lin:scal(h) + hsum(x)))"
        " { h' = tanh(lin(h) + lin(x)) }; out h' }"
    )
    arrays = list(build(cell, WIDTH, WIDTH, heads=2, backend="reference").parameters())
    weights = [drawn(COUNT, *p.shape) for p in arrays]
    one, many = (make("reference", cell, SIZES) for make in (runner, candidates_runner))
    x, h = drawn(COUNT, BATCH * STEPS, WIDTH), drawn(COUNT, BATCH, WIDTH)
    assert [slot.name for slot in compile_program(cell).slots] == ["h"]
    y, (after,) = many(x, weights, [h], Steps.same(BATCH, STEPS))
    for c in range(COUNT):
        own = one(x[c], [w[c] for w in weights], [h[c]], Steps.same(BATCH, STEPS))
        torch.testing.assert_close((y[c], (after[c],)), own, rtol=1e-5, atol=1e-6)


def test_a_cell_without_weights() -> None:
    cell = parse("cell plain { state h: vec; h' = 0.5 * h + x; out h' }")
    x, h = drawn(BATCH * STEPS, WIDTH), drawn(COUNT, BATCH, WIDTH)
    for backend in ("reference", *(["c"] if problem() is None else [])):
        many = candidates_runner(backend, cell, SIZES)
        y, (after,) = many(x.expand(COUNT, -1, -1), [], [h], Steps.same(BATCH, STEPS))
        for c in range(COUNT):
            own = runner(backend, cell, SIZES)(x, [], [h[c]], Steps.same(BATCH, STEPS))
            torch.testing.assert_close((y[c], (after[c],)), own)
