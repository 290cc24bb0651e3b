"""What composite operations are made of: one entry per operation of the table that is no primitive.

A primitive is what a kernel backend renders; see `PRIMITIVES` in nas/ir/normal.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from grammar import OPS, VEC, Cell, Type
from nas.errors import BuildError
from nas.ir.builder import Builder, count_of, summed, wide
from nas.ir.program import Instr

# (where to build, the instruction, its operands) -> the result
Expansion = Callable[[Builder, Instr, Sequence[int]], int]

_EXPANSIONS: dict[str, Expansion] = {}
EXPANSIONS: Mapping[str, Expansion] = MappingProxyType(_EXPANSIONS)
_USERS: set[str] = set()


def register_expansion(name: str, expansion: Expansion) -> None:
    """Say what a user's own operation is made of, so that compiled backends and their gradients know it.

    `expansion(builder, instr, args)` builds the result out of the operands. The operation is in the table already
    (`grammar.register`). Raises BuildError where it is not, or is expanded.
    """
    if name not in OPS:
        raise BuildError(f"{name!r} is not in the table of operations: grammar.register(Op(...)) comes first")
    if name in _EXPANSIONS:
        raise BuildError(f"an operation has one expansion, but {name!r} has one already")
    _EXPANSIONS[name] = expansion
    _USERS.add(name)


def expanded_by_users(cell: Cell) -> bool:
    """Whether what a cell computes is not said by its text alone: it has operations that `register_expansion` named."""
    return any(node.op in _USERS for node in cell.graph.nodes)


def _entry(name: str) -> Callable[[Expansion], Expansion]:
    def add(expansion: Expansion) -> Expansion:
        _EXPANSIONS[name] = expansion
        return expansion

    return add


# ---- elementwise ------------------------------------------------------------------------------


@_entry("leaky_relu")
def _leaky_relu(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    (a,) = args
    return b.mul(b.add(b.num(0.01), b.scale(b.apply("step", a), 0.99)), a)


@_entry("gelu")
def _gelu(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    return gelu(b, args[0])


def gelu(b: Builder, a: int) -> int:
    """a times the normal distribution function of a."""
    inside = b.apply("erf", b.scale(a, math.sqrt(0.5)))
    return b.mul(b.add(b.num(0.5), b.scale(inside, 0.5)), a)


@_entry("silu")
def _silu(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    (a,) = args
    return b.mul(a, b.apply("sigmoid", a))


@_entry("logsigmoid")
def _logsigmoid(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    (a,) = args
    return b.neg(b.apply("softplus", b.neg(a)))


@_entry("sqrt1m2")
def _sqrt1m2(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    (a,) = args
    return safe_root(b, b.sub(b.num(1.0), b.mul(a, a)))


def nonzero(b: Builder, a: int) -> int:
    """A value that is at least 0, with 1 where it is 0: what can be divided by."""
    return b.add(a, b.sub(b.num(1.0), b.apply("step", a)))


def safe_root(b: Builder, a: int) -> int:
    """The square root where `a` is above 0, else 0, without the infinite slope there."""
    positive = b.apply("step", a)
    inside = b.add(b.mul(a, positive), b.sub(b.num(1.0), positive))
    return b.mul(b.apply("sqrt", inside), positive)


@_entry("square")
def _square(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    return b.mul(args[0], args[0])


@_entry("lerp")
def _lerp(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    gate, low, high = args
    return b.add(low, b.mul(gate, b.sub(high, low)))


# ---- over heads -------------------------------------------------------------------------------


def _squares(b: Builder, a: int) -> int:
    return b.reduce(b.mul(a, a), summed(b.type(a)))


def _mean(b: Builder, a: int, total: int) -> int:
    return b.mul(count_of(b.type(a), b), total)


@_entry("l2norm")
def _l2norm(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    (a,) = args
    return b.mul(a, b.apply("rsqrt", b.add(_squares(b, a), b.num(1e-12))))


@_entry("rmsnorm")
def _rmsnorm(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    (a,) = args
    return b.mul(a, b.apply("rsqrt", b.add(_mean(b, a, _squares(b, a)), b.num(1e-6))))


@_entry("lnorm")
def _lnorm(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    (a,) = args
    mean = _mean(b, a, b.reduce(a, summed(b.type(a))))
    centred = b.sub(a, b.cast(mean, b.type(a)))
    variance = _mean(b, a, _squares(b, centred))
    return b.mul(centred, b.apply("rsqrt", b.add(variance, b.num(1e-5))))


@_entry("softmax")
def _softmax(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    (a,) = args
    per_head = summed(b.type(a))
    largest = b.emit("hmax", (a,), per_head)
    powers = b.apply("exp", b.sub(a, b.apply("stopgrad", largest)))
    return b.div(powers, b.reduce(powers, per_head))


@_entry("hsum")
def _hsum(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    return b.reduce(args[0], instr.type)


@_entry("dot")
def _dot(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    return b.reduce(b.mul(args[0], args[1]), instr.type)


@_entry("reflect")
def _reflect(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    z, v = args
    size = b.reduce(b.mul(v, v), summed(VEC))
    along = b.div(b.reduce(b.mul(v, z), summed(VEC)), nonzero(b, size))
    return b.sub(z, b.mul(b.scale(along, 2.0), v))


# ---- weights ----------------------------------------------------------------------------------


@_entry("diag")
def _diag(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    return b.mul(b.param(instr.weight, instr.type), args[0])


@_entry("mlp")
def _mlp(b: Builder, instr: Instr, args: Sequence[int]) -> int:
    inner = wide(int(instr.attr("ratio", 4)))  # type: ignore[arg-type]
    up = b.add(b.lin(args[0], inner, instr.weight, "w1"), b.param(instr.weight, inner, "b1"))
    down = b.lin(gelu(b, up), instr.type, instr.weight, "w2")
    return b.add(down, b.param(instr.weight, instr.type, "b2"))


# ---- complex operands or results: each value is a real and an imaginary part -------------------


class Pair(tuple[int, int | None]):
    """The parts of a complex value; the imaginary one is None where it is 0."""

    __slots__ = ()

    def __new__(cls, re: int, im: int | None = None) -> Pair:
        return super().__new__(cls, (re, im))


ComplexExpansion = Callable[[Builder, Instr, Sequence[Pair]], Pair | int]


def part_type(type_: Type) -> Type:
    """The type of the parts of a complex value; a real type as it is."""
    return {"cvec": VEC, "cmat": Type("mat")}.get(type_.kind, type_)


def _each(op: str) -> ComplexExpansion:
    def expansion(b: Builder, instr: Instr, args: Sequence[Pair]) -> Pair:
        (z,) = args
        return Pair(b.apply(op, z[0]), None if z[1] is None else b.apply(op, z[1]))

    return expansion


def plus(b: Builder, p: Pair, q: Pair) -> Pair:
    """p + q"""
    im = q[1] if p[1] is None else p[1] if q[1] is None else b.add(p[1], q[1])
    return Pair(b.add(p[0], q[0]), im)


def minus(b: Builder, p: Pair, q: Pair) -> Pair:
    """p - q"""
    return plus(b, p, Pair(b.neg(q[0]), None if q[1] is None else b.neg(q[1])))


def times(b: Builder, p: Pair, q: Pair) -> Pair:
    """p * q"""
    re, im = b.mul(p[0], q[0]), None
    if p[1] is not None and q[1] is not None:
        re = b.sub(re, b.mul(p[1], q[1]))
    if q[1] is not None:
        im = b.mul(p[0], q[1])
    if p[1] is not None:
        other = b.mul(p[1], q[0])
        im = other if im is None else b.add(im, other)
    return Pair(re, im)


def over(b: Builder, p: Pair, q: Pair) -> Pair:
    """p / q"""
    if q[1] is None:
        return Pair(b.div(p[0], q[0]), None if p[1] is None else b.div(p[1], q[0]))
    size = b.add(b.mul(q[0], q[0]), b.mul(q[1], q[1]))
    made = times(b, p, Pair(q[0], b.neg(q[1])))
    return Pair(b.div(made[0], size), None if made[1] is None else b.div(made[1], size))


def _modulus(b: Builder, z: Pair) -> int:
    if z[1] is None:
        return b.apply("abs", z[0])
    return safe_root(b, b.add(b.mul(z[0], z[0]), b.mul(z[1], z[1])))


def _complex_exp(b: Builder, instr: Instr, args: Sequence[Pair]) -> Pair:
    ((re, im),) = args
    size = b.apply("exp", re)
    if im is None:
        return Pair(size)
    return Pair(b.mul(size, b.apply("cos", im)), b.mul(size, b.apply("sin", im)))


def _complex_lerp(b: Builder, instr: Instr, args: Sequence[Pair]) -> Pair:
    gate, low, high = args
    return plus(b, low, times(b, gate, minus(b, high, low)))


def _modrelu(b: Builder, instr: Instr, args: Sequence[Pair]) -> Pair:
    z, bias = args
    size = _modulus(b, z)
    factor = b.div(b.apply("relu", b.add(size, bias[0])), nonzero(b, size))
    return times(b, z, Pair(factor))


def _complex_reflect(b: Builder, instr: Instr, args: Sequence[Pair]) -> Pair:
    z, v = args
    conjugate = Pair(v[0], None if v[1] is None else b.neg(v[1]))
    size, product = times(b, conjugate, v)[0], times(b, conjugate, z)
    divisor = nonzero(b, b.reduce(size, summed(VEC)))
    along = Pair(*(None if p is None else b.div(b.reduce(p, summed(VEC)), divisor) for p in product))  # type: ignore[arg-type]
    return minus(b, z, times(b, Pair(b.num(2.0)), times(b, along, v)))


def _complex_read(b: Builder, instr: Instr, args: Sequence[Pair]) -> Pair:
    s, k = args
    made = [None if part is None else b.read(part, k[0]) for part in s]
    return Pair(*made)  # type: ignore[arg-type]


def _complex_param(b: Builder, instr: Instr, args: Sequence[Pair]) -> Pair:
    type_ = part_type(instr.type)
    return Pair(*(b.param(instr.weight, type_, "w", part) for part in (0, 1)))


def _re(b: Builder, instr: Instr, args: Sequence[Pair]) -> int:
    return b.cast(args[0][0], instr.type)


def _im(b: Builder, instr: Instr, args: Sequence[Pair]) -> int:
    part = args[0][1]
    return b.cast(b.num(0.0) if part is None else part, instr.type)


COMPLEX: Mapping[str, ComplexExpansion] = MappingProxyType(
    {
        "neg": _each("neg"),
        "stopgrad": _each("stopgrad"),
        "exp": _complex_exp,
        "re": _re,
        "im": _im,
        "abs": lambda b, instr, args: _modulus(b, args[0]),
        "cis": lambda b, instr, args: Pair(b.apply("cos", args[0][0]), b.apply("sin", args[0][0])),
        "complex": lambda b, instr, args: Pair(args[0][0], args[1][0]),
        "add": lambda b, instr, args: plus(b, *args),
        "sub": lambda b, instr, args: minus(b, *args),
        "mul": lambda b, instr, args: times(b, *args),
        "div": lambda b, instr, args: over(b, *args),
        "lerp": _complex_lerp,
        "modrelu": _modrelu,
        "reflect": _complex_reflect,
        "read": _complex_read,
        "param": _complex_param,
    }
)
