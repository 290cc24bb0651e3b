from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from grammar import fingerprint, zoo

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "own_table.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_table"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(script: ModuleType) -> list[object]:
    found: list[object] = script.draw(3, {"gated": (6, 4), "diagonal": (3, 2)})
    return found


def test_no_two_cells_compute_the_same(drawn: list[object]) -> None:
    cells = [one.cell for one in drawn]  # type: ignore[attr-defined]
    assert len({cell.digest for cell in cells}) == len({fingerprint(cell) for cell in cells}) == len(cells)
    origins = [one.origin for one in drawn]  # type: ignore[attr-defined]
    assert origins.count("sample") == 9
    assert origins.count("mutant") == 6
    assert zoo("lstm").digest in {cell.digest for cell in cells}


def test_where_cells_are_from_can_be_read_back(
    script: ModuleType, drawn: list[object], tmp_path: Path
) -> None:
    path = tmp_path / "cells.txt"
    script.write_cells(drawn, path)
    about = script.read_cells(path)
    assert len(about) == len(drawn)
    assert about[zoo("gru").digest] == {"origin": "zoo", "space": "", "name": "gru"}


def test_same_rows_same_bytes(script: ModuleType, tmp_path: Path) -> None:
    rows = [{"cell": "c", "score": None}, {"cell": "d", "score": 1.5}]
    for name in ("a", "b"):
        script.write_table(rows, tmp_path / name / "t.jsonl.gz")
    first, second = ((tmp_path / name / "t.jsonl.gz").read_bytes() for name in ("a", "b"))
    assert first == second
    assert [json.loads(line) for line in gzip.decompress(first).decode().splitlines()] == rows


def test_shares_are_read(script: ModuleType) -> None:
    assert script.read_shares("gated=12+3") == ("gated", (12, 3))
    with pytest.raises(script.argparse.ArgumentTypeError, match="NAME=SAMPLES"):
        script.read_shares("gated=12")
    assert "zoo" not in {one.origin for one in script.draw(3, {"gated": (4, 2)}, False)}
