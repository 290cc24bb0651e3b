"""Which cells are members: names, order and let-or-inline do not count, sharing does."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_suite import SELF, SOME, TINY, TREES, renamed, rewritten

from grammar import make_cell, parse, zoo, zoo_names
from search_spaces import GrammarSpace, NotAMemberError, SpaceError, load_space, space_names

SPACES = {name: load_space(name) for name in space_names()} | {
    "tiny": GrammarSpace(TINY),
    "self": GrammarSpace(SELF),
    "some": GrammarSpace(SOME),
    "trees": GrammarSpace(TREES),
}


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**63))
def test_samples_in_other_words_are_members(name: str, seed: int) -> None:
    space, rng = SPACES[name], np.random.default_rng(seed)
    cell = space.sample(rng, by=("weights", "size")[int(rng.integers(2))])
    other = rewritten(cell, rng)
    assert other in space, f"{space.why_not(other)}\n{cell}{other}"
    assert space.size(other) == space.size(cell)


@pytest.mark.parametrize("name", SPACES)
def test_zoo_cells_are_members_under_any_names(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(0)
    for claimed in space.claims:
        for _ in range(3):
            other = rewritten(zoo(claimed), rng)
            assert other in space, f"{space.why_not(other)}\n{other}"


@pytest.mark.parametrize("name", space_names())
def test_every_zoo_cell_in_a_space_is_claimed(name: str) -> None:
    space = SPACES[name]
    assert {z for z in zoo_names() if zoo(z) in space} == set(space.claims)


MEMBERS = {
    "a state read in another state's equation": "state h: vec, c: vec; c' = lin(x, h); h' = tanh(lin(c', c)); out h'",
    "equations in any order": "state h: vec, c: vec; out h'; h' = tanh(lin(c', c)); c' = lin(x, h)",
    "operands of lin in any order": "state h: vec; h' = lin(h, x); out h'",
    "a shared gate": "state h: vec; z = sigmoid(lin(x)); h' = lerp(z, h, z * tanh(lin(x, h))); out h'",
    "a name for a name": "state h: vec; a = h; h' = tanh(lin(x, a)); out h'",
    "more names than lets": "state h: vec; a = lin(x, h); b = tanh(a); d = b; e = lin(x); f = sigmoid(e); "
    "g = f * d; k = g + b; h' = k; out h'",
    "a repeated value without weights": "state h: vec; a = tanh(h); h' = a + (a + lin(x, a)); out h'",
}
OTHERS = {
    "an operation it lacks": ("state h: vec; h' = exp(lin(x, h)); out h'", "`h' = ...` does not derive from vec"),
    "an option it lacks": ("state h: vec; h' = lin(x, h, rank=2); out h'", "does not derive from vec"),
    "shared weights": ("state h: vec; h' = lin(x, h, share=a) + lin(x, h, share=a); out h'", "does not derive"),
    "a number it lacks": ("state h: vec; h' = lerp(0.7, lin(x), h); out h'", "`h' = ...` does not derive from vec"),
    "a name that nothing uses": ("state h: vec; a = lin(x); h' = lin(x, h); out h'", "'a' is not used"),
    "another type of state": ("state h: key; h' = h + lin:key(x); out lin(h')", "the state 'h' has a type"),
    "another initial value": ("state h: vec = 1; h' = lin(x, h); out h'", "the state 'h' has a type or initial"),
    "too many states": (
        "state h: vec, c: vec, d: vec; h' = lin(x, d); c' = h; d' = c; out h'",
        r"a cell has \{1..2\} states of type vec; received 3",
    ),
    "no x": ("state h: vec; h' = tanh(h); out h'", "the output does not depend on x"),
    "no memory": ("state h: vec; h' = lin(x); out h'", "not depend on the past of state 'h'"),
    "a dead state": ("state h: vec, c: vec; h' = lin(x, h); c' = lin(c); out h'", "the past of state 'c'"),
    "too large": (
        "state h: vec; h' = lin(h) + " + " + ".join(["tanh(lin(x))"] * 9) + "; out h'",
        "the size is at most 24 operations; received 28",
    ),
    "a block": ("state h: vec; repeat 2 { h' = lin(x, h) }; out h'", "it has a block"),
    "too many shared values": (
        "state h: vec; a = lin(x, h); b = lin(x, a, a); d = lin(x, b, b); e = lin(x, d, d); f = lin(x, e, e); "
        "h' = f * f + h; out h'",
        "at most 4 values may be lets; more have to be",
    ),
    "a let of a new value, shared": (
        "state h: vec; h' = tanh(lin(x, h)); u = lin(h'); out lin(u, u)",
        "does not derive",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MEMBERS)
def test_what_is_a_member(what: str) -> None:
    cell = parse(f"cell c {{ {MEMBERS[what]} }}")
    assert cell in SPACES["gated"], SPACES["gated"].why_not(cell)


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_member_and_why(what: str) -> None:
    text, reason = OTHERS[what]
    space, cell = SPACES["gated"], parse(f"cell c {{ {text} }}")
    assert cell not in space
    with pytest.raises(NotAMemberError, match=r"not a member of space gated: .*; received cell c \{ "):
        space.mutate(cell, np.random.default_rng(0))
    with pytest.raises(NotAMemberError, match=reason):
        space.size(cell)


def test_trees_and_other_things_are_no_members() -> None:
    space = SPACES["gated"]
    assert space.why_not(zoo("treelstm")) == "it is a cell over trees"
    assert SPACES["tree"].why_not(zoo("lstm")) == "it is no cell over trees"
    assert "zoo:lstm" not in space
    assert space.why_not(zoo("lstm")) is None


# (a cell over trees, why it is no member of `trees`, or None)
OVER_TREES = [
    ("(a, b) { state h: vec; leaf { h' = lin(x) }; h' = tanh(a.h + b.h); out h' }", None),
    ("(a, b) { state h: vec; leaf { v = lin(x); h' = v }; t = b.h + a.h; h' = tanh(t); out h' }", None),
    ("(*c) { state h: vec; leaf { h' = lin(x) }; h' = sum(c.h); out h' }", None),
    ("(*c) { state h: vec, g: vec; leaf { g' = lin(x); h' = lin(x) }; h' = sum(c.h); g' = sum(c.g); out g' }",
     "state 'h'"),
    ("(*c) { state h: vec, g: vec; leaf { g' = tanh(h'); h' = lin(x) }; h' = tanh(sum(c.h * c.g)); g' = h'; out g' }",
     None),
    ("(a, b) { state h: vec; leaf { h' = lin(x) }; h' = a.h * (b.h + a.h); out h' }", None),
    ("(a, b) { state h: vec; leaf { h' = lin(x) }; h' = b.h * (b.h + a.h); out h' }", "does not derive from up"),
    ("(a) { state h: vec; leaf { h' = lin(x) }; h' = tanh(a.h); out h' }", r"its children are l, r or \*k; received a"),
    ("(*c) { state h: vec; leaf { h' = relu(lin(x)) }; h' = sum(c.h); out h' }", "does not derive from start"),
    ("(*c) { state h: vec; leaf { v = lin(x); h' = lin(x) }; h' = sum(c.h); out h' }", "'v' is not used"),
    ("(*c) { state h: vec; leaf { v = lin(x); h' = v + v }; h' = sum(c.h); out h' }", "no shared values with weights"),
    ("(*c) { state h: vec; leaf { h' = lin(x) }; h' = tanh(lin(x)); out h' }", "does not derive from up"),
    ("(*c) { state h: vec, g: vec; leaf { h' = tanh(g'); g' = lin(x) }; h' = sum(c.h); g' = h'; out g' }", "after it"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), OVER_TREES)
def test_what_is_a_member_over_trees(text: str, why: str | None) -> None:
    found = SPACES["trees"].why_not(parse(f"cell t{text}"))
    assert found is None if why is None else found and re.search(why, found), found


def test_the_size_counts_operations_of_what_is_written() -> None:
    assert SPACES["gated"].size(zoo("lstm")) == 13
    assert SPACES["gated"].size(zoo("elman")) == 2


def test_labels_stand_for_one_name() -> None:
    space = SPACES["diagonal"]
    head = "cell c { state h: vec; f = sigmoid(lin(x)); i = sigmoid(lin(x)); k = sigmoid(lin(x)); "
    step = "h' = f / (f + i) * h + {} / (f + i) * lin(x, bias=no); out h' * k }}"
    assert parse(head + step.format("i")) in space
    assert parse(head + step.format("k")) not in space


def test_what_is_too_deep_may_be_named_in_parts() -> None:
    cell = parse(f"cell c {{ state h: vec; h' = {'tanh(' * 9}lin(x, h){')' * 9}; out h' }}")
    assert cell in SPACES["gated"]
    plain = GrammarSpace(SPACES["gated"].text.replace("let{0..4}", "let{0}"))
    assert plain.why_not(cell) == "`h' = ...` does not derive from vec"


def test_values_that_double_again_and_again_are_not_written_out() -> None:
    """In a leaf all helper names are written out, in a body those that are used twice may be."""
    doubled = "; ".join(f"a{i + 1} = a{i} * a{i}" for i in range(60))
    leaf = f"leaf {{ a0 = tanh(lin(x)); {doubled}; h' = a60 }}; h' = tanh(lin(l.h, r.h))"
    why = SPACES["tree"].why_not(parse(f"cell a(l, r) {{ state h: vec; {leaf}; out h' }}"))
    assert why == "the size is at most 32 operations; at a leaf it is more"
    body = "; ".join(f"a{i + 1} = a{i} * a{i}" for i in range(14))
    cell = parse(f"cell a {{ state h: vec; a0 = sigmoid(lin(x, h)); {body}; h' = a14; out h' }}")
    assert SPACES["gated"].why_not(cell) == "at most 4 values may be lets; more have to be"


def test_what_is_called_as_a_child_gets_another_name() -> None:
    """Children of the space are `l` and `r`, whatever those of a cell are called."""
    text = (
        str(zoo("treegru"))
        .replace("h", "l")
        .replace("tanl", "tanh")
        .replace("s =", "r =")
        .replace("s)", "r)")
    )
    cell = parse(text.replace("(s,", "(r,").replace("z, s, n", "z, r, n"))
    assert {"l", "r"} <= {s.name for s in cell.states} | {getattr(s, "name", "") for s in cell.statements}
    space, rng = SPACES["tree"], np.random.default_rng(0)
    for _ in range(10):
        child = space.mutate(cell, rng)
        assert child in space


def test_long_chains_of_names_end() -> None:
    lets = "; ".join(f"a{i} = a{i + 1}" for i in range(1500))
    cell = parse(f"cell c {{ state h: vec; {lets}; a1500 = h; h' = lin(x, a0); out h' }}")
    assert SPACES["gated"].why_not(cell) == (
        "a cell has at most 200 equations of helper names; received 1501"
    )


def test_many_shared_values_end() -> None:
    lets = "; ".join(f"a{i} = sigmoid(lin(x, a{i + 1}, a{i + 1}))" for i in range(10))
    cell = parse(f"cell c {{ state h: vec; {lets}; a10 = sigmoid(h); h' = lin(x, a0); out h' }}")
    assert "at most 4 values may be lets" in str(SPACES["gated"].why_not(cell))


def test_names_of_states_may_be_exchanged() -> None:
    cell = renamed(zoo("scrn"), {"h": "s", "s": "h"})
    assert cell in SPACES["gated"]
    assert make_cell("c", cell.states[::-1], cell.statements) in SPACES["gated"]


def test_a_space_may_ask_for_at_least_so_many_states() -> None:
    none = parse("cell a { out tanh(lin(x)) }")
    assert SPACES["some"].why_not(none) == "a cell has at least 1 states; received 0"
    assert none in GrammarSpace(SOME.replace("states >= 1, ", ""))
    assert "at least 1 states" in str(load_space("mixed").why_not(none))
    assert all(sum(plan.states) for plan in SPACES["some"]._weighted.plans)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["gated", "depth"])
def test_what_is_no_cell_is_answered(name: str) -> None:
    space, wrong = load_space(name), "hi"
    with pytest.raises(
        SpaceError, match=r"a space is asked about a Cell: grammar\.parse makes one of a text; received 'hi'"
    ):
        space.log_prob(wrong)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="a space is asked about a Cell; received None"):
        space.why_not(None)  # type: ignore[arg-type]
    assert wrong not in space
