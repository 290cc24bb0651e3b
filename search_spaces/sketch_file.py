"""Text to a space of sketches: the text of one sketch, or `space NAME { cell ... cell ... }` with several."""

from __future__ import annotations

import re
from dataclasses import dataclass

from grammar import LocatedError, Sketch, Span, one_newline, parse_sketch, suggest, zoo_names
from search_spaces import reader
from search_spaces.check import doc
from search_spaces.errors import SpaceFileError
from search_spaces.reader import Named, SpaceFile
from search_spaces.sketch_space import SketchSpace

# `cell` also names classes in rules, as in `state{1..2} cell: vec`: a sketch has a name and then a bracket.
_CELL = re.compile(r"(?<![$.\w])cell\s+(?!(?:let|state)\b)[A-Za-z_]\w*\s*[({]")
_COMMENT = re.compile(r"#[^\n]*")


@dataclass(frozen=True, slots=True)
class _Parts:
    """A file with blanks in place of its sketches, and each sketch with blanks in place of all else."""

    head: str
    cells: tuple[str, ...]
    closed: bool  # whether a bracket closes after the last sketch


def is_sketch(text: str) -> bool:
    """Whether a text begins like a cell of the language."""
    return _bare(text).lstrip().startswith("cell")


def has_sketches(text: str) -> bool:
    """Whether a text is a sketch, or a space file with sketches in it."""
    return is_sketch(text) or bool(_split(text).cells)


def sketch_space(sketch: Sketch, text: str | None = None) -> SketchSpace:
    """The cells of one sketch."""
    shown = str(sketch) if text is None else text
    return SketchSpace(sketch.name, [sketch], doc(shown), (), shown)


def read_sketches(text: str, source: str) -> SketchSpace:
    """The space of sketches that a text describes. Raises SpaceFileError with line, column and caret."""
    if len(text) > reader.MAX_TEXT:
        raise SpaceFileError(
            f"{source}: a space has at most {reader.MAX_TEXT:,} characters; received {len(text):,}"
        )
    if is_sketch(text):
        return sketch_space(_sketch(text, text, source), text)
    parts = _split(text)
    sketches = [_sketch(cell, text, source) for cell in parts.cells]
    if not parts.closed:
        lines = one_newline(text.rstrip()).split("\n")
        raise SpaceFileError(
            "the text ends inside a space: a closing '}' is missing", Span(len(lines), len(lines[-1]) + 1)
        ).locate(text, source)
    file = reader.read(parts.head, source)
    try:
        _only_sketches(file)
    except SpaceFileError as error:
        error.locate(text, source)
        raise
    claims = tuple(n.name for n in file.claims)
    return SketchSpace(file.name.name, sketches, doc(text), claims, text)


def _sketch(padded: str, text: str, source: str) -> Sketch:
    try:
        return parse_sketch(padded, source)
    except LocatedError as error:
        raise SpaceFileError(error.message, error.span).locate(text, source) from None


def _only_sketches(file: SpaceFile) -> None:
    others: list[Named | None] = [n for n, _ in file.limits]
    others += [*file.require, *(s.cls for s in file.states), *(r.name for r in file.rules)]
    spans: list[Span] = [n.span for n in others if n is not None] + [line.span for line in file.lets]
    if spans:
        raise SpaceFileError(
            "a space of sketches has `claims` and cells; limits, requirements and rules belong to a space of rules",
            min(spans, key=lambda s: (s.line, s.column)),
        )
    for claim in file.claims:
        if claim.name not in zoo_names():
            raise SpaceFileError(
                f"unknown cell of the zoo {claim.name!r}{suggest(claim.name, zoo_names())}", claim.span
            )


def claim_span(text: str, name: str) -> Span | None:
    """Where a space file claims a cell of the zoo."""
    found = re.search(rf"(?<![$.\w])claims\b.*?(?<![$.\w])({name})\b", _bare(text), re.DOTALL)
    return found and Span.at(text, found.start(1))


def _bare(text: str) -> str:
    """The text with blanks in place of comments."""
    return _COMMENT.sub(lambda m: " " * len(m[0]), text)


def _split(text: str) -> _Parts:
    """The cells of a space file, each from the word `cell` to the bracket that closes it."""
    bare = _bare(text)
    spans: list[tuple[int, int]] = []
    found = _CELL.search(bare)
    while found:
        end = _closing(bare, found.end() - 1)
        spans.append((found.start(), end))
        found = _CELL.search(bare, end)
    head, cells, at = [], [], 0
    for start, end in spans:
        head += [text[at:start], _blank(text[start:end])]
        cells.append(_blank(text[:start]) + text[start:end])
        at = end
    return _Parts("".join([*head, text[at:]]), tuple(cells), "}" in bare[at:])


def _closing(bare: str, at: int) -> int:
    """The end of the block that begins at or after `at`; the end of the text if nothing closes it."""
    depth = 0
    for i in range(at, len(bare)):
        depth += (bare[i] == "{") - (bare[i] == "}")
        if bare[i] == "}" and depth <= 0:
            return i + 1
    return len(bare)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
