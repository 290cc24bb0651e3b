from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from predictors import PredictorError, read_trials

ROW: dict[str, Any] = {
    "cell": "cell c { state h: vec; h' = tanh(lin(x, h)); out h' }",
    "digest": "ab",
    "name": None,
    "origin": "sample",
    "space": "gated",
    "task": "text",
    "size": "table",
    "seed": 1,
    "status": "ok",
    "score": 1.5,
    "curve": [[10, 2.0], [20, 1.75]],
    "params": 100,
    "width": 8,
    "steps": 20,
    "seconds": 3.5,
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_rows_become_trials(tmp_path: Path) -> None:
    failed = {**ROW, "status": "diverged", "score": None, "name": "gru", "origin": "zoo", "space": None}
    killed = {**ROW, "status": "timeout", "score": None, "params": None, "seconds": None}
    found = read_trials(write(tmp_path / "t.jsonl.gz", ROW, failed, killed))
    assert [trial.loss for trial in found[:2]] == [1.5, math.inf]
    assert math.isnan(found[2].loss)
    assert (found[0].name, found[0].curve) == ("", ((10, 2.0), (20, 1.75)))
    assert (found[1].name, found[1].space, found[2].params) == ("gru", "", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": float("inf")}, "cannot convert float infinity to integer"),
        ({"cell": 3}, "cell is a text; received 3"),
        ({"score": "good"}, "could not convert"),
        ({"score": math.nan}, "a score is a finite number or null; received nan"),
        ({"curve": [3]}, "TypeError"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "t.jsonl.gz", ROW, {**ROW, **change})
    with pytest.raises(PredictorError, match=rf"line 2 is not a trial: .*{message}"):
        read_trials(path)


def test_bad_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.jsonl.gz", ROW)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-9])
    (tmp_path / "plain").write_text("{}")
    for bad in ("cut", "plain", "none"):
        with pytest.raises(PredictorError, match="cannot read the table of trials"):
            read_trials(tmp_path / bad)
    missing = write(tmp_path / "missing", {"cell": "c"})
    with pytest.raises(PredictorError, match="line 1 is not a trial: KeyError: 'score'"):
        read_trials(missing)
    monkeypatch.setattr("predictors.trials.MOST_BYTES", 10)
    with pytest.raises(PredictorError, match="holds at most 10 bytes"):
        read_trials(path)
