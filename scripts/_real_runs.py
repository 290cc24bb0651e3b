"""Real runs compared by their journals: the best cell by what it had cost until then, method by method.

What a trial cost is counted in three ways: in seconds of training, in trials, and in seconds of the campaign's budget
(which has the asking in it as well). Runs may be unfinished and of unequal length: methods are compared at the cost
that all of their runs have reached, and at no other.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from scipy import stats

from nas.campaign import Run, open_run
from nas.errors import NasError
from nas.reports.judge import LEVEL, Estimate, estimate
from nas.reports.significance import holm

AXES = {
    "seconds": "seconds of training",
    "trials": "trials",
    "active": "seconds of the budget",
}
"""The ways to count what a search has cost."""
POINTS = 60
"""Of a curve."""
SHARES = (0.25, 0.5, 1.0)
"""Of the common cost: where tables look."""
UNPAID = ("constraint",)
"""Endings of trials that were never trained."""


@dataclass(frozen=True)
class RealRun:
    """A run as a comparison sees it: its trials in the order in which they ended, each with its cost and its score."""

    method: str
    run: Run
    seconds: tuple[float, ...]
    active: tuple[float, ...]
    scores: tuple[float | None, ...]

    @classmethod
    def read(cls, text: str) -> RealRun:
        """`METHOD=FOLDER`, or a folder, whose method is then that of its search."""
        label, equals, folder = text.partition("=")
        if not equals or not label or "/" in label:
            label, folder = "", text
        run = open_run(folder)
        paid = [t for t in run.trials if t.ended is not None and t.status not in UNPAID]
        paid.sort(key=lambda t: t.ended or 0.0)
        whole = [
            t.until in (None, run.full_steps) for t in paid
        ]  # a score after fewer steps is another quantity
        return cls(
            label or run.config.method,
            run,
            tuple(trial.seconds or trial.wall for trial in paid),  # one that was killed did not say
            tuple(trial.ended or 0.0 for trial in paid),
            tuple(trial.score if full else None for trial, full in zip(paid, whole, strict=True)),
        )

    @property
    def seed(self) -> int:
        """That of the search."""
        return int(self.run.config.seed)

    def costs(self, axis: str) -> list[float]:
        """What had been spent when each trial ended."""
        if axis == "trials":
            return [float(n) for n in range(1, len(self.scores) + 1)]
        return list(self.active) if axis == "active" else list(accumulate(self.seconds))

    def reached(self, axis: str) -> float:
        """How far its search has come; without end where its space came to an end.

        The trainings of the final comparison are no part of it: a run that trains finalists anew searches no further,
        and one that still searches is not to be compared with it there.
        """
        if self.run.search_end in ("exhausted", "duplicates", "refusals"):
            return math.inf
        if axis == "active":
            searched = self.run.active if self.run.searched is None else self.run.searched
            return max(searched, *self.active, 0.0)  # trials that ran when it ended are of the search too
        spent = self.costs(axis)
        return spent[-1] if spent else 0.0

    def best(self, axis: str, cost: float, none_yet: float) -> float:
        """The lowest validation score of the trials that had ended by then; `none_yet` where there is none."""
        count = bisect_right(self.costs(axis), cost * (1 + 1e-12))
        return min((s for s in self.scores[:count] if s is not None), default=none_yet)


def read_runs(named: Sequence[str], reach: float | None = None) -> tuple[list[RealRun], list[str]]:
    """The runs that have come as far as `reach` seconds of their budget, and the names of those that have not.

    Raises NasError unless all are of the same task, data, recipe, size of models and space, with different seeds.
    """
    runs = [RealRun.read(text) for text in named]
    seen: set[tuple[str, int]] = set()
    for one in runs:
        if (one.method, one.seed) in seen:
            raise NasError(f"two runs of {one.method} have seed {one.seed}: each run needs a seed of its own")
        seen.add((one.method, one.seed))
        for what, here, there in _conditions(runs[0].run, one.run):
            if here != there:
                raise NasError(
                    f"{one.run.path} has {what} {there}, and {runs[0].run.path} has {here}: they do not compare"
                )
    short = [one for one in runs if reach is not None and max(one.run.active, one.reached("active")) < reach]
    kept = [one for one in runs if one not in short]
    if not any(score is not None for one in kept for score in one.scores):
        raise NasError("none of these runs has a trial with a score" + (" yet" if short else ""))
    return kept, [f"{one.method}, seed {one.seed}" for one in short]


def _conditions(first: Run, other: Run) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for name in ("name", "version", "size", "data_digest", "params", "recipe"):
        found.append((f"task {name}", first.task[name], other.task[name]))
    for name in ("space", "width", "heads", "constraints"):
        found.append((name, getattr(first.config, name), getattr(other.config, name)))
    return found


def compare_runs(runs: Sequence[RealRun], skipped: Sequence[str], against: str | None) -> dict[str, Any]:
    """All figures, as JSON can hold them."""
    methods: dict[str, list[RealRun]] = {}
    for one in runs:
        methods.setdefault(one.method, []).append(one)
    base = against or ("random" if "random" in methods else next(iter(methods)))
    if base not in methods:
        raise NasError(f"no run is of {base}; there are runs of {', '.join(methods)}")
    ordered = {name: sorted(kept, key=lambda one: one.seed) for name, kept in methods.items()}
    first = runs[0].run
    return {
        "setting": {
            "kind": "real",
            "task": first.task["name"],
            "metric": first.task["metric"],
            "size": first.task["size"],
            "space": first.config.space,
            "params": first.task["params"],
            "width": first.config.width,
            "recipe": dict(first.task["recipe"]),
            "none_yet": first.task["trivial_score"],
        },
        "against": base,
        "skipped": list(skipped),
        "runs": [_about(one) for kept in ordered.values() for one in kept],
        "axes": {axis: _axis(ordered, axis, base, float(first.task["trivial_score"])) for axis in AXES},
    }


def _about(one: RealRun) -> dict[str, Any]:
    run = one.run
    failed = sum(run.failures.get(name, 0) for name in run.failures if name not in UNPAID)
    return {
        "method": one.method,
        "seed": one.seed,
        "state": run.status()["state"],
        "budget": run.config.budget,
        "active": round(run.active, 1),
        "seconds": round(sum(one.seconds), 1),
        "trials": len(one.scores),
        "failed": failed,
        "supernets": sum(t.status == "supernet" for t in run.trials),
        "sittings": len(run.sittings),
        "best": min((s for s in one.scores if s is not None), default=None),
    }


def _axis(methods: Mapping[str, Sequence[RealRun]], axis: str, base: str, none_yet: float) -> dict[str, Any]:
    runs = [one for kept in methods.values() for one in kept]
    common = min(one.reached(axis) for one in runs)
    if math.isinf(common):  # all came to an end: at the end of the longest
        common = max(max(one.costs(axis), default=0.0) for one in runs)
    if axis == "trials":
        places = [float(max(1, round(common * share))) for share in SHARES]
        xs = [float(n) for n in range(1, int(common) + 1)]
    else:
        places = [common * share for share in SHARES]
        xs = [common * (n + 1) / POINTS for n in range(POINTS)]

    def bests(name: str, cost: float) -> list[float]:
        return [one.best(axis, cost, none_yet) for one in methods[name]]

    found = {}
    for name in methods:
        curve = [(x, estimate(bests(name, x))) for x in xs]
        found[name] = {
            "seeds": [one.seed for one in methods[name]],
            "at": [_pair(estimate(bests(name, place))) for place in places],
            "curve": [[round(x, 2), *_pair(e)] for x, e in curve],
            "each": [round(value, 5) for value in bests(name, common)],
        }
    others = [name for name in methods if name != base]
    return {
        "common": round(common, 2),
        "places": [round(place, 2) for place in places],
        "methods": found,
        "differences": differences({name: bests(name, common) for name in [base, *others]}, base),
    }


def _pair(e: Estimate | None) -> list[float | None]:
    if e is None:
        return [None, None]
    return [round(e.mean, 5), None if e.half is None else round(e.half, 5)]


def differences(values: Mapping[str, Sequence[float]], base: str) -> list[dict[str, Any]]:
    """Each method less `base`: Welch's interval and p (Student's t, any numbers of seeds), p after Holm's correction.

    Values are not paired by seed: methods that share a seed share no draws, and they may have different numbers of it.
    """
    found: list[dict[str, Any]] = []
    for name in values:
        if name == base:
            continue
        difference, p = welch(values[name], values[base])
        found.append({"method": name, "other": base, **asdict(difference), "p": p})
    corrected = holm([one["p"] for one in found if one["p"] is not None])
    rest = iter(corrected)
    for one in found:
        one["corrected"] = None if one["p"] is None else next(rest)
        one["real"] = one["corrected"] is not None and one["corrected"] <= LEVEL
    return found


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[Estimate, float | None]:
    """Mean of `a` less mean of `b` with half of its 95 % interval, and the two-sided p; None of one value."""
    mean = sum(a) / len(a) - sum(b) / len(b)
    count = min(len(a), len(b))
    if count < 2:
        return Estimate(mean, None, count), None
    if len({*a}) == 1 and len({*b}) == 1:
        return Estimate(mean, 0.0, count), 1.0 if mean == 0.0 else 0.0
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return Estimate(mean, float(high - low) / 2, count), float(test.pvalue)
