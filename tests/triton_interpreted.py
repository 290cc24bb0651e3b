"""Triton's kernels in its interpreter: run by test_nas_backends_triton.py in a process of its own.

TRITON_INTERPRET=1 has to be set before triton is imported, and forbids compilation ahead of time in that process.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from backend_suite import built, drawn, results
from hypothesis import given, settings
from strategies import cells
from test_nas_backends_conformance import ODD

from grammar import Cell, parse, zoo, zoo_names

# In the places that pad a tile numpy warns of what nothing reads.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
# RMS of the error over RMS of the value, by type of number. A value that should cancel, on the scale of the largest.
RATIOS = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 8e-3}
FEW = ("lstm", "mingru", "slstm", "lmu", "aaren", "gla")
SCANNED = ("mingru", "lru", "rwkv4")  # one slot, two, and max-plus
TIME = [name for name in zoo_names() if zoo(name).kind == "time"]
REAL = [n for n in TIME if not any(s.type.is_complex for s in zoo(n).states)]  # torch has no complex bfloat16
RANDOM = settings(max_examples=40)


def agrees(cell: Cell, dtype: torch.dtype, steps: int = 5) -> None:
    """Outputs, final states and every gradient are the reference's in float64, at weights and x of that type."""
    module, plain = built(cell, "triton", dtype), built(cell)
    plain.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    ours, theirs = results(module, drawn(module, steps)), results(plain, drawn(module, steps).double())
    assert list(ours) == list(theirs)
    largest = max(
        float(v.abs().square().mean().sqrt()) for v in theirs.values() if bool(torch.isfinite(v.abs()).all())
    )
    for what, value in theirs.items():
        if not value.numel() or not bool(torch.isfinite(value.abs()).all()):
            continue
        error = float((ours[what].to(value.dtype) - value).abs().square().mean().sqrt())
        scale = float(value.abs().square().mean().sqrt())
        assert error <= RATIOS[dtype] * (scale + 1e-3 * largest), f"{what}: {error / (scale + 1e-30):.1e}"
        assert math.isfinite(error)


@pytest.mark.parametrize("name", FEW)
def test_known_cells(name: str) -> None:
    agrees(zoo(name), torch.float32)


@pytest.mark.parametrize("name", ["gru"])
def test_bfloat16(name: str) -> None:
    agrees(zoo(name), torch.bfloat16)


@pytest.mark.parametrize("name", SCANNED)
def test_scans(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.execute.LONG", 1)
    monkeypatch.setattr("nas.backends.triton.scan.STEPS", 4)
    agrees(zoo(name), torch.float32, steps=7)  # more than one chunk


def test_matrices_read_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.tiles.CHIP", 0)
    agrees(zoo("gru_cho"), torch.float32)


@pytest.mark.parametrize("name", ["gru_cho"])
def test_step_by_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.tiles.CHIP", 0)
    monkeypatch.setattr("nas.backends.triton.tiles.MATRIX", 0)
    agrees(zoo(name), torch.float32)


def test_equal_lengths_and_several_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.tiles.LANES", 8)  # 5 sequences of 8 values are 5 programs
    module, plain = built(zoo("mingru"), "triton"), built(zoo("mingru"))
    x = torch.randn(5, 8, module.input_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ours, theirs in zip(module(x), plain(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", RATIOS, ids=str)
@pytest.mark.parametrize("name", TIME)
def test_every_known_cell(name: str, dtype: torch.dtype) -> None:
    if dtype != torch.bfloat16 or name in REAL:
        agrees(zoo(name), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mingru", "minlstm", "hgrn", "lru", "rwkv4", "qrnn", "sru", "indrnn"])
def test_long_scans(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.execute.LONG", 1)
    agrees(zoo(name), torch.float64, steps=70)


@pytest.mark.slow
@pytest.mark.parametrize("text", ODD)
def test_odd_cells(text: str) -> None:
    cell = parse(f"cell odd {{ {text} }}")
    if cell.kind == "time" and " depth " not in text:
        agrees(cell, torch.float64)


@pytest.mark.slow
@RANDOM
@given(cell=cells(kinds=("time",), smooth=True))
def test_random_cells(cell: Cell) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agrees(cell, torch.float64)
