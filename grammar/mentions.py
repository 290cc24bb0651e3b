"""States that stand in a text by their new value: `out h'` where nothing reads the plain `h`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grammar.syntax import Depth, Expr, Leaf, Let, Out, Statement

_Names = dict[str, list[str]]


def mentioned_states(statements: Sequence[Statement]) -> frozenset[str]:
    """The states whose primed name is read by an equation that the output needs, directly or through others."""
    needs: _Names = {}
    todo = list(_collect(statements, needs))
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            # A plain `h` stands for the new value of the step before. Where `h` is a let, there is no `h'`.
            todo += [*needs.get(name, ()), *([] if name.endswith("'") else needs.get(f"{name}'", ()))]
    return frozenset(name[:-1] for name in seen if name.endswith("'"))


def _collect(statements: Sequence[Statement], needs: _Names) -> Iterator[str]:
    """Names read by `out`; the names that each equation reads go to `needs`, inner blocks included."""
    for statement in statements:
        if isinstance(statement, Out):
            yield from _names(statement.expr)
        elif isinstance(statement, Let):
            needs.setdefault(statement.name, []).extend(_names(statement.expr))
        elif not isinstance(statement, Leaf):
            if isinstance(statement, Depth) and statement.until is not None:
                yield from _names(statement.until)
            yield from _collect(statement.body, needs)


def _names(expr: Expr) -> list[str]:
    return [str(part.attr("name")) for part in expr.walk() if part.op == "ref"]
