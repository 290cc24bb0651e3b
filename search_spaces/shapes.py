"""Expressions read as productions: what stands in each hole, for every order of commutative operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

from grammar import OPS, Expr, show_expr
from search_spaces.rules import HOLE, Production, Rules

Bound = dict[int, tuple[Expr, ...]]  # hole -> the expression in it, or the operands


class Shapes:
    """Matches expressions with the productions of a space; `plain` says what a name that is written out stands for."""

    def __init__(self, rules: Rules, plain: Callable[[Expr], Expr]) -> None:
        self.rules = rules
        self.plain = plain

    def bindings(self, p: Production, exprs: tuple[Expr, ...]) -> Iterator[Bound]:
        """Each way to read expressions as a production."""
        yield from self._unify(p, p.items, exprs, {}, ordered=len(p.items) == len(exprs) == 1)

    def _unify(
        self, p: Production, items: Sequence[Expr], exprs: Sequence[Expr], bound: Bound, ordered: bool
    ) -> Iterator[Bound]:
        lists = [i for i, t in enumerate(items) if self._is_list(p, t)]
        if lists:
            single = [t for i, t in enumerate(items) if i != lists[0]]
            at = int(items[lists[0]].attr("index"))  # type: ignore[arg-type]
            for chosen in permutations(range(len(exprs)), len(single)):
                rest = tuple(e for i, e in enumerate(exprs) if i not in chosen)
                for found in self._each(p, single, [exprs[i] for i in chosen], bound):
                    if rest:
                        yield {**found, at: rest}
        elif len(items) == len(exprs):
            orders = [tuple(exprs)] if ordered else self._orders(p, items, exprs)
            for order in orders:
                yield from self._each(p, items, order, bound)

    def _orders(
        self, p: Production, items: Sequence[Expr], exprs: Sequence[Expr]
    ) -> Iterator[tuple[Expr, ...]]:
        """The orders in which each expression may stand at its place, in the order of `permutations`."""
        fits = [[next(self._one(p, item, e, {}), None) is not None for e in exprs] for item in items]

        def placed(number: int, left: tuple[int, ...]) -> Iterator[tuple[Expr, ...]]:
            if number == len(items):
                yield ()
            for i in left:
                if fits[number][i]:
                    for rest in placed(number + 1, tuple(k for k in left if k != i)):
                        yield (exprs[i], *rest)

        return placed(0, tuple(range(len(exprs))))

    def _each(
        self, p: Production, items: Sequence[Expr], exprs: Sequence[Expr], bound: Bound
    ) -> Iterator[Bound]:
        """Each way to read expressions as templates, one by one."""
        if not items:
            yield bound
            return
        for found in self._one(p, items[0], exprs[0], bound):
            yield from self._each(p, items[1:], exprs[1:], found)

    def _one(self, p: Production, item: Expr, expr: Expr, bound: Bound) -> Iterator[Bound]:
        if item.op == HOLE:
            at = int(item.attr("index"))  # type: ignore[arg-type]
            if at not in bound or self.plain(bound[at][0]) == self.plain(expr):
                yield {**bound, at: (expr,)}
            return
        expr = self.plain(expr)
        if item.op != expr.op or item.attrs != expr.attrs:
            return
        yield from self._unify(p, item.args, expr.args, bound, ordered=not symmetric(expr))

    def _is_list(self, p: Production, item: Expr) -> bool:
        if item.op != HOLE:
            return False
        rule = p.holes[int(item.attr("index"))].rule  # type: ignore[arg-type]
        return rule is not None and self.rules.rules[rule].type is None


def symmetric(expr: Expr) -> bool:
    """Whether the order of its operands means nothing."""
    return expr.op in OPS and (OPS[expr.op].commutative or expr.op == "lin")


def in_order(expr: Expr) -> Expr:
    """The expression with operands whose order means nothing in the order of their texts."""
    args = tuple(map(in_order, expr.args))
    if symmetric(expr):
        args = tuple(sorted(args, key=show_expr))
    return replace(expr, args=args) if args else expr
