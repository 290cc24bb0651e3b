"""From a name, a file, a text or a sketch to a space."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from grammar import Sketch, one_newline, suggest, zoo
from search_spaces.errors import SpaceError, SpaceFileError, UnknownSpaceError
from search_spaces.grammar_space import GrammarSpace
from search_spaces.sketch_file import claim_span, has_sketches, read_sketches, sketch_space
from search_spaces.space import Space

SUFFIX = ".space"
SUFFIXES = (SUFFIX, ".cell")  # of files: rules, or a sketch
_NAME = 60  # characters of a wrong name that an error repeats


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
            f"or a file that ends in {' or '.join(SUFFIXES)}"
        )
    return resources.files("search_spaces").joinpath("spaces", name + SUFFIX).read_text(encoding="utf-8")


def load_space(source: str | Path | Sketch) -> Space:
    """A shipped space by name, the space in a file, or the one that a text or a sketch describes.

    A text, or what is in a file, is a space file or a sketch: a cell with `choice{...}` holes. Raises
    UnknownSpaceError for a name that is neither, SpaceFileError for a fault in a text, with its place.
    """
    if isinstance(source, Sketch):
        return sketch_space(source)
    if not isinstance(source, str | Path):
        raise SpaceError(
            f"a space is a name, a file, a text or a Sketch; received {source!r:.60} of type {type(source).__name__}"
        )
    if isinstance(source, str):
        if source in space_names():
            return _shipped(source)
        if "{" in source:
            return read_space(source)
    path, source = Path(source), str(source)
    try:
        there = path.is_file()
    except (OSError, ValueError):  # no system takes that for a name
        there = False
    if not there and path.suffix not in SUFFIXES:
        space_text(source if len(source) <= _NAME else f"{source[:_NAME]}...")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpaceError(f"the space file {source!r} is not text in UTF-8 (byte {error.start:,})") from None
    except (OSError, ValueError) as error:
        raise SpaceError(f"the space file {source!r} cannot be read: {error}") from error
    return read_space(text, str(path))


def read_space(text: str, source: str = "<text>") -> Space:
    """The space that a text describes; `source` names it in errors.

    Lines may end as on any system. The cells of the zoo that it claims must be members. Raises SpaceFileError with its
    place.
    """
    text = one_newline(text)
    space = read_sketches(text, source) if has_sketches(text) else GrammarSpace(text, source)
    for claim in space.claims:
        why = space.why_not(zoo(claim))
        if why is not None:
            problem = f"`claims {claim}`: this cell of the zoo is no member: {why}"
            raise SpaceFileError(problem, claim_span(text, claim)).locate(text, source)
    return space


@cache
def _shipped(name: str) -> Space:
    return read_space(space_text(name), f"{name}{SUFFIX}")
