"""What Ray Tune runs: the training of one cell, as a trial of a campaign would be. `nas.searchers.tune` has it, too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ray import tune

from nas.tasks import load_task
from nas.training import TrialSpec, train


def trainable(
    task: str = "text",
    data: str | None = None,
    size: str = "search",
    *,
    params: int | None = None,
    heads: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> Callable[[dict[str, Any]], None]:
    """A Tune trainable: trains `config["cell"]` on a task as a trial of a campaign would be.

    It reports "steps", "loss" (training) and "score" (validation, lower is better). Until the end ("final") the score
    is the training loss, since Tune wants the metric in every report and a scheduler something to go by. Other
    entries of the config change the recipe by field ("lr", "steps", ...). A training that fails for what the cell is
    ends with a score that is not a number, the class of the failure ("status") and a "message": `TuneSearcher` tells
    it from a trial that the machine stopped, which Tune counts as an error.
    """

    def run(config: dict[str, Any]) -> None:
        loaded = load_task(task, data, size)
        changes = {k: v for k, v in config.items() if k not in ("cell", "digest", "operator")}
        spec = TrialSpec(
            config["cell"],
            task,
            loaded.recipe.replace(**changes),
            data=data,
            data_digest=loaded.data_digest,
            size=size,
            params=loaded.params if params is None else params,
            heads=heads,
            seed=seed,
            device="cuda" if device == "cuda" else "cpu",
        )

        def report(steps: int, loss: float) -> None:
            tune.report({"steps": steps, "loss": loss, "score": loss, "final": False})

        result = train(spec, on_progress=report)
        loss = result.curve[-1][1] if result.curve else math.nan
        end: dict[str, Any] = {"steps": result.steps, "loss": loss, "score": result.score, "final": True}
        if result.status != "ok":
            end |= {"score": math.nan, "status": result.status, "message": result.message}
        tune.report(end)

    return run
