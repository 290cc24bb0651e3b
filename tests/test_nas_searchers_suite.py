from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from searcher_suite import LISTED, OPTIONS, RECIPE, Drive, ToySpace, drive, replay, suite_searcher, way

from nas.searchers import make_searcher, searcher_names
from search_spaces import read_space

ROOT = Path(__file__).resolve().parents[1]
SPACE = ToySpace()
EVERY = pytest.mark.parametrize("name", sorted(OPTIONS))


def test_every_registered_searcher_is_in_the_suite() -> None:
    assert set(OPTIONS) == set(searcher_names())


@EVERY
def test_proposals_are_members_and_name_their_parents(name: str) -> None:
    proposals, _ = drive(suite_searcher(name, SPACE), 20)
    told: set[str] = set()
    assert len(proposals) == 20
    for proposal in proposals:
        assert proposal.cell in SPACE
        assert proposal.operator
        assert set(proposal.parents) <= told
        told.add(proposal.cell.digest)


@EVERY
@pytest.mark.parametrize("workers", [1, 3])
def test_nothing_is_proposed_twice_nor_while_it_is_trained(name: str, workers: int) -> None:
    log = Drive(suite_searcher(name, SPACE), workers=workers)
    log.go_on(30)
    ways = [
        (way(proposal.cell, proposal.steps, proposal.recipe), repr(proposal.supernet))
        for proposal in log.proposals
    ]
    assert len(set(ways)) == len(ways)


@EVERY
def test_same_seed_same_proposals_and_another_seed_others(name: str) -> None:
    first, again, other = (drive(suite_searcher(name, SPACE), 20, seed)[0] for seed in (3, 3, 4))
    assert first == again
    assert first != other or name == "list"  # which draws nothing


def test_same_proposals_in_another_process() -> None:
    script = (
        "import sys; sys.path[:0] = ['tests', '.']\n"
        "from searcher_suite import *\n"
        "print({n: [(p.cell.one_line, p.operator) for p in drive(suite_searcher(n, ToySpace()), 20, 5)[0]]"
        " for n in OPTIONS})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    elsewhere = ast.literal_eval(done.stdout)
    here = {
        name: [(p.cell.one_line, p.operator) for p in drive(suite_searcher(name, SPACE), 20, 5)[0]]
        for name in OPTIONS
    }
    assert elsewhere == here


@EVERY
@pytest.mark.parametrize("told", [0, 3, 12])
def test_state_is_what_was_told(name: str, told: int) -> None:
    searcher = suite_searcher(name, SPACE)
    log = Drive(searcher)
    log.go_on(told)
    for index in range(told, told + 5):
        searcher.ask(np.random.default_rng([0, index]))  # asking leaves no trace
    fresh = suite_searcher(name, SPACE)
    replay(fresh, log.entries)
    for index in range(told, told + 5):
        rngs = np.random.default_rng([0, index]), np.random.default_rng([0, index])
        assert searcher.ask(rngs[0]) == fresh.ask(rngs[1])


@EVERY
@pytest.mark.parametrize("workers", [1, 3])
def test_killed_at_every_kth_event_it_ends_the_same(name: str, workers: int) -> None:
    whole = Drive(suite_searcher(name, SPACE), seed=2, workers=workers)
    whole.go_on(36)
    for every in (1, 2, 5):
        log = Drive(suite_searcher(name, SPACE), seed=2, workers=workers)
        for _ in range(0, 36 - 36 % every, every):
            log.go_on(every)
            log = log.carried_on(suite_searcher(name, SPACE))
        log.go_on(36 % every)
        assert log.proposals == whole.proposals
        assert log.entries == whole.entries


@EVERY
def test_the_steps_it_asks_for_are_the_recipes_or_less(name: str) -> None:
    log = Drive(suite_searcher(name, SPACE), workers=2)
    log.go_on(60)
    entered = {entry[1]: entry[0] for entry in log.entries if isinstance(entry, tuple)}
    for proposal in log.proposals:
        assert 1 <= (proposal.steps or RECIPE.steps) <= RECIPE.steps
        if proposal.continues is not None:
            before = entered[proposal.continues]
            assert (before.cell, before.recipe) == (proposal.cell, proposal.recipe)
            assert (before.steps or RECIPE.steps) < (proposal.steps or RECIPE.steps)


@EVERY
def test_goes_on_when_every_trial_fails(name: str) -> None:
    proposals, _ = drive(suite_searcher(name, SPACE), 30, score=lambda cell: None)
    assert len(proposals) == 30


@EVERY
def test_ends_on_an_exhausted_space(name: str) -> None:
    space = ToySpace(shifts=1)
    proposals, _ = drive(suite_searcher(name, space), 50 * space.size)
    size = len(LISTED) if name == "list" else space.size  # which asks nothing of the space
    assert len({proposal.cell.digest for proposal in proposals}) == size
    assert len(proposals) < 50 * space.size


@EVERY
def test_ends_where_no_cell_has_another_near_it(name: str) -> None:
    one = "space one { limits size <= 4 require x, states state vec out -> $new vec -> tanh(lin(x, $vec)) }"
    space = read_space(one)
    made = {**OPTIONS[name], **({"samples": 1} if name in ("evolution", "reinforce", "oneshot") else {})}
    searcher = make_searcher(name, space, made)
    searcher.begin(RECIPE.to_dict())
    log = Drive(searcher)
    assert not log.go_on(60)
    assert len({proposal.cell.digest for proposal in log.proposals}) == (len(LISTED) if name == "list" else 1)


@pytest.mark.parametrize("name", ["random", "list"])
def test_what_learns_nothing_proposes_the_same_with_any_number_of_workers(name: str) -> None:
    logs = [Drive(suite_searcher(name, SPACE), workers=workers) for workers in (1, 4)]
    for log in logs:
        log.go_on(60)
    first, other = ([proposal.cell.digest for proposal in log.proposals[:25]] for log in logs)
    assert first == other
