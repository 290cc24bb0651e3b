"""Trained models on disk: loaded back they score the same; what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from grammar import zoo
from nas.errors import TrainingError
from nas.tasks import load_task
from nas.training import TrialResult, TrialSpec, evaluate, load_trained, train


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    train(SPEC, save_to=folder)
    return folder


SPEC = TrialSpec(
    cell=str(zoo("gru")),
    task="parity",
    recipe=load_task("parity", size="smoke").recipe.replace(num_layers=2, dropout=0.1),
    size="smoke",
)


def test_the_folder_holds_weights_and_a_record(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["trial.json", "weights.safetensors"]
    record = json.loads((saved / "trial.json").read_text())
    assert TrialSpec.from_dict(record["spec"]) == SPEC


def test_the_loaded_model_scores_what_the_trial_reported(saved: Path) -> None:
    model, spec, result = load_trained(saved)
    assert spec == SPEC
    assert not model.training
    assert evaluate(model, load_task("parity", size="smoke"), "valid") == result.score
    assert sum(p.numel() for p in model.parameters()) == result.params


def test_the_data_are_not_needed_to_load(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcdefg\n" * 200)
    recipe = load_task("text", data=str(text), size="smoke").recipe.replace(steps=1)
    train(SPEC.replace(task="text", data=str(text), recipe=recipe, width=8), save_to=tmp_path / "model")
    text.unlink()
    model, _, _ = load_trained(tmp_path / "model")
    assert model(torch.zeros(1, 3, dtype=torch.int64))[0].shape == (1, 3, 9)


def test_saving_twice_replaces(saved: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        train(SPEC.replace(seed=seed), save_to=tmp_path)
    assert load_trained(tmp_path)[1].seed == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_trial_that_does_not_end_well_writes_nothing(tmp_path: Path) -> None:
    result = train(SPEC.replace(params=10), save_to=tmp_path / "model")
    assert result.status == "invalid"
    assert not (tmp_path / "model").exists()


def copy(saved: Path, to: Path) -> Path:
    for path in saved.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_damage_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(
        TrainingError, match=r"weights\.safetensors is not the file that trial\.json speaks of"
    ):
        load_trained(folder)
    weights.unlink()
    with pytest.raises(TrainingError, match=r"no trained model in .*No such file"):
        load_trained(folder)
    (folder / "trial.json").write_text("{")
    with pytest.raises(TrainingError, match=r"no trained model in .*Expecting property name"):
        load_trained(folder)


def test_another_schema_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path)
    record = json.loads((folder / "trial.json").read_text())
    (folder / "trial.json").write_text(json.dumps({**record, "schema": 99}))
    with pytest.raises(TrainingError, match="has schema 99, this version reads 1"):
        load_trained(folder)


def test_the_result_that_is_saved_is_the_one_that_is_returned(tmp_path: Path) -> None:
    result = train(SPEC, save_to=tmp_path)
    assert isinstance(result, TrialResult)
    assert load_trained(tmp_path)[2] == result
