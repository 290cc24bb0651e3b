"""Text of a space file to its parts. The only file of this package that knows lark."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from grammar import (
    NAMED,
    WEIGHTS,
    Expr,
    LocatedError,
    Span,
    Type,
    UnknownNameError,
    Value,
    X,
    call,
    mem_size,
    num,
    one_newline,
    suggest,
)
from search_spaces.errors import SpaceFileError

MAX_TEXT = 100_000  # characters of one file
MAX_DEPTH = 50  # of nesting in one production
NONTERMINAL = "nonterminal"  # leaves of expressions as read; check.py makes holes of them
NAMES = "names"


@dataclass(frozen=True, slots=True)
class Alternative:
    """One production as read."""

    items: tuple[Expr, ...]
    weight: float
    span: Span


@dataclass(frozen=True, slots=True)
class Named:
    """A name or a number where it stands."""

    name: str
    span: Span
    number: float = 0.0


@dataclass(frozen=True, slots=True)
class StateLine:
    """`state{1..2} cls: type = init -> rule`; what is not written is None."""

    least: int
    most: int
    cls: Named
    type: Type | None
    init: float | str
    rule: Named | None
    leaf: Named | None
    span: Span


@dataclass(frozen=True, slots=True)
class FormLine:
    """`l, r` or `*k`: the children of a cell over trees."""

    names: tuple[Named, ...]
    variadic: bool


@dataclass(frozen=True, slots=True)
class LetLine:
    """`let{0..4} -> rule [weight] | ...`."""

    least: int
    most: int
    rules: tuple[Named, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class RuleLine:
    """`name: type -> alternatives`."""

    name: Named
    type: Type | None
    alternatives: tuple[Alternative, ...]


@dataclass(slots=True)
class SpaceFile:
    """A space file as read, in order; nothing is resolved yet."""

    name: Named
    limits: list[tuple[Named, str]] = field(default_factory=list)
    claims: list[Named] = field(default_factory=list)
    require: list[Named] = field(default_factory=list)
    children: list[FormLine] = field(default_factory=list)
    states: list[StateLine] = field(default_factory=list)
    lets: list[LetLine] = field(default_factory=list)
    rules: list[RuleLine] = field(default_factory=list)


def read(text: str, source: str) -> SpaceFile:
    """The parts of the space file `text`. Raises SpaceFileError with line, column and caret."""
    if len(text) > MAX_TEXT:
        problem = f"a space has at most {MAX_TEXT:,} characters; received {len(text):,}"
        raise SpaceFileError(problem, Span.at(text, MAX_TEXT)).locate(text, source)
    try:
        # The line ends of all systems count as one, as they do where an error shows its line.
        return _lark().parse(one_newline(text))  # type: ignore[return-value]
    except UnexpectedInput as error:
        raise _syntax_error(error, text).locate(text, source) from None
    except LocatedError as error:
        raise SpaceFileError(error.message, error.span).locate(text, source) from None


@cache
def _lark() -> Lark:
    text = resources.files("search_spaces").joinpath("space.lark").read_text(encoding="utf-8")
    # Built while it is parsed: a deep text needs no recursion.
    return Lark(text, parser="lalr", lexer="contextual", transformer=_Builder(), maybe_placeholders=False)


def _make(op: str, args: tuple[Expr, ...], span: Span) -> Expr:
    made = Expr(op, args, (), span)
    if made.depth > MAX_DEPTH:
        raise SpaceFileError(f"a production may be nested at most {MAX_DEPTH} deep", span)
    return made


def _span(token: Token) -> Span:
    return Span(token.line or 1, token.column or 1, max(1, len(token)))


@v_args(inline=True)
class _Builder(Transformer[Token, SpaceFile]):
    def start(self, space: SpaceFile) -> SpaceFile:
        return space

    def space(self, keyword: Token, name: Token, *items: Any) -> SpaceFile:
        made = SpaceFile(Named(str(name), _span(name)))
        for kind, content in items:
            getattr(made, kind).extend(content)
        return made

    def limits(self, *limits: tuple[Named, str]) -> tuple[str, Any]:
        return "limits", limits

    def limit(self, name: Token, relation: Token, bound: Token) -> tuple[Named, str]:
        return Named(str(name), _span(name), _number(bound)), str(relation)

    def claims(self, *names: Token) -> tuple[str, Any]:
        return "claims", [Named(str(n), _span(n)) for n in names]

    def require(self, *names: Token) -> tuple[str, Any]:
        return "require", [Named(str(n), _span(n)) for n in names]

    def children(self, keyword: Token, *forms: FormLine) -> tuple[str, Any]:
        return "children", forms

    def form(self, *names: Token) -> FormLine:
        given = tuple(Named(str(n), _span(n)) for n in names if n.type != "STAR")
        return FormLine(given, names[0].type == "STAR")

    def states(self, keyword: Token, *parts: Any) -> tuple[str, Any]:
        least, most, rest = _counted(parts)
        cls, *rest = rest
        kind: Type | None = None
        init: float | str = 0.0
        rules: list[Named] = []
        for part in rest:
            if isinstance(part, Type):
                kind = part
            elif isinstance(part, Token):
                rules.append(Named(str(part), _span(part)))
            else:
                init = part.value
        rule, leaf = (*rules, None, None)[:2]
        line = StateLine(least, most, Named(str(cls), _span(cls)), kind, init, rule, leaf, _span(keyword))
        return "states", [line]

    def init_number(self, *parts: Token) -> _Init:
        return _Init(_signed(parts))

    def init_name(self, *parts: Token) -> _Init:
        name = str(parts[-1])
        if len(parts) == 2 and name == "inf":
            return _Init(-math.inf)
        if len(parts) == 1 and name == "learned":
            return _Init(name)
        raise SpaceFileError(
            f"an initial value is a number, -inf or learned; received {''.join(parts)}", _span(parts[0])
        )

    def lets(self, keyword: Token, *parts: Any) -> tuple[str, Any]:
        least, most, rest = _counted(parts)
        return "lets", [LetLine(least, most, tuple(rest), _span(keyword))]

    def choice(self, name: Token, weight: float = 1.0) -> Named:
        return Named(str(name), _span(name), weight)

    def out(self, keyword: Token, *alternatives: Alternative) -> tuple[str, Any]:
        return "rules", [RuleLine(Named("out", _span(keyword)), NAMED["vec"], alternatives)]

    def rule(self, name: Token, *parts: Any) -> tuple[str, Any]:
        kind = parts[0] if isinstance(parts[0], Type) else None
        alternatives = parts[1:] if kind else parts
        return "rules", [RuleLine(Named(str(name), _span(name)), kind, tuple(alternatives))]

    def production(self, *parts: Any) -> Alternative:
        items = tuple(p for p in parts if isinstance(p, Expr))
        weight = parts[-1] if isinstance(parts[-1], float) else 1.0
        return Alternative(items, weight, items[0].span or Span(1, 1))

    def weight(self, token: Token) -> float:
        value = _number(token)
        least, most = WEIGHTS
        if not least <= value <= most:
            raise SpaceFileError(
                f"a weight is a number from {least:g} to {most:g}; received {token!s}", _span(token)
            )
        return value

    def _binary(self, left: Expr, token: Token, right: Expr) -> Expr:
        name = {"+": "add", "-": "sub", "*": "mul", "/": "div"}[str(token)]
        return _make(name, (left, right), _span(token))

    add = sub = mul = div = _binary

    def neg(self, token: Token, operand: Expr) -> Expr:
        if operand.op == "num" and float(operand.attr("value")) > 0:  # type: ignore[arg-type]
            return replace(num(-float(operand.attr("value"))), span=_span(token))  # type: ignore[arg-type]
        return _make("neg", (operand,), _span(token))

    def number(self, token: Token) -> Expr:
        return replace(num(_number(token)), span=_span(token))

    def x(self, token: Token) -> Expr:
        return replace(X, span=_span(token))

    def nonterminal(self, token: Token) -> Expr:
        return Expr(NONTERMINAL, (), (("name", str(token)),), _span(token))

    def names(self, token: Token) -> Expr:
        tag, _, label = str(token)[1:].partition(".")
        return Expr(NAMES, (), (("label", label), ("tag", tag)), _span(token))

    def group(self, expr: Expr) -> Expr:
        return expr

    def call(self, name: Token, *rest: Any) -> Expr:
        type_ = rest[0] if rest and isinstance(rest[0], Type) else None
        arguments = rest[1:] if type_ else rest
        args = tuple(a for a in arguments if isinstance(a, Expr))
        options = [(k, v, s) for k, v, s in (a for a in arguments if isinstance(a, tuple))]
        if any(a.depth >= MAX_DEPTH for a in args):
            raise SpaceFileError(f"a production may be nested at most {MAX_DEPTH} deep", _span(name))
        return call(str(name), args, type_, options, _span(name))

    def option(self, name: Token, value: Value) -> tuple[str, Value, Span]:
        return str(name), value, _span(name)

    def value_number(self, *parts: Token) -> Value:
        value = _signed(parts)
        return int(value) if value.is_integer() else value

    def value_name(self, name: Token) -> Value:
        return {"yes": True, "no": False}.get(str(name), str(name))

    def value_call(self, name: Token, *parts: Token) -> Value:
        numbers: list[float] = []
        minus = 1.0
        for part in parts:
            if part.type == "NUMBER":
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
                raise SpaceFileError(f"mem(n) has 1 <= n <= 4096; received {token!s}", _span(token))
            return Type("mem", size)
        if str(token) == "num":
            return Type("num")
        if str(token) == "operands":
            return OPERANDS
        if str(token) not in NAMED:
            known = (*NAMED, "num", "mem(n)", "operands")
            raise UnknownNameError(
                f"unknown type {str(token)!r}; the types are {', '.join(known)}{suggest(str(token), known)}",
                _span(token),
            )
        return NAMED[str(token)]


OPERANDS = Type("operands")  # of a nonterminal that derives a list of operands


@dataclass(frozen=True, slots=True)
class _Init:
    value: float | str


def _counted(parts: Sequence[Any]) -> tuple[int, int, list[Any]]:
    """The bounds `{least..most}` at the head of `parts`, {1} where there are none, and the rest."""
    if not (isinstance(parts[0], Token) and parts[0].type == "COUNT"):
        return 1, 1, list(parts)
    least, _, most = re.sub(r"[{}\s]", "", str(parts[0])).partition("..")
    most = most or least
    small = all(len(n.lstrip("0")) <= 2 for n in (least, most))  # a number may have any length
    if not small or not int(least) <= int(most) <= 16:
        raise SpaceFileError(
            f"a count is {{n}} or {{least..most}} with least <= most <= 16; received {parts[0]!s}",
            _span(parts[0]),
        )
    return int(least), int(most), list(parts[1:])


def _number(token: Token) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise SpaceFileError(f"a number must be finite; received {token!s}", _span(token))
    return value


def _signed(parts: Sequence[Token]) -> float:
    value = _number(parts[-1])
    return -value if len(parts) == 2 else value


# ---- syntax errors ----------------------------------------------------------------------------

_CHARACTERS = {
    "{": "a count follows `state` or `let` at once, as in state{1..2}; nothing else has braces inside a space",
    "$": "`$` and a class of names, as in $vec, stands for a visible name",
    "'": "the new values of states are the names of class $new",
    ";": "rules end where the next begins: no ';' is needed",
}
_SHOWN = {
    "_LPAR": "'('", "_RPAR": "')'", "_LBRACE": "'{'", "_RBRACE": "'}'", "_COMMA": "','", "_COLON": "':'",
    "_EQUAL": "'='", "PLUS": "'+'", "MINUS": "'-'", "STAR": "'*'", "SLASH": "'/'", "_BAR": "'|'", "_ARROW": "'->'",
    "_LSQB": "'['", "_RSQB": "']'", "NAME": "a name", "NAMES": "$class", "NUMBER": "a number", "MEM": "mem(n)",
    "COUNT": "a count as in {1..2}", "LE": "'<='", "GE": "'>='", "_LIMITS": "'limits'", "_CLAIMS": "'claims'",
    "_REQUIRE": "'require'", "$END": "the end of the text",
}  # fmt: skip


def _syntax_error(error: UnexpectedInput, text: str) -> SpaceFileError:
    if isinstance(error, UnexpectedCharacters):
        char = error.char
        known = _CHARACTERS.get(char)
        return SpaceFileError(
            f"unexpected character {char!r}" + (f": {known}" if known else ""), Span(error.line, error.column)
        )
    assert isinstance(error, UnexpectedToken)
    token = error.token
    expected = frozenset(error.expected)
    if token.type == "$END":
        lines = one_newline(text).split("\n")
        last = max((i for i, line in enumerate(lines) if line.strip()), default=0)
        span = Span(last + 1, len(lines[last].rstrip()) + 1)
        if "SPACE" in expected:
            return SpaceFileError("the text is empty: a space begins with `space NAME {`", span)
        if "_RBRACE" in expected:
            return SpaceFileError("the text ends inside a space: a closing '}' is missing", span)
        return SpaceFileError(f"the text ends too early: expected {_one_of(expected)}", span)
    if "SPACE" in expected:
        message = f"a space begins with `space NAME {{`; received {str(token)!r}"
    elif expected <= {"$END", "<END-OF-FILE>"}:
        message = "one file holds one space: something follows it here"
    elif token.type == "_EQUAL" and "_ARROW" in expected:
        message = "a rule is written with an arrow, as in `vec -> tanh(vec)`"
    elif token.type == "_LBRACE":
        message = f"unexpected '{{': {_CHARACTERS['{']}"
    elif expected == {"_ARROW", "_COLON"}:
        message = f"a rule begins with `NAME ->`; received {str(token)!r} after a name: an operator or '|' is missing"
    elif token.type in ("NAMES", "X", "NUMBER") and "STAR" in expected:
        message = f"alternatives are separated by '|' and operands by an operator; received {str(token)!r}"
    else:
        message = f"unexpected {str(token)!r}: expected {_one_of(expected)}"
    return SpaceFileError(message, _span(token))


def _one_of(expected: frozenset[str]) -> str:
    shown = sorted({_SHOWN.get(name, f"'{name.lower().strip('_')}'") for name in expected})
    return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"
