"""Whole exports, each checked in a fresh process: slow to start, so there are few."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import VOCABULARY, make_run
from safetensors.torch import load_file

from grammar import parse, zoo
from nas.campaign import Run
from nas.errors import ExportError
from nas.exporters import ExportMismatchError, export, write
from nas.exporters.check import TOLERANCE
from nas.exporters.source import cell_source
from nas.exporters.subject import exported_weights, subject_of_run

USE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from cell import load
model = load()
logits, state = model(torch.zeros(2, 3, dtype=torch.int64))
more, state = model.step(torch.zeros(2, dtype=torch.int64), state)
print(tuple(logits.shape), tuple(more.shape), not set(sys.modules) & {"nas", "grammar"})
"""


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with one finalist whose model was really made, not trained."""
    return make_run(tmp_path_factory.mktemp("runs") / "a run", trials=6, finalists=1, seeds=2, weights=True)


def test_a_cell_by_itself(tmp_path: Path) -> None:
    text = "cell g { state h: vec = learned; h' = tanh(lin(x, h) + conv(lin(x), k=2)); out h' + shift(h') }"
    (tmp_path / "g").mkdir()  # an empty folder is as good as none
    made = export(parse(text), tmp_path / "g", input_size=5, hidden_size=6, num_layers=2, seed=3)
    assert not made.trained
    assert made.folder == tmp_path / "g"
    assert made.difference <= TOLERANCE
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "cell.json",
        "cell.py",
        "weights.safetensors",
    ]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in made.folder.iterdir())
    weights = load_file(made.folder / "weights.safetensors")
    assert weights["layers.0.h_w0"].shape == (6, 5)
    assert weights["layers.1.h_0"].shape == (6,)
    facts = json.loads((made.folder / "cell.json").read_text())
    assert facts == made.facts
    assert facts["digest"] == parse(text).digest
    assert facts["sizes"] == {"input_size": 5, "hidden_size": 6, "num_layers": 2, "heads": 1, "key_size": 6}
    assert [state["name"] for state in facts["states"]] == ["h", "conved_last", "shifted_last"]
    assert "not trained: they were drawn from seed 3" in (made.folder / "cell.py").read_text()


def test_the_winner_of_a_run_comes_with_its_model(tmp_path: Path, trained_run: Run) -> None:
    made = export(trained_run, tmp_path / "best", rank=1)
    winner = trained_run.winner
    assert winner is not None
    assert made.trained
    assert made.facts["trial"] == winner.trial
    best = min(winner.done, key=lambda t: t.score or 0.0)
    assert made.facts["metrics"]["seed"] == best.seed
    assert made.facts["metrics"]["test"] == best.test_score
    assert made.facts["vocabulary"] == list(VOCABULARY)  # kept with the weights: the data may have moved
    done = subprocess.run(
        [sys.executable, "-I", "-c", USE, str(made.folder)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(2, 3, 7) (2, 7) True", done.stderr


def test_a_cell_that_was_not_retrained_has_fresh_weights_and_says_so(trained_run: Run) -> None:
    subject = subject_of_run(trained_run, rank=2)
    assert not subject.trained
    assert subject.model is None
    assert "since it was not retrained" in subject.remarks[-1]
    assert subject.sizes.hidden_size == trained_run.trials[subject.facts["trial"]].width
    assert subject.name == f"a_run#{subject.facts['trial']}"


def test_what_differs_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*args: Any) -> dict[str, torch.Tensor]:
        weights = exported_weights(*args)
        weights["layers.0.f_b"][0] += 1e-3
        return weights

    monkeypatch.setattr(write, "exported_weights", spoilt)
    with pytest.raises(ExportMismatchError, match=r"differs from the original: cell .* by 0\.000"):
        export(zoo("lstm"), tmp_path / "lstm", input_size=4, hidden_size=4)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_needs_recell_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*args: Any) -> Any:
        source = cell_source(*args)
        return type(source)(
            source.text.replace("import torch\n", "import torch\nimport grammar\n"), *parts(source)
        )

    def parts(source: Any) -> tuple[Any, ...]:
        return source.parameters, source.learned, source.states

    monkeypatch.setattr(write, "cell_source", spoilt)
    with pytest.raises(ExportMismatchError, match=r"does not load by itself: .* must not import grammar"):
        export(zoo("elman"), tmp_path / "elman", input_size=4, hidden_size=4)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="kept is not empty and nothing is overwritten"):
        export(zoo("lstm"), tmp_path / "kept")
    with pytest.raises(ExportError, match=r"notes\.txt is a file; give a folder"):
        export(zoo("lstm"), tmp_path / "kept" / "notes.txt")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "notes.txt"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 99}, "has 6 cells with a score; there is no rank 99"),
        ({"rank": 0}, "there is no rank 0"),
        ({"trial": 42}, "has the trials #0 to #6; there is no #42"),
        ({"trial": 5}, "trial #5 of .* has no score: it is diverged"),
        ({"hidden_size": 5}, "sizes of a cell from a run are those of the run; received hidden_size"),
    ],
)
def test_a_run_without_such_a_cell(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    run = make_run(tmp_path / "run", trials=7, finalists=0)
    with pytest.raises(ExportError, match=message):
        export(run, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_score(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no cell with a score yet"):
        export(make_run(tmp_path / "run", trials=0, finish=False), tmp_path / "out")
