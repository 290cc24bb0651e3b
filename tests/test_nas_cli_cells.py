from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import recell, refused

from grammar import parse, zoo, zoo_names
from search_spaces import load_space


@pytest.mark.parametrize("name", ["lstm", "gated_deltanet", "treelstm", "ut"])
def test_show_says_what_a_cell_is(name: str) -> None:
    said = recell("show", f"zoo:{name}")
    assert said.code == 0
    assert str(zoo(name)).rstrip() in said.out
    assert zoo(name).digest in said.out
    for heading in ("States", "Recurrence", "Costs", "Graph", "Canonical form"):
        assert f"\n{heading}\n" in said.out


def test_show_as_json() -> None:
    found = recell("show", "zoo:mingru", "--json", "--input-size", 3, "--hidden-size", 5).json
    assert found["digest"] == zoo("mingru").digest
    assert parse(found["text"]) is zoo("mingru")
    assert found["parallel"] is True
    assert found["components"][0]["class"] == "elementwise affine"
    assert found["parameters"]["value"] == 2 * (3 * 5 + 5)
    assert found["states"] == [{"name": "h", "type": "vec", "shape": "[B, H]", "init": "0"}]


def test_show_reads_standard_input() -> None:
    text = "cell a { state h: vec; h' = tanh(lin(x, h)); out h }"
    assert recell("show", "-", "--json", stdin=text).json["name"] == "a"


def test_show_after_a_pass() -> None:
    said = recell("show", "zoo:lstm", "--after", "lower")
    assert said.out.startswith("program lstm (time)")
    assert recell("show", "zoo:lstm", "--after", "lower", "--json").json["after"] == "lower"
    assert "there is no pass 'hoits'; the passes are lower" in refused("show", "zoo:lstm", "--after", "hoits")


def test_show_a_difference() -> None:
    said = recell("show", "zoo:gru", "--diff", "zoo:gru_cho")
    assert "-  n = tanh(lin(x) + r * lin(h))\n+  n = tanh(lin(x, r * h))" in said.out
    assert "Different functions" in said.out
    renamed = str(zoo("gru")).replace("r ", "q ").replace("cell gru", "cell other")
    found = recell("show", "zoo:gru", "--diff", renamed, "--json").json
    assert found["equal"] is True
    assert found["diff"]
    assert recell("show", "zoo:gru", "--diff", "zoo:gru").out == "the same text\n"


def test_sizes_that_do_not_fit() -> None:
    assert (
        refused("show", "zoo:lstm", "--heads", 3)
        == "heads divides hidden_size; received heads=3 and hidden_size=128"
    )


def test_zoo() -> None:
    listed = recell("zoo")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == list(zoo_names())
    assert "Long short-term memory" in listed.out
    assert [row["name"] for row in recell("zoo", "--json").json] == list(zoo_names())
    one = recell("zoo", "lstm")
    assert one.out.startswith("# Long short-term memory")
    assert parse(one.out) is zoo("lstm")
    assert recell("zoo", "zoo:lstm", "--json").json["digest"] == zoo("lstm").digest
    assert "no cell 'lstmm'; did you mean 'lstm'" in refused("zoo", "lstmm")


def test_sample_is_one_cell_a_line_and_reproducible() -> None:
    said = recell("sample", "--space", "gated", "-n", 4, "--seed", 7)
    lines = said.out.splitlines()
    assert len(lines) == 4
    assert all(parse(line) in load_space("gated") for line in lines)
    assert recell("sample", "-n", 4, "--seed", 7).out == said.out
    assert recell("sample", "-n", 4, "--seed", 8).out != said.out
    assert [row["cell"] for row in recell("sample", "-n", 4, "--seed", 7, "--json").json] == lines


def test_sample_of_a_size_and_from_nowhere() -> None:
    space = load_space("gated")
    line = recell("sample", "-n", 1, "--size", 9).out
    assert space.size(parse(line)) == 9
    assert "received size=99" in refused("sample", "--size", 99)
    assert "unknown space 'gatedd'; did you mean 'gated'" in refused("sample", "--space", "gatedd")


def test_sample_from_a_sketch_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.cell"
    path.write_text("cell mine { state h: vec; h' = choice{ tanh(lin(x, h)) | relu(lin(x, h)) }; out h' }")
    lines = set(recell("sample", "--space", path, "-n", 12).out.splitlines())
    assert lines == {f"cell mine {{ state h: vec; h' = {f}(lin(x, h)); out h' }}" for f in ("tanh", "relu")}
    assert "2 ways to fill the holes" in recell("spaces", path).out


def test_show_warns_of_what_cannot_work() -> None:
    doubtful = "cell a { state h: vec; h' = 2 * h + lin(x); out h' }"
    said = recell("show", doubtful).out
    assert "must-explode" in said
    assert [w["name"] for w in recell("show", doubtful, "--json").json["lints"]] == ["must-explode"]
    assert recell("show", "zoo:lstm", "--json").json["lints"] == []
    assert "Warnings" not in recell("show", "zoo:lstm").out
