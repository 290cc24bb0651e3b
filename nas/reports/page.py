"""The report of a run: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from grammar import Cell, parse
from nas.campaign import Contender, Run, TrialRecord
from nas.errors import RunError
from nas.reports.charts import Chart, Series, chart_svg
from nas.reports.diagram import diagram
from nas.reports.front import front_charts, front_table
from nas.reports.judge import best_baseline, estimate, final_tests, p_text, paired_difference, scores, verdict
from nas.reports.svg import diagram_svg

REPORT = "report.html"
MARK = '<meta name="generator" content="recell">'
_FOUND = ("found", "found2", "found3")
_KNOWN = ("known", "known2", "known3", "known4")
_LARGEST_DRAWING = 160  # nodes of a graph
_SHOWN = 20


def write_report(run: Run, path: Path | None = None) -> Path:
    """Write the report of a run, by default `report.html` in its folder, and return its place.

    An older report is replaced; any other file is left alone, and RunError raised.
    """
    place = run.path / REPORT if path is None else path
    if place.is_dir():
        raise RunError(f"{place} is a folder; give a file for the report")
    if place.exists() and MARK not in place.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise RunError(f"{place} is not a report of recell and is not overwritten; give another file")
    if not place.parent.is_dir():
        raise RunError(f"the folder {place.parent} for the report does not exist")
    beside = place.with_name(f".{place.name}.part")
    beside.write_text(report_html(run), encoding="utf-8")
    beside.replace(place)
    return place


def report_html(run: Run) -> str:
    """The report of a run as HTML, whatever state the run is in."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"score": _score, "count": _count, "seconds": seconds_text, "recipe": recipe_text}
    best = _best_cell(run)
    return environment.get_template("report.html.j2").render(
        mark=Markup(MARK),
        run=run,
        status=run.status(),
        title=run.path.resolve().name,
        unit=run.task.get("metric", ""),
        verdict=verdict(run),
        tiles=list(_tiles(run)),
        comparison=_comparison(run),
        own_recipes=any(c.recipe for c in run.finalists),
        charts=[(name, Markup(svg), legend) for name, svg, legend in _charts(run) if svg],
        best=best,
        drawing=Markup(_drawing(best["cell"])) if best else None,
        front=front_table(run),
        top=[_trial_row(run, trial) for trial in run.top(_SHOWN)],
        failures=run.failures,
        facts=list(_facts(run)),
        examples=_examples(run),
    )


# ---- parts of the page ------------------------------------------------------------------------


def _best_cell(run: Run) -> dict[str, Any] | None:
    """The cell that the report draws: the winner of the final comparison, else the best of the search."""
    trial = run.best
    if run.winner is not None and run.winner.trial is not None:
        trial = run.trials[run.winner.trial]
    if trial is None:
        return None
    cell = parse(trial.text)
    return {"trial": trial, "cell": cell, "text": str(cell), "canonical": str(parse(trial.canonical))}


def _drawing(cell: Cell) -> str:
    if len(cell.graph.nodes) > _LARGEST_DRAWING:
        return ""
    return diagram_svg(diagram(cell), f"the graph of cell {cell.name}")


def _tiles(run: Run) -> Iterator[tuple[str, str]]:
    ended = [t for t in run.trials if t.ended is not None]
    yield f"{sum(t.status == 'ok' for t in run.trials)}", "cells trained"
    over = run.failures.get("constraint", 0)
    yield f"{sum(run.failures.values()) - over}", "failed"
    supernets = sum(t.status == "supernet" for t in run.trials)
    if supernets:
        passed = sum(t.passed for t in run.trials)
        yield (
            f"{supernets}",
            "supernets trained" + (f" ({passed} of their paths passed over)" if passed else ""),
        )
    if run.duplicates:
        yield f"{run.duplicates}", "duplicates not trained again"
    if run.refused + over:
        yield f"{run.refused + over}", "refused for warnings or constraints"
    if run.fallbacks:
        yield f"{sum(run.fallbacks.values())}", "on the slow reference backend"
    yield seconds_text(run.active), f"of {seconds_text(run.config.budget)} used"
    if ended:
        walls = [t.wall for t in ended if t.supernet is None] or [t.wall for t in ended]
        yield seconds_text(statistics.median(walls)), "median trial"
    if run.best is not None:
        yield f"{run.best.score:.4f}", f"best {run.task.get('metric', '')} in the search"


def _comparison(run: Run) -> list[dict[str, Any]]:
    """A row per contender, the best test score first; those without a score last."""
    rival, tests = best_baseline(run), {test.name: test for test in final_tests(run)}
    rows = []
    for contender in run.contenders:
        difference = None if rival is None or contender is rival else paired_difference(contender, rival)
        rows.append(
            {
                "contender": contender,
                "valid": estimate(scores(contender, "valid")),
                "test": estimate(scores(contender)),
                "difference": difference,
                "p": p_text(tests[contender.name].corrected) if contender.name in tests else "",
                "rival": rival is contender,
                "failed": [t for t in contender.trainings if t.status not in ("ok", "pending", "running")],
            }
        )
    return sorted(rows, key=lambda row: row["test"].mean if row["test"] else float("inf"))


def _trial_row(run: Run, trial: TrialRecord) -> dict[str, Any]:
    known = {b.digest: b.name for b in run.baselines}
    return {
        "trial": trial,
        "text": parse(trial.text).one_line,
        "finalist": run.contender(trial.id) is not None,
        "known": known.get(trial.digest, ""),
    }


def _examples(run: Run) -> dict[str, str]:
    """The last message of each class of failure."""
    return {t.status: t.message for t in run.trials if t.status in run.failures and t.message}


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """What somebody needs to judge and repeat the search: the checklist of Lindauer and Hutter, from the journal."""
    config, task, versions = run.config, run.task, run.first.get("versions", {})
    recipe = task.get("recipe", {})
    yield "space, method", f"{config.space}, {config.method}" + _options(dict(config.options))
    yield "objectives", ", ".join(run.objectives)
    if config.constraints:
        yield "constraints (what violates one is not trained)", ", ".join(config.constraints)
    yield "cells with warnings", "not trained" if config.lint == "strict" else "trained like any other"
    yield "task", f"{task.get('name', config.task)} version {task.get('version', '?')}, size {config.size}"
    yield "data", config.data or "the task's own"
    yield "digest of the data", str(task.get("data_digest", ""))
    yield "metric", f"{task.get('metric', '')}, lower is better"
    if isinstance(task.get("trivial_score"), int | float):
        yield "an answer that ignores the input", f"{task['trivial_score']:.4f}"
    if task.get("best_known"):
        yield "best published (on its own data)", str(task["best_known"])
    own = any(trial.recipe for trial in run.trials)
    shared = "recipe, unless the search changed it" if own else "recipe, the same for all"
    yield shared, ", ".join(f"{name} {value}" for name, value in recipe.items())
    untils = sorted({trial.until for trial in run.trials if trial.until is not None})
    if untils:
        yield "steps of trials that were not trained to the end", ", ".join(map(str, untils))
    if config.width is not None:
        yield "width of every model", f"{config.width}, heads {config.heads}; parameters differ"
    else:
        params = f"{task.get('params', 0):,} (embedding and head included), heads {config.heads}"
        yield "parameters of every model", params
    yield "seed of the search", str(config.seed)
    yield "seeds of the final comparison", ", ".join(_seeds(run)) or "none"
    yield (
        "budget",
        f"{seconds_text(config.budget)}, used {seconds_text(run.active)} in {len(run.sittings)} sitting(s)",
    )
    yield "cost", _cost(run)
    yield "workers", "; ".join(dict.fromkeys(_sitting(s) for s in run.sittings)) or "none"
    yield "versions", ", ".join(f"{name} {value}" for name, value in versions.items())
    yield "test data", "read once for each final training, never in the search"
    yield "configuration", f"SHA-256 {run.first.get('hash', '')}"


def _options(options: dict[str, Any]) -> str:
    return "".join(f", {name} {value}" for name, value in options.items())


def _seeds(run: Run) -> list[str]:
    return list(dict.fromkeys(str(t.seed) for c in run.contenders for t in c.trainings))


def _cost(run: Run) -> str:
    searched = sum(t.wall for t in run.trials)
    shared = sum(t.wall for t in run.trials if t.supernet is not None)
    retrained = sum(t.wall for c in run.contenders for t in c.trainings)
    of_these = f" ({seconds_text(shared)} of it for supernets)" if shared else ""
    ended = f"{seconds_text(retrained)} in the final comparison"
    return f"{seconds_text(searched)} of workers' time in the search{of_these}, {ended}"


def _sitting(event: dict[str, Any]) -> str:
    when = datetime.datetime.fromtimestamp(event.get("t", 0.0), datetime.UTC).strftime("%Y-%m-%d")
    return f"{event.get('workers', '?')} on {event.get('device', '?')}, host {event.get('host', '?')}, {when}"


# ---- charts -----------------------------------------------------------------------------------

_Legend = list[tuple[str, str]]


def _charts(run: Run) -> Iterator[tuple[str, str, _Legend]]:
    unit = run.task.get("metric", "score")
    ended = [t for t in run.trials if t.ended is not None and t.score is not None]
    if not ended:
        return
    ended.sort(key=lambda t: t.ended or 0.0)
    levels = [(b.name, b.score, _KNOWN[i % 4]) for i, b in enumerate(run.baselines) if b.score is not None]
    top = _ceiling([t.score or 0.0 for t in ended], [value for _, value, _ in levels])
    whole = {trial.id for trial in run.furthest()}  # one score of fewer steps says nothing beside one of more
    legend = [("a trial", "trial"), ("best so far", "found")]
    if len(whole) < len(ended):
        steps = run.furthest()[0].until or run.full_steps
        legend = [
            (f"a trial of {steps} steps", "trial"),
            ("of fewer", "less"),
            ("best of the former so far", "found"),
        ]
    for title, label, xs in (
        ("Best so far, by time", "minutes of the budget", [(t.ended or 0.0) / 60 for t in ended]),
        ("Best so far, by trials", "trials with a score", [float(i + 1) for i in range(len(ended))]),
    ):
        series = _progress(list(zip(xs, ended, strict=True)), whole)
        yield title, chart_svg(Chart(label, f"validation {unit}", series, levels, top), title), legend
    yield from front_charts(run, top)
    yield _sizes_chart(run, [t for t in ended if t.id in whole], unit, top)
    yield _curves_chart(run, unit)


def _progress(placed: list[tuple[float, TrialRecord]], whole: set[int]) -> list[Series]:
    """Dots of the trials, those that are not of the `whole` ones apart, and the best of these so far."""
    series = []
    for name, colour in (("trials of fewer steps", "less"), ("trials", "trial")):
        chosen = [(x, t) for x, t in placed if (t.id in whole) == (colour == "trial")]
        points = [(x, t.score or 0.0) for x, t in chosen]
        notes = [f"#{t.id}: {t.score:.4f}, {t.operator}" for _, t in chosen]
        if colour == "less":
            notes = [f"{note}, {t.until} steps" for note, (_, t) in zip(notes, chosen, strict=True)]
        series.append(Series(name, points, colour, "dots", notes))
    return [*series, Series("best so far", _best(series[-1].points), "found", "steps")]


def _best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    kept: list[tuple[float, float]] = []
    for x, y in points:
        if not kept or y < kept[-1][1]:
            kept.append((x, y))
    return kept


def _ceiling(values: list[float], others: list[float]) -> float:
    """A y axis that shows what matters: the best and the middle, not the worst outlier."""
    low, middle = min(values), statistics.median(values)
    return max(middle + 1.5 * (middle - low), *others, low + 1e-6)


def _sizes_chart(run: Run, ended: list[TrialRecord], unit: str, top: float) -> tuple[str, str, _Legend]:
    series = [
        Series(
            "trials",
            [(float(t.params), t.score or 0.0) for t in ended],
            "trial",
            "dots",
            [f"#{t.id}: {t.score:.4f}, {t.params:,} parameters, width {t.width}" for t in ended],
        )
    ]
    legend = [("a trial", "trial")]
    for contender, colour in _coloured(run):
        if contender.score is not None:
            point = (float(contender.params), contender.score)
            note = f"{contender.name} retrained: {contender.score:.4f}, {contender.params:,} parameters"
            series.append(Series(contender.name, [point], f"{colour} large", "dots", [note]))
            legend.append((f"{contender.name}, retrained", colour))
    title = "Loss against parameters"
    return (
        title,
        chart_svg(Chart("trainable parameters", f"validation {unit}", series, (), top), title),
        legend,
    )


def _curves_chart(run: Run, unit: str) -> tuple[str, str, _Legend]:
    series, legend, late = [], [], []
    for contender, colour in _coloured(run):
        curves = [[(float(s), v) for s, v in t.curve if v is not None] for t in contender.done]
        for curve in filter(None, curves):
            series.append(Series(contender.name, curve, colour))
            # The first losses are those of an untrained model; they would flatten everything after.
            late += [value for step, value in curve if step >= 0.1 * curve[-1][0]]
        if any(curves):
            legend.append((contender.name, colour))
    title = "Training curves of the final comparison"
    chart = Chart("step", "training loss", series, (), max(late) if late else None)
    return title, chart_svg(chart, title), legend


def _coloured(run: Run) -> list[tuple[Contender, str]]:
    found = sorted(run.finalists, key=lambda c: c.score if c.score is not None else float("inf"))
    first = [(c, _FOUND[min(i, 2)]) for i, c in enumerate(found)]
    return [*first[:3], *((c, _KNOWN[i % 4]) for i, c in enumerate(run.baselines))]


# ---- text -------------------------------------------------------------------------------------


def seconds_text(seconds: float) -> str:
    """A length of time for people: 45 s, 3.5 min, 2.1 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5700 else f"{seconds / 3600:.1f} h"


def recipe_text(changes: Mapping[str, Any]) -> str:
    """What a trial changed in the recipe: lr 0.0021, dropout 0.13."""
    return ", ".join(f"{name} {value:g}" for name, value in changes.items())


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"  # noqa: RUF001


def _count(value: int) -> str:
    return f"{value:,}"
