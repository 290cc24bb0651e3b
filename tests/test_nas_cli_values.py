from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import refused
from made_runs import cells, make_run

from grammar import CellSyntaxError, UnknownNameError, parse, zoo
from nas.cli.errors import UsageError
from nas.cli.values import count, options, read_cell, run_and_trial, seconds, trial_text
from nas.errors import RunError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("300", 300),
        ("1h30m", 5400),
        ("0.5m", 30),
        ("2D", 172800),
        (".5", 0.5),
    ],
)
def test_lengths_of_time(text: str, value: float) -> None:
    assert seconds("--budget", text) == value


@pytest.mark.parametrize("text", ["", "10x", "m", "10 m", "1h30", "-5m", "nan", "1e3", "ten"])
def test_no_lengths_of_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"--budget must be a length of time such as 90s, 10m, .*; received"):
        seconds("--budget", text)


@pytest.mark.parametrize("text", ["0", "0m", "0.0s"])
def test_no_time_at_all(text: str) -> None:
    with pytest.raises(UsageError, match="--budget must be more than 0; received '0"):
        seconds("--budget", text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("200k", 200_000), ("1.5M", 1_500_000), ("123", 123), ("1_000", 1000), ("20,000", 20_000)],
)
def test_counts(text: str, value: int) -> None:
    assert count("--params", text) == value


@pytest.mark.parametrize("text", ["", "0", "k", "1.5", "-3", "many", "0.0001k"])
def test_no_counts(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"--params must be a whole number such as 200000, 200k or 1.5M; received"
    ):
        count("--params", text)


def test_a_cell_is_a_text_a_known_one_a_file_or_a_trial(tmp_path: Path) -> None:
    text = "cell a { state h: vec; h' = tanh(lin(x, h)); out h }"
    (tmp_path / "a.cell").write_text("# a comment\n" + text)
    make_run(tmp_path / "run", trials=3)
    assert read_cell(text) is parse(text)
    assert read_cell("zoo:lstm") is zoo("lstm")
    assert read_cell(str(tmp_path / "a.cell")) is parse(text)
    assert read_cell(f"{tmp_path}/run#2") is cells(3)[2]


def test_what_is_no_cell_says_what_a_cell_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file 'lstm'; did you mean zoo:lstm"):
        read_cell("lstm")
    with pytest.raises(
        UsageError, match=r"no cell 'nowhere.cell'.*; a cell is a text in quotes, a file, zoo:NAME"
    ):
        read_cell("nowhere.cell")
    with pytest.raises(UsageError, match="is a folder; a cell is"):
        read_cell(str(tmp_path))
    with pytest.raises(UnknownNameError, match="no cell 'lstn'; did you mean 'lstm'"):
        read_cell("zoo:lstn")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="binary is not UTF-8 text"):
        read_cell(str(tmp_path / "binary"))
    (tmp_path / "bad.cell").write_text("cell a {\n  out )\n}")
    with pytest.raises(CellSyntaxError, match=r"bad.cell:2:\d+: "):
        read_cell(str(tmp_path / "bad.cell"))


def test_trials_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=3)
    assert run_and_trial("zoo:lstm") is None
    assert run_and_trial("cell a { out x } # 3 words") is None
    assert run_and_trial(f"{tmp_path}/run#²") is None
    found = run_and_trial(f"{tmp_path}/run#1")
    assert found is not None
    assert (found[0].path, found[1]) == (tmp_path / "run", 1)
    with pytest.raises(RunError, match="is not a run"):
        run_and_trial(f"{tmp_path}#1")
    with pytest.raises(UsageError, match="has 3 trials, counted from #0; there is no #3"):
        trial_text(run, 3)


def test_a_fault_in_a_text_is_shown_with_a_caret() -> None:
    error = refused("show", "cell a { state h: vec; h' = tanh(lin(x, hh)); out h }")
    lines = error.splitlines()
    assert lines[0] == "<text>:1:41: unknown name 'hh'; did you mean 'h'?"
    assert lines[1].strip() == "cell a { state h: vec; h' = tanh(lin(x, hh)); out h }"
    assert lines[2].index("^") == lines[1].index("hh")


def test_yes_and_no_are_truths() -> None:
    assert options("--option", ["lift=no", "zoo=Yes"]) == {"lift": False, "zoo": True}


def test_options_are_numbers_truths_or_texts() -> None:
    texts = ["a=3", "b=0.5", "c=True", "d=loss,flops", "e=x=y", "proposer.samples = 4"]
    assert options("--option", texts) == {
        "a": 3,
        "b": 0.5,
        "c": True,
        "d": "loss,flops",
        "e": "x=y",
        "proposer.samples": 4,
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["a"], "of the form name=value; received 'a'"), (["a=1", "a=2"], "a is given twice")],
)
def test_bad_options(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options("--option", texts)
