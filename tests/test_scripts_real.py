"""Real runs compared by what they had cost, and their cells trained anew beside known ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run
from scipy import stats
from source_tree import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import _compare_searchers
import _real_final
from _real_runs import RealRun, compare_runs, differences, read_runs, welch

from nas.campaign.journal import Journal
from nas.errors import NasError
from nas.training import TrialResult, TrialSpec


def test_runs_are_compared_at_what_all_have_spent(tmp_path: Path) -> None:
    make_run(tmp_path / "whole", trials=24, finish=False, method="random")
    make_run(tmp_path / "begun", trials=9, finish=False, method="evolution")
    runs, skipped = read_runs([str(tmp_path / "whole"), f"mine={tmp_path / 'begun'}"])
    facts = compare_runs(runs, skipped, None)
    trials = facts["axes"]["trials"]
    assert trials["common"] == 9
    assert [len(trials["methods"][name]["curve"]) for name in ("random", "mine")] == [9, 9]
    for name, one in zip(("random", "mine"), runs, strict=True):
        best = min(score for score in one.scores[:9] if score is not None)
        assert trials["methods"][name]["each"] == [pytest.approx(best, abs=1e-5)]
    assert facts["axes"]["seconds"]["common"] == pytest.approx(sum(runs[1].seconds), abs=0.01)
    assert facts["axes"]["active"]["common"] < runs[0].run.active
    assert [(one["state"], one["trials"], one["failed"]) for one in facts["runs"]] == [
        ("interrupted", 24, 4),
        ("interrupted", 9, 1),
    ]
    assert trials["differences"][0]["p"] is None  # one seed each
    assert trials["differences"][0]["real"] is False


def test_the_final_comparison_is_no_part_of_the_search(tmp_path: Path) -> None:
    """Else two runs are compared where one of them had left off searching."""
    make_run(tmp_path / "ended", trials=12, method="random")
    make_run(tmp_path / "longer", trials=30, finish=False, method="evolution")
    runs, _ = read_runs([str(tmp_path / "ended"), str(tmp_path / "longer")])
    ended, longer = runs
    assert ended.run.searched is not None
    assert ended.active[-1] <= ended.reached("active") == ended.run.searched < ended.run.active
    assert compare_runs(runs, [], None)["axes"]["active"]["common"] == pytest.approx(
        ended.run.searched, abs=0.1
    )
    assert longer.run.searched is None
    assert longer.reached("active") == longer.run.active
    # what of its budget it has used counts for `--reach` all the same
    assert len(read_runs([str(tmp_path / "ended"), str(tmp_path / "longer")], reach=30.0)[0]) == 2


def test_the_best_is_that_of_trials_that_had_ended_by_then(tmp_path: Path) -> None:
    make_run(tmp_path / "run", trials=12)
    one = RealRun.read(str(tmp_path / "run"))
    assert one.method == "evolution"
    for axis in ("seconds", "trials", "active"):
        costs = one.costs(axis)
        assert one.best(axis, costs[0] * 0.99, 9.0) == 9.0
        for count, cost in enumerate(costs, start=1):
            assert one.best(axis, cost, 9.0) == min(s for s in one.scores[:count] if s is not None)


def test_a_trial_that_was_killed_has_cost_its_wall_time(tmp_path: Path) -> None:
    make_run(tmp_path / "run", trials=4, finish=False)
    journal, _ = Journal.take_over(tmp_path / "run")
    failed = {"class": "timeout", "message": "", "attempt": 1, "retry": False, "wall": 30.0}
    journal.append("fail", 60.0, trial=4, **failed)
    journal.close()
    assert RealRun.read(str(tmp_path / "run")).seconds[-1] == 30.0


def test_runs_that_have_not_come_far_are_named_and_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "far", trials=24, finish=False, method="random")
    make_run(tmp_path / "near", trials=2, finish=False)
    runs, skipped = read_runs([str(tmp_path / "far"), str(tmp_path / "near")], reach=40.0)
    assert [one.method for one in runs] == ["random"]
    assert skipped == ["evolution, seed 3"]
    with pytest.raises(NasError, match="none of these runs has a trial with a score yet"):
        read_runs([str(tmp_path / "far"), str(tmp_path / "near")], reach=4000.0)


def test_runs_of_other_conditions_do_not_compare(tmp_path: Path) -> None:
    make_run(tmp_path / "a", trials=3, method="random")
    make_run(tmp_path / "b", trials=3, task="parity")
    with pytest.raises(NasError, match=r"b has task name parity, and .*a has text: they do not compare"):
        read_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(NasError, match="no run is of halving; there are runs of random"):
        compare_runs(*read_runs([str(tmp_path / "a")]), "halving")


def test_differences_are_those_of_welch_with_holm() -> None:
    base, near, far = [1.0, 1.1, 0.9, 1.05, 1.0], [0.95, 1.02, 1.0], [0.5, 0.52, 0.49]
    found = differences({"random": base, "near": near, "far": far}, "random")
    for one, values in zip(found, (near, far), strict=True):
        test = stats.ttest_ind(values, base, equal_var=False)
        low, high = test.confidence_interval()
        assert one["p"] == pytest.approx(test.pvalue)
        assert (one["mean"] - one["half"], one["mean"] + one["half"]) == pytest.approx((low, high))
    assert [one["real"] for one in found] == [False, True]
    assert found[1]["corrected"] == pytest.approx(2 * found[1]["p"])
    assert welch([1.0, 1.0], [2.0, 2.0])[1] == 0.0
    assert welch([1.0], [2.0, 3.0])[1] is None


class Trainer:
    """Stands for training: a cell's loss is the length of its text, with noise by seed; it can be interrupted."""

    def __init__(
        self, stop_after: int | None = None, fails: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.seen: list[tuple[str, int, bool]] = []
        self.stop_after = stop_after
        self.fails = fails or {}

    def __call__(self, spec: TrialSpec, *, test: bool) -> TrialResult:
        """What came of it."""
        if self.stop_after is not None and len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        self.seen.append((spec.cell, spec.seed, test))
        assert (spec.params, spec.width, spec.data_digest) == (100_000, None, "ab" * 32)
        if spec.seed in self.fails.get(spec.cell, ()):
            return TrialResult("diverged", message="nan")
        score = len(spec.cell) / 100 + 0.001 * (spec.seed * len(spec.cell) % 7)
        return TrialResult("ok", score, score + 0.03 if test else None, params=99_000, width=64, steps=350)


@pytest.fixture
def two_runs(tmp_path: Path) -> list[str]:
    make_run(tmp_path / "r", trials=8, method="random")
    make_run(tmp_path / "e", trials=14)
    return [str(tmp_path / "r"), str(tmp_path / "e")]


def final(runs: list[str], out: Path, *more: str) -> dict[str, Any]:
    _compare_searchers.main(["final", *runs, "--zoo", "2", "--seeds", "3", "--out", str(out), *more])
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def test_found_cells_are_trained_anew_beside_the_best_known(
    two_runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer()
    monkeypatch.setattr(_real_final, "train", trainer)
    facts = final(two_runs, tmp_path / "out")
    screened = [row["name"] for row in facts["zoo"]]
    assert {"lstm", "gru", "elman"} <= set(screened)
    assert "treelstm" not in screened
    assert facts["zoo"] == sorted(facts["zoo"], key=lambda row: (row["score"], row["name"]))
    known = [one["name"] for one in facts["contenders"] if one["method"] is None]
    assert known == [*screened[:2], "lstm", "gru"]
    tested = [(cell, seed) for cell, seed, test in trainer.seen if test]
    assert len(trainer.seen) == len(set(trainer.seen))
    assert {seed for _, seed in tested} == {1000, 1001, 1002}
    assert facts["done"] == facts["planned"] == 3 * len(facts["contenders"])
    assert facts["rival"] == screened[0]
    assert [test["method"] for test in facts["tests"]] == ["random", "evolution"]
    assert all(test["corrected"] >= test["p"] for test in facts["tests"])
    assert facts["methods"]["means"]["random"]["count"] == 1
    said = (tmp_path / "out" / "result.md").read_text()
    assert f"less the best known one, {screened[0]}" in said
    assert "Not finished" not in said

    monkeypatch.setattr(_real_final, "train", None)  # nothing is trained twice
    assert final(two_runs, tmp_path / "out") == facts
    more = Trainer()
    monkeypatch.setattr(_real_final, "train", more)
    final(two_runs, tmp_path / "out", "--seeds", "4")
    assert {seed for _, seed, _ in more.seen} == {1003}


def test_an_interrupt_leaves_an_account_and_goes_on(
    two_runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(_real_final, "train", Trainer(stop_after=5))
    with pytest.raises(SystemExit, match="stopped: call the command again"):
        final(two_runs, out)
    screening = Trainer()
    monkeypatch.setattr(_real_final, "train", screening)
    whole = final(two_runs, tmp_path / "whole")
    count = sum(not test for _, _, test in screening.seen)
    later = Trainer(stop_after=count - 5 + 4)
    monkeypatch.setattr(_real_final, "train", later)
    part = final(two_runs, out)
    assert (part["done"], part["planned"]) == (4, whole["planned"])
    assert part["tests"] == []
    assert "Not finished: 4 of" in (out / "result.md").read_text()
    with (out / "trainings.jsonl").open("a") as file:
        file.write('{"key": "cut sho')
    monkeypatch.setattr(_real_final, "train", Trainer())
    assert final(two_runs, out) == whole


def test_a_cell_that_failed_is_said_to_have_and_is_not_compared(
    two_runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = RealRun.read(two_runs[1]).run.top(1)[0]
    monkeypatch.setattr(_real_final, "train", Trainer(fails={best.canonical: [1001]}))
    facts = final(two_runs, tmp_path / "out")
    mine = next(one for one in facts["contenders"] if one["method"] == "evolution")
    assert (mine["failed"], mine["missing"]) == (1, 0)
    assert mine["name"] in facts["untested"]
    assert "failed with 1 seeds" in (tmp_path / "out" / "result.md").read_text()


def test_seeds_of_a_search_are_not_fresh(two_runs: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: seed 3 is one of a search's"):
        final(two_runs, tmp_path / "out", "--first-seed", "1")


def test_a_page_of_both(two_runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_real_final, "train", Trainer())
    final(two_runs, tmp_path / "final")
    _compare_searchers.main(["runs", *two_runs, "--about", "a second time", "--out", str(tmp_path / "runs")])
    folders = [str(tmp_path / "runs"), str(tmp_path / "final")]
    _compare_searchers.main(["page", *folders, "--name", "real", "--out", str(tmp_path / "page")])
    said = (tmp_path / "page" / "real.md").read_text()
    assert str(tmp_path) not in said
    assert "seconds of training" in said
    assert "## Real runs: text, space gated, a second time\n" in said
    assert '--about "a second time"' in said
    assert "Found and known cells, trained anew: text" in said
    assert {file.name for file in (tmp_path / "page").iterdir()} == {
        "real.json",
        "real.md",
        "real-1-seconds.svg",
        "real-1-trials.svg",
    }
