from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from searcher_suite import ToySpace, drive, made_up_score

from grammar import Cell, parse, zoo
from nas.errors import SearchError
from nas.searchers import Observation, make_searcher, settled_options
from nas.searchers.evolution import Evolution, Immigrants
from nas.searchers.motifs import Motifs
from search_spaces import load_space

SPACE = ToySpace(shifts=40)
GOAL = (2, 3, 33)


def distance(cell: Cell) -> float:
    """A smooth landscape: how far each gene is from the goal's."""
    return sum(abs(gene - goal) for gene, goal in zip(SPACE.genes(cell), GOAL, strict=True)) / 40


def best_after(name: str, trials: int, seed: int) -> float:
    _, observations = drive(make_searcher(name, SPACE, {}), trials, seed, distance)
    return min(observation.score or 0.0 for observation in observations)


def test_starts_with_samples_then_varies_what_scored() -> None:
    searcher = make_searcher("evolution", SPACE, {"samples": 5, "crossover": 0.7})
    proposals, _ = drive(searcher, 40, score=distance)
    operators = [proposal.operator for proposal in proposals]
    assert operators[:5] == ["sample"] * 5
    assert set(operators[5:]) >= {"mutate", "crossover"}
    for proposal in proposals:
        assert len(proposal.parents) == {"sample": 0, "mutate": 1, "crossover": 2}[proposal.operator]


def test_proposals_name_the_operator_of_the_space() -> None:
    space = load_space("gated")
    searcher = make_searcher("evolution", space, {"samples": 4, "crossover": 0.4})
    rng = np.random.default_rng(0)
    for trial in range(4):
        cell = space.sample(rng)
        searcher.tell(Observation(cell, cell.digest, float(trial), "ok", trial))
    proposals = [p for i in range(30) if (p := searcher.ask(np.random.default_rng([0, i]))) is not None]
    operators = {p.operator for p in proposals}
    assert operators <= {*space.operators, "crossover"}
    assert len(operators) > 4
    assert all(len(p.parents) == (2 if p.operator == "crossover" else 1) for p in proposals)


def test_failures_do_not_count_as_samples() -> None:
    searcher = make_searcher("evolution", SPACE, {"samples": 3})
    odd = iter(range(100))
    proposals, _ = drive(searcher, 8, score=lambda cell: None if next(odd) % 2 else distance(cell))
    assert [proposal.operator for proposal in proposals[:5]] == ["sample"] * 5
    assert proposals[5].operator != "sample"


def test_finds_more_than_random_search_with_the_same_trials() -> None:
    seeds = range(6)
    evolved = np.mean([best_after("evolution", 40, seed) for seed in seeds])
    sampled = np.mean([best_after("random", 40, seed) for seed in seeds])
    assert evolved < 0.6 * sampled


def share_of_samples(options: dict[str, float | str], score: Callable[[Cell], float | None]) -> float:
    """Of the cells after the first ones, in four searches."""
    found = []
    for seed in range(4):
        searcher = make_searcher("evolution", SPACE, {"samples": 8, **options})
        proposals, _ = drive(searcher, 60, seed, score)
        found += [proposal.operator == "sample" for proposal in proposals[8:]]
    return float(np.mean(found))


def test_samples_go_on_while_scores_tell_nothing() -> None:
    smooth, noise, flat, failing = (
        share_of_samples({"fresh": "learned"}, score)
        for score in (distance, made_up_score, lambda cell: 0.8, lambda cell: None)
    )
    assert smooth < 0.3
    assert 0.35 < noise < 0.65
    assert flat > 0.35
    assert failing == 1.0


def test_the_share_of_samples_can_be_set() -> None:
    assert share_of_samples({}, made_up_score) == 0.0
    assert 0.15 < share_of_samples({"fresh": 0.25}, distance) < 0.35
    assert share_of_samples({"fresh": 1.0}, distance) == 1.0


@pytest.mark.parametrize("fresh", ["often", 1.5, True])
def test_a_share_of_samples_is_a_probability_or_a_rule(fresh: object) -> None:
    with pytest.raises(SearchError, match="evolution: fresh must be auto, learned or a probability, got "):
        make_searcher("evolution", SPACE, {"fresh": fresh})


def operators_after(trivial: float | None, options: dict[str, str | float], score: float) -> list[str]:
    """Of a search in which one cell in the middle has another score than the rest."""
    searcher = make_searcher("evolution", SPACE, options)
    searcher.trivial_score = trivial
    told = iter(range(1000))
    proposals, _ = drive(
        searcher, 60, score=lambda cell: score if next(told) == 30 else 0.8 + 0.02 * made_up_score(cell)
    )
    return [proposal.operator for proposal in proposals]


def test_samples_go_on_until_a_cell_beats_the_trivial_answer() -> None:
    paper = operators_after(None, {"fresh": 0.0}, 0.1)
    assert operators_after(None, {}, 0.1) == paper  # it is not known
    assert operators_after(1.0, {}, 0.1) == paper  # all are better from the start
    known = operators_after(0.8, {}, 0.1)
    assert known[8:31].count("sample") > 5
    assert known[31:].count("sample") == 0
    assert operators_after(0.8, {}, 0.7)[31:].count("sample") > 5  # not by enough
    assert known[:31] == operators_after(0.8, {"fresh": "learned"}, 0.1)[:31]


def test_what_was_among_the_best_more_often_comes_next() -> None:
    rng = np.random.default_rng(0)
    for better in (True, False):
        immigrants = Immigrants()
        for number in range(40):
            sampled = number % 2 == 0
            immigrants.learn(sampled, 1.0 / (number + 1) if sampled == better else None)
        drawn = np.mean([immigrants.draw(rng) for _ in range(100)])
        assert abs(drawn - better) < 0.1


def test_the_oldest_leaves_even_if_it_is_the_best() -> None:
    searcher = make_searcher("evolution", SPACE, {"samples": 2, "population": 2, "crossover": 0.0})
    cells = [SPACE.cell((0, 0, shift)) for shift in range(3)]
    for trial, (cell, score) in enumerate(zip(cells, (0.0, 0.9, 0.8), strict=True)):
        searcher.tell(Observation(cell, cell.digest, score, "ok", trial))
    parents = {p.parents for i in range(20) if (p := searcher.ask(np.random.default_rng([1, i]))) is not None}
    assert parents <= {(cells[1].digest,), (cells[2].digest,)}


def test_a_duplicate_does_not_enter_again() -> None:
    searcher = make_searcher("evolution", SPACE, {"samples": 2, "population": 2, "crossover": 0.0})
    cells = [SPACE.cell((0, 0, shift)) for shift in range(2)]
    for trial, cell in enumerate(cells):
        searcher.tell(Observation(cell, cell.digest, float(trial), "ok", trial))
    for _ in range(3):
        searcher.tell(Observation(cells[1], cells[1].digest, 1.0, "ok", 1, duplicate=True))
    proposal = searcher.ask(np.random.default_rng(0))
    assert proposal is not None
    assert proposal.parents == (cells[0].digest,)


@pytest.mark.parametrize("operators", ["bandit", "qlearning"])
def test_operators_are_chosen_by_name_and_by_what_helped(operators: str) -> None:
    searcher = make_searcher("evolution", SPACE, {"samples": 4, "operators": operators, "crossover": 0.1})
    assert isinstance(searcher, Evolution)
    before = dict(searcher._choice.weights())
    proposals, _ = drive(searcher, 60, score=distance)
    assert {p.operator for p in proposals[4:]} == {"near", "far", "crossover"}
    assert searcher._choice.weights() != before


def test_a_child_better_than_its_parent_credits_its_operator() -> None:
    searcher = make_searcher("evolution", SPACE, {"samples": 1, "operators": "bandit"})
    assert isinstance(searcher, Evolution)
    parent, cells = SPACE.cell((0, 0, 0)), [SPACE.cell((1, 0, shift)) for shift in range(30)]
    searcher.tell(Observation(parent, parent.digest, 0.5, "ok", 0))
    for trial, cell in enumerate(cells, start=1):
        name, score = ("near", 0.4) if trial % 2 else ("far", 0.6)
        searcher.tell(Observation(cell, cell.digest, score, "ok", trial, name, (parent.digest,)))
    weights = searcher._choice.weights()
    assert weights["near"] > 2 * weights["far"]


@pytest.mark.parametrize("operators", ["bandit", "qlearning"])
@pytest.mark.parametrize("status", ["infrastructure", "timeout"])
def test_what_the_machine_stopped_says_nothing_of_an_operator(
    operators: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = make_searcher("evolution", SPACE, {"samples": 1, "operators": operators})
    assert isinstance(searcher, Evolution)
    parent, child, below = (SPACE.cell((1, 0, shift)) for shift in range(3))
    searcher.tell(Observation(parent, parent.digest, 0.5, "ok", 0))
    learned: list[tuple[str, float]] = []
    monkeypatch.setattr(
        searcher._choice, "learn", lambda operator, reward: learned.append((operator, reward))
    )
    searcher.tell(Observation(child, child.digest, None, status, 1, "near", (parent.digest,)))
    assert learned == []
    # trained after all, it is a child like any other, and a parent
    searcher.tell(Observation(child, child.digest, 0.4, "ok", 2, "near", (parent.digest,)))
    searcher.tell(Observation(below, below.digest, 0.45, "ok", 3, "far", (child.digest,)))
    assert learned == [("near", 1.0), ("far", 0.0)]


@pytest.mark.parametrize("status", ["diverged", "oom", "refused", "hopeless", "invalid"])
def test_what_a_cell_is_to_blame_for_counts_against_its_operator(status: str) -> None:
    searcher = make_searcher("evolution", SPACE, {"samples": 1, "operators": "bandit"})
    assert isinstance(searcher, Evolution)
    parent, child = (SPACE.cell((1, 0, shift)) for shift in range(2))
    searcher.tell(Observation(parent, parent.digest, 0.5, "ok", 0))
    before = searcher._choice.weights()["near"]
    searcher.tell(Observation(child, child.digest, None, status, 1, "near", (parent.digest,)))
    assert searcher._choice.weights()["near"] < before


def test_seeds_come_first_each_once_also_with_several_workers() -> None:
    space = load_space("gated")
    seeds = ["zoo:gru", "zoo:lstm", "zoo:gru"]
    searcher = make_searcher("evolution", space, {"seeds": seeds, "samples": 2})
    asked = []
    for trial in range(3):
        proposal = searcher.ask(np.random.default_rng(trial))
        assert proposal is not None
        searcher.entered(proposal, trial)
        asked.append(proposal)
    assert [(p.operator, p.cell.digest) for p in asked[:2]] == [
        ("seed", zoo("gru").digest),
        ("seed", zoo("lstm").digest),
    ]
    assert asked[2].operator == "sample"


def test_zoo_seeds_are_what_the_space_claims() -> None:
    space = load_space("gated")
    searcher = make_searcher("evolution", space, {"seeds": "zoo"})
    proposals, _ = drive(searcher, len(space.claims), score=lambda cell: 1.0)
    assert {p.cell.digest for p in proposals} == {zoo(name).digest for name in space.claims}
    settled = settled_options("evolution", space, {"seeds": "zoo", "samples": 3})
    assert settled["samples"] == 3
    assert make_searcher("evolution", space, settled).ask(np.random.default_rng(0)) == proposals[0]


def test_motifs_of_the_better_half_are_grafted() -> None:
    space = load_space("gated")
    searcher = make_searcher("evolution", space, {"samples": 6, "motifs": 0.9, "crossover": 0.0})
    cells = [*map(zoo, ("lstm", "gru", "mgu", "lstm_cifg", "elman", "indrnn"))]
    for trial, cell in enumerate(cells):
        searcher.tell(Observation(cell, cell.digest, float(trial), "ok", trial))
    proposals = [p for i in range(12) if (p := searcher.ask(np.random.default_rng([7, i]))) is not None]
    assert sum(p.operator == "motif" for p in proposals) > 6
    assert all(p.cell in space for p in proposals)


def test_mined_motifs_are_more_frequent_among_the_better() -> None:
    space = load_space("gated")
    good = [
        parse(f"cell c {{ state h: vec; h' = sigmoid(lin(x, h)) * {v}; out h' }}") for v in ("h", "lin(x)")
    ]
    bad = [parse(f"cell c {{ state h: vec; h' = tanh(lin(x, h)) + {v}; out h' }}") for v in ("h", "lin(x)")]
    told = [Observation(c, c.digest, float(i), "ok", i) for i, c in enumerate([*good, *bad])]
    assert [str(m) for m in Motifs(space).mine(told)] == ["sigmoid(lin(x, _))"]


def test_motifs_need_rules() -> None:
    with pytest.raises(SearchError, match="motifs: the space has no motifs"):
        make_searcher("evolution", SPACE, {"motifs": 0.1})
