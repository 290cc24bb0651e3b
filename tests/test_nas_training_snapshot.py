from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grammar import zoo
from nas.errors import SnapshotError, TrainingError
from nas.tasks import load_task
from nas.training import TrialResult, TrialSpec, train
from nas.training.loop import learning_rate
from nas.training.snapshot import SNAPSHOT

TEXT = "cell t { state h: vec; state s: vec; s' = 0.5 * s + x; h' = tanh(lin(x, h) + s'); out h' }"


def spec_of(task: str, cell: str = TEXT, steps: int = 17, dropout: float = 0.0) -> TrialSpec:
    recipe = load_task(task, None, "smoke").recipe.replace(steps=steps, dropout=dropout)
    return TrialSpec(cell, task, recipe, size="smoke", width=12, seed=3)


def gist(result: TrialResult) -> TrialResult:
    """The result without what is for information only."""
    return replace(result, seconds=0.0, start=0)


@pytest.mark.parametrize(
    ("task", "cell", "dropout"),
    [
        ("text", TEXT, 0.0),  # the state goes on from window to window
        ("text", zoo("lstm").one_line, 0.2),  # dropout draws from the generator
        ("parity", zoo("gru").one_line, 0.0),
        ("listops", zoo("treelstm").one_line, 0.0),
    ],
)
def test_carried_on_at_any_step_it_is_the_training_straight_through(
    task: str, cell: str, dropout: float, tmp_path: Path
) -> None:
    spec = spec_of(task, cell, dropout=dropout)
    straight = train(spec, test=True, save_to=tmp_path / "straight")
    assert straight.status == "ok"
    for cut in (1, 6, 16):
        folder = tmp_path / f"{cut}"
        short = train(spec.replace(until=cut), snapshot_to=folder)
        assert (short.steps, short.start) == (cut, 0)
        assert short.curve[:-1] == straight.curve[: len(short.curve) - 1]
        result = train(spec, test=True, carry_on=folder, save_to=folder / "model")
        assert result.start == cut
        assert gist(result) == gist(straight)
        ours, theirs = (
            load_file(p / "weights.safetensors") for p in (folder / "model", tmp_path / "straight")
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_in_several_legs_with_entries_of_the_curve_over_many_steps(tmp_path: Path) -> None:
    spec = spec_of("parity", steps=200)  # an entry of the curve every 5 steps
    straight = train(spec)
    before = None
    for until in (7, 33, 101, 200):
        result = train(spec.replace(until=until), carry_on=before, snapshot_to=tmp_path / f"{until}")
        assert gist(result) == gist(train(spec.replace(until=until)))
        before = tmp_path / f"{until}"
    assert gist(result) == gist(straight)


def test_the_rate_of_a_short_trial_is_that_of_the_whole_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def spy(step: int, recipe: object) -> float:
        rates.append(learning_rate(step, recipe))  # type: ignore[arg-type]
        return rates[-1]

    monkeypatch.setattr("nas.training.loop.learning_rate", spy)
    spec = spec_of("parity", steps=20)
    train(spec.replace(until=8))
    short = list(rates)
    rates.clear()
    train(spec)
    assert short == rates[: len(short)]
    assert rates[-1] < 0.1 * max(rates)


def test_what_is_no_snapshot_of_the_trial_is_refused(tmp_path: Path) -> None:
    spec = spec_of("parity")
    train(spec.replace(until=9), snapshot_to=tmp_path)
    for other in (spec.replace(seed=4), spec.replace(width=13), spec_of("parity", steps=18)):
        with pytest.raises(SnapshotError, match="snapshot of another trial"):
            train(other, carry_on=tmp_path)
    with pytest.raises(SnapshotError, match="taken after step 9, and the trial stops at 8"):
        train(spec.replace(until=8), carry_on=tmp_path)
    place = tmp_path / SNAPSHOT
    place.write_bytes(place.read_bytes()[:-9])
    with pytest.raises(SnapshotError, match="no snapshot in"):
        train(spec, carry_on=tmp_path)


def test_a_trial_that_does_not_end_well_leaves_no_snapshot(tmp_path: Path) -> None:
    cell = "cell t { state h: vec; h' = lin(x, h) * 1e30; out h' }"
    assert train(spec_of("parity", cell).replace(until=9), snapshot_to=tmp_path / "s").status == "diverged"
    assert not (tmp_path / "s").exists()


def test_until_is_a_step_of_the_recipe() -> None:
    with pytest.raises(TrainingError, match="until must be at most the recipe's 17 steps, got 18"):
        spec_of("parity").replace(until=18)
    with pytest.raises(TrainingError, match="until must be a whole number of at least 1, got 0"):
        spec_of("parity").replace(until=0)
    assert (spec_of("parity").steps, spec_of("parity").replace(until=5).steps) == (17, 5)
