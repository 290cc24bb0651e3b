from __future__ import annotations

import io
from pathlib import Path

import pytest
from campaign_fakes import begin
from made_runs import make_run
from rich.console import Console

from nas.campaign import Run, SearchConfig
from nas.cli import live
from nas.cli.live import LiveTable, event_line, make_view, picture


def shown(run: Run, active: float, width: int = 120, height: int = 50) -> str:
    console = Console(width=width, color_system=None, file=io.StringIO())
    with console.capture() as capture:
        console.print(picture(run, active, height))
    return capture.get()


def test_a_search_under_way(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finish=False)
    run.progress = {"trial-24": [120, 2.31], "lstm-seed-4": [10, None]}
    text = shown(run, 48.6)
    assert (
        "evolution in gated on text  search  20 finished, 1 running, 4 failed (diverged 4), 0 duplicates"
        in text
    )
    assert "49 s of 3.0 min, 2.2 min left" in text
    assert "#24 mutate" in text
    assert "120 of 350  loss 2.310" in text
    assert "lstm-seed-4" in text
    assert f"#{run.top(1)[0].id}" in text
    assert "diverged" in text  # among the last ones
    assert "retrained" not in text


def test_the_final_comparison(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finalists=1)
    text = shown(run, 170.0)
    assert "evolution in gated on text  done" in text
    rows = [line.split() for line in text.split("retrained")[1].split("\n\n")[0].splitlines()[1:]]
    assert [row[0] for row in rows] == [f"#{run.finalists[0].trial}", "lstm", "gru"]
    assert rows[0][1:4] == ["3", "of", "3"]


@pytest.mark.parametrize("width", [40, 80])
def test_no_line_is_wider_than_the_terminal(width: int, tmp_path: Path) -> None:
    text = shown(make_run(tmp_path / "run"), 10.0, width)
    assert max(map(len, text.splitlines())) <= width


def test_a_low_terminal_shows_less(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finish=False)
    assert len(shown(run, 1.0, height=20).splitlines()) < len(shown(run, 1.0).splitlines()) <= 24


def test_an_empty_run_can_be_shown(tmp_path: Path) -> None:
    assert "0 finished" in shown(make_run(tmp_path / "run", trials=0, finish=False), 0.0)


def test_the_view_fits_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_view(quiet=True)) is live.Silence
    assert type(make_view(quiet=False)) is live.Lines
    monkeypatch.setattr(live, "console", lambda: Console(force_terminal=True, file=io.StringIO()))
    assert type(make_view(quiet=False)) is LiveTable


def test_a_live_table_follows_a_campaign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(force_terminal=True, file=output, width=100, height=60)
    monkeypatch.setattr(live, "console", lambda: console)
    with LiveTable() as view:
        begin(
            tmp_path / "run",
            SearchConfig(method="random", max_trials=3, baselines=("gru",)),
            on_event=view.on_event,
        )
    assert "3 finished" in output.getvalue()
    assert output.getvalue().endswith("\x1b[?25h"), "the cursor is back"


def test_events_that_are_not_worth_a_line_have_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=2)
    for kind in ("ask", "start", "tick", "progress", "duplicate", "retrain_start"):
        assert event_line({"event": kind}, run) is None


def test_failures_are_told_with_their_class(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=2)
    event = {
        "event": "fail",
        "trial": 1,
        "class": "infrastructure",
        "message": "the worker died",
        "retry": True,
    }
    assert event_line(event, run) == "#1 failed: infrastructure, tried again: the worker died"
    event |= {"class": "constraint", "message": "latency_us<=8 (is 9.1)", "retry": False}
    assert event_line(event, run) == "#1 refused, not trained: latency_us<=8 (is 9.1)"
    event = {
        "event": "retrain_fail",
        "key": "lstm-seed-4",
        "class": "timeout",
        "message": "took long",
        "retry": False,
    }
    assert event_line(event, run) == "retraining lstm-seed-4 failed: timeout: took long"
