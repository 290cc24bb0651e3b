from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import recell, refused

from grammar import parse, zoo, zoo_doc, zoo_names
from search_spaces import load_space

HEADINGS = ("States", "Values", "Recurrence", "Costs", "Graph", "Canonical form")


@pytest.mark.parametrize("name", ["lstm", "gated_deltanet", "treelstm", "ut"])
def test_show_says_what_a_cell_is(name: str) -> None:
    said = recell("show", f"zoo:{name}")
    assert said.code == 0
    assert str(zoo(name)).rstrip() in said.out
    assert zoo(name).digest in said.out
    assert zoo_doc(name).splitlines()[1] in said.out
    for heading in (*HEADINGS, "Weights"):
        assert f"\n{heading}\n" in said.out


def test_show_as_json() -> None:
    found = recell("show", "zoo:mingru", "--json", "--input-size", 3, "--hidden-size", 5).json
    assert found["digest"] == zoo("mingru").digest
    assert parse(found["text"]) is zoo("mingru")
    assert found["parallel"] is True
    assert found["components"][0]["class"] == "elementwise affine"
    assert found["parameters"]["value"] == 2 * (3 * 5 + 5)
    assert found["states"] == [{"name": "h", "type": "vec", "shape": "[B, H]", "init": "0"}]


def test_the_page_has_types_weights_and_costs() -> None:
    page = " ".join(recell("show", "zoo:gated_deltanet", "--heads", 4).out.split())
    for part in (
        "key [B, N, K] k",
        "scal [B, N] b, a",
        "mat [B, N, K, V] S, T",
        "k lin w0 [N K, D], b [N K] 16,512",
        "b lin w0 [N, D], b [N] 516",
        "at D=128, H=128, N=4",
        "matrix-affine, diagonal plus low rank (rank 1) -> chunkwise delta rule",
    ):
        assert part in page
    found = recell("show", "zoo:esn", "--json").json
    assert {"type": "in", "shape": "[B, D]", "names": ["x"]} in found["values"]
    assert [w["trained"] for w in found["weights"]] == [False, False, True]
    assert "begins as" in recell("show", "zoo:esn").out
    assert "not trained" in recell("show", "zoo:esn").out
    assert "fixed parameters" in recell("show", "zoo:esn").out


@pytest.mark.parametrize("name", zoo_names())
@pytest.mark.parametrize("columns", [40, 200])
def test_every_known_cell_has_a_page_of_any_width(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    said = recell("show", f"zoo:{name}")
    assert said.code == 0
    assert [line for line in said.out.splitlines() if line in HEADINGS] == list(HEADINGS)
    assert "N^-1]" not in said.out
    if columns == 200:
        assert recell("show", f"zoo:{name}", "--json").json["digest"] == zoo(name).digest


def test_a_known_cell_is_recognised_under_another_name() -> None:
    said = recell("show", "cell m { state h: vec; h' = h + sigmoid(lin(x)) * (lin(x) - h); out h' }")
    assert said.out.splitlines()[1] == "This is zoo:mingru, written differently."


def test_what_is_too_large_is_cut() -> None:
    said = recell(
        "show", "cell a { state h: vec; repeat 64 fresh { repeat 4 { h' = tanh(lin(x, h)) } }; out h' }"
    )
    assert "514 values, its blocks written out: too many to draw; what each equation reads:" in said.out
    assert "repeat 64 fresh" in said.out
    assert "... and 40 more; --json has all" in said.out
    assert len(said.out.splitlines()) < 120
    assert "... and 78 lines more; --json has all" in recell("show", "zoo:trm").out


def test_a_page_needs_no_unicode() -> None:
    """A terminal that writes ASCII gets words for signs."""
    command = [sys.executable, "-c", "from nas.cli import main; main()", "show", "zoo:lstm"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"o = sigmoid lin(x, h)" in done.stdout
    assert b"?" not in done.stdout


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
    assert found["same"] == "canonical"
    assert recell("show", "zoo:gru", "--diff", "zoo:gru").out == "the same text\n"


def test_show_a_difference_says_what_it_costs_and_what_is_the_same_after_all() -> None:
    said = " ".join(recell("show", "zoo:lstm", "--diff", "zoo:lstm_cifg").out.split())
    assert "--- lstm +++ lstm_cifg" in said
    assert "parameters 131,584 = 4 D H + 4 H^2 + 4 H 98,688 = 3 D H + 3 H^2 + 3 H" in said
    head = "cell a { state h: vec; h' = "
    one, other = f"{head}lin(x) + (h + lin(h)); out h' }}", f"{head}(lin(x) + h) + lin(h); out h' }}"
    assert "The same function as far as can be tried" in recell("show", one, "--diff", other).out
    found = recell("show", one, "--diff", other, "--json").json
    assert (found["equal"], found["same"]) == (False, "fingerprint")
    assert recell("show", "zoo:ut", "--diff", "zoo:lstm").code == 0


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
    runs = {row["name"]: row["runs_as"] for row in recell("zoo", "--json").json}
    assert (runs["mingru"], runs["lstm"], runs["ut"]) == ("parallel scan", "sequential", "in depth")
    assert runs["deltanet"] == "chunkwise delta rule"
    one = recell("zoo", "lstm")
    assert one.out.startswith("# Long short-term memory")
    assert parse(one.out) is zoo("lstm")
    assert recell("zoo", "zoo:lstm", "--json").json["digest"] == zoo("lstm").digest
    assert "no cell 'lstmm'; did you mean 'lstm'" in refused("zoo", "lstmm")


def test_the_zoo_is_told_in_whole_sentences_at_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (40, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        out = recell("zoo").out
        assert all(len(line) <= columns for line in out.splitlines())
        said = " ".join(out.split())
        assert said.count("parallel scan") > 2
        assert "learned lower bound." in said
        assert "Tiny recursive model: six updates of a latent" in said


def test_costs_of_a_tree_cell_are_told_per_leaf_and_per_inner_node() -> None:
    out = recell("show", "zoo:treelstm").out
    assert re.search(r"operations per inner node +332,416 +20 H\^2 \+ 37 H", out)
    assert re.search(r"operations per leaf +33,408 +2 D H \+ 5 H", out)
    found = recell("show", "zoo:treelstm", "--json").json
    assert (found["flops"]["value"], found["leaf_flops"]["value"]) == (332_416, 33_408)
    assert "leaf_flops" not in recell("show", "zoo:lstm", "--json").json
    assert "operations per leaf" not in recell("show", "zoo:treelstm", "--diff", "zoo:lstm").out
    assert "operations per leaf" in recell("show", "zoo:treelstm", "--diff", "zoo:treegru").out


def test_costs_and_spaces_break_no_word_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    costs = recell("show", "zoo:lstm").out.split("Costs\n")[1].split("\n\n")[0]
    assert "operations per step: 265,728\n  = 8 D H + 8 H^2 + 28 H\n" in costs
    out = recell("spaces", "gated").out
    assert all(len(line) <= 40 for line in out.splitlines())
    assert " ".join(load_space("gated").describe().split()) == " ".join(out.split())


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


def test_a_cell_that_is_too_large_to_draw_is_outlined() -> None:
    lines = recell("show", "zoo:trm").out.splitlines()
    start = next(i for i, line in enumerate(lines) if "what each equation reads:" in line)
    assert lines[start + 1 : start + 7] == [
        "trm",
        "├── e = + posemb(x)",
        "├── repeat 2",
        "│   ├── repeat 6",
        "│   │   ├── vp = +(p, q, e)",
        "│   │   ├── ap1 = rmsnorm + attn(vp)",
    ]


def test_costs_are_told_for_sizes_alone_that_build_takes() -> None:
    text = "cell a { state h: vec; h' = tanh(lin(h)) * x; out h' }"
    said = recell("show", text, "--input-size", "32")
    assert said.code == 0
    assert "none at D=32, H=128, N=1: this cell uses x elementwise where a vec stands" in said.out
    assert "16,512" not in said.out
    found = recell("show", text, "--input-size", "32", "--json").json
    assert "input_size equals hidden_size" in found["sizes_refused"]
    assert found["parameters"] == {"formula": "H^2 + H", "value": None}
    assert recell("show", text, "--json").json["parameters"]["value"] == 128 + 128**2
    assert recell("show", "zoo:lstm", "--heads", "3").code == 2


def test_a_terminal_of_twenty_columns_gets_lines_and_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    lines = recell("show", "zoo:gru").out.splitlines()
    start = lines.index("States")
    found = [line.rstrip() for line in lines[start + 1 : start + 5]]
    assert found == ["h", "  type vec", "  shape [B, H]", "  begins as 0"]


def test_a_name_in_other_letters_is_recognised() -> None:
    assert "the zoo has no cell 'LSTM'; did you mean 'lstm'?" in recell("show", "zoo:LSTM").error


def test_cells_are_sampled_by_size() -> None:
    by_size = recell("sample", "--space", "diagonal", "--by", "size", "--size", "5", "-n", "2").out
    assert by_size != recell("sample", "--space", "diagonal", "--size", "5", "-n", "2").out
    assert "'weights' or 'size'; received 'length'" in recell("sample", "--by", "length").error
