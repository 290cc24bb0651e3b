"""The canonical text of a cell as tokens, for the text transformer. Works for any cell that can be written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grammar import OPS, Cell

LONGEST = 256  # tokens that are read; what a longer text says after them is not seen
PAD, UNKNOWN, START = "", "?", "^"  # the first places of every vocabulary
FARTHEST = 8  # tokens farther apart than this are as far apart as this
DEEPEST = 15
# How token j is related to token i: how far it stands behind or before it, or, of more weight,
SAME_NAME = 2 * FARTHEST + 1  # both are one name
WITHIN, AROUND = SAME_NAME + 1, SAME_NAME + 2  # j opened the bracket in which i stands, or the reverse
TEXT_RELATIONS = AROUND + 1
# What each head of attention sees: tokens of its expression, the same name elsewhere, its surroundings, everything.
TEXT_HEADS = (
    (WITHIN, AROUND),
    (SAME_NAME,),
    tuple(range(1, 2 * FARTHEST)),
    tuple(range(TEXT_RELATIONS)),
)
_PARTS = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?|[A-Za-z_]\w*'?|[^\s\w]")
_NUMBERED = re.compile(
    r"([a-z])(\d+)('?)"
)  # names of canonical text: states, values, children, shared weights
_MOST_NAMES = {
    "s": 8,
    "v": 64,
    "k": 4,
    "w": 32,
}  # of each kind; further ones take the names of the first again
_NUMBERS = (0.1, 0.5, 1.0, 2.0, 10.0)  # numbers that are no small whole ones are told apart by these
_SMALL = 8
_WORDS = (
    "cell state out leaf depth until repeat fresh sum in vec val key scal mat cvec cmat mem seq learned inf bias "
    "no yes blocks rank share transpose fixed k init uniform normal orthogonal log_uniform zeros ones causal ratio "
    "size x ( ) { } : ; = + - * / | . ,"
)


def words(cell: Cell) -> list[str]:
    """The tokens of a cell's canonical text, a START first.

    The bracket that opens after an operation and commas say nothing more, and are left out; the name of the cell is
    always the same, and left out too.
    """
    parts = _PARTS.findall(cell.canonical().one_line)
    found = [START]
    for place, part in enumerate(parts):
        before = parts[place - 1] if place else ""
        opens = part == "(" and (before in OPS or (place > 1 and parts[place - 2] == ":"))
        if part != "," and before != "cell" and not opens:
            found.append(_word(part))
    return found


def _word(part: str) -> str:
    if part[0].isdigit():
        return number_word(float(part))
    named = _NUMBERED.fullmatch(part)
    if named and named[1] in _MOST_NAMES:
        return f"{named[1]}{int(named[2]) % _MOST_NAMES[named[1]]}{named[3]}"
    return part


def number_word(value: float) -> str:
    """A number as a token: small whole ones as they are, others by their size."""
    if value == int(value) and 0 <= value <= _SMALL if math.isfinite(value) else False:
        return f"#{int(value)}"
    place = sum(abs(value) > edge for edge in _NUMBERS)
    return f"#{'-' if value < 0 else ''}~{place}"


def number_words() -> list[str]:
    """All that `number_word` gives."""
    ranges = [f"#{sign}~{place}" for sign in ("", "-") for place in range(len(_NUMBERS) + 1)]
    return [*(f"#{n}" for n in range(_SMALL + 1)), *ranges]


def text_vocabulary() -> tuple[str, ...]:
    """Every token of the language as it is, operations of the table among them."""
    names = [
        f"{kind}{n}{end}" for kind, most in _MOST_NAMES.items() for n in range(most) for end in ("", "'")
    ]
    return tuple(dict.fromkeys((PAD, UNKNOWN, START, *_WORDS.split(), *number_words(), *sorted(OPS), *names)))


@dataclass(frozen=True)
class TextArrays:
    """`fields` [T, 3]: word, place and depth in brackets of each token; `relations` [T, T]."""

    fields: NDArray[np.int64]
    relations: NDArray[np.int8]


def text_sizes(vocabulary: Sequence[str]) -> tuple[int, ...]:
    """How many values each of the fields has."""
    return (len(vocabulary), LONGEST, DEEPEST + 1)


def text_arrays(cell: Cell, vocabulary: Sequence[str]) -> TextArrays:
    """The arrays of a cell's canonical text, of at most LONGEST tokens; UNKNOWN stands for words that are not known."""
    places = {word: place for place, word in enumerate(vocabulary)}
    found = words(cell)[:LONGEST]
    count = len(found)
    within, depths = _brackets(found)
    ids = [places.get(word, places[UNKNOWN]) for word in found]
    at = np.arange(count)
    relations = np.clip(at[None, :] - at[:, None], -FARTHEST, FARTHEST) + FARTHEST
    named = np.array([word.rstrip("'") if _NUMBERED.fullmatch(word) else "" for word in found])
    relations[(named[:, None] == named[None, :]) & (named != "")[:, None]] = SAME_NAME
    inner = np.flatnonzero(within >= 0)
    relations[inner, within[inner]] = WITHIN
    relations[within[inner], inner] = AROUND
    np.fill_diagonal(relations, FARTHEST)
    return TextArrays(np.array([ids, at, depths], dtype=np.int64).T, relations.astype(np.int8))


def _brackets(found: Sequence[str]) -> tuple[NDArray[np.int64], list[int]]:
    """For each token the one that opened the bracket around it (-1 for none), and how many are open."""
    within: list[int] = []
    depths: list[int] = []
    opened: list[int] = []
    for place, word in enumerate(found):
        if word in (")", "}") and opened:
            opened.pop()
        within.append(opened[-1] if opened else -1)
        depths.append(min(len(opened), DEEPEST))
        typed = place > 1 and found[place - 1] == ":" and found[place - 2] in OPS
        if typed and opened:  # `lin:key(x)`: the bracket is the operation's, whose place `within` gives
            continue
        if word in ("(", "{") or word in OPS:
            opened.append(place)
    return np.array(within, dtype=np.int64), depths
