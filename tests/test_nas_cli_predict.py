from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from math import isfinite
from pathlib import Path

import pytest
from cli_runner import recell, refused
from made_runs import ask, make_run
from predictor_fixtures import rows, sampled, scores, small

from grammar import parse, zoo
from nas.campaign.journal import JOURNAL, Journal, encode, read
from nas.cli.predict import _of_run
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


def test_a_supernet_that_diverged_says_nothing_of_its_centre(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=3, finish=False)
    journal, _ = Journal.take_over(run.path)
    ask(journal, 9.0, 4, zoo("gru"), supernet={"sketch": "", "seed": 0, "options": {}})
    failed = {"class": "diverged", "message": "", "attempt": 1, "retry": False}
    journal.append("fail", 9.5, trial=4, **failed)
    journal.close()
    pairs, *_ = _of_run(run.path)
    assert [cell.digest for cell, _ in pairs] == [trial.digest for trial in run.trials[:3]]


def test_runs_on_other_data_are_not_mixed(tmp_path: Path) -> None:
    one, other = (make_run(tmp_path / name, trials=3) for name in ("one", "other"))
    lines = read(other.path).events
    lines[0]["task"]["data_digest"] = "cd" * 32
    written = [encode({name: e[name] for name in e if name != "crc"}) for e in lines]
    (other.path / JOURNAL).write_bytes(b"".join(written))
    said = refused("predictor", "fit", one.path, other.path, "-o", tmp_path / "p")
    assert "one predictor is of one task on the same data; those of " in said


def test_tables_of_cells_and_scores(tmp_path: Path) -> None:
    values = scores(rows(), fail=False)
    pairs = [(str(cell), float(value)) for cell, value in zip(sampled()[:12], values, strict=False)]
    about = {"note": "lines\u2028 end at line feeds alone"}
    lines = [json.dumps({"cell": c, "score": v, **about}, ensure_ascii=False) for c, v in pairs]
    (tmp_path / "t.jsonl").write_text("\n".join([*lines, json.dumps({"cell": pairs[0][0], "score": None})]))
    (tmp_path / "t.csv").write_text(
        "\ufeffcell,score\n" + "\n".join(f'"{cell}",{value}' for cell, value in pairs)
    )
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
    assert "not in a pipe or a device" in refused("predict", "-p", "/dev/zero", "zoo:gru")
    (tmp_path / "t.jsonl").write_text('{"cell": "cell c"}')
    assert "row 1 needs a `cell`" in refused("predictor", "eval", predictor, tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text('{"cell": "cell c", "score": 1' + "0" * 400 + "}")
    assert "the score of row 1 is a number or empty" in refused(
        "predictor", "eval", predictor, tmp_path / "t.jsonl"
    )
    (tmp_path / "u.jsonl").write_text("{")
    assert "line 1 is not JSON" in refused("predictor", "eval", predictor, tmp_path / "u.jsonl")
    (tmp_path / "t.txt").write_text("x")
    (tmp_path / "u.csv").write_text(f'cell,score\n"{"c" * 200_000}",1\n')
    assert "u.csv is not CSV: field larger" in refused("predictor", "eval", predictor, tmp_path / "u.csv")
    assert "a table is a .csv or .jsonl file" in refused("predictor", "eval", predictor, tmp_path / "t.txt")
    (tmp_path / "t.jsonl.gz").write_bytes(b"\x1f\x8b\xff")
    assert "cannot read the table of trials" in refused(
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


def test_what_cannot_be_done_is_said_before_anything_is_fitted(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl.gz"  # is not there: it is not even looked for
    assert "--model is one of ensemble, wl, graph, text; received 'x'" in refused(
        "predictor", "fit", table, "--model", "x", "-o", tmp_path / "p"
    )
    assert "there is no folder" in refused("predictor", "fit", table, "-o", tmp_path / "none" / "p")
    assert "-o is a file; " in refused("predictor", "fit", table, "-o", tmp_path)
    (tmp_path / "file").write_text("")
    assert "there is no folder" in refused("predictor", "fit", table, "-o", tmp_path / "file" / "p")
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is a pipe or a device" in refused("predictor", "fit", table, "-o", tmp_path / "pipe")


def test_tables_that_are_not_there_or_hold_nothing(tmp_path: Path) -> None:
    out = tmp_path / "p"
    for name in ("none.csv", "none.jsonl"):
        said = refused("predictor", "fit", tmp_path / name, "-o", out)
        assert said.startswith(f"cannot read the table {tmp_path / name}: No such file")
    (tmp_path / "deep.jsonl").write_text('{"cell":' + "[" * 100_000)
    assert "line 1 is not JSON" in refused("predictor", "fit", tmp_path / "deep.jsonl", "-o", out)
    (tmp_path / "empty.jsonl.gz").write_bytes(gzip.compress(b""))
    assert "empty.jsonl.gz holds no trials" in refused(
        "predictor", "fit", tmp_path / "empty.jsonl.gz", "-o", out
    )
    assert not out.exists()


def _trials(path: Path, count: int = 30) -> Path:
    """A table of trials on two tasks, of which one cell was trained twice and one was stopped early."""
    values = scores(rows())
    row = {"size": "table", "seed": 0, "params": 1, "width": 1, "steps": 1, "seconds": 1.0}
    lines = []
    for task in ("text", "other"):
        for cell, value in zip(sampled()[:count], values, strict=False):
            ok = isfinite(value)
            said = {"status": "ok" if ok else "diverged", "score": float(value) if ok else None}
            lines.append({**row, **said, "cell": cell.one_line, "digest": cell.digest, "task": task})
        lines += [{**lines[-1], "seed": 1}, {**lines[-1], "status": "hopeless", "score": None}]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    return path


def test_a_table_of_trials_is_fitted_and_validated(tmp_path: Path) -> None:
    table, out = _trials(tmp_path / "t.jsonl.gz"), tmp_path / "p"
    card = recell("predictor", "fit", table, "--task", "text", "-o", out, "--json").json
    assert (card["task"], card["size"], card["unit"]) == ("text", "table", "nats/char")
    assert card["cells"] + card["failed_cells"] == 30
    again = recell("predictor", "eval", out, "--table", table, "--task", "text", "--json").json
    assert again["fitted_cells"] == again["cells"] + again["failed_cells"] == 30  # one was trained twice
    assert "predictor_of" not in again
    other = recell("predictor", "eval", out, table, "--task", "other", "--json").json
    assert (other["predictor_of"], other["scores_of"]) == ("text table", "other table")
    said = recell("predictor", "eval", out, table, "--task", "other").out
    assert "It was fitted to text table, and these are scores of other table" in said
    assert again["covered_by_90"] >= 0.85
    apart = recell("predictor", "eval", table, "--task", "other", "--folds", 3, "--json").json
    assert (apart["cells"], apart["folds"]) == (30, 3)
    assert apart["kendall_tau"] < again["kendall_tau"]
    assert "choose one with --task" in refused("predictor", "fit", table, "-o", out)
    assert "has trials on other, text; received 'chess'" in refused(
        "predictor", "fit", table, "--task", "chess", "-o", out
    )
    assert "--table own" in refused("predictor", "fit", "-o", out)
    assert "or --folds to cross-validate" in refused("predictor", "eval")
    assert "folds need at least" in refused("predictor", "eval", table, "--task", "text", "--folds", 30)


def test_fitted_cells_are_told_by_a_file_too(tmp_path: Path) -> None:
    small().save(tmp_path / "p")
    values = scores(rows())
    kept = next(i for i, value in enumerate(values) if isfinite(value))
    failed = next(i for i, value in enumerate(values) if not isfinite(value))
    cells = [sampled()[kept].one_line, sampled()[failed].one_line, "zoo:lstm"]
    first, second, third = recell("predict", "-p", tmp_path / "p", *cells, "--json").json
    assert (first["fitted"], first["trained"]) == (True, pytest.approx(float(values[kept])))
    assert (second["fitted"], second["trained"]) == (True, None)
    assert (third["fitted"], third["trained"]) == (False, None)
    text = recell("predict", "-p", tmp_path / "p", *cells).out
    assert "diverged" in text
    assert "`trained` is what a cell reached" in text
    replace(small(), known=None).save(tmp_path / "q")
    assert recell("predict", "-p", tmp_path / "q", cells[0], "--json").json[0]["fitted"] is None
    assert "does not know which cells" in recell("predict", "-p", tmp_path / "q", cells[0]).out


def test_a_card_of_somebody_else_does_not_steer_the_terminal(tmp_path: Path) -> None:
    made = replace(small(), card={**small().card, "task": "\x1b]0;title\x07\x1b[2Jtext", "unit": "nats\r"})
    made.save(tmp_path / "p")
    for text in (
        recell("predictor", "card", tmp_path / "p").out,
        recell("predict", "-p", tmp_path / "p", "zoo:gru").out,
    ):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\\x1b]0;title\\x07\\x1b[2Jtext" in text


def test_a_row_that_is_cut_off_is_no_failed_training(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("cell,score\n\"cell c { state h: vec; h' = lin(x, h); out h' }\"\n")
    said = refused("predictor", "fit", tmp_path / "t.csv", "-o", tmp_path / "p")
    assert "row 1 needs a `cell` (its text) and a `score`" in said
