from __future__ import annotations

import numpy as np
import pytest

from nas.errors import SearchError
from nas.searchers.recipes import FIELDS, RecipeSearch

BASE = {"lr": 0.01, "clip": 1.0, "weight_decay": 0.01, "dropout": 0.0, "warmup": 0.05, "steps": 100}


def test_recipes_are_within_their_ranges() -> None:
    asked = RecipeSearch(list(FIELDS), BASE).propose([], 20, np.random.default_rng(0))
    assert len(asked) == 20
    for recipe in asked:
        assert set(recipe) == set(FIELDS)
        assert 0.00125 <= recipe["lr"] <= 0.08
        assert 1e-4 <= recipe["weight_decay"] <= 0.3
        assert 0 <= recipe["warmup"] <= 0.3


def test_same_generator_same_recipes() -> None:
    search = RecipeSearch(["lr", "dropout"], BASE)
    tried = [({"lr": 0.02, "dropout": 0.1}, 1.0), (None, 2.0)]
    one, again, other = (search.propose(tried, 3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_it_learns_which_rates_are_good() -> None:
    search = RecipeSearch(["lr"], BASE)
    rng = np.random.default_rng(0)
    tried = [({"lr": float(lr)}, abs(float(np.log(lr / 0.04)))) for lr in np.exp(rng.uniform(-6, -2.6, 40))]
    asked = [recipe["lr"] for recipe in search.propose(tried, 20, rng)]
    assert 0.025 < np.median(asked) < 0.06


def test_columns_say_how_far_a_recipe_is_from_the_tasks() -> None:
    columns = RecipeSearch(["lr", "dropout"], BASE).columns([None, {"lr": 0.04}, {"dropout": 0.3}])
    own, faster, dropping = columns
    assert faster[0] - own[0] == pytest.approx(np.log(4))
    assert (own[1], faster[1], dropping[1]) == (0.0, 0.0, 0.3)
    assert dropping[0] == own[0]


def test_fields_are_checked() -> None:
    with pytest.raises(SearchError, match=r"fields of a recipe to search are lr, .*; received 'steps'"):
        RecipeSearch(["steps"], BASE)
    with pytest.raises(SearchError, match="the task's recipe has no 'lr': it has no field"):
        RecipeSearch(["lr"], {})
