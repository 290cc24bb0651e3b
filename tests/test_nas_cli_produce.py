from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import recell, refused
from made_runs import make_run


def test_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=5, gain=0.2)
    said = recell("report", run.path)
    assert said.code == 0
    assert said.out.startswith("Better than lstm")
    assert f"report: {run.path / 'report.html'}" in said.out
    assert (run.path / "report.html").exists()
    found = recell("report", run.path, "-o", tmp_path / "r.html", "--json").json
    assert found["report"] == str(tmp_path / "r.html")
    assert found["verdict"]["kind"] == "better"
    assert recell("report", run.path, "--quiet").out == ""


def test_report_does_not_overwrite(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=2)
    (tmp_path / "mine.html").write_text("mine")
    assert "is not a report of recell and is not overwritten" in refused(
        "report", run.path, "-o", tmp_path / "mine.html"
    )


def test_export_of_a_run_and_of_its_trials(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=5, finalists=1, seeds=1, weights=True)
    said = recell("export", run.path, "--rank", 1, "-o", tmp_path / "best")
    assert said.code == 0, said.error
    lines = said.out.splitlines()
    assert lines[0] == f"{tmp_path / 'best'}: cell.json, cell.py, weights.safetensors"
    assert lines[1].startswith(f"trial #{run.finalists[0].trial}, trained with seed 4: validation ")
    assert lines[2].startswith("loaded in a fresh process without recell: largest difference ")
    assert json.loads((tmp_path / "best" / "cell.json").read_text())["class"] == "Model"


def test_export_of_a_cell_as_json(tmp_path: Path) -> None:
    sizes = ("--input-size", 3, "--hidden-size", 4)
    found = recell("export", "zoo:elman", *sizes, "-o", tmp_path / "elman", "--json").json
    assert found["trained"] is False
    assert found["difference"] <= 1e-5
    assert found["cell"]["sizes"]["hidden_size"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("run", "--hidden-size", "9"),
            "--hidden-size is for a cell by itself; a cell of a run has the sizes",
        ),
        (("run#99",), "has the trials #0 to #4; there is no #99"),
        (("run", "--rank", "99"), "there is no rank 99"),
        (("nowhere",), "there is no cell 'nowhere'"),
        (("zoo:treelstm",), "tree cell"),
        (("zoo:lstm", "--heads", "5"), "heads"),
        ((".",), "is not a run: it has no journal.jsonl"),
    ],
)
def test_wrong_use_of_export(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", trials=5, finalists=0)
    assert message in refused("export", *arguments, "-o", "out")
    assert not (tmp_path / "out").exists()


def test_export_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    assert "is not empty and nothing is overwritten" in refused("export", "zoo:lstm", "-o", tmp_path)
