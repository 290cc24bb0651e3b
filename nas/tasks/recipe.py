"""The training recipe: what a trial does with a model besides the model itself. No torch here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import TrainingError


@dataclass(frozen=True)
class Recipe:
    """How long and how a model is trained. Each task has one per size; a search keeps it fixed for all its cells.

    `steps` optimiser steps of `batch_size` sequences; `sequence_length` is the window of truncated backpropagation
    for language modelling and the longest training sequence of a formal language. AdamW with peak rate `lr`, linear
    warm-up over the fraction `warmup` of the steps and a cosine down to 0, gradients clipped to the norm `clip`.
    """

    steps: int
    batch_size: int
    sequence_length: int
    lr: float
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: float = 0.05
    dropout: float = 0.0
    num_layers: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "num_layers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TrainingError(f"recipe: {name} must be a whole number of at least 1, got {value!r}")
        _check_range("lr", self.lr, above=0.0)
        _check_range("clip", self.clip, above=0.0)
        _check_range("weight_decay", self.weight_decay, least=0.0)
        _check_range("warmup", self.warmup, least=0.0, below=1.0)
        _check_range("dropout", self.dropout, least=0.0, below=1.0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`. Raises TrainingError for unknown and missing fields."""
        return cls(**check_fields(cls, values, "recipe"))

    def replace(self, **changes: Any) -> Recipe:
        """The same recipe but for `changes`, by field name. Raises TrainingError for unknown fields."""
        return Recipe.from_dict({**self.to_dict(), **changes})


def check_fields(cls: Any, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`values` as a dict, after checking that they name each required field of the dataclass `cls` and no other."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise TrainingError(f"{what}: unknown field {unknown[0]!r}; it has {', '.join(fields)}")
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise TrainingError(f"{what}: field {missing[0]!r} is missing")
    return dict(values)


def _check_range(
    name: str, value: object, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and value > above and value >= least and value < below:  # type: ignore[operator,arg-type]
        return
    bounds = [
        f"above {above:g}" if above > -math.inf else "",
        f"at least {least:g}" if least > -math.inf else "",
    ]
    bounds.append(f"below {below:g}" if below < math.inf else "")
    raise TrainingError(f"recipe: {name} must be {' and '.join(b for b in bounds if b)}, got {value!r}")
