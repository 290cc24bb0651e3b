"""Trials of less than the whole recipe, carried on; metrics, constraints and recipes of proposals."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaign_fakes import (
    SMALL,
    STEPS,
    FakePool,
    begin,
    carry_on,
    first_event,
    gist,
    made_up_costs,
    made_up_latency,
)
from searcher_suite import ToySpace

from grammar import parse, zoo
from nas.campaign import Run, SearchConfig, open_run, stores
from nas.campaign.constraints import Constraint, parse_constraint, violations
from nas.campaign.driver import Campaign
from nas.campaign.journal import JOURNAL, Journal, encode, read
from nas.campaign.workers import Worker
from nas.errors import RunError, SearchError
from nas.searchers import Observation, Proposal, Searcher
from nas.tasks import Recipe
from nas.training import TrialSpec

HALVING = SMALL.replace(method="halving", max_trials=40, seed=2)


class Killed(BaseException):
    """The driver dies here."""


@pytest.fixture
def _quick_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fingerprints, no warnings: they are most of what a refusal costs."""
    monkeypatch.setattr("nas.campaign.proposals.fingerprint", lambda cell: cell.digest)
    monkeypatch.setattr("nas.campaign.proposals.lint", lambda cell: [])


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a Worker sets it


class Script(Searcher):
    """Proposes what it is given, one after the other, and keeps what it is told."""

    def __init__(self, proposals: list[Proposal]) -> None:
        super().__init__(ToySpace())
        self.proposals = proposals
        self.told: list[Observation] = []
        self.trials: list[tuple[Proposal, int]] = []

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The next one."""
        count = len(self.told)
        return self.proposals[count] if count < len(self.proposals) else None

    def entered(self, proposal: Proposal, trial: int) -> None:
        """Keep it."""
        self.trials.append((proposal, trial))

    def tell(self, observation: Observation) -> None:
        """Keep it."""
        self.told.append(observation)


def run_script(
    folder: Path, *proposals: Proposal, config: SearchConfig = SMALL, pool: FakePool | None = None
) -> tuple[Script, Run, FakePool]:
    journal, event = Journal.create(folder, first_event(config))
    script, pool = Script(list(proposals)), pool or FakePool()
    try:
        campaign = Campaign(journal, [event], script, pool, clock=pool.clock, costs=made_up_costs)
        return script, campaign.run(), pool
    finally:
        journal.close()


CELL = ToySpace().cell((0, 0, 0))
OTHER = ToySpace().cell((1, 1, 1))


def test_a_trial_is_carried_on_from_its_snapshot(tmp_path: Path) -> None:
    ways = [
        Proposal(CELL, "a", steps=3),
        Proposal(CELL, "b", (CELL.digest,), 9, 0),
        Proposal(CELL, "c", (), None, 1),
    ]
    script, run, pool = run_script(tmp_path / "run", *ways)
    assert [(t.until, t.continues, t.start) for t in run.trials] == [(3, None, 0), (9, 0, 3), (None, 1, 9)]
    assert [job.spec.until for job in pool.submitted[:3]] == [3, 9, None]
    assert [job.snapshot for job in pool.submitted[:3]] == [True, True, False]
    assert [seen.steps for seen in script.told] == [3, 9, STEPS]
    assert script.trials == list(zip(ways, range(3), strict=True))
    assert len({t.fingerprint for t in run.trials}) == 1
    assert (
        run.trials[2].metrics
        == run.trials[0].metrics
        == made_up_costs(CELL.canonical(), pool.submitted[0].spec.recipe)
    )
    assert [trial.id for trial in run.top()] == [2]  # the others went on in it
    assert [c.trial for c in run.finalists] == [2]
    assert not (tmp_path / "run" / stores.SNAPSHOTS).exists()


def test_snapshots_go_when_they_are_no_longer_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "KEPT", 2)
    seen: list[set[str]] = []

    def look(event: Any, run: Run) -> None:
        if event["event"] == "start":
            seen.append({p.name for p in (tmp_path / "run" / stores.SNAPSHOTS).glob("*")})

    config = HALVING.replace(options={"rungs": 2})
    run = begin(tmp_path / "run", config, on_event=look)
    assert run.finished
    assert max(map(len, seen)) == 2
    best = sorted((t for t in run.trials if t.until), key=lambda t: t.score or 9.0)
    assert any(f"trial-{best[0].id}" in names for names in seen)
    assert {t.start for t in run.trials if t.continues is not None} <= {0, 9}


def test_without_its_snapshot_a_trial_starts_anew(tmp_path: Path) -> None:
    whole = begin(tmp_path / "whole", HALVING)
    bare = begin(
        tmp_path / "bare",
        HALVING,
        on_event=lambda event, run: (
            stores.Snapshots(run.path).clear() if event["event"] == "finish" else None
        ),
    )
    assert gist(bare) == gist(whole)
    assert any(trial.start for trial in whole.trials)
    assert not any(trial.start for trial in bare.trials)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("halving", {"proposer": "evolution", "proposer.samples": 3}),
        ("hyperband", {"rungs": 3}),
        ("nsga2", {"population": 4}),
    ],
)
def test_killed_at_any_event_and_resumed_it_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, options: dict[str, Any]
) -> None:
    config = SMALL.replace(
        method=method, options=options, max_trials=12, constraints=("params<=900",), seeds=1
    )
    whole = begin(tmp_path / "whole", config)
    lines = len(read(tmp_path / "whole").events)
    write = Journal._write
    for line in range(2, lines + 1, 3):

        def dying(journal: Journal, content: bytes, line: int = line) -> None:
            if journal._lines + 1 >= line:
                raise Killed("the driver dies")
            write(journal, content)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "_write", dying)
            with pytest.raises(Killed, match="the driver dies"):
                begin(tmp_path / f"{line}", config)
        assert gist(carry_on(tmp_path / f"{line}")) == gist(whole)


def test_the_best_are_those_trained_furthest(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", HALVING)
    ranked = run.top()
    untils = [trial.until or STEPS for trial in ranked]
    assert untils == sorted(untils, reverse=True)
    assert untils[0] == STEPS
    continued = {trial.continues for trial in run.trials}
    assert not continued & {trial.id for trial in ranked}


def test_promotions_are_the_best_third_of_each_rung(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", HALVING.replace(max_trials=60))
    for steps, above in ((1, 3), (3, 9), (9, None)):
        rung = sorted((t for t in run.trials if t.until == steps), key=lambda t: (t.score or 9.0, t.id))
        promoted = {t.continues for t in run.trials if t.until == above and t.continues is not None}
        assert len(promoted) >= len(rung) // 3 - 1
        assert {t.id for t in rung[: len(promoted) // 2]} <= promoted  # those that came early may be others


def test_proposals_that_make_no_sense_name_the_method(tmp_path: Path) -> None:
    bad = [
        (Proposal(CELL, "a", steps=STEPS + 1), r"proposed to train 28 steps; the recipe has 27"),
        (
            Proposal(CELL, "a", steps=9, continues=0),
            "proposed to carry on trial 0, which is not one of the same cell",
        ),
        (Proposal(OTHER, "a", steps=9, continues=0), "proposed to carry on trial 0"),
        (Proposal(CELL, "a", recipe={"steps": 4}), "a recipe with its own steps"),
        (
            Proposal(CELL, "a", recipe={"lr": -1.0}),
            "a recipe that makes no sense: recipe: lr must be above 0",
        ),
    ]
    for number, (proposal, message) in enumerate(bad):
        with pytest.raises(SearchError, match=message):
            run_script(tmp_path / f"{number}", Proposal(CELL, "first", steps=9), proposal)


def test_a_cell_is_a_duplicate_only_of_one_trained_alike(tmp_path: Path) -> None:
    ways = [
        Proposal(CELL, "a"),
        Proposal(CELL, "b", recipe={"lr": 0.2}),
        Proposal(CELL, "c", steps=9),
        Proposal(CELL, "d", recipe={"lr": 0.2}),
        Proposal(CELL, "e", steps=STEPS, recipe={"lr": 0.1}),  # the recipe as it is
    ]
    script, _, pool = run_script(tmp_path / "run", *ways)
    assert [seen.duplicate for seen in script.told] == [False, False, False, True, True]
    assert [seen.trial for seen in script.told] == [0, 1, 2, 1, 0]
    assert [seen.recipe for seen in script.told] == [None, {"lr": 0.2}, None, {"lr": 0.2}, None]
    assert [job.spec.recipe.lr for job in pool.submitted[:3]] == [0.1, 0.2, 0.1]


def test_a_finalist_is_retrained_with_its_recipe(tmp_path: Path) -> None:
    config = SMALL.replace(finalists=1)
    _, run, pool = run_script(tmp_path / "run", Proposal(CELL, "b", recipe={"lr": 0.2}), config=config)
    assert run.finalists[0].recipe == {"lr": 0.2}
    rates = {job.key.split("-seed")[0]: job.spec.recipe.lr for job in pool.submitted if "seed" in job.key}
    assert rates == {"trial-0": 0.2, "gru": 0.1}


# ---- constraints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("params<=20000", "params", 2e4),
        (" params <= 20k", "params", 2e4),
        ("flops<=1.5M", "flops", 1.5e6),
        ("latency_us<=5e1", "latency_us", 50.0),
        ("latency_us<=2.5E-05", "latency_us", 2.5e-5),
        ("flops<=1e+15", "flops", 1e15),
        ("params<=1000000G", "params", 1e15),
    ],
)
def test_constraints_are_read(text: str, metric: str, limit: float) -> None:
    found = parse_constraint(text)
    assert found == Constraint(metric, limit)
    assert parse_constraint(str(found)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params<20", "'params<20' is not of the form metric<=number"),
        ("size<=20", "there is no metric 'size'; metrics are params, flops, "),
        ("params<=1.2.3", "'1.2.3' is not a number"),
        ("params<=1e+-5", "is not of the form"),
        ("params<=1e+999", "'1e.999' is not a number"),
        ("params", "'params' is not of the form"),
    ],
)
def test_bad_constraints_are_refused(text: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        SearchConfig(constraints=(text,))


def test_violations_give_the_values() -> None:
    limits = [parse_constraint("params<=10"), parse_constraint("flops<=5"), parse_constraint("latency_us<=1")]
    assert violations(limits, {"params": 10.0, "flops": 6.5}) == ["flops<=5 (is 6.5)"]
    assert violations(limits, {"params": float("nan"), "flops": 1.0}) == ["params<=10 (is nan)"]


@pytest.mark.usefixtures("_quick_entry")
@pytest.mark.parametrize(
    ("method", "trials"),
    [
        ("evolution", 40),
        ("nsga2", 40),
        ("halving", 40),
        pytest.param("nsga2", 400, marks=pytest.mark.slow),
        pytest.param("random", 400, marks=pytest.mark.slow),
    ],
)
def test_what_violates_a_constraint_is_never_trained_or_reported(
    tmp_path: Path, method: str, trials: int
) -> None:
    space = ToySpace(shifts=400)
    config = SMALL.replace(
        method=method,
        max_trials=trials,
        budget=1e6,
        constraints=("params<=350", "latency_us<=5"),
        finalists=3,
    )
    pool = FakePool(slots=1)
    run = begin(tmp_path / "run", config, pool, space=space)
    assert run.asks > 2.5 * trials  # more than 1,000 in the slow tier
    assert run.refused > trials
    for job in pool.submitted:
        if job.key.startswith("trial-") and "seed" not in job.key:
            assert made_up_costs(parse(job.spec.cell), job.spec.recipe)["params"] <= 350
    trained = [trial for trial in run.trials if trial.status == "ok"]
    assert len(trained) > trials / 4
    for trial in [*trained, *run.top(), *run.front(), *(run.trials[c.trial or 0] for c in run.finalists)]:
        assert trial.metrics["params"] <= 350
        assert trial.metrics["latency_us"] <= 5
        assert trial.metrics["latency_us"] == made_up_latency(trial.canonical)
    slow = [trial for trial in run.trials if trial.status == "constraint"]
    assert slow
    assert all(trial.score is None for trial in slow)
    assert run.failures["constraint"] == len(slow)


def test_a_searcher_learns_of_refusals(tmp_path: Path) -> None:
    costs = made_up_costs(CELL.canonical(), Recipe(STEPS, 1, 1, 0.1))
    config = SMALL.replace(constraints=(f"params<={costs['params'] - 1}",))
    script, run, pool = run_script(
        tmp_path / "run", Proposal(CELL, "a"), Proposal(CELL, "again"), config=config
    )
    assert [(seen.status, seen.trial, seen.score) for seen in script.told] == [("refused", None, None)] * 2
    assert script.told[0].metrics == costs == script.told[1].metrics
    assert [event["violates"] for event in read(tmp_path / "run").events if event["event"] == "refuse"] == [
        [f"params<={costs['params'] - 1:g} (is {costs['params']:g})"]
    ] * 2
    assert not pool.submitted
    assert run.refused == 2


def test_a_search_in_which_all_violate_ends(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", SMALL.replace(constraints=("params<=0",)))
    assert run.search_end in ("refusals", "exhausted")
    assert not run.trials


@pytest.mark.usefixtures("_quick_entry")
def test_a_search_in_which_all_are_over_what_is_measured_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.campaign.driver.REFUSALS", 8)
    config = SMALL.replace(constraints=("latency_us<=0", "params<=800"), max_trials=None, budget=1e6)
    run = begin(tmp_path / "run", config, space=ToySpace(shifts=40))
    assert run.search_end == "refusals"
    assert {trial.status for trial in run.trials} == {"constraint"}
    assert len(run.trials) >= 3  # a refusal before the measurement counts for as much
    assert gist(open_run(tmp_path / "run")) == gist(run)
    assert not run.top()


def test_what_is_no_proposal_is_said(tmp_path: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        (CELL, "method random proposed a Cell; `ask` gives a Proposal or None"),
        (Proposal(CELL.one_line, "a"), "proposed a str for a cell; parse it first"),  # type: ignore[arg-type]
        (Proposal(CELL, "a", (CELL,)), "proposed parents that are no digests"),  # type: ignore[arg-type]
        (Proposal(CELL, "a", CELL.digest), "proposed parents that are no digests"),  # type: ignore[arg-type]
    ]
    for number, (proposal, message) in enumerate(wrong):
        with pytest.raises(SearchError, match=message):
            run_script(tmp_path / f"{number}", proposal)


# ---- the front --------------------------------------------------------------------------------


def test_the_front_is_what_no_other_beats(tmp_path: Path) -> None:
    config = SMALL.replace(
        method="nsga2", options={"objectives": "loss,params", "population": 5}, max_trials=30
    )
    run = begin(tmp_path / "run", config)
    assert run.objectives == ("loss", "params")
    points = {t.id: (t.score or 0.0, t.metrics["params"]) for t in run.trials}
    better = {
        i: any(p[0] <= q[0] and p[1] <= q[1] and p != q for p in points.values()) for i, q in points.items()
    }
    assert {t.id for t in run.front()} == {i for i, beaten in better.items() if not beaten}
    scores = [t.score or 0.0 for t in run.front()]
    assert scores == sorted(scores)
    assert [c.trial for c in run.finalists] == [t.id for t in run.front()[:2]]
    assert open_run(tmp_path / "run").front() == run.front()


def test_a_search_for_the_loss_has_the_best_alone_as_its_front(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    assert run.objectives == ("loss",)
    assert run.front() == run.top(1)


def test_latency_is_measured_where_the_searcher_needs_it(tmp_path: Path) -> None:
    options = {"objectives": "loss,latency_us", "population": 3}
    pool = FakePool()
    run = begin(tmp_path / "run", SMALL.replace(method="nsga2", options=options), pool)
    assert all(trial.metrics["latency_us"] == made_up_latency(trial.canonical) for trial in run.trials)
    assert all(job.limits == {} for job in pool.submitted if "seed" in job.key)
    other = begin(tmp_path / "other", SMALL)
    assert all("latency_us" not in trial.metrics for trial in other.trials)


# ---- workers ----------------------------------------------------------------------------------

WANTED: dict[str, Any] = {"test": False, "keep": False, "snapshot": False, "carry_on": {}, "limits": {}}


def real_spec() -> TrialSpec:
    """A short training of the GRU on parity."""
    recipe = Recipe(steps=8, batch_size=4, sequence_length=6, lr=0.01)
    return TrialSpec(zoo("gru").canonical().one_line, "parity", recipe, size="smoke", width=8)


def test_a_worker_measures_before_it_trains() -> None:
    worker, spec = Worker("nas.training:train"), real_spec().to_dict()
    answer = worker.run(spec, {**WANTED, "limits": {"latency_us": 1e-6}})
    assert answer["failure"] == "constraint"
    assert answer["metrics"]["latency_us"] > 0
    assert re.fullmatch(r"latency_us<=1e-06 \(is [0-9.e+]+\)", answer["message"])
    answer = worker.run(spec, {**WANTED, "limits": {"latency_us": float("inf")}})
    assert answer["result"]["status"] == "ok"
    assert answer["metrics"]["latency_us"] > 0


def test_a_worker_carries_on_and_starts_anew_where_the_snapshot_is_damaged() -> None:
    worker, spec = Worker("nas.training:train"), real_spec()
    straight = worker.run(spec.to_dict(), WANTED)["result"]
    half = worker.run(spec.replace(until=4).to_dict(), {**WANTED, "snapshot": True})
    assert list(half["files"]) == ["snapshot.safetensors"]
    whole = half["files"]["snapshot.safetensors"]
    for content, start in ((whole, 4), (whole[:-50], 0), (b"", 0)):
        wanted = {**WANTED, "carry_on": {"snapshot.safetensors": content}}
        result = worker.run(spec.to_dict(), wanted)["result"]
        assert result["start"] == start
        assert (result["score"], result["curve"]) == (straight["score"], straight["curve"])


# ---- older journals ---------------------------------------------------------------------------


def test_a_run_of_schema_2_is_carried_on(tmp_path: Path) -> None:
    config = SMALL.replace(method="evolution", options={"samples": 3}, seed=5)
    whole = begin(tmp_path / "whole", config)
    events = [dict(event) for event in read(tmp_path / "whole").events]
    kept = events[
        : next(i for i, event in enumerate(events) if event["event"] == "start" and event["trial"] == 4)
    ]
    for event in kept:
        for name in ("crc", "metrics", "start", "objectives"):
            event.pop(name, None)
    kept[0]["schema"] = 2
    for name in ("width", "constraints"):
        del kept[0]["config"][name]
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / JOURNAL).write_bytes(b"".join(encode(event) for event in kept))
    run = carry_on(folder)
    assert run.finished
    assert gist(run) == gist(whole)
    assert (run.trials[0].until, run.trials[0].recipe, run.objectives) == (None, None, ("loss",))
    assert read(folder).events[0]["schema"] == 2
