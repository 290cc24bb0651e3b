from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from grammar import parse, zoo, zoo_names
from nas.reports.diagram import Diagram, diagram
from nas.reports.svg import diagram_svg


def labels(made: Diagram) -> list[str]:
    return [box.label for box in made.boxes if box.kind != "bend"]


@pytest.mark.parametrize("name", zoo_names())
def test_every_known_cell_can_be_drawn(name: str) -> None:
    made = diagram(zoo(name))
    width = made.width
    rows: dict[int, list[tuple[float, float]]] = {}
    for box in made.boxes:
        rows.setdefault(box.layer, []).append((box.x - box.width / 2, box.x + box.width / 2))
        assert box.x - box.width / 2 >= 0
        assert box.x + box.width / 2 <= width
    for row in rows.values():
        row.sort()
        assert all(left[1] < right[0] for left, right in pairwise(row)), "boxes overlap"
    for path in made.arrows:
        layers = [made.boxes[n].layer for n in path]
        assert layers == list(range(layers[0], layers[-1] + 1)), "arrows go down, one layer at a time"
    root = ET.fromstring(diagram_svg(made, name))
    assert sum(e.get("class", "").startswith("box") for e in root.iter()) == len(labels(made))


def test_the_lstm_is_drawn_as_people_know_it() -> None:
    made = diagram(zoo("lstm"))
    assert sorted(labels(made)) == sorted(
        ["x", "h", "c", *["σ lin"] * 3, "tanh lin", "×", "×", "+", "tanh", "×", "h′ = y", "c′"]  # noqa: RUF001
    )
    titles = {box.title: box.kind for box in made.boxes if box.title}
    assert titles == {"i": "gate", "f": "gate", "o": "gate", "g": "weight"}
    assert {box.layer for box in made.boxes if box.label in ("x", "h", "c")} == {0}
    foot = max(box.layer for box in made.boxes)
    assert {box.layer for box in made.boxes if box.kind in ("new", "out")} == {foot}


def test_chains_and_numbers_share_a_box_and_operands_are_named() -> None:
    made = diagram(
        parse("cell a { state h: vec; g = 1 - sigmoid(lin(x)); h' = lerp(g, h, tanh(lin(h))); out h' - h }")
    )
    assert "1 − σ lin" in labels(made)  # noqa: RUF001
    assert sorted(p for p in made.ports if p) == ["1", "2", "a", "b", "g"]


def test_the_drawing_is_the_same_each_time() -> None:
    texts = {diagram_svg(diagram(zoo("gru")), "gru") for _ in range(3)}
    assert len(texts) == 1


def test_texts_are_escaped() -> None:
    svg = diagram_svg(diagram(zoo("elman")), 'a "<b>"')
    assert ET.fromstring(svg).get("aria-label") == 'a "<b>"'
