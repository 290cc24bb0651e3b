"""How likely a cell is to be drawn by the weights of a space: the sum over its derivations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from grammar import Expr, ref
from search_spaces.derivation import LEAF, OUT, Derivation, dead, state_lines
from search_spaces.errors import SpaceError
from search_spaces.reaching import Reach
from search_spaces.rules import INPUT, StateRule
from search_spaces.sampling import Plan, Sampler, pick, state_names
from search_spaces.shapes import Shapes, in_order

DRAWS = 16_000  # derivations drawn to estimate how many are alive, where that cannot be summed; of all plans together
MAX_ORDERS = (
    50_000  # of the states and lets of a cell, each of which is a text that its probability is summed over
)

Scope = Mapping[str, tuple[str, ...]]
Use = tuple[str, int]  # a nonterminal and the number of a production; LET and the number of a let's rule
LET = "let"  # no nonterminal is called so: it is a word of the file
# the equations by the names that the sampler would give, in its order: lets, new values, out
Written = tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, slots=True)
class Share:
    """The weight of a set of derivations, and how often one of them uses each production, in the mean by weight."""

    weight: float
    uses: Mapping[Use, float]


class Likelihood:
    """Probabilities of cells under one weighted sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.rules = sampler.rules
        self.plans = [p for p in sampler.plans if sampler.whole(p).any()]

    def log_prob(self, made: Derivation) -> float:
        """The logarithm of the probability that a sample is this cell, up to names and order; natural."""
        plan = self._plan(made)
        weight, total = self.share(made).weight, float(self.sampler.whole(plan).sum())
        if not weight or not total:
            return -math.inf
        return math.log(weight) - math.log(total) - math.log(len(self.plans)) - math.log(self.alive)

    def share(self, made: Derivation) -> Share:
        """The derivations of the same cell up to names and order. Raises SpaceError where these are too many."""
        lines = state_lines(self.rules, made.states)
        found = list(islice(self._orders(made, lines), MAX_ORDERS + 1))
        if len(found) > MAX_ORDERS:
            raise SpaceError(
                f"a probability is a sum over at most {MAX_ORDERS:,} orders of states and helper names; "
                f"{made.name} has {len(made.states)} states and {len(made.lets())} helper names in more"
            )
        orders = dict.fromkeys(found)
        return _either([_Sum(self, self._plan(made), written).whole() for written in orders])

    def _plan(self, made: Derivation) -> Plan:
        lines = state_lines(self.rules, made.states)
        numbers = tuple(sum(lines[s.name] is r for s in made.states) for r in self.rules.states)
        return Plan(numbers, len(made.lets()), self.rules.forms.index(made.form))

    @cached_property
    def alive(self) -> float:
        """The share of drawn derivations in which the output reaches all that is required; others are drawn again.

        Summed exactly where that is quick enough, otherwise estimated from draws of a generator of its own.
        """
        shares: list[float] = []
        for plan in self.plans:
            series = Reach(self.sampler).series(plan)
            if series is None:
                shares.append(self._estimated(plan))
            else:
                shares.append(float(series.sum()) / float(self.sampler.whole(plan).sum()))
        return sum(shares) / len(shares)

    def _estimated(self, plan: Plan) -> float:
        rng = np.random.default_rng(0)
        sizes = self.sampler.whole(plan).tolist()
        hits = 0
        draws = DRAWS // len(self.plans)
        for _ in range(draws):
            made = self.sampler.derivation(rng, plan, pick(rng, sizes))
            hits += dead(self.rules, made) is None
        return max(hits, 1) / draws

    def _orders(self, made: Derivation, lines: Mapping[str, StateRule]) -> Iterator[Written]:
        """The ways to number the lets and the states of each line, each as the text that the sampler would write."""
        exprs = {e.name: e.tree.exprs(self.rules)[0] for e in made.equations}
        lets = [e.name for e in made.lets()]
        uses = {e.name: frozenset(e.tree.names()) for e in made.equations}
        by_line = [[s.name for s in made.states if lines[s.name] is r] for r in self.rules.states]
        for let_order in _after_uses(lets, uses):
            for states in _readable(by_line, uses):
                names = dict(zip(states, state_names(len(states), self.rules), strict=True))
                for old, new in [*names.items()]:
                    names |= {f"{old}'": f"{new}'", f"{LEAF}{old}'": f"{LEAF}{new}'"}
                    names |= {f"{c}.{old}": f"{c}.{new}" for c in made.form.children}
                names |= {name: f"#{i}" for i, name in enumerate(let_order)}
                order = [*let_order, *(f"{s}'" for s in states), OUT]
                order += [f"{LEAF}{s}'" for s in states if made.form.children]
                yield tuple((names.get(n, n), in_order(_renamed(exprs[n], names))) for n in order)


class _Sum:
    """The sum over the derivations of one text, its lets and states in a given order."""

    def __init__(self, likelihood: Likelihood, plan: Plan, written: Written) -> None:
        self.counter = likelihood.sampler.counter
        self.rules = likelihood.rules
        self.depth = likelihood.sampler.depth
        self.written = written
        self.lines = [r for r, n in zip(self.rules.states, plan.states, strict=True) for _ in range(n)]
        self.states = state_names(len(self.lines), self.rules)
        self.lets = plan.lets
        self.form = self.rules.forms[plan.form]
        self.shapes = Shapes(self.rules, lambda expr: expr)

    def whole(self) -> Share:
        """The weight of the text."""
        scope: dict[str, tuple[str, ...]] = {} if self.form.children else {INPUT: (INPUT,)}
        for s, line in zip(self.states, self.lines, strict=True):
            scope |= line.old(s, self.form)
        return self._from(0, scope)

    def _from(self, index: int, scope: dict[str, tuple[str, ...]]) -> Share:
        """The weight of the equations from number `index` on."""
        name, expr = self.written[index]
        if index < self.lets:
            let, found = self.rules.let, []
            for number, rule in enumerate(let.rules):
                share = self._equation(expr, rule, scope)
                if share.weight:
                    after = self._from(index + 1, {**scope, name: (rule,)})
                    chosen = Share(let.weights[number] / sum(let.weights), {(LET, number): 1.0})
                    found.append(_both((chosen, share, after)))
            return _either(found)
        if name == OUT:
            return _both([self._equation(expr, OUT, scope), *self._leaves(index + 1)])
        line = self.lines[index - self.lets]
        share = self._equation(expr, line.rule, scope | line.old(name[:-1], self.form, own=True))
        if not share.weight:
            return share
        return _both((share, self._from(index + 1, {**scope, name: line.renewed})))

    def _leaves(self, index: int) -> Iterator[Share]:
        """The weights of the equations at leaves, which begin at number `index`."""
        scope: dict[str, tuple[str, ...]] = {INPUT: (INPUT,)}
        for (name, expr), line in zip(self.written[index:], self.lines, strict=False):
            yield self._equation(expr, line.leaf, scope)
            scope[name] = line.renewed

    def _equation(self, expr: Expr, rule: str, scope: Scope) -> Share:
        visible = {tag: sum(tag in classes for classes in scope.values()) for tag in self.rules.tags}
        known: dict[tuple[tuple[Expr, ...], str, int], Share] = {}

        def weigh(exprs: tuple[Expr, ...], rule: str, depth: int) -> Share:
            key = (exprs, rule, depth)
            if key not in known:
                found = []
                for number, p in enumerate(self.rules.rules[rule].productions):
                    if p.depth <= depth:
                        found += list(each(exprs, rule, number, depth))
                known[key] = _either(found)
            return known[key]

        def each(exprs: tuple[Expr, ...], rule: str, number: int, depth: int) -> Iterator[Share]:
            p = self.rules.rules[rule].productions[number]
            # Equal operands change places without giving another derivation.
            for bound in {tuple(b[i] for i in range(len(p.holes))) for b in self.shapes.bindings(p, exprs)}:
                parts = [Share(self.counter.factor(rule, number), {(rule, number): 1.0})]
                for h, inside in zip(p.holes, bound, strict=True):
                    if h.rule is not None:
                        part = weigh(inside, h.rule, depth - h.depth)
                    else:
                        seen = h.tag in scope.get(_name(inside), ())
                        part = Share(1 / visible[h.tag] if seen else 0.0, {})
                    if not part.weight:
                        break
                    parts.append(part)
                else:
                    yield _both(parts)

        return weigh((expr,), rule, self.depth)


def _both(parts: Sequence[Share]) -> Share:
    """All of these together."""
    uses: dict[Use, float] = {}
    for part in parts:
        for use, n in part.uses.items():
            uses[use] = uses.get(use, 0.0) + n
    return Share(math.prod(p.weight for p in parts), uses)


def _either(parts: Sequence[Share]) -> Share:
    """One of these."""
    if len(parts) == 1:
        return parts[0]
    total = sum(p.weight for p in parts)
    if not total:
        return Share(0.0, {})
    uses: dict[Use, float] = {}
    for part in parts:
        for use, n in part.uses.items():
            uses[use] = uses.get(use, 0.0) + n * part.weight / total
    return Share(total, uses)


def _name(exprs: Sequence[Expr]) -> str:
    (expr,) = exprs
    return INPUT if expr.op == INPUT else str(expr.attr("name")) if expr.op == "ref" else ""


def _renamed(expr: Expr, names: Mapping[str, str]) -> Expr:
    if expr.op == "ref":
        name = str(expr.attr("name"))
        return ref(names.get(name, name))
    return Expr(expr.op, tuple(_renamed(a, names) for a in expr.args), expr.attrs)


def _after_uses(lets: Sequence[str], uses: Mapping[str, frozenset[str]]) -> Iterator[list[str]]:
    """The orders of the lets in which each comes after those that it uses."""
    if not lets:
        yield []
    for name in lets:
        if not uses[name].intersection(lets):
            rest = [n for n in lets if n != name]
            for after in _after_uses(rest, uses):
                yield [name, *after]


def _readable(lines: Sequence[Sequence[str]], uses: Mapping[str, frozenset[str]]) -> Iterator[list[str]]:
    """The orders of the states, line by line, in which each new value uses only new values before it."""
    if not any(lines):
        yield []
        return
    at = next(i for i, line in enumerate(lines) if line)
    later = {f"{where}{s}'" for line in lines for s in line for where in ("", LEAF)}
    for s in lines[at]:
        if not (uses[f"{s}'"] | uses.get(f"{LEAF}{s}'", frozenset())) & later:
            rest = [other for other in lines[at] if other != s]
            for after in _readable([rest, *lines[at + 1 :]], uses):
                yield [s, *after]
