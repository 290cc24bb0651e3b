from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from searcher_suite import RECIPE, Drive, ToySpace, made_up_found, made_up_score

from grammar import Cell, Sketch, parse_sketch
from nas.errors import SearchError
from nas.searchers import Observation, Proposal, make_searcher, settled_options
from nas.searchers.around import Best
from search_spaces import GrammarSpace, Relaxed, SpaceError, load_space, read_space

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
    searcher = make_searcher("oneshot", read_space(text), {"depth": 2, "around": "space"})
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
        ("gated", {"depth": 4, "around": "space"}, "oneshot: space gated unrolled to depth 4 has more than"),
        ("tree", {}, "oneshot: space tree is over trees"),
        ("tree", {"around": "space"}, "oneshot: space tree is over trees"),
        ("gated", {"around": "here"}, "oneshot: around must be one of best, space; got 'here'"),
        ("gated", {"around": "space", "seeds": "zoo"}, "oneshot: seeds are for around=best"),
        ("gated", {"share": 0.7}, "oneshot: share must be at most 0.5, got 0.7"),
        ("gated", {"fresh": 0.3}, "oneshot: fresh must be auto or 0, got 0.3"),
        ("gated", {"fresh": False}, "oneshot: fresh must be auto or 0, got False"),
        ("gated", {"changes": 0}, "oneshot: changes must be a whole number of at least 1, got 0"),
        ("gated", {"seeds": ["zoo:mamba"]}, "is not a member of the space"),
        ("darts_rnn", {"around": "best"}, "oneshot: around=best needs a space of rules; got SketchSpace"),
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


# -- around good cells of a space of rules --------------------------------------------------------

RULES = load_space("gated")
AROUND: dict[str, Any] = {"samples": 3, "changes": 4, "keep": 2, "candidates": 5}


def around(trivial: float | None = None, **options: Any) -> Any:
    searcher = make_searcher("oneshot", RULES, {**AROUND, **options})
    searcher.trivial_score = trivial
    searcher.begin(RECIPE.to_dict())
    return searcher


def test_supernets_are_around_the_best_cells_so_far() -> None:
    log = Drive(around(centres=2))
    log.go_on(3 + 2 * (1 + 2) + 1)
    operators = [proposal.operator for proposal in log.proposals]
    gave = ["supernet", "uniform drawn", "uniform drawn"]
    assert operators == ["sample"] * 3 + 2 * gave + ["supernet"]
    used: list[str] = []
    for number in (3, 6, 9):
        told = {p.cell.digest: made_up_score(p.cell) for p in log.proposals[:number] if p.supernet is None}
        best = sorted(told, key=lambda digest: told[digest])[:2]
        proposal = log.proposals[number]
        assert proposal.supernet is not None
        fewest = min(used.count(digest) for digest in best)
        centre = next(digest for digest in best if used.count(digest) == fewest)
        assert proposal.parents == (centre,) == (proposal.cell.digest,)
        used.append(centre)
        relaxed = Relaxed(parse_sketch(proposal.supernet["sketch"]), lift=False)
        first = dict.fromkeys(range(len(relaxed.holes)), 0)
        assert relaxed.derived(relaxed.template.complete(first, np.random.default_rng(0))).digest == centre
        assert sum(len(hole.options) - 1 for hole in relaxed.holes) == 4
        assert proposal.supernet["centred"]
        assert proposal.supernet["options"]["steps"] == 9  # a third of the recipe's
        assert (
            proposal.supernet["options"]["keep"] == 5
        )  # all of them, of which the best two that are new count
    assert [proposal.parents for proposal in log.proposals[4:6]] == [log.proposals[3].parents] * 2


def test_what_is_known_is_no_gain_of_a_supernet() -> None:
    searcher = around(keep=1)
    log = Drive(searcher)
    log.go_on(3)
    proposal = asked(searcher, 3)
    assert proposal is not None
    searcher.entered(proposal, 3)
    known, new = log.proposals[0].cell, [RULES.sample(np.random.default_rng(n)) for n in (8, 9)]
    found = tuple(
        {"cell": cell.one_line, "digest": cell.digest, "score": 1.0 + n}
        for n, cell in enumerate((known, *new))
    )
    searcher.tell(replace(ended(proposal, 3, "diverged"), status="supernet", found=found))
    then = asked(searcher, 4)
    assert then is not None
    assert then.cell.digest == new[0].digest
    searcher.entered(then, 4)
    after = asked(searcher, 5)
    assert after is not None
    assert after.supernet is not None


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("trivial", [None, 0.2])
def test_around_cells_it_can_be_killed_at_any_event(trivial: float | None, workers: int) -> None:
    whole = Drive(around(trivial), seed=2, workers=workers)
    whole.go_on(30)
    assert sum(proposal.supernet is not None for proposal in whole.proposals) > 1
    assert ([p.operator for p in whole.proposals[:8]] == ["sample"] * 8) == (trivial is not None)
    log = Drive(around(trivial), seed=2, workers=workers)
    for _ in range(30):
        log.go_on(1)
        log.searcher.ask(np.random.default_rng(5))  # which leaves no trace
        log = log.carried_on(around(trivial))
    assert log.proposals == whole.proposals
    assert log.entries == whole.entries
    digests = [proposal.cell.digest for proposal in whole.proposals if proposal.supernet is None]
    assert len(set(digests)) == len(digests)


def test_seeds_are_trained_first_and_written_down() -> None:
    assert settled_options("oneshot", RULES, {"seeds": "zoo"})["seeds"][0].startswith("cell elman")
    assert settled_options("oneshot", SPACE, {"steps": 1}) == {"steps": 1}
    log = Drive(around(seeds=["zoo:lstm", "zoo:gru"], samples=2))
    log.go_on(3)
    assert [proposal.operator for proposal in log.proposals] == ["seed", "seed", "supernet"]
    assert log.proposals[2].cell.name in ("lstm", "gru")


def test_without_any_score_the_space_is_sampled() -> None:
    log = Drive(around(), score=lambda cell: None)
    log.go_on(10)
    assert [proposal.operator for proposal in log.proposals] == ["sample"] * 10


def operators_after(trivial: float | None, learns: float, **options: Any) -> list[str]:
    """Of a search in which the sixth cell has another score than the rest."""
    told = iter(range(1000))
    log = Drive(around(trivial, **options), score=lambda cell: learns if next(told) == 5 else 0.8)
    log.go_on(9)
    return [proposal.operator for proposal in log.proposals]


def test_samples_go_on_until_a_cell_beats_the_trivial_answer() -> None:
    known = operators_after(0.8, 0.1)
    assert known == [*["sample"] * 6, "supernet", *["uniform drawn"] * 2]
    assert operators_after(0.8, 0.7) == ["sample"] * 9  # not by enough
    assert operators_after(-0.8, 0.1) == ["sample"] * 9  # all are far worse than it
    assert operators_after(0.8, 0.1, samples=7)[:8] == [*["sample"] * 7, "supernet"]
    soon = [*["sample"] * 3, "supernet", *["uniform drawn"] * 2]
    assert operators_after(0.8, 0.1, fresh=0)[:6] == soon
    assert operators_after(None, 0.1)[:6] == soon  # it is not known
    assert operators_after(1.0, 0.1)[:6] == soon  # all are better from the start
    assert operators_after(0.8, 0.1, seeds=["zoo:gru"])[:2] == ["seed", "sample"]


def test_where_no_cell_learns_a_space_without_new_samples_is_left_to_supernets() -> None:
    searcher = around(0.8)
    log = Drive(searcher, score=lambda cell: 0.8)
    log.go_on(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.searchers.around.sample_new", lambda *_: None)
        proposal = asked(searcher)
    assert proposal is not None
    assert proposal.supernet is not None


@pytest.mark.parametrize(("status", "times"), [("oom", 3), ("supernet", 2)])
def test_supernets_that_give_nothing_are_followed_by_as_many_samples(status: str, times: int) -> None:
    log = Drive(around())
    log.go_on(3)
    searcher = log.searcher
    for number in range(times):
        proposal = asked(searcher, number)
        assert proposal is not None
        assert proposal.supernet is not None
        searcher.entered(proposal, 3 + number)
        searcher.tell(replace(ended(proposal, 3 + number, "oom"), status=status))
    log.go_on(4)
    assert [proposal.operator for proposal in log.proposals[3:]] == ["sample"] * 3 + ["supernet"]


@pytest.mark.parametrize("around", ["best", "space"])
def test_supernets_that_fail_and_that_give_nothing_in_turn_come_to_an_end(around: str) -> None:
    small = read_space(
        "space small { limits size <= 12 state vec out -> $new | lin($vec) vec -> tanh(lin(x, $vec)) | $vec + vec }"
    )
    searcher = make_searcher("oneshot", small, {"samples": 2, "depth": 2, "around": around})
    log = Drive(searcher)
    log.go_on(2 if around == "best" else 0)
    for number in range(4):  # failed, dry, failed, dry
        proposal = asked(searcher, number)
        assert proposal is not None
        assert proposal.supernet is not None
        searcher.entered(proposal, 9 + number)
        outcome = ended(proposal, 9 + number, "oom")
        searcher.tell(replace(outcome, status="supernet") if number % 2 else outcome)
    after = asked(searcher, 9)
    assert after is not None
    assert after.operator == "sample"


def test_what_computes_the_same_as_a_centre_is_no_other_centre() -> None:
    first, twin, last = (RULES.sample(np.random.default_rng(n)) for n in (1, 2, 3))
    assert isinstance(RULES, GrammarSpace)
    source = Best(RULES, samples=2, seeds=None, centres=2, changes=3, share=0.125)
    source.cell(Observation(first, first.digest, 1.0, "ok", 0))
    source.cell(Observation(twin, twin.digest, 1.0, "ok", 0, duplicate=True))
    assert source.next(np.random.default_rng(0)) is None  # one score, not two
    source.cell(Observation(last, last.digest, 2.0, "ok", 1))
    centres = set()
    for _ in range(4):
        found = source.next(np.random.default_rng(0))
        assert found is not None
        centres.add(found[2])
        source.entered(Proposal(found[1], "supernet", found[2]))
    assert centres == {(first.digest,), (last.digest,)}


def test_an_unknown_option_is_told_all_there_are() -> None:
    said = r"oneshot: no option 'sample'; did you mean 'samples'.* \(options are supernets, around, .*, backend\)"
    with pytest.raises(SearchError, match=said):
        make_searcher("oneshot", RULES, {"sample": 4})


def test_around_cells_a_small_space_is_searched_to_its_end() -> None:
    tiny = read_space(
        "space tiny { limits size <= 4 state vec out -> $new\n"
        "vec -> tanh(pre) | relu(pre) | sigmoid(pre)\npre: vec -> lin(x, $vec) | lin(x, $vec) + $vec }"
    )
    cells = {tiny.sample(np.random.default_rng(n)).digest for n in range(200)}
    log = Drive(make_searcher("oneshot", tiny, {"samples": 2, "changes": 2, "keep": 1}))
    log.go_on(400)
    assert not log.go_on(1)
    assert {proposal.cell.digest for proposal in log.proposals} == cells
    assert len(log.proposals) < 100


def test_what_is_planned_is_like_what_is_trained() -> None:
    (planned,) = around(cost_limit=1.0).planned()
    assert planned["options"]["cost_limit"] is None  # it depends on the cell
    assert planned["options"]["method"] == "uniform"
    assert "choice{" in planned["sketch"]
    assert planned["space"] == RULES.text
    (seeded,) = around(seeds=["zoo:mgu"]).planned()
    assert seeded["sketch"].startswith("cell mgu")


def test_a_centre_without_neighbours_gives_way() -> None:
    with pytest.MonkeyPatch.context() as patch:
        space, rng = load_space("gated"), np.random.default_rng(0)
        assert isinstance(space, GrammarSpace)
        first, second = space.sample(rng), space.sample(rng)
        sketch = space.neighbourhood(second, rng)

        def neighbourhood(self: GrammarSpace, cell: Cell, *options: object) -> Sketch:
            if cell.digest == first.digest:
                raise SpaceError("it has none")
            return sketch

        patch.setattr(GrammarSpace, "neighbourhood", neighbourhood)
        source = Best(space, samples=2, seeds=None, centres=2, changes=3, share=0.125)
        for number, cell in enumerate((first, second)):
            source.cell(Observation(cell, cell.digest, float(number), "ok", number))
        assert source.next(rng) == (sketch, second, (second.digest,))
