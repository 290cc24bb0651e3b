from __future__ import annotations

import keyword

import pytest

from grammar import parse, zoo, zoo_names
from nas.exporters.names import RESERVED, unused, value_names


def named(text: str) -> dict[str, str]:
    """Name -> operation of what it names."""
    cell = parse(text)
    return {name: cell.graph.nodes[node].op for node, name in value_names(cell).items()}


def test_equations_name_their_values_and_new_states_end_in_new() -> None:
    cell = zoo("lstm")
    found = {name: cell.graph.nodes[node].op for node, name in value_names(cell).items()}
    gates = {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid"}
    assert found == {**gates, "c_new": "add", "h_new": "mul"}
    sites = {
        n: cell.graph.weights[cell.graph.nodes[cell.graph.nodes[k].args[0]].weight].site
        for k, n in value_names(cell).items()
        if n in gates
    }
    assert sites == {name: name for name in gates}


def test_order_of_equations_does_not_matter() -> None:
    assert named("cell a { state h: vec; out h'; h' = b * b; b = tanh(lin(h, x)) }") == {
        "h_new": "mul",
        "b": "tanh",
    }


def test_twins_in_one_equation_are_told_apart_by_their_place() -> None:
    found = named("cell a { state h: vec; a = lin(x); b = lin(x); h' = a * b + a; out h' }")
    assert found == {"h_new": "add", "a": "lin", "b": "lin"}


def test_substeps_are_numbered() -> None:
    text = "cell a { state h: vec; repeat 2 fresh { k = tanh(lin(x)); h' = h + k }; out h' }"
    assert named(text) == {"h_new": "add", "k_1": "tanh", "k_2": "tanh", "h_1_new": "add"}


def test_names_are_legal_python_and_no_names_of_the_file() -> None:
    found = named("cell a { state lambda: vec; torch = tanh(x); F = lin(torch); lambda' = F; out torch }")
    assert set(found) == {"torch_2", "lambda_new"}


@pytest.mark.parametrize("name", zoo_names())
def test_names_in_the_zoo_are_unique_identifiers(name: str) -> None:
    names = list(value_names(zoo(name)).values())
    assert len(set(names)) == len(names)
    assert all(n.isidentifier() and not keyword.iskeyword(n) and n not in RESERVED for n in names)


def test_unused_numbers_what_is_taken() -> None:
    used = {"a"}
    assert [unused("a", used), unused("a", used), unused("h'", used), unused("if", used)] == [
        "a_2",
        "a_3",
        "h_new",
        "if_",
    ]
    assert used == {"a", "a_2", "a_3", "h_new", "if_"}
