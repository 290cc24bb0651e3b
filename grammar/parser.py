"""Text to syntax tree, by lark; `driving` walks its tables where a text has no fault."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from grammar.driving import QuickParser
from grammar.errors import (
    CellSyntaxError,
    CellTypeError,
    LocatedError,
    Span,
    UnknownNameError,
    one_newline,
    suggest,
)
from grammar.ops import OPS, Value
from grammar.options import DEFAULTS, option_problem
from grammar.printer import show_value
from grammar.syntax import (
    MAX_DEPTH,
    Depth,
    Expr,
    Leaf,
    Let,
    Out,
    Repeat,
    State,
    Statement,
    choice,
)
from grammar.types import NAMED, Type

MAX_TIMES = 64  # of `repeat` and `depth`
MAX_MEM = 4096  # numbers of a state of type mem(n)
MAX_TEXT = 100_000  # characters of one cell
WEIGHTS = (1e-30, 1e30)  # the least and the greatest of an alternative: sums of them stay finite
KEYWORDS = ("cell", "state", "out", "leaf", "repeat", "fresh", "depth", "until", "choice", "x")


@dataclass(frozen=True, slots=True)
class CellTree:
    """A whole text: the name, the children of a tree cell, the states, and the other statements."""

    name: str
    children: tuple[str, ...]
    variadic: bool
    states: tuple[State, ...]
    statements: tuple[Statement, ...]
    span: Span | None = field(default=None, compare=False)


def parse_tree(text: str, source: str = "<text>") -> CellTree:
    """The syntax tree of `text`; `source` names it in errors.

    Raises CellSyntaxError, UnknownNameError or CellTypeError, each with line, column and caret.
    """
    if not isinstance(text, str):
        raise CellSyntaxError(f"a cell is a text; received {text!r:.60} of type {type(text).__name__}")
    if len(text) > MAX_TEXT:
        problem = f"a cell has at most {MAX_TEXT:,} characters; received {len(text):,}"
        raise CellSyntaxError(problem, Span.at(text, MAX_TEXT)).locate(text, source)
    plain = one_newline(text)
    found: CellTree | None = _quick().parse(plain)
    if found is not None:
        return found
    try:  # it has a fault, which lark tells where and why
        return _lark().parse(plain)  # type: ignore[return-value]
    except UnexpectedInput as error:
        raise _syntax_error(error, text).locate(text, source) from None
    except LocatedError as error:
        raise error.locate(text, source) from None


class _Newlines:
    """Drops newlines that separate nothing: inside parentheses or a choice, after an operator."""

    always_accept = ("_NL",)
    _open = frozenset(("_LPAR", "_LBRACE"))
    _close = frozenset(("_RPAR", "_RBRACE"))
    _goes_on = frozenset(("PLUS", "MINUS", "STAR", "SLASH", "_COMMA", "_EQUAL", "_COLON", "_BAR", "_DOT"))

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        drops = self.drops()
        for token in stream:
            try:
                dropped = drops(token.type)
            except CellSyntaxError as error:
                raise CellSyntaxError(error.message, _span(token)) from None
            if not dropped:
                yield token

    def drops(self) -> Callable[[str], bool]:
        """Tells of the types of one text, in order, which are dropped. Raises CellSyntaxError for too many brackets."""
        inner: list[bool] = []  # for each open bracket, whether newlines inside it are dropped
        before = previous = ""

        def dropped(kind: str) -> bool:
            nonlocal before, previous
            if kind == "_NL" and ((inner and inner[-1]) or previous in self._goes_on):
                return True
            if kind in self._open:
                inner.append(kind == "_LPAR" or "_CHOICE" in (previous, before))
                if len(inner) > MAX_DEPTH:
                    raise CellSyntaxError(f"brackets may be nested at most {MAX_DEPTH} deep")
            elif kind in self._close and inner:
                inner.pop()
            before, previous = previous, kind
            return False

        return dropped


@cache
def _lark() -> Lark:
    text = resources.files("grammar").joinpath("cell.lark").read_text(encoding="utf-8")
    return Lark(
        text,
        parser="lalr",
        lexer="contextual",
        postlex=_Newlines(),
        transformer=_Builder(),
        propagate_positions=False,
        maybe_placeholders=False,
    )


@cache
def _quick() -> QuickParser:
    return QuickParser(_lark(), _Newlines().drops, LocatedError)


def _span(token: Token) -> Span:
    return Span(token.line or 1, token.column or 1, max(1, len(token)))


def _make(op: str, args: tuple[Expr, ...], attrs: tuple[tuple[str, Value], ...], span: Span | None) -> Expr:
    made = Expr(op, args, attrs, span)
    if made.depth > MAX_DEPTH:
        raise CellSyntaxError(f"an expression may be nested at most {MAX_DEPTH} deep", span)
    return made


@v_args(inline=True)
class _Builder(Transformer[Token, CellTree]):
    """Builds the tree bottom-up while lark parses, so deep texts need no recursion."""

    def start(self, cell: CellTree) -> CellTree:
        return cell

    def cell(self, *parts: Any) -> CellTree:
        keyword, name, *rest = parts
        children: tuple[Token, ...] = rest[0] if len(rest) == 2 else ()
        body: list[Any] = rest[-1]
        variadic = bool(children) and children[0].type == "STAR"
        names = tuple(str(t) for t in children if t.type != "STAR")
        for token in children:
            if names.count(str(token)) > 1:
                raise CellTypeError(
                    f"the children of a tree cell have distinct names; {token!s} repeats", _span(token)
                )
        states = tuple(s for part in body if isinstance(part, list) for s in part)
        statements = tuple(part for part in body if not isinstance(part, list))
        return CellTree(str(name), names, variadic, states, statements, _span(keyword))

    def params(self, *names: Token) -> tuple[Token, ...]:
        return names

    def block(self, *statements: Any) -> list[Any]:
        return list(statements)

    def states(self, keyword: Token, *states: State) -> list[State]:
        return list(states)

    def state(self, name: Token, type_: Type, init: float | str = 0.0) -> State:
        return State(str(name), type_, init, _span(name))

    def init_number(self, *parts: Token) -> float:
        return _signed(parts)

    def init_name(self, *parts: Token) -> float | str:
        name = str(parts[-1])
        if len(parts) == 2 and name == "inf":
            return -math.inf
        if len(parts) == 1 and name == "learned":
            return name
        raise CellSyntaxError(
            f"an initial value is a number, -inf, learned, or x; received {''.join(parts)}", _span(parts[0])
        )

    def init_x(self, token: Token) -> str:
        return "x"

    def define(self, name: Token, expr: Expr) -> Let:
        return Let(str(name), expr, _span(name))

    def out(self, keyword: Token, expr: Expr) -> Out:
        return Out(expr, _span(keyword))

    def leaf(self, keyword: Token, body: list[Any]) -> Leaf:
        return Leaf(_no_states(body), _span(keyword))

    def repeat(self, keyword: Token, times: Token, *rest: Any) -> Repeat:
        return Repeat(_times(times), len(rest) == 2, _no_states(rest[-1]), _span(keyword))

    def depth(self, keyword: Token, times: Token, *rest: Any) -> Depth:
        until = rest[0] if len(rest) == 2 else None
        return Depth(_times(times), until, _no_states(rest[-1]), _span(keyword))

    def _binary(self, left: Expr, token: Token, right: Expr) -> Expr:
        name = {"+": "add", "-": "sub", "*": "mul", "/": "div"}[str(token)]
        return _make(name, (left, right), (), _span(token))

    add = sub = mul = div = _binary

    def neg(self, token: Token, operand: Expr) -> Expr:
        if operand.op == "num" and float(operand.attr("value")) > 0:  # type: ignore[arg-type]
            return _make("num", (), (("value", -float(operand.attr("value"))),), _span(token))  # type: ignore[arg-type]
        return _make("neg", (operand,), (), _span(token))

    def number(self, token: Token) -> Expr:
        return _make("num", (), (("value", _number(token)),), _span(token))

    def x(self, token: Token) -> Expr:
        return _make("x", (), (), _span(token))

    def name(self, token: Token) -> Expr:
        return _make("ref", (), (("name", str(token)),), _span(token))

    def child(self, child: Token, state: Token) -> Expr:
        span = replace(_span(child), width=len(child) + 1 + len(state))
        return _make("child", (), (("child", str(child)), ("state", str(state))), span)

    def group(self, expr: Expr) -> Expr:
        return expr

    def choice(self, *parts: Expr | Token) -> Expr:
        options: list[Expr] = []
        weights: list[float] = []
        link = ""
        for part in parts:
            if isinstance(part, Expr):
                options.append(part)
                weights.append(1.0)
            elif options:
                weights[-1] = _weight(part)
            else:
                link = str(part)
                first = part
        if link and any(n.op == "choice" and n.attr("link") == link for o in options for n in o.walk()):
            raise CellSyntaxError(f"a choice is not inside of one of its own name; {link!r} is", _span(first))
        made = choice(options, weights, link)
        return _make("choice", made.args, made.attrs, options[0].span)

    def call(self, name: Token, *rest: Any) -> Expr:
        type_ = rest[0] if rest and isinstance(rest[0], Type) else None
        arguments = rest[1:] if type_ else rest
        args = tuple(a for a in arguments if isinstance(a, Expr))
        options = [o for o in arguments if isinstance(o, tuple)]
        late = next((a for a in arguments[len(args) :] if isinstance(a, Expr)), None)
        if late is not None:
            raise CellSyntaxError("options come after the operands", late.span)
        return call(str(name), args, type_, [(str(k), v, _span(k)) for k, v in options], _span(name))

    def option(self, name: Token, value: Value) -> tuple[Token, Value]:
        return name, value

    def value_number(self, *parts: Token) -> Value:
        value = _signed(parts)
        return int(value) if value.is_integer() else value

    def value_name(self, name: Token) -> Value:
        return {"yes": True, "no": False}.get(str(name), str(name))

    def value_call(self, name: Token, *parts: Any) -> Value:
        numbers: list[float] = []
        minus = 1.0
        for part in parts:
            if isinstance(part, Token) and part.type == "NUMBER":
                numbers.append(minus * _number(part))
                minus = 1.0
            else:
                minus = -1.0
        return (str(name), *numbers)

    def sign(self, token: Token) -> Token:
        return token

    def type(self, token: Token) -> Type:
        if token.type == "MEM":
            size = mem_size(str(token))
            if size is None:
                raise CellTypeError(f"mem(n) has 1 <= n <= {MAX_MEM}; received {token!s}", _span(token))
            return Type("mem", size)
        if str(token) not in NAMED:
            known = (*NAMED, "mem(n)")
            raise UnknownNameError(
                f"unknown type {str(token)!r}; the types are {', '.join(known)}{suggest(str(token), NAMED)}",
                _span(token),
            )
        return NAMED[str(token)]


def mem_size(token: str) -> int | None:
    """The n of `mem(n)`, or None where it is not from 1 to 4096; a number may have any length."""
    digits = re.sub(r"\D", "", token).lstrip("0")
    return int(digits) if digits and len(digits) <= 4 and int(digits) <= MAX_MEM else None


def call(
    name: str,
    args: tuple[Expr, ...],
    type_: Type | None = None,
    options: list[tuple[str, Value, Span | None]] | None = None,
    span: Span | None = None,
) -> Expr:
    """An operation of the table applied to `args`, with its arity and options checked."""
    return _make(name, args, call_attrs(name, len(args), type_, options or (), span), span)


def call_attrs(
    name: str,
    count: int,
    type_: Type | None,
    options: Iterable[tuple[str, Value, Span | None]],
    span: Span | None = None,
) -> tuple[tuple[str, Value], ...]:
    """The options of an operation of `count` operands as a tree has them, checked with its arity."""
    op = OPS.get(name)
    if op is None:
        raise UnknownNameError(f"unknown operation {name!r}{suggest(name, OPS)}", span)
    least, most = op.arity
    if count < least or (most is not None and count > most):
        wanted = (
            str(least) if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        )
        raise CellTypeError(f"`{name}` takes {wanted} operand(s); received {count}", span)
    attrs: dict[str, Value] = {}
    for key, value, place in options:
        if key not in op.options:
            known = f"its options are {', '.join(op.options)}" if op.options else "it has none"
            raise UnknownNameError(
                f"`{name}` has no option {key!r}; {known}{suggest(key, op.options)}", place
            )
        if key in attrs:
            raise CellSyntaxError(f"the option {key!r} is given twice", place)
        problem = option_problem(key, value)
        if problem:
            raise CellTypeError(f"{problem}; received {show_value(value)}", place)
        attrs[key] = value
    if type_ is not None:
        if not op.typed:
            raise CellTypeError(f"`{name}` takes no type, as in `lin:key(...)`; received {type_}", span)
        attrs["type"] = type_.kind
        if type_.kind == "mem":
            attrs["size"] = type_.size
        elif type_.kind == "vec":
            del attrs["type"]
    return tuple(sorted((k, v) for k, v in attrs.items() if DEFAULTS.get(k) != v))


def _number(token: Token) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise CellSyntaxError(f"a number must be finite; received {token!s}", _span(token))
    return value


def _weight(token: Token) -> float:
    value = float(token[1:-1])
    least, most = WEIGHTS
    if not least <= value <= most:
        raise CellSyntaxError(
            f"a weight is a number from {least:g} to {most:g}; received {token!s}", _span(token)
        )
    return value


def _signed(parts: tuple[Token, ...]) -> float:
    value = _number(parts[-1])
    return -value if len(parts) == 2 else value


def _times(token: Token) -> int:
    value = _number(token)
    if not value.is_integer() or not 1 <= value <= MAX_TIMES:
        raise CellTypeError(
            f"a count is a whole number from 1 to {MAX_TIMES}; received {token!s}", _span(token)
        )
    return int(value)


def _no_states(body: list[Any]) -> tuple[Statement, ...]:
    for part in body:
        if isinstance(part, list):
            raise CellSyntaxError("`state` stands at the top of a cell, not inside a block", part[0].span)
    return tuple(body)


# ---- syntax errors ----------------------------------------------------------------------------

_SHOWN = {
    "_LPAR": "'('", "_RPAR": "')'", "_LBRACE": "'{'", "_RBRACE": "'}'", "_COMMA": "','", "_COLON": "':'",
    "_EQUAL": "'='", "PLUS": "'+'", "MINUS": "'-'", "STAR": "'*'", "SLASH": "'/'", "_DOT": "'.'", "_BAR": "'|'",
    "_SEMI": "';'", "_NL": "a new line", "NAME": "a name", "PRIMED": "a primed name", "NUMBER": "a number",
    "MEM": "mem(n)", "WEIGHT": "a weight as in [2]", "_CHOICE": "'choice'",
    "_UNTIL": "'until'", "$END": "the end of the text",
}  # fmt: skip


def _syntax_error(error: UnexpectedInput, text: str) -> CellSyntaxError:
    if isinstance(error, UnexpectedCharacters):
        span = Span(error.line, error.column)
        char = str(error.char)
        known = _CHARACTERS.get(char)
        if char == "'" and "_COLON" in (error.allowed or ()):
            known = "a state is declared without its prime"
        return CellSyntaxError(f"unexpected character {char!r}" + (f": {known}" if known else ""), span)
    assert isinstance(error, UnexpectedToken)
    token = error.token
    expected = frozenset(error.accepts or error.expected)  # `expected` has what other contexts allow, too
    if token.type == "$END":
        lines = one_newline(text).split("\n")
        last = max((i for i, line in enumerate(lines) if line.strip()), default=0)
        span = Span(last + 1, len(lines[last].rstrip()) + 1)
        if "_RBRACE" in expected:
            return CellSyntaxError("the text ends inside a block: a closing '}' is missing", span)
        if "CELL" in expected:
            return CellSyntaxError("the text is empty: a cell begins with `cell NAME {`", span)
        return CellSyntaxError(f"the text ends too early: expected {_one_of(expected)}", span)
    span = _span(token)
    for types, wanted, message in _RULES:
        if token.type in types and (wanted is None or wanted in expected):
            return CellSyntaxError(message.format(token=str(token)), span)
    shown = "a new line" if token.type == "_NL" else repr(str(token))
    return CellSyntaxError(f"unexpected {shown}: expected {_one_of(expected)}", span)


_CHARACTERS = {
    "^": "a power is written with square(...) or a product",
    "'": "a prime follows the name of a state at once, as in h'",
    "@": "a matrix product is written lin(...), read(S, k) or outer(k, v)",
    "[": "the language has no indexing",
    "%": "comments begin with '#'",
    "!": "comments begin with '#'",
}
# (types of the token, a token that was expected or None, message): the first that fits is used.
_RULES: tuple[tuple[frozenset[str], str | None, str], ...] = (
    (frozenset(("NAME", "_LBRACE", "X", "NUMBER")), "CELL", "a cell begins with `cell NAME {{`; received {token!r}"),
    (frozenset(("WEIGHT",)), None, "unexpected character '[': the language has no indexing"),
    (frozenset(("CELL",)), "$END", "one text holds one cell: a second one begins here"),
    (frozenset(("X",)), "PRIMED", "`x` is the input and cannot be defined"),
    (
        frozenset(("X", "STATE", "OUT", "LEAF", "REPEAT", "DEPTH", "CELL", "FRESH", "_UNTIL", "_CHOICE")),
        "NAME",
        "{token!r} is a word of the language and cannot be a name or a value",
    ),
    (frozenset(("_EQUAL",)), "PLUS", "one '=' to an equation: conditions and assignments inside are not allowed"),
    (frozenset(("_EQUAL",)), "NAME", "an equation needs one '=' with a name before it"),
    (frozenset(("PRIMED",)), "_COLON", "a state is declared without its prime; received {token!s}"),
    (frozenset(("NAME", "PRIMED", "OUT", "STATE", "NUMBER", "X", "LEAF", "REPEAT", "DEPTH")), "_RPAR",
     "a closing ')' or an operator is missing before {token!r}"),
    (frozenset(("NAME", "PRIMED", "OUT", "STATE", "NUMBER", "X")), "_SEMI",
     "statements are separated by a new line or ';', and operands by an operator; received {token!r}"),
    (frozenset(("_RPAR",)), "_SEMI", "there is no '(' to this ')'"),
    (frozenset(("_RBRACE",)), "$END", "there is no '{{' to this '}}'"),
    (frozenset(("STAR",)), "NUMBER", "an operand is missing before '*' (a power is written with square(...))"),
    (frozenset(("_SEMI", "_RPAR", "_RBRACE", "_COMMA", "_BAR", "PLUS", "SLASH")), "NUMBER",
     "a value is missing before {token!r}"),
    (frozenset(("_NL", "_SEMI")), "_RPAR", "a closing ')' is missing"),
    (frozenset(("_RBRACE", "_SEMI")), "_RPAR", "a closing ')' is missing"),
)  # fmt: skip


def _one_of(expected: frozenset[str]) -> str:
    shown = sorted({_SHOWN.get(name, f"'{name.lower()}'") for name in expected if name != "_NL"})
    return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"
