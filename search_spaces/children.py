"""What rules of a space over trees must keep: names of any number of children stand inside `sum(...)`."""

from __future__ import annotations

from collections.abc import Iterator

from grammar import Expr
from search_spaces.errors import SpaceFileError
from search_spaces.rules import HOLE, Form, Hole, Production, Rule, Rules, StateRule


def sums(rules: Rules) -> None:
    """Check that names of any number of children stand inside `sum(...)`, and each `sum` has one in its production."""
    each = {t for f in rules.forms if f.variadic for s in rules.states for t in _of_children(s, f)}
    outside = {s.rule for s in rules.states} | {s.leaf for s in rules.states if s.leaf}
    outside |= {"out", *rules.let.rules}
    seen: set[tuple[str, bool]] = set()
    stack = [(name, False) for name in sorted(outside)]
    while stack:
        name, inside = stack.pop()
        if (name, inside) in seen:
            continue
        seen.add((name, inside))
        for p in rules.rules[name].productions:
            for h, summed in _summed(p, inside, rules.rules[name]):
                if h.rule is not None:
                    stack.append((h.rule, summed))
                elif h.tag in each and not summed:
                    raise SpaceFileError(
                        f"`${h.tag}` is of any number of children: `{p.text}` of {name!r} is used outside of sum(...)",
                        rules.rules[name].span,
                    )
            for item in (e for i in p.items for e in i.walk() if e.op == "sum"):
                inner = [p.holes[int(e.attr("index"))] for e in item.walk() if e.op == HOLE]  # type: ignore[arg-type]
                if not any(h.tag in each for h in inner):
                    raise SpaceFileError(
                        f"`sum` is over children and names one, as in sum($vec_k); received `{p.text}`",
                        rules.rules[name].span,
                    )


def _of_children(state: StateRule, form: Form) -> set[str]:
    return {t for tags in state.old("", form, own=True).values() for t in tags}


def _summed(p: Production, inside: bool, rule: Rule) -> Iterator[tuple[Hole, bool]]:
    """The holes of a production, and whether each is inside of a sum."""

    def visit(expr: Expr, summed: bool) -> Iterator[tuple[Hole, bool]]:
        if expr.op == HOLE:
            yield p.holes[int(expr.attr("index"))], summed  # type: ignore[arg-type]
        elif expr.op == "sum" and summed:
            raise SpaceFileError(f"`sum` is not nested; received `{p.text}` inside of a sum", rule.span)
        for a in expr.args:
            yield from visit(a, summed or expr.op == "sum")

    for item in p.items:
        yield from visit(item, inside)
