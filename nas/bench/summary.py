"""What a benchmark says about the aims: geometric means over groups of cells, and who is over the limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nas.bench.run import Row


@dataclass(frozen=True)
class Aim:
    """Over the cells named (none: all of the group, "" for any): a ratio at each size.

    `least` says that it is baseline over backend and must reach the number; otherwise backend over baseline, which
    must stay below it.
    """

    name: str
    against: str
    sizes: dict[str, float]
    least: bool
    group: str = ""
    cell: str = ""


AIMS = (
    Aim(
        "zoo:lstm against nn.LSTM", "torch", {"S": 1.0, "M": 1.0, "L": 1.0, "dense": 1.2}, False, cell="lstm"
    ),
    Aim("zoo:gru against nn.GRU", "torch", {"S": 0.3, "M": 0.5, "L": 0.6}, False, cell="gru"),
    Aim("eager over {}, all cells", "eager", {"S": 8.0, "M": 4.0, "L": 2.5, "G": 50.0}, True),
    Aim("eager over {}, dense cells", "eager", {}, True, group="dense"),
    Aim(
        "eager over {}, elementwise cells", "eager", {"S": 8.0, "M": 4.0, "L": 3.0}, True, group="elementwise"
    ),
    Aim("eager over {}, matrix-state cells", "eager", {"S": 8.0, "M": 5.0, "L": 4.0}, True, group="matrix"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of an aim at one size: the geometric mean over `cells` cells; `met` is None without an aim."""

    name: str
    backend: str
    size: str
    value: float
    cells: int
    aim: float | None
    met: bool | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {n: getattr(self, n) for n in ("name", "backend", "size", "value", "cells", "aim", "met")}


def outcomes(rows: Sequence[Row], backend: str, statistic: str = "median") -> list[Outcome]:
    """Every aim that the rows have something to say about, forward + backward."""
    found = []
    for aim in AIMS:
        for name in dict.fromkeys(row.size.name for row in rows):
            ratios = [
                ratio
                for row in rows
                if row.size.name == name
                and aim.group in ("", row.group)
                and aim.cell in ("", row.name)
                and (ratio := _ratio(row, backend, aim, statistic)) is not None
            ]
            if ratios:
                found.append(_outcome(aim, backend, name, ratios))
    return found


def over_limit(rows: Sequence[Row], backend: str, statistic: str = "min") -> list[Row]:
    """The rows whose backend takes longer than the aim allows, the worst first."""
    over = [(excess(row, backend, statistic), row) for row in rows]
    return [row for ratio, row in sorted(over, key=lambda pair: -(pair[0] or 0.0)) if ratio and ratio > 1]


def excess(row: Row, backend: str, statistic: str = "median") -> float | None:
    """The time of a backend, forward + backward, over the limit of the aim; None where either is missing."""
    taken, limit = row.ms(backend, "training", statistic), row.limit(statistic)
    return None if taken is None or limit is None else taken / limit


def _ratio(row: Row, backend: str, aim: Aim, statistic: str) -> float | None:
    own, other = (row.ms(name, "training", statistic) for name in (backend, aim.against))
    if own is None or other is None:
        return None
    return other / own if aim.least else own / other


def _outcome(aim: Aim, backend: str, size: str, ratios: Sequence[float]) -> Outcome:
    value = math.exp(sum(map(math.log, ratios)) / len(ratios))
    wanted = aim.sizes.get(size)
    met = None if wanted is None else (value >= wanted if aim.least else value <= wanted)
    return Outcome(aim.name.format(backend), backend, size, value, len(ratios), wanted, met)
