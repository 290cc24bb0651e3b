"""Files and functions stay short enough to read at one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from source_tree import ROOT, sources, suite, tree

FILE_LINES = 500
FUNCTION_LINES = 60  # without the docstring
SEARCHER_LINES = 300
# Longer on purpose, each for a reason that is written beside it. Kernels' templates are text files and not counted.
LONG_FUNCTIONS: dict[str, int] = {}


@pytest.mark.parametrize("path", sources() + suite())
def test_file_is_short(path: str) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    limit = SEARCHER_LINES if path.startswith("nas/searchers/") else FILE_LINES
    assert lines <= limit, f"{path} has {lines} lines, at most {limit}: is it still one thing?"


def test_functions_are_short() -> None:
    long = {
        f"{path}::{name}": lines
        for path in sources() + suite()
        for name, lines in functions(path)
        if lines > FUNCTION_LINES
    }
    over = [f"{name}: {n}" for name, n in long.items() if n > LONG_FUNCTIONS.get(name, FUNCTION_LINES)]
    assert not over, f"functions of over {FUNCTION_LINES} lines:\n" + "\n".join(over)
    assert set(LONG_FUNCTIONS) <= set(long), "LONG_FUNCTIONS names functions that are short or gone"


def functions(path: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if ast.get_docstring(node) is not None and len(node.body) > 1:
                first = node.body[1]
            yield node.name, (node.end_lineno or node.lineno) - first.lineno + 1
