from __future__ import annotations

import os
from pathlib import Path

import pytest
from campaign_fakes import SMALL, begin
from made_runs import make_run

from nas.campaign import Run
from nas.reports import report_html
from nas.reports.charts import Chart, Series, chart_svg
from nas.reports.front import front_charts, front_table, objective_text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {"objectives": "loss,params,latency_us", "population": 6}
    config = SMALL.replace(method="nsga2", options=options, max_trials=25, constraints=("params<=800",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        return begin(tmp_path_factory.mktemp("front") / "run", config)


def test_the_report_of_several_objectives_shows_the_front(run: Run) -> None:
    page = report_html(run)
    assert f"The Pareto front of loss, params, latency_us: {len(run.front())} cells" in page
    assert "Loss against µs per step" in page
    assert "params&lt;=800" in page
    table = front_table(run)
    assert table is not None
    assert table["heads"] == ["validation error rate", "parameters", "µs per step"]
    assert [row["trial"] for row in table["rows"]] == run.front()
    assert [row["trial"].id for row in table["rows"] if row["finalist"]] == [c.trial for c in run.finalists]


def test_a_dot_for_every_cell_on_and_off_the_front(run: Run) -> None:
    charts = list(front_charts(run, 1.0))
    assert [title for title, _, _ in charts] == ["Loss against parameters", "Loss against µs per step"]
    for _, svg, _ in charts:
        assert svg.count('class="dot found"') == len(run.front())
        assert svg.count('class="dot') == len(run.top())


def test_one_objective_has_no_front_to_show(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "run")
    assert front_table(plain) is None
    assert not list(front_charts(plain, 1.0))
    assert "Pareto" not in report_html(plain)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 0.51234, "0.5123"),
        ("params", 20000.0, "20,000"),
        ("latency_us", 7.26, "7.3"),
        ("flops", None, "–"),  # noqa: RUF001
    ],
)
def test_values_for_people(name: str, value: float | None, text: str) -> None:
    assert objective_text(name, value) == text


def test_what_lies_above_a_chart_is_marked() -> None:
    dots = Series("s", [(0.0, 1.0), (1.0, 2.0), (2.0, 50.0)], "trial", "dots", ["a", "b", "c"])
    svg = chart_svg(Chart("x", "y", [dots], (), 3.0), "t")
    assert svg.count("<circle") == 2
    assert svg.count('class="dot beyond trial"') == 1
    assert "<title>c (above the chart)</title>" in svg
