"""What traces say: anytime curves, trials until a good cell, and differences seed by seed, with 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas._student import student_t
from nas.searchers.lab.replay import Trace


@dataclass(frozen=True)
class Interval:
    """A mean and half the width of its 95 % confidence interval (Student's t); None of fewer than two values."""

    mean: float
    half: float | None
    count: int

    @property
    def real(self) -> bool:
        """Whether the interval excludes zero."""
        return self.half is not None and abs(self.mean) > self.half

    def text(self, digits: int = 4) -> str:
        """As in a table."""
        half = "" if self.half is None else f" +- {self.half:.{digits}f}"
        return f"{self.mean:.{digits}f}{half}"


def interval(values: Sequence[float]) -> Interval:
    """Mean and interval of values, one for each seed."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, None, count)
    return Interval(mean, student_t(count - 1) * statistics.stdev(values) / math.sqrt(count), count)


@dataclass(frozen=True)
class Comparison:
    """Methods on the same seeds. `level` is the score of a top cell, `worst` stands for a best that is none yet."""

    traces: Mapping[str, Sequence[Trace]]
    budget: int
    worst: float
    level: float | None = None

    def curve(self, method: str) -> list[Interval]:
        """The best until each trial, over the seeds."""
        kept = [self._best(trace) for trace in self.traces[method]]
        return [interval(column) for column in zip(*kept, strict=True)]

    def final(self, method: str) -> Interval:
        """The best after the whole budget."""
        return interval([self._best(trace)[-1] for trace in self.traces[method]])

    def trials_to_top(self, method: str) -> float:
        """The median number of trials until a top cell; infinite if more than half of the seeds found none."""
        if self.level is None:
            return math.nan
        found = [trace.reached(self.level) for trace in self.traces[method]]
        return float(statistics.median_low([math.inf if number is None else number for number in found]))

    def reached(self, method: str) -> float:
        """The share of the seeds that found a top cell."""
        if self.level is None:
            return math.nan
        return statistics.fmean(trace.reached(self.level) is not None for trace in self.traces[method])

    def difference(self, method: str, other: str, at: int | None = None) -> Interval:
        """The best of `method` less that of `other` after `at` trials (all), seed by seed; below 0 is better."""
        mine, theirs = ({t.seed: t for t in self.traces[name]} for name in (method, other))
        place = (at or self.budget) - 1
        seeds = sorted(mine.keys() & theirs.keys())
        return interval([self._best(mine[s])[place] - self._best(theirs[s])[place] for s in seeds])

    def to_dict(self) -> dict[str, Any]:
        """All figures, as JSON can hold them."""
        names = list(self.traces)
        pairs = [(a, b) for i, b in enumerate(names) for a in names[i + 1 :]]
        return {
            "budget": self.budget,
            "level": self.level,
            "worst": self.worst,
            "methods": {name: self._facts(name) for name in names},
            "differences": [
                {"method": a, "other": b, **asdict(self.difference(a, b)), "real": self.difference(a, b).real}
                for a, b in pairs
            ],
        }

    def _facts(self, name: str) -> dict[str, Any]:
        median = self.trials_to_top(name)
        return {
            "seeds": [trace.seed for trace in self.traces[name]],
            "final": asdict(self.final(name)),
            "trials_to_top": None if not math.isfinite(median) else median,
            "reached": None if self.level is None else self.reached(name),
            "failed": statistics.fmean(score is None for t in self.traces[name] for score in t.scores),
            "curve": [[round(point.mean, 5), round(point.half or 0.0, 5)] for point in self.curve(name)],
        }

    def _best(self, trace: Trace) -> list[float]:
        """The best until each trial of the budget: a search that ended early keeps its last."""
        found = trace.best(self.worst)[: self.budget]
        return found + [found[-1] if found else self.worst] * (self.budget - len(found))


def compare(traces: Sequence[Trace], budget: int, worst: float, level: float | None = None) -> Comparison:
    """Traces by method, in the order in which these first come, each by seed."""
    found: dict[str, list[Trace]] = {}
    for trace in traces:
        found.setdefault(trace.method, []).append(trace)
    ordered = {name: sorted(kept, key=lambda t: t.seed) for name, kept in found.items()}
    return Comparison(ordered, budget, worst, level)
