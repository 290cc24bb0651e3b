"""`recell bench`."""

from __future__ import annotations

import pytest
from cli_runner import recell, refused

from grammar import zoo, zoo_names
from nas.cli.bench import _cells

QUICK = ("--sizes", "2x3x4", "--repeats", 3, "--backends", "reference", "--no-builds")


def test_json_has_times_limits_and_aims() -> None:
    found = recell("bench", "zoo:lstm", "zoo:mingru", *QUICK, "--json").json
    assert [row["cell"] for row in found["rows"]] == ["lstm", "mingru"]
    lstm, mingru = found["rows"]
    assert set(lstm["ms"]["training"]) == {"reference", "torch", "eager", "products"}
    assert "torch" not in mingru["ms"]["forward"]
    assert lstm["limit_ms"]["median"] > lstm["bound_ms"]["median"]
    assert lstm["over_limit"]["reference"] > 0
    assert found["machine"]["clock"] == "processor"
    assert {aim["backend"] for aim in found["aims"]} == {"reference"}


def test_table_for_people() -> None:
    said = recell("bench", "zoo:lstm", "cell a { state h: vec; h' = tanh(lin(x, h)); out h' }", *QUICK)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "medians in ms"
    assert lines[1].split()[:3] == ["cell", "kind", "size"]
    assert lines[2].startswith("lstm")
    assert lines[3].startswith("a ")
    assert "torch" in lines[-1]


def test_no_name_is_lost_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    said = recell("bench", "zoo:lstm", *QUICK)
    assert "lstm" in said.out.split()
    assert "2x3x4" in said.out.split()


def test_only_those_over_the_limit() -> None:
    said = recell("bench", "zoo:deltaproduct", *QUICK, "--over", "--against", "none")
    assert "1 of 1 miss their limit" in said.out
    assert "deltaproduct" in said.out


def test_random_cells_depend_on_the_seed_alone() -> None:
    first, again, other = (_cells([], ["gated"], 3, seed) for seed in (0, 0, 1))
    assert list(first) == ["gated#0", "gated#1", "gated#2"]
    assert first == again != other


def test_zoo_is_every_cell_over_time_and_equal_names_are_numbered() -> None:
    cells = _cells(["zoo", "zoo:lstm"], [], 1, 0)
    assert list(cells)[-1] == "lstm-2"
    assert set(cells) - {"lstm-2"} == {name for name in zoo_names() if zoo(name).kind == "time"}


def test_wrong_use() -> None:
    assert "name a cell, `zoo` for all known ones, or a --space" in refused("bench")
    assert "unknown backend 'referense'; did you mean 'reference'?" in refused(
        "bench", "zoo:lstm", "--backends", "referense"
    )
    assert "--against takes torch, eager or none; received 'cuda'" in refused(
        "bench", "zoo:lstm", "--against", "cuda"
    )
    assert "a size is S, M, L, G" in refused("bench", "zoo:lstm", "--sizes", "XL")
    assert "--device is cpu or cuda; received 'tpu'" in refused("bench", "zoo:lstm", "--device", "tpu")
    assert "times cells over time; ut is a depth cell" in refused("bench", "zoo:ut", *QUICK)
