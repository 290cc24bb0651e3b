"""From a name or a file to a space."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from grammar import suggest
from search_spaces.errors import SpaceError, UnknownSpaceError
from search_spaces.space import Space

SUFFIX = ".space"


@cache
def space_names() -> tuple[str, ...]:
    """The names of the spaces that come with recell."""
    folder = resources.files("search_spaces").joinpath("spaces")
    return tuple(sorted(f.name[: -len(SUFFIX)] for f in folder.iterdir() if f.name.endswith(SUFFIX)))


def space_text(name: str) -> str:
    """The file of a shipped space. Raises UnknownSpaceError with a suggestion."""
    if name not in space_names():
        raise UnknownSpaceError(
            f"unknown space {name!r}{suggest(name, space_names()) or '.'} The spaces are {', '.join(space_names())}, "
            f"or a file that ends in {SUFFIX}"
        )
    return resources.files("search_spaces").joinpath("spaces", name + SUFFIX).read_text(encoding="utf-8")


def load_space(name_or_path: str) -> Space:
    """A shipped space by name, or the space in a file.

    Raises UnknownSpaceError for a name that is neither, SpaceFileError for a fault in the file, with its place.
    """
    path = Path(name_or_path)
    if name_or_path in space_names():
        return _shipped(name_or_path)
    if not path.is_file() and path.suffix != SUFFIX:
        space_text(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"the space file {name_or_path!r} cannot be read: {error}") from error
    return Space(text, str(path))


@cache
def _shipped(name: str) -> Space:
    return Space(space_text(name), f"{name}{SUFFIX}")
