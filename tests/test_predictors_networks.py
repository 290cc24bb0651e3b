from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from predictor_fixtures import sampled

from grammar import parse, zoo
from predictors import PredictorError, PredictorFileError
from predictors.networks import embed, pretrain
from predictors.relations import AFTER, BEFORE, READS, SELF, USED_BY, graph_arrays, graph_vocabulary
from predictors.targets import free_targets
from predictors.tokens import LONGEST, UNKNOWN, number_word, text_arrays, text_vocabulary, words
from predictors.weights import load_network, pretrained, save_network
from predictors.wl import BUCKETS, wl_columns, wl_rounds

SIZES = {"width": 16, "inner": 16, "layers": 2}


def test_tokens_are_those_of_the_canonical_text() -> None:
    cell = parse("cell mine { state h: vec; h' = 0.3 * tanh(lin(x, h, bias=no)); out h' }")
    assert " ".join(words(cell)) == (
        "^ cell { state s0 : vec ; s0' = tanh lin x s0 bias = no ) ) * #~1 ; out s0' }"
    )


def test_numbers_are_told_apart_by_size() -> None:
    assert [number_word(value) for value in (0.0, 2.0, -1.0, 0.05, 1.5, 1e9, -np.inf)] == [
        "#0", "#2", "#-~2", "#~0", "#~3", "#~5", "#-~5",
    ]  # fmt: skip


def test_the_vocabulary_knows_all_that_spaces_write() -> None:
    vocabulary = text_vocabulary()
    for space in ("diagonal", "matrix", "tree"):
        for cell in sampled(space, 4):
            assert set(words(cell)) <= set(vocabulary)


def test_a_word_that_is_not_known_is_no_error() -> None:
    vocabulary = tuple(word for word in text_vocabulary() if word != "tanh")
    ids = text_arrays(zoo("elman"), vocabulary).fields[:, 0]
    assert (ids == vocabulary.index(UNKNOWN)).sum() == 1


def test_a_long_text_is_cut() -> None:
    longest = max((zoo(name) for name in ("tkan", "enas")), key=lambda cell: len(words(cell)))
    repeated = parse(
        "cell c { state h: vec; h' = "
        + " + ".join(f"tanh(lin(x, {i} * h))" for i in range(2, 60))
        + "; out h' }"
    )
    assert len(text_arrays(repeated, text_vocabulary()).fields) == LONGEST
    assert len(text_arrays(longest, text_vocabulary()).fields) <= LONGEST


def test_relations_say_who_reads_whom_and_what_a_step_apart_is() -> None:
    graph = zoo("elman").canonical().graph
    arrays = graph_arrays(zoo("elman"), graph_vocabulary())
    place = {node.op: i for i, node in enumerate(graph.nodes)}
    tanh, lin, state = place["tanh"], place["lin"], place["state"]
    assert arrays.relations[tanh, lin] == READS
    assert arrays.relations[lin, tanh] == USED_BY
    assert arrays.relations[state, tanh] == BEFORE
    assert arrays.relations[tanh, state] == AFTER
    assert (np.diag(arrays.relations) == SELF).all()
    assert arrays.out == graph.out


def test_labels_of_later_rounds_see_farther() -> None:
    one = parse("cell c { state h: vec; h' = tanh(relu(sigmoid(lin(x, h)))); out h' }")
    other = parse("cell c { state h: vec; h' = relu(tanh(sigmoid(lin(x, h)))); out h' }")
    found = wl_columns(
        [one, other, parse("cell d { state h: vec; h' = tanh(relu(sigmoid(lin(h, x)))); out h' }")]
    )
    apart = np.abs(found[0] - found[1])
    by_round = [apart[wl_rounds() == r].sum() for r in range(len(BUCKETS))]
    assert by_round[0] < by_round[1] <= by_round[2]
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("kind", ["graph", "text"])
def test_pretraining_foresees_what_the_cell_says(kind: str) -> None:
    cells = sampled(count=80)
    gates = np.array([sum(node.op == "sigmoid" for node in c.canonical().graph.nodes) for c in cells], float)
    targets = np.stack([gates, -gates], axis=1)
    errors: list[float] = []
    network = pretrain(
        kind,
        cells,
        targets,
        epochs=20,
        batch=8,
        rate=5e-3,
        sizes=SIZES,
        on_epoch=lambda _, e: errors.append(e),
    )
    assert errors[-1] < 0.7 < errors[0]
    gap = embed(network, cells) - targets
    assert gap.var() < 0.5 * targets.var(axis=0).mean()


def test_the_same_seed_pretrains_the_same_network() -> None:
    cells, targets = sampled()[:8], np.arange(16.0).reshape(8, 2)
    one, same, other = (
        pretrain("graph", cells, targets, seed=seed, epochs=2, sizes=SIZES) for seed in (1, 1, 2)
    )
    assert all((one.arrays[name] == same.arrays[name]).all() for name in one.arrays)
    assert any((one.arrays[name] != other.arrays[name]).any() for name in one.arrays)


def test_targets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PredictorError, match=r"a row of targets for each cell; received 2, \(3, 1\)"):
        pretrain("text", sampled()[:2], np.zeros((3, 1)))


def test_targets_keep_what_varies_most() -> None:
    from predictor_fixtures import rows

    targets = free_targets(rows(), 8)
    assert targets.shape == (40, 8)
    np.testing.assert_allclose(targets.var(axis=0).sum(), 1, rtol=1e-6)
    assert (np.diff(targets.var(axis=0)[1:]) <= 1e-12).all()


@pytest.mark.parametrize("kind", ["graph", "text"])
def test_what_ships_is_whole_and_small(kind: str, tmp_path: Path) -> None:
    network = pretrained(kind)
    assert network.kind == kind
    save_network(network, tmp_path / "n.recell", {})
    again = load_network(tmp_path / "n.recell")
    assert again.header() == network.header()
    assert all((again.arrays[name] == network.arrays[name]).all() for name in network.arrays)
    data = (tmp_path / "n.recell").read_bytes()
    assert len(data) < 1_000_000
    (tmp_path / "n.recell").write_bytes(data[:-5])
    with pytest.raises(PredictorFileError, match=r"n\.recell: the file is damaged or not complete"):
        load_network(tmp_path / "n.recell")
    with pytest.raises(PredictorFileError, match="cannot read the network"):
        load_network(tmp_path / "none")
