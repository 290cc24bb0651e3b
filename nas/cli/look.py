"""Commands that read and change nothing: status, top, spaces, tasks, doctor. None of them loads torch but doctor."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress_bar import ProgressBar
from rich.text import Text

from nas.cli.cells import Json
from nas.cli.console import bytes_text, console, score_text, show, show_json, table

if TYPE_CHECKING:
    from nas.campaign import Run, TrialRecord

_TABLE_WIDTH = 60  # columns, below which the numbers of `top` have no room beside each other

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]


def status(run: RunArgument, json: Json = False) -> None:
    """Say how far a run is: what is finished, running and failed, and how much of the budget is left."""
    from nas.campaign import open_run

    opened = open_run(run)
    found = opened.status()
    if json:
        show_json(found)
    else:
        _show_status(found)


def _show_status(found: dict[str, Any]) -> None:
    from nas.reports import seconds_text

    style = {"running": "green", "finished": "green", "interrupted": "yellow", "stopped": "yellow"}[
        found["state"]
    ]
    live = f" (pid {found['pid']} on {found['host']})" if found["pid"] is not None else ""
    head = Text.assemble((found["run"], "bold"), "  ", (found["state"], style), live)
    show(
        head,
        Text(f"{found['method']} in {found['space']} on {found['task']}, {found['phase']}", style="dim"),
        "",
    )
    trials = f"{found['finished']} finished, {found['running']} running, {failures_text(found['failed'])}"
    if found["supernets"]:
        trials = f"{found['supernets']} supernets and {trials}"
    if found["pending"]:
        trials += f", {found['pending']} waiting"
    if found["duplicates"]:
        alike = f" ({found['alike']} by what they compute)" if found["alike"] else ""
        trials += f", {found['duplicates']} duplicates not trained{alike}"
    if found["refused"]:
        trials += f", {found['refused']} refused for warnings or constraints"
    used = f"{seconds_text(found['active'])} of {seconds_text(found['budget'])} used"
    rows: list[tuple[str, object]] = [("trials", trials)]
    for reason, count in found["fallbacks"].items():
        rows.append(("slow", f"{count} on the reference backend: {reason}"))
    if found["retrain_planned"]:
        rows.append(("retrained", f"{found['retrained']} of {found['retrain_planned']} final trainings"))
    rows.append(("budget", f"{used}, {seconds_text(found['budget_left'])} left"))
    if found["best"]:
        best = found["best"]
        rows.append(
            (
                "best",
                f"#{best['trial']}  {score_text(best['score'])} {found['metric'] or ''}  {best['params']:,} parameters",
            )
        )
        rows.append(("", best["cell"]))
    show(table(["", ""], rows))
    if console().is_terminal:
        show(
            "", ProgressBar(total=found["budget"], completed=min(found["budget"], found["active"]), width=50)
        )
    if found["state"] in ("interrupted", "stopped"):
        show("", f"carry it on with: recell resume {found['run']}")


def failures_text(failed: dict[str, int]) -> str:
    """How many trials failed, by class; apart from them those refused for what was measured."""
    over = failed.get("constraint", 0)
    total = sum(failed.values()) - over
    classes = ", ".join(f"{name} {number}" for name, number in sorted(failed.items()) if name != "constraint")
    text = f"{total} failed ({classes})" if total else "0 failed"
    return f"{text}, {over} over a measured constraint" if over else text


def top(
    run: RunArgument,
    number: Annotated[int, typer.Option("-n", min=1, help="How many cells.")] = 10,
    json: Json = False,
) -> None:
    """List the best cells of a run, the lowest validation score of the search first.

    Of a search with several objectives, the Pareto front comes first. Where trials were trained for different numbers
    of steps, those that were trained furthest come first. `rank` is what `recell export --rank` takes: cells that were
    retrained come before those that were not.
    """
    from nas.campaign import open_run
    from nas.exporters import ranking

    opened = open_run(run)
    ranks = {trial.id: rank for rank, trial in enumerate(ranking(opened), start=1)}
    several = len(opened.objectives) > 1
    front = opened.front() if several else []
    on_front = {trial.id for trial in front}
    order = [*front, *(trial for trial in opened.top() if trial.id not in on_front)]
    rows = [
        {**_row(opened, trial, ranks[trial.id]), "front": trial.id in on_front if several else None}
        for trial in order[:number]
    ]
    if json:
        show_json(rows)
    elif not rows:
        show("no trial has a score yet")
    else:
        _show_top(rows, opened)
        if several:
            count = f"{len(front)} of {len(order)} cells"
            show("", f"front: the Pareto front of {', '.join(opened.objectives)}: {count}")


def _row(run: Run, trial: TrialRecord, rank: int) -> dict[str, Any]:
    contender = run.contender(trial.id)
    done = contender.done if contender else []
    return {
        "rank": rank,
        "trial": trial.id,
        "cell": trial.text,
        "digest": trial.digest,
        "score": trial.score,
        "params": trial.params,
        "width": trial.width,
        "seeds": len(done) or 1,
        "retrained_score": contender.score if contender else None,
        "test_score": contender.test_score if contender else None,
        "operator": trial.operator,
        "steps": trial.until or run.full_steps,
        "recipe": dict(trial.recipe) if trial.recipe else None,
        "metrics": dict(trial.metrics),
        "lints": list(trial.lints),
        "seconds": trial.seconds,
    }


def _show_top(rows: list[dict[str, Any]], run: Run) -> None:
    from nas.reports import UNITS, objective_text, recipe_text

    unit = run.task.get("metric", "score")
    if console().width < _TABLE_WIDTH:
        for r in rows:
            retrained = f", retrained {score_text(r['retrained_score'])}" if r["retrained_score"] else ""
            show(
                f"{r['rank']}. #{r['trial']}  {score_text(r['score'])}{retrained}  {r['params']:,} parameters"
            )
            show(f"   {r['cell']}")
        return
    several = len(run.objectives) > 1
    wanted = [*run.objectives, *(text.partition("<=")[0] for text in run.config.constraints)]
    aims = [name for name in dict.fromkeys(wanted) if name not in ("loss", "params")]
    own = any(r["recipe"] for r in rows)
    stages = len({r["steps"] for r in rows}) > 1 or rows[0]["steps"] != run.full_steps
    numbers = ["rank", "trial", unit, "retrained", "test", "seeds", "params", *(UNITS[a] for a in aims)]
    numbers += ["steps"] if stages else []
    lines = [
        (
            r["rank"],
            f"#{r['trial']}",
            score_text(r["score"]),
            score_text(r["retrained_score"]),
            score_text(r["test_score"]),
            r["seeds"],
            f"{r['params']:,}",
            *(objective_text(name, r["metrics"].get(name)) for name in aims),
            *([r["steps"]] if stages else []),
            *(["*" if r["front"] else ""] if several else []),
            *([recipe_text(r["recipe"] or {})] if own else []),
            r["cell"],
        )
        for r in rows
    ]
    others = [*(["front"] if several else []), *(["recipe"] if own else []), "cell"]
    show(table([*numbers, *others], lines, numbers))


def spaces(
    name: Annotated[
        str | None, typer.Argument(help="Describe this space (a name or a file); without it, list all.")
    ] = None,
    json: Json = False,
) -> None:
    """List the search spaces, or describe one: its limits and its productions with their probabilities."""
    from search_spaces import load_space, space_names

    if name is not None:
        space = load_space(name)
        if json:
            show_json({"name": space.name, "doc": space.doc, "digest": space.digest, "text": space.text})
        else:
            show(*_described(space.describe().rstrip()))
        return
    known = [(n, load_space(n)) for n in space_names()]
    if json:
        show_json([{"name": n, "doc": s.doc, "zoo": list(s.claims), "digest": s.digest} for n, s in known])
    else:
        rows = [(n, " ".join(s.doc.split()), f"at most {s.limits.size} operations") for n, s in known]
        show(table(["name", "what is in it", "size"], rows))


def _described(text: str) -> list[str]:
    """A description for this terminal: where it is too wide, it is wrapped between words."""
    width = max(20, console().width)
    lines: list[str] = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        wrapped = textwrap.wrap(
            line, width, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
        )
        lines += wrapped if len(line) > width else [line]
    return lines


def tasks(json: Json = False) -> None:
    """List the tasks: what a cell is trained for, how it is scored, and how large each size is."""
    from nas.tasks import task_table

    rows = task_table()
    if json:
        show_json([row.to_dict() for row in rows])
        return
    lines = [
        (
            r.name,
            r.what,
            r.metric,
            f"{r.trivial_score:.4g}",
            r.best_known,
            "\n".join(_size(n, s) for n, s in r.sizes.items()),
        )
        for r in rows
    ]
    show(table(["name", "what it asks", "score", "trivial", "best known", "sizes"], lines, ["trivial"]))
    show("", "Lower scores are better. Your own task: a class, named as module:Class or file.py:Class.")


def _size(name: str, size: dict[str, int]) -> str:
    return f"{name}: {size['steps']:,} steps, {size['params']:,} parameters"


def doctor(json: Json = False) -> None:
    """Say what this machine has, and what recell will use of it."""
    from nas.cli.machine import findings

    found = findings()
    if json:
        show_json(found)
    else:
        rows = [
            (name, _cache_text(value) if name == "cache" else _plain(value))
            for name, value in found.items()
            if name not in ("backends", "problems")
        ]
        rows += [(f"backend {b['name']}", b["state"]) for b in found["backends"]]
        show(table(["", ""], rows))
        for problem in found["problems"]:
            show(Text(f"problem: {problem}", style="red"))
    if found["problems"]:
        raise typer.Exit(1)


def _cache_text(found: dict[str, Any]) -> str:
    if not found:
        return "none"
    most = "no limit" if found["largest"] is None else f"at most {bytes_text(found['largest'])}"
    return f"{found['folder']}: {found['files']:,} compiled files, {bytes_text(found['bytes'])} ({most})"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
