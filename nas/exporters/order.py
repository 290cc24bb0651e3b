"""The order of a run's cells, best first. No torch here: `recell top` shows it."""

from __future__ import annotations

from nas.campaign import Run, TrialRecord


def ranking(run: Run) -> list[TrialRecord]:
    """All trials with a score: first the finalists that were retrained, by their mean validation score, then the rest.

    A score of the search is that of one training among many, and the best of many is partly luck; so what was trained
    anew comes first.
    """
    retrained = [f for f in run.finalists if f.score is not None and f.trial is not None]
    retrained.sort(key=lambda f: f.score or 0.0)
    first = [run.trials[f.trial] for f in retrained if f.trial is not None]
    known = {trial.id for trial in first}
    return [*first, *(trial for trial in run.top() if trial.id not in known)]
