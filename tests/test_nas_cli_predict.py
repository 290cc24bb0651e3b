from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import recell, refused
from made_runs import make_run
from predictor_fixtures import rows, sampled, scores, small

from grammar import parse
from predictors import fit_rows, load


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predictor") / "p.recell"
    small().save(path)
    return path


def test_predict_for_people_and_for_programs(predictor: Path) -> None:
    text = recell("predict", "-p", predictor, "zoo:gru", "zoo:lstm").out
    assert "90 % of such cells" in text
    assert f"Fitted on {small().card['cells']} cells on made up. Lower scores are better." in text
    row = recell("predict", "-p", predictor, "zoo:gru", "--json").json[0]
    assert row["low"] < row["mean"] < row["high"]
    assert 0 <= row["diverges"] <= 1
    assert parse(row["cell"]).digest == row["digest"]


def test_fit_eval_and_card_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=14)
    out = tmp_path / "p.recell"
    card = recell("predictor", "fit", run.path, "-o", out, "--small", "--json").json
    assert out.read_bytes().startswith(b"\xfd7zXZ")
    assert (card["task"], card["size"], card["unit"]) == (
        run.config.task,
        run.config.size,
        run.task["metric"],
    )
    assert card["sources"] == ["run"]
    assert card["cells"] + card["failed_cells"] == 14
    assert recell("predictor", "card", out, "--json").json == card
    assert "held out kendall tau" in recell("predictor", "card", out).out
    found = recell("predictor", "eval", out, run.path, "--json").json
    assert found["cells"] == card["cells"]
    assert found["kendall_tau"] > 0.5
    assert "kendall tau" in recell("predictor", "eval", out, run.path).out


def test_tables_of_cells_and_scores(tmp_path: Path) -> None:
    values = scores(rows(), fail=False)
    pairs = [(cell.one_line, float(value)) for cell, value in zip(sampled()[:12], values, strict=False)]
    lines = [json.dumps({"cell": cell, "score": value}) for cell, value in pairs]
    (tmp_path / "t.jsonl").write_text("\n".join([*lines, json.dumps({"cell": pairs[0][0], "score": None})]))
    (tmp_path / "t.csv").write_text("cell,score\n" + "\n".join(f'"{cell}",{value}' for cell, value in pairs))
    one = recell("predictor", "fit", tmp_path / "t.csv", "-o", tmp_path / "p", "--json").json
    other = recell("predictor", "fit", tmp_path / "t.jsonl", "-o", tmp_path / "q", "--json").json
    assert one["cells"] == other["cells"] == 12
    assert one["held_out"] == other["held_out"]


def test_zero_cost_scores_are_taken_again_for_queries(tmp_path: Path) -> None:
    values = scores(rows(), fail=False)
    lines = [
        json.dumps({"cell": cell.one_line, "score": float(value)})
        for cell, value in zip(sampled()[:9], values, strict=False)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    out = tmp_path / "p"
    card = recell("predictor", "fit", tmp_path / "t.jsonl", "-o", out, "--zero-cost", "--json").json
    assert card["extras"] > 0
    assert recell("predict", "-p", out, "zoo:gru", "--json").json[0]["std"] > 0
    model = load(out)
    replace(model, card={**model.card, "zero_cost": "another"}).save(out)
    assert "zero-cost scores of another version" in refused("predict", "-p", out, "zoo:gru")


def test_similar(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=3)
    trial = run.trials[1]
    found = recell("similar", f"{run.path}#1", "--run", run.path, "-n", 2, "--json").json
    assert found[0]["name"] == f"{run.path}#1"
    assert (found[0]["distance"], found[0]["difference"], found[0]["score"]) == (0, [], trial.score)
    text = recell("similar", "zoo:elman", "-n", 2).out
    assert "+ is the cell asked for and - the known one" in text
    assert "zoo:elman  distance 0.00\n    the same function\n" in text
    assert "    - " in text


def test_wrong_use(tmp_path: Path, predictor: Path) -> None:
    (tmp_path / "bad.recell").write_bytes(b"nothing")
    assert "not a predictor file" in refused("predict", "-p", tmp_path / "bad.recell", "zoo:gru")
    assert "cannot read the predictor file" in refused("predict", "-p", tmp_path / "none", "zoo:gru")
    (tmp_path / "t.jsonl").write_text('{"cell": "cell c"}')
    assert "row 1 needs a `cell`" in refused("predictor", "eval", predictor, tmp_path / "t.jsonl")
    (tmp_path / "u.jsonl").write_text("{")
    assert "line 1 is not JSON" in refused("predictor", "eval", predictor, tmp_path / "u.jsonl")
    (tmp_path / "t.txt").write_text("x")
    assert "a table is a .csv or .jsonl file" in refused("predictor", "eval", predictor, tmp_path / "t.txt")
    (tmp_path / "t.jsonl.gz").write_bytes(b"\x1f\x8b\xff")
    assert "a table is a .csv or .jsonl file" in refused(
        "predictor", "eval", predictor, tmp_path / "t.jsonl.gz"
    )
    (tmp_path / "few.csv").write_text(
        "cell,score\n\"cell c { state h: vec; h' = tanh(lin(x, h)); out h' }\",1\n"
    )
    message = refused("predictor", "fit", tmp_path / "few.csv", "-o", tmp_path / "x")
    assert "at least 8 different cells with finite scores; received 1" in message
    model = fit_rows(rows()[:10], scores(rows(), False)[:10], extras=rows()[:10, :2])
    model.save(tmp_path / "extras")
    assert "also wants 2 further values of each cell" in refused(
        "predict", "-p", tmp_path / "extras", "zoo:gru"
    )
