"""Cells to begin with: the known ones of a space, those of a file, or the best ones of an earlier run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grammar import Cell, GrammarError, parse, zoo
from nas.errors import SearchError
from nas.searchers.base import SpaceLike

JOURNAL = "journal.jsonl"
MOST = 20  # cells of an earlier run

Seeds = str | Path | Sequence[str]


def read_seeds(seeds: Seeds | None, space: SpaceLike | None, option: str = "seeds") -> tuple[Cell, ...]:
    """The cells that `seeds` names, each once by digest, all members of the space (of any, if it is None).

    "zoo": the zoo cells that the space's file claims. A run folder: its best cells, as derived, at most MOST. Any other
    name: a file of cells, one a line or as blocks. A list: texts of cells, or `zoo:` names. Cells of a run that are no
    members are left out; elsewhere they are an error, as is a source without any cell. Raises SearchError, which names
    the `option` that was given.
    """
    try:
        return () if seeds is None else _read(seeds, space)
    except SearchError as error:
        raise SearchError(f"{option}: {error}") from error


def _read(seeds: Seeds, space: SpaceLike | None) -> tuple[Cell, ...]:
    if isinstance(seeds, str | Path):
        where = str(seeds)
        if where == "zoo":
            cells = [zoo(name) for name in getattr(space, "claims", ())]
        elif (Path(where) / JOURNAL).is_file():
            cells = [cell for cell in _of_run(Path(where) / JOURNAL) if _member(cell, space)][:MOST]
        else:
            cells = [_parsed(text, where) for text in _of_file(Path(where))]
    else:
        where = "the list"
        cells = [_parsed(text, where) for text in _listed(seeds)]
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.digest, cell)
    strangers = [cell for cell in found.values() if not _member(cell, space)]
    if strangers:
        raise SearchError(f"{strangers[0].one_line} of {where} is not a member of the space")
    if not found:
        raise SearchError(f"{where} has no cell" + (" that is a member of the space" if space else ""))
    return tuple(found.values())


def _listed(seeds: object) -> list[str]:
    texts = [text for text in seeds if isinstance(text, str)] if isinstance(seeds, Sequence) else []
    if not isinstance(seeds, Sequence) or len(texts) < len(seeds):
        raise SearchError(
            f"zoo, a file, a run folder or a list of texts of cells is needed; received {seeds!r}"
        )
    return texts


def _member(cell: Cell, space: SpaceLike | None) -> bool:
    return space is None or not hasattr(space, "__contains__") or cell in space


def _parsed(text: str, where: str) -> Cell:
    try:
        return zoo(text.removeprefix("zoo:")) if text.startswith("zoo:") else parse(text)
    except GrammarError as error:
        raise SearchError(f"a cell of {where} is none: {error}") from error


def _of_file(path: Path) -> list[str]:
    """The texts of the cells in a file: each begins with the word `cell` or is a `zoo:` name on its own line."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise SearchError(f"cannot read {path}: {why}; give zoo, a file of cells or a run folder") from error
    texts: list[str] = []
    for line in text.splitlines():
        if line.startswith(("cell ", "zoo:")):
            texts.append(line)
        elif line.strip() and not line.lstrip().startswith("#"):
            if not texts or texts[-1].startswith("zoo:"):
                where = "begins with" if not texts else f"has after {texts[-1].strip()}"
                raise SearchError(f"{path} {where} {line.strip()!r}; a cell begins with the word cell")
            texts[-1] += f"\n{line}"
    return texts


def _of_run(path: Path) -> Iterator[Cell]:
    """The cells of a run's trials that have a score, the best first; of those trained less far the scores count less.

    A supernet is no cell: its score is that of another one, with shared weights. A torn last line counts for nothing.
    """
    asked: dict[int, dict[str, Any]] = {}
    scores: list[tuple[float, float, int]] = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        kind = event.get("event") if isinstance(event, dict) else None
        if kind == "ask" and not event.get("supernet"):
            asked[event["trial"]] = event
        elif kind == "finish" and event.get("score") is not None and event["trial"] in asked:
            until = asked[event["trial"]].get("until")
            scores.append((-math.inf if until is None else -until, event["score"], event["trial"]))
    for *_, trial in sorted(scores):
        yield _parsed(asked[trial]["text"], str(path.parent))
