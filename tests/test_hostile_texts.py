"""Whatever stands in a text, reading it ends soon, in an object or in one error with a place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Said, recell
from hostile import NUMBERS, ODD, READERS, good, hostile, nested, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from grammar import analyse, fingerprint, lint, parse

SEEDS = st.integers(0, 2**63 - 1)
HEAD = "cell a { state h: vec; "


@pytest.mark.parametrize("kind", READERS)
def test_the_good_texts_are_good(kind: str) -> None:
    assert [refusal(kind, text) for text in good(kind)] == [None] * len(good(kind))


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=150)
@given(SEEDS)
def test_hostile_texts(kind: str, seed: int) -> None:
    refusal(kind, hostile(kind, np.random.default_rng(seed)))


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=60)
@given(st.text(max_size=300), st.binary(max_size=300))
def test_any_text_and_any_bytes(kind: str, text: str, raw: bytes) -> None:
    refusal(kind, text)
    refusal(kind, raw.decode("latin-1"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", READERS)
def test_very_many_hostile_texts(kind: str) -> None:
    for seed in range(20_000):
        refusal(kind, hostile(kind, np.random.default_rng([1, seed])))


@pytest.mark.parametrize("kind", READERS)
def test_odd_characters_and_numbers_anywhere(kind: str) -> None:
    """Each at the head, at the end, and in the middle, within a word and between two."""
    text = good(kind)[0]
    middle = text.index("lin(")
    for odd in (*ODD, *NUMBERS):
        for at in (0, middle, middle + 1, middle + 4, len(text)):
            refusal(kind, text[:at] + odd + text[at:])


def test_what_is_accepted_can_be_worked_with() -> None:
    """Damage that leaves a cell a cell: the analyses take it, too."""
    accepted = 0
    for seed in range(400):
        text = hostile("cell", np.random.default_rng([2, seed]))
        if refusal("cell", text) is None:
            accepted += 1
            cell = parse(text)
            assert cell.canonical().digest == cell.digest
            assert analyse(cell).kind == cell.kind
            assert lint(cell) is not None
            assert len(fingerprint(cell)) == 64
    assert accepted > 10


# ---- the command line -------------------------------------------------------------------------


def check(said: Said) -> None:
    """Done, or wrong use with one error: never a bug, never half a page."""
    assert said.code in (0, 2), said
    if said.code == 2:
        assert said.out == ""
        assert said.error.startswith("error: ")
        assert "Traceback" not in said.error
        assert said.error.count("error:") == 1


def shown(text: str, way: int) -> Said:
    if way == 0 and "\x00" not in text:
        return recell("show", "--", text)
    return recell("show", "-", stdin=text.encode("utf-8", "replace").decode())


@settings(max_examples=60)
@given(SEEDS)
def test_show(seed: int) -> None:
    check(shown(hostile("cell", np.random.default_rng(seed)), seed % 2))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_show_very_often() -> None:
    for seed in range(3_000):
        check(shown(hostile("cell", np.random.default_rng([3, seed])), seed % 2))


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}h' = {'(' * 5000}x{')' * 5000}; out h' }}",
        f"{HEAD}{'repeat 2 {' * 1000}h' = h{'}' * 1000}; out h }}",
        f"{HEAD}h' = {'choice{ x | ' * 800}h{'}' * 800}; out h' }}",
        f"{HEAD}{'depth 2 {' * 1000}h' = h{'}' * 1000}; out h }}",
        f"{HEAD}h' = {'-' * 9000}x; out h' }}",
        f"{HEAD}h' = {'9' * 9000}; out h' }}",
        "{" * 10_000,
        "cell " * 2000 + "{",
    ],
    ids=lambda text: f"{text[:40]}...",
)
def test_show_ten_kilobytes_of_nesting(text: str) -> None:
    said = recell("show", "--", text)
    check(said)
    assert said.code == 2
    assert said.error.startswith("error: <text>:1:")


@pytest.mark.parametrize(
    "chain",
    [
        "; ".join(f"a{i} = tanh(a{i + 1})" for i in range(300)),
        "; ".join(f"a{i} = a{i + 1} * lin(a{i + 1})" for i in range(300)),
        "; ".join(f"a{i} = a{i + 1} + a{i + 2}" for i in range(300)) + "; a301 = h",
    ],
    ids=("a long chain", "a chain of pairs", "a lattice"),
)
def test_show_of_what_is_allowed_and_deep(chain: str) -> None:
    for option in ((), ("--json",), ("--diff", "zoo:lstm")):
        said = recell("show", f"{HEAD}{chain}; a300 = lin(x, h); h' = a0; out h' }}", *option)
        assert said.code == 0, said.error[-2000:]


def test_spaces_of_hostile_files(tmp_path: Path) -> None:
    for seed in range(25):
        file = tmp_path / f"{seed}.space"
        file.write_bytes(
            hostile("space", np.random.default_rng([4, seed])).encode("utf-8", "surrogateescape")
        )
        check(recell("spaces", file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a" * 10_000, "there is no cell 'aaaa"),
        ("a" * 10_000 + "#3", "aaa"),
        ("\ud800", "there is no cell"),
        ("", "there is no cell ''"),
        (".", ". is a folder"),
        ("zoo:" + "(" * 10_000, "the zoo has no cell"),
        ("{", "<text>:1:1: a cell begins with"),
    ],
    ids=lambda text: text[:12].encode("utf-8", "replace").decode(),
)
def test_arguments_that_are_no_cell(text: str, message: str) -> None:
    said = recell("show", "--", text)
    check(said)
    assert said.code == 2
    assert message in said.error
    assert len(said.error) < 1_000


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """In a process of its own, as only there the input is bytes."""
    file = tmp_path / "noise.cell"
    file.write_bytes(b"cell a { out \xff\xfe }")
    for argument, stdin in (("-", b"cell a { out \xff }"), (str(file), b""), (b"cell \xff { out x }", b"")):
        command = [sys.executable, "-c", "from nas.cli import main; main()", "show", argument]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
        assert done.returncode == 2, done
        assert done.stdout == b""
        assert done.stderr.startswith(b"error: ")
        assert b"Traceback" not in done.stderr


def test_nesting_is_as_deep_as_said() -> None:
    assert max(len(nested("cell", np.random.default_rng(seed))) for seed in range(20)) > 9_000
