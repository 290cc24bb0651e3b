from __future__ import annotations

import hashlib

import numpy as np
import pytest

from grammar import parse, zoo
from nas.errors import TrainingError
from nas.training import zero_cost_columns, zero_cost_key, zero_cost_names
from nas.training.zero_cost import LEAST, SYMBOLS, invented_language, symbols_of

BLIND = "cell blind { state h: vec; h' = tanh(lin(h)); out h' }"


def test_gradients_tell_a_cell_that_sees_its_input() -> None:
    names = zero_cost_names()
    elman, blind, tree = zero_cost_columns([zoo("elman"), parse(BLIND), zoo("treelstm")])
    assert elman.shape == (len(names),)
    assert np.isfinite(elman).all()
    assert np.isnan(tree).all()
    lag = names.index("gradient_lag0_0")
    assert blind[lag] == -9.0
    assert elman[lag] > -4
    fades = [elman[names.index(f"gradient_lag{k}_0")] for k in (0, 2, 5, 10)]
    assert fades == sorted(fades, reverse=True)


def test_rows_depend_on_the_digest_alone() -> None:
    one = parse("cell a { state h: vec, s: vec; s' = x + h; h' = tanh(lin(x, h)); out h' }")
    other = parse("cell b { state q: vec; v = lin(q, x); q' = tanh(v); out q' }")
    assert one.digest == other.digest
    first, second = zero_cost_columns([one, other])
    assert np.array_equal(first, second)
    assert zero_cost_columns([]).shape == (0, len(zero_cost_names()))


def test_invented_language_is_the_same_everywhere() -> None:
    stream = invented_language()
    assert stream.min() >= 0
    assert stream.max() < SYMBOLS
    assert hashlib.sha256(stream.astype(np.uint8).tobytes()).hexdigest()[:16] == "d9824924421309d7"


def test_a_text_in_its_place() -> None:
    assert symbols_of("ABba" * 1000)[:4].tolist() == [1, 2, 2, 1]
    assert zero_cost_key("some text") != zero_cost_key()
    text = "so many words of one kind after the other, " * 100
    assert not np.array_equal(zero_cost_columns([zoo("elman")], text), zero_cost_columns([zoo("elman")]))
    with pytest.raises(TrainingError, match=f"need a text of {LEAST} characters; received 3"):
        symbols_of("abc")
