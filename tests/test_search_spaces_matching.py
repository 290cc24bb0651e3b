"""How many ways there are to fill the holes of a sketch so that a cell comes of it."""

from __future__ import annotations

import math

import pytest

from grammar import parse
from search_spaces import SketchSpace, SpaceError, matching, read_space


def _of_equal_options(holes: int) -> SketchSpace:
    total = " + ".join(f"choice{{ tanh(u{i}) | tanh(u{i}) | relu(u{i}) }}" for i in range(holes))
    lets = "; ".join(f"u{i} = lin(x, h)" for i in range(holes))
    space = read_space(f"space equal {{ cell c {{ state h: vec; {lets}; h' = {total}; out h' }} }}")
    assert isinstance(space, SketchSpace)
    return space


def test_a_probability_is_a_sum_over_thousands_of_ways() -> None:
    space = _of_equal_options(11)
    cell = parse(f"cell c {{ state h: vec; h' = {' + '.join(['tanh(lin(x, h))'] * 11)}; out h' }}")
    assert space.log_prob(cell) == pytest.approx(11 * math.log(2 / 3))


def test_a_probability_may_be_below_all_floats() -> None:
    total = " + ".join("choice{ tanh(lin(x, h)) [1e-30] | relu(lin(x, h)) [1e30] }" for _ in range(8))
    space = read_space(f"space faint {{ cell c {{ state h: vec; h' = {total}; out h' }} }}")
    cell = parse(f"cell c {{ state h: vec; h' = {' + '.join(['tanh(lin(x, h))'] * 8)}; out h' }}")
    assert space.log_prob(cell) == pytest.approx(8 * math.log(1e-60))
    assert space.fit([cell], strength=1e-3).log_prob(cell) > -0.1


def test_a_probability_of_too_many_ways_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    space = _of_equal_options(8)
    cell = parse(f"cell c {{ state h: vec; h' = {' + '.join(['tanh(lin(x, h))'] * 8)}; out h' }}")
    monkeypatch.setattr(matching, "STEPS", 1_000)
    assert cell in space
    why = "c as the sketch c has more than are found in 1,000 comparisons"
    with pytest.raises(SpaceError, match=why):
        space.log_prob(cell)
    with pytest.raises(SpaceError, match=why):
        space.fit([cell])
