"""Paired tests, and their correction for being several."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test: how likely a mean as far from 0 is by chance; None with fewer than two."""
    count = len(differences)
    if count < 2:
        return None
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return student_p(mean / (deviation / math.sqrt(count)), count - 1)


def student_p(t: float, freedom: int) -> float:
    """P(|T| >= |t|) of Student's distribution with whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (power - 1) / power
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


def holm(ps: Sequence[float]) -> list[float]:
    """The values corrected for their number (Holm 1979): one below 0.05 comes by chance in at most 5 % of families."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected = [0.0] * len(ps)
    highest = 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = highest
    return corrected
