"""The matrix products that all cells share, at sizes that fit no register tile."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from nas.backends.c.compiler import KIT, kit, problem

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

SHAPES = [(1, 1, 1), (3, 40, 40), (7, 33, 5), (8, 32, 64), (13, 17, 96), (70, 129, 31), (2, 100, 260)]


@pytest.fixture(autouse=True)
def drawn_the_same() -> None:
    torch.manual_seed(0)


def call(name: str, *values: int | Tensor) -> None:
    kinds = [ctypes.c_void_p if isinstance(v, Tensor) else ctypes.c_long for v in values]
    function = ctypes.CFUNCTYPE(None, *kinds)(kit()[KIT.index(name)])
    function(*(v.data_ptr() if isinstance(v, Tensor) else v for v in values))


def packed(w: Tensor, pieces: int = 1) -> Tensor:
    """The matrix w `[out, in]` as products take it; `pieces` of its rows are packed one after the other."""
    n, k = w.shape
    p = torch.full((k * (n + 64) + 16,), torch.nan)
    p = p[-p.data_ptr() // 4 % 16 :]
    first = 0
    for part in w.tensor_split(pieces):
        call("pack", p, k, n, 0, first, part.contiguous(), k, len(part), 1, k)
        first += len(part)
    return p


@pytest.mark.parametrize("name", ["product", "rows"])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_product(m: int, n: int, k: int, name: str) -> None:
    a, w = torch.randn(m, k + 3), torch.randn(n, k)
    c = torch.full((m, n + 5), torch.nan)
    p = packed(w, pieces=min(n, 3))
    call(name, m, n, k, a, k + 3, p, c, n + 5, 0)
    torch.testing.assert_close(c[:, :n], a[:, :k] @ w.t(), rtol=1e-5, atol=1e-4)
    assert bool(c[:, n:].isnan().all()), "nothing is written beside the result"
    before = c[:, :n].clone()
    call(name, m, n, k, a, k + 3, p, c, n + 5, 1)
    torch.testing.assert_close(c[:, :n], 2 * before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("r", "n", "w"), SHAPES)
def test_rows_of_a_table(r: int, n: int, w: int) -> None:
    table, at = torch.randn(n, w), torch.randint(0, n, (r,))
    c = torch.full((r, w + 3), torch.nan)
    call("gather", r, w, table, at, c, w + 3, 0)
    call("gather", r, w, table, at, c, w + 3, 1)
    torch.testing.assert_close(c[:, :w], 2 * table[at])
    sums = torch.full((n, w), torch.nan)
    call("scatter", r, n, w, c, w + 3, at, sums)
    torch.testing.assert_close(sums, torch.zeros(n, w).index_add(0, at, c[:, :w]))


@pytest.mark.parametrize(
    ("r", "n", "w"), [*SHAPES, (300, 9, 40), (1, 40, 3), (300, 1030, 270), (40, 530, 517)]
)
def test_gram(r: int, n: int, w: int) -> None:
    a, b = torch.randn(r, n + 2), torch.randn(r, w + 1)
    c = torch.full((n, w + 4), torch.nan)
    call("gram", r, n, w, a, n + 2, b, w + 1, c, w + 4, 0)
    expected = a[:, :n].t() @ b[:, :w]
    torch.testing.assert_close(c[:, :w], expected, rtol=1e-4, atol=1e-4)
    assert bool(c[:, w:].isnan().all())
    call("gram", r, n, w, a, n + 2, b, w + 1, c, w + 4, 1)
    torch.testing.assert_close(c[:, :w], 2 * expected, rtol=1e-4, atol=1e-4)


def off(found: Tensor, a: Tensor, b: Tensor) -> float:
    """The RMS of the error of a @ b over its RMS."""
    exact = a.double() @ b.double()
    return float((found - exact).norm() / exact.norm())


def test_long_sums_round_like_short_ones() -> None:
    """One sum of 1,000 terms, each rounding what was summed before it, would err 6e-7 and more."""
    a, w, c = torch.randn(8, 1000), torch.randn(40, 1000), torch.empty(8, 40)
    call("product", 8, 40, 1000, a, 1000, packed(w), c, 40, 0)
    assert off(c, a, w.t()) < 3e-7
    rows, beside, total = torch.randn(1500, 600), torch.randn(1500, 480), torch.empty(600, 480)
    for n, w_ in ((600, 480), (40, 48)):  # a large result is put by less often
        call("gram", 1500, n, w_, rows, 600, beside, 480, total, 480, 0)
        assert off(total[:n, :w_], rows[:, :n].t(), beside[:, :w_]) < 4e-7


def test_what_is_there_is_added_to_a_whole_sum() -> None:
    """Three maps of 40 numbers, one after the other, err as one does, and not as a sum of 120 terms in one go."""
    a, w, c = torch.randn(64, 120), torch.randn(40, 120), torch.empty(64, 40)
    for k in range(3):
        part = slice(40 * k, 40 * k + 40)
        call(
            "product", 64, 40, 40, a[:, part].contiguous(), 40, packed(w[:, part].contiguous()), c, 40, k > 0
        )
    assert off(c, a, w.t()) < 1.6e-7


def test_nothing_sums_to_zero() -> None:
    c = torch.full((3, 4), torch.nan)
    call("gram", 0, 3, 4, c, 3, c, 4, c, 4, 0)
    assert bool((c == 0).all())


@pytest.mark.parametrize(("r", "n"), [(1, 1), (5, 40), (700, 33)])
def test_columns(r: int, n: int) -> None:
    a, c = torch.randn(r, n + 1), torch.empty(n)
    call("columns", r, n, a, n + 1, c)
    torch.testing.assert_close(c, a[:, :n].sum(0), rtol=1e-4, atol=1e-5)
