"""How gradients go back through each primitive: one rule per entry of `PRIMITIVES` through which any goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from nas.ir.builder import Builder
from nas.ir.program import Instr


class Reverse(Protocol):
    """What a rule works on: the forward program's values, and where the backward program is built."""

    b: Builder

    def value(self, k: int) -> int:
        """In the backward program, the value of a forward instruction."""
        ...

    def made(self, op: str, a: int) -> int:
        """An operation of a forward value: the forward program's own where it has that."""
        ...

    def is_number(self, k: int) -> bool:
        """Whether a forward instruction is a bare number."""
        ...


# (the pass, a forward instruction and its index, the gradient of its value) -> those of its operands, None for none
Rule = Callable[[Reverse, Instr, int, int], tuple[int | None, ...]]


def _unary(slope: Callable[[Reverse, int, int, int], int]) -> Rule:
    """A rule of an elementwise operation of one operand: `slope(r, operand, result, gradient)`."""
    return lambda r, instr, k, g: (slope(r, instr.args[0], k, g),)


def _tanh(r: Reverse, a: int, k: int, g: int) -> int:
    y = r.value(k)
    return r.b.mul(g, r.b.sub(r.b.num(1.0), r.b.mul(y, y)))


def _sigmoid(r: Reverse, a: int, k: int, g: int) -> int:
    y = r.value(k)
    return r.b.mul(g, r.b.sub(y, r.b.mul(y, y)))


def _rsqrt(r: Reverse, a: int, k: int, g: int) -> int:
    y = r.value(k)
    return r.b.scale(r.b.mul(g, r.b.mul(y, r.b.mul(y, y))), -0.5)


def _recip(r: Reverse, a: int, k: int, g: int) -> int:
    y = r.value(k)
    return r.b.neg(r.b.mul(g, r.b.mul(y, y)))


def _erf(r: Reverse, a: int, k: int, g: int) -> int:
    u = r.value(a)
    bell = r.b.apply("exp", r.b.neg(r.b.mul(u, u)))
    return r.b.mul(g, r.b.scale(bell, 2 / math.sqrt(math.pi)))


def _mul(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    a, b = instr.args
    if a == b:
        return (r.b.scale(r.b.mul(g, r.value(a)), 2.0), None)
    return (
        None if r.is_number(a) else r.b.mul(g, r.value(b)),
        None if r.is_number(b) else r.b.mul(g, r.value(a)),
    )


def _div(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    a, b = instr.args
    first = r.b.mul(g, r.b.apply("recip", r.value(b)))
    return (
        None if r.is_number(a) else first,
        None if r.is_number(b) else r.b.neg(r.b.mul(first, r.value(k))),
    )


def _extreme(larger: bool) -> Rule:
    """`max` and `min`: to the chosen operand; of two equal ones half to each, but all beside a number."""

    def rule(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
        a, b = instr.args
        if r.is_number(a) or r.is_number(b):
            one, other = (b, a) if r.is_number(a) else (a, b)
            pair = (one, other) if larger else (other, one)
            chosen = r.b.mul(g, r.b.apply("ge", *map(r.value, pair)))
            return (None, chosen) if r.is_number(a) else (chosen, None)
        first, second = map(r.value, (a, b) if larger else (b, a))
        difference = r.b.sub(r.b.apply("ge", first, second), r.b.apply("ge", second, first))
        part = r.b.mul(g, r.b.add(r.b.num(0.5), r.b.scale(difference, 0.5)))
        return part, r.b.sub(g, part)

    return rule


def _hmax(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    """Equal ones share the gradient."""
    a = r.value(instr.args[0])
    chosen = r.b.apply("ge", a, r.b.cast(r.value(k), r.b.type(a)))
    share = r.b.div(g, r.b.reduce(chosen, instr.type))
    return (r.b.mul(chosen, r.b.cast(share, r.b.type(a))),)


def _outer(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    key, val = instr.args
    return r.b.readt(g, r.value(val)), r.b.read(g, r.value(key))


def _read(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    mat, key = instr.args
    outer = r.b.emit("outer", (r.value(key), g), r.b.type(r.value(mat)))
    return outer, r.b.readt(r.value(mat), g)


def _readt(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    mat, val = instr.args
    outer = r.b.emit("outer", (g, r.value(val)), r.b.type(r.value(mat)))
    return outer, r.b.read(r.value(mat), g)


def _cast(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    (a,) = instr.args
    return (None if r.is_number(a) else r.b.reduce(g, r.b.type(r.value(a))),)


def _reduce(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    return (r.b.cast(g, r.b.type(r.value(instr.args[0]))),)


def _view(op: str) -> Rule:
    return lambda r, instr, k, g: (r.b.emit(op, (g,), r.b.type(r.value(instr.args[0]))),)


def _lin(r: Reverse, instr: Instr, k: int, g: int) -> tuple[int | None, ...]:
    """W^T du; the weight's own gradient is made by the pass."""
    attrs = dict(instr.attrs)
    attrs["transpose"] = not attrs.get("transpose", False)
    order = ("role", "column", "transpose", "blocks")
    kept = tuple((key, attrs[key]) for key in order if key in attrs and attrs[key] is not False)
    type_ = r.b.type(r.value(instr.args[0]))
    return (r.b.emit("lin", (g,), type_, kept, instr.weight),)


DERIVATIVES: Mapping[str, Rule] = MappingProxyType(
    {
        "neg": _unary(lambda r, a, k, g: r.b.neg(g)),
        "exp": _unary(lambda r, a, k, g: r.b.mul(g, r.value(k))),
        "log": _unary(lambda r, a, k, g: r.b.mul(g, r.b.apply("recip", r.value(a)))),
        "sqrt": _unary(lambda r, a, k, g: r.b.scale(r.b.mul(g, r.b.apply("recip", r.value(k))), 0.5)),
        "rsqrt": _unary(_rsqrt),
        "recip": _unary(_recip),
        "tanh": _unary(_tanh),
        "sigmoid": _unary(_sigmoid),
        "softplus": _unary(lambda r, a, k, g: r.b.mul(g, r.made("sigmoid", a))),
        "erf": _unary(_erf),
        "sin": _unary(lambda r, a, k, g: r.b.mul(g, r.made("cos", a))),
        "cos": _unary(lambda r, a, k, g: r.b.neg(r.b.mul(g, r.made("sin", a)))),
        "abs": _unary(lambda r, a, k, g: r.b.mul(g, r.b.apply("sign", r.value(a)))),
        "relu": _unary(lambda r, a, k, g: r.b.mul(g, r.b.apply("step", r.value(k)))),
        "add": lambda r, instr, k, g: tuple(None if r.is_number(a) else g for a in instr.args),
        "sub": lambda r, instr, k, g: (
            None if r.is_number(instr.args[0]) else g,
            None if r.is_number(instr.args[1]) else r.b.neg(g),
        ),
        "mul": _mul,
        "div": _div,
        "max": _extreme(larger=True),
        "min": _extreme(larger=False),
        "cast": _cast,
        "reduce": _reduce,
        "hmax": _hmax,
        "tokey": _view("toval"),
        "toval": _view("tokey"),
        "outer": _outer,
        "read": _read,
        "readt": _readt,
        "lin": _lin,
    }
)
# Through these no gradient goes, or (leaves) it ends there.
NO_DERIVATIVE = ("sign", "step", "stopgrad", "ge", "num", "x", "state", "child", "param")
# These stand in backward programs alone, of which there is no second derivative.
BACKWARD_ONLY = ("saved", "past", "next", "dy", "total", "gram")
