from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from campaign_fakes import SMALL, begin
from made_runs import ask, make_run

from grammar import parse, zoo
from nas.campaign import open_run
from nas.campaign.journal import Journal
from nas.errors import RunError
from nas.reports import report_html, seconds_text, write_report

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Checker(HTMLParser):
    """Collects what a page would load, its text, and tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")
        ]
        self.loads += [tag] if tag in ("script", "link", "iframe", "object") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(html: str) -> str:
    """The text of a page, after checking that it is whole and stands alone."""
    page = Checker()
    page.feed(html)
    assert page.loads == []
    assert (page.wrong, page.open) == ([], [])
    assert "url(" not in html.replace("url(#tip)", "")
    assert "@import" not in html
    return " ".join(" ".join(page.text).split())


def test_a_finished_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "notes", finalists=2, gain=0.2)
    html = report_html(run)
    text = checked(html)
    assert "Better than lstm: the found cell #" in text
    for title in (
        "The final comparison",
        "The best retrained cell",
        "Best so far, by time",
        "Best so far, by trials",
        "Loss against parameters",
        "Training curves of the final comparison",
        "What failed",
        "To judge and to repeat it",
    ):
        assert title in text
    assert html.count("<svg") == 5
    assert run.task["data_digest"] in text
    assert run.first["hash"] in text
    assert "training loss is nan by step 40" in text
    winner = run.winner
    assert winner is not None
    assert f"{winner.test_score:.4f}" in text
    assert html.count(">found</span>") == 2
    assert html.count(">known</span>") == 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"trials": 0, "finish": False}, "Nothing found: no trial has ended yet."),
        ({"finish": False}, "The run is not finished."),
        ({"finalists": 0}, "No finalists were asked for"),
        ({"seeds": 1, "finalists": 1}, "One seed each"),
        ({"trials": 1, "finalists": 1}, "cells trained"),
        ({"baselines": ()}, "no known cell was trained"),
    ],
)
def test_every_state_of_a_run_has_a_report(
    tmp_path: Path, settings: dict[str, object], expected: str
) -> None:
    assert expected in checked(report_html(make_run(tmp_path / "run", **settings)))  # type: ignore[arg-type]


def test_what_comes_from_the_run_is_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data="<script>alert(1)</script>", options={"a": "<b>"})
    html = report_html(run)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    checked(html)


def test_a_cell_that_is_as_known_as_the_lstm_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=3)
    run.trials[run.top(1)[0].id].digest = zoo("lstm").digest
    assert "the same function as lstm" in checked(report_html(run))


def test_it_is_written_into_the_run_and_replaced_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=4)
    assert write_report(run) == tmp_path / "run" / "report.html"
    first = write_report(run).read_text()
    assert re.search(r"<title>run: ", first)
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".report")] == []


def test_no_other_file_is_overwritten(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trials=2)
    mine = tmp_path / "mine.html"
    mine.write_text("<html>mine</html>")
    with pytest.raises(RunError, match=r"mine\.html is not a report of recell and is not overwritten"):
        write_report(run, mine)
    assert mine.read_text() == "<html>mine</html>"
    with pytest.raises(RunError, match="is a folder; give a file"):
        write_report(run, tmp_path)
    with pytest.raises(RunError, match=r"the folder .*nowhere for the report does not exist"):
        write_report(run, tmp_path / "nowhere" / "a.html")


def test_a_large_cell_is_not_drawn(tmp_path: Path) -> None:
    body = "; ".join(f"a{i} = tanh(lin(x, h))" for i in range(90))
    total = " + ".join(f"a{i}" for i in range(90))

    make_run(tmp_path / "run", trials=0, finish=False)
    journal, _ = Journal.take_over(tmp_path / "run")
    ask(journal, 1.0, 1, parse(f"cell big {{ state h: vec; {body}; h' = {total}; out h' }}"))
    outcome = {
        "score": 1.5,
        "curve": [[1, 2.0]],
        "params": 10,
        "width": 4,
        "steps": 1,
        "seconds": 1.0,
        "wall": 1.0,
    }
    journal.append("finish", 2.0, trial=1, **outcome)
    journal.close()
    assert "Too large to draw." in checked(report_html(open_run(tmp_path / "run")))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.4 s"), (42, "42 s"), (120, "2.0 min"), (5400, "90.0 min"), (7200, "2.0 h"), (99.4, "99 s")],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_a_recipe_that_the_search_found_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finalists=2)
    assert "with the same recipe, data and number of parameters." in checked(report_html(run))
    found = run.finalists[0]
    assert found.trial is not None
    found.recipe = run.trials[found.trial].recipe = {"lr": 0.00213, "dropout": 0.25}
    said = checked(report_html(run))
    assert "with the same data and number of parameters, found cells with the recipe that the search" in said
    assert said.count("lr 0.00213, dropout 0.25") == 3  # final comparison, best cell, list


def test_the_best_so_far_is_of_those_trained_furthest(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", SMALL.replace(method="halving", max_trials=120, seed=2, budget=1e4))
    html = report_html(run)
    said = checked(html)
    assert f"a trial of {run.full_steps} steps of fewer best of the former so far" in said
    whole = [trial for trial in run.trials if trial.until is None and trial.status == "ok"]
    by_time, by_trials, by_size = html.split('<svg class="chart"')[1:4]
    for chart in (by_time, by_trials):
        assert len(re.findall(r'class="dot (?:beyond )?trial"', chart)) == len(whole) > 1
        assert len(re.findall(r'class="dot (?:beyond )?less"', chart)) == len(run.trials) - len(whole)
        (line,) = re.findall(r'class="line found" d="([^"]+)"', chart)
        places = re.findall(r'class="dot (?:beyond )?trial" cx="([\d.]+)" cy="([\d.]+)"', chart)
        first, best = places[0], max(places, key=lambda place: float(place[1]))
        assert line.startswith(f"M{first[0]} {first[1]} ")
        assert best[1] in re.findall(r"[\d.]+", line)[-2]
    assert len(re.findall(r'class="dot (?:beyond )?trial"', by_size)) == len(whole)
    assert "less" not in by_size


def test_supernets_are_counted_apart(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", SMALL.replace(method="oneshot", max_trials=8))
    said = checked(report_html(run))
    assert "6 cells trained 0 failed 2 supernets trained" in said
    assert "of workers' time in the search (20 s of it for supernets)" in said
    assert run.status()["supernets"] == 2
