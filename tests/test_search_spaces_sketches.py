"""Spaces of sketches: everything against all ways to fill the holes, written down one by one."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from space_suite import check_member, rewritten

from grammar import Cell, from_darts, parse, parse_sketch, to_darts, zoo
from search_spaces import (
    NoCellError,
    NotAMemberError,
    SketchSpace,
    SpaceError,
    SpaceFileError,
    load_space,
    matching,
    read_space,
    space_names,
)
from search_spaces.places import Places
from search_spaces.rules import operations
from search_spaces.templates import Tables

# Holes in holes, a let that some options leave unused, a hole in it, and one value used twice.
NESTED = """cell nested {
  state h: vec
  a = choice{ tanh(lin(x)) [3] | lin(x, h) }
  b = choice{ a | sigmoid(choice{ lin(h) | a [2] }) }
  h' = choice{ b * h | b + b | choice{ lin(x, h) | relu(lin(x, h)) } [0.5] }
  out h'
}
"""
# Two sketches, blocks in one of them.
TWO = """# Two kinds of cell.
space two {
  claims elman
  cell plain {
    state h: vec
    h' = choice{ tanh(lin(x, h)) | relu(lin(x, h)) | lin(x, h) }
    out choice{ h' | lin(h') }
  }
  cell again {
    state h: vec, c: vec
    repeat 2 { u = lin(c); h' = choice{ tanh(lin(h, x)) | u | u * h } }
    c' = choice{ h' | c + h' }
    out c'
  }
}
"""
TREE = """cell t(l, r) {
  state h: vec
  leaf { h' = choice{ lin(x) | tanh(lin(x)) } }
  g = sigmoid(lin(l.h, r.h))
  h' = choice{ lerp(g, l.h, r.h) | g * choice{ l.h | r.h } }
  out h'
}
"""
# Holes of one name: in two equations, in a let that some options leave unused, around a let with another.
LINKED = """cell linked {
  state h: vec
  a = choice act { tanh(lin(x)) [3] | relu(lin(x, h)) | silu(h) }
  b = choice way { choice act { tanh(a) [3] | relu(h) | silu(a) } | a * h [2] }
  h' = choice{ b * choice act { tanh(h) [3] | relu(h) | silu(h) } | h + lin(x) [0.5] }
  out choice way { h' | lin(h') [2] }
}
"""
SMALL = {
    "nested": read_space(NESTED),
    "two": read_space(TWO),
    "tree": read_space(TREE),
    "linked": read_space(LINKED),
}
SKETCHED = [n for n in space_names() if isinstance(load_space(n), SketchSpace)]


def sketch_space(name: str) -> SketchSpace:
    found = SMALL.get(name) or load_space(name)
    assert isinstance(found, SketchSpace)
    return found


def size(cell: Cell) -> int:
    return sum(operations(e.expr) for e in Places(cell.statements).equations.values())


@cache
def everything(name: str) -> dict[Cell, float]:
    """Each cell of a small space and its probability: the sum over all ways to fill every hole."""
    space = sketch_space(name)
    found: Counter[Cell] = Counter()
    for template in space.templates:
        for options in product(*(range(len(s.options)) for s in template.sites)):
            weight = math.prod(
                s.weights[k] / sum(s.weights) for s, k in zip(template.sites, options, strict=True)
            )
            found[template.cell(dict(enumerate(options)))] += weight / len(space.templates)  # type: ignore[assignment]
    return dict(found)


@pytest.mark.parametrize("name", SMALL)
def test_counts_are_those_of_all_cells(name: str) -> None:
    cells = everything(name)
    sizes = Counter(map(size, cells))
    assert len(cells) >= 5
    assert sketch_space(name).count() == tuple(sizes[n] for n in range(max(sizes) + 1))
    limits = sketch_space(name).limits
    assert (limits.least_size, limits.size) == (min(sizes), max(sizes))


@pytest.mark.parametrize("name", SMALL)
def test_probabilities_are_sums_over_all_ways(name: str) -> None:
    space = sketch_space(name)
    cells = everything(name)
    assert sum(cells.values()) == pytest.approx(1)
    for cell, probability in cells.items():
        check_member(space, cell)
        assert space.size(cell) == size(cell)
        assert math.exp(space.log_prob(cell)) == pytest.approx(probability)


@pytest.mark.parametrize("by", ["weights", "size"])
@pytest.mark.parametrize("name", SMALL)
def test_cells_come_as_often_as_they_should(name: str, by: str) -> None:
    space, draws = sketch_space(name), 1500
    wanted = everything(name)
    if by == "size":
        sizes = Counter(map(size, wanted))
        wanted = {c: 1 / len(sizes) / sizes[size(c)] for c in wanted}
    rng = np.random.default_rng(3)
    seen = Counter(space.sample(rng, by=by) for _ in range(draws))
    assert seen.keys() <= wanted.keys()
    statistic = sum((seen[c] - draws * p) ** 2 / (draws * p) for c, p in wanted.items())
    freedom = len(wanted) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("name", SMALL)
def test_cells_of_one_size_come_by_weight(name: str) -> None:
    space, cells, draws = sketch_space(name), everything(name), 500
    middle = sorted(map(size, cells))[len(cells) // 2]
    wanted = {c: p for c, p in cells.items() if size(c) == middle}
    rng = np.random.default_rng(4)
    seen = Counter(space.sample(rng, size=middle) for _ in range(draws))
    for cell, p in wanted.items():
        share = p / sum(wanted.values())
        assert abs(seen[cell] - draws * share) <= 4.5 * (draws * share * (1 - share)) ** 0.5 + 1e-9
    assert seen.keys() <= wanted.keys()


@pytest.mark.parametrize("name", SKETCHED)
def test_sizes_come_as_often_as_counted(name: str) -> None:
    space, draws = sketch_space(name), 600
    tables = [Tables(t, weighted=True) for t in space.templates]
    share = np.zeros(max(t.length for t in tables))
    for t in tables:
        share[: t.length] += t.whole / len(tables)
    assert share.sum() == pytest.approx(1)
    rng = np.random.default_rng(5)
    seen = Counter(size(space.sample(rng)) for _ in range(draws))
    classes = [(draws * p, seen[n]) for n, p in enumerate(share.tolist()) if draws * p >= 6]
    classes.append((draws - sum(w for w, _ in classes) + 1e-9, draws - sum(n for _, n in classes)))
    statistic = sum((have - want) ** 2 / max(want, 1.0) for want, have in classes)
    assert len(classes) > 4
    assert statistic < len(classes) + 4 * (2 * len(classes)) ** 0.5


@pytest.mark.parametrize("name", SMALL)
def test_every_pair_of_cells_is_connected(name: str) -> None:
    space, rng = sketch_space(name), np.random.default_rng(0)
    cells = {c.digest: c for c in everything(name)}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(cells)
    for cell in everything(name):
        for _ in range(40):
            child = space.vary(cell, rng)
            check_member(space, child.cell)
            assert child.cell is not cell
            assert child.neutral == (child.cell.digest == cell.digest)
            graph.add_edge(cell.digest, child.cell.digest)
    assert set(graph) == set(cells)
    assert nx.is_strongly_connected(graph)


def test_a_crossover_has_options_of_both() -> None:
    space, rng = load_space("darts_rnn"), np.random.default_rng(0)
    a, b = zoo("darts_v1"), zoo("darts_v2")
    for _ in range(20):
        child = space.vary(a, rng, other=b)
        assert child.operator == "crossover"
        mixed, one, other = (to_darts(c).recurrent for c in (child.cell, a, b))
        assert all(
            m[0] in (p[0], q[0]) and m[1] in (p[1], q[1]) for m, p, q in zip(mixed, one, other, strict=True)
        )
    assert space.vary(a, rng, other=a).operator in space.operators
    two = SMALL["two"]
    again = next(c for c in everything("two") if c.name == "again")
    assert two.vary(zoo("elman"), rng, other=again).operator in two.operators


def test_operators_do_what_they_say() -> None:
    space, rng = load_space("darts_rnn"), np.random.default_rng(1)
    before = to_darts(zoo("darts_v1")).recurrent
    for _ in range(10):
        after = to_darts(space.vary(zoo("darts_v1"), rng, operator="point").cell).recurrent
        assert sum((a[0] != b[0]) + (a[1] != b[1]) for a, b in zip(before, after, strict=True)) == 1
        several = space.vary(zoo("darts_v1"), rng, operator="several").cell
        after = to_darts(several).recurrent
        assert 2 <= sum((a[0] != b[0]) + (a[1] != b[1]) for a, b in zip(before, after, strict=True)) <= 4
    assert SMALL["two"].vary(zoo("elman"), rng, operator="sketch").cell.name == "again"
    with pytest.raises(SpaceError, match=r"the mutation operators are point, several; received 'sketch'"):
        space.vary(zoo("darts_v1"), rng, operator="sketch")
    one = read_space("cell one { state h: vec; h' = tanh(lin(x, h)); out h' }")
    with pytest.raises(NoCellError, match="space one: mutation gave no other cell in 1000 tries"):
        one.mutate(zoo("elman"), rng)


# (a cell, whether it is one of NESTED)
TEXTS = [
    ("state s: vec; s' = relu(lin(s, x)); out s'", True),
    ("state h: vec; a = tanh(lin(x)); h' = a + a; out h'", True),
    ("state h: vec; h' = h * tanh(lin(x)); out h'", True),
    ("state h: vec; z = lin(h, x); b = sigmoid(z); c = b; h' = b + c; out h'", True),
    ("state h: vec; h' = tanh(lin(x)) + tanh(lin(x)); out h'", False),  # two maps, not one used twice
    (
        "state h: vec; a = lin(x, h); h' = sigmoid(a) + sigmoid(a); out h'",
        True,
    ),  # a map, and twice its sigmoid
    ("state h: vec; a = lin(x, h); h' = sigmoid(a) + a; out h'", False),
    ("state h: vec; a = lin(x); h' = lin(x, h); out h'", False),
    ("state h: vec; h' = lin(x, h, bias=no); out h'", False),
    ("state h: vec = 1; h' = lin(x, h); out h'", False),
]


@pytest.mark.parametrize(("text", "member"), TEXTS)
def test_what_is_a_member(text: str, member: bool) -> None:
    assert (parse(f"cell c {{ {text} }}") in SMALL["nested"]) == member


def test_reasons_are_told() -> None:
    space = SMALL["two"]
    why = "as the sketch plain: it has 2 states, not 1"
    assert space.why_not(zoo("lstm")) == why
    assert space.why_not(zoo("gru")) == "as the sketch plain: its equations are others"
    assert space.why_not(zoo("treegru")) == "as the sketch plain: its children are others"
    assert space.log_prob(zoo("gru")) == -math.inf
    with pytest.raises(NotAMemberError, match=f"not a member of space two: {why}; received cell lstm "):
        space.mutate(zoo("lstm"), np.random.default_rng(0))
    with pytest.raises(NoCellError, match="a cell of space two has 1 to 3 operations; received size=9"):
        space.sample(np.random.default_rng(0), size=9)


@pytest.mark.parametrize("name", SMALL)
def test_cells_in_other_words_are_members(name: str) -> None:
    space, rng = sketch_space(name), np.random.default_rng(6)
    for cell in everything(name):
        other = rewritten(cell, rng)
        assert other in space, f"{space.why_not(other)}\n{cell}{other}"
        assert space.log_prob(other) == pytest.approx(space.log_prob(cell))


def _of_many_states(count: int, holes: bool) -> str:
    names = [f"h{i}" for i in range(count)]
    act = "choice{ tanh(U) | relu(U) }" if holes else "tanh(U)"
    equations = []
    for i, n in enumerate(names):  # each reads the one before it, but the last reads none
        equations.append(f"{n}' = " + act.replace("U", f"lin(x, {n}{', ' + names[i - 1] if i else ''})"))
    return f"cell many {{ state {', '.join(f'{n}: vec' for n in names)}; {'; '.join(equations)}; out h{count - 1}' }}"


def test_states_are_paired_by_what_reads_them() -> None:
    """All pairings of fourteen states are 87 thousand million."""
    space = read_space(f"space many {{ {_of_many_states(14, True)} }}")
    cell = parse(_of_many_states(14, False))
    for other in (cell, rewritten(cell, np.random.default_rng(1))):
        assert other in space, space.why_not(other)
        assert space.log_prob(other) == pytest.approx(-14 * math.log(2))
    assert parse(_of_many_states(14, False).replace("out h13'", "out h12'")) not in space


def test_operands_are_paired_one_by_one() -> None:
    operands = [f"tanh(lin(x, h, bias={'yes' if i % 2 else 'no'}) * {i + 1})" for i in range(14)]
    text = "cell c { state h: vec; h' = OP(lin(LIST)); out h' }"
    total = f"s = lin({', '.join(operands)}); h' = choice{{ tanh(s) | relu(s) }}"
    space = read_space(f"space many {{ cell c {{ state h: vec; {total}; out h' }} }}")
    cell = parse(text.replace("OP", "tanh").replace("LIST", ", ".join(reversed(operands))))
    assert cell in space, space.why_not(cell)
    assert space.log_prob(cell) == pytest.approx(math.log(0.5))


def test_interchangeable_states_are_paired_until_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "STEPS", 2_000)
    names = [f"h{i}" for i in range(12)]
    declared = f"state {', '.join(f'{n}: vec' for n in names)}"
    body = (
        f"{declared}; {'; '.join(f'{n} = tanh(lin(x, {n[:-1]}))' for n in (f'{m}{chr(39)}' for m in names))}"
    )
    total = f"lin({', '.join(names)})"
    space = read_space(
        f"space many {{ cell c {{ {body}; s = {total}; out choice{{ tanh(s) | relu(s) }} }} }}"
    )
    cell = parse(f"cell c {{ {body}; out relu({total}) }}")
    assert cell in space, space.why_not(cell)
    assert space.log_prob(cell) == pytest.approx(math.log(0.5))


def test_genotypes_of_eight_nodes_are_members_of_darts_rnn() -> None:
    space, rng = load_space("darts_rnn"), np.random.default_rng(2)
    assert sum(space.count()) == 4**8 * math.factorial(8)
    for _ in range(40):
        nodes = [
            (str(rng.choice(["tanh", "relu", "sigmoid", "identity"])), int(rng.integers(i)))
            for i in range(1, 9)
        ]
        cell = from_darts({"recurrent": nodes, "concat": range(1, 9)})
        assert cell in space
        drawn = space.sample(rng)
        assert from_darts(to_darts(drawn)).digest == drawn.digest


# -- fitting ----------------------------------------------------------------------------------------


def test_fitting_counts_the_options() -> None:
    space = SMALL["two"]
    fitted = space.fit([zoo("elman"), zoo("elman")], strength=3)
    assert isinstance(fitted, SketchSpace)
    assert [s.weights for s in fitted.templates[0].sites] == [(3, 1, 1), (3.5, 1.5)]
    assert [s.weights for s in fitted.templates[1].sites] == [(1, 1, 1), (1.5, 1.5)]
    assert fitted.log_prob(zoo("elman")) > space.log_prob(zoo("elman"))
    assert (fitted.claims, fitted.doc, fitted.count()) == (space.claims, space.doc, space.count())
    again = read_space(fitted.text)
    assert again.text == fitted.text
    assert again.log_prob(zoo("elman")) == pytest.approx(fitted.log_prob(zoo("elman")))


def test_fitting_keeps_blocks_and_children() -> None:
    for name in SMALL:
        space = sketch_space(name)
        cells = list(everything(name))
        fitted = space.fit(cells[:2], strength=1)
        assert all(c in fitted for c in cells)
        assert read_space(fitted.text).sample(np.random.default_rng(0)) in space


# -- files ------------------------------------------------------------------------------------------


def test_a_sketch_is_loaded_from_a_file_a_text_and_an_object(tmp_path: Path) -> None:
    path = tmp_path / "mine.cell"
    path.write_text(f"# My own.\n{NESTED}", encoding="utf-8")
    found = load_space(str(path))
    assert (found.name, found.doc) == ("nested", "My own.")
    assert found.text == f"# My own.\n{NESTED}"
    for other in (load_space(NESTED), load_space(parse_sketch(NESTED))):
        assert other.count() == found.count()
        rng = np.random.default_rng(0), np.random.default_rng(0)
        assert [other.sample(rng[0]) for _ in range(9)] == [found.sample(rng[1]) for _ in range(9)]
    assert load_space(TWO).name == "two"


def test_a_cell_without_holes_is_a_space_of_one() -> None:
    space = load_space(str(zoo("lstm")))
    assert sum(space.count()) == 1
    assert space.sample(np.random.default_rng(0)) is zoo("lstm")
    assert space.log_prob(zoo("lstm")) == 0


FAULTS = [
    (NESTED, "choice{ a |", "choice{ |", 4, 15, "a value is missing before '|'"),
    (NESTED, "[3]", "[0]", 3, 28, r"a weight is a number from 1e-30 to 1e\+30; received \[0\]"),
    (NESTED, "lin(h) |", "lin:key(h) |", 4, 35, "the options of a choice have one type"),
    (TWO, "u * h", "u * k", 11, 67, "unknown name 'k'"),
    (TWO, "claims elman", "claims elmann", 3, 10, "unknown cell of the zoo 'elmann'; did you mean 'elman'"),
    (TWO, "claims elman", "limits size <= 4", 3, 10, "a space of sketches has `claims` and cells"),
    (TWO, "claims elman", "out -> $new", 3, 3, "a space of sketches has `claims` and cells"),
    (TWO, "claims elman", "let -> a", 3, 3, "a space of sketches has `claims` and cells"),
    (TWO, "    out c'\n  }\n}", "    out c'\n", 13, 11, "the text ends inside a block"),
    (TWO, "    out c'\n  }\n}", "    out c'\n  }\n", 14, 4, "the text ends inside a space"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "old", "new", "line", "column", "message"), FAULTS, ids=[f[5][:30] for f in FAULTS]
)
def test_each_fault_is_answered_with_its_place(
    text: str, old: str, new: str, line: int, column: int, message: str
) -> None:
    assert text.count(old) == 1
    with pytest.raises(SpaceFileError, match=message) as caught:
        read_space(text.replace(old, new), "mine.space")
    assert str(caught.value).startswith(f"mine.space:{line}:{column}: ")


def test_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(SpaceFileError, match="a space has at most 100,000 characters"):
        read_space(NESTED + "#" * 100_000)


def test_a_description_shows_holes_and_shares() -> None:
    shown = SMALL["two"].describe()
    assert shown.startswith("space two\n  Two kinds of cell.\n  1 to 3 operations, nested at most 2 deep\n")
    assert "  12 ways to fill the holes\n" in shown
    assert "  plain: h'\n     33.3 %  tanh(lin(x, h))\n" in shown
    assert "     75.0 %  tanh(lin(x))\n" in SMALL["nested"].describe()


def test_holes_of_one_name_are_filled_alike() -> None:
    space, rng = sketch_space("linked"), np.random.default_rng(0)
    assert read_space(space.text).count() == space.count() == space.fit([space.sample(rng)]).count()
    alike = "cell a { state h: vec; h' = relu(h) * relu(h); out h' }"
    assert parse(alike) in space
    other = parse(alike.replace("relu(h) * relu", "relu(h) * tanh"))
    assert "its equations are others" in str(space.why_not(other))
    cell = space.sample(rng)
    for _ in range(30):
        cell = space.vary(cell, rng, other=space.sample(rng)).cell
        assert cell in space
        assert len({op for op in ("tanh", "relu", "silu") if f"{op}(" in str(cell)}) <= 1


def test_the_network_of_a_tiny_recursive_model_is_one() -> None:
    """It is used four times with one set of weights; its operations are the same in all four."""
    space, rng = load_space("depth"), np.random.default_rng(0)
    cell = zoo("trm")
    for _ in range(4):
        cell = space.vary(cell, rng, operator="several").cell
        uses = [str(cell).count(f"{op}(") for op in ("silu", "gelu", "sigmoid")]
        assert sum(uses) == 8
        assert all(n % 4 == 0 for n in uses)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "h' = choice a { lin(x) | h }; out choice a { h' | h | lin(x) }",
            "as many options, equally weighted; .* 'a' differ",
        ),
        (
            "h' = choice a { lin(x) | h }; out choice a { h' [2] | h }",
            "as many options, equally weighted; .* 'a' differ",
        ),
        (
            "h' = choice a { tanh(choice a { h | lin(x) }) | h }; out h'",
            "is not inside of one of its own name; 'a' is",
        ),
    ],
)
def test_faults_of_linked_holes_are_answered(text: str, message: str) -> None:
    with pytest.raises(SpaceFileError, match=message):
        read_space(f"cell s {{ state h: vec; {text} }}")


def test_values_that_double_again_and_again_are_compared_once() -> None:
    """Whether one value is used twice, or two that are equal: each pair is compared once, in one order of operands."""

    def doubled(name: str) -> str:
        return "; ".join(f"{name}{i + 1} = {name}{i} * {name}{i}" for i in range(40))

    body = "h' = tanh(lin({}40, h)) * {}40; out h'"
    space = load_space(
        f"cell s {{ state h: vec; u0 = choice{{ tanh(x) | max(x, 1) }}; {doubled('u')}; {body.format('u', 'u')} }}"
    )
    cell = "cell c {{ state h: vec; a0 = max(x, 1); b0 = max(x, {}); {}; {}; {} }}"
    same, other = (parse(cell.format(n, doubled("a"), doubled("b"), body.format("a", "b"))) for n in (1, 2))
    assert same in space
    assert space.why_not(other) == "as the sketch s: its equations are others"
