"""Syntax tree to text. The text parses back to the same tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from grammar.ops import Value
from grammar.syntax import Depth, Expr, Leaf, Let, Out, Repeat, State, Statement, choice_weights

if TYPE_CHECKING:
    from grammar.parser import CellTree

_INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2)}
_NEG = 3


def show_expr(expr: Expr) -> str:
    """One expression as text, with no more parentheses than it needs."""
    return _expr(expr, 0)


def show_number(value: float) -> str:
    """A number so that it reads back exactly: `1` rather than `1.0`."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value)) if value or str(value)[0] != "-" else "0"
    return repr(value)


def show_value(value: Value) -> str:
    """An option's value: `yes`, `no`, a number, a name, or `uniform(0, 1)`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return show_number(value)
    if isinstance(value, tuple):
        return f"{value[0]}({', '.join(show_number(float(v)) for v in value[1:])})"
    return str(value)


def show_state(state: State) -> str:
    """A declaration without the word: `h: vec = -inf`."""
    text = f"{state.name}: {state.type}"
    if state.init == 0.0:
        return text
    return f"{text} = {state.init if isinstance(state.init, str) else show_init(state.init)}"


def show_init(value: float) -> str:
    """An initial value: a number or `-inf`."""
    return "-inf" if value == float("-inf") else show_number(value)


def show_tree(tree: CellTree, one_line: bool = False) -> str:
    """A whole cell: one statement a line, or all of it on one."""
    head = f"cell {tree.name}"
    if tree.children:
        head += f"({'*' if tree.variadic else ''}{', '.join(tree.children)})"
    if one_line:
        return f"{head} {{ {'; '.join(_flat(tree))} }}"
    return "\n".join([f"{head} {{", *_block(tree), "}"]) + "\n"


def show_statement(statement: Statement) -> str:
    """One statement on one line."""
    if isinstance(statement, Let):
        return f"{statement.name} = {show_expr(statement.expr)}"
    if isinstance(statement, Out):
        return f"out {show_expr(statement.expr)}"
    return f"{_head(statement)} {{ {'; '.join(show_statement(s) for s in statement.body)} }}"


def _flat(tree: CellTree) -> Iterator[str]:
    if tree.states:
        yield f"state {', '.join(show_state(s) for s in tree.states)}"
    for statement in tree.statements:
        yield show_statement(statement)


def _block(tree: CellTree) -> Iterator[str]:
    if tree.states:
        yield f"  state {', '.join(show_state(s) for s in tree.states)}"
    for statement in tree.statements:
        yield from _lines(statement, 1)


def _lines(statement: Statement, level: int) -> Iterator[str]:
    pad = "  " * level
    if isinstance(statement, Let | Out):
        yield pad + show_statement(statement)
        return
    yield f"{pad}{_head(statement)} {{"
    for inner in statement.body:
        yield from _lines(inner, level + 1)
    yield f"{pad}}}"


def _head(block: Leaf | Repeat | Depth) -> str:
    if isinstance(block, Leaf):
        return "leaf"
    if isinstance(block, Repeat):
        return f"repeat {block.times}{' fresh' if block.fresh else ''}"
    return f"depth {block.times}" + (f" until({show_expr(block.until)})" if block.until else "")


def _expr(expr: Expr, outer: int) -> str:
    """`outer` is the precedence of what stands around: parentheses where this binds less."""
    if expr.op in _INFIX:
        symbol, level = _INFIX[expr.op]
        left, right = expr.args
        text = f"{_expr(left, level)} {symbol} {_expr(right, level + 1)}"
        return f"({text})" if level < outer else text
    if expr.op == "neg":
        inner = expr.args[0]
        # `-2` is read as a number, so the negation of a number is printed as what it is read as, or kept apart.
        apart = inner.op == "num" and float(inner.attr("value")) <= 0  # type: ignore[arg-type]
        text = f"-({_expr(inner, 0)})" if apart else f"-{_expr(inner, _NEG)}"
        return f"({text})" if outer > _NEG else text
    return _atom(expr)


def _atom(expr: Expr) -> str:
    if expr.op == "x":
        return "x"
    if expr.op == "num":
        return show_number(float(expr.attr("value")))  # type: ignore[arg-type]
    if expr.op == "ref":
        return str(expr.attr("name"))
    if expr.op == "child":
        return f"{expr.attr('child')}.{expr.attr('state')}"
    if expr.op == "choice":
        given = zip(expr.args, choice_weights(expr), strict=True)
        options = (_expr(a, 0) + (f" [{show_number(w)}]" if w != 1 else "") for a, w in given)
        link = f" {expr.attr('link')} " if expr.attr("link") else ""
        return f"choice{link}{{ {' | '.join(options)} }}"
    attrs = dict(expr.attrs)
    kind, size = attrs.pop("type", None), attrs.pop("size", None)
    typed = "" if kind is None else f":mem({size})" if kind == "mem" else f":{kind}"
    inside = [_expr(a, 0) for a in expr.args] + [f"{k}={show_value(v)}" for k, v in attrs.items()]
    return f"{expr.op}{typed}({', '.join(inside)})"
