"""Errors of the language: each names its place, the rule, and what was received."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a source text: 1-based `line` and `column`, and the `width` to underline."""

    line: int
    column: int
    width: int = 1

    @classmethod
    def at(cls, text: str, index: int) -> Span:
        """The place of the character `text[index]`."""
        before = one_newline(text[:index]).split("\n")
        return cls(len(before), len(before[-1]) + 1)


class GrammarError(Exception):
    """Root of every error of this package."""


class LocatedError(GrammarError):
    """An error with a place. `str()` is the whole message, with the line and a caret when known.

    `message` states the rule and the values received; `span` is None for a cell that was
    built without a text.
    """

    def __init__(self, message: str, span: Span | None = None) -> None:
        super().__init__(shortened(message))
        self.message = shortened(message)
        self.span = span
        self._text: str | None = None
        self._source = "<text>"

    def locate(self, text: str, source: str) -> LocatedError:
        """Attach the source `text`, so that the message can show the line. Returns self."""
        self._text, self._source = text, source
        return self

    def __str__(self) -> str:
        if self.span is None:
            return self.message
        place = f"{self._source}:{self.span.line}:{self.span.column}: {self.message}"
        lines = one_newline(self._text or "").split("\n")
        if not 1 <= self.span.line <= len(lines):
            return place
        shown, caret = _excerpt(lines[self.span.line - 1], self.span)
        return f"{place}\n    {shown}\n    {caret}"


class CellSyntaxError(LocatedError):
    """The text is not of the language."""


class CellTypeError(LocatedError):
    """The text parses, but a value has the wrong type, or an equation system is not well formed."""


class UnknownNameError(CellTypeError):
    """A name, operation, option or type that is not known; the message suggests near ones."""


class CellBuildError(GrammarError):
    """A well-typed cell that cannot take the sizes it was given."""


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'tanh'?` for the nearest of `known`, or an empty string."""
    names = {n.casefold(): n for n in sorted(set(known), reverse=True)}
    near = [names[n] for n in difflib.get_close_matches(name.casefold(), sorted(names), n=2, cutoff=0.6)]
    if near and near[0].casefold() == name.casefold():
        del near[1:]
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def shortened(message: str) -> str:
    """The message with every word of more than 80 characters cut in its middle: it may echo any text."""
    return re.sub(r"(\S{48})\S{16,}(\S{16})", r"\1...\2", message)


def one_newline(text: str) -> str:
    """The text with the line ends of all systems as `\\n`, the only one that places count."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _excerpt(line: str, span: Span, limit: int = 100) -> tuple[str, str]:
    """The part of `line` around the span, at most `limit` wide, and the caret line below it."""
    line = "".join(map(_shown, line))
    start = 0
    if len(line) > limit:
        start = max(0, min(span.column - 1 - limit // 2, len(line) - limit))
    shown = line[start : start + limit]
    offset = max(0, min(span.column - 1 - start, len(shown)))
    width = max(1, min(span.width, len(shown) - offset or 1))
    return shown, " " * offset + "^" * width


def _shown(char: str) -> str:
    """One character that does nothing to a terminal: a text may come from anyone."""
    return char if char.isprintable() else " " if char.isspace() else "\ufffd"
