from __future__ import annotations

import hashlib

import numpy as np
import pytest

from grammar import parse, zoo
from nas.errors import TrainingError
from nas.training import micro_columns, micro_key, micro_names
from nas.training.micro import STEPS, SYMBOLS, invented_language, symbols_of

BLIND = "cell blind { state h: vec; h' = tanh(lin(h)); out h' }"


def test_a_cell_that_sees_its_input_learns_more() -> None:
    names = micro_names()
    elman, blind, tree = micro_columns([zoo("elman"), parse(BLIND), zoo("treelstm")])
    assert np.isfinite(elman).all()
    assert np.isnan(tree).all()
    end = names.index("loss_end")
    assert elman[end] < blind[end] - 0.2
    assert elman[end] < elman[names.index("loss40")] < np.log(SYMBOLS)
    lag = names.index("before.gradient_lag0")
    assert blind[lag] == -9.0
    assert elman[lag] > -4


def test_rows_depend_on_the_digest_alone() -> None:
    one = parse("cell a { state h: vec, s: vec; s' = x + h; h' = tanh(lin(x, h)); out h' }")
    other = parse("cell b { state q: vec; v = lin(q, x); q' = tanh(v); out q' }")
    assert one.digest == other.digest
    first, second = micro_columns([one, other])
    assert np.array_equal(first, second)


def test_invented_language_is_the_same_everywhere() -> None:
    stream = invented_language()
    assert stream.min() >= 0
    assert stream.max() < SYMBOLS
    assert hashlib.sha256(stream.astype(np.uint8).tobytes()).hexdigest()[:16] == "d9824924421309d7"


def test_a_text_in_its_place() -> None:
    assert symbols_of("ABba" * 20_000)[:4].tolist() == [1, 2, 2, 1]
    assert micro_key("some text") != micro_key()
    with pytest.raises(TrainingError, match=f"needs a text of {STEPS * 64} characters; received 3"):
        symbols_of("abc")
