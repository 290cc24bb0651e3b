"""Recipes: validated, and the same after a trip through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from nas.errors import TrainingError
from nas.tasks import Recipe

RECIPE = Recipe(steps=10, batch_size=4, sequence_length=8, lr=1e-3)


def test_round_trip_through_json() -> None:
    recipe = Recipe(7, 2, 3, 0.1, weight_decay=0.0, clip=0.25, warmup=0.5, dropout=0.1, num_layers=2)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_optional_fields_may_be_left_out() -> None:
    required = {"steps": 10, "batch_size": 4, "sequence_length": 8, "lr": 1e-3}
    assert Recipe.from_dict(required) == RECIPE


def test_replace_changes_only_what_it_names() -> None:
    assert RECIPE.replace(lr=0.5) == Recipe(steps=10, batch_size=4, sequence_length=8, lr=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": True}, "steps must be a whole number of at least 1, got True"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, got 2.5"),
        ({"sequence_length": -3}, "sequence_length must be a whole number of at least 1, got -3"),
        ({"num_layers": "2"}, "num_layers must be a whole number of at least 1, got '2'"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": math.nan}, "lr must be above 0, got nan"),
        ({"lr": "fast"}, "lr must be above 0, got 'fast'"),
        ({"clip": -1.0}, "clip must be above 0, got -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"warmup": 1.0}, "warmup must be at least 0 and below 1, got 1.0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"momentum": 0.9}, "unknown field 'momentum'"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        RECIPE.replace(**changes)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(TrainingError, match="field 'steps' is missing"):
        Recipe.from_dict({"batch_size": 4, "sequence_length": 8, "lr": 1e-3})
