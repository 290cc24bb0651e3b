"""The sizes of a cell: what fits and what does not."""

from __future__ import annotations

import pytest

from grammar import KEY, MAT, NUM, VEC, CellBuildError, Sizes, parse
from grammar.poly import H, V


def test_sizes_that_follow() -> None:
    sizes = Sizes.of(6, 8, 2)
    assert (sizes.key_size, sizes.value_size) == (4, 4)
    assert Sizes.of(6, 8, 2, 5).key_size == 5
    assert sizes.shape(MAT) == (2, 4, 4)
    assert sizes.shape(VEC) == (8,)
    assert Sizes.of(6, 8, 2, 5).shape(KEY) == (2, 5)
    assert sizes.shape(NUM) == ()
    assert sizes.at(V) == 4
    assert str(sizes) == "input_size=6, hidden_size=8, heads=2, key_size=4"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0, 8), "input_size is at least 1; received 0"),
        ((6, -1), "hidden_size is at least 1; received -1"),
        ((6, 8, 0), "heads is at least 1; received 0"),
        ((6, 8, 2, 0), "key_size is at least 1; received 0"),
        ((6, 8, 3), "heads divides hidden_size; received heads=3 and hidden_size=8"),
    ],
)
def test_sizes_that_do_not_fit(args: tuple[int, ...], message: str) -> None:
    with pytest.raises(CellBuildError, match=message):
        Sizes.of(*args)


def test_a_size_must_be_whole() -> None:
    with pytest.raises(CellBuildError, match="a size must be whole; received 1/3 H = 8/3 at input_size=6"):
        Sizes.of(6, 8).at(H / 3)


def test_a_cell_says_what_it_cannot_take() -> None:
    Sizes.of(6, 8).check(parse("cell a { out lin(x, blocks=2) }").graph)
    with pytest.raises(CellBuildError, match=r"the weight out\.w0 \[4, 1/4 H, 1/4 D\] does not fit"):
        Sizes.of(6, 8).check(parse("cell a { out lin(x, blocks=4) }").graph)
    with pytest.raises(CellBuildError, match="received input_size=6 and hidden_size=8"):
        Sizes.of(6, 8).check(parse("cell a { out x }").graph)


def test_a_val_is_a_key_where_they_have_one_size() -> None:
    graph = parse(
        "cell a { state S: mat; S' = S + outer(tokey(lin(x)), lin(x)); out read(S', lin:key(x)) }"
    ).graph
    Sizes.of(6, 8, 2).check(graph)
    Sizes.of(6, 8, 2, 4).check(graph)
    with pytest.raises(
        CellBuildError, match=r"`tokey` sees .* received key_size=3 and hidden_size / heads = 4"
    ):
        Sizes.of(6, 8, 2, 3).check(graph)
    with pytest.raises(CellBuildError, match="received input_size=6 and hidden_size=8"):
        Sizes.of(6, 8).check(parse("cell a { out lin(tokey(x)) }").graph)
