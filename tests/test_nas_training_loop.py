"""The training loop: it learns, repeats itself bit for bit, carries states, and ends in the way it says."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from grammar import zoo
from nas.errors import TaskError, TrainingError, TrialAborted
from nas.nn import TreeModule
from nas.tasks import load_task
from nas.training import TrialSpec, evaluate, load_trained, train
from nas.training.loop import learning_rate

ROOT = Path(__file__).resolve().parents[1]
MINGRU = "cell mingru { state h: vec; z = sigmoid(lin(x)); h' = lerp(z, h, lin(x)); out h' }"
GROWING = "cell growing { state h: vec; h' = 9 * h + lin(x); out h' }"

OWN = """
from nas.tasks import Recipe
from nas.tasks.formal import Parity

class Impatient(Parity):
    def __init__(self, data=None, size="search"):
        super().__init__(data, size)
        self.trivial_loss = 0.01

class Finite(Parity):
    def train_batches(self, rng):
        batches = super().train_batches(rng)
        for _ in range(3):
            yield next(batches)
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec_for(task: str, cell: str = MINGRU, size: str = "smoke", **recipe: object) -> TrialSpec:
    """A trial of the task's smoke size, with changes to its recipe."""
    return TrialSpec(
        cell=cell, task=task, size=size, recipe=load_task(task, size=size).recipe.replace(**recipe)
    )


@pytest.mark.parametrize("task", ["text", "words"])
def test_language_models_beat_the_unigram(task: str) -> None:
    result = train(spec_for(task, str(zoo("gru")), steps=150))
    assert result.status == "ok"
    assert result.score is not None
    assert result.score < load_task(task, size="smoke").trivial_score
    assert result.test_score is None
    assert result.message == ""


@pytest.mark.parametrize("task", ["parity", "modular_arithmetic"])
def test_formal_languages_train_and_test(task: str) -> None:
    result = train(spec_for(task, str(zoo("elman"))), test=True)
    assert result.status == "ok"
    assert result.score is not None
    assert result.test_score is not None
    assert 0 <= result.score <= 1
    assert 0 <= result.test_score <= 1


@pytest.mark.slow
def test_parity_is_learned_at_size_search() -> None:
    result = train(spec_for("parity", str(zoo("lstm")), size="search"), test=True)
    assert result.score == 0.0
    assert result.test_score is not None
    assert result.test_score < 0.05


def test_the_result_accounts_for_the_trial() -> None:
    told: list[tuple[int, float]] = []
    spec = spec_for("text", steps=10)
    result = train(spec, on_progress=lambda steps, loss: told.append((steps, loss)))
    assert result.steps == 10
    assert [step for step, _ in result.curve] == list(range(1, 11))
    assert tuple(told) == result.curve
    assert result.params == pytest.approx(load_task("text", size="smoke").params, rel=0.02)
    assert result.seconds > 0


def test_a_curve_has_about_forty_points() -> None:
    result = train(spec_for("parity", steps=90))
    assert [step for step, _ in result.curve][-2:] == [88, 90]
    assert len(result.curve) == 45


def test_the_width_can_be_given() -> None:
    result = train(spec_for("parity", steps=2).replace(width=7))
    assert result.width == 7


def test_a_trial_repeats_itself_in_another_process() -> None:
    spec = spec_for("text", str(zoo("gru")), steps=8, dropout=0.1, num_layers=2)
    code = (
        "import json, sys, torch\n"
        "from nas.training import TrialSpec, train\n"
        "torch.set_num_threads(1)\n"
        "torch.rand(3)\n"
        "result = train(TrialSpec.from_dict(json.loads(sys.argv[1])), test=True)\n"
        "print(json.dumps(result.to_dict()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spec.to_dict())],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    there, here = json.loads(done.stdout), train(spec, test=True).to_dict()
    del there["seconds"], here["seconds"]
    assert there == json.loads(json.dumps(here))


def test_the_seed_matters_and_the_global_random_state_does_not() -> None:
    spec = spec_for("parity", steps=3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(spec)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert train(spec).curve == first.curve
    assert train(spec.replace(seed=1)).curve != first.curve


LOOKING = "cell looking { state h: seq = x; depth 2 { h' = lnorm(h + attn(h)) }; out h' }"


def test_a_cell_that_sees_ahead_is_invalid_where_the_next_step_is_asked_for() -> None:
    result = train(spec_for("text", LOOKING))
    assert result.status == "invalid"
    assert result.message == "cell looking sees steps ahead, and task text asks for what comes next"
    assert train(spec_for("parity", LOOKING)).status == "ok"
    assert train(spec_for("text", LOOKING.replace("attn(h)", "attn(h, causal=yes)"))).status == "ok"


@pytest.mark.parametrize("policy", [None, "left", "easy-first", "beam"])
def test_a_tree_cell_is_trained_and_comes_back(policy: str | None, tmp_path: Path) -> None:
    spec = spec_for("listops", str(zoo("treegru")), steps=3).replace(policy=policy)
    result = train(spec, save_to=tmp_path)
    assert result.status == "ok"
    model, again, _ = load_trained(tmp_path)
    assert again == spec
    assert isinstance(model.cell, TreeModule)
    assert model.cell.policy == (policy or "given")
    assert evaluate(model, load_task("listops", size="smoke"), "valid") == result.score


def test_a_cell_over_time_reads_listops_from_left_to_right() -> None:
    assert train(spec_for("listops", steps=3)).status == "ok"


@pytest.mark.parametrize(
    ("task", "policy", "message"),
    [
        ("parity", None, "task parity has no parses: a tree cell needs another policy than 'given' there"),
        ("parity", "balanced", ""),
        ("text", "left", "task text asks for an answer at each step, and a tree cell gives one at the root"),
    ],
)
def test_where_a_tree_cell_has_no_tree(task: str, policy: str | None, message: str) -> None:
    result = train(spec_for(task, str(zoo("treegru")), steps=2).replace(policy=policy))
    assert (result.status, result.message) == ("invalid" if message else "ok", message)


TERNARY = "cell three(a, b, c) { state h: vec; leaf { h' = lin(x) }; h' = lin(a.h, b.h, c.h); out h' }"
LABELLED = "cell labelled(l, r) { state h: vec; leaf { h' = lin(x) }; h' = lin(l.h, r.h, x); out h' }"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (TERNARY, "each merge has 3 children"),
        (LABELLED, "cell labelled sees x in its merges, and task listops has x at the leaves alone"),
    ],
)
def test_a_tree_cell_of_other_trees_is_invalid(cell: str, message: str) -> None:
    result = train(spec_for("listops", cell))
    assert result.status == "invalid"
    assert message in result.message


class Recorder(nn.Module):
    """Stands for a model: counts the tokens it has seen in its state, and notes the states it is called with."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        seen = torch.zeros(len(x)) if state is None else state[0]
        self.calls.append((x, None if state is None else seen))
        new = seen + x.shape[1] + 0 * self.bias.sum()
        return self.bias.expand(*x.shape[:2], -1), (new,)


def test_states_are_carried_and_detached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcdefghi\n" * 60)
    task = load_task("text", data=str(text), size="smoke")
    recorder = Recorder(task.outputs)
    monkeypatch.setattr("nas.training.loop.build_model", lambda *args, **kwargs: recorder)
    monkeypatch.setattr("nas.training.loop._sees_ahead", lambda *args: False)
    recipe = task.recipe.replace(batch_size=4, sequence_length=10, steps=16)
    train(TrialSpec(cell=MINGRU, task="text", recipe=recipe, data=str(text), size="smoke", width=4))
    states = [state for x, state in recorder.calls if len(x) == 4][:16]
    assert [None if s is None else float(s[0]) for s in states] == [None, *range(10, 130, 10), None, 10, 20]
    assert all(state is None or not state.requires_grad for state in states)


def test_evaluation_carries_states_and_leaves_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("text", size="smoke")
    recorder = Recorder(task.outputs)
    score = evaluate(recorder, task, "valid")
    assert score == pytest.approx(math.log(task.outputs))
    assert recorder.training
    assert recorder.calls[0][1] is None
    assert all(state is not None for _, state in recorder.calls[1:])


def test_a_loss_that_overflows_is_diverged() -> None:
    result = train(spec_for("text", GROWING, lr=1.0))
    assert result.status == "diverged"
    assert result.score is None
    assert "training loss is" in result.message
    assert result.steps < 60


def test_a_loss_above_the_trivial_one_is_hopeless(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    recipe = load_task("parity", size="smoke").recipe.replace(steps=320)
    result = train(TrialSpec(cell=MINGRU, task=f"{path}:Impatient", recipe=recipe, size="smoke"))
    assert (result.status, result.steps, result.score) == ("hopeless", 112, None)
    assert "the trivial answer has 0.01" in result.message


def test_batches_that_end_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    recipe = load_task("parity", size="smoke").recipe
    with pytest.raises(TaskError, match="task parity ran out of training batches at step 4"):
        train(TrialSpec(cell=MINGRU, task=f"{path}:Finite", recipe=recipe, size="smoke"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "cell a { state h: vec; h' = tanhh(h); out h' }"}, "tanhh"),
        ({"params": 10}, "the budget of 10 parameters is too small"),
        ({"cell": "cell b { state h: vec; h' = lin(x, h, blocks=3); out h' }", "width": 8}, "3"),
    ],
)
def test_a_cell_that_cannot_be_built_is_invalid(changes: dict[str, object], message: str) -> None:
    result = train(spec_for("parity").replace(**changes))
    assert (result.status, result.score, result.steps) == ("invalid", None, 0)
    assert message in result.message


def test_a_trial_can_be_stopped() -> None:
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(TrialAborted, match="stopped after 3 of 20 steps"):
        train(spec_for("parity"), should_stop=should_stop)


def test_other_data_than_the_trial_was_made_for_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"digest [0-9a-f]{12}, expected 000000000000"):
        train(spec_for("text").replace(data_digest="0" * 64))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_one_clear_error() -> None:
    with pytest.raises(TrainingError, match='"cuda" was asked for, but torch finds no CUDA device'):
        train(spec_for("parity").replace(device="cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("task", ["text", "parity"])
def test_a_gpu_trains_as_well(task: str) -> None:
    spec = spec_for(task, str(zoo("gru"))).replace(backend="reference")
    there, here = train(spec.replace(device="cuda")), train(spec)
    assert there.status == "ok"
    assert there.curve[-1][1] == pytest.approx(here.curve[-1][1], rel=0.05)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    recipe = load_task("text").recipe.replace(steps=100, lr=1.0, warmup=0.1)
    rates = [learning_rate(step, recipe) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert all(after < before for before, after in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001


def test_no_warm_up_is_allowed() -> None:
    recipe = load_task("text").recipe.replace(steps=1, lr=0.5, warmup=0.0)
    assert learning_rate(1, recipe) == 0.5
