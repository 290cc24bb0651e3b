"""What users keep: the text of exported files, compared with golden files."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

from grammar import Cell, parse, zoo
from nas.errors import ExportError
from nas.exporters.source import ModelSizes, Sizes, cell_source

GOLDEN = Path(__file__).parent / "golden"
SAMPLED = """cell gated {
  state h: vec, c: vec
  g1 = sigmoid(lin(x, c))
  v1 = tanh(lin(x) + g1 * lin(h, bias=no))
  c' = lerp(g1, v1, c)
  h' = (1 - g1) * tanh(c') + lerp(0.9, relu(lin(x, h)), h)
  out h'
}"""
GOLDEN_FILES = {
    "cell_lstm.py.txt": (zoo("lstm"), Sizes(32, 48, 2), None),
    "cell_sampled.py.txt": (parse(SAMPLED), Sizes(40, 40), ModelSizes(97, 97, True)),
}


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files(name: str, request: pytest.FixtureRequest) -> None:
    cell, sizes, model = GOLDEN_FILES[name]
    text = cell_source(cell, cell.name, sizes, f"{cell.name}.\n\nA golden file.", model).text
    if request.config.getoption("--update-golden"):
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["lstm", "gated_deltanet", "mamba", "lru"])
def test_a_file_imports_torch_and_nothing_else_but_safetensors_to_load(name: str) -> None:
    module = ast.parse(source(zoo(name)))
    inner = [
        node
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    ]
    outer = [m for node in ast.walk(module) if node not in inner for m in modules(node)]
    assert set(outer) <= {"__future__", "math", "pathlib", "torch", "torch.nn.functional"}
    assert [
        (f.name, m)
        for f in ast.walk(module)
        if isinstance(f, ast.FunctionDef)
        for n in ast.walk(f)
        for m in modules(n)
    ] == [("load", "safetensors.torch")]


def modules(node: ast.AST) -> list[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize("name", ["lstm", "gated_deltanet", "mamba", "rwkv7"])
def test_lines_are_short_and_helpers_are_those_that_are_used(name: str) -> None:
    text = source(zoo(name))
    module = ast.parse(text)
    functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)} - {"load"}
    called = {ast.unparse(node.func) for node in ast.walk(module) if isinstance(node, ast.Call)}
    assert functions <= called
    assert max(map(len, text.splitlines())) <= 120


def test_quotes_and_backslashes_in_the_docstring_are_harmless() -> None:
    doc = 'a """ and a \\ and \\n and """'
    module = ast.parse(cell_source(zoo("elman"), "elman", Sizes(4, 4), doc).text)
    assert ast.get_docstring(module) == doc


def test_a_lone_state_is_a_tensor_and_several_are_a_tuple() -> None:
    y, state = made(zoo("gru"), Sizes(4, 6, 2))(torch.zeros(3, 5, 4))
    assert y.shape == (3, 5, 6)
    assert state.shape == (2, 3, 6)
    _, states = made(zoo("lstm"), Sizes(4, 6))(torch.zeros(3, 5, 4))
    assert [tuple(s.shape) for s in states] == [(1, 3, 6), (1, 3, 6)]


def test_sizes_are_defaults_that_can_be_changed() -> None:
    space = run(source(zoo("retnet"), heads=2))
    module = space["Cell"](input_size=3, hidden_size=10, num_layers=3)
    assert module.init_state(4).shape == (3, 4, 2, 5, 5)
    assert module.step(torch.zeros(4, 3))[0].shape == (4, 10)


def test_layers_of_different_width_cannot_remember_x() -> None:
    cell = parse("cell a { state h: vec; h' = lin(shift(x), h); out h' }")
    with pytest.raises(ExportError, match=r"remembers x itself, so layers above .* received 3 and 4"):
        cell_source(cell, "a", Sizes(3, 4, 2), "")
    assert cell_source(cell, "a", Sizes(3, 4, 1), "").states[1] == {
        "name": "shifted_last",
        "type": "in",
        "shape": "[layers, B, D]",
    }


def source(cell: Cell, heads: int = 1) -> str:
    return cell_source(cell, cell.name, Sizes(8, 8, heads=heads), "doc").text


def made(cell: Cell, sizes: Sizes) -> Any:
    return run(cell_source(cell, cell.name, sizes, "doc").text)["Cell"]()


def run(text: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "exported"}
    exec(compile(text, "cell.py", "exec"), space)
    return space
