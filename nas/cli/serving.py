"""`recell serve-predictor`: a predictor over HTTP."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nas.cli.predict import FromOption, TaskOption, opened


def serve_predictor(
    predictor: FromOption = None,
    task: TaskOption = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[
        int | None,
        typer.Option("-w", "--workers", min=1, help="Encoders of new cells. (default: one for each core)"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Processor seconds that one cell may take.")] = 10.0,
) -> None:
    """Answer over HTTP how good cells will be: JSON in and out, until it is interrupted. Needs the extra `serve`."""
    from nas.serving import Limits, serve

    model = opened(predictor, task)
    limits = Limits(seconds=seconds)
    serve(
        model,
        host=host,
        port=port,
        workers=workers,
        limits=limits,
        version=sys.modules["nas"].__version__,
        on_ready=lambda url: typer.echo(f"listening on {url} (try {url}/docs); Ctrl-C ends it"),
    )
