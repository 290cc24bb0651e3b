"""The tree a text parses to: expressions and statements, frozen; places do not count in equality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from grammar.errors import CellTypeError, Span
from grammar.ops import Value
from grammar.types import Type

MAX_DEPTH = 200  # of nesting in one expression


@dataclass(frozen=True, slots=True)
class Expr:
    """One node: an operation of the table, or a leaf (`x`, `num`, `ref`, `child`, `choice`).

    `attrs` are the options, sorted by name, defaults left out; a `num` has `value`, a `ref` has
    `name` (primed for a new value, as in `h'`), a `child` has `child` and `state`, a `choice` the `weights` of its
    options if they are not all 1.
    """

    op: str
    args: tuple[Expr, ...] = ()
    attrs: tuple[tuple[str, Value], ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", 1 + max((a.depth for a in self.args), default=0))

    def attr(self, name: str, default: Value = "") -> Value:
        """The option `name`, or `default`."""
        for key, value in self.attrs:
            if key == name:
                return value
        return default

    def walk(self) -> Iterator[Expr]:
        """This node and all below it, parents first."""
        stack = [self]
        while stack:
            here = stack.pop()
            yield here
            stack.extend(here.args[::-1])


@dataclass(frozen=True, slots=True)
class State:
    """A state's name, type and initial value: a number, `-inf`, `"learned"`, or `"x"` (a seq state)."""

    name: str
    type: Type
    init: float | str = 0.0
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Let:
    """`name = expr`, or with a primed name `h' = expr` the new value of a state."""

    name: str
    expr: Expr
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def primed(self) -> bool:
        """Whether this is the equation of a state's new value."""
        return self.name.endswith("'")


@dataclass(frozen=True, slots=True)
class Out:
    """`out expr`: what the cell emits."""

    expr: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Leaf:
    """`leaf { ... }`: the equations of a tree cell at a leaf."""

    body: tuple[Statement, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    """`repeat n { ... }`: sub-steps in one step; `fresh` gives each its own weights."""

    times: int
    fresh: bool
    body: tuple[Statement, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Depth:
    """`depth n { ... }` or `depth n until(p) { ... }`: recursion in depth, shared weights."""

    times: int
    until: Expr | None
    body: tuple[Statement, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


Statement = Let | Out | Leaf | Repeat | Depth


def expressions(statements: Iterable[Statement]) -> Iterator[Expr]:
    """Every expression of a text in reading order, a block's gate first."""
    for statement in statements:
        if isinstance(statement, Let | Out):
            yield statement.expr
        else:
            if isinstance(statement, Depth) and statement.until is not None:
                yield statement.until
            yield from expressions(statement.body)


def num(value: float) -> Expr:
    """A literal number. Raises CellTypeError unless it is finite."""
    if not math.isfinite(value):
        raise CellTypeError(f"a number must be finite; received {value}")
    return Expr("num", (), (("value", float(value)),))


def choice(options: Sequence[Expr], weights: Sequence[float] = (), link: str = "") -> Expr:
    """A hole of a sketch: one of `options`. `weights` say how likely each is; all 1 if left out.

    All holes of one `link` are filled with the option of the same number.
    """
    attrs: list[tuple[str, Value]] = [("link", link)] if link else []
    if any(w != 1 for w in weights):
        attrs.append(("weights", tuple(map(float, weights))))
    return Expr("choice", tuple(options), tuple(attrs))


def choice_weights(expr: Expr) -> tuple[float, ...]:
    """The weight of each option of a choice."""
    given = expr.attr("weights", (1.0,) * len(expr.args))
    assert isinstance(given, tuple)
    return tuple(map(float, given))


def ref(name: str) -> Expr:
    """A name: a let, a state, or with a prime a state's new value."""
    return Expr("ref", (), (("name", name),))


def spread(expr: Expr) -> int:
    """Values in an expression none of whose parts gets a name, once `square` and `silu` are products: these repeat."""
    return 1 + sum(map(spread, expr.args)) * (2 if expr.op in ("square", "silu") else 1)


X = Expr("x")
