from __future__ import annotations

import gzip
import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from predictor_fixtures import rows, sampled, scores
from source_tree import ROOT

from predictors import TABLE, PredictorError, Trial, load, read_trials, shipped

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "fit_shipped.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_shipped", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_shipped"] = module
    spec.loader.exec_module(module)
    return module


def trial(digest: str, score: float | None, task: str = "text", size: str = "table", seed: int = 0) -> Trial:
    status = "ok" if score is not None else "diverged"
    return Trial("", digest, task, size, seed, status, score, "", "zoo", "", (), 10, 2, 3, 1.0)


def test_noise_and_agreement(script: ModuleType) -> None:
    text = [trial(d, 1.0 + i, seed=s) for i, d in enumerate("abcd") for s in (0, 1)]
    other = [trial(d, 10.0 - i, "parity") for i, d in enumerate("abc")]
    parity, on = script.by_task([*text, trial("a", 1.2, seed=2), trial("e", None), *other])
    assert (on.task, on.size, on.mean["a"]) == ("text", "table", pytest.approx(3.2 / 3))
    assert math.isinf(on.mean["e"])
    found = script.noise(on)
    assert found["repeated_cells"] == 4
    assert found["sd_of_seeds"] == pytest.approx(math.sqrt(np.var([1, 1, 1.2], ddof=1) / 4), abs=1e-5)
    assert found["tau_of_two_seeds"] == 1
    assert script.noise(parity) == {"repeated_cells": 0}
    assert script.agreement(on, [parity, on]) == {"parity": -1.0}


def test_one_size_of_a_task(script: ModuleType) -> None:
    with pytest.raises(PredictorError, match="the task text at the sizes search, table: one is wanted"):
        script.by_task([trial("a", 1.0), trial("a", 1.0, size="search")])


def test_a_table_that_is_none(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([str(tmp_path / "none"), "-o", str(tmp_path)]) == 2
    assert "error: cannot read the table of trials" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_becomes_predictors_and_a_page(script: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "own.jsonl.gz"
    lines = []
    for task, sign in (("text", 1.0), ("modular_arithmetic", -1.0)):
        for cell, score in zip(sampled(), scores(rows()), strict=True):
            finite = math.isfinite(score)
            row: dict[str, Any] = {
                "cell": str(cell.canonical()),
                "digest": cell.digest,
                "origin": "sample",
                "space": "gated",
                "task": task,
                "size": "table",
                "seed": 0,
                "status": "ok" if finite else "diverged",
                "score": sign * score if finite else None,
                "params": 100,
                "width": 8,
                "steps": 10,
                "seconds": 1.0,
            }
            lines.append(json.dumps(row))
    table.write_bytes(gzip.compress("\n".join(lines).encode()))
    page = tmp_path / "page.md"
    assert script.main([str(table), "-o", str(tmp_path / "out"), "--page", str(page), "--repeats", "1"]) == 0
    card = load(tmp_path / "out" / "text.recell").card
    assert (card["task"], card["size"], card["unit"]) == ("text", "table", "nats/char")
    assert card["table"]["classes"] == card["table"]["of_gated"] == 40
    assert card["tau_with_task"] == {"modular_arithmetic": -1.0}
    assert -1 <= card["cross_validation"]["kendall_tau"] <= 1
    assert "| tau with task modular arithmetic | " in page.read_text()
    assert "| cross validation kendall tau | " in page.read_text()
    assert "How it was made" not in page.read_text()  # which tells of recell's own table alone


def test_the_card_of_the_own_table_is_true(script: ModuleType) -> None:
    tasks = script.by_task(read_trials(TABLE))
    page = (ROOT / "docs" / "own_table.md").read_text(encoding="utf-8")
    assert "## How it was made" in page
    assert min(len({trial.digest for trial in on.trials}) for on in tasks) >= 400
    for on in tasks:
        card, kept = script.card_of(on, tasks, TABLE), shipped(on.task).card
        assert {name: kept[name] for name in ("noise", "tau_with_task", "training", "unit")} == {
            name: card[name] for name in ("noise", "tau_with_task", "training", "unit")
        }
        for group in ("table", "noise", "tau_with_task"):
            for name, value in card[group].items():
                line = f"| {group} {name} |".replace("_", " ")
                shown = f"{value:.4g}" if isinstance(value, float) else str(value)
                assert name == "file" or re.search(rf"{re.escape(line)}.* {re.escape(shown)} \|", page), name


def test_repeats_are_at_least_one(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main(["t.jsonl.gz", "-o", str(tmp_path), "--repeats", "0"])
    assert "--repeats is at least 1; received 0" in capsys.readouterr().err
