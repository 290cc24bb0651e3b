"""One-shot searches with several seeds, and every cell that they select trained by itself: none is left out.

    python scripts/retrain_oneshot.py --out darts5             # DARTS on darts_rnn, five seeds, modular arithmetic
    python scripts/retrain_oneshot.py --out gdas5 --method gdas --task text --trainings 3 --steps 600
    python scripts/retrain_oneshot.py --out mine --space mine.cell -O select=perturbation -O lift=yes

Each seed gives one supernet and one selected cell. Beside each stand a cell drawn at random with the same seed, which
is what the search has to beat, and the baselines. All are trained from scratch with the same recipe, parameters and
`--trainings` seeds, none of them the search's. What is done is kept in the folder `--out`, one file for each training,
so that the command carries on where it was stopped; `report.md` there has every row.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grammar import zoo
from nas.cli.values import options as read_options
from nas.supernet import SupernetOptions, train_supernet
from nas.tasks import Recipe, load_task
from nas.training import TrialSpec, train
from search_spaces import SketchSpace, load_space

FIRST_TRAINING = 1000
"""The first seed of trainings, away from those of the searches."""


def main() -> None:
    """Search, train and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="darts_rnn")
    parser.add_argument("--task", default="modular_arithmetic")
    parser.add_argument("--size", default="search")
    parser.add_argument("--method", default="darts")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trainings", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, help="of a training and a supernet; default: those of the recipe"
    )
    parser.add_argument("--baseline", action="append", help="cells of the zoo; default: darts_v2 and lstm")
    parser.add_argument("-O", "--option", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = load_task(args.task, None, args.size).recipe
    recipe = recipe if args.steps is None else recipe.replace(steps=args.steps)
    options = SupernetOptions.from_dict({"method": args.method, **read_options("--option", args.option)})
    subjects = selected(args, options, recipe)
    rows = [
        {
            **subject,
            "results": [
                trained(args, recipe, subject["cell"], FIRST_TRAINING + k) for k in range(args.trainings)
            ],
        }
        for subject in subjects
    ]
    text = report(args, options, recipe, rows)
    (args.out / "report.md").write_text(text)
    print(text)


def selected(args: argparse.Namespace, options: SupernetOptions, recipe: Recipe) -> list[dict[str, Any]]:
    """What is to be trained: the cell of each search, one drawn at random for each, and the baselines."""
    space = load_space(args.space)
    assert isinstance(space, SketchSpace), f"{args.space} is no space of sketches"
    found = []
    for seed in range(args.seeds):

        def search(seed: int = seed) -> dict[str, Any]:
            spec = TrialSpec(str(space.sketches[0]), args.task, recipe, size=args.size, seed=seed)
            result = train_supernet(spec, options)
            return {
                "cell": result.found[0].cell if result.found else "",
                "shared": result.trial.score,
                "status": result.trial.status,
                "seconds": result.trial.seconds,
                "probabilities": result.probabilities,
            }

        found.append({"kind": f"{args.method} {seed}", **kept(args.out / f"search-{seed}.json", search)})
    for seed in range(args.seeds):
        found.append({"kind": f"random {seed}", "cell": space.sample(np.random.default_rng(seed)).one_line})
    return found + [
        {"kind": name, "cell": zoo(name).one_line} for name in args.baseline or ["darts_v2", "lstm"]
    ]


def trained(args: argparse.Namespace, recipe: Recipe, cell: str, seed: int) -> dict[str, Any]:
    """One training from scratch. A search that gave no cell has a row all the same."""
    if not cell:
        return {"status": "no cell", "score": None, "test": None, "seconds": 0.0}

    def run() -> dict[str, Any]:
        spec = TrialSpec(cell, args.task, recipe, size=args.size, seed=seed)
        result = train(spec, test=True)
        return {
            "status": result.status,
            "score": result.score,
            "test": result.test_score,
            "seconds": result.seconds,
        }

    name = hashlib.sha256(cell.encode()).hexdigest()[:12]
    return kept(args.out / f"train-{name}-{seed}.json", run)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the file holds; made and written first if there is none."""
    if not path.exists():
        made = make()
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(made))
        beside.rename(path)
        print(f"{path.name}: {made.get('score', made.get('shared'))}", flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def report(
    args: argparse.Namespace, options: SupernetOptions, recipe: Recipe, rows: list[dict[str, Any]]
) -> str:
    """Every row, and the mean of each kind."""
    task = load_task(args.task, None, args.size)
    lines = [
        f"# {args.method} on {args.space}, task {args.task}: every derived cell, trained by itself",
        "",
        f"{args.seeds} searches of {options.steps or recipe.steps} steps; trainings of {recipe.steps} steps with "
        f"{args.trainings} seeds each, {task.params:,} parameters, {task.metric} (lower is better; trivial "
        f"{task.trivial_score:.4f}). Options: {json.dumps(options.to_dict())}.",
        "",
        "| cell | with shared weights | validation, each training | mean | test, mean | search, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        scores = [r["score"] for r in row["results"]]
        each = ", ".join(r["status"] if r["score"] is None else f"{r['score']:.4f}" for r in row["results"])
        tests = [r["test"] for r in row["results"]]
        shared = "" if row.get("shared") is None else f"{row['shared']:.4f}"
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
        lines.append(f"| {row['kind']} | {shared} | {each} | {mean(scores)} | {mean(tests)} | {seconds} |")
    lines.append("")
    for kind in (args.method, "random"):
        found = [r["score"] for row in rows if row["kind"].split()[0] == kind for r in row["results"]]
        known = [score for score in found if score is not None]
        spread = statistics.stdev(known) if len(known) > 1 else float("nan")
        lines.append(
            f"{kind}: mean {mean(found)}, standard deviation {spread:.4f}, {len(known)} of {len(found)} trained"
        )
    lines += ["", "Cells:", "", *(f"- {row['kind']}: `{row['cell']}`" for row in rows)]
    return "\n".join(lines) + "\n"


def mean(scores: list[float | None]) -> str:
    """The mean of those that there are."""
    known = [score for score in scores if score is not None]
    return f"{statistics.mean(known):.4f}" if known else "-"


if __name__ == "__main__":
    main()
