"""Rewrites a cell into another text of the same function: names, order, dead code, repeated parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from grammar import (
    OPS,
    Cell,
    Depth,
    Expr,
    Leaf,
    Let,
    Out,
    Repeat,
    State,
    Statement,
    call,
    make_cell,
    num,
    ref,
)

_Names = dict[str, str]


def scramble(cell: Cell, rng: np.random.Generator) -> Cell:
    """An equal cell: everything renamed, statements and commutative operands shuffled, dead code added."""
    names = _renaming(cell, rng)
    states = [State(names[s.name], s.type, s.init) for s in cell.states]
    body = _body(cell.statements, names, rng)
    if cell.kind == "time":
        states.append(State("dead_state", states[0].type))
        body.append(Let("dead_state'", ref("dead_state")))
        body.append(Let("dead_let", call("tanh", (call("lin", (Expr("x"),)),))))
    children = tuple(f"child{i}" for i in range(len(cell.tree.children)))
    order = rng.permutation(len(body))
    shuffled = [states[i] for i in rng.permutation(len(states))]
    return make_cell("other", shuffled, [body[i] for i in order], children, cell.tree.variadic)


def _renaming(cell: Cell, rng: np.random.Generator) -> _Names:
    lets = [s.name for s in _lets(cell.statements) if not s.primed]
    old = [*(s.name for s in cell.states), *lets]
    fresh = [f"q{i}" for i in rng.permutation(len(old))]
    names = dict(zip(old, fresh, strict=True))
    names |= {f"{s.name}'": f"{names[s.name]}'" for s in cell.states}
    names |= {f".{child}": f"child{i}" for i, child in enumerate(cell.tree.children)}
    return names


def _lets(statements: tuple[Statement, ...]) -> Iterator[Let]:
    for statement in statements:
        if isinstance(statement, Let):
            yield statement
        elif not isinstance(statement, Out):
            yield from _lets(statement.body)


def _body(statements: tuple[Statement, ...], names: _Names, rng: np.random.Generator) -> list[Statement]:
    made: list[Statement] = []
    for statement in statements:
        if isinstance(statement, Let):
            made.append(Let(names[statement.name], _expr(statement.expr, names, rng)))
        elif isinstance(statement, Out):
            made.append(Out(_expr(statement.expr, names, rng)))
        else:
            body = tuple(_body(statement.body, names, rng))
            if isinstance(statement, Leaf):
                made.append(Leaf(body))
            elif isinstance(statement, Repeat):
                made.append(Repeat(statement.times, statement.fresh, body))
            else:
                until = None if statement.until is None else _expr(statement.until, names, rng)
                made.append(Depth(statement.times, until, body))
    return made


def _expr(expr: Expr, names: _Names, rng: np.random.Generator) -> Expr:
    if expr.op == "ref":
        return ref(names[str(expr.attr("name"))])
    if expr.op == "child":
        child, state = names[f".{expr.attr('child')}"], names[str(expr.attr("state"))]
        return Expr("child", (), (("child", child), ("state", state)))
    args = [_expr(a, names, rng) for a in expr.args]
    swaps = (expr.op == "lin" and not expr.attr("share")) or (expr.op in OPS and OPS[expr.op].commutative)
    if swaps:
        args = [args[i] for i in rng.permutation(len(args))]
    made = Expr(expr.op, tuple(args), expr.attrs)
    if expr.op == "sigmoid" and rng.random() < 0.5:
        return Expr("sub", (num(1.0), Expr("sub", (num(1.0), made))))
    if expr.op in ("tanh", "sigmoid", "relu") and rng.random() < 0.5:
        return Expr("neg", (Expr("neg", (made,)),))
    return made
