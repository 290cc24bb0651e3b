"""What a run found, in plain words: whether the best cell beats the known ones, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas._student import student_t
from nas.campaign import Contender, Run
from nas.reports.significance import holm, paired_p

LEVEL = 0.05
"""The chance that is taken of calling one finalist better when none is."""


@dataclass(frozen=True)
class Estimate:
    """A mean with half the width of its 95 % confidence interval; None with a single value."""

    mean: float
    half: float | None
    count: int


@dataclass(frozen=True)
class FinalTest:
    """A finalist against the best baseline: two-sided paired t-test over the seeds, on test data.

    `corrected` is `p` after Holm's correction for the number of finalists that were tested.
    """

    name: str
    rival: str
    difference: Estimate
    p: float
    corrected: float


@dataclass(frozen=True)
class Verdict:
    """What may be said of a run.

    `kind` is "better" (the paired test against the best baseline, corrected for the number of finalists, has p at most
    0.05), "ahead" (but within chance), "worse", "alone" (no baseline was trained), "not retrained" or "nothing" (no
    trial ended with a score). `headline` is one sentence, `caveats` are what a reader must know with it. `difference`
    is the winner's test score minus that of the best baseline, seed by seed; `tests` are those of all finalists.
    """

    kind: str
    headline: str
    caveats: tuple[str, ...] = ()
    difference: Estimate | None = None
    tests: tuple[FinalTest, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "caveats": list(self.caveats), "tests": [asdict(test) for test in self.tests]}


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % confidence interval (Student's t) of a few values, None of none."""
    if not values:
        return None
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Estimate(mean, None, 1)
    return Estimate(mean, student_t(count - 1) * statistics.stdev(values) / math.sqrt(count), count)


def scores(contender: Contender, split: str = "test") -> list[float]:
    """The scores of a contender's trainings that ended, by seed; `split` is "test" or "valid"."""
    found = [t.test_score if split == "test" else t.score for t in contender.done]
    return [score for score in found if score is not None]


def paired_difference(a: Contender, b: Contender) -> Estimate | None:
    """Test score of `a` minus that of `b` over the seeds that both were trained with."""
    return estimate(_paired(a, b))


def _paired(a: Contender, b: Contender) -> list[float]:
    of_b = {t.seed: t.test_score for t in b.done}
    pairs = [(t.test_score, of_b.get(t.seed)) for t in a.done]
    return [p - q for p, q in pairs if p is not None and q is not None]


def final_tests(run: Run) -> tuple[FinalTest, ...]:
    """The test of each finalist that has two seeds or more in common with the best baseline."""
    rival = best_baseline(run)
    if rival is None:
        return ()
    found = []
    for finalist in run.finalists:
        differences = _paired(finalist, rival)
        difference, p = estimate(differences), paired_p(differences)
        if difference is not None and p is not None:
            found.append((finalist.name, difference, p))
    corrected = holm([p for _, _, p in found])
    return tuple(
        FinalTest(name, rival.name, difference, p, c)
        for (name, difference, p), c in zip(found, corrected, strict=True)
    )


def best_baseline(run: Run) -> Contender | None:
    """The trained baseline with the lowest mean test score."""
    trained = [b for b in run.baselines if b.test_score is not None]
    return min(trained, key=lambda b: b.test_score or 0.0, default=None)


def verdict(run: Run) -> Verdict:
    """Judge a run by the test scores of the final comparison, where cells are trained from scratch alike."""
    unit = run.task.get("metric", "")
    if run.best is None:
        why = "every trial failed" if run.failures else "no trial has ended yet"
        return Verdict("nothing", f"Nothing found: {why}.")
    winner, rival = run.winner, best_baseline(run)
    if winner is None or winner.test_score is None:
        headline = f"The best cell, #{run.best.id}, has {run.best.score:.4f} {unit} on validation data"
        return Verdict("not retrained", f"{headline}; it was not retrained.", _not_retrained(run))
    found = f"the found cell {winner.name} has {winner.test_score:.4f} {unit} on test data"
    if rival is None:
        return Verdict(
            "alone", f"{found[0].upper()}{found[1:]}; no known cell was trained to compare.", _caveats(run)
        )
    known = ", ".join(f"{b.name} {b.test_score:.4f}" for b in run.baselines if b.test_score is not None)
    difference, tests = paired_difference(winner, rival), final_tests(run)
    kind = _kind(winner, rival, tests)
    opening = {
        "better": f"Better than {rival.name}",
        "ahead": f"Ahead of {rival.name}, but perhaps by chance",
        "worse": f"Not better than {rival.name}",
    }[kind]
    headline = f"{opening}: {found}; {known}."
    return Verdict(kind, headline, (*_tests(tests, winner), *_caveats(run, difference)), difference, tests)


def _kind(winner: Contender, rival: Contender, tests: Sequence[FinalTest]) -> str:
    if (winner.test_score or 0.0) >= (rival.test_score or 0.0):
        return "worse"
    sure = any(t.name == winner.name and t.difference.mean < 0 and t.corrected <= LEVEL for t in tests)
    return "better" if sure else "ahead"


def _tests(tests: Sequence[FinalTest], winner: Contender) -> tuple[str, ...]:
    """How the winner's difference was tested, in words."""
    for test in tests:
        if test.name == winner.name:
            several = (
                f", {p_text(test.corrected)} after Holm's correction for {len(tests)} finalists"
                if len(tests) > 1
                else ""
            )
            seeds = f"{test.difference.count} seeds"
            return (
                f"Paired t-test of {test.name} against {test.rival} over {seeds}: {p_text(test.p)}{several}.",
            )
    return ()


def p_text(p: float) -> str:
    """A p for people: p = 0.031, p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def _not_retrained(run: Run) -> tuple[str, ...]:
    if not run.config.finalists:
        return ("No finalists were asked for, so nothing was compared with known cells.",)
    if not run.finished:
        return ("The run is not finished.",)
    return ("Not retrained: too little of the budget was left for the final comparison.",)


def _caveats(run: Run, difference: Estimate | None = None) -> tuple[str, ...]:
    found: list[str] = []
    if run.config.seeds == 1:
        found.append("One seed each: any difference can come from the seed alone. Use --seeds 3 or more.")
    elif difference is not None and difference.half is None:
        found.append("Only one seed is common to both, so chance cannot be told from skill.")
    missing = [c.name for c in run.contenders if not c.retrained]
    if missing:
        found.append(
            f"Not trained with every seed, for want of budget or because it failed: {', '.join(missing)}."
        )
    own = [c.name for c in run.finalists if c.recipe]
    if own:
        found.append(
            f"With a recipe of their own, found by the search, unlike the known cells: {', '.join(own)}."
        )
    sizes = [c.params for c in run.contenders if c.params]
    if sizes and max(sizes) > 1.05 * min(sizes):
        found.append(f"Parameters differ by more than 5 %: from {min(sizes):,} to {max(sizes):,}.")
    if not run.finished:
        found.append("The run is not finished: this can change.")
    return tuple(found)
