"""The README says what is there: its file map, its glossary and its commands are compared with the code."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest
import typer
from source_tree import ROOT, TOP_LEVEL, relative

NOUNS = "Cell Sketch Op Space Program Backend CellModule Task Predictor Searcher".split()
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/security.md",
    "docs/listops.md",
    "docs/spaces.md",
    "docs/tasks.md",
    "docs/importers.md",
    "docs/ensembles.md",
    "docs/export.md",
)


def test_file_map_is_what_is_on_disk() -> None:
    mapped = dict(file_map())
    gone = sorted(path for path in mapped if not (ROOT / path).exists())
    assert not gone, f"the file map names what is not there: {gone}"
    # A folder with nothing below it in the map stands for all of its files.
    whole = tuple(
        p for p in mapped if p.endswith("/") and not any(q != p and q.startswith(p) for q in mapped)
    )
    unlisted = sorted(path for path in on_disk() if path not in mapped and not path.startswith(whole))
    assert not unlisted, f"these have no line in the README's file map: {unlisted}"
    assert all(mapped.values()), "a line of the file map says what the file is for"


def test_glossary_has_the_ten_nouns_and_they_exist() -> None:
    rows = re.findall(r"^\| (\w+) \| .* \| `([\w.]+)` \|$", section("Glossary"), re.MULTILINE)
    assert [noun for noun, _ in rows] == NOUNS
    for _, where in rows:
        module, name = where.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), where


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist_and_take_their_options(document: str) -> None:
    from nas.cli import app

    root = typer.main.get_group(app)
    for line in command_lines(document):
        words = shlex.split(line, comments=True)[1:]
        command = root.commands.get(words[0])
        assert command is not None, f"{document}: {line}"
        known = {
            flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        given = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        assert given <= known | {"--help"}, f"{document}: {line}"


@pytest.mark.parametrize(
    ("document", "shape"),
    [("README.md", (8, 100, 64)), ("docs/listops.md", (8, 19, 32)), ("docs/ensembles.md", (4, 8, 20, 16))],
)
def test_example_in_python_runs(document: str, shape: tuple[int, ...]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", read(document), re.MULTILINE | re.DOTALL)
    lines = [line for line in example.splitlines() if "runs/" not in line]
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    assert tuple(names["y"].shape) == shape  # type: ignore[attr-defined]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    folders = (*TOP_LEVEL, "tests", "scripts", "docs")
    named = re.findall(rf"(?:`|\()((?:{'|'.join(folders)})/[\w./]+)(?:`|\))", read(document))
    forbidden = {f"tests/{top}/" for top in TOP_LEVEL}  # CONTRIBUTING.md says that these must never be
    missing = sorted({path for path in named if not (ROOT / path).exists()} - forbidden)
    assert not missing, f"{document} names {missing}"


def test_change_log_has_a_section_for_what_comes_next() -> None:
    assert "\n## [Unreleased]\n" in read("CHANGELOG.md")


def file_map() -> list[tuple[str, str]]:
    """(path, purpose) of each line of the map; indented lines lie in the folder above them."""
    found: list[tuple[str, str]] = []
    parents: list[str] = []
    for line in section("File map").splitlines():
        entry = re.fullmatch(r"    ((?:  )*)(\S+)(?:\s+(.*))?", line)
        if entry:
            indent, name, purpose = entry.groups()
            parents = parents[: len(indent) // 2]
            found.append(("".join(parents) + name, purpose or ""))
            if name.endswith("/"):
                parents.append(name)
    return found


def on_disk() -> list[str]:
    """What needs a line: the files of the packages, the scripts and the documents."""
    found = [path for top in (*TOP_LEVEL, "scripts", "docs") for path in (ROOT / top).rglob("*")]
    kept = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    return [relative(path) for path in kept if path.name not in {"__init__.py", "py.typed"}]


def command_lines(document: str) -> list[str]:
    return [line.strip() for line in read(document).splitlines() if re.match(r"    recell \w", line)]


def section(title: str) -> str:
    return read("README.md").split(f"\n## {title}\n")[1].split("\n## ")[0]


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")
