"""The commands of `recell` and their options."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nas.cli import bench, cells, clean, look, predict, produce, run, serving
from nas.cli.group import Group

_DOC = """Search for recurrent neural cells, and use what was found.

A cell is a short text of equations. `recell search` tries many on your data, `recell report` says what came of it,
`recell export` gives the best one as a Python file that needs torch only.
"""

_EPILOG = """Exit codes: 0 done, 1 the work failed, 2 wrong use. Begin with: recell search --out runs/a --budget 5m"""

app = typer.Typer(
    cls=Group,
    help=_DOC,
    epilog=_EPILOG,
    add_completion=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"recell {sys.modules['nas'].__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _add(function: object, *examples: str) -> None:
    """Register a command; its examples are shown under its help."""
    epilog = "Examples:\n\n" + "\n\n".join(examples)
    app.command(epilog=epilog)(function)  # type: ignore[type-var]


_add(
    run.search,
    "recell search --out runs/first --budget 5m",
    "recell search --data notes.txt --space gated --method evolution --budget 1h --workers 4 --out runs/notes",
)
_add(
    run.resume, "recell resume runs/notes", "recell resume runs/notes --data /elsewhere/notes.txt --workers 8"
)
_add(look.status, "recell status runs/notes", "recell status runs/notes --json")
_add(look.top, "recell top runs/notes -n 10", "recell top runs/notes --json")
_add(produce.report, "recell report runs/notes", "recell report runs/notes -o notes.html")
_add(
    produce.export,
    "recell export runs/notes --rank 1 -o best",
    "recell export runs/notes#12 -o twelve",
    "recell export zoo:mingru --input-size 32 --hidden-size 64 -o mingru",
)
_add(
    produce.export_optuna,
    "recell export-optuna runs/notes studies.journal",
    "recell export-optuna runs/notes studies.journal --follow",
)
_add(
    clean.clean,
    "recell clean runs/notes --dry-run",
    "recell clean runs/* --all",
    "recell clean --cache --older-than 30d",
)
_add(
    cells.show,
    "recell show zoo:lstm",
    "recell show runs/notes#12 --hidden-size 256",
    "recell show zoo:gru --diff zoo:gru_cho",
    "recell show zoo:lstm --after hoist",
)
_add(cells.zoo, "recell zoo", "recell zoo lstm")
_add(cells.sample, "recell sample --space gated -n 5", "recell sample --space my.space --seed 7 --json")
_add(
    bench.bench,
    "recell bench zoo:lstm zoo:gru",
    "recell bench zoo --sizes M --against eager --json",
    "recell bench --space gated -n 20 --over",
)
_add(look.spaces, "recell spaces", "recell spaces gated")
_add(look.tasks, "recell tasks", "recell tasks --json")
_add(
    predict.predict,
    "recell predict zoo:lstm zoo:gru",
    "recell predict --task modular_arithmetic runs/notes#12",
    "recell predict -p p.recell zoo:lstm zoo:gru",
    "recell predict -p p.recell runs/notes#12 --json",
)
_add(predict.similar, "recell similar zoo:gru_cho", "recell similar runs/notes#12 --run runs/notes")
app.add_typer(predict.app, name="predictor")
_add(serving.serve_predictor, "recell serve-predictor", "recell serve-predictor -p p.recell --port 9000 -w 2")
_add(look.doctor, "recell doctor")


def main() -> None:
    """The entry point `recell`: run the command line and exit with its code."""
    app()
