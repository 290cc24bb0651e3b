from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from searcher_suite import RECIPE, Drive, ToySpace, made_up_score

from grammar import zoo
from nas.errors import SearchError
from nas.searchers import Observation, Proposal, Searcher, make_searcher, settled_options
from nas.searchers.halving import PROMOTE, Hyperband
from search_spaces import load_space

SPACE = ToySpace(shifts=60)


def make(name: str = "halving", /, **options: object) -> Searcher:
    searcher = make_searcher(name, SPACE, options)
    searcher.begin(RECIPE.to_dict())
    return searcher


def steps_of(proposal: Proposal) -> int:
    return proposal.steps or RECIPE.steps


def test_a_third_of_each_rung_goes_on() -> None:
    log = Drive(make(), workers=1)
    log.go_on(120)
    count = Counter(steps_of(proposal) for proposal in log.proposals)
    assert sorted(count) == [1, 3, 9, 27]
    for low, high in pairwise(sorted(count)):  # a few more: what was promoted early may fall behind later
        assert count[low] // 3 <= count[high] <= 1.3 * count[low] / 3 + 1
    firsts = sorted(made_up_score(p.cell) for p in log.proposals if steps_of(p) == 1)
    promoted = [made_up_score(p.cell) for p in log.proposals if steps_of(p) == 3]
    assert np.mean(promoted) < np.quantile(firsts, 1 / 3)


def test_every_promotion_carries_on_a_trial_one_rung_below() -> None:
    log = Drive(make(eta=2, rungs=3), workers=3)
    log.go_on(90)
    entered = {entry[1]: entry[0] for entry in log.entries if isinstance(entry, tuple)}
    promotions = [p for p in log.proposals if p.operator == "promote"]
    assert promotions
    for proposal in promotions:
        assert proposal.continues is not None
        before = entered[proposal.continues]
        assert steps_of(proposal) == {7: 14, 14: 27}[steps_of(before)]
        assert proposal.cell is before.cell
        assert proposal.parents == (before.cell.digest,)
    assert all(count == 1 for count in Counter(p.continues for p in promotions).values())


def test_a_rung_is_taken_once_where_the_recipe_has_few_steps() -> None:
    searcher = make_searcher("halving", SPACE, {})
    searcher.begin({**RECIPE.to_dict(), "steps": 4})
    log = Drive(searcher)
    log.go_on(40)
    assert sorted({p.steps for p in log.proposals if p.steps}) == [1, 4]


def test_the_proposer_learns_from_the_lowest_rung_alone() -> None:
    options: dict[str, Any] = {"proposer.samples": 5, "proposer.population": 8}
    log = Drive(make(proposer="evolution", **options))
    log.go_on(80)
    low = [p for p in log.proposals if steps_of(p) == 1]
    assert {p.operator for p in low} == {"sample", "mutate", "crossover"}
    parents = {digest for p in low for digest in p.parents}
    assert parents <= {p.cell.digest for p in low}


def test_brackets_of_hyperband_take_about_as_many_steps_each() -> None:
    log = Drive(make("hyperband"), workers=1)
    log.go_on(500)
    bracket: dict[int, int] = {}
    spent: Counter[int] = Counter()
    for entry in log.entries:
        if isinstance(entry, tuple):
            proposal, trial = entry
            start = 0 if proposal.continues is None else log_steps(log, proposal.continues)
            first = steps_of(proposal) if proposal.continues is None else bracket[proposal.continues]
            bracket[trial] = first
            spent[first] += steps_of(proposal) - start
    assert sorted(spent) == [1, 3, 9, 27]
    assert max(spent.values()) < 2.0 * min(spent.values()), spent


def test_a_promotion_that_another_bracket_made_is_that_of_one_recipe() -> None:
    searcher = make("hyperband")
    assert isinstance(searcher, Hyperband)
    cell, (low, high) = SPACE.cell((0, 1, 2)), searcher._brackets[0][:2]
    recipes = [{"lr": 0.1}, {"lr": 0.2}]
    for trial, recipe in enumerate(recipes):
        low.ended[trial] = Observation(cell, cell.digest, 1.0, "ok", trial, recipe=recipe)
    made_by = (PROMOTE, (cell.digest,))
    known = Observation(cell, cell.digest, 0.5, "ok", 7, *made_by, True, steps=high.steps, recipe=recipes[0])
    searcher.tell(known)
    assert low.promoted == {0}
    assert high.ended == {7: known}


def log_steps(log: Drive, trial: int) -> int:
    """How far a trial was trained."""
    entered = {entry[1]: entry[0] for entry in log.entries if isinstance(entry, tuple)}
    return steps_of(entered[trial])


def best_found(name: str, steps: int, seed: int) -> float:
    """The quality of the best cell by its score at the most steps, after so many steps in all.

    A cell's score is its quality and, while it is trained, a bonus of other size for each cell that goes to 0.
    """
    searcher = make(name) if name != "random" else make_searcher("random", SPACE)
    trials: list[Proposal] = []
    spent = 0
    best = (0, 1.0, 1.0)
    while spent < steps:
        proposal = searcher.ask(np.random.default_rng([seed, len(trials)]))
        assert proposal is not None
        start = 0 if proposal.continues is None else steps_of(trials[proposal.continues])
        spent += steps_of(proposal) - start
        quality = made_up_score(proposal.cell)
        late = made_up_score(ToySpace(60).mutate(proposal.cell, np.random.default_rng(0)))
        score = quality + 0.3 * late * (1 - steps_of(proposal) / RECIPE.steps)
        number = len(trials)
        searcher.entered(proposal, number)
        made = (proposal.operator, proposal.parents)
        cell = proposal.cell
        searcher.tell(Observation(cell, cell.digest, score, "ok", number, *made, steps=steps_of(proposal)))
        trials.append(proposal)
        best = min(best, (-steps_of(proposal), score, quality))
    return best[2]


def test_it_finds_better_cells_than_random_search_of_as_many_steps() -> None:
    seeds = range(8)
    halving = [best_found("halving", 27 * 15, seed) for seed in seeds]
    random = [best_found("random", 27 * 15, seed) for seed in seeds]
    assert np.mean(halving) < np.mean(random) - 0.01


def test_what_it_does_not_take_is_said() -> None:
    with pytest.raises(SearchError, match="halving: eta must be a whole number of at least 2, got 1"):
        make(eta=1)
    with pytest.raises(SearchError, match="hyperband: rungs must be a whole number of at least 1, got 0"):
        make("hyperband", rungs=0)
    with pytest.raises(SearchError, match="method halving has no option 'colour'; options are proposer, eta"):
        make(colour=1)
    with pytest.raises(SearchError, match="unknown method 'evolutoin'"):
        make(proposer="evolutoin")
    options: dict[str, Any] = {"proposer.colour": 1}
    with pytest.raises(SearchError, match="searcher evolution has no option 'colour'"):
        make(proposer="evolution", **options)
    for inner in ("nsga2", "hyperband"):
        with pytest.raises(SearchError, match=f"{inner} cannot be the proposer"):
            make(proposer=inner)
    with pytest.raises(SearchError, match="begin it first"):
        make_searcher("halving", SPACE).ask(np.random.default_rng(0))


def test_the_options_of_the_proposer_are_settled() -> None:
    space = load_space("gated")
    options = {"proposer": "evolution", "proposer.seeds": ["zoo:gru"], "eta": 2}
    assert settled_options("halving", space, options) == {**options, "proposer.seeds": [zoo("gru").one_line]}


def test_supernets_of_the_proposer_are_trained_as_they_are() -> None:
    log = Drive(make(proposer="oneshot", **{"proposer.steps": 1}))
    log.go_on(40)
    supernets = [p for p in log.proposals if p.supernet is not None]
    assert log.proposals[0] is supernets[0]
    assert {p.steps for p in supernets} == {None}
    cells = [p for p in log.proposals if p.supernet is None]
    assert {steps_of(p) for p in cells} >= {1, 3}
    assert {p.operator for p in cells} == {"darts drawn", "promote"}
    assert log.searcher.planned()[0]["options"]["steps"] == 1
