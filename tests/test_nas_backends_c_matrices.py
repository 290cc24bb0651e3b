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


@pytest.mark.parametrize(("r", "n", "w"), [*SHAPES, (300, 9, 40), (1, 40, 3)])
def test_gram(r: int, n: int, w: int) -> None:
    a, b = torch.randn(r, n + 2), torch.randn(r, w + 1)
    c = torch.full((n, w + 4), torch.nan)
    call("gram", r, n, w, a, n + 2, b, w + 1, c, w + 4, 0)
    expected = a[:, :n].t() @ b[:, :w]
    torch.testing.assert_close(c[:, :w], expected, rtol=1e-4, atol=1e-4)
    assert bool(c[:, w:].isnan().all())
    call("gram", r, n, w, a, n + 2, b, w + 1, c, w + 4, 1)
    torch.testing.assert_close(c[:, :w], 2 * expected, rtol=1e-4, atol=1e-4)


def test_nothing_sums_to_zero() -> None:
    c = torch.full((3, 4), torch.nan)
    call("gram", 0, 3, 4, c, 3, c, 4, c, 4, 0)
    assert bool((c == 0).all())


@pytest.mark.parametrize(("r", "n"), [(1, 1), (5, 40), (700, 33)])
def test_columns(r: int, n: int) -> None:
    a, c = torch.randn(r, n + 1), torch.empty(n)
    call("columns", r, n, a, n + 1, c)
    torch.testing.assert_close(c, a[:, :n].sum(0), rtol=1e-4, atol=1e-5)
