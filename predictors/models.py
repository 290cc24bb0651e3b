"""Which models of cells there are, and the columns that each sees.

`ensemble`: statistics, flow and untrained probes. `wl`: Weisfeiler-Lehman labels of the typed graph, under a Gaussian
process. `graph` and `text`: what a pretrained network makes of the typed graph, and of the canonical text. Each
ranks cells by trees and a Gaussian process on its own columns. Statistics and flow stand before the
columns of all models: they tell cells unlike those that were fitted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grammar import Cell
from predictors.encoding import GROUPS, encode, encoding_key, encoding_names
from predictors.errors import PredictorError
from predictors.scaling import Columns, fit_columns
from predictors.weights import NETWORKS, Network, pretrained
from predictors.wl import SHARES, wl_columns, wl_rounds

Floats = NDArray[np.float64]

MODELS = ("ensemble", "wl", *NETWORKS)
STRUCTURE = ("statistics", "flow")
# Rounds of labels; what the text network foresees, and its words without their order, which few labels learn from too.
_SHARES_OF = {"wl": SHARES, "text": (0.5, 0.5)}
_LEAST = 1e-6  # spread of a column that is used


def check_model(model: str) -> str:
    """The name, if it is one of a model. Raises PredictorError otherwise."""
    if model not in MODELS:
        raise PredictorError(f"a model is one of {', '.join(MODELS)}; received {model!r}")
    return model


def model_names(model: str = "ensemble", network: Network | None = None) -> tuple[str, ...]:
    """The names of the columns of `model_rows`, as `group.name`."""
    if check_model(model) == "ensemble":
        return encoding_names()
    count = len(_parts(model, network))
    return (*encoding_names(STRUCTURE), *(f"{model}.{i}" for i in range(count)))


def _parts(model: str, network: Network | None = None) -> NDArray[np.int64]:
    """The part that each of a model's own columns belongs to; _SHARES_OF has their shares of the distance."""
    if model == "wl":
        return wl_rounds()
    sizes = (network or pretrained(model)).sizes
    return np.repeat([0, 1], [sizes["outputs"], sizes["width"] if model == "text" else 0])


def model_key(model: str = "ensemble") -> str:
    """Changes when the columns of a model do, as `encoding_key`."""
    return encoding_key(GROUPS if model == "ensemble" else STRUCTURE)


def model_rows(cells: Iterable[Cell], model: str = "ensemble", network: Network | None = None) -> Floats:
    """One row per cell, as `predictors.fit_rows(..., model=model)` takes them: float64 [n, len(model_names(model))].

    Without `network`, `graph` and `text` ask the one that comes along. Raises PredictorError for another model.
    """
    if check_model(model) == "ensemble":
        return encode(cells)
    found = list(cells)
    return np.concatenate([encode(found, STRUCTURE), own_columns(found, model, network)], axis=1)


def own_columns(cells: list[Cell], model: str, network: Network | None = None) -> Floats:
    """The columns of a model behind those of statistics and flow."""
    if model == "wl":
        return wl_columns(cells)
    from predictors.networks import embed  # only these two models need torch

    return embed(network or pretrained(model), cells, with_words=model == "text")


def columns_of(x: Floats, model: str, outside: int) -> Columns:
    """The columns that a model learns from: the last `outside` ones of `x` stand behind the model's own.

    The ensemble brings all columns to one spread. Counts of labels, and what networks foresee, keep their spreads
    beside each other: what hardly differs between cells counts for little.
    """
    if model == "ensemble":
        return fit_columns(x)
    first = len(encoding_names(STRUCTURE))
    own = np.arange(first, x.shape[1] - outside)
    spread, parts = x.std(axis=0), _parts(model)
    unit = spread.copy()
    for part in np.unique(parts):
        of = own[parts == part]
        unit[of] = max(float(spread[of].max(initial=0.0)), _LEAST)
    used = np.flatnonzero((spread > _LEAST) & (np.arange(x.shape[1]) >= first))
    return Columns(used, x[:, used].mean(axis=0), np.maximum(unit[used], _LEAST))


def distance_weights(columns: Columns, scaled: Floats, weights: Floats, model: str) -> Floats:
    """Weights of columns in the distance of the process, so that two cells are about 1 apart."""
    if model == "ensemble":
        return weights
    found = weights.copy()
    spread = scaled.std(axis=0)
    place, parts = columns.used - len(encoding_names(STRUCTURE)), _parts(model)
    own = np.flatnonzero(place < len(parts))
    whole = float(weights[own] @ spread[own])
    for part, share in enumerate(_SHARES_OF.get(model, (1.0,))):
        of = own[parts[place[own]] == part]
        found[of] = whole * share / max(float(spread[of].sum()), 1e-9)
    return np.asarray(found / max(float(found @ spread), 1e-9))


def network_of(model: str) -> Network | None:
    """The network that a new predictor of a model takes with it."""
    return pretrained(model) if model in NETWORKS else None


def described(model: str, network: Network | None) -> dict[str, Any]:
    """What the card says of a model."""
    found: dict[str, Any] = {"model": model}
    if network is not None:
        found["network"] = {**network.sizes, "weights": sum(array.size for array in network.arrays.values())}
    return found
