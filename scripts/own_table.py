"""recell's own table of trained cells: draw its cells, and put what runs made of them into one file.

    python scripts/own_table.py draw -o cells.txt
    python scripts/own_table.py draw --seed 7 --shares nasbench_nlp=700+300 --without-zoo -o more.txt
    recell search --out runs/text --method list -O cells=cells.txt --task text --size table --data FILE \
        --budget 4h --workers 2 --finalists 0                 # and so on for each task; `recell resume` after a break
    python scripts/own_table.py collect runs/text runs/arithmetic ... --cells cells.txt more.txt \
        -o predictors/tables/own.jsonl.gz

A row is a trial: cell, digest, name, origin, space, task, size, seed, status, score, curve, params, width, steps,
seconds. Runs that are not finished can be collected as well. The file's digest is the same for the same trials.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grammar import Cell, GrammarError, fingerprint, parse, zoo, zoo_names
from nas.campaign import open_run
from search_spaces import WAYS, load_space

SHARES = {"gated": (120, 45), "diagonal": (85, 35), "mixed": (85, 40)}
"""Of each space so many samples, drawn by turns in each way that the space has, and so many mutants."""
MOST_CHANGES = 3
MARK = "# "


@dataclass(frozen=True)
class Drawn:
    """A cell and where it is from: "zoo", "sample" or "mutant"."""

    cell: Cell
    origin: str
    space: str = ""
    name: str = ""


def draw(seed: int = 0, shares: Mapping[str, tuple[int, int]] = SHARES, with_zoo: bool = True) -> list[Drawn]:
    """The zoo's time cells, samples and mutants, no two that compute the same, in random order.

    Without the zoo its cells are left out, and what computes the same as one of them.
    """
    rng = np.random.default_rng(seed)
    known = [Drawn(zoo(name), "zoo", name=name) for name in zoo_names() if zoo(name).kind == "time"]
    found, seen = [], set[str]()

    def add(one: Drawn) -> bool:
        marks = {one.cell.digest, fingerprint(one.cell)}
        if marks & seen:
            return False
        seen.update(marks)
        found.append(one)
        return True

    for one in known:
        add(one)
    for name, (samples, mutants) in shares.items():
        space = load_space(name)
        parents = [zoo(claimed) for claimed in space.claims]
        taken = 0
        while taken < samples:
            cell = space.sample(rng, by=WAYS[taken % len(WAYS)])
            if add(Drawn(cell, "sample", name)):
                parents.append(cell)
                taken += 1
        while taken < samples + mutants:
            cell = parents[int(rng.integers(len(parents)))]
            for _ in range(int(rng.integers(1, MOST_CHANGES + 1))):
                cell = space.vary(cell, rng).cell
            taken += add(Drawn(cell, "mutant", name))
    drawn = [found[int(i)] for i in rng.permutation(len(found))]
    return drawn if with_zoo else [one for one in drawn if one.origin != "zoo"]


def read_shares(text: str) -> tuple[str, tuple[int, int]]:
    """NAME=SAMPLES+MUTANTS."""
    name, equals, counts = text.partition("=")
    samples, plus, mutants = counts.partition("+")
    if not (equals and plus and samples.isdigit() and mutants.isdigit()):
        raise argparse.ArgumentTypeError(
            f"a share is NAME=SAMPLES+MUTANTS, such as gated=120+45; got {text!r}"
        )
    return name, (int(samples), int(mutants))


def write_cells(drawn: list[Drawn], path: Path) -> None:
    """A file that `-O cells=FILE` takes: above each cell a comment says where it is from."""
    lines = []
    for one in drawn:
        about = {"origin": one.origin, "space": one.space, "name": one.name}
        lines += [MARK + json.dumps(about), one.cell.one_line]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_cells(path: Path) -> dict[str, dict[str, str]]:
    """Where each cell of such a file is from, by digest."""
    found, about = {}, {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(MARK):
            about = json.loads(line.removeprefix(MARK))
        else:
            found[parse(line).digest] = about
    return found


def rows(run_folder: Path, about: dict[str, dict[str, str]]) -> Iterator[dict[str, Any]]:
    """The trials of a run that ended, in the order in which they were asked for."""
    run = open_run(run_folder)
    config = run.config
    for trial in run.trials:
        if trial.status in ("pending", "running", "infrastructure"):
            continue
        origin = about.get(trial.digest, {})
        yield {
            "cell": trial.canonical,
            "digest": trial.digest,
            "name": origin.get("name") or None,
            "origin": origin.get("origin") or None,
            "space": origin.get("space") or None,
            "task": config.task,
            "size": config.size,
            "seed": config.seed,
            "status": trial.status,
            "score": None if trial.score is None else round(trial.score, 6),
            "curve": [[step, round(loss, 4)] for step, loss in trial.curve if loss is not None],
            "params": trial.params,
            "width": trial.width,
            "steps": trial.steps,
            "seconds": round(trial.seconds, 2),
        }


def write_table(found: list[dict[str, Any]], path: Path) -> None:
    """JSON lines, compressed, without a time in the header, so that the same rows are the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in found)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="write the file of cells")
    drawing.add_argument("-o", dest="out", type=Path, required=True)
    drawing.add_argument("--seed", type=int, default=0)
    drawing.add_argument("--shares", type=read_shares, nargs="+", help="of each space, NAME=SAMPLES+MUTANTS")
    drawing.add_argument("--without-zoo", action="store_true")
    collecting = commands.add_parser("collect", help="write the table of what runs made of them")
    collecting.add_argument("runs", nargs="+", type=Path)
    collecting.add_argument("--cells", nargs="+", type=Path, required=True, help="the files of cells")
    collecting.add_argument("-o", dest="out", type=Path, required=True)
    asked = parser.parse_args(argv)
    if asked.command == "draw":
        drawn = draw(asked.seed, dict(asked.shares or SHARES), not asked.without_zoo)
        write_cells(drawn, asked.out)
        print(f"{len(drawn)} cells in {asked.out}")
        return 0
    try:
        about = {digest: one for path in asked.cells for digest, one in read_cells(path).items()}
    except (OSError, ValueError, GrammarError) as error:
        print(f"cannot read the cells: {error}", file=sys.stderr)
        return 2
    found = [row for run in asked.runs for row in rows(run, about)]
    write_table(found, asked.out)
    scored = sum(row["score"] is not None for row in found)
    print(f"{len(found)} trials, {scored} with a score, in {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
