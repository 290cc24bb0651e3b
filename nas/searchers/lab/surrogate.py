"""A surrogate: boosted trees on untrained probes say what a cell's training would give. It is labelled as such."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from grammar import Cell
from nas.errors import SearchError
from nas.searchers.encodings import GROUPS, encodings
from nas.searchers.lab.pool import Pool
from nas.searchers.lab.replay import Answer, Answerer
from predictors import auc, encode, encoding_key, encoding_names, kendall_tau

Floats = NDArray[np.float64]

FEATURES = ("probes",)
FAILS = 0.5  # chance of failing from which a cell fails
MODELS = 5  # each of its own draw of the pool: a search finds where one model errs, and rarely where all do
VERSION = 2  # counts up with every change of the answers that is not one of the encoding
# Run-to-run standard deviation below each score, robust, measured on 12,342 runs on Penn Treebank.
NOISE = ((4.7, 0.0039), (4.9, 0.0047), (5.2, 0.0064), (6.3, 0.010), (np.inf, 0.003))


@dataclass
class Surrogate:
    """Answers any cell as a boosted ensemble that was fitted to a pool; it is no training, and no evidence of one.

    It sees the untrained probes of a cell and nothing else. A searcher that it is to judge fairly sees other features
    by another kind of model: `guided` with `features=("statistics", "flow")`, by random trees and a Gaussian process.
    It says the mean of `MODELS` boosted models and never less than the least score of the pool: a search among
    many cells ends where a model errs downwards. To what it says, the noise of one run is added: that of Penn Treebank,
    none (False), or one of this standard deviation.

    `features` are what it sees instead, for searchers that see nothing: those that are not probes take 1 ms a cell.
    """

    pool: Pool
    noise: bool | float = True
    features: Sequence[str] = FEATURES
    version: ClassVar[str] = f"{VERSION}-{encoding_key(FEATURES)}"  # with another one the answers are others

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in GROUPS]
        if unknown or not self.features:
            raise SearchError(f"features are of {', '.join(GROUPS)}; received {', '.join(unknown) or 'none'}")
        self.features = tuple(name for name in GROUPS if name in self.features)
        self._columns = _columns(self.features)
        x = encodings(tuple(self.features))(self.pool.cells)[:, self._columns]
        self._model, self._fails = _fit(x, self.pool.scores)
        self._least = self.pool.best

    def __call__(self, cell: Cell, rng: np.random.Generator) -> Answer:
        """The score of one run: the surrogate's, with noise."""
        return self._said(encode([cell], self.features), rng)

    def _said(self, x: Floats, rng: np.random.Generator) -> Answer:
        if self._fails is not None and self._fails.predict_proba(x)[0, 1] > FAILS:
            return Answer(None, None)
        mean = max(float(self._model(x)[0]), self._least)
        return Answer(mean + self._sd(mean) * float(rng.standard_normal()), mean)

    def _sd(self, mean: float) -> float:
        if self.noise is True:
            return next(sd for below, sd in NOISE if mean < below)
        return float(self.noise)

    def quality(self, folds: int = 5) -> dict[str, float]:
        """How good its like is on cells of the pool that it did not see: Kendall's tau, and AUC of failing."""
        x = encodings(tuple(self.features))(self.pool.cells)[:, self._columns]
        y, failed = self.pool.scores, ~np.isfinite(self.pool.scores)
        fold = np.random.default_rng(0).permutation(len(y)) % folds
        said, chance = np.full(len(y), np.nan), np.zeros(len(y))
        for number in range(folds):
            out = fold == number
            model, fails = _fit(x[~out], y[~out])
            said[out] = model(x[out])
            if fails is not None:
                chance[out] = fails.predict_proba(x[out])[:, 1]
        found = {"kendall_tau": round(kendall_tau(said[~failed], y[~failed]), 3)}
        return found | ({"auc_failing": round(auc(chance, failed), 3)} if failed.any() else {})


def all_or_nothing(
    answer: Answerer, samples: Sequence[Cell], share: float, trivial: float
) -> tuple[Answerer, float]:
    """Answers of a task that few cells learn, and the mean that a cell needs: any worse one scores as `trivial`.

    It is the mean of the best `share` of `samples`. Noise and failures stay what they are.
    """
    told = [answer(cell, np.random.default_rng(0)).mean for cell in samples]
    known = sorted(mean for mean in told if mean is not None)
    if not known:
        raise SearchError(f"all of {len(told)} samples failed: nothing is learnt here")
    level = known[min(int(share * len(told)), len(known) - 1)]

    def given(cell: Cell, rng: np.random.Generator) -> Answer:
        said = answer(cell, rng)
        if said.score is None or said.mean is None or said.mean <= level:
            return said
        return Answer(trivial + said.score - said.mean, trivial)

    return given, level


def _columns(features: Sequence[str]) -> NDArray[np.int64]:
    return np.flatnonzero([name.split(".")[0] in features for name in encoding_names()])


def _fit(x: Floats, scores: Floats) -> tuple[Callable[[Floats], Floats], Any]:
    """The mean of boosted models of the score, and one of failing; None where nothing failed."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    settings: dict[str, Any] = {
        "max_iter": 300,
        "learning_rate": 0.05,
        "max_leaf_nodes": 15,
        "max_features": 0.1,
        "early_stopping": False,
    }
    finite = np.isfinite(scores)
    within, y = x[finite], scores[finite]
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(y), size=len(y)) for _ in range(MODELS)]
    models = [
        HistGradientBoostingRegressor(**settings, random_state=seed).fit(within[draw], y[draw])
        for seed, draw in enumerate(draws)
    ]

    def mean(asked: Floats) -> Floats:
        said: Floats = np.mean([model.predict(asked) for model in models], axis=0)
        return said

    if finite.all():
        return mean, None
    return mean, HistGradientBoostingClassifier(**settings | {"max_iter": 100}, random_state=0).fit(
        x, ~finite
    )
