"""Widths for parameter budgets: exact counts, nearest widths, clear refusals."""

from __future__ import annotations

import pytest

from grammar import Cell, parse, zoo
from nas.errors import BuildError, TrainingError
from nas.nn import Stack
from nas.tasks import load_task
from nas.training import match_width
from nas.training.width import count_parameters

BLOCKS = "cell blocks { state h: vec; h' = tanh(lin(x, h, blocks=4)); out h' }"
HEAVY = "cell heavy { state h: vec; z = sigmoid(lin(x, h)); h' = lerp(z, h, tanh(lin(x, z * h))); out h' }"


def built(cell: Cell, task_name: str, width: int, heads: int = 1, num_layers: int = 1) -> int:
    """The trainable parameters of a model that is really there."""
    task = load_task(task_name)
    model = Stack(
        cell,
        task.inputs,
        task.outputs,
        width,
        num_layers=num_layers,
        heads=heads,
        embed=task.embed,
        backend="reference",
    )
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("budget", [20_000, 100_000, 250_000])
@pytest.mark.parametrize(
    "cell", [zoo("lstm"), zoo("gru"), zoo("mingru"), parse(HEAVY)], ids=lambda cell: cell.name
)
def test_one_head_is_within_two_percent(cell: Cell, budget: int) -> None:
    task = load_task("text")
    width, params = match_width(cell, task, budget)
    assert abs(params - budget) <= 0.02 * budget
    assert params == built(cell, "text", width)


@pytest.mark.parametrize(
    ("task_name", "heads", "num_layers"), [("words", 1, 1), ("parity", 4, 1), ("modular_arithmetic", 2, 3)]
)
def test_the_width_is_the_nearest_multiple_of_heads(task_name: str, heads: int, num_layers: int) -> None:
    budget = 120_000
    width, params = match_width(zoo("gru"), load_task(task_name), budget, heads, num_layers)
    assert width % heads == 0
    assert params == built(zoo("gru"), task_name, width, heads, num_layers)
    for other in (width - heads, width + heads):
        assert abs(built(zoo("gru"), task_name, other, heads, num_layers) - budget) >= abs(params - budget)


def test_a_budget_that_a_width_meets_gives_that_width() -> None:
    task = load_task("parity")
    for width in (1, 2, 3, 17, 64):
        assert match_width(zoo("gru"), task, count_parameters(zoo("gru"), task, width)) == (
            width,
            built(zoo("gru"), "parity", width),
        )


def test_widths_that_cannot_be_built_are_passed_over() -> None:
    width, params = match_width(parse(BLOCKS), load_task("parity"), 5_000)
    assert width % 4 == 0
    assert params == built(parse(BLOCKS), "parity", width)


def test_a_budget_below_the_smallest_width_is_refused() -> None:
    with pytest.raises(
        BuildError, match=r"budget of 100 parameters is too small: at width 4, .* cell lstm .* has \d+"
    ):
        match_width(zoo("lstm"), load_task("text"), 100, heads=4)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(TrainingError, match="at least 1 parameter, got 0"):
        match_width(zoo("lstm"), load_task("text"), 0)
