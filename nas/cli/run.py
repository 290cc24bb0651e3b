"""Commands that search: search and resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.console import show
from nas.cli.errors import UsageError
from nas.cli.group import INTERRUPTED
from nas.cli.look import RunArgument
from nas.cli.produce import Quiet
from nas.cli.values import count, options, seconds

if TYPE_CHECKING:
    from nas.campaign import Run
    from nas.cli.live import View

Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Join this Ray cluster; `auto` finds the one here.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda. (default: auto)")]
GpuShare = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Of a GPU, for each trial: 0.25 puts four on one.")
]
Data = Annotated[
    str | None, typer.Option(metavar="PATH", help="The task's data: a text file, or a folder of them.")
]


def search(
    out: Annotated[Path, typer.Option(metavar="RUN", help="A new folder for the run.")],
    space: Annotated[
        str, typer.Option(help="What to search: a name of `recell spaces`, or a file.")
    ] = "gated",
    task: Annotated[
        str, typer.Option(help="A name of `recell tasks`, module:Class or file.py:Class.")
    ] = "text",
    data: Data = None,
    size: Annotated[str, typer.Option(help="Of the task: smoke, search, table or full.")] = "search",
    method: Annotated[
        str | None,
        typer.Option(
            help="random, evolution, guided (or predictor), reinforce, nsga2, halving, hyperband, oneshot (or "
            "supernet, darts, gdas), list (docs/searchers.md), or module:Class. (default: evolution; nsga2 for "
            "several objectives)"
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="90s, 10m, 1h: from the first trial to the end of the final comparison."
        ),
    ] = "10m",
    workers: Annotated[int, typer.Option(min=1, help="Trials at the same time, one core each.")] = 2,
    address: Address = None,
    gpus_per_trial: GpuShare = None,
    device: Device = None,
    seed: Annotated[
        int, typer.Option(min=0, help="With one worker, the same seed gives the same search.")
    ] = 0,
    params: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Parameters of every model, as 200k: widths are matched to it. (default: the task's)",
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="Of every model, in place of --params: parameters differ then.")
    ] = None,
    heads: Annotated[int, typer.Option(min=1, help="N: widths are multiples of it.")] = 1,
    finalists: Annotated[
        int, typer.Option(min=0, help="Best cells to retrain beside the LSTM and the GRU; 0: none.")
    ] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each finalist.")] = 3,
    max_trials: Annotated[
        int | None, typer.Option(min=1, help="Stop the search after so many cells.")
    ] = None,
    trial_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop a trial that takes longer.")
    ] = None,
    trial_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GB", help="Stop a trial whose worker uses more. (default: a share of the machine's)"
        ),
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC<=N",
            help="Of params, flops, state_bytes, gemm_depth or latency_us; what violates it is not trained. "
            "May be given several times.",
        ),
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(metavar="N", help="The same as --constraint params<=N.")
    ] = None,
    max_latency_us: Annotated[
        float | None, typer.Option(metavar="M", help="The same as --constraint latency_us<=M.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="What to minimise, with commas: loss, params, flops, state_bytes, gemm_depth, latency_us. Several are "
            "for nsga2. (default: loss)",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("-O", "--option", metavar="NAME=VALUE", help="Of the method; see docs/searchers.md."),
    ] = None,
    lint: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="warn: note the warnings about each cell; strict: do not train cells that have any.",
        ),
    ] = "warn",
    quiet: Quiet = False,
) -> None:
    """Search for cells on a task, then retrain the best ones beside known cells and say which is better.

    Everything is written to RUN as it happens: after an interruption of any kind, `recell resume RUN` carries on.
    """
    from nas.campaign import SearchConfig

    method, aims = _aims(method, objective, options("--option", option or ()))
    config = SearchConfig(
        space=space,
        task=task,
        data=data,
        size=size,
        method=method,
        budget=seconds("--budget", budget),
        workers=workers,
        address=address,
        device=device or "auto",
        gpus_per_trial=gpus_per_trial,
        seed=seed,
        params=None if params is None else count("--params", params),
        heads=heads,
        finalists=finalists,
        seeds=seeds,
        max_trials=max_trials,
        trial_timeout=None if trial_timeout is None else seconds("--trial-timeout", trial_timeout),
        trial_memory_gb=trial_memory,
        lint=lint,
        width=width,
        constraints=(*(constraint or ()), *_limits(max_params, max_latency_us)),
        options=aims,
    )

    def work(view: View) -> Run:
        from nas.campaign import start  # loads torch, so the view is there first

        return start(config, out, view.on_event)

    _follow(work, out, quiet)


def _limits(params: str | None, latency_us: float | None) -> Iterator[str]:
    """The constraints that have an option of their own."""
    if params is not None:
        yield f"params<={count('--max-params', params)}"
    if latency_us is not None:
        if not 0 < latency_us < inf:
            raise UsageError(f"--max-latency-us must be a number above 0; received {latency_us:g}")
        yield f"latency_us<={latency_us!r}"


def _aims(method: str | None, objective: str | None, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method and its options, with what is to be minimised among them where it is more than the loss."""
    if objective is None:
        return method or "evolution", given
    names = [name.strip() for name in objective.split(",")]
    if names == ["loss"] and method != "nsga2":
        return method or "evolution", given
    if method not in (None, "nsga2"):
        raise UsageError(f"--objective {objective} is for --method nsga2; {method} minimises the loss alone")
    if "objectives" in given:
        raise UsageError("give --objective or -O objectives=..., not both")
    return "nsga2", {**given, "objectives": ",".join(names)}


def resume(
    run: RunArgument,
    data: Data = None,
    task: Annotated[
        str | None, typer.Option(help="Where a task of your own is now, as file.py:Class, if it moved.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at the same time, if not as before.")
    ] = None,
    address: Address = None,
    gpus_per_trial: GpuShare = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Carry a run on where it stopped, here or on another machine. What is finished is not done again."""
    from nas.campaign import open_run

    if open_run(run).finished:
        if not quiet:
            show(f"{run} is finished: nothing is left to do")
        return
    given = {"workers": workers, "address": address, "gpus_per_trial": gpus_per_trial, "device": device}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    def work(view: View) -> Run:
        from nas.campaign import resume as carry_on

        return carry_on(run, view.on_event, data=data, task=task, **changes)

    _follow(work, run, quiet)


def _follow(work: Callable[[View], Run], folder: Path, quiet: bool) -> None:
    """Do the work under a live view, then say what came of it."""
    from nas.cli.live import make_view
    from nas.reports import verdict

    with make_view(quiet) as view:
        run = work(view)
    if not run.finished:
        if not quiet:
            show(f"stopped; carry it on with: recell resume {folder}")
        raise typer.Exit(INTERRUPTED)
    if not quiet:
        said = verdict(run)
        show("", said.headline, *said.caveats)
        show("", f"recell report {folder}", f"recell top {folder}")
        if run.best is not None:
            show(f"recell export {folder} --rank 1 -o DIR")
    if run.best is None:
        raise typer.Exit(1)
