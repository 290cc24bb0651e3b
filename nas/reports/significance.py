"""Paired tests, and their correction for being several."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from nas._student import student_p


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test: how likely a mean as far from 0 is by chance; None with fewer than two."""
    count = len(differences)
    if count < 2:
        return None
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return student_p(mean / (deviation / math.sqrt(count)), count - 1)


def holm(ps: Sequence[float]) -> list[float]:
    """The values corrected for their number (Holm 1979): one below 0.05 comes by chance in at most 5 % of families."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected = [0.0] * len(ps)
    highest = 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = highest
    return corrected
