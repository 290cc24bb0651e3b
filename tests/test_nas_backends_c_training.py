"""Head and loss in one pass, clipping and AdamW in one pass: as torch has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.backends import adamw_, can_step, linear_cross_entropy
from nas.backends.c.compiler import problem

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))


def drawn(rows: int, deep: int, classes: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, deep), (classes, deep), (classes,))
    arrays = [torch.randn(shape, generator=generator) for shape in shapes]
    return arrays, torch.randint(0, classes, (rows,), generator=generator)


def found(arrays: list[Tensor], targets: Tensor, factor: float = 1.0, plain: bool = False) -> list[Tensor]:
    own = [array.clone().requires_grad_() for array in arrays]
    loss = linear_cross_entropy(own[0], own[1], own[2], targets, plain=plain)
    return [loss.detach(), *torch.autograd.grad(factor * loss, own)]


@pytest.mark.parametrize(
    ("rows", "deep", "classes"), [(1, 1, 2), (7, 5, 3), (129, 33, 17), (300, 16, 104), (50, 8, 900)]
)
def test_head_and_loss(rows: int, deep: int, classes: int) -> None:
    arrays, targets = drawn(rows, deep, classes)
    exact = found([array.double() for array in arrays], targets)
    for own, value in zip(found(arrays, targets), exact, strict=True):
        torch.testing.assert_close(own.double(), value, rtol=1e-5, atol=1e-5 / rows)
    with torch.no_grad():
        loss = linear_cross_entropy(arrays[0], arrays[1], arrays[2], targets)
    torch.testing.assert_close(loss.double(), exact[0], rtol=1e-6, atol=1e-6)


def test_a_factor_of_the_loss_is_one_of_the_gradients() -> None:
    arrays, targets = drawn(20, 6, 9)
    for three, one in zip(found(arrays, targets, 3.0)[1:], found(arrays, targets)[1:], strict=True):
        torch.testing.assert_close(three, 3 * one)


def test_targets_that_do_not_count_and_that_are_no_class() -> None:
    arrays, targets = drawn(20, 6, 9)
    targets[[0, 7]] = -100
    exact = [array.clone().requires_grad_() for array in arrays]
    loss = F.cross_entropy(F.linear(*exact), targets)
    expected = [loss.detach(), *torch.autograd.grad(loss, exact)]
    for plain in (False, True):
        for own, value in zip(found(arrays, targets, plain=plain), expected, strict=True):
            torch.testing.assert_close(own, value)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(arrays[0], arrays[1], arrays[2], targets), loss)
    targets[3] = 9
    with pytest.raises(IndexError, match="none of the 9 classes"):
        found(arrays, targets)


def test_where_no_target_counts_the_loss_is_that_of_torch() -> None:
    arrays, targets = drawn(4, 3, 5)
    targets[:] = -100
    for plain in (False, True):
        loss, *gradients = found(arrays, targets, plain=plain)
        assert bool(loss.isnan())
        assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_inside_a_transform_of_torch_func() -> None:
    arrays, targets = drawn(4, 3, 5)
    made = torch.func.grad(lambda x: linear_cross_entropy(x, arrays[1], arrays[2], targets))(arrays[0])
    torch.testing.assert_close(made, found(arrays, targets)[1])


def test_what_does_not_fit_is_no_read_beyond_arrays() -> None:
    (x, weight, bias), targets = drawn(6, 4, 5)
    wrong: list[tuple[list[Tensor], Tensor]] = [
        ([x, weight, bias], targets[:3]),
        ([x, weight, bias], targets.view(2, 3)),
        ([x, weight, bias], targets.int()),
        ([x, weight, bias], targets.to("meta")),
        ([x, weight, bias[:2]], targets),
        ([x[:, :2], weight, bias], targets),
        ([x.view(2, 3, 4), weight, bias], targets.view(2, 3)),
    ]
    for arrays, aims in wrong:
        with pytest.raises(
            (RuntimeError, ValueError), match=r"size|shape|scalar type|device|batch_size|target|dim"
        ):
            linear_cross_entropy(arrays[0], arrays[1], arrays[2], aims)


def test_large_logits_and_nan() -> None:
    arrays, targets = drawn(20, 6, 9)
    big = [200 * arrays[0], *arrays[1:]]
    for own, plain in zip(found(big, targets), found(big, targets, plain=True), strict=True):
        torch.testing.assert_close(own, plain)
    arrays[0][4, 2] = torch.nan
    assert bool(found(arrays, targets)[0].isnan())


@pytest.mark.parametrize("clip", [0.1, 1e9])
def test_steps_as_torch_takes_them(clip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((5, 7), (3,), (2, 2, 9), (40, 40))]
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    decays = [0.1, 0.0, 0.1, 0.1]
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(theirs, decays, strict=True)]
    optimiser = torch.optim.AdamW(groups, lr=0.01)
    state = [(torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())) for p in ours]
    assert can_step(ours)
    for _ in range(5):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            other.grad = own.grad.clone()
        arrays = [(p.detach(), p.grad, *s) for p, s in zip(ours, state, strict=True) if p.grad is not None]
        norm = adamw_(arrays, decays, rate=0.01, betas=(0.9, 0.999), eps=1e-8, clip=clip)
        expected = nn.utils.clip_grad_norm_(theirs, clip)
        optimiser.step()
        assert norm == pytest.approx(float(expected), rel=1e-5)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    assert [float(steps) for _, _, steps in state] == [5.0] * 4


def test_what_is_not_float32_goes_by_torch() -> None:
    arrays, targets = drawn(20, 6, 9)
    double = [array.double() for array in arrays]
    expected = F.cross_entropy(F.linear(*double), targets)
    torch.testing.assert_close(linear_cross_entropy(double[0], double[1], double[2], targets), expected)
    assert not can_step(double)
