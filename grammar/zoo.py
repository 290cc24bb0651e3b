"""The known cells: one text file each in `grammar/zoo`, with its paper in the comment."""

from __future__ import annotations

from functools import cache
from importlib import resources

from grammar.cell import Cell, parse
from grammar.errors import UnknownNameError, suggest


@cache
def zoo_names() -> tuple[str, ...]:
    """The names of all known cells, in alphabetical order."""
    folder = resources.files("grammar").joinpath("zoo")
    return tuple(sorted(f.name.removesuffix(".cell") for f in folder.iterdir() if f.name.endswith(".cell")))


def zoo_text(name: str) -> str:
    """The file of a known cell as it stands, comments included. Raises UnknownNameError."""
    if name not in zoo_names():
        raise UnknownNameError(
            f"the zoo has no cell {name!r}{suggest(str(name), zoo_names())} (`recell zoo` lists all)"
        )
    path = resources.files("grammar").joinpath("zoo", f"{name}.cell")
    return path.read_text(encoding="utf-8")


def zoo(name: str) -> Cell:
    """A known cell by name, as in `zoo("lstm")`. Raises UnknownNameError with a suggestion."""
    return parse(zoo_text(name), source=f"zoo:{name}")


def zoo_doc(name: str) -> str:
    """The comment at the head of a known cell's file: what it is, and its paper."""
    lines = [line for line in zoo_text(name).splitlines() if line.startswith("#")]
    return "\n".join(line.lstrip("# ").rstrip() for line in lines)
