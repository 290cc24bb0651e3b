"""Training: a trial is a fixed number of steps of one cell on one task. `TrialSpec` and `TrialResult` need no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.tasks import Recipe as Recipe
    from nas.training.checkpoint import load_trained as load_trained
    from nas.training.checkpoint import trained_vocabulary as trained_vocabulary
    from nas.training.loop import device_of as device_of
    from nas.training.loop import evaluate as evaluate
    from nas.training.loop import learning_rate as learning_rate
    from nas.training.loop import task_of as task_of
    from nas.training.loop import train as train
    from nas.training.metrics import measure_latency as measure_latency
    from nas.training.metrics import static_metrics as static_metrics
    from nas.training.spec import TrialResult as TrialResult
    from nas.training.spec import TrialSpec as TrialSpec
    from nas.training.width import match_width as match_width
    from nas.training.zero_cost import zero_cost_columns as zero_cost_columns
    from nas.training.zero_cost import zero_cost_key as zero_cost_key
    from nas.training.zero_cost import zero_cost_names as zero_cost_names

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Recipe": "nas.tasks",
        "TrialResult": "nas.training.spec",
        "TrialSpec": "nas.training.spec",
        "device_of": "nas.training.loop",
        "evaluate": "nas.training.loop",
        "learning_rate": "nas.training.loop",
        "load_trained": "nas.training.checkpoint",
        "match_width": "nas.training.width",
        "measure_latency": "nas.training.metrics",
        "static_metrics": "nas.training.metrics",
        "task_of": "nas.training.loop",
        "train": "nas.training.loop",
        "trained_vocabulary": "nas.training.checkpoint",
        "zero_cost_columns": "nas.training.zero_cost",
        "zero_cost_key": "nas.training.zero_cost",
        "zero_cost_names": "nas.training.zero_cost",
    },
)
