"""The canonical form: what it ignores, what it keeps, and that its digests never change silently."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramble import scramble
from strategies import cells

from grammar import (
    DIGEST_VERSION,
    Cell,
    GrammarError,
    canonical_weights,
    fingerprint,
    labelling,
    parse,
    zoo,
    zoo_names,
)

GOLDEN = Path(__file__).parent / "golden" / "digests.json"


@pytest.mark.parametrize("name", zoo_names())
def test_canonical_is_idempotent(name: str) -> None:
    canonical = zoo(name).canonical()
    assert canonical.canonical() is canonical
    assert canonical.digest == zoo(name).digest


@pytest.mark.parametrize("name", zoo_names())
def test_names_order_and_dead_code_do_not_matter(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        other = scramble(zoo(name), rng)
        assert other.canonical() is zoo(name).canonical(), str(other)


@pytest.mark.parametrize("name", zoo_names())
def test_canonical_weights_are_those_of_the_canonical_cell(name: str) -> None:
    cell = zoo(name)
    canonical = cell.canonical()
    own = [
        (i, s.role, tuple(map(str, s.shape))) for i, w in enumerate(canonical.graph.weights) for s in w.specs
    ]
    moved = canonical_weights(cell.graph)
    assert [w.name for w in moved] == [f"w{i}" for i in range(len(own))]
    shapes = [
        next(tuple(map(str, s.shape)) for s in cell.graph.weights[w.weight].specs if s.role == w.role)
        for w in moved
    ]
    assert shapes == [shape for _, _, shape in own]
    assert [(w.weight, w.role) for w in canonical_weights(canonical.graph)] == [(i, r) for i, r, _ in own]


EQUAL = [
    ("h' = (1 - z) * h + z * lin(x)", "h' = lerp(z, h, lin(x))"),
    ("h' = h + z * (lin(x) - h)", "h' = lerp(z, h, lin(x))"),
    ("h' = lerp(1 - z, lin(x), h)", "h' = lerp(z, h, lin(x))"),
    ("h' = z * h + lin(x) - 0", "h' = lin(x) + h * z"),
    ("h' = lerp(z, h, h) + lin(x)", "h' = h + lin(x)"),
    ("h' = 2 * 3 * h + lin(x)", "h' = 6 * h + lin(x)"),
    ("h' = h - -lin(x)", "h' = h + lin(x)"),
    ("h' = toval(tokey(h)) * hmax(tokey(toval(lin:key(x))))", "h' = h * hmax(lin:key(x))"),
    ("h' = lin(x) * 2 * 3 + h", "h' = 6 * lin(x) + h"),
    ("h' = lin(x) / 2 + h", "h' = h + 0.5 * lin(x)"),
    ("h' = lin(x) * 8 / -2 + h", "h' = h - 4 * lin(x)"),
    ("h' = -(2 * lin(x)) + h", "h' = h + -2 * lin(x)"),
    ("h' = h * z - 2 * lin(x)", "h' = h * z + lin(x) / 4 * -8"),
    ("h' = -z - lin(x)", "h' = -(lin(x) + z)"),
    ("h' = -2 * z - lin(x)", "h' = -lin(x) + z / -0.5"),
    ("h' = -z - h + lin(x)", "h' = lin(x) - (h + z)"),
    ("h' = lin(x) - 1 + h", "h' = lin(x) + -1 + h"),
    ("h' = lin(x) + 1 + 2", "h' = 3 + lin(x)"),
    ("h' = lin(x) - 1 - 2", "h' = lin(x) - 3"),
    ("h' = h * lin(x) * 1 / 1", "h' = lin(x) * h"),
    ("h' = lerp(0, h, z) + lin(x)", "h' = h + lin(x)"),
    ("h' = lerp(1, h, z) + lin(x)", "h' = z + lin(x)"),
    ("h' = lerp(1 - 1, h, lin(x)) + lin(x)", "h' = h + lin(x)"),
    ("h' = square(h) + lin(x)", "h' = h * h + lin(x)"),
    ("h' = square(-h) + lin(x)", "h' = h * h + lin(x)"),
    ("h' = square(3 * h) + lin(x)", "h' = square(-h / (1 / 3)) + lin(x)"),
    ("h' = max(lin(x), 0) + h", "h' = relu(lin(x)) + h"),
    ("h' = max(0, relu(h)) + lin(x)", "h' = relu(h) + lin(x)"),
    ("u = lin(x); h' = u * sigmoid(u) + h", "h' = silu(lin(x)) + h"),
    (
        "u = lin(x); s = sigmoid(u); h' = (1 - s) * h + u * s",
        "u = lin(x); h' = (1 - sigmoid(u)) * h + silu(u)",
    ),
    ("h' = abs(-h) + lin(x)", "h' = abs(h) + lin(x)"),
    ("h' = abs(-3 * h) + lin(x)", "h' = abs(3 * h) + lin(x)"),
    ("h' = cos(-h) + lin(x)", "h' = cos(h) + lin(x)"),
    ("h' = relu(relu(h)) + lin(x)", "h' = relu(h) + lin(x)"),
    ("l = lin(x); h' = h + l + tanh(l)", "l = lin(x); m = tanh(l); h' = h + l + m"),
    ("h' = tanh(h) * tanh(h) + lin(x)", "t = tanh(h); h' = t * t + lin(x)"),
    ("repeat 2 { h' = tanh(lin(x, h)) }", "g = tanh(lin(x, h, share=a)); h' = tanh(lin(x, g, share=a))"),
    ("repeat 2 { h' = tanh(lin(x, h)) }", "g = tanh(lin(h, x, share=a)); h' = tanh(lin(g, x, share=a))"),
    ("repeat 2 fresh { h' = tanh(lin(x, h)) }", "g = tanh(lin(x, h)); h' = tanh(lin(g, x))"),
]


def _cell(body: str) -> Cell:
    return parse(f"cell a {{ state h: vec; z = sigmoid(lin(x, h)); {body}; out h' }}")


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_functions_have_equal_digests(one: str, other: str) -> None:
    assert _cell(one).digest == _cell(other).digest, f"{_cell(one).canonical()}\n{_cell(other).canonical()}"


DIFFERENT = [
    # Weight identity is part of the function: two maps are not one.
    ("l = lin(x); h' = h + l + tanh(l)", "h' = h + lin(x) + tanh(lin(x))"),
    ("h' = lin(x, h)", "h' = lin(x) + lin(h)"),
    ("h' = lin(x) + lin(h)", "h' = lin(x) + lin(h, bias=no)"),
    ("h' = h - lin(x)", "h' = lin(x) - h"),
    ("h' = lerp(z, h, lin(x))", "h' = lerp(z, lin(x), h)"),
    ("h' = tanh(lin(x, h))", "h' = tanh(lin(x, h, fixed=yes))"),
    ("h' = lin(x) + diag(h)", "h' = lin(x) + diag(h, init=1)"),
    ("g = tanh(lin(x, h)); h' = tanh(lin(x, g))", "repeat 2 { h' = tanh(lin(x, h)) }"),
    ("h' = h * 0.5 + lin(x)", "h' = h * 0.25 + lin(x)"),
    ("h' = h + 1 - 1 + lin(x)", "h' = h + lin(x)"),  # rounding may lose what cancels
    ("h' = 1e200 * (1e200 * h) + lin(x)", "h' = 1e300 * h + lin(x)"),
    ("h' = h / 0 + lin(x)", "h' = h + lin(x)"),
    ("h' = abs(h) + lin(x)", "h' = h + lin(x)"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_functions_have_different_digests(one: str, other: str) -> None:
    assert _cell(one).digest != _cell(other).digest


def test_initial_values_and_the_emitted_state_are_part_of_the_digest() -> None:
    base = "cell a {{ state h: vec{0}, c: vec; h' = tanh(lin(x, c)); c' = tanh(lin(x, h)); out {1} }}"
    texts = [base.format("", "h'"), base.format(" = 1", "h'"), base.format(" = learned", "h'"),
             base.format("", "h' + c'"), base.format(" = 1", "c'")]  # fmt: skip
    assert len({parse(t).digest for t in texts}) == len(texts)


def test_symmetric_states_may_be_exchanged() -> None:
    base = "cell a {{ state h: vec, c: vec; h' = tanh(lin(x, c)); c' = tanh(lin(x, h)); out {0} }}"
    assert parse(base.format("h'")).digest == parse(base.format("c'")).digest


@pytest.mark.parametrize("count", [2, 5, 12])
def test_symmetry_is_pruned(count: int) -> None:
    """`count` equal components have count! symmetries; the search may not visit them all."""
    names = [f"h{i}" for i in range(count)]
    states = ", ".join(f"{n}: vec" for n in names)
    equations = "; ".join(f"{n}' = tanh(lin(x, {n}))" for n in names)
    total = " + ".join(f"tanh({n}')" for n in names[: count // 2 + 1])
    cell = parse(f"cell a {{ state {states}; {equations}; out {total} }}")
    mirrored = parse(
        f"cell a {{ state {states}; {equations}; out {' + '.join(reversed(total.split(' + ')))} }}"
    )
    assert cell.canonical() is not None
    if count == 2:
        assert cell.digest == mirrored.digest


def _interchangeable(count: int, form: str) -> str:
    """Cells whose states, or pairs of states, may all change places; in `all` each reads every other."""
    names = [f"h{i}" for i in range(count)]
    read = {
        "alone": [f"x, {n}" for n in names],
        "pairs": [f"x, {n}, {names[i ^ 1]}" for i, n in enumerate(names)],
        "ring": [names[(i + 1) % count] for i in range(count)],
        "all": [f"x, {', '.join(names)}"] * count,
    }[form]
    equations = "; ".join(f"{n}' = tanh(lin({r}))" for n, r in zip(names, read, strict=True))
    return f"cell a {{ state {', '.join(f'{n}: vec' for n in names)}; {equations}; out lin({', '.join(names)}, x) }}"


@pytest.mark.parametrize(("form", "count"), [("alone", 120), ("pairs", 60), ("ring", 40), ("all", 12)])
def test_what_is_interchangeable_is_not_searched(form: str, count: int) -> None:
    """A tree of ties would take more than a lifetime of the test's worker, or of its stack."""
    cell = parse(_interchangeable(count, form))
    assert scramble(cell, np.random.default_rng(0)).digest == cell.digest
    assert len(cell.canonical().states) == count


def test_the_work_for_interchangeable_states_is_about_the_square_of_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = 0
    key = labelling._Structure._key

    def counted(self: labelling._Structure, vertex: int, colour: Sequence[int]) -> object:
        nonlocal keys
        keys += 1
        return key(self, vertex, colour)

    monkeypatch.setattr(labelling._Structure, "_key", counted)
    found = []
    for count in (20, 40):
        keys = 0
        labelling.label(parse(_interchangeable(count, "alone")).graph)
        found.append(keys)
    assert found[1] < 5 * found[0]
    assert found[1] < 40**2 * 10


SYMMETRIC = {
    ("alone", 6): "24be47b54f2affec",
    ("pairs", 6): "fc6122e6392209bc",
    ("ring", 6): "8bb77d26e77ba3ca",
    ("all", 4): "e5ffa9da2129bb5d",
}


@pytest.mark.parametrize(("form", "count"), SYMMETRIC)
def test_digests_of_symmetric_cells_stay(form: str, count: int) -> None:
    assert parse(_interchangeable(count, form)).digest.startswith(SYMMETRIC[form, count])


def _rings(*lengths: int) -> Cell:
    names = [[f"h{r}_{i}" for i in range(n)] for r, n in enumerate(lengths)]
    flat = [n for ring in names for n in ring]
    equations = "; ".join(
        f"{n}' = tanh(lin({ring[(i + 1) % len(ring)]}))" for ring in names for i, n in enumerate(ring)
    )
    return parse(
        f"cell a {{ state {', '.join(f'{n}: vec' for n in flat)}; {equations}; out lin(x, {', '.join(flat)}) }}"
    )


def test_rings_that_look_alike_are_told_apart_by_themselves() -> None:
    """Their states have one colour, and the orders of twenty-four rings of two lengths are 2.7 million."""
    digests = [_rings(*lengths).digest for lengths in ([3, 4] * 12, [4] * 12 + [3] * 12, [3] * 16 + [4] * 9)]
    assert digests[0] == digests[1] != digests[2]
    cell = _rings(*[3, 4] * 12)
    assert scramble(cell, np.random.default_rng(0)).digest == cell.digest
    assert cell.canonical().canonical() is cell.canonical()


def test_the_digest_of_a_few_rings_stays() -> None:
    assert _rings(3, 5).digest.startswith("1682ac95e5")
    assert _rings(3, 4, 3, 4, 3, 4, 3, 4).digest.startswith("1aa607bfc9")


def test_a_search_that_takes_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "MAX_WORK", 300)
    why = "no canonical form: too many of its parts look alike and are not the same; it has 14 states"
    with pytest.raises(GrammarError, match=why):
        _rings(3, 4, 3, 4).canonical()


def test_equal_operands_of_a_map_are_not_searched() -> None:
    many = parse(f"cell a {{ state h: vec; h' = tanh(lin({', '.join(['h'] * 40)}, x)); out h' }}")
    assert many.canonical().canonical() is many.canonical()


def test_a_long_chain_of_lets_needs_no_deep_stack() -> None:
    chain = "; ".join(f"a{i} = tanh(a{i + 1})" for i in range(400))
    cell = parse(f"cell a {{ state h: vec; {chain}; a400 = lin(x, h); h' = a0; out h' }}")
    assert cell.canonical().canonical() is cell.canonical()


def test_a_ring_of_states_is_one_cell_wherever_it_starts() -> None:
    """Regular structures are what colour refinement alone cannot number."""

    def ring(shift: int) -> Cell:
        order = [(i + shift) % 6 for i in range(6)]
        states = ", ".join(f"h{i}: vec" for i in order)
        equations = "; ".join(f"h{i}' = tanh(lin(h{(i + 1) % 6}))" for i in order)
        return parse(f"cell a {{ state {states}; {equations}; out lin(x) + h{shift}' }}")

    two_triangles = parse(
        "cell a { state " + ", ".join(f"h{i}: vec" for i in range(6)) + "; "
        + "; ".join(f"h{i}' = tanh(lin(h{(i + 1) % 3 + 3 * (i // 3)}))" for i in range(6))
        + "; out lin(x) + h0' }"
    )  # fmt: skip
    assert len({ring(i).digest for i in range(6)}) == 1
    assert two_triangles.digest != ring(0).digest


NAMED = "cell a { state h: vec, c: vec; c' = tanh(lin(x, h)); h' = lin(x, c'); out h' }"


@pytest.mark.parametrize(
    "dead",
    [
        "d = tanh(c)",
        "d = lin(c', h')",
        "state d: vec; d' = lin(c, d)",
        "state d: vec; d' = c'",
        "state d: vec; d' = tanh(h); e = lin(d')",
        "state d: vec = learned, e: key; e' = lin:key(d', e); d' = c'",
    ],
)
def test_a_state_that_is_read_by_its_new_value_alone_is_not_dead(dead: str) -> None:
    """A module returns it. But what nothing live mentions is dead, whatever it reads and whatever reads it."""
    cell = parse(NAMED)
    assert len(cell.canonical().states) == 2
    assert parse(NAMED.replace("h, c: vec;", f"h, c: vec; {dead};")).digest == cell.digest
    nameless = parse("cell a { state h: vec; c = tanh(lin(x, h)); h' = lin(x, c); out h' }")
    assert nameless.digest != cell.digest
    assert fingerprint(nameless) == fingerprint(cell)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # one name for a value is enough, and a state that is read is name enough
        ("state h: vec, c: vec; c' = h'; h' = tanh(lin(x, h)); out c'",
         "state h: vec; h' = tanh(lin(x, h)); out h'"),
        ("state h: vec, c: vec, d: vec; d' = tanh(lin(x)); c' = d'; h' = lin(h, c', d'); out h'",
         "state h: vec, c: vec; c' = tanh(lin(x)); h' = lin(h, c', c'); out h'"),
        # how a state begins that is never read does not matter
        ("state h: vec = 2; h' = tanh(lin(x)); out h'", "state h: vec = learned; h' = tanh(lin(x)); out h'"),
        # x and earlier values have their names already
        ("state h: vec, c: vec; c' = h; h' = tanh(lin(x, c')); out h'",
         "state h: vec; h' = tanh(lin(x, h)); out h'"),
    ],
)  # fmt: skip
def test_a_name_for_a_value_is_kept_once(one: str, other: str) -> None:
    first, second = (parse(f"cell a {{ {text} }}") for text in (one, other))
    assert first.digest == second.digest, f"{first.canonical()}\n{second.canonical()}"


@settings(max_examples=60)
@given(cells(("time", "tree", "depth")), st.integers(0, 2**32 - 1))
def test_the_laws_hold_for_any_cell(cell: Cell, seed: int) -> None:
    canonical = cell.canonical()
    assert canonical.canonical() is canonical
    assert parse(str(canonical)) is canonical
    assert scramble(cell, np.random.default_rng(seed)).canonical() is canonical


def test_golden_digests(request: pytest.FixtureRequest) -> None:
    """A digest that changes silently breaks every record: raise DIGEST_VERSION when one must change."""
    digests = {name: zoo(name).digest for name in zoo_names()}
    if request.config.getoption("--update-golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({"version": DIGEST_VERSION, "digests": digests}, indent=2) + "\n")
    kept = json.loads(GOLDEN.read_text())
    assert kept["version"] == DIGEST_VERSION
    assert {name: kept["digests"][name] for name in digests} == digests


def test_a_tree_cell_without_live_states_keeps_its_leaf_block() -> None:
    cell = parse("cell a(l, r) { state h: vec; leaf { h' = lin(x) }; h' = tanh(lin(l.h, r.h)); out param() }")
    canonical = cell.canonical()
    assert canonical.states == ()
    assert parse(str(canonical)) is canonical
    assert canonical.canonical() is canonical
