"""Space files: a table of faults, each answered with its place and its rule; and noise never ends in a traceback."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from space_suite import SELF, SOME, TINY, TREES

from grammar import GrammarError
from search_spaces import GrammarSpace, SpaceError, SpaceFileError, read_space, space_names, space_text

GOOD = """space s {
  limits size <= 9, depth <= 4
  state{1..2} vec
  let{0..2} -> vec | gate
  out -> $new
  vec -> tanh(vec) | gate * vec | lin(OPS) [3] | $vec [2]
  gate: vec -> sigmoid(vec) | $gate
  OPS: operands -> x, $vec | x
}
"""

# (what is replaced in GOOD, by what, line, column, message)
FAULTS = [
    ("space s {", "", 2, 3, r"a space begins with `space NAME \{`; received 'limits'"),
    (GOOD, "", 1, 1, "the text is empty: a space begins with"),
    (GOOD, "# only a comment\n", 1, 17, "the text is empty"),
    ("x\n}", "x\n", 8, 31, "the text ends inside a space: a closing '}' is missing"),
    ("x\n}", "x # \u2028 more\n", 8, 40, "the text ends inside a space: a closing '}' is missing"),
    ("x\n}", "x\n} more", 9, 3, "one file holds one space"),
    ("out -> $new", "out = $new", 5, 7, "a rule is written with an arrow, as in `vec -> tanh"),
    ("gate: vec ->", "gate: vec =", 7, 13, "a rule is written with an arrow"),
    ("tanh(vec) |", "tanh(vec) vec |", 6, 24, "a rule begins with `NAME ->`; received '|' after a name"),
    ("tanh(vec)", "tanh(vec", 6, 19, "expected one of"),
    ("tanh(vec)", "$vec $vec", 6, 15, "alternatives are separated by '|' and operands by an operator"),
    ("tanh(vec)", "tanh{vec}", 6, 14, "unexpected '{': a count follows `state` or `let` at once"),
    ("$new", "h'", 5, 11, "the new values of states are the names of class"),
    ("$new", "$", 5, 10, "stands for a visible name"),
    ("| x\n", "| x;\n", 8, 31, "no ';' is needed"),
    ("{1..2}", "{2..1}", 3, 8, "a count is"),
    ("{1..2}", "{1..99}", 3, 8, "least <= most <= 16"),
    ("[3]", "[0]", 6, 45, r"a weight is a number from 1e-30 to 1e\+30; received 0"),
    ("[3]", "[1e308]", 6, 45, r"a weight is a number from 1e-30 to 1e\+30; received 1e308"),
    ("gate: vec ->", f"gate: mem({'9' * 5000}) ->", 7, 9, r"mem\(n\) has 1 <= n <= 4096; received mem\(9+\.\.\.9+\)"),
    ("{1..2}", "{1.." + "9" * 5000 + "}", 3, 8, "least <= most <= 16"),
    ("size <= 9", f"size <= {'9' * 5000}", 2, 18, "a number must be finite"),
    ("[3]", "[1e999]", 6, 45, "a number must be finite"),
    ("size <= 9", "size >= 2", 1, 7, "`limits size <= n` is missing"),
    ("depth <= 4", "size <= 8", 2, 21, "a limit is given once; size <= is given twice"),
    ("depth <= 4", "size >= 10", 1, 7, "a size is at least 10 and at most 9: no cell has both"),
    ("x, $vec | x", f"{'B, ' * 5}B B: operands -> {'A, ' * 5}A A: operands -> x | $vec", 8, 3, "68,719,476,736"),
    ("size <= 9", "size <= 900", 2, 10, "a limit is a whole number from 0 to 100 here; received 900"),
    ("size <= 9", "sise <= 9", 2, 10, "received sise <=; did you mean 'size'"),
    ("depth <= 4", "depth >= 4", 2, 21, "received depth >="),
    ("depth <= 4", "states >= 3", 2, 21, r"give \{1..2\} states, the limits at least 3: no cell has both"),
    ("depth <= 4", "states <= 0", 2, 21, r"give \{1..2\} states, the limits at most 0: no cell has both"),
    ("depth <= 4", "states >= 17", 2, 21, "a whole number from 0 to 16 here; received 17"),
    ("  out -> $new\n", "", 1, 7, "a rule `out -> ...` is missing"),
    ("  state{1..2} vec\n", "", 1, 7, r"a line `state\{1..2\} vec` is missing"),
    ("state{1..2} vec", "state vec state vec", 3, 13, "two `state` lines differ"),
    ("state{1..2} vec", "state vek", 3, 9, "unknown nonterminal 'vek'; did you mean 'vec'"),
    ("state{1..2} vec", "state h: key -> vec", 3, 19, "a state of type key needs new values of that type"),
    ("state{1..2} vec", "state h: vec = small -> vec", 3, 18, "an initial value is a number, -inf or learned"),
    ("-> vec | gate", "-> vec | gat", 4, 22, "unknown nonterminal 'gat'; did you mean 'gate'"),
    ("-> vec | gate", "-> OPS", 4, 16, "a let has one value; 'OPS' derives operands"),
    ("  out", "  let -> gate\n  out", 5, 3, r"a space has one line `let"),
    ("gate: vec", "gate", 7, 3, "the nonterminal 'gate' needs a type"),
    ("gate: vec", "gate: vek", 7, 9, "unknown type 'vek'.*did you mean 'vec'"),
    ("gate: vec", "tanh: vec", 7, 3, "'tanh' is an operation and cannot name a nonterminal"),
    ("gate: vec", "vec: vec", 7, 3, "'vec' has two"),
    ("tanh(vec)", "tanf(vec)", 6, 10, "unknown operation 'tanf'; did you mean 'tanh'"),
    ("tanh(vec)", "tanh(vec, vec)", 6, 10, r"`tanh` takes 1 operand\(s\); received 2"),
    ("tanh(vec)", "tanh(vek)", 6, 15, "unknown nonterminal 'vek'; visible names are written with .*'vec'"),
    ("tanh(vec)", "tanh($vek)", 6, 15, "unknown class of names .vek; the classes are .*did you mean 'vec'"),
    ("tanh(vec)", "lin:key(x)", 6, 10, "'vec' derives values of type vec; this one is key"),
    ("tanh(vec)", "x", 6, 10, "'vec' derives values of type vec; this one is in"),
    ("tanh(vec)", "lin:key(x) + vec", 6, 21, "`add`: operands must have equal types.*received key and vec"),
    ("tanh(vec)", "tanh(OPS)", 6, 15, "`tanh` takes single operands, not a list"),
    ("tanh(vec)", "x, x", 6, 10, "only a nonterminal of type operands derives a list"),
    ("x, $vec |", "x, x, x, x, x, x, x |", 8, 20, "a list has at most 6 operands; received 7"),
    ("lin(OPS)", "lin(OPS, bais=no)", 6, 44, "has no option 'bais'.*did you mean 'bias'"),
    ("$gate\n", "gate\n", 7, 3, "'gate' derives itself without an operation around it"),
    ("OPS: operands -> x, $vec | x", "OPS: operands -> x, OPS | x", 8, 3, "'OPS' derives itself"),
    ("sigmoid(vec) | $gate", "1 - gate", 7, 3, "'gate' derives nothing"),
    ("  out", "  claims lstn\n  out", 5, 10, "unknown cell of the zoo 'lstn'; did you mean 'lstm'"),
    ("  out", "  require y\n  out", 5, 11, "unknown requirement 'y'"),
    ("tanh(vec)", f"{'tanh(' * 60}vec{')' * 60}", 6, 60, "nested at most 50 deep"),
    ("tanh(vec)", f"{'-' * 60}vec", 6, 20, "nested at most 50 deep"),
]  # fmt: skip


# (what is replaced in TREES, by what, line, column, message)
TREE_FAULTS = [
    ("l, r | *k", "l, r | l", 4, 22, "the name of a child is of nothing else; received 'l'"),
    ("l, r | *k", "l, total", 4, 18, "the name of a child is of nothing else; received 'total'"),
    ("l, r | *k", "l, r | a, b", 4, 22, "two forms differ in the number of children"),
    ("l, r | *k", "l, r", 8, 54, r"unknown class of names \$self_k"),
    ("l, r | *k", "*l, k", 4, 17, "expected"),
    (" leaf start", "", 5, 3, "over trees a state says what it is at a leaf, as in `state vec -> update leaf start`"),
    (" leaf start", " leaf strat", 5, 30, "unknown nonterminal 'strat'; did you mean 'start'"),
    ("start: vec -> lin(x) [2] | tanh($new)", "start: key -> lin:key(x)", 5, 30, "needs values of that type at leaves"),
    ("  children -> l, r | *k\n", "", 4, 30, "only a space with `children -> ...` has leaves"),
    ("sum($self_k)", "$self_k", 8, 3, r"`\$self_k` is of any number of children: .* used outside of sum"),
    ("sum($self_k)", "sum(total)", 8, 3, r"`sum` is over children and names one, .* received `sum\(total\)`"),
    ("sum($self_k)", "sum($self_k * total)", 9, 3, "`sum` is not nested"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "message"), TREE_FAULTS, ids=[f[4][:40] for f in TREE_FAULTS]
)
def test_each_fault_of_a_space_over_trees_is_answered(
    old: str, new: str, line: int, column: int, message: str
) -> None:
    assert TREES.count(old) == 1
    with pytest.raises(SpaceFileError, match=message) as caught:
        GrammarSpace(TREES.replace(old, new, 1), "mine.space")
    assert str(caught.value).startswith(f"mine.space:{line}:{column}: ")


@pytest.mark.parametrize(("old", "new", "line", "column", "message"), FAULTS, ids=[f[4][:40] for f in FAULTS])
def test_each_fault_is_answered_with_its_place(
    old: str, new: str, line: int, column: int, message: str
) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(SpaceFileError, match=message) as caught:
        GrammarSpace(GOOD.replace(old, new, 1), "mine.space")
    shown = str(caught.value).splitlines()
    assert shown[0].startswith(f"mine.space:{line}:{column}: ")
    if len(shown) > 1:
        assert set(shown[2].strip()) == {"^"}


def test_the_base_of_the_table_is_sound() -> None:
    assert str(GrammarSpace(GOOD)) == "<Space s>"
    assert issubclass(SpaceFileError, SpaceError)
    assert issubclass(SpaceFileError, GrammarError)


def test_one_class_of_names_has_one_type() -> None:
    with pytest.raises(SpaceFileError, match=r"\$self has names of several types; .* as in \$cell_self"):
        GrammarSpace(SELF.replace("$cell_self)", "$self)"))


def test_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(SpaceFileError, match="at most 100,000 characters; received 200,2"):
        GrammarSpace(GOOD + "#" * 200_000, "long.space")


TEXTS = [TINY, SELF, SOME, TREES, GOOD, *(space_text(name) for name in space_names())]


@given(st.sampled_from(TEXTS), st.integers(0, 2**32), st.integers(1, 6))
def test_a_damaged_file_is_read_or_refused_with_a_place(text: str, seed: int, edits: int) -> None:
    rng = np.random.default_rng(seed)
    pieces = [
        "->",
        "|",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "$",
        ",",
        "x",
        "$vec",
        "vec",
        "0",
        "1e9",
        "\n",
        "#",
        "é",
        "state",
    ]
    for _ in range(edits):
        at = int(rng.integers(len(text)))
        piece = pieces[int(rng.integers(len(pieces)))] if rng.random() < 0.6 else ""
        text = text[:at] + piece + text[at + int(rng.integers(4)) :]
    try:
        space = read_space(text)
    except SpaceFileError as error:
        found: object = error.span
    else:
        found = space.name
    assert found


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(SpaceFileError, match=r".+"):
        read_space(text)
