"""Predictor: fitted on cells and scores, says how good other cells will be and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grammar import Cell
from predictors.encoding import encoding_names
from predictors.errors import PredictorError
from predictors.forests import Forest
from predictors.given import cells_of, finite, numbers, rows_of, scores_of
from predictors.kernels import Process
from predictors.known import Known, make_known
from predictors.models import model_names, model_rows
from predictors.novelty import Novelty
from predictors.scaling import Columns, Scale, at_ends
from predictors.weights import Network

Floats = NDArray[np.float64]

AT_ONCE = 2000  # rows that are predicted at a time
PRIOR_COLUMNS = 2  # its rank and its mean, behind the columns of the model
_KINDS = [encoding_names().index(f"statistics.{name}") for name in ("children", "states_seq")]  # trees, depth


@dataclass(frozen=True)
class Prediction:
    """One entry per cell. Lower means are better where lower scores were.

    `mean` and `std` are in the unit of the scores: mean +- 1.645 std holds 90 % of cells like those that were
    fitted, and 90 % of these themselves where the predictor knows which they were. `out_of_distribution` says that a
    cell is unlike all of those, `novelty` how much (above 1: flagged).
    `diverges` is the chance that training gives no finite score; NaN where no fitted cell failed.
    `rank` is what means are made of: on a scale of its own, without ties. `spread` is how far the members of the
    ensemble disagree about it: doubt on the same scale, known also where `std` was not measured (`check=False`).
    """

    mean: Floats
    std: Floats
    out_of_distribution: NDArray[np.bool_]
    novelty: Floats
    diverges: Floats
    rank: Floats
    spread: Floats

    def __len__(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class Ranker:
    """Trees and a Gaussian process on the same columns, added up: predicted ranks and how far the trees disagree.

    Where the process says that a cell is at either end of all, what it says of that end counts too.
    `process` is None where there were too many cells for one.
    """

    columns: Columns
    trees: Forest
    process: Process | None
    shares: tuple[float, float]  # of the trees and of the process
    slope: float  # of what a prior says, where there is one: the rest corrects it
    base: Floats  # of each column, what is added to the trees
    prior_column: int = 0  # where the rank of the prior stands among the rows

    def __call__(self, x: Floats) -> tuple[Floats, Floats]:
        """Rank and its spread for rows `x` [n, F]."""
        scaled = self.columns(x)
        each = self.trees.each(scaled)
        rank = self.shares[0] * (each.mean(axis=1) + scaled @ self.base)
        if self.process is not None:
            said = self.process.mean(scaled)
            rank = rank + self.shares[1] * said[0] + sum(self.shares) * at_ends(said[1:])
        if self.slope:
            rank = rank + self.slope * x[:, self.prior_column]
        return rank, each.std(axis=1)


@dataclass(frozen=True)
class Predictor:
    """How good cells will be, before they are trained. Made by `predictors.fit` or `predictors.load`.

    `card` says what it was fitted on and how good it is on held-out cells; it is JSON.
    """

    ranker: Ranker
    scale: Scale
    errors: tuple[float, float]  # factor of the spread, and the least error, in the unit of the scores
    novelty: Novelty
    failing: Forest | None
    prior: Predictor | None
    extras: int
    card: Mapping[str, Any] = field(default_factory=dict)
    known: Known | None = None  # the cells that it was fitted on, where that was kept
    model: str = "ensemble"
    network: Network | None = None  # of the models that have one

    def predict(self, cells: Iterable[Cell], extras: ArrayLike | None = None) -> Prediction:
        """What to expect of each cell.

        `extras` [n, E] are the further columns that it was fitted with (losses of the first epochs, say).
        Raises PredictorError where they are missing or have another shape.
        """
        found = cells_of(cells)
        said = self.predict_rows(self.rows(found), extras)
        return self.of_known(said, [cell.digest for cell in found]) if self.known is not None else said

    def of_known(self, said: Prediction, digests: Sequence[str]) -> Prediction:
        """`said` of rows, with the intervals that cells have which it was fitted on: `predict` does this."""
        return replace(said, std=self.known.widened(said.std, digests)) if self.known is not None else said

    def reached(self, digests: Sequence[str]) -> Floats:
        """The scores that cells were fitted with: NaN for those that are new, infinite where training failed."""
        return np.full(len(digests), np.nan) if self.known is None else self.known.reached(digests)

    def knowing(
        self, digests: Sequence[str], rows: ArrayLike, scores: ArrayLike, extras: ArrayLike | None = None
    ) -> Predictor:
        """The same predictor, which remembers that it was fitted on these cells, one of each class."""
        said = self.predict_rows(rows, extras)
        return replace(
            self, known=make_known(digests, scores_of(scores, len(said), "rows"), said.mean, said.std)
        )

    def rows(self, cells: Iterable[Cell]) -> Floats:
        """Cells as rows of numbers, for `predict_rows`: see `predictors.model_rows`."""
        return model_rows(cells, self.model, self.network)

    def predict_rows(self, rows: ArrayLike, extras: ArrayLike | None = None) -> Prediction:
        """The same for rows of `encode` (of `rows`, if it is another model), which may be kept and used again."""
        made_by = "encode" if self.model == "ensemble" else "rows"
        width = len(model_names(self.model, self.network))
        rows = rows_of(rows, width, f"are what `{made_by}` gives,")
        if len(rows) > AT_ONCE:
            return self._in_parts(rows, extras)
        x = with_extras(rows, extras, self.extras, self.prior)
        rank, spread = self.ranker(x)
        mean = self.scale(rank)
        factor, least = self.errors
        std = np.sqrt((factor * spread * self.scale.slope(rank)) ** 2 + least**2)
        novelty = self.novelty(rows) + self._of_another_kind(rows)
        fails = np.full(len(rows), np.nan)
        if self.failing is not None:
            fails = self.failing.each(self.ranker.columns(x)).mean(axis=1)
        return Prediction(mean, std, novelty > 1, novelty, fails, rank, spread)

    def _in_parts(self, rows: Floats, extras: ArrayLike | None) -> Prediction:
        """As `predict_rows`, for so many rows that their distances from all fitted cells would not fit into memory."""
        given = None if extras is None else checked_extras(extras, len(rows), self.extras)
        starts = range(0, len(rows), AT_ONCE)
        parts = [
            self.predict_rows(rows[i : i + AT_ONCE], None if given is None else given[i : i + AT_ONCE])
            for i in starts
        ]
        names = [each.name for each in fields(Prediction)]
        return Prediction(**{name: np.concatenate([getattr(one, name) for one in parts]) for name in names})

    def _of_another_kind(self, rows: Floats) -> NDArray[np.bool_]:
        """Cells over trees or depth where all that were fitted run over time: few columns tell, so distances do not."""
        fitted = (
            self.novelty.rows[:, _KINDS] * self.novelty.spread[_KINDS] + self.novelty.mean[_KINDS]
        ) > 0.5
        return np.asarray(((rows[:, _KINDS] > 0.5) & ~fitted.any(axis=0)).any(axis=1))

    def save(self, path: str | Path, small: bool = False) -> None:
        """Write one file that `predictors.load` reads. It holds arrays and JSON, nothing that could run.

        A `small` one takes a ninth of the bytes: numbers are rounded, so that predictions change a little, far less
        than their `std`. Raises PredictorFileError where no file can be written there.
        """
        from predictors.files import save

        save(self, Path(path), small)


def with_extras(rows: Floats, extras: ArrayLike | None, count: int, prior: Predictor | None) -> Floats:
    """Rows with the columns that stand behind them: what a prior predictor says, then the extras."""
    parts = [rows]
    if prior is not None:
        said = prior.predict_rows(rows)
        parts += [said.rank[:, None], said.mean[:, None]]
    return np.concatenate([*parts, finite(checked_extras(extras, len(rows), count))], axis=1)


def checked_extras(extras: ArrayLike | None, rows: int, count: int) -> Floats:
    """Further columns as an array. Raises PredictorError where they have another shape than [rows, count]."""
    given = np.zeros((rows, 0)) if extras is None else numbers(extras, "extras")
    if given.shape != (rows, count):
        raise PredictorError(f"extras have the shape [{rows}, {count}]; received {list(given.shape)}")
    return given
