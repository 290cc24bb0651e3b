from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from grammar import parse, zoo
from nas.errors import SearchError
from nas.searchers.tune import TuneSearcher, trainable
from nas.training import TrialResult

TINY = """space tiny {
  limits size <= 4
  require x, states
  state{1} vec
  out -> $new
  vec -> tanh(lin(x, $vec)) | relu(lin(x, $vec)) | sigmoid(lin(x, $vec)) | tanh(vec)
}
"""


def made(**options: Any) -> TuneSearcher:
    settings = {"population": 6, "samples": 3, "operators": "bandit"}
    return TuneSearcher("gated", "evolution", settings, metric="score", mode="min", **options)


def drive(searcher: TuneSearcher, first: int, last: int) -> list[str]:
    """Two trials at a time, as Tune would with two slots; the score is the length of the text."""
    texts: dict[str, str] = {}
    for i in range(first, last):
        suggested = searcher.suggest(f"t{i}")
        texts[f"t{i}"] = suggested["cell"]
        if i % 2:
            for at in (f"t{i}", f"t{i - 1}"):
                searcher.on_trial_complete(at, {"score": float(len(texts[at])), "steps": 10})
    return [*texts.values()]


def test_suggestions_are_cells_of_the_space_and_differ() -> None:
    searcher = made()
    texts = drive(searcher, 0, 12)
    assert len({parse(text).digest for text in texts}) == 12
    suggested = searcher.suggest("next")
    assert set(suggested) == {"cell", "digest", "operator"}
    assert suggested["digest"] == parse(suggested["cell"]).digest
    json.dumps(suggested)


@pytest.mark.parametrize("way", ["save", "copy"])
def test_what_is_restored_goes_on_as_the_first_would(way: str, tmp_path: Path) -> None:
    first = made(seed=3)
    drive(first, 0, 8)
    if way == "save":
        first.save(str(tmp_path / "state"))
        again = made(seed=99)
        again.restore(str(tmp_path / "state"))
    else:
        again = copy.deepcopy(first)
    assert drive(first, 8, 14) == drive(again, 8, 14)


def test_a_restored_searcher_knows_what_is_under_way(tmp_path: Path) -> None:
    first = made()
    suggested = first.suggest("a")
    first.save_to_dir(str(tmp_path), "session")
    again = made(seed=5)
    again.restore_from_dir(str(tmp_path))
    again.on_trial_complete("a", {"score": 1.0})
    again.on_trial_complete("stranger", {"score": 0.0})
    (told,) = [event for event in again.get_state()["log"] if "told" in event]
    assert told == {"told": "a", "score": 1.0, "status": "ok", "steps": None}
    assert parse(again.get_state()["log"][0]["text"]).digest == suggested["digest"]


@pytest.mark.parametrize(
    ("result", "error", "status", "score"),
    [
        ({"score": 2.0}, False, "ok", 2.0),
        ({"score": 2.0, "final": True}, False, "ok", 2.0),
        ({"score": 2.0, "final": False}, False, "hopeless", None),
        ({"score": float("nan")}, False, "diverged", None),
        ({"score": float("nan"), "status": "invalid"}, False, "invalid", None),
        ({"score": float("nan"), "status": "odd"}, False, "diverged", None),
        ({"score": 2.0, "status": "diverged"}, False, "ok", 2.0),
        ({}, False, "diverged", None),
        (None, False, "hopeless", None),  # a scheduler stopped what it had paused
        (None, True, "infrastructure", None),
        ({"score": 2.0}, True, "infrastructure", None),
    ],
)
def test_what_came_of_a_trial(
    result: dict[str, Any] | None, error: bool, status: str, score: float | None
) -> None:
    searcher = made()
    searcher.suggest("a")
    searcher.on_trial_complete("a", result, error)
    assert searcher.get_state()["log"][-1] | {"steps": None} == {
        "told": "a",
        "score": score,
        "status": status,
        "steps": None,
    }


def test_mode_max_turns_the_sign() -> None:
    searcher = TuneSearcher("gated", "random")
    assert searcher.set_search_properties("accuracy", "max", {})
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"accuracy": 0.75})
    assert searcher.get_state()["log"][-1]["score"] == -0.75


def test_ends_when_the_space_is_exhausted(tmp_path: Path) -> None:
    (tmp_path / "tiny.space").write_text(TINY)
    searcher = TuneSearcher(str(tmp_path / "tiny.space"), "random", metric="score", mode="min")
    names: list[str] = []
    while (suggested := searcher.suggest(f"t{len(names)}")) is not None:
        assert isinstance(suggested, dict)
        names.append(f"t{len(names)}")
    assert len(names) > 3  # None: what runs may open the way
    for name in names:
        searcher.on_trial_complete(name, {"score": 1.0})
    assert searcher.suggest("last") == TuneSearcher.FINISHED


@pytest.mark.parametrize(
    ("space", "method", "options", "said"),
    [
        ("darts_rnn", "oneshot", {}, "oneshot trains supernets; Tune is given cells alone"),
        ("gated", "supernet", {}, "supernet trains supernets"),  # not only after its first samples
        ("gated", "halving", {}, "halving trains in rungs; Tune's schedulers do that"),
        (
            "gated",
            "guided",
            {"recipe": "lr"},
            r"guided is to search the recipe: .* TuneSearcher\(recipe=...\)",
        ),
    ],
)
def test_what_tune_does_not_give_is_refused_before_the_first_trial(
    space: str, method: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SearchError, match=said):
        TuneSearcher(space, method, options, metric="score", mode="min")


@pytest.mark.parametrize(
    ("metric", "mode"), [(None, "min"), (["score", "flops"], "min"), ("score", None), ("score", "least")]
)
def test_without_one_metric_and_its_mode_nothing_is_suggested(metric: Any, mode: Any) -> None:
    searcher = TuneSearcher("gated", "random")
    searcher.set_search_properties(metric, mode, {})
    with pytest.raises(
        SearchError, match=r'as in TuneSearcher\(..., metric="score", mode="min"\): without a'
    ):
        searcher.suggest("a")


def test_the_recipe_is_searched_around_that_of_the_task() -> None:
    searcher = TuneSearcher(
        "gated",
        "guided",
        {"recipe": "lr", "features": "statistics"},
        recipe={"lr": 0.01},
        metric="s",
        mode="min",
    )
    assert 0.001 < searcher.suggest("a")["lr"] < 0.1


@pytest.mark.parametrize("status", ["diverged", "ok"])
def test_a_training_that_fails_says_how_and_raises_nothing(
    status: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = 0.5 if status == "ok" else None
    ending = TrialResult(status, score, curve=((3, 0.75),), steps=3, message="loss is inf")
    monkeypatch.setattr("nas.searchers.trainable.train", lambda spec, on_progress: ending)
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reports.append)
    searcher = made()
    trainable("parity", size="smoke")(searcher.suggest("a"))
    searcher.on_trial_complete("a", reports[-1])
    (told,) = [event for event in searcher.get_state()["log"] if "told" in event]
    assert told == {"told": "a", "score": score, "status": status, "steps": 3}
    assert reports[-1]["final"]


def test_objectives_that_nobody_reports_are_refused() -> None:
    with pytest.raises(SearchError, match="nsga2 minimises more than the loss; Tune reports that alone"):
        TuneSearcher("gated", "nsga2", metric="score", mode="min")


def test_cells_trained_elsewhere_count() -> None:
    searcher = TuneSearcher("gated", "evolution", {"samples": 2, "crossover": 0.0}, metric="s", mode="min")
    for name in ("lstm", "gru", "gru"):
        searcher.add_evaluated_point({"cell": zoo(name).one_line}, 1.0)
    assert len(searcher.get_state()["log"]) == 4
    searcher.suggest("a")
    assert searcher.get_state()["log"][-1]["parents"][0] in {zoo("lstm").digest, zoo("gru").digest}
    searcher.add_evaluated_point({"cell": zoo("mgu").one_line}, 1.0, pruned=True)
    assert searcher.get_state()["log"][-1]["status"] == "hopeless"
    with pytest.raises(SearchError, match=r"cell mlstm .* is not a member of the space gated"):
        searcher.add_evaluated_point({"cell": zoo("mlstm").one_line}, 1.0)


def test_a_seed_file_is_not_needed_again(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("zoo:lstm\n")
    searcher = TuneSearcher("gated", "evolution", {"seeds": str(seeds)}, metric="s", mode="min")
    seeds.unlink()
    again = copy.deepcopy(searcher)
    assert again.suggest("a")["digest"] == zoo("lstm").digest


def test_no_state_is_said(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="is no state of a searcher"):
        made().restore(str(tmp_path / "nothing"))
    for number, content in enumerate(("[]", '{"schema": 1}', "{")):
        (tmp_path / f"{number}").write_text(content)
        with pytest.raises(SearchError, match="is no state of a searcher"):
            made().restore(str(tmp_path / f"{number}"))
    with pytest.raises(SearchError, match="has schema 1 here; received 7"):
        made().set_state({"schema": 7})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_under_a_tuner_with_a_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray import tune

    def objective(config: dict[str, Any]) -> None:  # here, so that it travels by value
        for step in (1, 2):
            tune.report({"score": float(len(config["cell"])), "steps": step, "final": step == 2})

    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        tuner = tune.Tuner(
            objective,
            tune_config=tune.TuneConfig(
                search_alg=made(),
                scheduler=tune.schedulers.ASHAScheduler(time_attr="steps", max_t=2),
                metric="score",
                mode="min",
                num_samples=10,
                max_concurrent_trials=2,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path), name="run", verbose=0),
        )
        results = tuner.fit()
        assert results.num_errors == 0
        configs = [results[i].config or {} for i in range(len(results))]
        cells = [parse(config["cell"]) for config in configs]
        assert len({cell.digest for cell in cells}) == 10
        (state,) = (tmp_path / "run").glob("searcher-state-*.pkl")
        assert sum("told" in event for event in json.loads(state.read_text())["log"]) == 10
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_trainable_trains_a_cell_of_the_space() -> None:
    import ray
    from ray import tune

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        tuner = tune.Tuner(
            trainable("parity", size="smoke"),
            tune_config=tune.TuneConfig(
                search_alg=TuneSearcher("gated", "random", metric="score", mode="min"),
                metric="score",
                mode="min",
                num_samples=1,
                max_concurrent_trials=1,
            ),
            run_config=tune.RunConfig(verbose=0),
        )
        result = tuner.fit()[0]
        assert result.error is None
        assert result.metrics is not None
        assert result.metrics["final"]
        assert result.config is not None
        assert parse(result.config["cell"]).digest == result.config["digest"]
    finally:
        ray.shutdown()
