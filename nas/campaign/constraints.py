"""Hard constraints on cells, as `params<=20000`: what violates one is not trained and never reported."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nas.errors import RunError
from nas.searchers import METRICS

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_FORM = re.compile(r"\s*(\w+)\s*<=\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([kKmMgG]?)\s*")


@dataclass(frozen=True)
class Constraint:
    """At most `limit` of a metric (see `nas.searchers.METRICS`)."""

    metric: str
    limit: float

    def violated(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric is known and above the limit."""
        value = metrics.get(self.metric)
        return value is not None and not value <= self.limit

    def __str__(self) -> str:
        return f"{self.metric}<={self.limit:.15g}"


def parse_constraint(text: str) -> Constraint:
    """Read `metric<=number`; the number may end in k, M or G. Raises RunError for anything else."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise RunError(f"constraint {text!r} is not of the form metric<=number, as params<=20k")
    metric, number, unit = found.groups()
    if metric not in METRICS:
        raise RunError(
            f"constraint {text!r}: there is no metric {metric!r}; metrics are {', '.join(METRICS)}"
        )
    try:
        limit = float(number) * _UNITS[unit.lower()]
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise RunError(f"constraint {text!r}: {number!r} is not a number")
    return Constraint(metric, limit)


def violations(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> list[str]:
    """The constraints that these metrics violate, with the values: `params<=20000 (is 21440)`."""
    return [f"{each} (is {metrics[each.metric]:.6g})" for each in constraints if each.violated(metrics)]
