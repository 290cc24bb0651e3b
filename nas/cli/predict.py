"""Commands about how good a cell will be: predict, similar, and predictor fit, eval and card."""

from __future__ import annotations

import csv
import io
import json as json_module
import os
from collections.abc import Iterator
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.cells import Json
from nas.cli.console import score_text, show, show_json
from nas.cli.console import table as table_of
from nas.cli.errors import UsageError
from nas.cli.produce import Quiet
from nas.cli.values import read_cell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grammar import Cell
    from predictors import Predictor

CellsArgument = Annotated[
    list[str], typer.Argument(metavar="CELL", help="Texts, files, zoo:lstm, RUN#3, or - to read one.")
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "-p",
        "--predictor",
        help="A file that `recell predictor fit` wrote. (default: one that comes with recell)",
    ),
]
TaskOption = Annotated[
    str | None, typer.Option("--task", help="Which of those that come with recell. (default: text)")
]
SourcesArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUN",
        help="Folders of runs, tables (.csv, .jsonl) with `cell` and `score`, or tables of trials (.jsonl.gz).",
        show_default=False,
    ),
]
TableOption = Annotated[
    str | None,
    typer.Option("--table", help="A further table: `own` is that of trained cells that comes with recell."),
]
OnTaskOption = Annotated[
    str | None, typer.Option("--task", help="Which task of a table of trials, where it has several.")
]

app = typer.Typer(
    help="Fit predictors of how good a cell will be, check them, and see what they were fitted on."
)


def predict(
    cells: CellsArgument, predictor: FromOption = None, task: TaskOption = None, json: Json = False
) -> None:
    """Say how good cells will be before they are trained, and how sure that is."""
    model = opened(predictor, task)
    found = [read_cell(text) for text in cells]
    said = model.predict(found, _extras(model, found))
    reached = model.reached([cell.digest for cell in found])
    rows: list[dict[str, Any]] = [
        {
            "cell": cell.one_line,
            "digest": cell.digest,
            "mean": float(said.mean[i]),
            "std": float(said.std[i]),
            "low": float(said.mean[i] - 1.645 * said.std[i]),
            "high": float(said.mean[i] + 1.645 * said.std[i]),
            "diverges": None if model.failing is None else float(said.diverges[i]),
            "out_of_distribution": bool(said.out_of_distribution[i]),
            "novelty": float(said.novelty[i]),
            "fitted": None if model.known is None else not isnan(reached[i]),
            "trained": float(reached[i]) if isfinite(reached[i]) else None,
            "task": model.card.get("task"),
            "unit": model.card.get("unit"),
        }
        for i, cell in enumerate(found)
    ]
    if json:
        show_json(rows)
        return
    trained = any(row["fitted"] for row in rows)
    lines = [
        (
            score_text(row["mean"]),
            f"{score_text(row['low'])} to {score_text(row['high'])}",
            "-" if row["diverges"] is None else f"{row['diverges']:.0%}",
            "yes" if row["out_of_distribution"] else "no",
            *([_trained(row)] if trained else []),
            row["cell"],
        )
        for row in rows
    ]
    last = ["trained", "cell"] if trained else ["cell"]
    show(
        table_of(["score", "90 % of such cells", "diverges", "unlike those fitted", *last], lines, ["score"])
    )
    show("", *_about(model))
    if trained:
        show(
            "`trained` is what a cell reached that this predictor was fitted on; 90 % of these lie in theirs."
        )
    if model.known is None:
        show("It does not know which cells it was fitted on: the intervals of these are too narrow.")


def _trained(row: dict[str, Any]) -> str:
    if not row["fitted"]:
        return "-"
    return "diverged" if row["trained"] is None else score_text(row["trained"])


def opened(predictor: Path | None, task: str | None) -> Predictor:
    """The predictor in a file, or the one for a task that comes with recell. Raises UsageError for both."""
    from predictors import load, shipped

    if predictor is not None and task is not None:
        raise UsageError("--task chooses among the predictors that come with recell: give it or -p, not both")
    return load(predictor) if predictor is not None else shipped(task or "text")


def _extras(model: Predictor, cells: list[Cell]) -> NDArray[np.float64] | None:
    """The columns beyond the encoding that a predictor wants: zero-cost scores are made here."""
    if not model.extras:
        return None
    if "zero_cost" not in model.card:
        raise UsageError(
            f"this predictor also wants {model.extras} further values of each cell, such as losses of first epochs; "
            "give them in Python: predictors.load(path).predict(cells, extras)"
        )
    from nas.training import zero_cost_columns, zero_cost_key

    if model.card["zero_cost"] != zero_cost_key():
        raise UsageError("this predictor was fitted to zero-cost scores of another version; fit it anew")
    return zero_cost_columns(cells)


def _about(model: Predictor) -> list[str]:
    """What the scores are, and how far they can be trusted."""
    card = model.card
    task = f" on {card['task']}" if card.get("task") else ""
    size = f", size {card['size']}" if card.get("size") else ""
    unit = f" Scores: {card['unit']}." if card.get("unit") else ""
    lines = [f"Fitted on {card.get('cells', '?')} cells{task}{size}.{unit} Lower scores are better."]
    held = card.get("cross_validation") or card.get("held_out")
    if isinstance(held, dict) and isinstance(held.get("kendall_tau"), float):
        lines.append(
            f"On cells that it was not fitted on, its order agrees with the true one with Kendall's tau "
            f"{held['kendall_tau']:.2f} (1 is perfect, 0 is chance)."
        )
    return lines


@app.command("fit", epilog="Example: recell predictor fit runs/a runs/b -o p.recell")
def fit(
    sources: SourcesArgument = None,
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    seed: Annotated[int, typer.Option(help="Same seed, same predictor.")] = 0,
    zero_cost: Annotated[
        bool, typer.Option("--zero-cost", help="Also take scores of gradients, some 45 ms a cell.")
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="A ninth of the bytes; what it says changes a little.")
    ] = False,
    table: TableOption = None,
    task: OnTaskOption = None,
    model: Annotated[
        str, typer.Option(help="What is seen of cells: ensemble (the best), wl, graph or text (no probes).")
    ] = "ensemble",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Fit a predictor to the trials of runs, or to tables of cells and scores; write it to one file."""
    from predictors import MODELS
    from predictors import fit as fit_predictor

    if model not in MODELS:
        raise UsageError(f"--model is one of {', '.join(MODELS)}; received {model!r}")
    _check_place(out)
    paths = _sources(sources, table)
    cells, scores, tasks = _records(paths, task)
    about = dict(zip(("task", "size", "unit"), next(iter(tasks), ("",)), strict=False))
    card: dict[str, Any] = {**about, "sources": [path.name for path in paths]}
    extras = None
    if zero_cost:
        from nas.training import zero_cost_columns, zero_cost_key

        card["zero_cost"], extras = zero_cost_key(), zero_cost_columns(cells)
    made = fit_predictor(cells, scores, seed=seed, extras=extras, card=card, model=model)
    made.save(out, small)
    if json or not quiet:
        _show_card(made, json)
    if not (json or quiet):
        show("", f"Wrote {out}.")


def _check_place(out: Path) -> None:
    """Whether a file can be written there: said before minutes are spent on what is in it. Raises UsageError."""
    if out.exists() and not out.is_file():
        raise UsageError(f"-o is a file; {out} is a {'folder' if out.is_dir() else 'pipe or a device'}")
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}: there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"cannot write {out}: the folder {out.parent} is not for you to write")


@app.command("eval", epilog="Example: recell predictor eval p.recell runs/c")
def evaluate(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PREDICTOR] RUN",
            help="The file of a predictor, and runs or tables as for `fit`; with --folds no predictor.",
            show_default=False,
        ),
    ] = None,
    table: TableOption = None,
    task: OnTaskOption = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2, help="Fit to all but one of so many parts of the classes of cells, ask for that one."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare a predictor with runs or tables that it was not fitted on, or cross-validate those."""
    if folds is None and not sources:
        raise UsageError(
            "a comparison needs the file of a predictor, or --folds to cross-validate the tables given"
        )
    if folds is None:
        given = sources or []
        found = _compared(given[0], _sources(given[1:], table), task)
    else:
        from predictors import validate

        cells, scores, _ = _records(_sources(sources, table), task)
        found = {"cells": len({cell.digest for cell in cells}), **validate(cells, scores, folds=folds)}
    cleaned = {name: None if value != value else value for name, value in found.items()}
    if json:
        show_json(cleaned)
        return
    show(table_of(["", ""], [(name.replace("_", " "), _number(value)) for name, value in cleaned.items()]))
    if cleaned.get("fitted_cells"):
        show("The predictor was fitted on some of these cells: of them it says more than of new ones.")
    if "predictor_of" in cleaned:
        show(
            f"It was fitted to {cleaned['predictor_of']}, and these are scores of {cleaned['scores_of']}: "
            "its order may hold there; its errors and intervals mean nothing."
        )


def _compared(predictor: Path, sources: list[Path], task: str | None) -> dict[str, Any]:
    import numpy as np

    from predictors import auc, classes_of, coverage, kendall_tau, load, spearman

    model = load(predictor)
    read, scores, tasks = _records(sources, task)
    cells, truth, _ = classes_of(read, np.array(scores), None)
    ok = np.isfinite(truth)
    if ok.sum() < 2:
        raise UsageError(f"a comparison needs at least 2 cells with a score; received {int(ok.sum())}")
    said = model.predict(cells, _extras(model, cells))
    known = None if model.known is None else int((~np.isnan(model.reached([c.digest for c in cells]))).sum())
    own, theirs = (model.card.get("task"), model.card.get("size")), next(iter(tasks), None)
    mixed: dict[str, str] = {}
    if theirs is not None and all(own) and own != theirs[:2]:
        mixed = {"predictor_of": " ".join(map(str, own)), "scores_of": " ".join(theirs[:2])}
    return {
        "cells": int(ok.sum()),
        "failed_cells": int((~ok).sum()),
        "fitted_cells": known,
        "kendall_tau": kendall_tau(said.rank[ok], truth[ok]),
        "spearman": spearman(said.rank[ok], truth[ok]),
        "mean_error": float(np.abs(said.mean[ok] - truth[ok]).mean()),
        "covered_by_90": coverage(said.mean[ok], said.std[ok], truth[ok]),
        "auc_of_divergence": auc(np.nan_to_num(said.diverges), ~ok),
        "out_of_distribution": float(said.out_of_distribution.mean()),
        **mixed,
    }


@app.command("card", epilog="Example: recell predictor card p.recell")
def card(
    predictor: Annotated[Path, typer.Argument(metavar="PREDICTOR", help="The file of a predictor.")],
    json: Json = False,
) -> None:
    """Show what a predictor was fitted on, and how good it is on held-out cells."""
    from predictors import load

    _show_card(load(predictor), json)


def _show_card(model: Predictor, json: bool) -> None:
    if json:
        show_json(dict(model.card))
        return
    rows = []
    for name, value in model.card.items():
        if isinstance(value, dict):
            rows += [(f"{name} {inner}".replace("_", " "), _number(v)) for inner, v in value.items()]
        else:
            rows.append((name.replace("_", " "), _number(value)))
    show(table_of(["", ""], rows))


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


# ---- where cells and scores come from ---------------------------------------------------------


def _sources(sources: list[Path] | None, table: str | None) -> list[Path]:
    """All that is to be read. Raises UsageError for nothing."""
    from predictors import TABLE

    found = [*(sources or []), *([TABLE if table == "own" else Path(table)] if table else [])]
    if not found:
        raise UsageError("give runs or tables, or --table own for the table that comes with recell")
    return found


def _records(
    sources: list[Path], asked: str | None = None
) -> tuple[list[Cell], list[float], set[tuple[str, str, str]]]:
    """Cells, their scores (infinite where training diverged), and task, size and unit of the runs among the sources."""
    cells: list[Cell] = []
    scores: list[float] = []
    tasks: set[tuple[str, str, str]] = set()
    data: dict[str, Path] = {}
    for source in sources:
        if source.name.endswith(".jsonl.gz"):
            pairs, task = _of_trials(source, asked)
            tasks.add(task)
        elif source.is_file() or source.suffix in (".csv", ".jsonl"):
            pairs = list(_of_table(source))
        else:
            pairs, task, digest = _of_run(source)
            tasks.add(task)
            data.setdefault(digest, source)
        cells += [cell for cell, _ in pairs]
        scores += [score for _, score in pairs]
    if len(tasks) > 1:
        names = sorted(" ".join(part for part in task if part) for task in tasks)
        raise UsageError(f"one predictor is of one task at one size; these are runs of {', '.join(names)}")
    if len(data) > 1:
        first, second, *_ = data.values()
        raise UsageError(
            f"one predictor is of one task on the same data; those of {first} and {second} differ"
        )
    return cells, scores, tasks


def _of_trials(path: Path, asked: str | None) -> tuple[list[tuple[Cell, float]], tuple[str, str, str]]:
    """The trials of one task of a table; those that were stopped early say nothing and are left out."""
    from grammar import parse
    from nas.tasks import task_table
    from predictors import read_trials

    trials = read_trials(path)
    names = sorted({trial.task for trial in trials})
    task = asked or (names[0] if len(names) == 1 else "")
    own = [trial for trial in trials if trial.task == task]
    if not names:
        raise UsageError(f"{path} holds no trials")
    if not own:
        received = f"received {asked!r}" if asked else "choose one with --task"
        raise UsageError(f"{path} has trials on {', '.join(names)}; {received}")
    sizes = sorted({trial.size for trial in own})
    if len(sizes) > 1:
        raise UsageError(f"{path} has the task {task} at the sizes {', '.join(sizes)}: one is wanted")
    unit = next((row.metric for row in task_table() if row.name == task), "")
    pairs = [(parse(trial.cell, f"{path}"), trial.loss) for trial in own if not isnan(trial.loss)]
    return pairs, (task, sizes[0], unit)


def _of_run(folder: Path) -> tuple[list[tuple[Cell, float]], tuple[str, str, str], str]:
    """The trials of a run that say how good a cell is; task, size and unit; the digest of the data."""
    from grammar import parse
    from nas.campaign import open_run

    run = open_run(folder)
    pairs = []
    for trial in run.trials:
        if trial.supernet is not None:
            continue  # that it diverged says nothing of the cell that it is around
        if trial.until is not None and trial.status == "ok":
            continue  # a score after fewer steps is no answer to the same question
        if trial.status == "ok" and trial.score is not None:
            pairs.append((parse(trial.text), trial.score))
        elif trial.status == "diverged":
            pairs.append((parse(trial.text), float("inf")))
    task = run.task["name"], run.config.size, str(run.task.get("metric", ""))
    return pairs, task, run.task["data_digest"]


def _of_table(path: Path) -> Iterator[tuple[Cell, float]]:
    from grammar import parse

    if path.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"a table is a .csv or .jsonl file, a run is a folder; received {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"the table {path} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"cannot read the table {path}: {error.strerror}") from None
    for number, row in enumerate(_rows(path, text), start=1):
        if not isinstance(row, dict) or not isinstance(row.get("cell"), str) or "score" not in row:
            raise UsageError(f"{path}: row {number} needs a `cell` (its text) and a `score`")
        score = row["score"]
        try:
            value = float("inf") if score is None or not str(score).strip() else float(score)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(
                f"{path}: the score of row {number} is a number or empty; received {score!r}"
            ) from None
        yield parse(row["cell"], f"{path} row {number}"), value


def _rows(path: Path, text: str) -> Iterator[Any]:
    if path.suffix == ".csv":
        try:
            for row in csv.DictReader(io.StringIO(text)):  # a cell in quotes may go over several lines
                yield {name: row[name] for name in row if row[name] is not None}  # None: the row is short
        except csv.Error as error:
            raise UsageError(f"{path} is not CSV: {error}") from None
        return
    for number, line in enumerate(io.StringIO(text), start=1):
        try:
            yield json_module.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: line {number} is not JSON: {error}") from None


# ---- similar ----------------------------------------------------------------------------------


def similar(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A text, a file, zoo:lstm, RUN#3, or -.")],
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="RUN", help="Also look among the trials of this run."),
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 5,
    json: Json = False,
) -> None:
    """Find the known cells nearest to one, in the zoo and in runs, and show what differs."""
    from grammar import parse, zoo, zoo_names
    from nas.campaign import open_run
    from predictors import similar as nearest

    query = read_cell(cell)
    known = {f"zoo:{name}": zoo(name) for name in zoo_names()}
    scores: dict[str, float | None] = {}
    for folder in runs or []:
        for trial in open_run(folder).trials:
            known[f"{folder}#{trial.id}"] = parse(trial.text)
            scores[f"{folder}#{trial.id}"] = trial.score
    found = nearest(query, known, number)
    if json:
        show_json(
            [
                {
                    "name": n.name,
                    "distance": n.distance,
                    "score": scores.get(n.name),
                    "cell": n.cell.one_line,
                    "difference": list(n.difference),
                }
                for n in found
            ]
        )
        return
    show("In what differs, + is the cell asked for and - the known one.", "")
    for neighbour in found:
        score = scores.get(neighbour.name)
        told = f"  score {score_text(score)}" if score is not None else ""
        show(f"{neighbour.name}  distance {neighbour.distance:.2f}{told}")
        show(*(f"    {line}" for line in neighbour.difference or ("the same function",)), "")
