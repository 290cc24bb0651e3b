"""Training recipes to try: Optuna's tree-structured Parzen estimator, told what came of those tried.

The one file of the searchers that imports optuna, and only when a recipe is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.errors import SearchError

Floats = NDArray[np.float64]
Recipe = Mapping[str, float]


@dataclass(frozen=True)
class Field:
    """A number of a recipe that may change: from `low` to `high`, of the task's own value if `relative`."""

    low: float
    high: float
    log: bool
    relative: bool


FIELDS: Mapping[str, Field] = {
    "lr": Field(0.125, 8.0, log=True, relative=True),
    "clip": Field(0.25, 4.0, log=True, relative=True),
    "weight_decay": Field(1e-4, 0.3, log=True, relative=False),
    "dropout": Field(0.0, 0.5, log=False, relative=False),
    "warmup": Field(0.0, 0.3, log=False, relative=False),
}
STARTUP = 10  # recipes that are drawn at random


def check_fields(fields: Sequence[str]) -> None:
    """Raise SearchError for a field that cannot be searched."""
    for field in fields:
        if field not in FIELDS:
            raise SearchError(f"fields of a recipe to search are {', '.join(FIELDS)}; received {field!r}")


class RecipeSearch:
    """Recipes near that of a task, `base`: changes to `fields`, and these as columns for a predictor.

    Raises SearchError for a field that is none of FIELDS or that the task's recipe does not have.
    """

    def __init__(self, fields: Sequence[str], base: Recipe) -> None:
        check_fields(fields)
        for field in fields:
            if field not in base:
                raise SearchError(
                    f"the task's recipe has no {field!r}: it has {', '.join(base) or 'no field'}"
                )
        self.fields = tuple(fields)
        self.base = {field: float(base[field]) for field in fields}

    def columns(self, recipes: Sequence[Recipe | None]) -> Floats:
        """How far each recipe is from the task's, [n, fields]; None is the task's own."""
        rows = [
            [self._place(f, (recipe or {}).get(f, self.base[f])) for f in self.fields] for recipe in recipes
        ]
        return np.array(rows, dtype=np.float64).reshape(len(recipes), len(self.fields))

    def propose(
        self, tried: Sequence[tuple[Recipe | None, float]], count: int, rng: np.random.Generator
    ) -> list[dict[str, float]]:
        """`count` recipes that the estimator finds promising after (recipe, score) pairs, lower scores being better."""
        import optuna

        distributions = {
            field: optuna.distributions.FloatDistribution(*self._range(field), log=FIELDS[field].log)
            for field in self.fields
        }
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP,
                multivariate=True,
                constant_liar=False,
                seed=int(rng.integers(1 << 31)),
            )
            study = optuna.create_study(sampler=sampler)
            for recipe, score in tried:
                params = {f: self._clipped(f, (recipe or {}).get(f, self.base[f])) for f in self.fields}
                study.add_trial(
                    optuna.trial.create_trial(params=params, distributions=dict(distributions), value=score)
                )
            asked = [study.ask(dict(distributions)).params for _ in range(count)]
        finally:
            optuna.logging.set_verbosity(before)
        return [{field: float(f"{params[field]:.4g}") for field in self.fields} for params in asked]

    def _range(self, field: str) -> tuple[float, float]:
        about = FIELDS[field]
        scale = self.base[field] if about.relative else 1.0
        return about.low * scale, about.high * scale

    def _clipped(self, field: str, value: float) -> float:
        low, high = self._range(field)
        return min(max(float(value), low), high)

    def _place(self, field: str, value: float) -> float:
        if not FIELDS[field].log:
            return float(value)
        low, _ = self._range(field)
        return math.log(max(float(value), low * 1e-2))
