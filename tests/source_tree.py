"""The sources as data, for the tests that keep the rules of the code base: files, syntax trees, imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = ("grammar", "search_spaces", "predictors", "nas")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: `from nas.nn import build` is ("nas.nn", "build"), `import torch` is ("torch", "")."""

    path: str
    line: int
    module: str
    name: str
    in_function: bool
    for_types: bool

    def __str__(self) -> str:
        what = f"from {self.module} import {self.name}" if self.name else f"import {self.module}"
        return f"{self.path}:{self.line}: {what}"


def sources() -> list[str]:
    """Every Python file of the four packages, as a path relative to the checkout."""
    return [relative(path) for top in TOP_LEVEL for path in sorted((ROOT / top).rglob("*.py"))]


def suite() -> list[str]:
    """Every Python file of the tests."""
    return [relative(path) for path in sorted((ROOT / "tests").rglob("*.py"))]


def packages() -> list[str]:
    """Every package by its dotted name: the folders that have an `__init__.py`."""
    return [path.removesuffix("/__init__.py").replace("/", ".") for path in sources() if _is_face(path)]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


@cache
def imports(path: str) -> tuple[Import, ...]:
    """All imports of a file, also those inside functions and under `if TYPE_CHECKING:`."""
    return tuple(_walk(path, tree(path), in_function=False, for_types=False))


def public_names(package: str) -> list[str]:
    """The public names of a package: what its `__init__` imports as `from x import X as X`, sorted."""
    found: set[str] = set()
    for node in ast.walk(tree(f"{package.replace('.', '/')}/__init__.py")):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names if alias.asname == alias.name}
    return sorted(found)


def _is_face(path: str) -> bool:
    return path.endswith("/__init__.py")


def _walk(path: str, node: ast.AST, *, in_function: bool, for_types: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(path, node.lineno, alias.name, "", in_function, for_types)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(path, node)
        for alias in node.names:
            yield Import(path, node.lineno, base, alias.name, in_function, for_types)
    in_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    guard = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        yield from _walk(path, child, in_function=in_function, for_types=for_types or guard)


def _absolute(path: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    folder = path.split("/")[: -node.level]
    return ".".join([*folder, *([node.module] if node.module else [])])
