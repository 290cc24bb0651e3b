"""How the one budget of a campaign is shared between search and final comparison: arithmetic, in seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from nas.campaign.entries import Contender, TrialRecord
from nas.campaign.record import Run

SHARE = 1 / 3
"""Of the budget, at most kept for the final comparison as a whole."""
LEAST_SHARE = 1 / 2
"""Of the budget, at most kept so that the best cell and the baselines are retrained with one seed."""
MARGIN = 1.2
"""Planned over measured time: the same training takes longer beside others."""


def trial_seconds(run: Run) -> float | None:
    """Median wall time of the trials that were trained to the end; of the others while there are none; else None."""
    walls = [trial.wall for trial in run.trials if trial.status == "ok"]
    others = [trial for trial in run.trials if trial.ended is not None and trial.supernet is None]
    walls = walls or [trial.wall for trial in others if trial.wall > 0]
    return statistics.median(walls) if walls else None


def full_seconds(run: Run) -> float | None:
    """Wall time of a training of the whole recipe, as far as is known: that of those that were trained furthest."""
    ended = [trial for trial in run.trials if trial.status == "ok"]
    if not ended:
        return trial_seconds(run)
    most = max(_trained(run, trial) for trial in ended)
    return statistics.median(_whole(run, trial) for trial in ended if _trained(run, trial) == most)


def _trained(run: Run, trial: TrialRecord) -> int:
    """Steps that were taken in a trial, without those before its snapshot."""
    return (trial.until or run.full_steps) - trial.start


def _whole(run: Run, trial: TrialRecord) -> float:
    """Wall time of training a trial's cell from the first step to the recipe's last."""
    return trial.wall * run.full_steps / max(1, _trained(run, trial))


def makespan(seconds: Sequence[float], slots: int) -> float:
    """How long these jobs take, one after the other on whichever of the slots is free first."""
    busy = [0.0] * slots
    for each in seconds:
        busy[busy.index(min(busy))] += each
    return max(busy)


def least_need(run: Run, slots: int) -> float:
    """Time to retrain the best cell and the baselines with one seed each, without margin; 0 while unknown."""
    best, each = next(iter(run.choice()), None), full_seconds(run)
    if not run.config.finalists or best is None or each is None:
        return 0.0
    return makespan([_whole(run, best), *(each for _ in run.first["baselines"])], slots)


def whole_need(run: Run, slots: int) -> float | None:
    """Time to retrain all that is planned if the search ended now, without margin; None while unknown."""
    each = full_seconds(run)
    if each is None:
        return None
    finalists = [_whole(run, trial) for trial in run.choice()]
    finalists += [each] * (run.config.finalists - len(finalists))
    once = [*finalists, *(each for _ in run.first["baselines"])]
    return makespan(once * run.config.seeds, slots)


def reserve(run: Run, slots: int) -> float:
    """What is kept for the final comparison: a third of the budget, less if less is enough.

    A little more, up to half of the budget, if a third is not enough for one seed of the best cell and the baselines.
    """
    config = run.config
    if not config.finalists:
        return 0.0
    whole = whole_need(run, slots)
    if whole is None:
        return SHARE * config.budget
    least = MARGIN * least_need(run, slots)
    return max(min(MARGIN * whole, SHARE * config.budget), min(least, LEAST_SHARE * config.budget))


def trial_fits(run: Run, active: float, slots: int) -> bool:
    """Whether a trial that is started now ends, as far as is known, before the time kept for the final comparison."""
    return active + (trial_seconds(run) or 0.0) < run.config.budget - reserve(run, slots)


def training_fits(run: Run, contender: Contender, active: float) -> bool:
    """Whether a retraining of this cell that is started now ends, as far as is known, within the budget."""
    walls = [training.wall for training in contender.done]
    if walls:
        expected = statistics.mean(walls)
    elif contender.trial is not None:
        expected = _whole(run, run.trials[contender.trial])
    else:
        expected = full_seconds(run) or 0.0
    return active + expected <= run.config.budget
