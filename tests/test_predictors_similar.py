from __future__ import annotations

from grammar import parse, zoo, zoo_names
from predictors import similar

NAMES = ("lstm", "lstm_peephole", "gru", "gru_cho", "elman", "mingru", "deltanet")
ZOO = {name: zoo(name) for name in NAMES}


def test_the_same_function_is_nearest() -> None:
    text = "cell mine { state s: vec; s' = tanh(lin(s, x)); out s' }"
    first = similar(parse(text), ZOO, 3)
    assert first[0].name == "elman"
    assert first[0].distance == 0
    assert first[0].difference == ()
    assert first[1].distance > 0


def test_relatives_are_near_and_strangers_far() -> None:
    found = [n.name for n in similar(zoo("lstm_cifg"), ZOO, len(ZOO))]
    assert "lstm" in found[:2]
    assert found[-1] == "deltanet"


def test_the_difference_reads_from_the_known_cell_to_the_query() -> None:
    query = parse("cell c { state h: vec; h' = relu(lin(x, h)); out h' }")
    lines = similar(query, {"elman": zoo("elman")})[0].difference
    assert [line[0] for line in lines] == ["-", "+"]
    assert "tanh" in lines[0]
    assert "relu" in lines[1]


def test_ties_stand_in_the_order_of_names_and_an_empty_pool_gives_nothing() -> None:
    twins = {"b": zoo("gru"), "a": zoo("gru")}
    assert [n.name for n in similar(zoo("gru"), twins)] == ["a", "b"]
    assert similar(zoo("gru"), {}) == []
    assert "gru" in zoo_names()
