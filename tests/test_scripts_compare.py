"""scripts/compare_searchers runs small, goes on where it stopped, and writes what it says."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from made_runs import ask, make_run
from source_tree import ROOT

from grammar import zoo
from nas.campaign.journal import Journal

sys.path.insert(0, str(ROOT / "scripts"))

import _compare_searchers
from _output import whole_lines
from _searcher_tables import lines_svg

OWN = str(ROOT / "predictors" / "tables" / "own.jsonl.gz")


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


def test_the_legend_of_a_chart_lies_below_its_lines() -> None:
    names = ["random", "evolution", *(f"guided:kappa={n},acquisition=ei" for n in range(3)), "a<b"]
    curves = {name: [(1.0, 2.0, 0.1), (2.0, 1.0, 0.1)] for name in names}
    svg = ET.fromstring(lines_svg(curves, "trials", "loss", "chart"))
    texts = [e for e in svg.iter() if e.get("class") == "name"]
    assert [e.text for e in texts] == names
    places = [(float(e.get("x", "")), float(e.get("y", ""))) for e in texts]
    drawn = [e for e in svg.iter() if e.get("class") not in ("name", None)]
    lowest = max(float(y) for e in drawn for y in re.findall(r"[ML][\d.]+ ([\d.]+)", e.get("d", "")))
    numbers = max(float(e.get("y", "0")) for e in drawn)
    _, _, width, height = map(float, svg.get("viewBox", "").split())
    assert all(lowest < numbers < y - 12 < y < height for _, y in places)
    assert all(x + 6 * len(name) < width for name, (x, _) in zip(names, places, strict=True))
    assert len(set(places)) == len(names)
    assert len({y for _, y in places}) > 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["pool", "--table", "ptb", "--data", "/nowhere"], "cannot read the table /nowhere/.*: No such file"),
        (["surrogate", "--space", "gatd", "--trials", OWN, "--task", "text"], "unknown space 'gatd'"),
    ],
)
def test_what_is_not_there_is_one_clear_error(options: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        _compare_searchers.main([*options, "--out", str(tmp_path)])


def test_lower_rungs_and_supernets_are_no_cells_of_a_pool(tmp_path: Path) -> None:
    make_run(tmp_path / "run", trials=4, finalists=0, finish=False)
    journal, _ = Journal.take_over(tmp_path / "run")
    for number, more in ((5, {"until": 100}), (6, {"supernet": {"sketch": ""}})):  # 4 was being trained
        ask(journal, 30.0, number, zoo("lstm" if number == 5 else "gru"), **more)
        journal.append("start", 30.0, trial=number, attempt=1, seed=3)
        message = {"class": "diverged", "message": "loss is nan", "attempt": 1, "retry": False}
        journal.append("fail", 31.0, trial=number, wall=1.0, **message)
    journal.close()
    common = ["pool", "--runs", str(tmp_path / "run"), "--budget", "5", "--out", str(tmp_path / "out")]
    _compare_searchers.main([*common, "--methods", "random", "--seeds", "1"])
    assert json.loads((tmp_path / "out" / "result.json").read_text())["setting"]["cells"] == 4


def test_a_task_of_recells_own_table_is_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["pool", "--trials", OWN, "--budget", "5", "--out", str(tmp_path)]
    chosen = ["--task", "modular_arithmetic", "--methods", "random", "--seeds", "1"]
    _compare_searchers.main([*common, *chosen])
    facts = json.loads((tmp_path / "result.json").read_text())
    assert (facts["setting"]["pool"], facts["setting"]["cells"]) == ("own-modular_arithmetic", 460)
    assert "pool --trials own.jsonl.gz --task modular_arithmetic --budget 5 " in facts["command"]
    assert "Pool replay: own-modular_arithmetic, 460 trained cells" in capsys.readouterr().out
    for wrong, message in (
        (["--task", "tex"], "has no trials of task 'tex'; its tasks are modular_arithmetic, text"),
        ([], "--trials wants --task"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            _compare_searchers.main([*common, *wrong])


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


def test_a_cut_line_is_taken_out_without_writing_the_others_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes('["a\u2028b"]\n[1]\n["\u2028'.encode()[:-1])
    monkeypatch.setattr(Path, "write_text", None)  # a kill within it would leave nothing
    assert whole_lines(file) == ['["a\u2028b"]', "[1]"]
    assert file.read_bytes() == '["a\u2028b"]\n[1]\n'.encode()


def test_a_label_stands_for_one_searcher(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    common = ["pool", "--runs", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--budget", "5"]
    _compare_searchers.main([*common, "--seeds", "1", "--methods", "mine=random"])
    with pytest.raises(
        SystemExit, match=r"error: .* has mine as random with options {}: give this one a new"
    ):
        _compare_searchers.main([*common, "--seeds", "2", "--methods", "mine=evolution"])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["final", "runs/a", "--first-seed", "50"], " --seeds 5 --first-seed 50 "),
        (["runs", "runs/a", "--against", "evolution"], "RUN... --against evolution "),
        (["surrogate", "--runs", "runs/a", "--space", "gated"], " --space gated "),
        (["surrogate", "--runs", "a", "--rare", "0.03", "--noise", "0.1"], " --noise 0.1 --rare 0.03 "),
        (["pool", "--runs", "a", "--trivial", "0.8"], " --trivial 0.8 "),
        (["surrogate", "--runs", "a", "--sees", "flow"], " --sees flow "),
    ],
)
def test_the_command_says_what_decides_the_result(arguments: list[str], part: str) -> None:
    given = _compare_searchers._arguments([*arguments, "--out", "out"])
    assert part in _compare_searchers._command(given)
    plain = _compare_searchers._arguments([*arguments[:-2], "--out", "out"])
    assert part not in _compare_searchers._command(plain)


def test_runs_of_one_method_have_different_seeds(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    with pytest.raises(SystemExit, match="error: two runs of a have seed 3"):
        _compare_searchers.main(
            ["runs", f"a={tmp_path / 'r'}", f"a={tmp_path / 'r'}", "--out", str(tmp_path)]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "runs/nowhere"], "nowhere"),
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
