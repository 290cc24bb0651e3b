"""What is refused, and how it is said; and that nothing but a GrammarError ever comes out of a text."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from bad_texts import NAMES, NO_CELL, SYNTAX, TYPES
from hypothesis import given
from hypothesis import strategies as st

from grammar import (
    KEYWORDS,
    Cell,
    CellSyntaxError,
    CellTypeError,
    GrammarError,
    LocatedError,
    UnknownNameError,
    parse,
    parse_sketch,
    zoo,
    zoo_names,
    zoo_text,
)


def cases(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(message, text) for message, texts in table.items() for text in texts]


def within(cases: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same cases with their bodies in a cell."""
    cell = "cell a {{ state h: vec; {}; out h }}"
    return [(message, text if "cell" in text else cell.format(text)) for message, text in cases]


def check(marked: str, kind: type[LocatedError], message: str) -> None:
    place = marked.index("^")
    text = marked[:place] + marked[place + 1 :]
    with pytest.raises(kind, match=re.escape(message)) as caught:
        parse(text, source="bad.cell")
    error = caught.value
    assert type(error) is kind
    line, column = text[:place].count("\n") + 1, place - text[:place].rfind("\n")
    assert error.span is not None
    assert (error.span.line, error.span.column) == (line, column), str(error)
    said = str(error).split("\n")
    assert said[0] == f"bad.cell:{line}:{column}: {error.message}"
    shown = text.split("\n")[line - 1].replace("\x00", "\ufffd")
    assert said[1].strip() in shown
    assert said[1][said[2].index("^") :][:5] == shown[column - 1 :][:5]
    assert set(said[2].strip()) == {"^"}


@pytest.mark.parametrize("what", [None, b"cell c { }", 3, ["cell c { }"] * 50])
def test_what_is_no_text_is_refused(what: object) -> None:
    for read in (parse, parse_sketch):
        with pytest.raises(CellSyntaxError, match=f"^a cell is a text; .* of type {type(what).__name__}$"):
            read(what)  # type: ignore[arg-type]


@pytest.mark.parametrize(("message", "text"), cases(NO_CELL) + within(cases(SYNTAX)))
def test_syntax_errors(message: str, text: str) -> None:
    check(text, CellSyntaxError, message)


@pytest.mark.parametrize(("message", "text"), within(cases(TYPES)))
def test_type_errors(message: str, text: str) -> None:
    check(text, CellTypeError, message)


@pytest.mark.parametrize(("message", "text"), within(cases(NAMES)))
def test_unknown_names(message: str, text: str) -> None:
    check(text, UnknownNameError, message)


def test_every_error_is_a_grammar_error() -> None:
    for kind in (CellSyntaxError, CellTypeError, UnknownNameError):
        assert issubclass(kind, GrammarError)


def test_the_caret_underlines_the_whole_word_also_after_tabs_and_in_long_lines() -> None:
    with pytest.raises(UnknownNameError, match="unknown operation") as caught:
        parse("cell a {\n\tout tanhh(x)\n}")
    assert str(caught.value).splitlines()[1:] == ["     out tanhh(x)", "         ^^^^^"]
    with pytest.raises(UnknownNameError, match="unknown operation") as caught:
        parse("cell a { out " + " + ".join(["x"] * 100) + " + tanhh(x) }")
    source, caret = str(caught.value).splitlines()[1:]
    assert len(source) <= 104
    assert source[caret.index("^") : caret.rindex("^") + 1] == "tanhh"


def test_a_message_does_nothing_to_a_terminal() -> None:
    with pytest.raises(CellSyntaxError, match="unexpected character") as caught:
        parse("cell a { # \x1b[2J\u202e\u200b \u2028\ud800\nout \x1b]0;title\x07 }")
    assert str(caught.value).replace("\n", "").isprintable()
    assert str(caught.value).split("\n")[1:] == ["    out \ufffd]0;title\ufffd }", "        ^"]


def test_line_ends_of_all_systems() -> None:
    text = "cell a {\n  state h: vec\n  h' = h\n  out h\n}\n"
    assert parse(text) is parse(text.replace("\n", "\r\n")) is parse(text.replace("\n", "\r"))
    for end in ("\n", "\r\n", "\r"):
        with pytest.raises(UnknownNameError, match="unknown name 'g'") as caught:
            parse(text.replace("= h", "= g").replace("\n", end))
        assert caught.value.span is not None
        assert (caught.value.span.line, caught.value.span.column) == (3, 8)
        assert str(caught.value).splitlines()[1] == "      h' = g"


def test_lines_are_counted_by_line_ends_alone() -> None:
    with pytest.raises(UnknownNameError, match="unknown name 'g'") as caught:
        parse("cell a { # form\x0cfeed \x0b \u2028 \x85\n\x0cout g }")
    assert str(caught.value).split("\n")[0].startswith("<text>:2:6:")
    assert str(caught.value).split("\n")[1].strip(" \x0c") == "out g }"


def test_layout_and_comments_do_not_count() -> None:
    plain = parse("cell a { state h: vec, c: vec; u = lin(x, h); h' = u + c; c' = h; out h' }")
    spread = """
    # a comment
    cell a {   # another
      state h: vec,
            c: vec ;;
      u = lin(
        x,
        h
      )
      h' = u +
           c
      c' =
        h

      out h';
    }

    """
    assert parse(spread) is plain


def test_words_are_names_where_they_can_be_nothing_else() -> None:
    for word in KEYWORDS:
        if word != "x":
            assert parse(f"cell {word} {{ out x }}").name == word


def test_names_may_begin_like_words() -> None:
    cell = parse("cell a { state outer1: vec; xs = lin(x); celly = xs; outer1' = celly; out outer1 }")
    assert cell.states[0].name == "outer1"


@pytest.mark.parametrize("text", ["1", "1.", ".5", "1e3", "1.5e-3", "1E+3"])
def test_numbers(text: str) -> None:
    assert parse(f"cell a {{ out x * {text} }}") is parse(f"cell a {{ out x * {float(text)!r} }}")


def test_a_sketch_has_holes() -> None:
    text = "cell a { state h: vec; h' = choice{ tanh(lin(x, h)) | relu(lin(x, h)) }; out h' }"
    assert parse_sketch(text) is parse_sketch(text)
    with pytest.raises(
        CellTypeError, match=re.escape("the options of a choice have one type; received vec, key")
    ):
        parse_sketch("cell a { out choice{ lin(x) | lin:key(x) } }")


# ---- whatever the text ------------------------------------------------------------------------


def refused_or_read(text: str) -> None:
    started = time.process_time()
    try:
        cell, said = parse(text), "read"
    except GrammarError as error:
        cell, said = None, str(error)
    assert time.process_time() - started < 5
    assert said
    assert cell is None or parse(str(cell)) is cell


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    refused_or_read(text)


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    refused_or_read(raw.decode("latin-1"))
    refused_or_read(f"cell a {{ {raw.decode('utf-8', 'replace')} }}")


_WORDS = (*KEYWORDS, "h", "h'", "lin", "tanh", "vec", "mem(3)", "1", "bias", "no", *"(){},;:=+-*/.|#\n' ")


@given(st.lists(st.sampled_from(_WORDS), max_size=40))
def test_any_words(words: list[str]) -> None:
    refused_or_read(" ".join(words))
    refused_or_read(f"cell a {{ state h: vec; {' '.join(words)} }}")


@given(st.sampled_from(zoo_names()), st.integers(0, 2**32 - 1))
def test_damaged_texts_of_the_zoo(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = zoo_text(name)
    for _ in range(int(rng.integers(1, 4))):
        text = damaged(text, rng)
    refused_or_read(text)


def damaged(text: str, rng: np.random.Generator) -> str:
    """Some characters dropped, doubled, swapped with others, or taken from elsewhere."""
    start, length = int(rng.integers(len(text) + 1)), int(rng.integers(1, 12))
    end = min(len(text), start + length)
    other = int(rng.integers(len(text) + 1))
    middle = ("", text[start:end] * 2, text[other : other + length], "();='{}"[int(rng.integers(7))])
    return text[:start] + middle[int(rng.integers(len(middle)))] + text[end:]


MANY = 30_000
HEAD = "cell a { state h: vec; "
LARGE = {
    "a sum": f"{HEAD}h' = {'+'.join(['x'] * MANY)}; out h }}",
    "parentheses": f"{HEAD}h' = {'(' * MANY}x{')' * MANY}; out h }}",
    "unclosed parentheses": f"{HEAD}h' = {'(' * MANY}",
    "minus signs": f"{HEAD}h' = {'-' * MANY}x; out h }}",
    "calls": f"{HEAD}h' = {'tanh(' * MANY}x{')' * MANY}; out h }}",
    "calls that are allowed": f"{HEAD}h' = {'tanh(' * 190}x{')' * 190}; out h }}",
    "blocks": f"{HEAD}{'repeat 2 {' * 5000}h' = h{'}' * 5000}; out h }}",
    "repetition": f"{HEAD}{'repeat 64 {' * 6}h' = h{'}' * 6}; out h }}",
    "operands": f"{HEAD}h' = lin({','.join(['h'] * 10_000)}); out h }}",
    "equations": f"{HEAD}{';'.join(f'a{i} = tanh(a{i + 1})' for i in range(2000))}; a2000 = h; h' = a0; out h }}",
    "states": f"cell a {{ state {', '.join(f's{i}: vec' for i in range(4000))}; out x }}",
    "digits": f"{HEAD}h' = {'9' * 90_000} * x; out h }}",
    "a long name": f"{HEAD}h' = {'a' * 90_000}; out h }}",
    "too long": " " * 200_000,
    "new lines": "\n" * 90_000,
    "comments": "# x\n" * 20_000,
}


@pytest.mark.parametrize("name", LARGE)
def test_large_texts_are_quick(name: str) -> None:
    refused_or_read(LARGE[name])


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(
        CellSyntaxError, match=r"^<text>:3:99998: a cell has at most 100,000 characters; received 200,"
    ):
        parse("\r\n\n" + " " * 200_000)


@pytest.mark.parametrize("name", zoo_names())
def test_every_cut_of_the_zoo_is_refused_with_a_place(name: str) -> None:
    text = zoo(name).one_line
    for end in range(0, len(text) - 1, 7):
        with pytest.raises(LocatedError, match=r"^<text>:\d+:\d+: ") as caught:
            parse(text[:end])
        assert caught.value.span is not None


def test_parsing_is_the_same_in_threads() -> None:
    import threading

    found: list[Cell] = []
    text = "cell threads { state h: vec; h' = tanh(lin(x, h)); out h' }"
    threads = [threading.Thread(target=lambda: found.append(parse(text))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(cell) for cell in found}) == 1
