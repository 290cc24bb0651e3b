from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from nas.reports.charts import Chart, Series, chart_svg, thinned, tick_text, ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (1.93, 2.41), (-3.0, 12.0), (99_000.0, 101_000.0), (1e-4, 3e-4), (0, 1e6)]
)
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 9
    assert all(low * 0.999 <= t <= high * 1.001 for t in found if t > 0)
    step = found[1] - found[0]
    texts = [tick_text(t, step) for t in found]
    assert len(set(texts)) == len(texts)
    assert [float(t.replace(",", "")) for t in texts] == pytest.approx(found)


def test_a_chart_is_well_formed_and_has_its_parts() -> None:
    dots = Series("trials", [(1, 2.0), (2, 3.0), (3, 99.0)], "trial", "dots", ["a <b>", "b", "c"])
    best = Series("best", [(1, 2.0), (3, 1.5)], "found", "steps")
    svg = chart_svg(
        Chart("time & more", "loss", [dots, best], [("lstm", 2.1, "known"), ("far", 50.0, "known")], 4.0), "x"
    )
    root = ET.fromstring(svg)
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == 2
    assert circles[0][0].text == "a <b>"
    (beyond,) = [
        e for e in root.iter() if "beyond" in e.get("class", "")
    ]  # what is cut off has a mark of its own
    assert beyond[0].text == "c (above the chart)"
    texts = {e.text for e in root.iter() if e.tag.endswith("text")}
    assert {"time & more", "loss", "lstm"} <= texts
    assert "far" not in texts


def test_names_of_near_levels_do_not_overlap() -> None:
    levels = [("lstm", 2.0, "known"), ("gru", 2.001, "known2")]
    svg = chart_svg(Chart("x", "y", [Series("s", [(0, 1.0), (1, 3.0)], "found")], levels), "c")
    places = [float(y) for y in re.findall(r'level-name [\w]+" x="[\d.]+" y="([\d.]+)"', svg)]
    assert abs(places[0] - places[1]) > 12


@pytest.mark.parametrize("points", [[(1.0, 2.0)], [(1.0, 2.0), (1.0, 2.0)], [(0.0, 0.0)]])
def test_a_single_place_still_makes_a_chart(points: list[tuple[float, float]]) -> None:
    ET.fromstring(chart_svg(Chart("x", "y", [Series("s", points, "found", "dots")]), "c"))


def test_no_points_no_chart() -> None:
    assert chart_svg(Chart("x", "y", [Series("s", [], "found")]), "c") == ""


def test_long_lines_are_thinned_and_keep_their_end() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    kept = thinned(points)
    assert len(kept) <= 1501
    assert (kept[0], kept[-1]) == (points[0], points[-1])
