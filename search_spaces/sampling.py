"""Cells drawn from a space: exactly uniform at each size, or by the grammar's probabilities within the limits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate, product

import numpy as np

from grammar import State
from search_spaces.counting import Counter, Series, Signature, minus, plus, subsets, ways
from search_spaces.derivation import LEAF, OUT, Derivation, Equation, Tree, dead
from search_spaces.errors import NoCellError
from search_spaces.rules import INPUT, NEW, Form, Rules

Names = tuple[tuple[str, ...], ...]  # visible names by group

STATE_NAMES = ("h", "c", "m", "n")
Shares = tuple[float | int, ...]  # cumulated weights

TABLES = 100_000  # of each kind are kept: the tables of what weighs how much in a place
ATTEMPTS = 2_000  # draws until one reaches all that the space requires


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of a cell: how many states of each `state` line, and how many lets."""

    states: tuple[int, ...]
    lets: int
    form: int = 0  # the number of the form of its children


@dataclass(frozen=True, slots=True)
class Element:
    """One equation of a plan: what may derive it, and the counts of names it sees besides lets."""

    kind: str
    rules: tuple[str, ...]
    weights: tuple[float, ...]
    seen: Signature
    state: int = -1
    line: int = -1


class Sampler:
    """Draws derivations of one space. Nothing but the generator passed in decides what is drawn."""

    def __init__(self, counter: Counter, x: bool = True) -> None:
        self.counter = counter
        self.rules = rules = counter.rules
        self.weighted = counter.weighted
        self.depth = rules.limits.nesting
        # The kinds of names that have to be used by a later equation: lets by their rule, new values by their line.
        self.used_groups = tuple(rules.group((r,)) for r in rules.let.rules)
        self.news = NEW in rules.require
        if self.news:
            self.used_groups += tuple(rules.group(s.renewed) for s in rules.states)
        self.x = x  # whether equations see the input
        self.plans = tuple(_plans(rules))
        self.elements = {plan: self._elements(plan) for plan in self.plans}
        self._rest = lru_cache(maxsize=None)(self._rest_uncached)
        self._wholes: dict[Plan, Series] = {}
        self._equation = lru_cache(maxsize=None)(self._equation_uncached)
        self._productions = lru_cache(maxsize=TABLES)(self._productions_uncached)
        self._fillings = lru_cache(maxsize=TABLES)(self._fillings_uncached)

    # -- how much there is ----------------------------------------------------------------------

    def series(self, plan: Plan) -> Series:
        """The sum over derivations of a plan in which all is used that has to be, by size."""
        none = (0,) * len(self.used_groups)
        return self._rest(plan, 0, none, none)

    def _elements(self, plan: Plan) -> tuple[Element, ...]:
        rules, none = self.rules, self.counter.none
        lines = [i for i, n in enumerate(plan.states) for _ in range(n)]
        form = rules.forms[plan.form]
        x = self._one((INPUT,)) if self.x else none
        seen = none if form.children else x
        for i in lines:
            seen = plus(seen, self._old(i, form))
        made = [Element("let", rules.let.rules, rules.let.weights, seen)] * plan.lets
        for number, i in enumerate(lines):
            line = rules.states[i]
            own = minus(self._old(i, form, own=True), self._old(i, form))
            made.append(Element("new", (line.rule,), (1.0,), plus(seen, own), number, i))
            if not self.news:
                seen = plus(seen, self._one(line.renewed))
        made.append(Element(OUT, (OUT,), (1.0,), seen))
        if form.children:
            for number, i in enumerate(lines):
                made.append(Element("leaf", (rules.states[i].leaf,), (1.0,), x, number, i))
                x = plus(x, self._one(rules.states[i].renewed))
        return tuple(made)

    def _old(self, line: int, form: Form, own: bool = False) -> Signature:
        """Counts by group of the names of the old values of a state."""
        total = self.counter.none
        for tags in self.rules.states[line].old("", form, own).values():
            total = plus(total, self._one(tags))
        return total

    def _one(self, tags: Sequence[str]) -> Signature:
        at = self.rules.group(tags)
        return tuple(int(i == at) for i in range(len(self.rules.groups)))

    def _lets(self, counts: Signature) -> Signature:
        """Counts of lets by their rule as counts by group."""
        made = [0] * len(self.rules.groups)
        for group, n in zip(self.used_groups, counts, strict=True):
            made[group] += n
        return tuple(made)

    def _first(
        self, plan: Plan, index: int, choice: int, unmet: Signature, met: Signature, now: Signature
    ) -> Series:
        """The sum over what equation `index` can be that uses `now` of the lets no one has used yet."""
        element = self.elements[plan][index]
        if element.kind == "leaf":
            return self.counter.value(element.rules[0], self.depth, element.seen, element.seen)
        may = plus(element.seen, self._lets(plus(met, now)))
        full = plus(element.seen, self._lets(plus(met, unmet)))
        made = ways(unmet, now) * self.counter.value_using(
            element.rules[choice], self.depth, may, self._lets(now), full
        )
        if element.kind == "let":
            made[0] = 0  # a let that only renames something is none
        if self.weighted:
            made = made * (element.weights[choice] / sum(element.weights))
        return made

    def _rest_uncached(self, plan: Plan, index: int, unmet: Signature, met: Signature) -> Series:
        """The sum over equations from `index` on, given how many lets are yet to be used and how many are."""
        if index == len(self.elements[plan]):
            return self.counter.zeros() if any(unmet) else self.counter.one
        total = self.counter.zeros()
        for choice, now in self._choices(plan, index, unmet):
            first = self._first(plan, index, choice, unmet, met, now)
            if first.any():
                after = self._rest(plan, index + 1, *self._after(plan, index, choice, unmet, met, now))
                total = total + self.counter.times(first, after)
        return total

    def _choices(self, plan: Plan, index: int, unmet: Signature) -> list[tuple[int, Signature]]:
        element = self.elements[plan][index]
        if element.kind == OUT:
            return [(0, unmet)]
        return list(product(range(len(element.rules)), subsets(unmet)))

    def _after(
        self, plan: Plan, index: int, choice: int, unmet: Signature, met: Signature, now: Signature
    ) -> tuple[Signature, Signature]:
        left, kind = minus(unmet, now), self._kind(self.elements[plan][index], choice)
        return tuple(n + (i == kind) for i, n in enumerate(left)), plus(met, now)

    def _kind(self, element: Element, choice: int) -> int:
        """Of which kind of names to be used an equation defines one; -1 if of none."""
        if element.kind == "let":
            return choice
        return len(self.rules.let.rules) + element.line if element.kind == "new" and self.news else -1

    # -- drawing --------------------------------------------------------------------------------

    def draw(self, rng: np.random.Generator, size: int | None) -> Derivation:
        """A derivation in which the output depends on all that the space requires.

        Of the derivations that use every let, those that leave out x or a state are drawn again:
        at most ATTEMPTS times, then NoCellError.
        """
        sizes = [size]
        if size is None and not self.weighted:
            sizes = list(self.sizes)
        if not sizes:
            raise NoCellError(f"space {self.rules.name} has no cell within its limits")
        while sizes:
            n = sizes.pop(below(rng, len(sizes)))
            made = self._draw(rng, n)
            if made is not None:
                return made
        raise NoCellError(
            f"space {self.rules.name}: in {ATTEMPTS} cells"
            + (f" of size {size}" if size is not None else "")
            + f" none depends on {' and '.join(self.rules.require) or 'all helper names'}"
        )

    def _draw(self, rng: np.random.Generator, size: int | None) -> Derivation | None:
        plans, weights = self._plan_weights(size)
        for _ in range(ATTEMPTS):
            plan = plans[pick(rng, weights)]
            n = size if size is not None else pick(rng, self.whole(plan).tolist())
            made = self.derivation(rng, plan, n)
            if dead(self.rules, made) is None:
                return made
        return None

    def _plan_weights(self, size: int | None) -> tuple[list[Plan], list[float | int]]:
        """The plans that have cells and what each weighs: equal shares, or what it has of the size."""
        series = {plan: self.whole(plan) for plan in self.plans}
        if size is None:
            plans = [p for p in self.plans if series[p].any()]
            if not plans:
                raise NoCellError(f"space {self.rules.name} has no cell within its limits")
            return plans, [1] * len(plans)
        plans = [p for p in self.plans if series[p][size]]
        if not plans:
            raise NoCellError(f"space {self.rules.name} has no cell of size {size}")
        share = [1 / series[p].sum() if self.weighted else 1 for p in plans]
        return plans, [series[p][size] * s for p, s in zip(plans, share, strict=True)]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The sizes within the limits of which there are derivations, with x in them where that is required."""
        without = Sampler(self.counter, x=False) if INPUT in self.rules.require else None
        total = self.counter.zeros()
        for plan in self.plans:
            total = total + self.series(plan)
            if without is not None:
                total = total - without.series(plan)
        return tuple(n for n in range(self.rules.limits.least_size, self.counter.length) if total[n] > 0)

    def whole(self, plan: Plan) -> Series:
        """The series of a plan, cut at the least size."""
        made = self._wholes.get(plan)
        if made is None:
            made = self._wholes[plan] = self.series(plan).copy()
            made[: self.rules.limits.least_size] = 0
        return made

    def derivation(self, rng: np.random.Generator, plan: Plan, size: int) -> Derivation:
        """A derivation of a plan and a size in which all is used that has to be."""
        lines = [i for i, n in enumerate(plan.states) for _ in range(n)]
        states = tuple(
            State(name, self.rules.states[i].type, self.rules.states[i].init)
            for name, i in zip(state_names(len(lines), self.rules), lines, strict=True)
        )
        none: tuple[tuple[str, ...], ...] = ((),) * len(self.used_groups)
        unmet, met = none, none
        equations: list[Equation] = []
        others = (*(s.name for s in states), *self.rules.children)
        for index, element in enumerate(self.elements[plan]):
            counts = lengths(unmet), lengths(met)
            options, shares = self._equation(plan, index, size, *counts)
            at, n = divmod(draw(rng, shares), size + 1)
            choice, now = options[at]
            used = tuple(some(rng, names, k) for names, k in zip(unmet, now, strict=True))
            lets = () if element.kind == "leaf" else tuple(m + u for m, u in zip(met, used, strict=True))
            may = self._names(plan, element, states, equations, lets)
            must = self._grouped(used)
            full = lengths(may) if element.kind == "leaf" else plus(element.seen, self._lets(plus(*counts)))
            tree = self.tree(rng, element.rules[choice], self.depth, may, must, full, n)
            unmet = tuple(tuple(m for m in names if m not in u) for names, u in zip(unmet, used, strict=True))
            met = tuple(m + u for m, u in zip(met, used, strict=True))
            if element.kind == "let":
                name = let_name(
                    element.rules[choice], [*others, *(n for names in (*unmet, *met) for n in names)]
                )
            else:
                name = OUT if element.kind == OUT else f"{states[element.state].name}'"
                name = LEAF + name if element.kind == "leaf" else name
            kind = self._kind(element, choice)
            unmet = tuple((*m, name) if i == kind else m for i, m in enumerate(unmet))
            equations.append(Equation(name, tree))
            size -= n
        return Derivation(self.rules.name, states, tuple(equations), self.rules.forms[plan.form])

    def _equation_uncached(
        self, plan: Plan, index: int, size: int, unmet: Signature, met: Signature
    ) -> tuple[list[tuple[int, Signature]], Shares]:
        """What may derive equation `index` and how many of the unused lets it uses; the weights with its sizes."""
        options: list[tuple[int, Signature]] = []
        shares: list[Series] = []
        for choice, now in self._choices(plan, index, unmet):
            first = self._first(plan, index, choice, unmet, met, now)
            if first[: size + 1].any():
                after = self._rest(plan, index + 1, *self._after(plan, index, choice, unmet, met, now))
                options.append((choice, now))
                shares.append(first[: size + 1] * after[size::-1])
        return options, tuple(accumulate(np.concatenate(shares).tolist()))

    def _names(
        self, plan: Plan, element: Element, states: tuple[State, ...], equations: list[Equation], lets: Names
    ) -> Names:
        rules, form, leaf = self.rules, self.rules.forms[plan.form], element.kind == "leaf"
        made: list[list[str]] = [list(n) for n in self._grouped(lets)] if lets else [[] for _ in rules.groups]
        if leaf or not form.children:
            made[rules.group((INPUT,))].append(INPUT)
        lines = [line for line, n in zip(rules.states, plan.states, strict=True) for _ in range(n)]
        before = {e.name for e in equations}
        for number, (state, line) in enumerate(zip(states, lines, strict=True)):
            if not leaf:
                for name, tags in line.old(state.name, form, number == element.state).items():
                    made[rules.group(tags)].append(name)
            new = f"{LEAF if leaf else ''}{state.name}'"
            if new in before and (leaf or not self.news):
                made[rules.group(line.renewed)].append(new)
        return tuple(map(tuple, made))

    def _grouped(self, lets: Names) -> Names:
        made: list[tuple[str, ...]] = [()] * len(self.rules.groups)
        for group, names in zip(self.used_groups, lets, strict=True):
            made[group] += names
        return tuple(made)

    def tree(
        self,
        rng: np.random.Generator,
        rule: str,
        depth: int,
        may: Names,
        must: Names,
        full: Signature,
        size: int,
    ) -> Tree:
        """A derivation from `rule` of `size` operations, with names of `may`, each name of `must` at least once.

        `must` is part of `may`; `full` counts the names that were visible to begin with.
        """
        need = lengths(must)
        # Places that differ in what cannot occur here have one table.
        _, height, names, seen = self.counter.place(rule, depth, lengths(may), full)
        number = draw(rng, self._productions(rule, height, names, need, seen, size))
        p = self.rules.rules[rule].productions[number]
        left = size - p.ops
        parts: list[Tree | str] = []
        for i, h in enumerate(p.holes):
            options, shares = self._fillings(rule, number, i, height, names, need, seen, left)
            at, n = divmod(draw(rng, shares), left + 1)
            used = must if options[at] == need else tuple(map(partial(some, rng), must, options[at]))
            if h.rule is None:
                parts.append(self._name(rng, h.tag, may, must, used))
            elif need == self.counter.none:
                parts.append(self.tree(rng, h.rule, depth - h.depth, may, must, full, n))
            else:
                free = tuple(map(without, may, map(without, must, used)))
                parts.append(self.tree(rng, h.rule, depth - h.depth, free, used, full, n))
            if options[at] != self.counter.none:
                must = tuple(map(without, must, used))
                need = lengths(must)
            left -= n
        return Tree(rule, number, tuple(parts))

    def _productions_uncached(
        self, rule: str, depth: int, names: Signature, need: Signature, full: Signature, size: int
    ) -> Shares:
        """What each production of `rule` weighs, cumulated."""
        counter = self.counter
        made: list[float | int] = []
        for number, p in enumerate(self.rules.rules[rule].productions):
            if p.depth > depth or p.ops > size:
                made.append(0)
            else:
                inner = counter.holes_using(rule, number, 0, depth, names, need, full)
                made.append(counter.factor(rule, number) * inner[size - p.ops])
        return tuple(accumulate(made))

    def _fillings_uncached(
        self,
        rule: str,
        number: int,
        i: int,
        depth: int,
        names: Signature,
        need: Signature,
        full: Signature,
        left: int,
    ) -> tuple[list[Signature], Shares]:
        """How many of the needed names hole `i` may use, and what each choice with sizes 0..left weighs, cumulated."""
        counter, h = self.counter, self.rules.rules[rule].productions[number].holes[i]
        options: list[Signature] = []
        shares: list[Series] = []
        for now in subsets(need):
            rest = minus(need, now)
            tail = counter.holes_using(rule, number, i + 1, depth, names, rest, full)
            scale: float | int = ways(need, now)
            if h.rule is not None:
                head = counter.value_using(h.rule, depth - h.depth, minus(names, rest), now, full)
            else:
                head = counter.one
                scale *= self._names_using(h.tag, minus(names, rest), now, full)
            if scale and head[: left + 1].any() and tail[: left + 1].any():
                options.append(now)
                shares.append(scale * head[: left + 1] * tail[left::-1])
        return options, tuple(accumulate(np.concatenate(shares).tolist()))

    def _names_using(self, tag: str, names: Signature, must: Signature, full: Signature) -> float | int:
        """The sum over single names of a class that are each of `must`: 0 if that is more than one."""
        if sum(must) > 1:
            return 0
        if sum(must) == 1:
            names = must
        return self.counter.name(tag, names, full)

    def _name(self, rng: np.random.Generator, tag: str, may: Names, must: Names, used: Names) -> str:
        needed = [n for names in used for n in names]
        if needed:
            return needed[0]
        free = [n for g in self.counter.holding(tag) for n in may[g] if n not in must[g]]
        return free[below(rng, len(free))]


def _plans(rules: Rules) -> list[Plan]:
    counts = product(*(range(s.least, s.most + 1) for s in rules.states))
    kept = [c for c in counts if rules.limits.holds(sum(c))]
    lets = range(rules.let.least, rules.let.most + 1)
    return [Plan(c, n, form) for form in range(len(rules.forms)) for c in kept for n in lets]


def state_names(n: int, rules: Rules) -> tuple[str, ...]:
    """Names for `n` states in the order of their equations; the last is `h`, as in an LSTM, where no child is."""
    most = n + len(rules.children)
    names = (*STATE_NAMES, *(f"s{i}" for i in range(len(STATE_NAMES), most)))
    return tuple([name for name in names if name not in rules.children][:n])[::-1]


def let_name(rule: str, taken: Sequence[str]) -> str:
    """A name for a let: the first letter of its rule and a number."""
    stem = rule[0].lower()
    return next(f"{stem}{i}" for i in range(1, len(taken) + 2) if f"{stem}{i}" not in taken)


def below(rng: np.random.Generator, n: int) -> int:
    """A whole number drawn uniformly from 0..n-1, of any length. Raises ValueError where there is none."""
    if n < 1:
        raise ValueError(f"nothing to draw from: 0..{n - 1}")
    bits = (n - 1).bit_length()
    while True:
        drawn, have = 0, 0
        while have < bits:  # `random` gives 53 random bits
            drawn = drawn << 53 | int(rng.random() * 2.0**53)
            have += 53
        drawn >>= have - bits
        if drawn < n:
            return drawn


def draw(rng: np.random.Generator, shares: Shares) -> int:
    """An index drawn by cumulated weights: exactly if they are integers."""
    total = shares[-1]
    point = below(rng, total) if isinstance(total, int) else rng.random() * total
    return min(bisect_right(shares, point), bisect_left(shares, total))


def pick(rng: np.random.Generator, weights: Iterable[float | int]) -> int:
    """An index drawn in proportion to `weights`."""
    return draw(rng, tuple(accumulate(weights)))


def some(rng: np.random.Generator, names: tuple[str, ...], k: int) -> tuple[str, ...]:
    """`k` of the names, drawn without replacement, in their order."""
    if k == len(names):
        return names
    left = list(names)
    for _ in range(len(names) - k):
        left.pop(below(rng, len(left)))
    return tuple(left)


def without(names: tuple[str, ...], some: tuple[str, ...]) -> tuple[str, ...]:
    """The names that are not among `some`."""
    return tuple(n for n in names if n not in some) if some else names


def lengths(names: Names) -> Signature:
    """How many names there are of each group."""
    return tuple(map(len, names))
