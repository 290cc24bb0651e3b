"""Polynomials in the sizes: a ring, evaluated exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import Poly
from grammar.poly import D, H, K, N, V

SIZES = {"input_size": 6, "hidden_size": 8, "heads": 2, "key_size": 3}

polys = st.recursive(
    st.one_of(st.sampled_from((D, H, K, N, V, Poly())), st.integers(-5, 5).map(Poly.of)),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, n: a / n, inner, st.integers(1, 4)),
    ),
    max_leaves=6,
)


@given(polys, polys, polys)
def test_ring_laws(a: Poly, b: Poly, c: Poly) -> None:
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a + Poly() == a == a * 1
    assert a * 0 == a + a * -1 == Poly()


@given(polys, polys)
def test_values_follow(a: Poly, b: Poly) -> None:
    assert (a + b).at(**SIZES) == a.at(**SIZES) + b.at(**SIZES)
    assert (a * b).at(**SIZES) == a.at(**SIZES) * b.at(**SIZES)


@given(polys, polys)
def test_equal_ones_have_equal_hashes_and_texts(a: Poly, b: Poly) -> None:
    one, other = a * (b + 1), a * b + a
    assert one == other
    assert hash(one) == hash(other)
    assert str(one) == str(other)


@pytest.mark.parametrize(
    ("poly", "text"),
    [
        (Poly(), "0"),
        (Poly.of(3), "3"),
        (H * H * 4 + D * H * 4 + H * 4, "4 D H + 4 H^2 + 4 H"),
        (V, "H N^-1"),
        (N * K * V, "H K"),
        (H / 2, "1/2 H"),
        (H + H * -1, "0"),
    ],
)
def test_text(poly: Poly, text: str) -> None:
    assert str(poly) == text


def test_values_are_exact() -> None:
    assert V.at(**SIZES) == 4
    assert isinstance(V.at(**SIZES), int)
    assert (H / 3).at(**SIZES) == Fraction(8, 3)
    assert V.at(input_size=1, hidden_size=8, heads=3) == Fraction(8, 3)
    big = (H * H * H).at(input_size=1, hidden_size=10**9)
    assert big == 10**27


def test_the_key_size_is_the_value_size_by_default() -> None:
    assert K.at(input_size=1, hidden_size=8, heads=2) == 4
    assert K.at(input_size=1, hidden_size=8, heads=2, key_size=5) == 5
