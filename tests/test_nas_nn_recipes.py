"""Recipes of NAS-Bench-NLP as modules, held against an evaluation of the recipes themselves, node by node.

Nothing of the language stands on the right-hand side: only the recipe, the table of its operations as the data
describe them, and the module's arrays under the names of the recipe's nodes.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grammar import from_nasbench_nlp
from nas.nn import CellModule, build

STEPS, BATCH, INPUT, HIDDEN = 4, 3, 5, 7
Recipe = Mapping[str, Mapping[str, Any]]


@cache
def _recipes(folder: Path, count: int) -> list[tuple[int, Recipe]]:
    rows = [
        json.loads(line)
        for table in ("wikitext2", "ptb")
        for line in (folder / f"nas-bench-nlp-{table}" / "cells.jsonl").read_text().splitlines()
    ]
    chosen = np.random.default_rng(3).choice(len(rows), min(count, len(rows)), replace=False)
    return [(rows[i]["id"], rows[i]["recipe"]) for i in sorted(chosen)]


def _maps(recipe: Recipe, module: CellModule) -> dict[str, tuple[list[Tensor], Tensor]]:
    """The matrices (one for each input) and the bias of each linear node."""
    arrays = dict(module.named_parameters())
    found: dict[str, tuple[list[Tensor], Tensor]] = {}
    for node, entry in recipe.items():
        if entry["op"] == "linear":
            name = re.sub(r"^h_new_(\d+)$", r"h\1", node)
            weights: list[Tensor] = [arrays.pop(f"layers.0.{name}.w{j}") for j in range(len(entry["input"]))]
            found[node] = (weights, arrays.pop(f"layers.0.{name}.b"))
    assert not arrays, "arrays that no node of the recipe has"
    return found


def _step(
    recipe: Recipe, maps: Mapping[str, tuple[list[Tensor], Tensor]], x: Tensor, old: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The value of every node: x [B, D], old states and nodes [B, H]."""
    values: dict[str, Tensor] = {"x": x, **old}

    def value(node: str) -> Tensor:
        if node not in values:
            values[node] = operation(node, recipe[node]["op"], [value(i) for i in recipe[node]["input"]])
        return values[node]

    def operation(node: str, op: str, inputs: list[Tensor]) -> Tensor:
        match op:
            case "linear":
                weights, bias = maps[node]
                total = bias.expand(len(x), -1)
                for weight, operand in zip(weights, inputs, strict=True):
                    total = total + operand @ weight.T
                return total
            case "blend":
                a, b, c = inputs
                return a * b + (1 - a) * c
            case "elementwise_prod":
                return torch.stack(inputs).prod(0)
            case "elementwise_sum":
                return torch.stack(inputs).sum(0)
            case "activation_tanh":
                return inputs[0].tanh()
            case "activation_sigm":
                return 1 / (1 + (-inputs[0]).exp())
            case "activation_leaky_relu":
                return torch.where(inputs[0] > 0, inputs[0], 0.01 * inputs[0])
        raise AssertionError(f"unknown operation {op!r}")

    return {node: value(node) for node in recipe}


@pytest.mark.parametrize(
    ("count", "scale"),
    [
        pytest.param(200, 1.0, id="sample"),
        # A few recipes multiply their states and reach 1e50 in four steps from larger ones.
        pytest.param(10_000, 0.1, id="all", marks=pytest.mark.slow),
    ],
)
def test_recipes_build_and_compute_what_they_say(shared_data: Path, count: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)

    recipes = _recipes(shared_data, count)
    for number, recipe in recipes:
        cell = from_nasbench_nlp(recipe)
        width = HIDDEN if cell.graph.equal_width else INPUT
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the output of cell")  # some recipes hold dead code
            module = build(cell, width, HIDDEN).double()
        x = draw(BATCH, STEPS, width)
        start = tuple(draw(1, BATCH, HIDDEN) for _ in cell.states)
        with torch.no_grad():
            y, state = module(x, start if len(start) > 1 else start[0])
            states = state if isinstance(state, tuple) else (state,)
            maps = _maps(recipe, module)
            olds = [f"h_prev_{s.name[1:]}" for s in cell.states]
            old = {name: first[0] for name, first in zip(olds, start, strict=True)}
            for t in range(STEPS):
                values = _step(recipe, maps, x[:, t], old)
                old = {name: values[name.replace("prev", "new")] for name in olds}
                torch.testing.assert_close(y[:, t], values["h_new_0"], rtol=1e-9, atol=1e-9, msg=str(number))
            for name, final in zip(olds, states, strict=True):
                torch.testing.assert_close(final[0], old[name], rtol=1e-9, atol=1e-9, msg=f"{number} {name}")
    assert len(recipes) == min(count, 3_183)
