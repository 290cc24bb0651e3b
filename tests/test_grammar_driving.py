"""The quick walk through lark's tables gives what lark gives, positions included, and nothing where lark refuses."""

from __future__ import annotations

import numpy as np
import pytest
from bad_texts import SYNTAX
from lark.exceptions import UnexpectedInput

from grammar import LocatedError, zoo, zoo_names, zoo_text
from grammar.errors import one_newline
from grammar.parser import _lark, _quick

ODD = "cell c { state h: vec = -inf # note\n state m: mem( 4 ) = learned\n a = choice k { lin(x,\n h) [2] | -h }\n" \
      " b = lin:mem(4)(x, bias=no, init=uniform(-1, 1)); out (a\n) * .5e1 - b }"  # fmt: skip


def by_lark(text: str) -> object:
    try:
        return _lark().parse(text)
    except (UnexpectedInput, LocatedError):
        return None


@pytest.mark.parametrize("name", zoo_names())
def test_texts_of_the_zoo(name: str) -> None:
    for text in (zoo_text(name), zoo(name).one_line):
        found, expected = _quick().parse(one_newline(text)), by_lark(one_newline(text))
        assert expected is not None
        assert repr(found) == repr(expected)  # with the places of all parts, which equality leaves out


def test_texts_with_a_fault_are_left_to_lark() -> None:
    texts = [text for many in SYNTAX.values() for text in many]
    texts = [text if "cell" in text else f"cell a {{ state h: vec; {text}; out h }}" for text in texts]
    plain = [one_newline(text.replace("^", "")) for text in texts]
    assert [repr(_quick().parse(text)) for text in plain] == [repr(by_lark(text)) for text in plain]


def test_texts_that_were_changed_here_and_there() -> None:
    rng, fine = np.random.default_rng(0), 0
    signs = [*"xh'(){}\n;,:=+-*/.|[]#1e_", "cell", "state", "out", "choice", " x ", "leaf"]
    for _ in range(150):
        text = (ODD, zoo_text("gru"), zoo_text("treelstm"))[rng.integers(3)]
        at = int(rng.integers(len(text)))
        text = text[:at] + signs[rng.integers(len(signs))] + text[at + int(rng.integers(2)) :]
        found, expected = _quick().parse(text), by_lark(text)
        fine += found is not None
        assert repr(found) == repr(expected), text
    assert 10 < fine < 140
