"""The functions of vectors.h against float64, and what they do with infinities, NaN and numbers at the edge."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nas.backends.c.compiler import lanes, load, problem

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

# name -> (what it is, how large its relative error may be)
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "exp": (torch.exp, 2e-7),
    "tanh": (torch.tanh, 3e-7),
    "sigmoid": (torch.sigmoid, 3e-7),
    "softplus": (lambda a: torch.nn.functional.softplus(a, threshold=40.0), 3e-7),
    "log": (torch.log, 2e-7),
    "erf": (torch.erf, 3e-7),
    "sin": (torch.sin, 3e-7),
    "cos": (torch.cos, 3e-7),
    "sqrt": (torch.sqrt, 2e-7),
    "rsqrt": (torch.rsqrt, 2e-7),
    "recip": (torch.reciprocal, 2e-7),
    "relu": (torch.relu, 0.0),
    "sign": (torch.sign, 0.0),
    "abs": (torch.abs, 0.0),
    "step": (lambda a: (a > 0).to(a.dtype), 0.0),
}
POSITIVE = ("log", "sqrt", "rsqrt")
EDGES = (
    0.0,
    -0.0,
    torch.inf,
    -torch.inf,
    torch.nan,
    1e-42,
    -1.0,
    88.5,
    -87.0,
    -104.0,
    104.0,
    1e30,
    -1e30,
    9e3,
    1.0,
    0.5,
)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    loop = "for (long i = 0; i < n; i += VL) vstore(b + i, v{0}(vload(a + i)));"
    text = "".join(
        f"void t_{n}(const float *a, float *b, long n) {{ {loop.format(n)} }}\n" for n in FUNCTIONS
    )
    return load(text + SUMS)


SUMS = """
void t_sums(const float *a, float *b) {
  V r[VL];
  for (int i = 0; i < VL; i++) r[i] = vload(a + i * VL);
  vstore(b, vsums(r));
  for (int i = 0; i < VL; i++) b[VL + i] = vsum(r[i]);
}
void t_parts(const float *a, float *b, long n) {
  vstoren(b, vloadn(a, n), n);
  vstore(b + VL, vkeep(vload(a), n));
  vstore(b + 2 * VL, vfill(vload(a), n));
}
"""


def applied(library: ctypes.CDLL, name: str, x: Tensor) -> Tensor:
    padded = torch.zeros(-(-len(x) // 16) * 16)
    padded[: len(x)] = x
    y = torch.empty_like(padded)
    library[f"t_{name}"](
        ctypes.c_void_p(padded.data_ptr()), ctypes.c_void_p(y.data_ptr()), ctypes.c_long(len(padded))
    )
    return y[: len(x)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_relative_error(name: str, library: ctypes.CDLL) -> None:
    function, tolerance = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [
            torch.randn(1 << 14, generator=generator),
            20 * torch.randn(1 << 14, generator=generator),
            1e-3 * torch.randn(1 << 12, generator=generator),
        ]
    )
    x = x.abs() + 1e-30 if name in POSITIVE else x
    expected = function(x.double())
    found = applied(library, name, x).double()
    usual = expected.isfinite() & ((expected == 0) | (expected.abs() > 1.2e-38)) & (expected.abs() < 3e38)
    error = (found - expected).abs()[usual] / expected.abs()[usual].clamp(min=1e-45)
    assert error.max() <= tolerance, f"worst at {x[usual][error.argmax()]}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges(name: str, library: ctypes.CDLL) -> None:
    x = torch.tensor(EDGES)
    expected = FUNCTIONS[name][0](x.double()).float()
    found = applied(library, name, x)
    # what rounds to a denormal number may become 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1.2e-38, equal_nan=True)


def test_sums_of_many_vectors(library: ctypes.CDLL) -> None:
    width = lanes()
    a, b = torch.randn(width, width, generator=torch.Generator().manual_seed(0)), torch.empty(2 * width)
    library["t_sums"](ctypes.c_void_p(a.data_ptr()), ctypes.c_void_p(b.data_ptr()))
    torch.testing.assert_close(b[:width], a.sum(1))
    torch.testing.assert_close(b[width:], a.sum(1))


def test_parts_of_vectors(library: ctypes.CDLL) -> None:
    width = lanes()
    for n in range(1, width + 1):
        a, b = torch.randn(width), torch.full((3 * width,), 7.0)
        library["t_parts"](ctypes.c_void_p(a.data_ptr()), ctypes.c_void_p(b.data_ptr()), ctypes.c_long(n))
        stored, kept, filled = b.view(3, width)
        assert torch.equal(stored[:n], a[:n])
        assert bool((stored[n:] == 7).all())
        assert torch.equal(kept, torch.cat([a[:n], torch.zeros(width - n)]))
        assert torch.equal(filled, torch.cat([a[:n], torch.full((width - n,), -torch.inf)]))
