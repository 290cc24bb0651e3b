"""The triton backend on a CUDA device: the tests of the interpreter, on kernels that Triton compiles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conformance import whole_float32
from triton_interpreted import REAL, SCANNED, TIME, agrees

from grammar import zoo

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _whole_float32() -> Iterator[None]:
    with whole_float32():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", TIME)
def test_known_cells(name: str, dtype: torch.dtype) -> None:
    if dtype == torch.float32 or name in REAL:
        agrees(zoo(name), dtype, steps=63, device="cuda")


@pytest.mark.parametrize("name", SCANNED)
def test_scans(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.execute.LONG", 1)
    agrees(zoo(name), torch.float32, steps=200, device="cuda")


def test_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.tiles.CHIP", 0)
    monkeypatch.setattr("nas.backends.triton.tiles.MATRIX", 0)
    agrees(zoo("gru_cho"), torch.float32, steps=63, device="cuda")
