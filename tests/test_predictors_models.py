from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from predictor_fixtures import rows, sampled, scores
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

import predictors
from grammar import parse, zoo
from predictors import MODELS, PredictorError, PredictorFileError, fit, fit_rows, kendall_tau, model_rows

OTHERS = [model for model in MODELS if model != "ensemble"]


def planted(model: str, seed: int, count: int) -> NDArray[np.float64]:
    """Scores that the model can learn from few cells: of labels for `wl`, of probes and flow for the others."""
    if model != "wl":
        return scores(rows(seed=seed, count=count), fail=False)
    cells = sampled(seed=seed, count=count)
    return np.array(
        [sum(node.op in ("tanh", "mul") for node in cell.canonical().graph.nodes) for cell in cells]
    )


@pytest.mark.parametrize("model", OTHERS)
def test_it_learns_a_planted_signal(model: str) -> None:
    x, test = (model_rows(sampled(count=60, seed=seed), model) for seed in (0, 1))
    y, truth = (planted(model, seed, 60) for seed in (0, 1))
    learnt = kendall_tau(fit_rows(x, y, model=model, check=False).predict_rows(test).rank, truth)
    shuffled = np.random.default_rng(0).permutation(y)
    chance = kendall_tau(fit_rows(x, shuffled, model=model, check=False).predict_rows(test).rank, truth)
    assert learnt > 0.3
    assert abs(chance) < 0.25


@pytest.mark.parametrize("model", OTHERS)
def test_cells_of_another_space_are_answered_and_flagged(model: str) -> None:
    fitted = fit(sampled(), scores(rows()), model=model)
    said = fitted.predict([*sampled("matrix", 8), zoo("treelstm"), *sampled(seed=1)[:10]])
    assert all(np.isfinite(part).all() for part in (said.mean, said.std, said.rank, said.diverges))
    assert said.out_of_distribution[:9].mean() > 0.8
    assert said.out_of_distribution[9:].mean() < 0.5
    assert (said.std > 0).all()
    assert fitted.card["model"] == model


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("model", OTHERS)
def test_what_is_loaded_is_what_was_saved(model: str, small: bool, tmp_path: Path) -> None:
    prior = fit(sampled()[:20], scores(rows(), False)[:20], model=model)
    fitted = fit(sampled(), scores(rows()), model=model, prior=prior)
    fitted.save(tmp_path / "p.recell", small)
    loaded = predictors.load(tmp_path / "p.recell")
    assert loaded.model == model
    assert loaded.card == fitted.card
    query = sampled(seed=1)[:10]
    one, other = fitted.predict(query), loaded.predict(query)
    np.testing.assert_allclose(other.mean, one.mean, atol=0.2 * one.std.mean() if small else 1e-6)


def test_the_same_seed_gives_the_same_predictors_in_another_process() -> None:
    names = ("elman", "lstm", "gru", "gru_cho", "mgu", "lstm_cifg", "mingru", "minlstm", "leaky")
    program = (
        "import sys\n"
        "from grammar import zoo\n"
        "from predictors import fit\n"
        f"cells = [zoo(name) for name in {names}]\n"
        "for model in ('wl', 'graph', 'text'):\n"
        "    print(*fit(cells, range(len(cells)), seed=3, model=model).predict(cells[:3]).rank)\n"
        "    assert ('torch' in sys.modules) == (model != 'wl'), model\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="tests",
        env={**os.environ, "PYTHONPATH": ".."},
    )  # fmt: skip
    cells = [zoo(name) for name in names]
    for model, line in zip(OTHERS, done.stdout.splitlines(), strict=True):
        here = fit(cells, range(len(cells)), seed=3, model=model).predict(cells[:3]).rank
        np.testing.assert_allclose([float(word) for word in line.split()], here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", OTHERS)
def test_names_mean_nothing(model: str) -> None:
    one = parse("cell a { state h: vec; g = sigmoid(lin(x, h)); h' = g * h + tanh(lin(x)); out h' }")
    same = parse("cell b { state s: vec; s' = tanh(lin(x)) + k * s; k = sigmoid(lin(s, x)); out s' }")
    other = parse("cell a { state h: vec; g = sigmoid(lin(x, h)); h' = tanh(lin(x)) + g * lin(h); out h' }")
    found = model_rows([one, same, other], model)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 1e-3


@pytest.mark.parametrize("model", OTHERS)
def test_a_cell_has_the_same_row_among_others(model: str) -> None:
    cells = [*sampled()[:5], zoo("tkan"), zoo("lstm")]
    together = model_rows(cells, model)
    alone = np.concatenate([model_rows([cell], model) for cell in cells])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(
        PredictorError, match="a model is one of ensemble, wl, graph, text; received 'forest'"
    ):
        fit(sampled(), scores(rows()), model="forest")


def test_rows_and_priors_of_another_model_are_refused() -> None:
    with pytest.raises(PredictorError, match=r"rows of the model wl are \[n, \d+\]; received \(40, \d+\)"):
        fit_rows(rows(), scores(rows()), model="wl")
    fitted = fit(sampled(), scores(rows()), model="wl")
    with pytest.raises(PredictorError, match="a prior is of the same model; received wl for ensemble"):
        fit_rows(rows(), scores(rows()), prior=fitted)
    with pytest.raises(PredictorError, match="rows are what `rows` gives"):
        fitted.predict_rows(rows())


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("text") / "p.recell"
    fit(sampled(), scores(rows()), model="text").save(path)
    return path.read_bytes()


def header_of(data: bytes) -> dict[str, str]:
    import json

    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("network.head", None, "the network's `head` is float32 of the shape"),
        ("network.head", np.zeros((3, 3), np.float32), "the network's `head` is float32 of the shape"),
        ("network.norm", "nan", r"`network\.norm` is of finite numbers"),
        ("network.norm", "huge", "the network's `norm` has numbers that are not finite, or too large"),
        ("columns.used", np.array([10**6]), "numbers of columns"),
    ],
)
def test_damaged_weights_are_refused(
    text_file: bytes, tmp_path: Path, name: str, array: object, message: str
) -> None:
    arrays = read_arrays(text_file)
    if array is None:
        del arrays[name]
    elif isinstance(array, str):
        arrays[name] = np.full_like(arrays[name], {"nan": np.nan, "huge": 1e6}[array])
    else:
        arrays[name] = np.asarray(array)
    path = tmp_path / "p.recell"
    path.write_bytes(write_arrays(arrays, header_of(text_file)))
    with pytest.raises(PredictorFileError, match=message):
        predictors.load(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"heads": 4', '"heads": 3', "3 heads do not fit this network"),
        ('"layers": ', '"layers": 1000', "the layers of a network is a whole number from 1 to 24"),
        ('"kind": "text"', '"kind": "image"', "networks of version 1 of kinds graph, text"),
        ('"version": 1', '"version": 9', "networks of version 1"),
        ('{"version"', '["version"', "not JSON"),
        ('"sigmoid"', '""', "shape|do not fit|vocabulary"),
    ],
)
def test_a_damaged_header_of_the_network_is_refused(
    text_file: bytes, tmp_path: Path, old: str, new: str, message: str
) -> None:
    header = header_of(text_file)
    assert old in header["network"]
    changed = header["network"].replace(old, new, 1)
    if old == '"sigmoid"':
        changed = changed.replace('""', f'"{"a" * 100}"', 1)
    path = tmp_path / "p.recell"
    path.write_bytes(write_arrays(read_arrays(text_file), {**header, "network": changed}))
    with pytest.raises(PredictorFileError, match=message):
        predictors.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "forest"}, "a model is one of ensemble, wl, graph, text; received 'forest'"),
        ({"model": "ensemble"}, "another encoding of cells"),
        ({"model": "graph"}, "the model graph has a network of its kind; received one of text"),
        ({"network": "1"}, "not a JSON object"),
    ],
)
def test_a_file_that_names_another_model_is_refused(
    text_file: bytes, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    header = {**header_of(text_file), **change}
    path = tmp_path / "p.recell"
    path.write_bytes(write_arrays(read_arrays(text_file), header))
    with pytest.raises(PredictorFileError, match=message):
        predictors.load(path).predict(sampled()[:2])


@pytest.mark.parametrize("part", [0, 8, 100, 20_000, -1])
def test_a_truncated_file_is_refused(text_file: bytes, tmp_path: Path, part: int) -> None:
    path = tmp_path / "p.recell"
    path.write_bytes(text_file[:part])
    with pytest.raises(PredictorFileError, match=r"not a predictor file|damaged or not complete"):
        predictors.load(path)
