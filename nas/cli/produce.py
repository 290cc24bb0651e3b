"""Commands that make files from a run: report and export."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.cells import Json
from nas.cli.console import show, show_json
from nas.cli.errors import UsageError
from nas.cli.look import RunArgument
from nas.cli.values import read_cell, run_and_trial

if TYPE_CHECKING:
    from nas.exporters import Exported

FOLLOW_SECONDS = 5.0

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def report(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Where to; by default report.html in the run's folder."
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write the report of a run: one HTML file with plots that needs nothing else."""
    from nas.campaign import open_run
    from nas.reports import verdict, write_report

    opened = open_run(run)
    place = write_report(opened, out)
    said = verdict(opened)
    if json:
        show_json({"report": str(place), "verdict": said.to_dict()})
    elif not quiet:
        show(said.headline, *said.caveats, "", f"report: {place}")


def export_optuna(
    run: RunArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A journal file of Optuna, new or not; it may hold several runs."
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep up with a run that is live, until it ends.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a run's trials as an Optuna study for optuna-dashboard; again, to add those that ended since."""
    from nas.campaign import open_run
    from nas.reports import write_study

    opened = open_run(run)
    while True:
        live = opened.live() is not None  # looked up before it is read: or what came last would be missed
        opened = open_run(run)
        name, new = write_study(opened, file)
        if json:
            show_json({"file": str(file), "study": name, "new": new})
        elif not quiet and (new or not follow):
            show(f"{new} trials added to study {name} of {file}")
        if not (follow and live):
            break
        time.sleep(FOLLOW_SECONDS)
    if not (quiet or json):
        show(f"look at it with: optuna-dashboard {file}")


def export(
    what: Annotated[
        str, typer.Argument(metavar="RUN|CELL", help="A run, or a cell: RUN#3, zoo:lstm, a file, a text.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="A new or empty folder.")],
    rank: Annotated[int, typer.Option(min=1, help="Of a run: 1 is the best cell; see `recell top`.")] = 1,
    input_size: Annotated[int | None, typer.Option(min=1, help="Of a cell: D. (default: 64)")] = None,
    hidden_size: Annotated[int | None, typer.Option(min=1, help="Of a cell: H. (default: 64)")] = None,
    num_layers: Annotated[int | None, typer.Option(min=1, help="Of a cell. (default: 1)")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Of a cell: N. (default: 1)")] = None,
    key_size: Annotated[int | None, typer.Option(min=1, help="Of a cell: K. (default: H / N)")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of a cell: draws its weights. (default: 0)")
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAMES",
            help="cell; pt2 and onnx add a program of torch.export and ONNX (the extra `onnx`); all. With commas.",
        ),
    ] = "cell",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a cell as cell.py, which needs torch only, with its weights.

    The files are loaded in a fresh process without recell and compared with the original before this says that it
    worked. A cell of a run that was retrained has its trained weights, any other cell has fresh ones.
    """
    given = {
        "input_size": input_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "heads": heads,
        "key_size": key_size,
        "seed": seed,
    }
    sizes = {name: value for name, value in given.items() if value is not None}
    made = _export(what, out, rank, formats, sizes)
    if json:
        facts = {"folder": str(made.folder), "trained": made.trained, "difference": made.difference}
        show_json({**facts, "cell": made.facts})
    elif not quiet:
        _say(made)


def _export(what: str, out: Path, rank: int, names: str, sizes: dict[str, int]) -> Exported:
    from nas.campaign import open_run
    from nas.exporters import check_folder, read_formats
    from nas.exporters import export as write

    formats = read_formats(names)

    check_folder(out)  # before torch is loaded
    place = run_and_trial(what)
    if place is None and not Path(what).is_dir():
        return write(read_cell(what), out, formats=formats, **sizes)
    if sizes:
        option = "--" + next(iter(sizes)).replace("_", "-")
        raise UsageError(
            f"{option} is for a cell by itself; a cell of a run has the sizes that it was trained with"
        )
    if place is not None:
        return write(place[0], out, trial=place[1], formats=formats)
    return write(open_run(what), out, rank=rank, formats=formats)


def _say(made: Exported) -> None:
    names = ", ".join(sorted(path.name for path in made.folder.iterdir()))
    show(f"{made.folder}: {names}")
    metrics = made.facts.get("metrics") or {}
    if made.trained:
        unit = made.facts["task"].get("metric", "")
        test = f", test {metrics['test']:.4f}" if metrics.get("test") is not None else ""
        scores = f"validation {metrics['validation']:.4f}{test} {unit}"
        show(f"trial #{made.facts['trial']}, trained with seed {metrics['seed']}: {scores}")
    else:
        show("fresh weights: this cell was not retrained" if "trial" in made.facts else "fresh weights")
    show(f"loaded in a fresh process without recell: largest difference {made.difference:.1e}")
