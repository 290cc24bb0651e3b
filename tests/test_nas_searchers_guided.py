from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from predictor_fixtures import small
from searcher_suite import ToySpace, drive

from grammar import Cell, zoo
from nas.errors import SearchError
from nas.searchers import Observation, make_searcher
from nas.searchers.encodings import Encodings, encodings, untrained_score
from nas.searchers.guided import ACQUISITIONS, Guided, expected_improvement, losses
from predictors import encode, encoding_names
from search_spaces import load_space

SPACE = ToySpace()
SMALL: dict[str, Any] = {"candidates": 12, "every": 3}


def by_genes(cell: Cell) -> float:
    """A smooth score: relu and a gate that sees the state alone are best, and little shift."""
    gate, act, shift = SPACE.genes(cell)
    return 1.0 + abs(gate - 1) + abs(act - 1) + 0.3 * shift


def told(searcher: Guided, *scores: float | None, status: str = "ok") -> None:
    for index, score in enumerate(scores):
        cell = SPACE.cell((index, index // 3, index // 12))
        searcher.tell(
            Observation(cell, cell.digest, score, status if score is not None else "diverged", index)
        )


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_it_finds_good_cells_sooner_than_chance(acquisition: str) -> None:
    totals = []
    for method, options in (("random", {}), ("guided", {**SMALL, "acquisition": acquisition})):
        found = [
            score
            for seed in range(3)
            for o in drive(make_searcher(method, SPACE, options), 16, seed, by_genes)[1][8:]
            if (score := o.score) is not None
        ]
        totals.append(np.mean(found))
    assert totals[1] < totals[0] - 0.2


def test_first_come_the_known_cells_that_the_space_claims() -> None:
    class Claiming(ToySpace):
        claims = ("gru_cho", "elman")

    found = drive(make_searcher("guided", Claiming(), SMALL), 3)[0]
    assert [(p.cell, p.operator) for p in found[:2]] == [(zoo("gru_cho"), "zoo"), (zoo("elman"), "zoo")]
    assert found[2].operator == "sample"
    without = make_searcher("guided", Claiming(), {**SMALL, "zoo": False}).ask(np.random.default_rng(0))
    assert without is not None
    assert without.operator == "sample"


def test_samples_are_chosen_by_what_is_free_until_there_are_trials() -> None:
    searcher = Guided(SPACE, cold=48)
    best = min(
        (SPACE.cell((g, a, s)) for g in range(3) for a in range(4) for s in range(4)),
        key=lambda cell: float(untrained_score(encodings()([cell]))[0]),
    )
    chosen = [searcher.ask(np.random.default_rng(seed)) for seed in range(6)]
    assert sum(made is not None and made.cell is best for made in chosen) >= 2
    blind = Guided(SPACE, cold=48, features=("statistics", "flow"))
    assert blind.cold == 1


def test_it_learns_anew_when_due() -> None:
    sizes = []
    for count in (7, 8, 11, 12, 17):
        searcher = Guided(SPACE, every=4, candidates=2)
        told(searcher, *[float(n) for n in range(count)])
        searcher.ask(np.random.default_rng(0))
        sizes.append(searcher._fitted[0])
    assert sizes == [0, 8, 8, 12, 16]


def test_failed_trials_are_worse_than_any() -> None:
    trials = [Observation(zoo("elman"), "d", score, "ok", 0) for score in (2.0, None, float("inf"), 1.0)]
    assert losses(trials).tolist() == [2.0, 3.0, 3.0, 1.0]


def test_trials_that_say_nothing_of_the_loss_are_not_learnt_from() -> None:
    searcher = Guided(SPACE)
    for status in ("infrastructure", "refused", "timeout", "oom"):
        cell = SPACE.cell((0, 0, len(searcher._told)))
        searcher.tell(Observation(cell, cell.digest, None, status, None))
    assert len(searcher._told) == 4
    assert not searcher._learnt


def test_all_alike_is_nothing_to_learn_from() -> None:
    searcher = Guided(SPACE)
    told(searcher, *[1.0] * 12)
    made = searcher.ask(np.random.default_rng(0))
    assert made is not None
    assert made.operator == "sample"


def test_expected_improvement_is_the_mean_of_what_is_gained() -> None:
    drawn = np.random.default_rng(0).normal(0.3, 0.7, size=400_000)
    found = expected_improvement(np.array([0.3, -50.0, 2.0]), np.array([0.7, 0.1, 0.0]))
    assert found[0] == pytest.approx(np.maximum(drawn, 0).mean(), rel=0.01)
    assert found[1] == 0
    assert found[2] == pytest.approx(2.0)


def test_cells_and_recipes_are_searched_together() -> None:
    searcher = Guided(SPACE, recipe="lr,dropout", **SMALL)
    searcher.begin({"lr": 0.01, "dropout": 0.0, "steps": 100})
    seen, operators = set(), set()
    for number in range(16):
        made = searcher.ask(np.random.default_rng(number))
        assert made is not None
        assert made.recipe is not None
        assert set(made.recipe) == {"lr", "dropout"}
        assert 0.00125 <= made.recipe["lr"] <= 0.08
        assert 0 <= made.recipe["dropout"] <= 0.5
        score = by_genes(made.cell) + 3 * abs(np.log(made.recipe["lr"] / 0.03))
        digest = made.cell.digest
        searcher.tell(
            Observation(made.cell, digest, score, "ok", number, made.operator, recipe=dict(made.recipe))
        )
        seen.add(made.recipe["lr"])
        operators.add(made.operator)
    assert len(seen) > 8
    assert len(searcher._learnt) >= 15


def test_without_a_campaign_cells_alone_are_searched() -> None:
    made = Guided(SPACE, recipe="lr").ask(np.random.default_rng(0))
    assert made is not None
    assert made.recipe is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be a whole number of at least 1, got 0"),
        ({"cold": True}, "cold must be a whole number of at least 1, got True"),
        ({"acquisition": "pi"}, "acquisition must be one of ucb, ei, thompson; got 'pi'"),
        ({"fresh": 1.5}, "fresh must be a probability, got 1.5"),
        ({"features": "graph"}, "features are of statistics, flow, probes; received 'graph'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        make_searcher("guided", SPACE, options)


def test_transfer_begins_with_what_another_task_knows(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictors.shipping.FOLDER", tmp_path)
    with pytest.raises(SearchError, match="guided: transfer=text: no predictor comes with this copy"):
        make_searcher("guided", SPACE, {"transfer": "text"})
    small().save(tmp_path / "text.recell")
    with pytest.raises(SearchError, match="transfer needs all features"):
        make_searcher("guided", SPACE, {"transfer": "text", "features": "flow"})
    searcher = Guided(SPACE, transfer="text", cold=48)
    everyone = [SPACE.cell((g, a, s)) for g in range(3) for a in range(4) for s in range(4)]
    good = np.quantile(small().predict(everyone).rank, 0.15)
    chosen = [made.cell for seed in range(3) if (made := searcher.ask(np.random.default_rng(seed)))]
    assert (small().predict(chosen).rank <= good).all()
    told(searcher, *[float(n) for n in range(9)])
    assert searcher.ask(np.random.default_rng(0)) is not None
    fitted = searcher._fitted[1]
    assert fitted is not None
    assert fitted.prior is searcher.base is not None


# ---- rows -------------------------------------------------------------------------------------


def test_rows_are_those_of_encode_with_zeros_for_what_is_left_out() -> None:
    cells = [zoo("lstm"), zoo("mgu"), zoo("lstm")]
    assert np.array_equal(Encodings()(cells), encode(cells))
    some = Encodings(("flow",))(cells)
    flow = np.array([name.startswith("flow.") for name in encoding_names()])
    assert np.array_equal(some[:, flow], encode(cells, ("flow",)))
    assert not some[:, ~flow].any()


def test_rows_are_kept_in_a_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "rows.npz"
    first, second, other = Encodings(), Encodings(), Encodings(("flow",))
    assert not second.load(path)
    rows = first([zoo("lstm")])
    first.save(path)
    assert second.load(path)
    assert not other.load(path)
    monkeypatch.setattr("nas.searchers.encodings.encode", lambda *given: pytest.fail("encoded again"))
    assert np.array_equal(second([zoo("lstm")]), rows)


def test_old_rows_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.searchers.encodings.MOST", 2)
    held = Encodings(("statistics",))
    held([zoo("lstm"), zoo("mgu"), zoo("elman")])
    assert list(held._rows) == [zoo("mgu").digest, zoo("elman").digest]


def test_the_untrained_score_prefers_cells_that_answer_to_their_input() -> None:
    from grammar import parse

    deaf = parse(
        "cell c { state h: vec; state g: vec; g' = tanh(lin(x)); h' = 0.001 * tanh(lin(h, g)); out h' + 1 }"
    )
    lstm, slow = untrained_score(encodings()([zoo("lstm"), deaf]))
    assert lstm < slow


def test_two_workers_begin_with_two_known_cells() -> None:
    searcher = make_searcher("guided", load_space("gated"))
    first = searcher.ask(np.random.default_rng(0))
    assert first is not None
    searcher.entered(first, 0)
    second = searcher.ask(np.random.default_rng(1))
    assert second is not None
    assert (first.operator, second.operator) == ("zoo", "zoo")
    assert first.cell.digest != second.cell.digest
