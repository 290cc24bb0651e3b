"""Sums over the derivations in which all that a space requires reaches the output.

`counting.py` and `Sampler.series` sum over derivations in which every let is used. Fewer are alive: what uses a let
may itself be dead, and nothing need read x or the past of a state. Which names are reached is a matter of a graph, so
the alive ones are summed as connected graphs are counted: all derivations closed in a set of names, less those in
which the output reaches only a smaller set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from search_spaces.counting import Series, Signature
from search_spaces.rules import INPUT, NEW
from search_spaces.sampling import Element, Plan, Sampler

WORK = 600_000  # products of series; a plan that takes more is not summed


@dataclass(frozen=True, slots=True)
class _Node:
    """A name: its bit, the group it is in, and for what has an equation the equation and what it sees."""

    bit: int
    group: int
    own: int  # the group in the equation of its own new value, for a state's old value
    equation: int | None
    sees: int


class Reach:
    """The alive derivations of one sampler's space, by plan and size."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.rules = sampler.rules
        self.counter = sampler.counter

    def series(self, plan: Plan) -> Series | None:
        """The sum over the alive derivations of a plan, by size.

        None if that takes too long, with `require new`, and over trees.
        """
        if NEW in self.rules.require or self.rules.trees:
            return None
        if len(self.rules.let.rules) ** plan.lets * 3**plan.lets * 6 ** sum(plan.states) * 3 > WORK:
            return None
        total = self.counter.zeros()
        for choice in product(range(len(self.rules.let.rules)), repeat=plan.lets):
            total = total + _Graph(self, plan, choice).alive()
        total[: self.rules.limits.least_size] = 0
        return total


class _Graph:
    """The names of one plan with the rule of each let chosen, as bits of a mask: x, lets, then old and new values."""

    def __init__(self, reach: Reach, plan: Plan, choice: tuple[int, ...]) -> None:
        self.counter, self.rules = reach.counter, reach.rules
        self.depth = reach.sampler.depth
        self.weight: float | int = 1
        if self.counter.weighted:
            for i in choice:
                self.weight *= self.rules.let.weights[i] / sum(self.rules.let.weights)
        self.choice = choice
        self.elements = reach.sampler.elements[plan]
        self.lines = [i for i, n in enumerate(plan.states) for _ in range(n)]
        self.nodes = tuple(self._nodes(plan))
        self.all = (1 << len(self.nodes)) - 1
        self.new_of = {
            1 << (1 + plan.lets + j): 1 << (1 + plan.lets + len(self.lines) + j)
            for j in range(len(self.lines))
        }
        self.exact: dict[int, Series] = {}
        self.values: dict[tuple[int, Signature], Series] = {}

    def _nodes(self, plan: Plan) -> Iterator[_Node]:
        """x, the lets, the old values, the new values; an equation sees what stands before it."""
        rules, lets, n = self.rules, plan.lets, len(self.lines)
        olds = ((1 << n) - 1) << (1 + lets)
        group = rules.group((INPUT,))
        yield _Node(1, group, group, None, 0)
        for i in range(lets):
            group = rules.group((rules.let.rules[self.choice[i]],))
            yield _Node(1 << (1 + i), group, group, i, (1 << (1 + i)) - 1 | olds)
        for j, at in enumerate(self.lines):
            line = rules.states[at]
            yield _Node(1 << (1 + lets + j), rules.group(line.plain), rules.group(line.own), None, 0)
        for j, at in enumerate(self.lines):
            bit = 1 << (1 + lets + n + j)
            group = rules.group(rules.states[at].renewed)
            yield _Node(bit, group, group, lets + j, bit - 1)

    def alive(self) -> Series:
        """The sum over derivations in which the required names are reached, and all lets."""
        lets = ((1 << len(self.choice)) - 1) << 1
        needed = lets | (INPUT in self.rules.require)
        if "states" in self.rules.require:
            needed |= sum(self.new_of) | sum(self.new_of.values())
        total = self.counter.zeros()
        free = self._products(self.all)
        for optional in _submasks(self.all & ~needed):
            mask = needed | optional
            if self._closed(mask):
                rest = free[self._row(self.all, self.all & ~mask)]
                total = total + self.counter.times(self.reached(mask), rest)
        return total * self.weight

    def reached(self, mask: int) -> Series:
        """The sum over what the equations of exactly these names and `out` can be if it reaches each of them."""
        made = self.exact.get(mask)
        if made is None:
            within = self._products(mask)
            made = self.counter.times(within[-1], self._value(len(self.elements) - 1, mask, self.all))
            smaller = [less for less in _submasks(mask) if less != mask and self._closed(less)]
            if smaller:
                rows = within[[self._row(mask, mask & ~less) for less in smaller]]
                made = made - self._times_each(np.stack([self.reached(less) for less in smaller]), rows)
            self.exact[mask] = made
        return made

    def _times_each(self, a: Series, b: Series) -> Series:
        """The sum of the products of the rows of `a` with those of `b`."""
        made, n = a.T @ b, self.counter.length
        return np.array([np.fliplr(made[: k + 1, : k + 1]).trace() for k in range(n)], dtype=made.dtype)

    def _closed(self, mask: int) -> bool:
        """Whether with each old value there is the new one that it was."""
        return all(mask & new for old, new in self.new_of.items() if mask & old)

    def _products(self, mask: int) -> Series:
        """For each subset of the equations of `mask`, a row: the product of their series, with names of `mask` only."""
        made = self.counter.one[None]
        for node in self.nodes:
            if node.equation is not None and node.bit & mask:
                value = self._value(node.equation, mask & node.sees, node.sees)
                made = np.concatenate([made, made @ _shifted(value)])
        return made

    def _row(self, mask: int, chosen: int) -> int:
        """The row of a subset in the products of `mask`."""
        bits = [n.bit for n in self.nodes if n.equation is not None and n.bit & mask]
        return sum(1 << i for i, bit in enumerate(bits) if bit & chosen)

    def _value(self, equation: int, mask: int, sees: int) -> Series:
        element = self.elements[equation]
        names = self._signature(element, mask)
        key = (equation, names)
        if key not in self.values:
            rule = element.rules[self.choice[equation] if element.kind == "let" else 0]
            made = self.counter.value(rule, self.depth, names, self._signature(element, sees))
            if element.kind == "let":
                made = made.copy()
                made[0] = 0
            self.values[key] = made
        return self.values[key]

    def _signature(self, element: Element, mask: int) -> Signature:
        counts = [0] * len(self.rules.groups)
        first = 1 + len(self.choice)
        for number, node in enumerate(self.nodes):
            if node.bit & mask:
                own = element.state >= 0 and number == first + element.state
                counts[node.own if own else node.group] += 1
        return tuple(counts)


def _shifted(series: Series) -> Series:
    """The matrix that multiplies a row by a series."""
    n = len(series)
    padded = np.concatenate([np.zeros(n - 1, dtype=series.dtype), series])
    return np.lib.stride_tricks.sliding_window_view(padded, n)[::-1]


def _submasks(mask: int) -> Iterator[int]:
    """Every subset of a set of bits, the whole first."""
    subset = mask
    while True:
        yield subset
        if not subset:
            return
        subset = (subset - 1) & mask
