from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import refused
from source_tree import ROOT
from torch import nn

from grammar import parse, zoo
from nas.errors import ExportError
from nas.exporters import ExportMismatchError, export, graphs, graphs_child, read_formats
from nas.exporters.subject import subject_of_cell

ONNX = (
    importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnxscript") is not None
)
needs_onnx = pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")


def test_formats_are_read() -> None:
    assert read_formats("cell") == ("cell",)
    assert read_formats(" pt2 ") == read_formats(["pt2", "cell"]) == ("cell", "pt2")
    with pytest.raises(
        ExportError, match=r"unknown format 'ptt2'; did you mean 'pt2'.* formats are cell, pt2, onnx, all"
    ):
        read_formats("ptt2")


def test_onnx_without_its_packages_is_refused_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "the format onnx needs the package onnx: install the extra onnx" in refused(
        "export", "zoo:elman", "-o", tmp_path / "x", "--format", "all"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_program_of_any_batch_and_number_of_steps_that_carries_its_state(tmp_path: Path) -> None:
    # Two states, one of them with a learned beginning, a window of x, two layers.
    text = "cell g { state h: vec = learned, c: vec; c' = 0.5 * c + shift(x); h' = tanh(lin(x, h) + c'); out h' }"
    made = export(
        parse(text), tmp_path / "g", formats="pt2", input_size=5, hidden_size=5, num_layers=2, seed=1
    )
    names = ["cell.json", "cell.pt2", "cell.py", "state.safetensors", "weights.safetensors"]
    assert sorted(path.name for path in made.folder.iterdir()) == names
    assert made.facts["check"]["cell.pt2"] <= 1e-5
    assert set(made.facts["files"]) == set(names) - {"cell.json"}
    for batch, steps in ((8, 4), (1, 1)):
        y, state = as_the_page_says(made.folder, torch.randn(batch, steps, 5))
        assert y.shape == (batch, steps, 5)
        assert [tuple(part.shape[:2]) for part in state] == [(2, batch)] * 3


def as_the_page_says(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.DOTALL
    )
    code = code.replace('"graphs", 8', f"{str(folder)!r}, {len(x)}")
    names: dict[str, Any] = {"x": x}
    exec(code, names)
    return names["y"], names["state"]


def test_steps_without_states_are_traced() -> None:
    class Plain(nn.Linear):
        def step(self, x_t: torch.Tensor, state: tuple[()]) -> tuple[torch.Tensor, tuple[()]]:
            return self(x_t).tanh(), state

    part = Plain(3, 2).requires_grad_(False)
    example = torch.randn(graphs_child.BATCH, graphs_child.STEPS, 3)
    dims = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("steps", min=1)}
    program = torch.export.export(graphs_child.Steps(part), (example, ()), dynamic_shapes=(dims, ()))
    for batch, steps in ((5, 4), (1, 1)):
        x = torch.randn(batch, steps, 3)
        y, state = program.module()(x, ())
        assert tuple(state) == ()
        torch.testing.assert_close(y, part(x).tanh())


@pytest.mark.slow
def test_a_program_of_a_cell_without_states(tmp_path: Path) -> None:
    text = "cell p { g = sigmoid(lin(x)); out g * tanh(lin(x)) }"
    made = export(parse(text), tmp_path / "p", formats="pt2", input_size=4, hidden_size=4, num_layers=2)
    assert made.facts["check"]["cell.pt2"] <= 1e-5
    for batch, steps in ((5, 4), (1, 1)):
        y, state = as_the_page_says(made.folder, torch.randn(batch, steps, 4))
        assert (y.shape, tuple(state)) == ((batch, steps, 4), ())


def test_names_in_onnx_all_differ() -> None:
    assert graphs_child.outputs(["h", "c"]) == ["y", "h_new", "c_new"]
    assert graphs_child.outputs(["a", "a_new"]) == ["y", "a_new_", "a_new_new"]
    assert graphs_child.outputs(["y", "a", "a_new", "a_new_"]) == [
        "y_",
        "y_new",
        "a_new__",
        "a_new_new",
        "a_new__new",
    ]


@needs_onnx
def test_onnx_of_states_whose_names_meet(tmp_path: Path) -> None:
    text = "cell m { state a: vec, a_new: vec, y: vec; a' = tanh(lin(x, a_new)); a_new' = a; y' = x + y; out y' + a }"
    made = export(parse(text), tmp_path / "m", formats="onnx", input_size=3, hidden_size=3)
    assert made.facts["check"]["cell.onnx"] <= 1e-5


@pytest.mark.slow
@needs_onnx
def test_onnx_of_a_cell_without_states(tmp_path: Path) -> None:
    made = export(
        parse("cell p { out tanh(lin(x)) }"), tmp_path / "p", formats="onnx", input_size=3, hidden_size=4
    )
    assert made.facts["check"]["cell.onnx"] <= 1e-5


def test_a_graph_that_differs_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode, stderr = 0, ""
        stdout = json.dumps({"pt2": {"y": [1e-7, 1e-7], "rest": [3e-3, 1e-7]}})

    monkeypatch.setattr(graphs, "_child", lambda *arguments: Done)
    with pytest.raises(ExportMismatchError, match=r"cell\.pt2 differs from the original: rest by 0\.003"):
        export(zoo("elman"), tmp_path / "e", formats="pt2", input_size=3, hidden_size=3)
    assert list(tmp_path.iterdir()) == []


def test_complex_states_are_none_of_onnx(tmp_path: Path) -> None:
    subject = subject_of_cell(zoo("lru"), 4, 4)
    states = [{"name": "z", "type": "cvec"}]
    with pytest.raises(ExportError, match="the states z of lru are complex, which ONNX does not have"):
        graphs.write_graphs(tmp_path, subject, ["pt2", "onnx"], states)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize(("name", "heads"), [("lstm", 1), ("gru", 1), ("slstm", 2), ("gated_deltanet", 2)])
def test_onnx_of_known_cells(name: str, heads: int, tmp_path: Path) -> None:
    made = export(zoo(name), tmp_path / name, formats="all", input_size=6, hidden_size=8, heads=heads)
    assert made.facts["check"]["cell.onnx"] <= 1e-5
    assert (made.folder / "cell.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lru", "deltaproduct", "mamba2"])
def test_programs_of_other_cells(name: str, tmp_path: Path) -> None:
    made = export(zoo(name), tmp_path / name, formats="pt2", input_size=8, hidden_size=8)
    assert made.facts["check"]["cell.pt2"] <= 1e-5
