"""Counts and probabilities against every derivation of small spaces, written down one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from space_suite import (
    NEW,
    RULED,
    SELF,
    SOME,
    TINY,
    TREES,
    derivations,
    distribution,
    grammar_space,
    plan_of,
    unnamed,
)

from search_spaces import GrammarSpace, load_space, space_names
from search_spaces.reaching import Reach
from search_spaces.sampling import below, pick, some

SMALL = {
    name: GrammarSpace(text)
    for name, text in (("tiny", TINY), ("self", SELF), ("new", NEW), ("trees", TREES), ("some", SOME))
}
SLOW = dict.fromkeys(("matrix", "mixed", "tree"), pytest.mark.slow)


def test_many_nonterminals_that_derive_each_other_are_counted_soon() -> None:
    """How deep each may be is looked for once for each, not once for each order of them."""
    names = [f"n{i}" for i in range(12)]
    rules = " ".join(f"{n}: vec -> {' | '.join(f'tanh({m})' for m in names)} | lin(x)" for n in names)
    space = GrammarSpace(f"space s {{ limits size <= 3 state vec -> n0 out -> $new {rules} }}")
    assert space.count() == (0, 1, 12, 144)


@pytest.mark.parametrize("name", SMALL)
def test_counts_are_those_of_all_derivations_written_down(name: str) -> None:
    space = SMALL[name]
    sizes = Counter(made.size(space.rules) for made, _ in derivations(space))
    assert sum(sizes.values()) > 500
    assert space.count() == tuple(sizes[n] for n in range(space.limits.size + 1))


@pytest.mark.parametrize("name", SMALL)
def test_probabilities_are_those_of_all_derivations_written_down(name: str) -> None:
    space = SMALL[name]
    sampler = space._weighted
    expected: dict[object, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for made, weight in derivations(space):
        row = expected.setdefault(plan_of(made), np.zeros(space.limits.size + 1))
        row[made.size(space.rules)] += weight
    least = space.limits.least_size
    for plan in sampler.plans:
        row = np.zeros(space.limits.size + 1)
        row[least:] += sampler.series(plan)[least:]
        lines = [line for line, n in zip(space.rules.states, plan.states, strict=True) for _ in range(n)]
        key = space.rules.forms[plan.form], tuple((str(s.type), s.init) for s in lines), plan.lets
        np.testing.assert_allclose(row, expected.get(key, 0 * row), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("by", ["weights", "size"])
@pytest.mark.parametrize(("name", "size"), [("tiny", 2), ("self", 4), ("trees", 5), ("some", 1)])
def test_cells_of_one_size_come_as_often_as_they_should(name: str, size: int, by: str) -> None:
    space, draws = SMALL[name], 800
    exact = distribution(space, by, size)
    rng = np.random.default_rng(5)
    seen = Counter(unnamed(space.sample(rng, size=size, by=by)) for _ in range(draws))
    assert seen.keys() <= exact.keys()
    # Pearson's statistic, with rare texts put together so that each class expects at least ten draws.
    rare = {text for text, p in exact.items() if p * draws < 10}
    classes = [(p * draws, seen[text]) for text, p in exact.items() if text not in rare]
    classes.append((sum(exact[t] for t in rare) * draws + 1e-9, sum(seen[t] for t in rare)))
    statistic = sum((have - want) ** 2 / want for want, have in classes)
    freedom = len(classes) - 1
    assert freedom > 5
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_sizes_are_uniform_by_size() -> None:
    space, draws = SMALL["tiny"], 600
    rng = np.random.default_rng(3)
    seen = Counter(space.size(space.sample(rng, by="size")) for _ in range(draws))
    assert sorted(seen) == [1, 2, 3]
    assert max(abs(n - draws / 3) for n in seen.values()) < 4 * (draws * 2 / 9) ** 0.5


@pytest.mark.parametrize("name", space_names())
def test_counts_grow_with_size(name: str) -> None:
    counts = load_space(name).count()
    assert all(isinstance(n, int) for n in counts)
    assert sum(counts) > (10**5 if name == "depth" else 10**9)


def test_below_is_uniform_and_takes_any_length() -> None:
    rng = np.random.default_rng(0)
    assert [below(rng, 1) for _ in range(3)] == [0, 0, 0]
    seen = Counter(below(rng, 6) for _ in range(6000))
    assert sorted(seen) == [*range(6)]
    assert max(abs(n - 1000) for n in seen.values()) < 130
    huge = 10**60
    drawn = [below(rng, huge) for _ in range(400)]
    assert max(drawn) < huge
    assert abs(sum(d > huge // 2 for d in drawn) - 200) < 50
    assert len({d % 1024 for d in drawn}) > 250  # the low bits are random too


def test_pick_never_takes_what_weighs_nothing() -> None:
    rng = np.random.default_rng(0)
    assert {pick(rng, [0, 3, 0, 1, 0]) for _ in range(200)} == {1, 3}
    assert {pick(rng, [0.0, 0.5, 0.0]) for _ in range(50)} == {1}


def test_some_takes_so_many() -> None:
    rng = np.random.default_rng(0)
    assert {some(rng, ("a", "b", "c"), 2) for _ in range(50)} == {("a", "b"), ("a", "c"), ("b", "c")}
    assert some(rng, ("a",), 0) == ()


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW.get(n, ())) for n in RULED])
def test_sizes_come_as_often_as_counted(name: str) -> None:
    # Pearson's statistic over plans and sizes, of derivations as they are drawn, before dead ones are drawn again.
    for sampler in (grammar_space(name)._weighted, grammar_space(name)._counting):
        rng = np.random.default_rng(6)
        plans = [p for p in sampler.plans if sampler.whole(p).any()]
        statistic, freedom = 0.0, 0
        for plan in (plans[i] for i in rng.choice(len(plans), 3, replace=False)):
            weights, draws = sampler.whole(plan).tolist(), 120
            seen = Counter(
                sampler.derivation(rng, plan, pick(rng, weights)).size(sampler.rules) for _ in range(draws)
            )
            wanted = [float(draws * w / sum(weights)) for w in weights]
            classes = [(w, seen[n]) for n, w in enumerate(wanted) if w >= 6]
            classes.append((draws - sum(w for w, _ in classes) + 1e-9, draws - sum(n for _, n in classes)))
            statistic += sum((have - want) ** 2 / max(want, 1.0) for want, have in classes)
            freedom += len(classes) - 1
        assert freedom > (4 if sampler.weighted else 1)
        assert statistic < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gated", "diagonal"])
def test_sizes_of_cells_come_as_often_as_alive_derivations(name: str) -> None:
    space, draws = grammar_space(name), 6000
    sampler = space._weighted
    expected = sampler.counter.zeros()
    for plan in (p for p in sampler.plans if sampler.whole(p).any()):
        alive = Reach(sampler).series(plan)
        assert alive is not None
        expected = expected + alive / sampler.whole(plan).sum()
    rng = np.random.default_rng(7)
    seen = Counter(space.size(space.sample(rng)) for _ in range(draws))
    wanted = [float(draws * w / expected.sum()) for w in expected]
    classes = [(w, seen[n]) for n, w in enumerate(wanted) if w >= 10]
    assert len(classes) > 12
    assert (
        sum((have - want) ** 2 / want for want, have in classes)
        < len(classes) + 4 * (2 * len(classes)) ** 0.5
    )
