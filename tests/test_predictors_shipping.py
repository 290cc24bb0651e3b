from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import recell, refused
from predictor_fixtures import small

from grammar import zoo
from predictors import PredictorError, shipped, shipped_scores, shipped_tasks, shipping
from predictors.files import with_card


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with predictors of two made-up tasks."""
    monkeypatch.setattr("predictors.shipping.FOLDER", tmp_path)
    about = {"size": "table", "unit": "nats/char", "cross_validation": {"kendall_tau": 0.7}}
    for task in ("text", "modular_arithmetic"):
        with_card(small(), task=task, **about).save(tmp_path / f"{task}.recell", small=True)
    return tmp_path


def test_shipped_by_task(folder: Path) -> None:
    assert shipped_tasks() == ("modular_arithmetic", "text")
    assert shipped().card["task"] == "text"
    assert shipped("modular_arithmetic").card["task"] == "modular_arithmetic"
    with pytest.raises(
        PredictorError, match="tasks modular_arithmetic, text come with recell; received the task 'x'"
    ):
        shipped("x")


def test_none_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictors.shipping.FOLDER", tmp_path / "none")
    assert shipped_tasks() == ()
    with pytest.raises(PredictorError, match="no predictor comes with this copy of recell; fit one"):
        shipped()
    assert "no predictor comes with this copy" in refused("predict", "zoo:gru")


def test_predict_without_a_file(folder: Path) -> None:
    text = recell("predict", "zoo:gru").out
    assert "cells on text, size table. Scores: nats/char. Lower scores are better." in text
    assert "with Kendall's tau 0.70 (1 is perfect, 0 is chance)" in text
    row = recell("predict", "--task", "modular_arithmetic", "zoo:gru", "--json").json[0]
    assert (row["task"], row["unit"]) == ("modular_arithmetic", "nats/char")
    assert row["digest"] == zoo("gru").digest
    assert "give it or -p, not both" in refused("predict", "-p", "x", "--task", "text", "zoo:gru")
    assert "received the task 'chess'" in refused("predict", "--task", "chess", "zoo:gru")


def test_what_ships_is_what_it_says() -> None:
    for task in shipped_tasks():
        card = shipped(task).card
        assert card["task"] == task
        assert card["cells"] >= 300
        assert 0 < card["cross_validation"]["kendall_tau"] < 1
        assert (shipping.FOLDER / f"{task}.recell").stat().st_size < 1_500_000


def test_a_cell_of_the_table_is_told_by_what_it_reached() -> None:
    reached = shipped_scores("text")
    card = shipped("text").card
    assert len(reached) == card["cells"] + card["failed_cells"]
    found = recell("predict", "zoo:s4d", "cell c { out tanh(lin(x)) * sin(lin(x)) }", "--json").json
    assert found[0]["trained"] == pytest.approx(reached[zoo("s4d").digest])
    assert found[1]["trained"] is None
    text = recell("predict", "zoo:s4d").out
    assert f"{reached[zoo('s4d').digest]:.4f}" in text
    assert "`trained` is what a cell reached that this predictor was fitted on" in text


@pytest.mark.parametrize("name", ["treelstm", "treegru", "mor", "ut"])
def test_trees_and_depth_are_unlike_what_the_shipped_were_fitted_on(name: str) -> None:
    said = shipped("text").predict([zoo(name), zoo("lstm")])
    assert said.out_of_distribution.tolist() == [True, False]
