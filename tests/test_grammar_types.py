"""The types and the rule by which two values join."""

from __future__ import annotations

import itertools

import pytest

from grammar import CMAT, CVEC, IN, KEY, MAT, NAMED, NUM, SCAL, SEQ, SHAPES, VEC, Type, join, parse

MEM = Type("mem", 3)
ALL = (NUM, IN, VEC, KEY, SCAL, MAT, CVEC, CMAT, SEQ, MEM, Type("mem", 4))


def test_joining_is_symmetric_and_does_not_shrink() -> None:
    for a, b in itertools.product(ALL, ALL):
        joint = join(a, b)
        assert joint == join(b, a), (a, b)
        if joint is not None:
            assert joint == join(joint, a) == join(joint, b), (a, b)
            assert joint.is_complex == (a.is_complex or b.is_complex), (a, b)


def test_the_order_of_joining_does_not_matter() -> None:
    for a, b, c in itertools.product(ALL, ALL, ALL):
        left, right = join(a, b), join(b, c)
        first = join(left, c) if left else None
        second = join(a, right) if right else None
        # `key` and `vec` do not join each other, yet both join `mat`: so only where both orders exist.
        assert first is None or second is None or first == second, (a, b, c)


@pytest.mark.parametrize("a", ALL)
def test_a_type_joins_itself_and_numbers(a: Type) -> None:
    assert join(a, a) == a
    assert join(a, NUM) == a


@pytest.mark.parametrize(
    ("a", "b", "joint"),
    [
        (SCAL, KEY, KEY),
        (SCAL, VEC, VEC),
        (SCAL, MAT, MAT),
        (KEY, MAT, MAT),
        (VEC, MAT, MAT),
        (IN, VEC, VEC),
        (SCAL, SEQ, SEQ),
        (VEC, CVEC, CVEC),
        (MAT, CMAT, CMAT),
        (KEY, VEC, None),
        (KEY, IN, None),
        (KEY, CVEC, None),
        (VEC, SEQ, None),
        (MEM, VEC, None),
        (MEM, SCAL, None),
        (MEM, Type("mem", 4), None),
    ],
)
def test_what_joins_what(a: Type, b: Type, joint: Type | None) -> None:
    assert join(a, b) == joint


def test_val_is_another_name_for_vec() -> None:
    assert NAMED["val"] is NAMED["vec"]
    assert parse("cell a { out lin:val(x) }") is parse("cell a { out lin(x) }")


@pytest.mark.parametrize(
    ("type_", "width"),
    [(IN, "D"), (VEC, "H"), (KEY, "N K"), (SCAL, "N"), (MAT, "H K"), (MEM, "3"), (CMAT, "H K")],
)
def test_widths(type_: Type, width: str) -> None:
    assert str(type_.width) == width


def test_shapes_for_readers() -> None:
    assert MAT.shape == "[B, N, K, V]"
    assert MEM.shape == "[B, 3]"
    assert str(MEM) == "mem(3)"
    assert set(SHAPES) == {t.kind for t in ALL} - {"mem"}
    assert all(shape.count("[") == 1 for shape in SHAPES.values())


def test_where_x_needs_the_width_of_the_state() -> None:
    assert parse("cell a { state h: vec; h' = h + x; out h }").graph.equal_width
    assert parse("cell a { out x }").graph.equal_width
    assert not parse("cell a { out lin(tanh(x + 1)) }").graph.equal_width
