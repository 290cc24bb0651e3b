from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaign_fakes import SMALL, Clock, FakePool, begin, carry_on, first_event, gist
from searcher_suite import ToySpace

from nas.campaign import Event, Run, open_run
from nas.campaign.driver import ATTEMPTS, DEATHS, DUPLICATES, FAILURES, Campaign, Sitting
from nas.campaign.journal import Journal, read
from nas.campaign.pool import Ending, Job
from nas.errors import RunError, SearchError
from nas.searchers import Observation, Proposal, Searcher, make_searcher
from nas.training import TrialResult


class Killed(BaseException):
    """The driver dies here."""


def events_of(folder: Path, *names: str) -> list[Event]:
    return [event for event in read(folder).events if event["event"] in names]


class Parrot(Searcher):
    """Proposes one cell for ever, and keeps what it is told."""

    def __init__(self, space: ToySpace) -> None:
        super().__init__(space)
        self.told: list[Observation] = []

    def ask(self, rng: np.random.Generator) -> Proposal | None:
        """The one cell."""
        return Proposal(ToySpace().cell((0, 0, 0)), "sample")

    def tell(self, observation: Observation) -> None:
        """Keep it."""
        self.told.append(observation)


def repeat_one_cell(folder: Path, pool: FakePool) -> tuple[Parrot, Run]:
    journal, event = Journal.create(folder, first_event(SMALL))
    parrot = Parrot(ToySpace())
    try:
        return parrot, Campaign(journal, [event], parrot, pool, clock=pool.clock).run()
    finally:
        journal.close()


class Broken(Parrot):
    """Has a bug in `tell`."""

    def tell(self, observation: Observation) -> None:
        """Fail."""
        raise TypeError("no such sum")


@pytest.mark.parametrize(
    ("method", "options"), [("mine:Broken", {}), ("halving", {"proposer": "mine:Broken"}), ("random", {})]
)
def test_what_a_searcher_of_the_users_own_raises_is_said_to_be_its(
    tmp_path: Path, method: str, options: dict[str, str]
) -> None:
    event = first_event(SMALL)
    event["config"] |= {"method": method, "options": options}
    journal, event = Journal.create(tmp_path / "run", event)
    pool = FakePool()
    own = rf"^searcher mine:Broken raised TypeError: no such sum \({__file__}, line \d+\)$"
    wanted, said = (TypeError, "^no such sum$") if method == "random" else (SearchError, own)
    try:
        with pytest.raises(wanted, match=said):
            Campaign(journal, [event], Broken(ToySpace()), pool, clock=pool.clock).run()
    finally:
        journal.close()
    assert events_of(tmp_path / "run", "stop")[-1]["reason"] == "error"


def kill_at(monkeypatch: pytest.MonkeyPatch, line: int, torn: bool) -> None:
    """From this line on nothing more is written; of the line itself a part is, if `torn`."""
    write = Journal._write

    def dying(journal: Journal, content: bytes) -> None:
        if journal._lines + 1 < line:
            write(journal, content)
            return
        if torn and journal._lines + 1 == line:
            write(journal, content[: len(content) // 2])
        journal._lines = 10**6
        raise Killed("the driver dies")

    monkeypatch.setattr(Journal, "_write", dying)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_a_whole_run(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    assert run.finished
    assert run.search_end == "trials"
    assert [trial.status for trial in run.trials] == ["ok"] * 6
    assert len({trial.digest for trial in run.trials}) == 6
    best = min(run.trials, key=lambda trial: trial.score or 9.0)
    assert run.best == best
    assert [c.trial for c in run.finalists] == [trial.id for trial in run.top(2)]
    assert [c.name for c in run.baselines] == ["gru"]
    for contender in run.contenders:
        assert contender.retrained
        assert [training.seed for training in contender.trainings] == [1, 2]
        for training in contender.trainings:
            assert training.score is not None
            assert training.test_score == training.score + 0.125
            assert training.weights == f"weights/{training.key}"
            kept = (tmp_path / "run" / training.weights / "weights.safetensors").read_bytes()
            assert kept == training.key.encode()
    assert gist(open_run(tmp_path / "run")) == gist(run)
    assert not [name for name in os.listdir(tmp_path / "run" / "weights") if name.startswith(".")]


def test_trials_train_the_canonical_form_with_one_seed_and_never_see_the_test_split(tmp_path: Path) -> None:
    pool = FakePool()
    run = begin(tmp_path / "run", SMALL.replace(seed=7), pool)
    for job in pool.submitted:
        if "seed" in job.key:
            assert (job.test, job.keep) == (True, True)
            assert job.spec.seed in (8, 9)
        else:
            assert (job.test, job.keep, job.spec.seed) == (False, False, 7)
    assert [job.spec.cell for job in pool.submitted[:6]] == [trial.canonical for trial in run.trials]


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("method", ["random", "evolution"])
def test_killed_at_any_event_and_resumed_it_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, torn: bool
) -> None:
    options = {"samples": 3} if method == "evolution" else {}
    config = SMALL.replace(method=method, options=options, seed=3)
    whole = gist(begin(tmp_path / "whole", config))
    lines = len(read(tmp_path / "whole").events)
    for line in range(2, lines + 1):
        folder = tmp_path / f"killed-{line}"
        first, second = FakePool(), FakePool()
        with monkeypatch.context() as patch:
            kill_at(patch, line, torn)
            with pytest.raises(Killed, match="the driver dies"):
                begin(folder, config, first)
        done = {e.get("key") or f"trial-{e['trial']}" for e in events_of(folder, "finish", "retrain_finish")}
        assert read(folder).torn is torn
        assert gist(carry_on(folder, second)) == whole
        assert not done & {job.key for job in second.submitted}
        assert len(events_of(folder, "finish")) == config.max_trials


def test_killed_again_and_again_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gist(begin(tmp_path / "whole"))
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(patch, 4, torn=True)
        with pytest.raises(Killed, match="the driver dies"):
            begin(folder)
    for _ in range(60):
        with monkeypatch.context() as patch:
            kill_at(patch, len(read(folder).events) + 4, torn=True)
            try:
                run = carry_on(folder)
            except Killed:
                continue
            break
    else:
        pytest.fail("never ended")
    assert gist(run) == whole


def test_a_trial_in_flight_at_the_kill_is_started_again_with_the_same_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = FakePool(slots=2), FakePool(slots=2)
    config = SMALL.replace(workers=2)
    with monkeypatch.context() as patch:
        kill_at(patch, 7, torn=False)
        with pytest.raises(Killed, match="the driver dies"):
            begin(tmp_path / "run", config, first)
    flying = [t.id for t in open_run(tmp_path / "run").trials if t.status == "running"]
    carry_on(tmp_path / "run", second)
    assert flying
    again = {job.key: job.spec for job in second.submitted[: len(flying)]}
    before = {job.key: job.spec for job in first.submitted}
    assert again == {f"trial-{n}": before[f"trial-{n}"] for n in flying}


def test_several_workers_lose_and_repeat_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.replace(workers=3, max_trials=9)

    def pool() -> FakePool:
        return FakePool(slots=3, seconds=lambda job: 5.0 + hash(job.spec.cell) % 7)

    for line in (6, 11, 17, 23, 30, 36):
        folder = tmp_path / f"killed-{line}"
        with monkeypatch.context() as patch:
            kill_at(patch, line, torn=False)
            with pytest.raises(Killed, match="the driver dies"):
                begin(folder, config, pool())
        run = carry_on(folder, pool())
        finished = [event["trial"] for event in events_of(folder, "finish")]
        assert sorted(finished) == list(range(9))
        assert run.finished
        assert all(contender.retrained for contender in run.contenders)


def test_interrupt_stops_cleanly_and_says_so(tmp_path: Path) -> None:
    whole = gist(begin(tmp_path / "whole"))

    def interrupt(event: Event, run: Run) -> None:
        if event["event"] == "start" and event["trial"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    run = begin(tmp_path / "run", on_event=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert not run.finished
    assert run.stopped is not None
    assert run.stopped["reason"] == "interrupted"
    assert run.status()["state"] == "stopped"
    assert run.status()["pending"] == 1
    assert gist(carry_on(tmp_path / "run")) == whole


def test_duplicates_are_answered_from_the_record(tmp_path: Path) -> None:
    script = failing("diverged", {"trial-0": 1})
    parrot, run = repeat_one_cell(tmp_path / "run", FakePool(script=script))
    assert {(o.score, o.status, o.trial) for o in parrot.told} == {(None, "diverged", 0)}
    parrot, run = repeat_one_cell(tmp_path / "other", FakePool())
    assert run.search_end == "duplicates"
    assert (len(run.trials), run.duplicates) == (1, DUPLICATES)
    assert [o.duplicate for o in parrot.told] == [False] + [True] * DUPLICATES
    assert {(o.score, o.status, o.trial) for o in parrot.told} == {(run.trials[0].score, "ok", 0)}


def test_a_searcher_is_told_the_trivial_score_before_it_begins(tmp_path: Path) -> None:
    seen: list[float | None] = []

    class Asker(Parrot):
        def begin(self, recipe: Mapping[str, Any]) -> None:
            seen.append(self.trivial_score)

    journal, event = Journal.create(tmp_path / "run", first_event(SMALL))
    Campaign(journal, [event], Asker(ToySpace()), FakePool())
    journal.close()
    assert seen == [event["task"]["trivial_score"]] == [1.0]


def test_a_proposal_that_is_running_already_waits_for_it(tmp_path: Path) -> None:
    pool = FakePool(slots=2, seconds=lambda job: 30.0)
    parrot, run = repeat_one_cell(tmp_path / "run", pool)
    assert len(run.trials) == 1
    assert [o.duplicate for o in parrot.told] == [False] + [True] * DUPLICATES
    assert run.duplicates == 2 * DUPLICATES


def test_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    space = ToySpace(shifts=1)
    run = begin(tmp_path / "run", SMALL.replace(max_trials=50), space=space)
    assert run.search_end == "exhausted"
    assert len(run.trials) == space.size
    assert all(contender.retrained for contender in run.contenders)


def test_the_order_of_events(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    names = [event["event"] for event in read(tmp_path / "run").events]
    assert names[:4] == ["config", "sitting", "ask", "start"]
    assert names[-1] == "stop"
    assert names.index("search_end") < names.index("finalists") < names.index("retrain_start")
    actives = [event["active"] for event in read(tmp_path / "run").events]
    assert actives == sorted(actives)
    assert actives[3] == 0.0


def failing(kind: str, keys: Mapping[str, int]) -> Any:
    """A script in which the first starts of some jobs end with a failure."""

    def script(job: Job, start: int) -> Ending | None:
        return Ending(job.key, None, kind, "made up") if start < keys.get(job.key, 0) else None

    return script


def test_a_trial_whose_worker_died_is_run_again(tmp_path: Path) -> None:
    whole = gist(begin(tmp_path / "whole"))
    script = failing("infrastructure", {"trial-1": 2, "gru-seed-1": 1})
    run = begin(tmp_path / "run", pool=FakePool(script=script))
    assert gist(run) == whole
    assert run.trials[1].attempts == 2
    assert [e["retry"] for e in events_of(tmp_path / "run", "fail")] == [True, True]


def test_a_trial_that_kills_its_workers_fails_in_the_end(tmp_path: Path) -> None:
    pool = FakePool(script=failing("infrastructure", {"trial-1": 99}))
    run = begin(tmp_path / "run", pool=pool)
    assert run.finished
    assert run.trials[1].status == "infrastructure"
    assert run.failures == {"infrastructure": 1}
    assert pool.starts["trial-1"] + 1 == ATTEMPTS


@pytest.mark.parametrize("kind", ["oom", "timeout", "invalid"])
def test_other_failures_are_not_retried(tmp_path: Path, kind: str) -> None:
    pool = FakePool(script=failing(kind, {"trial-1": 99, "trial-4": 99}))
    run = begin(tmp_path / "run", pool=pool)
    assert run.failures == {kind: 2}
    assert pool.starts["trial-1"] == 0
    assert run.trials[1].message == "made up"


@pytest.mark.parametrize("kind", ["diverged", "hopeless", "invalid"])
def test_results_without_a_score_are_failures_of_their_class(tmp_path: Path, kind: Any) -> None:
    def script(job: Job, start: int) -> Ending | None:
        return Ending(job.key, TrialResult(kind, message="why")) if job.key == "trial-0" else None

    run = begin(tmp_path / "run", pool=FakePool(script=script))
    assert run.failures == {kind: 1}
    assert run.trials[0].message == "why"


def test_a_score_that_is_not_finite_counts_as_diverged(tmp_path: Path) -> None:
    def script(job: Job, start: int) -> Ending | None:
        return Ending(job.key, TrialResult("ok", float("nan"))) if job.key == "trial-0" else None

    assert begin(tmp_path / "run", pool=FakePool(script=script)).failures == {"diverged": 1}


def test_workers_that_keep_dying_stop_the_campaign_and_it_can_be_resumed(tmp_path: Path) -> None:
    pool = FakePool(script=lambda job, start: Ending(job.key, None, "infrastructure", "no disk"))
    with pytest.raises(
        RunError, match=rf"{DEATHS} workers died in a row, the last with: no disk; .*recell resume"
    ):
        begin(tmp_path / "run", pool=pool)
    assert open_run(tmp_path / "run").status()["reason"] == "error"
    assert carry_on(tmp_path / "run").finished


def test_every_trial_failing_ends_without_a_comparison(tmp_path: Path) -> None:
    def script(job: Job, start: int) -> Ending:
        return Ending(job.key, TrialResult("diverged"))

    run = begin(tmp_path / "run", pool=FakePool(script=script))
    assert run.finished
    assert run.failures == {"diverged": 6}
    assert run.finalists == []
    assert run.best is None


def test_a_search_in_which_nothing_ever_works_ends_early(tmp_path: Path) -> None:
    def script(job: Job, start: int) -> Ending:
        return Ending(job.key, TrialResult("invalid", message="over the parameter budget"))

    pool = FakePool(script=script, seconds=lambda job: 0.1)
    run = begin(tmp_path / "run", SMALL.replace(max_trials=None), pool, space=ToySpace(shifts=99))
    assert run.finished
    assert run.search_end == "failures"
    assert run.failures == {"invalid": FAILURES}


def test_a_trial_over_its_time_is_aborted(tmp_path: Path) -> None:
    def seconds(job: Job) -> float:
        return 500.0 if job.key == "trial-2" else 5.0

    run = begin(tmp_path / "run", SMALL.replace(trial_timeout=30.0), FakePool(seconds=seconds))
    assert run.trials[2].status == "timeout"
    assert run.trials[2].message == "took more than 30 s"
    assert run.trials[2].wall == pytest.approx(30.0, abs=1.0)


def test_a_trial_over_its_memory_is_aborted(tmp_path: Path) -> None:
    pool = FakePool(memory=lambda job: 10**10 if job.key == "trial-2" else 10**8)
    journal, event = Journal.create(tmp_path / "run", first_event(SMALL))
    searcher = make_searcher("random", ToySpace())
    run = Campaign(journal, [event], searcher, pool, Sitting(memory=10**9), clock=pool.clock).run()
    journal.close()
    assert run.failures == {"oom": 1}
    assert run.trials[2].message == "its worker used 10.00 GB, more than the cap of 1.00 GB"


def test_ticks_keep_the_time_of_long_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(event: Event, run: Run) -> None:
        if event["active"] > 55:
            raise Killed("the driver dies")

    with pytest.raises(Killed, match="the driver dies"):
        begin(tmp_path / "run", SMALL.replace(max_trials=1), FakePool(seconds=lambda job: 100.0), watch)
    ticks = events_of(tmp_path / "run", "tick")
    assert [round(event["active"]) for event in ticks] == [10, 20, 30, 40, 50]
    assert ticks[0]["progress"] == {"trial-0": [1, 2.0]}


def test_time_adds_up_over_sittings_and_pauses_are_free(tmp_path: Path) -> None:
    def stop(event: Event, run: Run) -> None:
        if event["event"] == "finish" and event["trial"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    run = begin(tmp_path / "run", on_event=stop)
    assert run.active == pytest.approx(20.0, abs=1.0)
    clock = Clock()
    clock.now = 1e6
    run = carry_on(tmp_path / "run", FakePool(clock))
    assert run.active == pytest.approx(60.0 + 60.0, abs=2.0)
    assert len(run.sittings) == 2
