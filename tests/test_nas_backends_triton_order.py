"""The order of a step's values: what is held at once in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nas.backends.triton.order import Work, ordered


def work(
    args: dict[int, tuple[int, ...]], late: tuple[int, ...] = (), slots: dict[int, int] | None = None
) -> Work:
    """One number for each value."""
    return Work(tuple(args), args.__getitem__, lambda k: 1, late, slots or {})


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Some instructions, each of earlier ones and of what is loaded late; the first may be a slot."""
    count = draw(st.integers(1, 12))
    late = tuple(range(-3, 0))
    args = {
        k: tuple(draw(st.lists(st.sampled_from([*late, *range(k)]), max_size=2, unique=True)))
        for k in range(count)
    }
    if draw(st.booleans()):
        args[0] = ()
        return work(args, late, {0: draw(st.integers(0, count - 1))})
    return work(args, late)


@given(works())
def test_an_order_has_each_value_once_and_after_its_operands_and_holds_no_more(given: Work) -> None:
    order = ordered(given)
    assert sorted(order) == sorted(given.body)
    for place, k in enumerate(order):
        assert {a for a in given.args(k) if a >= 0} <= set(order[:place])
    assert given.most(order) <= given.most(given.body)


def test_each_of_several_sums_is_made_where_its_parts_are() -> None:
    # three values, loaded late, and only then a product of each
    given = work({0: (-1,), 1: (-2,), 2: (-3,), 3: (0,), 4: (1,), 5: (2,)}, (-1, -2, -3))
    assert given.most([0, 1, 2, 3, 4, 5]) == 3
    assert given.most(ordered(given)) == 1


def test_a_slots_value_is_held_until_the_next_is_there() -> None:
    given = work({0: (), 1: (0,), 2: (1,)}, slots={0: 2})  # 2 follows 0
    held = [given.most([0]), given.most([0, 1]), given.most([0, 1, 2])]
    assert held == [0, 1, 1]  # the slot's own place is there before and after
