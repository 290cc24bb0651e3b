"""The known cells as files. What they compute is held against their equations in test_grammar_zoo_*.py."""

from __future__ import annotations

import re

import numpy as np
import pytest
from strategies import HEADS, HIDDEN, input_size, key_size

from grammar import UnknownNameError, evaluate, init_weights, parse, zoo, zoo_doc, zoo_names, zoo_text

FOUNDATION = """elman lstm gru mgu indrnn mingru minlstm rglru hgrn scrn linear_attention retnet gla deltanet
    gated_deltanet deltaproduct gru_cho treelstm treelstm_childsum ut"""


def test_the_names() -> None:
    assert set(FOUNDATION.split()) <= set(zoo_names())
    assert list(zoo_names()) == sorted(zoo_names())


@pytest.mark.parametrize("name", zoo_names())
def test_a_file_is_one_cell_with_its_name_and_source(name: str) -> None:
    cell = zoo(name)
    assert cell.name == name
    assert parse(zoo_text(name)) is cell is zoo(name)
    assert zoo_text(name).endswith("}\n")
    assert len(zoo_doc(name).splitlines()) >= 2
    assert re.search(r"\b(19|20)\d\d\b", zoo_doc(name)), "the comment names a paper and its year"


@pytest.mark.parametrize("name", zoo_names())
def test_it_runs_and_stays_finite(name: str) -> None:
    cell = zoo(name)
    rng = np.random.default_rng(0)
    width = input_size(cell)
    weights = init_weights(
        cell, rng, input_size=width, hidden_size=HIDDEN, heads=HEADS, key_size=key_size(cell)
    )
    tree = np.array([[[0, 1], [2, 3], [4, 5]]]) if cell.kind == "tree" else None
    x = rng.standard_normal((1, 4 if cell.kind == "tree" else 50, width))
    found = evaluate(cell, x, weights, hidden_size=HIDDEN, heads=HEADS, key_size=key_size(cell), tree=tree)
    assert np.isfinite(found.y).all()
    assert np.abs(found.y).max() > 1e-3


def test_no_two_are_the_same_cell() -> None:
    assert len({zoo(name).digest for name in zoo_names()}) == len(zoo_names())


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"the zoo has no cell 'ltsm'; did you mean 'lstm'"):
        zoo("ltsm")
    with pytest.raises(UnknownNameError, match=re.escape("(`recell zoo` lists all)")):
        zoo("../lstm")
