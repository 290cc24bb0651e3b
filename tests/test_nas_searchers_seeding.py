from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grammar import zoo
from nas.errors import SearchError
from nas.searchers import make_searcher
from nas.searchers.seeding import MOST, read_seeds
from search_spaces import load_space

GATED = load_space("gated")


def digests(*names: str) -> list[str]:
    return [zoo(name).digest for name in names]


def test_no_seeds() -> None:
    assert read_seeds(None, GATED) == ()


def test_a_list_and_a_file_of_cells(tmp_path: Path) -> None:
    assert [c.digest for c in read_seeds(["zoo:gru", zoo("lstm").one_line], GATED)] == digests("gru", "lstm")
    file = tmp_path / "cells.txt"
    file.write_text(f"# known ones\n{zoo('lstm')}\n\nzoo:gru\n{zoo('mgu').one_line}\nzoo:gru\n")
    assert [c.digest for c in read_seeds(str(file), GATED)] == digests("lstm", "gru", "mgu")


def test_the_best_of_an_earlier_run(tmp_path: Path) -> None:
    cells = [zoo(name) for name in ("gru", "lstm", "mlstm", "mgu", "elman")]
    scores = [3.0, 1.0, 0.5, None, 2.0]
    lines = [{"event": "config"}]
    for trial, (cell, score) in enumerate(zip(cells, scores, strict=True)):
        lines.append({"event": "ask", "trial": trial, "text": cell.one_line})  # type: ignore[dict-item]
        ending = "fail" if score is None else "finish"
        lines.append({"event": ending, "trial": trial, "score": score})  # type: ignore[dict-item]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "journal.jsonl").write_text(text + '\n{"event": "fin')  # cut short
    found = read_seeds(tmp_path, GATED)
    assert [c.digest for c in found] == digests("lstm", "elman", "gru")  # mlstm is no member
    assert MOST == 20


def test_a_runs_supernets_are_no_seeds_and_what_was_trained_less_comes_last(tmp_path: Path) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("lstm", {"supernet": {"seed": 1}}),
        ("gru", {"until": 9}),
        ("mgu", {}),
        ("elman", {"until": 3}),
    ]
    lines: list[object] = [["no event"]]
    for trial, (name, how) in enumerate(asked):
        lines.append({"event": "ask", "trial": trial, "text": zoo(name).one_line, **how})
        lines.append({"event": "finish", "trial": trial, "score": float(trial)})
    (tmp_path / "journal.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [c.digest for c in read_seeds(tmp_path, GATED)] == digests("mgu", "gru", "elman")


@pytest.mark.parametrize("seeds", [5, True, ["zoo:lstm", 3]])
def test_what_cannot_be_seeds_is_said(seeds: Any) -> None:
    with pytest.raises(
        SearchError,
        match=r"^seeds: zoo, a file, a run folder or a list of texts of cells is needed; received",
    ):
        read_seeds(seeds, GATED)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("h' = x\n", 'begins with "h\' = x"; a cell begins with the word cell'),
        ("# nothing\n", "has no cell that is a member"),
        ("cell c { state h: vec; h' = tanh(; out h' }\n", "a cell of .* is none"),
        ("zoo:lstn\n", "a cell of .* is none: .*lstm"),
        ("zoo:mlstm\n", "is not a member of the space"),
        ("zoo:lstm\ngru\n", "cells.txt has after zoo:lstm 'gru'; a cell begins with the word cell"),
    ],
)
def test_what_is_no_seed_is_said(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "cells.txt").write_text(content)
    with pytest.raises(SearchError, match=said):
        read_seeds(str(tmp_path / "cells.txt"), GATED)


def test_a_missing_file_is_said_under_the_option_that_named_it(tmp_path: Path) -> None:
    said = "cannot read .*none: No such file or directory; give zoo, a file of cells or a run folder"
    with pytest.raises(SearchError, match=f"^seeds: {said}"):
        read_seeds(str(tmp_path / "none"), GATED)
    with pytest.raises(SearchError, match=f"^cells: {said}"):
        make_searcher("list", GATED, {"cells": str(tmp_path / "none")})
