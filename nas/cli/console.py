"""Printing: tables for people, JSON for programs, and no control characters where there is no terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import Any

from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

_NARROW = 36  # columns, below which the cells of a table stand under one another
_LEAST = 4  # columns that a text needs to be folded; with less, its table is stacked as well
# A text may come from a file of somebody else's: what would steer the terminal is shown, not sent.
_CONTROLS = {i: f"\\x{i:02x}" for i in (*range(9), *range(11, 32), *range(127, 160))}
_PIPED_WIDTH = 160  # columns, where no terminal says otherwise


def console() -> Console:
    """A console on the standard output of this moment (tests replace it)."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a sign that cannot be printed is no reason to stop
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(file=sys.stdout, highlight=False, width=_PIPED_WIDTH if piped else None)


def can_print(text: str) -> bool:
    """Whether the standard output has these characters; one that writes ASCII or Latin-1 has not all."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def show(*things: RenderableType) -> None:
    """Print for people. Strings are printed as they are: square brackets mean nothing."""
    out = console()
    for thing in things:
        # Lines of text are never broken: a cell on one line can be piped into the next command.
        out.print(_text(thing) if isinstance(thing, str) else thing, soft_wrap=isinstance(thing, str | Text))


def _text(text: str) -> Text:
    return Text(text.translate(_CONTROLS))


def show_json(value: Any) -> None:
    """Print for programs."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str] = (), cut: bool = False
) -> Table:
    """A plain table; the columns in `numbers` are flush right. Long texts are folded; with `cut`, cut off."""
    texts = [[each if isinstance(each, Text) else _text(str(each)) for each in row] for row in rows]
    if len(columns) > 1 and not cut and console().width < max(_NARROW, _least_width(columns, texts, numbers)):
        return _stacked(columns, texts)
    padding = (0, 2, 0, 0)
    made = Table(
        box=None, pad_edge=False, padding=padding, header_style="dim", show_header=any(columns), expand=cut
    )
    for place, name in enumerate(columns, start=1):
        right = name in numbers
        ratio = 1 if cut and place == len(columns) else None  # it gives way, the others do not
        justify: JustifyMethod = "right" if right else "left"
        made.add_column(
            name, justify=justify, no_wrap=right or cut, overflow="ellipsis" if cut else "fold", ratio=ratio
        )
    for row in texts:
        made.add_row(*row)
    return made


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[Text]], numbers: Sequence[str]) -> int:
    """How wide a table is whose numbers stand whole and whose texts are folded as far as can be read."""
    width = -2
    for place, name in enumerate(columns):
        longest = max([len(name), *(row[place].cell_len for row in rows)])
        width += 2 + (longest if name in numbers else min(longest, _LEAST))
    return width


def _stacked(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> Table:
    """A table for a terminal too narrow for columns: each row as a heading and a line for each further cell."""
    made = Table(box=None, pad_edge=False, padding=0, show_header=False)
    made.add_column(overflow="fold")
    for row in rows:
        first, *others = row
        made.add_row(Text.assemble(first, style="bold"))
        for name, each in zip(columns[1:], others, strict=True):
            made.add_row(Text.assemble((f"  {name} " if name else "  ", "dim"), each))
    return made


def score_text(value: float | None) -> str:
    """A score with the digits that mean something."""
    return "-" if value is None else f"{value:.4f}"


def bytes_text(number: int) -> str:
    """A number of bytes for people, with three digits: 912 bytes, 4.21 MB."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if number >= 0.9995 * 1000**power:
            return f"{number / 1000**power:.3g} {unit}"
    return "1 byte" if number == 1 else f"{number} bytes"
