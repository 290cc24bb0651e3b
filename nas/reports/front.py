"""The Pareto front of a search with several objectives: a table, and a chart for each objective beside the first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nas.campaign import Run, TrialRecord
from nas.reports.charts import Chart, Series, chart_svg

UNITS = {
    "params": "parameters",
    "flops": "FLOPs per step",
    "state_bytes": "bytes of state",
    "gemm_depth": "products deep",
    "latency_us": "µs per step",
}


def objective_value(trial: TrialRecord, name: str) -> float | None:
    """What a trial has of an objective, None if it is not known."""
    return trial.score if name == "loss" else trial.metrics.get(name)


def objective_text(name: str, value: float | None) -> str:
    """A value of an objective for people."""
    if value is None:
        return "–"  # noqa: RUF001
    return f"{value:.4f}" if name == "loss" else f"{value:,.1f}" if name == "latency_us" else f"{value:,.0f}"


def front_table(run: Run) -> dict[str, Any] | None:
    """The cells of the front with the values of all objectives, the lowest loss first; None with one objective."""
    if len(run.objectives) < 2:
        return None
    names = [*run.objectives]
    heads = [f"validation {run.task.get('metric', '')}" if name == "loss" else UNITS[name] for name in names]
    rows = [
        {
            "trial": trial,
            "values": [objective_text(name, objective_value(trial, name)) for name in names],
            "finalist": run.contender(trial.id) is not None,
        }
        for trial in run.front()
    ]
    return {"heads": heads, "rows": rows, "names": ", ".join(names)}


def front_charts(run: Run, top: float) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Loss against each other objective: all trials, and those on the front; `top` cuts the axis of the loss."""
    if "loss" not in run.objectives or len(run.objectives) < 2:
        return
    front = {trial.id for trial in run.front()}
    trials = [trial for trial in run.top() if trial.score is not None]
    for name in run.objectives:
        known = [trial for trial in trials if name != "loss" and name in trial.metrics]
        if not known:
            continue
        series = []
        for kind, colour in (("a trial", "trial"), ("on the front", "found")):
            chosen = [trial for trial in known if (trial.id in front) == (colour == "found")]
            points = [(trial.metrics[name], trial.score or 0.0) for trial in chosen]
            notes = [f"#{t.id}: {t.score:.4f}, {objective_text(name, t.metrics[name])}" for t in chosen]
            series.append(Series(kind, points, colour, "dots", notes))
        title = f"Loss against {UNITS[name]}"
        chart = Chart(UNITS[name], f"validation {run.task.get('metric', '')}", series, (), top)
        yield title, chart_svg(chart, title), [("a trial", "trial"), ("on the Pareto front", "found")]
