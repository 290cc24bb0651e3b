"""Texts that nobody means well by: noise, damaged good texts, deep nesting, huge numbers, odd characters.

`refusal` holds a reader to its contract: what it cannot read it refuses quickly, with one error that names its place.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

import numpy as np

from grammar import GrammarError, LocatedError, parse, parse_sketch, zoo_names, zoo_text
from search_spaces import SpaceError, read_space, space_names, space_text

QUICK = 5.0  # seconds of one core for any text; some 0.2 are needed

READERS: dict[str, Callable[[str], object]] = {"cell": parse, "sketch": parse_sketch, "space": read_space}
SKETCHES = (
    "cell a { state h: vec; z = choice{ sigmoid(lin(x, h)) | 1 - sigmoid(lin(h)) | param() };"
    " h' = lerp(z, choice{ tanh(lin(x, h)) | relu(lin(x, h)) | h }, h); out choice{ h' | h' * z } }",
    "cell b(l, r) { state h: vec; leaf { h' = choice{ lin(x) | tanh(lin(x)) } }\n"
    "h' = choice{ lin(l.h, r.h) | l.h + r.h }; out h' }",
)


def good(kind: str) -> tuple[str, ...]:
    """Texts that the reader of this kind accepts."""
    if kind == "space":
        return tuple(space_text(name) for name in space_names())
    cells = tuple(zoo_text(name) for name in zoo_names())
    return cells if kind == "cell" else (*SKETCHES, *cells)


def refusal(kind: str, text: str) -> str | None:
    """What the reader says of a text, or None where it accepts it."""
    started = time.process_time()
    error: Exception | None = None
    try:
        READERS[kind](text)
    except (GrammarError, SpaceError) as found:
        error = found
    took = time.process_time() - started
    assert took < QUICK, f"took {took:.1f} s: {text[:200]!r} ..."
    if error is None:
        return None
    said = str(error)
    assert isinstance(error, LocatedError), f"{type(error).__name__} has no place: {said}"
    assert re.match(r"<text>:\d+:\d+: .", said), said
    assert error.span is not None
    lines = re.split(r"\r\n|\r|\n", text)
    assert 1 <= error.span.line <= len(lines), said
    assert 1 <= error.span.column <= len(lines[error.span.line - 1]) + 1, said
    return said


# ---- damage -----------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s+|[A-Za-z_]\w*'?|\d+(?:\.\d+)?(?:e[+-]?\d+)?|.", re.DOTALL)
ODD = (
    "\x00", "\x1b[31m", "\x7f", "\u00e9", "e\u0301", "\u200b", "\u202e", "\ufeff", "\uff08", "\u2028", "\x85", "\x0c",
    "\u03c3", "\u2212", "\u00b7", "\u0660", "\u00b2", "\U0001f600", "\ud800", "\U0010ffff", "\u2019", "\u00a0",
)  # fmt: skip
NUMBERS = (
    "1e308", "1e309", "-1e309", "1e-400", "9" * 400, "0." + "0" * 400 + "1", "1e" + "9" * 50, "00", "1.2.3", "0x10",
    "9" * 5000, "0" * 5000 + "7",
    "1_000", "-0", "nan", "inf", "1e", ".", "5e-324", "64", "65", "4096", "4097", "1.5", "18446744073709551616",
)  # fmt: skip


def damage_bytes(text: str, rng: np.random.Generator) -> str:
    """Some bytes flipped, dropped, doubled, or taken from elsewhere; read as Latin-1 or as UTF-8."""
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(len(raw) + 1)), int(rng.integers(1, 12))
        other = int(rng.integers(len(raw) + 1))
        middle = (
            b"",
            bytes(raw[at : at + length]) * 2,
            bytes(raw[other : other + length]),
            rng.bytes(length),
        )
        raw[at : at + length] = middle[int(rng.integers(len(middle)))]
        if raw:
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    return raw.decode("latin-1") if rng.random() < 0.5 else raw.decode("utf-8", "replace")


def damage_tokens(text: str, rng: np.random.Generator, others: Sequence[str]) -> str:
    """Some words dropped, doubled, exchanged, or replaced by one of this text, of another, or by an odd one."""
    tokens = _TOKEN.findall(text)
    elsewhere = _TOKEN.findall(others[int(rng.integers(len(others)))])
    for _ in range(int(rng.integers(1, 6))):
        at, other = (int(i) for i in rng.integers(len(tokens), size=2))
        match int(rng.integers(7)):
            case 0:
                tokens[at] = ""
            case 1:
                tokens[at] *= int(rng.integers(2, 5))
            case 2:
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 3:
                tokens[at] = tokens[other]
            case 4:
                tokens[at] = str(rng.choice(elsewhere))
            case 5:
                tokens[at] = str(rng.choice(NUMBERS))
            case _:
                tokens[at] += ODD[int(rng.integers(len(ODD)))]
    return "".join(tokens)


def damage_lines(text: str, rng: np.random.Generator, others: Sequence[str]) -> str:
    """Some lines dropped, doubled, moved, run together, cut, or taken from another text."""
    lines = re.split(r"[;\n]", text)
    elsewhere = others[int(rng.integers(len(others)))].split("\n")
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines)))
        match int(rng.integers(6)):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines.insert(at, lines[int(rng.integers(len(lines)))])
            case 2:
                lines.insert(int(rng.integers(len(lines))), lines.pop(at))
            case 3:
                lines[at] += lines[int(rng.integers(len(lines)))]
            case 4:
                lines[at] = lines[at][: int(rng.integers(len(lines[at]) + 1))]
            case _:
                lines.insert(at, str(rng.choice(elsewhere)))
    return ("\n", "\r\n", "\r", ";")[int(rng.integers(4))].join(lines)


# ---- size -------------------------------------------------------------------------------------

_OPENERS = (
    ("(", ")"), ("{", "}"), ("[", "]"), ("tanh(", ")"), ("lin(x, ", ")"), ("lin:key(", ")"), ("1 - (", ")"),
    ("lerp(h, x, ", ")"), ("choice{ x | ", "}"), ("choice{", " | h}"), ("repeat 2 { ", " }"), ("repeat 1 fresh {", "}"),
    ("depth 2 { ", " }"), ("depth 2 until(", ") { h' = h }"), ("leaf { ", " }"), ("cell a { ", " }"), ("cell a(", ")"),
    ("-", ""), ("x + ", ""), ("x * ", ""), ("x / ", ""), ("h' = ", ""), ("u = ", ""), ("out ", ""), ("mem(", ")"),
    ("state h: vec = ", ""), ("sum(", ")"), ("l.", ""), ("x, ", ""), (":", ""), ("lin(bias=", ")"),
    ("lin(x, init=uniform(", "))"), ("#", ""), ("'", ""), ("|", ""), ("\n", ""), (";", ""), ("[1] | ", ""), ("$", ""),
    ("let{0..2} -> ", ""),
    ("vec -> ", ""), ("limits size <= ", ""),
    ("state{1..2} ", ""), ("require ", ""), ("claims ", ""), ("space s { ", "}"),
)  # fmt: skip
_FRAMES = {
    "cell": (
        "{}",
        "cell a {{ state h: vec; h' = {}; out h' }}",
        "cell a {{ state h: vec; {} out h }}",
        "cell a(l, r) {{ state h: vec; leaf {{ h' = {} }}; h' = {}; out h' }}",
        "cell a {{ state h: seq = x; depth 2 until({}) {{ h' = h }}; out h' }}",
        "cell a {{ state h: vec = {}; h' = h; out h }}",
    ),
    "space": (
        "{}",
        "space s {{ limits size <= 9, depth <= 4\nstate vec\nout -> $new\nvec -> {} | lin(x)\n}}",
        "space s {{ limits size <= 9, depth <= 4\nstate vec\nout -> $new\nvec -> lin(x)\n{}\n}}",
    ),
}


def nested(kind: str, rng: np.random.Generator, size: int = 10_000) -> str:
    """About `size` characters of one to three kinds of nesting, closed or not."""
    frames = _FRAMES["space" if kind == "space" else "cell"]
    pairs = [_OPENERS[int(i)] for i in rng.integers(len(_OPENERS), size=int(rng.integers(1, 4)))]
    length = sum(len(first) + len(last) for first, last in pairs)
    times = max(1, (size if rng.random() < 0.7 else int(rng.integers(1, size))) // length)
    middle = ("x", "h", "lin(x, h)", "", "h' = h", str(rng.choice(NUMBERS)))[int(rng.integers(6))]
    opening = "".join(first for first, _ in pairs) * times
    closing = "".join(last for _, last in reversed(pairs)) * (times if rng.random() < 0.7 else times // 2)
    inner = opening + middle + closing
    return frames[int(rng.integers(len(frames)))].format(inner, inner)


def noise(kind: str, rng: np.random.Generator) -> str:
    """Random bytes, words of the language in any order, or odd characters; bare or where a body stands."""
    frames = _FRAMES["space" if kind == "space" else "cell"]
    match int(rng.integers(4)):
        case 0:
            inner = rng.bytes(int(rng.integers(1, 300))).decode("latin-1")
        case 1:
            inner = rng.bytes(int(rng.integers(1, 300))).decode("utf-8", "replace")
        case 2:
            words = _TOKEN.findall(" ".join(good(kind)[:: max(1, len(good(kind)) // 6)]))
            inner = " ".join(str(w) for w in rng.choice(words, int(rng.integers(1, 60))))
        case _:
            inner = "".join(ODD[int(i)] for i in rng.integers(len(ODD), size=int(rng.integers(1, 30))))
    return frames[int(rng.integers(len(frames)))].format(inner, inner)


def hostile(kind: str, rng: np.random.Generator) -> str:
    """One text of any of these sorts."""
    texts = good(kind)
    text = texts[int(rng.integers(len(texts)))]
    match int(rng.integers(8)):
        case 0:
            return nested(kind, rng)
        case 1:
            return noise(kind, rng)
        case 2 | 3:
            return damage_bytes(text, rng)
        case 4 | 5:
            return damage_lines(text, rng, texts)
        case _:
            return damage_tokens(text, rng, texts)
