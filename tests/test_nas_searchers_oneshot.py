from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from searcher_suite import Drive, ToySpace, made_up_found

from nas.errors import SearchError
from nas.searchers import Observation, Proposal, make_searcher
from search_spaces import load_space, read_space

SPACE = ToySpace()


def asked(searcher: Any, seed: int = 0) -> Proposal | None:
    found: Proposal | None = searcher.ask(np.random.default_rng(seed))
    return found


def ended(proposal: Proposal, number: int = 0, status: str = "supernet") -> Observation:
    assert proposal.supernet is not None
    found = made_up_found(SPACE, proposal.supernet) if status == "supernet" else ()
    cell = proposal.cell
    return Observation(cell, cell.digest, None, status, number, supernet=proposal.supernet, found=found)


def test_each_supernet_has_its_own_seed_and_its_cells_come_in_order() -> None:
    searcher = make_searcher("oneshot", SPACE, {"method": "gdas"})
    first, second = asked(searcher, 0), asked(searcher, 1)
    assert first is not None
    assert second is not None
    assert first.operator == "supernet"
    assert first.supernet is not None
    assert second.supernet is not None
    assert first.supernet["seed"] != second.supernet["seed"]
    assert first.supernet["options"]["method"] == "gdas"
    assert first.cell in SPACE
    searcher.entered(first, 0)
    outcome = ended(first)
    outcome = replace(outcome, found=({**outcome.found[0], "selected": True}, *outcome.found[1:]))
    searcher.tell(outcome)
    operators = []
    for number, found in enumerate(outcome.found, start=1):
        proposal = asked(searcher, number)
        assert proposal is not None
        assert proposal.cell.digest == found["digest"]
        operators.append(proposal.operator)
        searcher.entered(proposal, number)
    assert operators == ["gdas selected", "gdas drawn", "gdas drawn"]
    after = asked(searcher, 9)
    assert after is not None
    assert after.supernet is not None


def test_no_more_supernets_than_it_was_allowed() -> None:
    searcher = make_searcher("oneshot", SPACE, {"supernets": 1})
    log = Drive(searcher)
    log.go_on(20)
    assert [proposal.supernet is not None for proposal in log.proposals].count(True) == 1
    assert len(log.proposals) == 4
    assert asked(searcher) is None


def test_when_every_supernet_fails_the_space_is_sampled() -> None:
    searcher = make_searcher("oneshot", SPACE)
    for number in range(3):
        proposal = asked(searcher, number)
        assert proposal is not None
        searcher.entered(proposal, number)
        searcher.tell(ended(proposal, number, "invalid"))
    sampled = asked(searcher, 3)
    assert sampled is not None
    assert sampled.operator == "sample"


def test_supernets_that_give_nothing_new_are_followed_by_samples() -> None:
    searcher = make_searcher("oneshot", SPACE)
    proposal = asked(searcher)
    assert proposal is not None
    for number in range(3):
        searcher.entered(proposal, number)
        searcher.tell(ended(proposal, number))
    for number in range(3):
        cell = asked(searcher, number)
        assert cell is not None
        searcher.entered(cell, 3 + number)
    sampled = asked(searcher)
    assert sampled is not None
    assert sampled.operator == "sample"


def test_a_space_of_rules_is_unrolled_and_its_sketches_take_turns() -> None:
    text = """space small {
      limits size <= 12
      state{1..2} vec
      out -> $new | lin($vec)
      vec -> tanh(lin(x, $vec)) | $vec + vec
    }"""
    searcher = make_searcher("oneshot", read_space(text), {"depth": 2})
    names = []
    for number in range(3):
        proposal = asked(searcher, number)
        assert proposal is not None
        assert proposal.supernet is not None
        assert proposal.supernet["space"] == text
        assert proposal.supernet["options"]["method"] == "uniform"
        names.append(proposal.supernet["sketch"].split()[1])
        searcher.entered(proposal, number)
    assert names == ["small_2", "small_1", "small_2"]


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ("gated", {"depth": 4}, "oneshot: space gated unrolled to depth 4 has more than"),
        ("tree", {}, "oneshot: space tree is over trees"),
        ("darts_rnn", {"supernets": 0}, "oneshot: supernets must be a whole number of at least 1, got 0"),
        ("darts_rnn", {"epochs": 3}, "oneshot: no option 'epochs'"),
    ],
)
def test_what_it_cannot_do_is_said_at_once(space: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        make_searcher("oneshot", load_space(space), options)


def test_a_space_without_sketches_is_refused() -> None:
    class Other:
        pass

    with pytest.raises(SearchError, match="oneshot needs a space of sketches or of rules; got Other"):
        make_searcher("oneshot", Other(), {})  # type: ignore[arg-type]
