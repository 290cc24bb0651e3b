"""A supernet as a trial of a campaign: from a specification to a result that the journal can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from grammar import parse
from nas.supernet.options import SupernetOptions
from nas.supernet.selection import shown
from nas.supernet.training import Progress, train_supernet
from nas.training import TrialResult, TrialSpec
from search_spaces import read_space


def train_trial(
    spec: TrialSpec,
    *,
    test: bool = False,
    on_progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrialResult:
    """Train the supernet that `spec.supernet` describes, as a trial of a campaign, with what it gave as `found`.

    It has "sketch" (a text), "options" (fields of SupernetOptions) and "space" (a text, or None): only members of the
    space are handed over. With "centred" the sketch is around the cell of the first option of each hole: the width is
    matched to it, and with `method="uniform"` all options are trained alike, while candidates are drawn by the weights
    of the sketch. `spec.cell` is not looked at, and the test split never.
    """
    assert spec.supernet is not None
    text = spec.supernet.get("space")
    space = None if text is None else read_space(text)
    result = train_supernet(
        spec.replace(cell=spec.supernet["sketch"]),
        SupernetOptions.from_dict(spec.supernet["options"]),
        accept=lambda cell: space is None or cell in space,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    cells = [s if space is None else dataclasses.replace(s, cell=_shown(s.cell)) for s in result.found]
    found = tuple(
        {name: value for name, value in dataclasses.asdict(s).items() if value is not None} for s in cells
    )
    return dataclasses.replace(result.trial, found=found)


def _shown(text: str) -> str:
    return shown(parse(text)).one_line
