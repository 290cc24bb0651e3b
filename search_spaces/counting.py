"""Sums over all derivations, by size, by dynamic programming over nonterminal, depth and visible names.

A series is an array over sizes 0..limit. Unweighted, its entries are exact counts (Python integers); weighted,
probabilities under the grammar (float64). What an expression can be depends on how many names of each group it
sees, not on which: the signature, a tuple of counts over `Rules.groups`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import comb, prod
from operator import add, sub
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.rules import Production, Rules

Series = NDArray[Any]
Signature = tuple[int, ...]

ROUNDING = 2.0**-53  # relative error of float64: signed sums may come out as 0 or less where they are not
KEPT = 150_000  # sums over derivations that use certain names; the others are few


class Counter:
    """The sums of one space, each computed once: counts, or, given a counter for them, probabilities.

    Each method takes the names that may be used, and with them `full`, all that are visible: under the
    grammar's probabilities a name is drawn from all visible ones. Unweighted, `full` makes no difference.
    """

    def __init__(self, rules: Rules, exact: Counter | None = None) -> None:
        self.rules = rules
        self.exact = exact
        self.weighted = exact is not None
        self.length = rules.limits.size + 1
        self.none: Signature = (0,) * len(rules.groups)
        self.zero = self.zeros()
        self.one = self.zeros()  # the series of the empty derivation
        self.one[0] = 1
        self._with = {t: tuple(i for i, g in enumerate(rules.groups) if t in g) for t in rules.tags}
        self._factors: dict[str, tuple[float | int, ...]] = {
            name: tuple(p.weight / rule.total if self.weighted else 1 for p in rule.productions)
            for name, rule in rules.rules.items()
        }
        self._sees = {name: self._seen_from(name) for name in rules.rules}
        self._height = self._highest()
        self._own: dict[str, dict[Signature, Signature]] = {name: {} for name in rules.rules}
        self._value: dict[tuple[Any, ...], Series] = {}
        self._holes: dict[tuple[Any, ...], Series] = {}
        self._using: dict[tuple[Any, ...], Series] = {}

    def _seen_from(self, rule: str) -> tuple[bool, ...]:
        """Of which groups names can occur in what `rule` derives: sums over it depend on those alone."""
        below, stack = {rule}, [rule]
        tags: set[str] = set()
        while stack:
            for p in self.rules.rules[stack.pop()].productions:
                tags.update(h.tag for h in p.holes if h.rule is None)
                new = {h.rule for h in p.holes if h.rule is not None} - below
                below |= new
                stack += new
        return tuple(bool(tags & group) for group in self.rules.groups)

    def _highest(self) -> dict[str, int]:
        """How deep the deepest derivation from each rule is, at most the limit: more depth changes nothing."""
        most, found = self.rules.limits.nesting, dict[str, int]()

        def visit(name: str) -> int:
            if name not in found:
                found[name] = most  # so it stays where it derives itself
                inner = [0]
                for p in self.rules.rules[name].productions:
                    inner += [p.depth, *(h.depth + visit(h.rule) for h in p.holes if h.rule is not None)]
                found[name] = min(max(inner), most)
            return found[name]

        for name in self.rules.rules:
            visit(name)
        return found

    def own(self, rule: str, names: Signature) -> Signature:
        """The names that can occur in what `rule` derives."""
        known = self._own[rule]
        found = known.get(names)
        if found is None:
            found = known[names] = tuple(
                n if seen else 0 for n, seen in zip(names, self._sees[rule], strict=True)
            )
        return found

    def place(
        self, rule: str, depth: int, names: Signature, full: Signature
    ) -> tuple[str, int, Signature, Signature]:
        """What sums over derivations from `rule` depend on: places of the same have the same sums."""
        return (
            rule,
            min(depth, self._height[rule]),
            self.own(rule, names),
            self.own(rule, full) if self.weighted else self.none,
        )

    def zeros(self) -> Series:
        """A series of zeros."""
        return np.zeros(self.length, dtype=np.float64 if self.weighted else object)

    def times(self, a: Series, b: Series) -> Series:
        """The series of pairs, cut at the limit of size."""
        result: Series = np.convolve(a, b)[: self.length]
        return result

    def visible(self, tag: str, names: Signature) -> int:
        """How many names of a class there are."""
        seen = 0
        for i in self._with[tag]:
            seen += names[i]
        return seen

    def holding(self, tag: str) -> tuple[int, ...]:
        """The groups whose names are of a class."""
        return self._with[tag]

    def name(self, tag: str, names: Signature, full: Signature) -> float | int:
        """The sum over names of a class."""
        seen = self.visible(tag, names)
        return seen / self.visible(tag, full) if self.weighted and seen else seen

    def value(self, rule: str, depth: int, names: Signature, full: Signature) -> Series:
        """The sum over derivations from `rule`, at most `depth` deep."""
        key = self.place(rule, depth, names, full)
        made = self._value.get(key)
        if made is None:
            made, found = self.zeros(), False
            for p, factor in zip(self.rules.rules[rule].productions, self._factors[rule], strict=True):
                if p.depth <= depth and p.ops < self.length:
                    inner = self._filled(p, factor, depth, names, full)
                    if inner is not None:
                        made[p.ops :] += inner[: self.length - p.ops]
                        found = True
            self._value[key] = made = made if found else self.zero
        return made

    def _filled(
        self, p: Production, factor: float | int, depth: int, names: Signature, full: Signature
    ) -> Series | None:
        """The sum over all ways to fill the holes of a production, times a factor; None for 0.

        It is `holes` from the first on; those sums are kept, which only drawing needs, and are many.
        """
        for h in p.holes:
            if h.rule is None:
                factor *= self.name(h.tag, names, full)
                if not factor:
                    return None
        made: Series | None = None
        for h in p.holes:
            if h.rule is not None:
                inside = self.value(h.rule, depth - h.depth, names, full)
                if inside is self.zero:
                    return None
                made = inside if made is None else self.times(inside, made)
        return factor * (self.one if made is None else made)

    def factor(self, rule: str, number: int) -> float | int:
        """What one production weighs: its probability, or 1."""
        return self._factors[rule][number]

    def holes(
        self, rule: str, number: int, start: int, depth: int, names: Signature, full: Signature
    ) -> Series:
        """The sum over all ways to fill the holes of a production from number `start` on."""
        p = self.rules.rules[rule].productions[number]
        if start == len(p.holes):
            return self.one
        key = (number, start, *self.place(rule, depth, names, full))
        made = self._holes.get(key)
        if made is None:
            h = p.holes[start]
            made = self.holes(rule, number, start + 1, depth, names, full)
            if h.rule is None:
                made = self.name(h.tag, names, full) * made
            elif made is self.one:
                made = self.value(h.rule, depth - h.depth, names, full)
            elif made.any():
                made = self.times(self.value(h.rule, depth - h.depth, names, full), made)
            self._holes[key] = made = made if made.any() else self.zero
        return made

    # -- derivations that use certain names -----------------------------------------------------

    def value_using(
        self, rule: str, depth: int, names: Signature, must: Signature, full: Signature
    ) -> Series:
        """`value` of the derivations in which each of certain names, `must[g]` of group g, occurs."""
        if must == self.none:
            return self.value(rule, depth, names, full)
        if self.own(rule, must) != must:
            return self.zero
        key = (must, *self.place(rule, depth, names, full))
        made = self._using.get(key)
        if made is None:
            exact = self.exact
            counts = None if exact is None else exact.value_using(rule, depth, names, must, full)
            made = self._without(lambda n: self.value(rule, depth, n, full), names, must, counts)
            self._keep(key, made)
        return made

    def holes_using(
        self,
        rule: str,
        number: int,
        start: int,
        depth: int,
        names: Signature,
        must: Signature,
        full: Signature,
    ) -> Series:
        """`holes` of the derivations in which each of certain names occurs."""
        if must == self.none:
            return self.holes(rule, number, start, depth, names, full)
        if self.own(rule, must) != must:
            return self.zero
        key = (number, start, must, *self.place(rule, depth, names, full))
        made = self._using.get(key)
        if made is None:
            exact, place = self.exact, (rule, number, start, depth, names, must, full)
            counts = None if exact is None else exact.holes_using(*place)
            made = self._without(
                lambda n: self.holes(rule, number, start, depth, n, full), names, must, counts
            )
            self._keep(key, made)
        return made

    def _keep(self, key: tuple[Any, ...], made: Series) -> None:
        if len(self._using) >= KEPT:
            self._using.clear()
        self._using[key] = made

    def _without(
        self, f: Callable[[Signature], Series], names: Signature, must: Signature, counts: Series | None
    ) -> Series:
        """Inclusion and exclusion over the names left out. Exact `counts` say where a float64 sum is not 0."""
        total = self.zeros()
        scale = self.zeros()
        for left_out in subsets(must):
            term = ways(must, left_out) * f(minus(names, left_out))
            total = total - term if sum(left_out) % 2 else total + term
            scale = np.maximum(scale, term)
        if counts is None:
            return total
        return np.where(counts > 0, np.maximum(total, ROUNDING * scale), 0.0)


def ways(among: Signature, chosen: Signature) -> int:
    """In how many ways so many names of each group can be chosen."""
    return prod(map(comb, among, chosen))


def subsets(most: Signature) -> Iterator[Signature]:
    """Every tuple of counts from 0 up to `most`, entry by entry."""
    return product(*(range(n + 1) for n in most))


def plus(a: Signature, b: Signature) -> Signature:
    """The sum, entry by entry."""
    return tuple(map(add, a, b))


def minus(a: Signature, b: Signature) -> Signature:
    """The difference, entry by entry."""
    return tuple(map(sub, a, b))
