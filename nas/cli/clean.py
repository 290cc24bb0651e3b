"""The command that removes: clean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.cells import Json
from nas.cli.console import bytes_text, show, show_json, table
from nas.cli.errors import UsageError
from nas.cli.produce import Quiet
from nas.cli.values import seconds

if TYPE_CHECKING:
    from nas._cache import Pruned
    from nas.campaign import Cleaned

_DONE = {False: "removed", True: "can be removed"}  # by whether it is a dry run
_LEFT = {False: "are left", True: "would be left"}
_NAMES = {
    "temporary": ("temporary file", "temporary files"),
    "snapshot": ("snapshot", "snapshots"),
    "model": ("trained model", "trained models"),
    "session": ("folder of Ray", "folders of Ray"),
}


def clean(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="Folders of runs that nobody works on now.")
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Of a finished run also the models that no export takes; of another one also the snapshots from which "
            "trials are carried on: `recell resume` then trains those from the first step.",
        ),
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Remove compiled cells; what is needed again is built again.")
    ] = False,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Of the cache, only what was not used for so long: 30d. (default and least: 1h)",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Remove what is of no use any more from runs, and from the cache of compiled cells.

    Of a run: files that were half written when a process died, snapshots that no trial is carried on from, and the
    folders of the Rays that it started on this machine. Its journal, results, reports and exported cells stay, and so
    does what `recell resume` needs. Beside a live search it is refused.
    """
    if not runs and not cache:
        raise UsageError("clean takes the folders of runs, or --cache for compiled cells")
    if older_than is not None and not cache:
        raise UsageError("--older-than is for --cache")
    cleaned, pruned = _cleaned(runs or [], everything, dry_run), None
    if cache:
        pruned = _pruned(older_than, dry_run)
    if json:
        show_json(_facts(cleaned, pruned, dry_run))
    elif not quiet:
        for one in cleaned:
            _show_run(one, dry_run)
        if pruned is not None:
            _show_cache(pruned, dry_run)
    failed = [(item.path, why) for one in cleaned for item, why in one.failed]
    for path, why in failed:
        typer.echo(f"error: cannot remove {path}: {why}", err=True)
    if pruned is not None and pruned.refused:
        typer.echo(f"error: {pruned.refused} files of the cache cannot be removed", err=True)
    if failed or (pruned is not None and pruned.refused):
        raise typer.Exit(1)


def _cleaned(runs: list[Path], everything: bool, dry_run: bool) -> list[Cleaned]:
    from nas.campaign import clean as clean_runs

    return clean_runs(runs, everything=everything, dry_run=dry_run)


def _pruned(older_than: str | None, dry_run: bool) -> Pruned:
    from nas._cache import SPARED, prune

    unused = SPARED if older_than is None else seconds("--older-than", older_than)
    if unused < SPARED:
        raise UsageError(
            f"--older-than must be at least 1h, since younger files may be in use; received {older_than}"
        )
    return prune(older_than=unused, dry_run=dry_run)


def _facts(cleaned: list[Cleaned], pruned: Pruned | None, dry_run: bool) -> dict[str, Any]:
    rows = [
        {
            "run": str(one.run),
            "finished": one.finished,
            "bytes": one.bytes,
            "bytes_left": one.bytes_left,
            "removed": [item.to_dict() for item in one.removed],
            "spared": [item.to_dict() for item in one.spared],
            "failed": [item.to_dict() | {"error": why} for item, why in one.failed],
        }
        for one in cleaned
    ]
    freed = sum(one.bytes for one in cleaned) + (pruned.bytes if pruned else 0)
    cache = None if pruned is None else {"folder": str(pruned.folder), **_counts(pruned)}
    return {"dry_run": dry_run, "bytes": freed, "runs": rows, "cache": cache}


def _counts(pruned: Pruned) -> dict[str, int]:
    return {name: getattr(pruned, name) for name in ("files", "bytes", "files_left", "bytes_left", "refused")}


def _show_run(one: Cleaned, dry_run: bool) -> None:
    if dry_run and one.removed:
        rows = [(bytes_text(item.bytes), item.kind, item.path, item.why) for item in one.removed]
        show(table(["size", "what", "where", "why"], rows, ["size"]))
    left = f"{bytes_text(one.bytes_left)} {_LEFT[dry_run]}"
    if one.removed:
        show(f"{one.run}: {_kinds(one.removed)} {_DONE[dry_run]}, {bytes_text(one.bytes)}; {left}")
    else:
        show(f"{one.run}: nothing to remove; {left}")
    if one.spared:
        size = bytes_text(sum(item.bytes for item in one.spared))
        why = "which no export takes" if one.finished else "with which `recell resume` saves time"
        show(f"  kept unless --all is given: {_kinds(one.spared)}, {size}, {why}")
    if not one.finished:
        show(f"  it is not finished, and what carries it on stays: recell resume {one.run}")


def _kinds(items: Sequence[Any]) -> str:
    counted = Counter(item.kind for item in items)
    return ", ".join(f"{n} {_NAMES[kind][n > 1]}" for kind, n in sorted(counted.items()))


def _show_cache(pruned: Pruned, dry_run: bool) -> None:
    left = f"{bytes_text(pruned.bytes_left)} in {pruned.files_left:,} {_LEFT[dry_run]}"
    files = f"{pruned.files:,} file" + ("" if pruned.files == 1 else "s")
    show(f"{pruned.folder}: {bytes_text(pruned.bytes)} in {files} {_DONE[dry_run]}; {left}")
