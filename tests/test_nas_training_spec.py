"""What a trial is asked and what came of it: validated, and the same after a trip through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from nas.errors import TrainingError
from nas.training import Recipe, TrialResult, TrialSpec

RECIPE = Recipe(steps=10, batch_size=4, sequence_length=8, lr=1e-3)
SPEC = TrialSpec(cell="cell a { state h: vec; h' = lin(x, h); out h' }", task="text", recipe=RECIPE)


def test_a_spec_round_trips_through_json() -> None:
    spec = SPEC.replace(
        data="book.txt",
        data_digest="ab" * 32,
        size="full",
        width=64,
        heads=4,
        seed=7,
        device="cuda",
        backend="c",
        policy="beam",
    )
    assert TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec != SPEC


def test_a_result_round_trips_through_json() -> None:
    result = TrialResult("ok", 1.5, 1.6, ((5, 2.5), (10, 2.0)), params=100, width=8, steps=10, seconds=1.25)
    assert TrialResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_json_of_a_diverged_result_has_no_nan() -> None:
    result = TrialResult(
        "diverged", curve=((5, 2.5), (10, math.nan)), message="training loss is nan by step 10"
    )
    text = json.dumps(result.to_dict(), allow_nan=False)
    back = TrialResult.from_dict(json.loads(text))
    assert back.curve[0] == (5, 2.5)
    assert math.isnan(back.curve[1][1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": 100, "width": 8}, "params or width, not both; got params=100, width=8"),
        ({"params": 0}, "params must be a whole number of at least 1, got 0"),
        ({"width": 2.0}, r"width must be a whole number of at least 1, got 2\.0"),
        ({"heads": 0}, "heads must be a whole number of at least 1, got 0"),
        ({"heads": True}, "heads must be a whole number of at least 1, got True"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"width": 10, "heads": 4}, "width must be a multiple of heads, got width=10, heads=4"),
        ({"device": "tpu"}, 'device must be "cpu" or "cuda", got \'tpu\''),
    ],
)
def test_bad_specs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        SPEC.replace(**changes)


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(TrainingError, match="trial: unknown field 'epochs'"):
        TrialSpec.from_dict({**SPEC.to_dict(), "epochs": 3})
    with pytest.raises(TrainingError, match="trial: field 'cell' is missing"):
        TrialSpec.from_dict({"task": "text", "recipe": RECIPE.to_dict()})
    with pytest.raises(TrainingError, match="result: field 'status' is missing"):
        TrialResult.from_dict({"score": 1.0})
