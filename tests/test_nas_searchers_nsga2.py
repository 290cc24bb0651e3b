from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from searcher_suite import Drive, ToySpace

from grammar import Cell
from nas.errors import SearchError
from nas.searchers import Observation, crowding, front, fronts, make_searcher
from nas.searchers.pareto import dominates

SPACE = ToySpace(shifts=40)
Points = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 3), max_size=25)


@given(Points)
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, ...]]) -> None:
    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert front(points) == expected
    assert fronts(points)[:1] == ([expected] if points else [])


@given(Points)
def test_each_rank_is_the_front_of_what_is_left(points: list[tuple[float, ...]]) -> None:
    left = list(range(len(points)))
    for rank in fronts(points):
        assert rank == [left[i] for i in front([points[i] for i in left])]
        left = [i for i in left if i not in rank]
    assert not left


def test_dominance_needs_one_better_and_none_worse() -> None:
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((0, 3), (1, 2))


def test_crowding_is_the_sum_of_the_gaps_to_the_neighbours() -> None:
    found = crowding([(0.0, 4.0), (1.0, 2.0), (3.0, 1.0), (4.0, 0.0)])
    assert found[0] == found[3] == math.inf
    assert found[1] == pytest.approx(3 / 4 + 3 / 4)
    assert found[2] == pytest.approx(3 / 4 + 2 / 4)
    assert crowding([(1.0, 1.0)]) == [math.inf]
    assert crowding([]) == []


def objectives(cell: Cell) -> tuple[float, float]:
    """Two aims at odds: small shifts are cheap and lose, large ones the other way round; the gate decides how much."""
    gate, act, shift = SPACE.genes(cell)
    return 1 / (1 + shift) + 0.2 * gate + 0.1 * act, float(shift + 5 * gate + 2 * act)


def dominated_share(name: str, seed: int, asks: int = 60) -> float:
    """The part of the square from the ideal to the worst that what was found dominates (the hypervolume)."""
    options = {"population": 10} if name == "nsga2" else {}
    searcher = make_searcher(name, SPACE, options)
    found: list[tuple[float, float]] = []
    for index in range(asks):
        proposal = searcher.ask(np.random.default_rng([seed, index]))
        assert proposal is not None
        loss, cost = objectives(proposal.cell)
        found.append((loss, cost / 55))
        digest = proposal.cell.digest
        searcher.tell(Observation(proposal.cell, digest, loss, "ok", index, metrics={"flops": cost}))
    area, height = 0.0, 2.0
    for x, y in sorted(found):
        if y < height:
            area += max(0.0, 2.0 - x) * (height - y)
            height = y
    return area


def test_it_finds_a_better_front_than_random_search() -> None:
    seeds = range(8)
    ours = [dominated_share("nsga2", seed) for seed in seeds]
    theirs = [dominated_share("random", seed) for seed in seeds]
    assert np.mean(ours) > np.mean(theirs)
    assert sum(a > b for a, b in zip(ours, theirs, strict=True)) >= 6


def test_a_cell_without_one_of_the_objectives_does_not_enter() -> None:
    searcher = make_searcher("nsga2", SPACE, {"population": 2, "objectives": "loss,latency_us"})
    assert (searcher.objectives, searcher.needs) == (("loss", "latency_us"), ("latency_us",))
    rng = np.random.default_rng(0)
    for number in range(4):
        cell = SPACE.sample(rng)
        searcher.tell(Observation(cell, cell.digest, 0.5, "ok", number, metrics={"flops": 1.0}))
        searcher.tell(Observation(cell, cell.digest, None, "refused", None, metrics={"latency_us": 1.0}))
    proposal = searcher.ask(rng)
    assert proposal is not None
    assert proposal.operator == "sample"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": "loss,speed"}, "there is no objective 'speed'; there are loss, params, flops"),
        ({"objectives": "loss"}, "two or more different objectives are needed, got 'loss'"),
        ({"objectives": "loss,loss"}, "two or more different objectives"),
        ({"population": 1}, "population must be a whole number of at least 2, got 1"),
        ({"crossover": 1.5}, "crossover must be a probability, got 1.5"),
    ],
)
def test_what_it_does_not_take_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        make_searcher("nsga2", SPACE, options)


def test_parents_are_the_best_of_parents_and_children() -> None:
    log = Drive(make_searcher("nsga2", SPACE, {"population": 6}))
    log.go_on(30)
    seen = {o.digest: (o.score or 0.0, o.metrics["flops"]) for o in log.entries if isinstance(o, Observation)}
    first = [p.cell.digest for p in log.proposals[:12]]
    best = {first[i] for i in front([seen[digest] for digest in first])}
    parents = {digest for p in log.proposals[12:18] for digest in p.parents}
    ranks = fronts([seen[digest] for digest in first])
    survivors = {first[i] for rank in ranks for i in rank[:6]}
    assert parents
    assert parents & best
    assert parents <= survivors | best


def test_what_is_under_way_is_not_proposed_again() -> None:
    searcher = make_searcher("nsga2", SPACE, {"population": 2})
    first = searcher.ask(np.random.default_rng(0))
    assert first is not None
    assert searcher.ask(np.random.default_rng(0)) == first
    searcher.entered(first, 0)
    second = searcher.ask(np.random.default_rng(0))
    assert second is not None
    assert second.cell.digest != first.cell.digest
