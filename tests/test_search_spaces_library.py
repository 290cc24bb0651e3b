"""Spaces by name and from files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from source_tree import ROOT
from space_suite import RULED, TINY, grammar_space

from grammar import from_nasbench_nlp, to_nasbench_nlp, zoo
from search_spaces import (
    GrammarSpace,
    SpaceError,
    SpaceFileError,
    UnknownSpaceError,
    load_space,
    read_space,
    space_names,
    space_text,
)


def test_shipped_spaces_are_listed() -> None:
    assert {"gated", "diagonal", "matrix", "mixed", "nasbench_nlp", "darts_rnn", "tree", "depth"} == set(
        space_names()
    )
    assert list(space_names()) == sorted(space_names())


@pytest.mark.parametrize("name", space_names())
def test_a_shipped_space_says_what_it_holds(name: str) -> None:
    space = load_space(name)
    assert space is load_space(name)
    assert space.name == name
    assert len(space.doc) > 60
    assert space.text == space_text(name)
    assert len(space.digest) == 64
    assert space.claims


@pytest.mark.parametrize(("name", "cell"), [(n, z) for n in space_names() for z in load_space(n).claims])
def test_claimed_cells_are_members(name: str, cell: str) -> None:
    space = load_space(name)
    assert zoo(cell) in space, space.why_not(zoo(cell))


def test_the_classic_gated_cells_are_claimed() -> None:
    assert {"elman", "lstm", "gru", "gru_cho", "mgu", "scrn"} <= set(load_space("gated").claims)


def test_a_space_is_loaded_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.space"
    path.write_text(TINY, encoding="utf-8")
    space = load_space(str(path))
    assert space.name == "tiny"
    assert space.doc == "A small space."


def test_a_path_is_a_file_and_never_a_name(tmp_path: Path) -> None:
    path = tmp_path / "own.space"
    path.write_text(TINY, encoding="utf-8")
    assert load_space(path).text == load_space(str(path)).text == TINY
    with pytest.raises(SpaceError, match="the space file 'gated' cannot be read"):
        load_space(Path("gated"))


def test_the_example_in_the_grammar_file_is_a_space() -> None:
    lines = (ROOT / "search_spaces" / "space.lark").read_text(encoding="utf-8").splitlines()
    space = GrammarSpace("\n".join(line[5:] for line in lines if line.startswith("//   ")))
    assert space.doc.startswith("What the space contains")
    assert all(zoo(z) in space for z in space.claims)
    assert space.sample(np.random.default_rng(0)) in space


def test_a_fault_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.space"
    path.write_text(TINY.replace("tanh", "tanf"), encoding="utf-8")
    with pytest.raises(SpaceFileError, match=r"mine\.space:8:10: unknown operation 'tanf'"):
        load_space(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TINY.replace("require", "claims elman, mamba\n  require"),
         r"mine\.space:4:17: `claims mamba`: this cell of the zoo is no member: the size is at most 3"),
        ("# claims lstm\nspace s {\n  claims elman,\n    gru\n"
         "  cell a { state h: vec; h' = choice{ tanh(lin(x, h)) | relu(lin(x, h)) }; out h' }\n}\n",
         r"mine\.space:4:5: `claims gru`: this cell of the zoo is no member: as the sketch a:"),
    ],
)  # fmt: skip
def test_cells_that_a_file_claims_must_be_members(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.space"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpaceFileError, match=message):
        load_space(str(path))


def test_an_unknown_name_is_answered_with_a_near_one() -> None:
    with pytest.raises(
        UnknownSpaceError, match=r"unknown space 'gatd'; did you mean 'gated'\? The spaces are"
    ):
        load_space("gatd")
    with pytest.raises(UnknownSpaceError, match=r"unknown space '\({60}\.\.\.'"):
        load_space("(" * 10_000)  # no system takes that for the name of a file
    with pytest.raises(UnknownSpaceError, match=r"unknown space 'nothing like it'\. The spaces are"):
        space_text("nothing like it")


def test_a_missing_or_unreadable_file_is_answered(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"the space file '.*none\.space' cannot be read: .*No such file"):
        load_space(str(tmp_path / "none.space"))
    binary = tmp_path / "binary.space"
    binary.write_bytes(bytes([255, 254, 0, 128]))
    with pytest.raises(SpaceError, match=r"'.*' is not text in UTF-8 \(byte 0\)$"):
        load_space(str(binary))
    marked = tmp_path / "marked.space"
    marked.write_text("\ufeff" + space_text("gated"), encoding="utf-8")
    assert load_space(marked).name == "gated"
    for other in (None, b"gated"):
        with pytest.raises(SpaceError, match=f"a space is a name, .*; received {other!r} of type "):
            load_space(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", space_names())
def test_descriptions_name_every_production(name: str) -> None:
    space = load_space(name)
    shown = space.describe()
    assert shown.startswith(f"space {name}\n")
    assert f"{space.limits.size} operations" in shown
    if name in RULED:
        rules = grammar_space(name).rules.rules.values()
        for rule, p in ((r, p) for r in rules for p in r.productions):
            assert f"{100 * p.weight / rule.total:5.1f} %  {p.text}\n" in shown


def test_the_matrix_family_is_claimed() -> None:
    family = "linear_attention retnet gla hgrn2 deltanet deltanet_negative gated_deltanet mamba2 mlstm titans"
    assert set(load_space("matrix").claims) == set(family.split())


@pytest.mark.parametrize(("table", "step"), [("wikitext2", 1), ("ptb", 14)])
def test_published_recipes_are_members(shared_data: Path, table: str, step: int) -> None:
    space = load_space("nasbench_nlp")
    lines = (shared_data / f"nas-bench-nlp-{table}" / "cells.jsonl").read_text(encoding="utf-8").splitlines()
    cells = [from_nasbench_nlp(json.loads(line)["recipe"]) for line in lines[::step]]
    reasons = [why for cell in cells if (why := space.why_not(cell)) is not None]
    assert len(cells) > 200
    assert len(reasons) < 0.04 * len(cells)
    # A linear map of a new value that is used twice, or a named value that only a state without effect uses.
    assert all("does not derive from node" in why or "does not depend on" in why for why in reasons)


def test_members_of_nasbench_nlp_are_recipes() -> None:
    space, rng = load_space("nasbench_nlp"), np.random.default_rng(0)
    for i in range(60):
        cell = space.sample(rng, by=("weights", "size")[i % 2])
        assert from_nasbench_nlp(to_nasbench_nlp(cell)).digest == cell.digest


def test_the_document_names_every_space_and_its_examples_are_spaces() -> None:
    text = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    assert all(f"\n| `{name}` |" in text for name in space_names())
    blocks = [block for block in re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE) if "{" in block]
    spaces = [
        read_space(dedent(b)) for b in blocks if re.match(r"(#[^\n]*\n|\s)*(space|cell) ", dedent(b).strip())
    ]
    assert [space.name for space in spaces] == ["small", "mine"]
    assert all(space.sample(np.random.default_rng(0)) in space for space in spaces)
