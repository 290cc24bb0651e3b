from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_search_spaces_relaxing import MINE

from grammar import parse, parse_sketch, zoo
from nas.backends import fallback
from nas.errors import SearchError, TrainingError
from nas.supernet import SupernetOptions, train_supernet, train_trial
from nas.supernet.selection import perturbed, shown
from nas.supernet.training import _Search
from nas.tasks import Batch, load_task
from nas.training import TrialResult, TrialSpec
from search_spaces import GrammarSpace, Relaxed, load_space, unroll

QUICK: dict[str, Any] = {"steps": 6, "candidates": 3, "keep": 2, "score_batches": 1, "tune_steps": 1}


def spec(**changes: Any) -> TrialSpec:
    recipe = load_task("modular_arithmetic", None, "smoke").recipe
    return TrialSpec(MINE, "modular_arithmetic", recipe, size="smoke", width=8).replace(**changes)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "darts"},
        {"method": "darts2"},
        {"method": "gdas", "temperature": 5.0, "last_temperature": 0.5},
        {"method": "uniform"},
        {"method": "darts", "select": "perturbation"},
        {"method": "darts", "cost_limit": 200.0, "temperature": 3.0, "last_temperature": 0.1},
        {"method": "gdas", "cost": "flops", "cost_weight": 0.5, "cost_limit": 700.0},
        {"method": "uniform", "cost_limit": 200.0},
        {"method": "darts", "select": "perturbation", "cost_limit": 200.0, "lift": True},
    ],
    ids=str,
)
def test_every_method_gives_cells_of_the_sketch(options: dict[str, Any]) -> None:
    space = load_space(MINE)
    chosen = SupernetOptions(**QUICK, **options)
    result = train_supernet(spec(), chosen)
    assert result.trial.status == "ok"
    assert result.trial.steps == 6
    assert [step for step, _ in result.trial.curve] == list(range(1, 7))
    assert 1 <= len(result.found) <= 3
    assert [found.selected for found in result.found][1:] == [False] * (len(result.found) - 1)
    assert result.found[0].selected == (options["method"] != "uniform")
    assert len({found.digest for found in result.found}) == len(result.found)
    for found in result.found:
        cell = parse(found.cell)
        assert cell.digest == found.digest
        assert cell in space
    limit = options.get("cost_limit")
    if limit is not None:
        assert result.spent is not None
        assert result.spent <= limit
        assert all(found.cost is not None and found.cost <= limit for found in result.found)


def test_same_seed_same_cells_and_another_seed_others() -> None:
    options = SupernetOptions(method="gdas", **QUICK)
    first, again, other = (train_supernet(spec(seed=seed), options) for seed in (1, 1, 2))
    assert first.found == again.found
    assert first.probabilities == again.probabilities
    assert first.trial.curve == again.trial.curve
    assert first.trial.curve != other.trial.curve


def test_second_order_looks_at_the_batch_of_the_step_to_come() -> None:
    task = load_task("modular_arithmetic", None, "smoke")
    options = SupernetOptions(**QUICK, method="darts2", warmup=0.0)
    run = _Search(spec(), options, task, torch.device("cpu"), lambda cell: True)
    read: list[Batch] = []
    batches = run.first.batches

    def counted() -> Iterator[Batch]:
        for batch in batches:
            read.append(batch)
            yield batch

    run.first.batches = counted()
    assert run.train(None, None) == ("ok", "")
    assert len(read) == 6  # one for each step of the weights, and none beside
    assert run.other.state is not None  # and what the architecture sees goes on, as with first order


def test_a_perturbation_keeps_the_options_without_which_the_mixture_is_worst(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = SupernetOptions(**QUICK, method="gdas", select="perturbation")
    run = _Search(spec(), options, load_task("modular_arithmetic", None, "smoke"), torch.device("cpu"), bool)
    rng = np.random.default_rng(3)
    worth = [torch.from_numpy(rng.permutation(len(z)).astype("float32")) for z in run.logits]
    monkeypatch.setattr(
        "nas.supernet.selection.score_mixture",
        lambda net, task, gates, batches: -sum(float(w @ g) for w, g in zip(worth, gates, strict=True)),
    )
    tuned: list[int] = []
    perturbed(run.net, run.architecture, run.task, options, rng, tuned.append)
    kept = [int(p.argmax()) for p in run.architecture.probabilities()]
    assert kept == [int(w.argmax()) for w in worth]
    assert all(float(p.detach().max()) > 0.999 for p in run.architecture.probabilities())
    assert tuned == [options.tune_steps] * len(worth)


def test_a_soft_cost_makes_the_expected_cell_cheaper() -> None:
    dear, cheap = (
        train_supernet(
            spec(),
            SupernetOptions(
                **{**QUICK, "steps": 12}, method="uniform" if not w else "darts", cost_weight=w, arch_lr=0.3
            ),
        )
        for w in (0.0, 50.0)
    )
    assert cheap.spent is not None
    assert dear.spent is None
    small = min(range(3), key=lambda k: -cheap.probabilities[2][k])
    assert cheap.probabilities[2][small] > 0.5  # the option without the gate's weights


def test_a_supernet_that_cannot_be_built_is_invalid() -> None:
    result = train_supernet(spec(width=64), SupernetOptions(**QUICK, memory_gb=0.001))
    assert result.trial.status == "invalid"
    assert "more than memory_gb=0.001" in result.trial.message
    assert result.found == ()


def test_data_and_fallbacks_are_looked_at_as_in_any_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        TrainingError, match="the data of task modular_arithmetic are not those the trial was made"
    ):
        train_supernet(spec(data_digest="0" * 64), SupernetOptions(**QUICK))
    monkeypatch.setattr(
        fallback, "_REASONS", {Relaxed(parse_sketch(MINE), lift=False).cell: "no compiler today"}
    )
    assert (
        train_supernet(spec(), SupernetOptions(**{**QUICK, "steps": 1})).trial.fallback == "no compiler today"
    )


def test_cells_that_are_not_accepted_are_not_handed_over() -> None:
    result = train_supernet(spec(), SupernetOptions(**QUICK), accept=lambda cell: False)
    assert result.trial.status == "invalid"
    assert "none of the cells taken from the supernet is in the space" in result.trial.message


@pytest.mark.parametrize("depth", [2, 3])
def test_cells_of_rules_are_shown_without_the_places_of_a_sketch(depth: int) -> None:
    space = load_space("gated")
    assert isinstance(space, GrammarSpace)
    for sketch in unroll(space, depth):
        relaxed = Relaxed(sketch)
        for seed in range(5):
            cell = relaxed.derived(relaxed.template.complete({}, np.random.default_rng(seed)))
            tidy = shown(cell)
            assert tidy.digest == cell.digest
            assert (tidy in space) == (cell in space)
            assert not re.search(r"vec_|LIN_|gate_|out_", tidy.one_line)
            assert len(tidy.one_line) <= len(cell.one_line)


def test_a_trial_of_a_campaign_brings_its_cells_along() -> None:
    supernet = {"sketch": MINE, "space": None, "seed": 3, "options": SupernetOptions(**QUICK).to_dict()}
    whole = spec(cell="cell any { state h: vec; h' = lin(x, h); out h' }", seed=3, supernet=supernet)
    assert TrialSpec.from_dict(whole.to_dict()) == whole
    result = train_trial(whole)
    direct = train_supernet(spec(seed=3), SupernetOptions(**QUICK))
    assert [found["digest"] for found in result.found] == [found.digest for found in direct.found]
    assert TrialResult.from_dict(result.to_dict()) == result
    assert dataclasses.replace(result, seconds=0.0, found=()) == dataclasses.replace(
        direct.trial, seconds=0.0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "enas"}, "method must be one of darts, darts2, gdas, uniform; got 'enas'"),
        ({"select": "best"}, "select must be one of argmax, perturbation, sampled; got 'best'"),
        ({"cost": "latency"}, "cost must be one of params, flops; got 'latency'"),
        ({"lift": "perhaps"}, "lift must be yes or no, got 'perhaps'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"depth": True}, "depth must be a whole number of at least 1, got True"),
        ({"arch_lr": 0.0}, "arch_lr must be a number above 0, got 0.0"),
        ({"cost_weight": -1.0}, r"cost_weight must be a number of at least 0, got -1\.0"),
        ({"warmup": 1.5}, r"warmup must be below 1, got 1\.5"),
        ({"method": "uniform", "select": "perturbation"}, 'select="perturbation" is for a mixture'),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        SupernetOptions(**options)


def test_unknown_options_are_named() -> None:
    with pytest.raises(SearchError, match="oneshot: no option 'epochs'; options are method, select, steps"):
        SupernetOptions.from_dict({"epochs": 3})


EXPLODING = """
cell c {{
  state h: vec
  h' = choice{{ tanh(lin(x, h)) [{tame}] | lin(1e4 * h) + 1e4 * x [{wild}] }}
  out h'
}}
"""


@pytest.mark.parametrize("method", ["uniform", "gdas"])
def test_paths_that_explode_are_passed_over(method: str) -> None:
    text = EXPLODING.format(tame=1, wild=3)
    result = train_supernet(spec(cell=text), SupernetOptions(**{**QUICK, "steps": 60}, method=method))
    assert result.trial.status == "ok"
    assert np.isfinite(result.probabilities).all()
    losses = [loss for _, loss in result.trial.curve]
    assert result.trial.passed == 60 - len(losses)
    assert 0 < len(losses) < 60  # each step has a loss in the curve, but for those that were passed over
    assert max(losses) < 2 * load_task("modular_arithmetic", None, "smoke").trivial_loss
    assert result.found


def test_a_supernet_of_nothing_but_exploding_paths_diverges() -> None:
    text = EXPLODING.format(tame=1e-9, wild=1)
    result = train_supernet(spec(cell=text), SupernetOptions(**{**QUICK, "steps": 60}, method="uniform"))
    assert result.trial.status == "diverged"
    assert result.trial.message == "none of the 60 paths before step 60 could be trained"
    assert result.found == ()


def test_a_supernet_around_a_cell_gives_members_near_it() -> None:
    space, cell = load_space("gated"), zoo("gru_cho")
    assert isinstance(space, GrammarSpace)
    sketch = space.neighbourhood(cell, np.random.default_rng(0), changes=5)
    options = SupernetOptions(**{**QUICK, "keep": 3}, method="uniform").to_dict()
    supernet = {"sketch": str(sketch), "space": space.text, "seed": 0, "options": options, "centred": True}
    result = train_trial(spec(cell=cell.one_line, supernet=supernet))
    assert (result.status, result.passed) == ("ok", 0)
    assert len(result.found) == 3
    for found in result.found:
        near = parse(found["cell"])
        assert near in space
        assert near.digest == found["digest"]
        assert "part_" not in found["cell"]


@pytest.mark.parametrize("centred", [True, False])
def test_around_a_cell_all_options_are_trained_alike_and_candidates_are_near(centred: bool) -> None:
    text = "cell c { state h: vec; h' = choice{ tanh(lin(x, h)) [0.9] | relu(lin(x, h)) [0.1] }; out h' }"
    task = load_task("modular_arithmetic", None, "smoke")
    around = spec(cell=text, supernet={"centred": centred})
    run = _Search(around, SupernetOptions(**QUICK, method="uniform"), task, torch.device("cpu"), bool)
    trained = np.mean([run._path()[0] for _ in range(400)])
    drawn = np.mean([run.architecture.sample(run.rng)[0] for _ in range(400)])
    assert abs(trained - (0.5 if centred else 0.1)) < 0.08
    assert abs(drawn - 0.1) < 0.05
