"""The scripts about predictors: each runs small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from source_tree import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import fuzz_predictors
import time_predictors

from nas.bench import machine_facts


def test_damaged_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz_predictors", "--files", "40", "--folder", str(tmp_path)])
    assert fuzz_predictors.main() == 0
    said = capsys.readouterr().out
    assert "no other error" in said
    assert "refused: " in said


def test_times_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_predictors, "FITTED", 12)
    arguments = "--spaces gated --cells 3 --queries 1 --times 1 --out".split()
    monkeypatch.setattr(sys, "argv", ["time_predictors", *arguments, str(tmp_path)])
    time_predictors.main()
    page = (tmp_path / "predictors_speed.md").read_text(encoding="utf-8")
    assert "| gated |" in page
    assert f"probes included. {machine_facts('cpu')['processor']}. Made by" in page
    assert set(json.loads((tmp_path / "predictors_speed.json").read_text(encoding="utf-8"))) == {"gated"}
