"""Which operator makes the next child: with fixed probabilities, by a bandit, or by Q-learning.

The adaptive rules begin with the fixed probabilities and learn from each child: `reward` is 1 if it is better than its
parent, else 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np

from grammar import Cell
from search_spaces import Operator, Variation


@runtime_checkable
class OperatorSpace(Protocol):
    """A search space that makes a child by the operator that is asked for; `search_spaces.Space` is one."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The names of its mutation operators."""
        ...

    def vary(
        self, cell: Cell, rng: np.random.Generator, other: Cell | None = None, operator: Operator = None
    ) -> Variation:
        """As `SpaceLike.vary`, by this operator, or one drawn at each try by these weights."""
        ...


class OperatorChoice(ABC):
    """Says how much each operator weighs in the next draw. Its state is what it learned, in that order."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        """`shares` are the probabilities of the fixed rule; they sum to 1."""
        self.shares = dict(shares)

    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """What each operator weighs now."""

    @abstractmethod
    def learn(self, operator: str, reward: float) -> None:
        """Take in what a child by `operator` was worth, from 0 to 1. Names it does not know are passed over."""


class Fixed(OperatorChoice):
    """The probabilities that were given."""

    def weights(self) -> Mapping[str, float]:
        return self.shares

    def learn(self, operator: str, reward: float) -> None:
        pass


class Bandit(OperatorChoice):
    """Probability matching (Thierens 2005) with discounted, smoothed means: what helped of late is drawn more often.

    An operator's weight is its fixed share times its estimated rate of success over the mean rate. Each estimate is
    pulled towards the rate of all operators by `prior` pseudo-children, so that what was tried little keeps its share,
    and never sinks below `floor` of it.
    """

    def __init__(
        self, shares: Mapping[str, float], *, prior: float = 20.0, discount: float = 0.99, floor: float = 0.2
    ) -> None:
        super().__init__(shares)
        self.prior, self.discount, self.floor = prior, discount, floor
        self._won = dict.fromkeys(self.shares, 0.0)
        self._tried = dict.fromkeys(self.shares, 0.0)

    def weights(self) -> Mapping[str, float]:
        tried = sum(self._tried.values())
        mean = (sum(self._won.values()) + 1.0) / (tried + 4.0)
        return {
            name: share
            * max(
                self.floor,
                (self._won[name] + self.prior * mean) / (self._tried[name] + self.prior) / mean,
            )
            for name, share in self.shares.items()
        }

    def learn(self, operator: str, reward: float) -> None:
        if operator not in self.shares:
            return
        for name in self.shares:
            self._won[name] *= self.discount
            self._tried[name] *= self.discount
        self._won[operator] += reward
        self._tried[operator] += 1.0


class QLearning(OperatorChoice):
    """Q-learning (after HHNAS-AM): the state is the last operator that was told and whether its child was better.

    Operators are drawn by a softmax of Q over `temperature` times their fixed shares; Q moves by `rate` towards the
    reward plus `gamma` times the best Q of the next state.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        *,
        rate: float = 0.1,
        gamma: float = 0.5,
        temperature: float = 0.2,
    ) -> None:
        super().__init__(shares)
        self.rate, self.gamma, self.temperature = rate, gamma, temperature
        self._q: dict[tuple[str, bool], dict[str, float]] = {}
        self._state = ("", False)

    def weights(self) -> Mapping[str, float]:
        q = self._values(self._state)
        return {n: share * float(np.exp(q[n] / self.temperature)) for n, share in self.shares.items()}

    def _values(self, state: tuple[str, bool]) -> dict[str, float]:
        return self._q.get(state) or dict.fromkeys(self.shares, 0.0)

    def learn(self, operator: str, reward: float) -> None:
        if operator not in self.shares:
            return
        after = (operator, reward > 0.5)
        q = dict(self._values(self._state))
        q[operator] += self.rate * (reward + self.gamma * max(self._values(after).values()) - q[operator])
        self._q[self._state] = q
        self._state = after


CHOICES: Mapping[str, type[OperatorChoice]] = MappingProxyType(
    {"fixed": Fixed, "bandit": Bandit, "qlearning": QLearning}
)


def operator_choice(name: str, shares: Mapping[str, float]) -> OperatorChoice:
    """The rule of this name, one of CHOICES."""
    return CHOICES[name](shares)
