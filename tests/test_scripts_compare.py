"""scripts/compare_searchers runs small, goes on where it stopped, and writes what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from made_runs import make_run
from source_tree import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import _compare_searchers


def test_the_trials_of_runs_are_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run")
    out = tmp_path / "out"
    common = ["pool", "--runs", str(tmp_path / "run"), "--budget", "10", "--out", str(out)]
    _compare_searchers.main([*common, "--methods", "random", "--seeds", "2"])
    _compare_searchers.main(
        [*common, "--methods", "random", "small=evolution:samples=4,population=8", "--seeds", "3"]
    )
    told = capsys.readouterr()
    assert told.err.count("random, seed 0") == 1  # the second command went on
    lines = [json.loads(line) for line in (out / "traces.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    facts = json.loads((out / "result.json").read_text())
    assert facts["setting"]["cells"] == 24
    assert facts["setting"]["options"] == {"random": {}, "small": {"samples": 4, "population": 8}}
    assert [m["seeds"] for m in facts["methods"].values()] == [[0, 1, 2]] * 2
    assert "| small | random |" in (out / "result.md").read_text()
    assert (out / "result.md").read_text() in told.out
    assert (out / "curves.svg").read_text().startswith("<svg")


def test_searches_of_another_setting_are_not_mixed_in(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    common = ["pool", "--runs", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--methods", "random"]
    _compare_searchers.main([*common, "--budget", "5", "--seeds", "1"])
    with pytest.raises(SystemExit, match=r"error: .* choose another --out"):
        _compare_searchers.main([*common, "--budget", "6", "--seeds", "1"])


def test_a_line_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    out = tmp_path / "out"
    common = [
        "pool",
        "--runs",
        str(tmp_path / "run"),
        "--out",
        str(out),
        "--methods",
        "random",
        "--budget",
        "5",
    ]
    _compare_searchers.main([*common, "--seeds", "2"])
    whole = (out / "traces.jsonl").read_text()
    (out / "traces.jsonl").write_text(whole[:-30])
    _compare_searchers.main([*common, "--seeds", "2"])
    assert (out / "traces.jsonl").read_text() == whole


def test_real_runs_are_compared_by_their_journals(tmp_path: Path) -> None:
    for number in range(2):
        make_run(tmp_path / f"r{number}")
    named = [f"{method}={tmp_path / folder}" for method, folder in (("random", "r0"), ("mine", "r1"))]
    _compare_searchers.main(["runs", *named, "--out", str(tmp_path / "out")])
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert facts["methods"]["random"]["curve"] == facts["methods"]["mine"]["curve"]
    assert facts["differences"][0]["mean"] == 0
    assert "Real runs" in (tmp_path / "out" / "result.md").read_text()
    _compare_searchers.main(["page", str(tmp_path / "out"), "--out", str(tmp_path / "page")])
    said = (tmp_path / "page" / "searchers.md").read_text()
    assert "runs random=RUN mine=RUN" in said
    assert str(tmp_path) not in said
    assert {file.name for file in (tmp_path / "page").iterdir()} == {
        "searchers.json",
        "searchers.md",
        "searchers-1.svg",
    }


def test_runs_of_one_method_have_different_seeds(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    with pytest.raises(SystemExit, match="error: two runs of a have seed 3"):
        _compare_searchers.main(
            ["runs", f"a={tmp_path / 'r'}", f"a={tmp_path / 'r'}", "--out", str(tmp_path)]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "runs/a"], "runs are given as METHOD=FOLDER; received runs/a"),
        (["pool", "--runs", "nowhere", "--seeds", "1"], "nowhere"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        _compare_searchers.main([*arguments, "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("text", "label", "name", "options"),
    [
        ("random", "random", "random", {}),
        ("ei=guided:acquisition=ei,kappa=1", "ei", "guided", {"acquisition": "ei", "kappa": 1}),
        ("mine=package.own:Searcher", "mine", "package.own:Searcher", {}),
        ("o=own:Own:rate=0.5,of=a+b", "o", "own:Own", {"rate": 0.5, "of": ["a", "b"]}),
    ],
)
def test_a_method_is_a_name_with_options(
    text: str, label: str, name: str, options: dict[str, object]
) -> None:
    method = _compare_searchers.Method.read(text)
    assert (method.label, method.name, dict(method.options)) == (label, name, options)
