"""Run folders made by hand, written with the real journal: for tests of what reads a run. No trial is trained here."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from grammar import Cell, parse, zoo
from nas.campaign import Run, SearchConfig, open_run
from nas.campaign.journal import Journal
from nas.tasks import Recipe

METRIC = "nats/char"
WIDTH, TOKENS = 12, 7
VOCABULARY = tuple("abcdefghijklmnopqrstuvwxyz"[:TOKENS])


def cells(count: int) -> list[Cell]:
    """Different gated cells with one or two states."""
    gates = ("sigmoid(lin(x, h))", "sigmoid(lin(x))", "sigmoid(lin(h))", "1 - sigmoid(lin(x, h))")
    news = ("tanh(lin(x, h))", "tanh(lin(x))", "relu(lin(x, h))", "lin(x)", "tanh(lin(x) + z * lin(h))")
    forms = ("lerp(z, n, h)", "z * h + n", "z * n + h", "lerp(z, h, tanh(n))")
    outs = ("h'", "h' * z", "tanh(h')")
    made = itertools.product(forms, news, gates, outs)
    texts = (f"cell c {{ state h: vec; z = {z}; n = {n}; h' = {f}; out {o} }}" for f, n, z, o in made)
    return [parse(text) for text in itertools.islice(texts, count)]


def make_run(
    folder: Path,
    trials: int = 24,
    finalists: int = 2,
    seeds: int = 3,
    gain: float = 0.02,
    finish: bool = True,
    weights: bool = False,
    **settings: Any,
) -> Run:
    """A run of so many trials; every sixth diverged. The best finalist is `gain` better than the LSTM on test data.

    With `weights` the finalists left models of width 12 on 7 tokens, untrained.
    """
    rng = np.random.default_rng(5)
    config = SearchConfig(finalists=finalists, seeds=seeds, seed=3, **{"budget": 180.0, **settings})
    journal, _ = Journal.create(folder, _first(config))
    versions = {"recell": "0.1.0", "torch": "2.13.0"}
    journal.append(
        "sitting", 0.0, pid=1, host="box", device="cpu", workers=2, data=config.data, versions=versions
    )
    clock = 0.0
    scores: dict[int, float] = {}
    for number, cell in enumerate(cells(trials)):
        clock += 1.9
        ask(journal, clock, number, cell)
        journal.append("start", clock, trial=number, attempt=1, seed=config.seed)
        if number % 6 == 5:
            failed = {
                "class": "diverged",
                "message": "training loss is nan by step 40",
                "attempt": 1,
                "retry": False,
            }
            journal.append("fail", clock + 2, trial=number, wall=2.0, **failed)
            continue
        scores[number] = 2.0 + float(rng.gamma(2.0, 0.12)) - 0.15 * number / trials
        journal.append("finish", clock + 3, trial=number, **_outcome(scores[number], rng))
    if not finish:
        ask(journal, clock + 3, trials, zoo("mgu"))
        journal.append("start", clock + 3, trial=trials, attempt=1, seed=config.seed)
        journal.close()
        return open_run(folder)
    journal.append("search_end", clock + 4, reason="budget")
    chosen = sorted(scores, key=lambda n: scores[n])[:finalists]
    if finalists:
        journal.append("finalists", clock + 4, trials=chosen)
        _retrain(journal, clock + 4, config, chosen, gain, rng)
    if weights:
        save_models(open_run(folder))
    journal.append("stop", clock + 60, reason="budget", finished=True, message="")
    journal.close()
    return open_run(folder)


def ask(journal: Journal, clock: float, number: int, cell: Cell, **more: Any) -> None:
    """Write down a new candidate."""
    journal.append(
        "ask",
        clock,
        ask=number,
        trial=number,
        text=cell.one_line,
        digest=cell.digest,
        canonical=cell.canonical().one_line,
        operator="mutate" if number > 4 else "sample",
        parents=[],
        **more,
    )


def _first(config: SearchConfig) -> dict[str, Any]:
    known = [zoo(name) for name in config.baselines]
    rows = [
        {"name": n, "text": c.one_line, "canonical": c.canonical().one_line, "digest": c.digest}
        for n, c in zip(config.baselines, known, strict=True)
    ]
    recipe = {"steps": 350, "batch_size": 16, "sequence_length": 64, "lr": 0.01}
    task = {
        "name": config.task,
        "version": 1,
        "size": config.size,
        "metric": METRIC,
        "trivial_score": 3.11,
        "best_known": "1.47 (somebody)",
        "data_digest": "ab" * 32,
        "recipe": recipe,
        "params": 100_000,
    }
    versions = {"recell": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0"}
    what = {"config": config.to_dict(), "task": task, "space": {"name": config.space}, "baselines": rows}
    return {"recell": "0.1.0", "hash": "cd" * 32, **what, "versions": versions}


def _retrain(
    journal: Journal,
    clock: float,
    config: SearchConfig,
    chosen: list[int],
    gain: float,
    rng: np.random.Generator,
) -> None:
    means = {f"trial-{n}": 2.0 - gain + 0.01 * i for i, n in enumerate(chosen)}
    means |= {name: 2.0 + 0.03 * i for i, name in enumerate(config.baselines)}
    for seed, (name, mean) in itertools.product(range(config.seeds), means.items()):
        key = f"{name}-seed-{config.seed + 1 + seed}"
        clock += 1.0
        journal.append("retrain_start", clock, key=key, seed=config.seed + 1 + seed)
        score = mean + 0.004 * float(rng.standard_normal())
        place = f"weights/{key}" if name.startswith("trial") else None
        outcome = _outcome(score, rng) | {"test_score": score + 0.03, "weights": place}
        journal.append("retrain_finish", clock + 2, key=key, **outcome)


def _outcome(score: float, rng: np.random.Generator) -> dict[str, Any]:
    steps = range(10, 351, 10)
    curve = [[s, score + 1.6 * float(np.exp(-s / 60)) + 0.02 * float(rng.standard_normal())] for s in steps]
    params = int(100_000 + rng.integers(-900, 900))
    wall = float(rng.uniform(2.5, 4.0))
    return {
        "score": score,
        "curve": curve,
        "params": params,
        "width": WIDTH,
        "steps": 350,
        "seconds": wall,
        "wall": wall,
    }


def save_models(run: Run) -> None:
    """Make the models that the finalists' trainings speak of."""
    import torch

    from nas.training import TrialResult, TrialSpec
    from nas.training.checkpoint import build_model, save_trained

    for finalist in run.finalists:
        for training in finalist.done:
            recipe = Recipe.from_dict(run.task["recipe"])
            spec = TrialSpec(finalist.canonical, run.config.task, recipe, seed=training.seed, width=WIDTH)
            torch.manual_seed(training.seed)
            model = build_model(spec, WIDTH, inputs=TOKENS, outputs=TOKENS, embed=True)
            task: Any = SimpleNamespace(inputs=TOKENS, outputs=TOKENS, embed=True, vocabulary=VOCABULARY)
            assert training.weights is not None
            result = TrialResult("ok", training.score, training.test_score, width=WIDTH)
            save_trained(run.path / training.weights, model, spec, task, result)
