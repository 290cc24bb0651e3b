"""Children are members, differ from their parents, and depend on the generator alone; small spaces are connected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_suite import RULED, SELF, SOME, TINY, TREES, check_member, derivations, grammar_space, unnamed

from grammar import Cell, parse, zoo
from search_spaces import (
    GrammarSpace,
    NoCellError,
    NotAMemberError,
    Space,
    SpaceError,
    Variation,
    load_space,
    read_space,
    space_names,
)
from search_spaces.derivation import dead

SPACES = {name: load_space(name) for name in space_names()} | {
    "tiny": GrammarSpace(TINY),
    "self": GrammarSpace(SELF),
    "some": GrammarSpace(SOME),
    "trees": GrammarSpace(TREES),
}


def check_child(space: Space, child: Variation) -> None:
    check_member(space, child.cell)
    assert all(child.cell is not p for p in child.parents)
    assert child.neutral == (child.cell.digest in {p.digest for p in child.parents})


def walk(space: Space, rng: np.random.Generator, steps: int, fresh: int = 0) -> Counter[str]:
    """Vary a small population, with a sample each `fresh` steps against drift; every child is checked."""
    pool: list[Cell] = [zoo(z) for z in space.claims] + [space.sample(rng) for _ in range(6)]
    seen: Counter[str] = Counter()
    for i in range(steps):
        a, b = (pool[int(rng.integers(len(pool)))] for _ in range(2))
        child = space.vary(a, rng, other=b) if i % 3 == 0 else space.vary(a, rng)
        check_child(space, child)
        seen[child.operator] += 1
        pool[int(rng.integers(len(pool)))] = space.sample(rng) if fresh and i % fresh == 0 else child.cell
    return seen


@pytest.mark.parametrize("name", space_names())
def test_children_of_children_are_members(name: str) -> None:
    space = SPACES[name]
    # Digests of the large cells of `depth` take long.
    seen = walk(space, np.random.default_rng(0), 30 if name == "depth" else 150)
    if name in RULED:
        assert seen["crossover"] > 35
        # In `matrix` no operation is around a part of its own kind.
        assert set(seen) >= {"replace", "point", "rewire", "share", "unshare", "add_let"}
        assert name == "matrix" or seen["insert"]
    else:
        assert set(seen) >= {"point", "several"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", space_names())
def test_children_over_ten_thousand_steps_are_members(name: str) -> None:
    seen = walk(SPACES[name], np.random.default_rng(1), 10_000, fresh=10)
    rules = grammar_space(name).rules.rules.items() if name in RULED else ()
    nested = any(p.ops and any(h.rule == r for h in p.holes) for r, rule in rules for p in rule.productions)
    missing = set() if nested or name not in RULED else {"insert", "delete"}
    assert set(seen) == {*SPACES[name].operators, "crossover"} - missing


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**63))
def test_variation_stays_in_the_space(name: str, seed: int) -> None:
    space, rng = SPACES[name], np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng, by="size")
    check_child(space, space.vary(a, rng))
    check_child(space, space.vary(a, rng, other=b))
    assert space.mutate(b, rng) is not b


@pytest.mark.parametrize("name", space_names())
def test_the_generator_alone_decides(name: str) -> None:
    used = SPACES[name]
    fresh = read_space(used.text)
    cells = [used.sample(np.random.default_rng(4)), zoo(used.claims[0])]

    def children(space: Space) -> list[tuple[str, str]]:
        rng = np.random.default_rng(5)
        made = [space.vary(cells[i % 2], rng) for i in range(6)]
        made += [space.vary(cells[i % 2], rng, other=cells[1 - i % 2]) for i in range(4)]
        return [(v.operator, str(v.cell)) for v in made]

    assert children(used) == children(fresh)


# what it is applied to, and what a child of it has
OPERATORS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "replace": ("h' = tanh(lin(x, h))", lambda c: True),
    "point": ("h' = tanh(lin(x, h))", lambda c: "tanh" not in c or "lin(x, h)" not in c),
    "insert": ("h' = lin(x, h)", lambda c: len(c) > len("h' = lin(x, h)")),
    "delete": ("h' = tanh(tanh(lin(x, h)) + h)", lambda c: c.count("tanh") < 2 or "+" not in c),
    "rewire": ("v = tanh(h); h' = lin(x, v) + h", lambda c: c.count("lin(x, ") == 1 and " + " in c),
    "share": (
        "h' = lerp(sigmoid(lin(x)), h, sigmoid(lin(x, h)) * tanh(lin(x)))",
        lambda c: "g1 =" in c or "v1 =" in c,
    ),
    "unshare": ("v = lin(x, h); h' = tanh(v) + v", lambda c: "v =" not in c and c.count("lin(x, h)") == 2),
    "add_let": ("h' = tanh(lin(x, h))", lambda c: "1 = " in c),
    "add_state": ("h' = tanh(lin(x, h))", lambda c: "c' =" in c),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_each_operator_does_what_it_says(operator: str) -> None:
    body, holds = OPERATORS[operator]
    space, parent = SPACES["gated"], parse(f"cell c {{ state h: vec; {body}; out h' }}")
    for seed in range(8):
        child = space.vary(parent, np.random.default_rng(seed), operator=operator)
        assert child.operator == operator
        assert child.parents == (parent,)
        check_child(space, child)
        assert holds(child.cell.one_line), child.cell.one_line


def test_drop_state_drops_one() -> None:
    space = SPACES["gated"]
    for seed in range(8):
        child = space.vary(zoo("lstm"), np.random.default_rng(seed), operator="drop_state")
        assert len(child.cell.states) == 1
        check_child(space, child)


def test_the_operators_are_these() -> None:
    assert set(SPACES["gated"].operators) == {*OPERATORS, "drop_state"}


def test_names_of_the_parent_stay() -> None:
    child = SPACES["gated"].vary(zoo("lstm"), np.random.default_rng(1), operator="point")
    assert {s.name for s in child.cell.states} == {"h", "c"}
    assert any(f"  {name} = sigmoid(lin(" in str(child.cell) for name in "ifo")


def test_crossover_brings_something_of_the_other() -> None:
    space, rng = SPACES["gated"], np.random.default_rng(2)
    a = parse("cell a { state h: vec; h' = tanh(lin(x, h)); out h' }")
    b = parse("cell b { state h: vec; z = sigmoid(lin(x, h)); h' = lerp(z, relu(lin(x)), h); out h' }")
    seen = {space.crossover(a, b, rng).one_line for _ in range(40)}
    assert any("relu" in text for text in seen)
    assert any("lerp" in text for text in seen)


def test_crossover_with_nothing_new_is_a_mutation() -> None:
    space, rng = SPACES["gated"], np.random.default_rng(3)
    a = parse("cell a { state h: vec; h' = lin(x, h); out h' }")
    child = space.vary(a, rng, other=a)
    assert child.operator in space.operators
    assert child.parents == (a,)
    check_child(space, child)


def test_an_operator_that_cannot_apply_says_so() -> None:
    with pytest.raises(
        NoCellError, match=r"space gated: drop_state gave no other cell in 100 tries; received cell"
    ):
        SPACES["gated"].vary(zoo("elman"), np.random.default_rng(0), operator="drop_state")
    with pytest.raises(SpaceError, match=r"the mutation operators are replace, point, .*; received 'swap'"):
        SPACES["gated"].vary(zoo("elman"), np.random.default_rng(0), operator="swap")
    other = parse("cell c { state h: vec; h' = exp(lin(x, h)); out h' }")
    with pytest.raises(NotAMemberError, match=r"not a member of space gated: .*received cell c "):
        SPACES["gated"].vary(zoo("elman"), np.random.default_rng(0), other=other)


def test_every_cell_of_a_small_space_is_reached() -> None:
    space, rng = GrammarSpace(TINY.replace("size <= 3", "size <= 2")), np.random.default_rng(0)
    made = [d for d, _ in derivations(space) if dead(space.rules, d) is None]
    wanted = {d.cell(space.rules).digest for d in made}
    reached: dict[str, Cell] = {}
    frontier = [made[0].cell(space.rules)]
    while frontier:
        cell = frontier.pop()
        for _ in range(60):
            child = space.mutate(cell, rng)
            if child.digest not in reached:
                reached[child.digest] = child
                frontier.append(child)
    assert len(wanted) > 10
    assert reached.keys() == wanted


# A space in which many pairs of cells are several changes apart.
SIX = """space six {
  limits size <= 6
  require x, states
  state{1} vec
  let{0..1} -> gate
  out -> $new
  vec -> tanh(pre) | pre | gate * vec | $vec
  pre: vec -> lin(OPS)
  gate: vec -> sigmoid(pre) | $gate
  OPS: operands -> x, $vec | x
}
"""


def test_variation_finds_as_many_cells_as_are_counted() -> None:
    """From one cell, by mutations alone, every derivation that the exact counter counts."""
    space, rng = GrammarSpace(SIX), np.random.default_rng(1)
    start = space.sample(rng)
    found, waiting = {unnamed(start): start}, [start]
    while waiting:
        cell = waiting.pop()
        for _ in range(80):
            child = space.mutate(cell, rng)
            if unnamed(child) not in found:
                found[unnamed(child)] = child
                waiting.append(child)
    sizes = Counter(space.size(cell) for cell in found.values())
    counted = space.count(alive=True)
    assert [sizes[n] for n in range(len(counted))] == list(counted)
    assert sum(counted) > 20
    assert space.limits.size == 6


def test_every_pair_of_cells_of_at_most_six_operations_is_connected() -> None:
    space, rng = GrammarSpace(SIX), np.random.default_rng(0)
    cells = {m.cell(space.rules).digest: m.cell(space.rules) for m, _ in derivations(space)
             if dead(space.rules, m) is None}  # fmt: skip
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(cells)
    for _ in range(12):
        for digest, cell in cells.items():
            for _ in range(6):
                graph.add_edge(digest, space.mutate(cell, rng).digest)
        if nx.is_strongly_connected(graph):
            break
    assert len(cells) > 20
    assert max(space.size(c) for c in cells.values()) == 6
    assert set(graph) == set(cells)
    assert nx.is_strongly_connected(graph)
    assert nx.density(graph) < 0.9  # not each from each in one step


def test_a_variation_is_shown_as_a_difference() -> None:
    parent = parse(
        "cell mine { state h: vec; z = sigmoid(lin(x, h)); h' = lerp(z, h, tanh(lin(x, h))); out h' }"
    )
    child = Variation(
        parse(parent.one_line.replace("tanh", "relu").replace("mine", "gated")), "point", (parent,)
    )
    assert child.diff.splitlines() == [
        "    state h: vec",
        "    z = sigmoid(lin(x, h))",
        "-   h' = lerp(z, h, tanh(lin(x, h)))",
        "+   h' = lerp(z, h, relu(lin(x, h)))",
        "    out h'",
    ]
    assert str(child) == f"point of mine {parent.digest[:8]}\n{child.diff}"
    rng = np.random.default_rng(0)
    for name in space_names():
        made = SPACES[name].vary(SPACES[name].sample(rng), rng)
        assert any(line[0] in "+-" for line in made.diff.splitlines())
