"""NAS-Bench-NLP recipes and DARTS genotypes: import, export, classes and parameter counts."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_tree import ROOT

from grammar import (
    KEYWORDS,
    Cell,
    Genotype,
    ImportFormatError,
    Poly,
    from_darts,
    from_nasbench_nlp,
    parse,
    to_darts,
    to_nasbench_nlp,
    zoo,
)

LIN = {"op": "linear", "input": ["x", "h_prev_0"]}
TABLES = {"wikitext2": (33_278, 173), "ptb": (10_000, 2_375)}
LSTM_LIKE = {
    "i": {"op": "linear", "input": ["x", "h_prev_0"]},
    "i_act": {"op": "activation_sigm", "input": ["i"]},
    "j": {"op": "linear", "input": ["x", "h_prev_0"]},
    "j_act": {"op": "activation_tanh", "input": ["j"]},
    "h_new_1": {"op": "blend", "input": ["i_act", "j_act", "h_prev_1"]},
    "h_new_0": {"op": "activation_tanh", "input": ["h_new_1"]},
}


def _given(op: Any, inputs: Any) -> dict[str, Any]:
    return {"op": op, "input": inputs}


def _rows(folder: Path, table: str) -> Iterator[dict[str, Any]]:
    with (folder / f"nas-bench-nlp-{table}" / "cells.jsonl").open() as file:
        for line in file:
            yield json.loads(line)


def _parameters(cell: Cell, input_size: int, hidden_size: int) -> int:
    total = Poly()
    for weight in cell.graph.weights:
        for spec in weight.specs:
            size = Poly.of(1)
            for extent in spec.shape:
                size = size * extent
            total = total + size
    return int(total.at(input_size=input_size, hidden_size=hidden_size))


def test_a_recipe_is_the_cell_it_describes() -> None:
    written = parse(
        "cell a { state h: vec, c: vec; i = sigmoid(lin(x, h)); c' = i * tanh(lin(x, h)) + (1 - i) * c;"
        " h' = tanh(c'); out h' }"
    )
    assert from_nasbench_nlp(LSTM_LIKE).digest == written.digest
    assert from_nasbench_nlp(to_nasbench_nlp(written.canonical())).digest == written.digest
    assert to_nasbench_nlp(from_nasbench_nlp(LSTM_LIKE)) == LSTM_LIKE


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, "has the node `h_new_0`; received no nodes"),
        ({"h_new_0": {"op": "linear"}}, "mapping with `op` and `input`"),
        ({"h_new_0": {"op": "conv", "input": ["x"]}}, "unknown operation 'conv'"),
        ({"h_new_0": {"op": "blend", "input": ["x"]}}, "`blend` takes 3 inputs; received 1"),
        ({"h_new_0": {"op": "linear", "input": ["nowhere"]}}, "node 'h_new_0': unknown input 'nowhere'"),
        ({"h_new_0": LIN, "9a": LIN}, "node '9a': a name is a letter or _"),
        ({"h_new_0": LIN, "é": LIN}, "node 'é': a name is a letter or _"),
        ({"h_new_0": LIN, "": LIN}, "node '': a name is a letter or _"),
        ({"h_new_0": LIN, "a'": LIN}, 'node "a\'": a name is a letter or _'),
        ({"h_new_0": LIN, "a = x\n  b": LIN}, r"node 'a = x\\n  b': a name is a letter or _"),
        ({"h_new_0": LIN, "h_new_1\n": LIN}, r"node 'h_new_1\\n': a name"),
        ({"h_new_0": LIN, "h_new_00": LIN}, "node 'h_new_00': states are numbered from 0"),
        ({"h_new_0": LIN, f"h_new_{'9' * 5000}": LIN}, "9999...: states are numbered from 0 to 999"),
        ({"h_new_0": _given("linear", ["x", "h_prev_1"])}, "unknown input 'h_prev_1', as .* no node h_new_1"),
        ({"h_new_0": _given("linear", ["h_prev_00"])}, "unknown input 'h_prev_00', as"),
        ({"h_new_0": _given("linear", [f"h_prev_{'9' * 5000}"])}, "node 'h_new_0': unknown input"),
        ({"h_new_0": _given("linear", "x")}, "node 'h_new_0': `input` is a list of names; received 'x'"),
        ({"h_new_0": _given("linear", [1])}, r"`input` is a list of names; received \[1\]"),
        ({"h_new_0": _given("linear", None)}, "`input` is a list of names; received None"),
        ({"h_new_0": _given("linear", [["x"]])}, r"`input` is a list of names; received \[\['x'\]\]"),
        ({"h_new_0": _given(["linear"], ["x"])}, r"node 'h_new_0': unknown operation \['linear'\]"),
        ({"h_new_0": _given("linear", [])}, "`linear` takes 1 to 100 inputs; received 0"),
        ({"h_new_0": _given("elementwise_sum", ["x"] * 300)}, "takes 1 to 100 inputs; received 300"),
        ({"h_new_0": _given("linear", ["h_new_0"])}, "node 'h_new_0' depends on itself"),
        (
            {"h_new_0": _given("linear", ["a"]), "a": _given("linear", ["h_new_0"])},
            "depends on itself: 'h_new_0' <- 'a' <-",
        ),
        ({f"n{i}": LIN for i in range(2_000)}, "a recipe has at most 1000 nodes; received 2000"),
    ],
)
def test_a_bad_recipe_names_the_fault(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ImportFormatError, match=message) as caught:
        from_nasbench_nlp(recipe)
    assert len(str(caught.value)) < 500


def test_words_of_the_language_are_names_of_nodes() -> None:
    words = [*KEYWORDS, "h0", "h0_", "out_", "tanh", "lin", "mem", "yes", "inf", "learned", "fresh__"]
    recipe = {word: _given("linear", ["x", "h_prev_0"]) for word in words}
    recipe["h_new_0"] = _given("elementwise_sum", [word for word in words if word != "x"])
    cell = from_nasbench_nlp(recipe)
    assert parse(str(cell)) is cell
    names = {word: "x" if word == "x" else f"n{i}" for i, word in enumerate(words)}
    plain = {f"n{i}": recipe[word] for i, word in enumerate(words)}
    plain["h_new_0"] = _given("elementwise_sum", [names[word] for word in words if word != "x"])
    assert from_nasbench_nlp(plain).digest == cell.digest
    long = {"h_new_0": _given("elementwise_sum", ["h_prev_0"] * 100)}
    assert parse(str(from_nasbench_nlp(long))) is from_nasbench_nlp(long)
    for name in ("é", "a b", "a\n", "", "9"):
        with pytest.raises(ImportFormatError, match="this is no cell of the language: "):
            from_nasbench_nlp(LSTM_LIKE, name)


def test_a_chain_of_all_the_nodes_that_a_recipe_may_have() -> None:
    recipe = {f"n{i}": _given("linear", [f"n{i - 1}" if i else "x"]) for i in range(999)}
    cell = from_nasbench_nlp({**recipe, "h_new_0": _given("linear", ["n998", "h_prev_0"])})
    assert len(cell.graph.weights) == 1_000


@pytest.mark.parametrize("name", ["elman", "gru", "gru_cho", "lstm", "mgu", "mingru"])
def test_cells_of_the_zoo_that_the_space_holds(name: str) -> None:
    assert from_nasbench_nlp(to_nasbench_nlp(zoo(name))).digest == zoo(name).digest


@pytest.mark.parametrize(
    "body",
    [
        "state h: vec; h_prev_0 = tanh(x); h' = tanh(lin(x, h_prev_0, h)); out h'",
        "state h: vec; h_new_0 = tanh(lin(x, h)); h' = tanh(lin(h_new_0, h)); out h'",
        "state h: vec; h_new_1 = tanh(x); node_0 = tanh(h); h' = lin(x, h_new_1, node_0); out h'",
        "state h0: vec, h1: vec, h01: vec; h1' = tanh(lin(x, h1)); h01' = sigmoid(lin(x, h01));"
        " h0' = lin(h1', h01'); out h0'",
        "state h0: vec, h1000: vec; h1000' = tanh(lin(x, h1000)); h0' = lin(h1000'); out h0'",
    ],
)
def test_names_that_mean_something_in_the_format_do_not_get_into_it(body: str) -> None:
    cell = parse(f"cell a {{ {body} }}")
    assert from_nasbench_nlp(to_nasbench_nlp(cell)).digest == cell.digest


@pytest.mark.parametrize("name", ["deltanet", "hgrn", "indrnn", "rglru"])
def test_cells_outside_the_space_are_refused(name: str) -> None:
    with pytest.raises(ImportFormatError, match="NAS-Bench-NLP"):
        to_nasbench_nlp(zoo(name))


@pytest.mark.parametrize("table", TABLES)
def test_every_recipe_imports_round_trips_and_has_the_published_parameters(
    shared_data: Path, table: str
) -> None:
    vocabulary = TABLES[table][0]
    for row in _rows(shared_data, table):
        cell = from_nasbench_nlp(row["recipe"])
        assert to_nasbench_nlp(cell) == row["recipe"]
        layers = sum(_parameters(cell, d, h) for d, h in ((400, 600), (600, 600), (600, 400)))
        assert layers + 400 * vocabulary + vocabulary == row["num_params"], row["id"]


def test_digests_are_the_published_classes(shared_data: Path) -> None:
    """One digest for each class and one class for each digest, in both files and in their union."""
    digests: dict[str, dict[str, set[int]]] = {}
    for table in TABLES:
        found = digests.setdefault(table, defaultdict(set))
        for row in _rows(shared_data, table):
            found[from_nasbench_nlp(row["recipe"]).digest].add(row["cell_class"])
    both = {digest: set[int]() for found in digests.values() for digest in found}
    for found in digests.values():
        for digest, classes in found.items():
            both[digest] |= classes
    assert {len(classes) for classes in both.values()} == {1}
    assert len(both) == len(set().union(*both.values())) == 2_383
    assert {table: len(found) for table, found in digests.items()} == {t: n for t, (_, n) in TABLES.items()}


def test_darts_v2_by_its_equations() -> None:
    rng = np.random.default_rng(0)
    genotype = Genotype((("sigmoid", 0), ("relu", 1), ("identity", 1)), (1, 2, 3))
    text = from_darts(genotype)
    by_hand = parse(
        "cell d { state h: vec; s0 = h + sigmoid(lin(x, h, bias=no)) * (tanh(lin(x, h, bias=no)) - h);"
        " s1 = s0 + sigmoid(lin(s0, bias=no)) * (sigmoid(lin(s0, bias=no)) - s0);"
        " s2 = s1 + sigmoid(lin(s1, bias=no)) * (relu(lin(s1, bias=no)) - s1);"
        " s3 = s1 + sigmoid(lin(s1, bias=no)) * (lin(s1, bias=no) - s1);"
        " h' = (s1 + s2 + s3) / 3; out h' }"
    )
    assert text.digest == by_hand.digest
    assert to_darts(by_hand) == genotype
    for _ in range(50):
        nodes = tuple(
            (str(rng.choice(["tanh", "relu", "sigmoid", "identity"])), int(rng.integers(0, i + 1)))
            for i in range(8)
        )
        made = Genotype(nodes, tuple(range(1, 9)))
        again = from_darts(to_darts(from_darts(made)))
        assert again.digest == from_darts(made).digest


def test_darts_accepts_keys_and_names_faults() -> None:
    keyed = {"recurrent": [("tanh", 0)], "concat": range(1, 2)}
    assert to_darts(from_darts(keyed)) == Genotype((("tanh", 0),), (1,))
    with pytest.raises(ImportFormatError, match=r"node 1 needs an operation .* received \('elu', 0\)"):
        from_darts({"recurrent": [("elu", 0)], "concat": [1]})
    with pytest.raises(ImportFormatError, match="`concat` names nodes from 1 to 1"):
        from_darts({"recurrent": [("relu", 0)], "concat": [2]})
    with pytest.raises(ImportFormatError, match="KeyError: 'concat'"):
        from_darts({"recurrent": [("tanh", 0)]})
    bad: tuple[tuple[Any, str], ...] = (
        ({"recurrent": [("tanh", 0.9)], "concat": [1]}, "'float' object cannot be interpreted as an integer"),
        ({"recurrent": [("tanh", "0")], "concat": [1]}, "'str' object cannot be interpreted"),
        ({"recurrent": [("tanh", False)], "concat": [1]}, "a node is a whole number, not False"),
        ({"recurrent": [("tanh", 0)], "concat": "1"}, "'str' object cannot be interpreted"),
        ({"recurrent": [("tanh", 0)], "concat": [1.0]}, "'float' object cannot be interpreted"),
        ({"recurrent": [(["tanh"], 0)], "concat": [1]}, r"an operation is a name, not \['tanh'\]"),
        ({"recurrent": [("tanh", 0, 1)], "concat": [1]}, "too many values"),
        ({"recurrent": ["tanh"], "concat": [1]}, "too many values"),
        ({"recurrent": [("tanh", 0)], "concat": [1] * 300}, "at most 100 nodes; received 1, and 300"),
        ({"recurrent": [("tanh", 0)] * 300, "concat": [1]}, "at most 100 nodes; received 300"),
        ({"recurrent": [("tanh", 0)], "concat": 10**5000}, "a genotype has"),
    )
    for genotype, message in bad:
        with pytest.raises(ImportFormatError, match=message):
            from_darts(genotype)
    numbered = from_darts({"recurrent": [("tanh", np.int64(0))], "concat": np.arange(1, 2)})
    assert numbered is from_darts(keyed)
    longest = from_darts({"recurrent": [("tanh", i) for i in range(100)], "concat": range(1, 101)})
    assert parse(str(longest)) is longest
    wrong: tuple[Any, ...] = (None, [], "x", {1: 2})
    for recipe in wrong:
        with pytest.raises(ImportFormatError, match="a recipe is a mapping from names of nodes; received"):
            from_nasbench_nlp(recipe)
    with pytest.raises(ImportFormatError, match="a genotype has `recurrent`"):
        from_darts(3)
    with pytest.raises(ImportFormatError, match="a DARTS cell has one state"):
        to_darts(zoo("lstm"))


@pytest.mark.parametrize("term", ["a{}", "tanh(lin(x))"])
def test_a_sum_of_any_length_is_no_genotype(term: str) -> None:
    """Neither a chain of a thousand sums nor one of which each doubles the one before."""
    sums = "; ".join(f"a{i + 1} = a{i} + {term.format(max(0, i - 1))}" for i in range(1_200))
    cell = parse(f"cell a {{ state h: vec; a0 = tanh(lin(x, h)); {sums}; h' = a1200; out h' }}")
    with pytest.raises(ImportFormatError, match="the mean of at most 100 nodes"):
        to_darts(cell)


def test_the_document_about_importers_says_what_is_so() -> None:
    text = (ROOT / "docs" / "importers.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(example, "docs/importers.md", "exec"), {})
