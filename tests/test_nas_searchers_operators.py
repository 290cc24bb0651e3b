from __future__ import annotations

import numpy as np
import pytest

from nas.searchers.operators import CHOICES, Bandit, Fixed, QLearning

SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_begins_with_the_shares(name: str) -> None:
    weights = CHOICES[name](SHARES).weights()
    total = sum(weights.values())
    assert {n: w / total for n, w in weights.items()} == pytest.approx(SHARES)


@pytest.mark.parametrize("name", ["bandit", "qlearning"])
def test_what_helps_weighs_more_and_nothing_is_lost(name: str) -> None:
    choice, rng = CHOICES[name](SHARES), np.random.default_rng(0)
    for _ in range(200):
        operator = "abc"[rng.integers(3)]
        choice.learn(operator, float(operator == "c"))
    weights = choice.weights()
    assert weights["c"] / SHARES["c"] > 1.5 * weights["a"] / SHARES["a"]
    assert min(weights.values()) > 0


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_operators_it_does_not_know_change_nothing(name: str) -> None:
    choice = CHOICES[name](SHARES)
    before = dict(choice.weights())
    choice.learn("sample", 1.0)
    assert choice.weights() == before


def test_fixed_learns_nothing() -> None:
    choice = Fixed(SHARES)
    choice.learn("c", 1.0)
    assert choice.weights() == SHARES


def test_the_bandit_forgets() -> None:
    choice = Bandit(SHARES, discount=0.9)
    for _ in range(30):
        choice.learn("a", 1.0)
        choice.learn("b", 0.0)
    for _ in range(60):
        choice.learn("a", 0.0)
        choice.learn("b", 1.0)
    weights = choice.weights()
    assert weights["b"] / SHARES["b"] > weights["a"] / SHARES["a"]


def test_q_learning_tells_states_apart() -> None:
    choice = QLearning(SHARES, gamma=0.0)
    for _ in range(100):  # after an "a" that helped, "b" helps and "c" does not; "a" begins each round
        for operator, reward in (("a", 1.0), ("b", 1.0), ("a", 1.0), ("c", 0.0)):
            choice.learn(operator, reward)
    choice.learn("a", 1.0)
    weights = choice.weights()
    assert weights["b"] / SHARES["b"] > 2 * weights["c"] / SHARES["c"]
