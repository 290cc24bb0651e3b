"""Making a normal program, one value at a time: equal values are one, and what is trivial is never made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from grammar import IN, KEY, MAT, NUM, SCAL, VEC, Poly, Sizes, Type, join
from nas.errors import NasError
from nas.ir.program import Attr, Instr

ONE = Type("mem", 1)  # one number per sample: what reducing an `in` or a `mem` gives
COMMUTATIVE = ("add", "mul", "max", "min")

# What numbers fold by; beside the differentiable ones the two that derivatives are made of.
UNARY: Mapping[str, Callable[..., Any]] = {
    "neg": lambda a: -a,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "recip": lambda a: 1 / a,
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softplus": lambda a: np.logaddexp(0, a),
    "erf": lambda a: np.float64(math.erf(a)),
    "sin": np.sin,
    "cos": np.cos,
    "abs": np.abs,
    "relu": lambda a: np.maximum(a, 0),
    "sign": np.sign,
    "step": lambda a: np.float64(a > 0),
    "stopgrad": lambda a: a,
}
BINARY: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "ge": lambda a, b: np.float64(a >= b),
}


def wide(ratio: int) -> Type:
    """The type of `ratio` vecs side by side: the inside of an `mlp`."""
    return Type("wide", ratio)


def shape_in(type_: Type, sizes: Sizes) -> tuple[int, ...]:
    """The shape of one value of a type of normal programs, without the rows' axis."""
    return (sizes.hidden_size * type_.size,) if type_.kind == "wide" else sizes.shape(type_)


def number_in(value: object, over: object, sizes: Sizes) -> float:
    """What a `num` with these options says at these sizes: its value, divided by a size if it names one."""
    divisor = {
        "": 1,
        "D": sizes.input_size,
        "H": sizes.hidden_size,
        "N": sizes.heads,
        "K": sizes.key_size,
        "V": sizes.value_size,
    }[str(over)]
    return float(value) / divisor  # type: ignore[arg-type]


def width_of(type_: Type) -> Poly:
    """Numbers per row of a type of normal programs."""
    return VEC.width * type_.size if type_.kind == "wide" else type_.width


def wider(a: Type, b: Type) -> Type:
    """The type of an elementwise operation on two types. Raises NasError where they do not join."""
    for one, other in ((a, b), (b, a)):
        if one == ONE and other.kind in ("in", "vec", "mem", "wide"):
            return other
    joint = join(a, b)
    if joint is None:
        raise NasError(f"{a} and {b} do not join elementwise")
    return joint


def _same(a: Type, b: Type) -> bool:
    """Whether values of two types have the same axes; x is a vec where it joins one."""
    return a == b or {a.kind, b.kind} == {"in", "vec"}


class Builder:
    """Instructions of a normal program, made bottom up. Methods take and give indices into `instrs`."""

    def __init__(self) -> None:
        self.instrs: list[Instr] = []
        self._known: dict[Instr, int] = {}

    # ---- reading --------------------------------------------------------------------------

    def type(self, a: int) -> Type:
        """The type of a value."""
        return self.instrs[a].type

    def number(self, a: int) -> float | None:
        """What a `num` says, None for anything else and for a number that depends on sizes."""
        instr = self.instrs[a]
        if instr.op != "num" or instr.attr("over"):
            return None
        return float(instr.attr("value"))  # type: ignore[arg-type]

    def find(self, op: str, *args: int) -> int | None:
        """An operation of these operands, where it has been made already."""
        type_ = self.type(args[0])
        return self._known.get(Instr(op, args, type_))

    # ---- any instruction ------------------------------------------------------------------

    def emit(
        self,
        op: str,
        args: Sequence[int],
        type_: Type,
        attrs: Sequence[tuple[str, Attr]] = (),
        weight: int = -1,
        slot: int = -1,
    ) -> int:
        """An instruction as it is, or the equal one made before."""
        instr = Instr(op, tuple(args), type_, "loop", tuple(attrs), weight, (), slot)
        index = self._known.setdefault(instr, len(self.instrs))
        if index == len(self.instrs):
            self.instrs.append(instr)
        return index

    def num(self, value: float, over: str = "") -> int:
        """A number; with `over`, divided by that size (`D`, `H`, `N`, `K` or `V`)."""
        attrs: list[tuple[str, Attr]] = [("value", float(value))]
        return self.emit("num", (), NUM, [*attrs, ("over", over)] if over else attrs)

    def param(self, weight: int, type_: Type, role: str = "w", column: int = -1) -> int:
        """An array of a weight, or one place of its last axis."""
        return self.emit("param", (), type_, _address(role, column), weight)

    def lin(
        self,
        a: int,
        type_: Type,
        weight: int,
        role: str,
        *,
        transpose: bool = False,
        blocks: int | str = 1,
        column: int = -1,
    ) -> int:
        """One array of a weight times one operand, flat, the result in the shape of its type."""
        attrs = _address(role, column)
        attrs += [("transpose", True)] if transpose else []
        attrs += [("blocks", blocks)] if blocks != 1 else []
        return self.emit("lin", (a,), type_, attrs, weight)

    def apply(self, op: str, *args: int) -> int:
        """An elementwise operation, its operands brought to one type."""
        return self._unary(op, *args) if op in UNARY else self._binary(op, *args)

    # ---- elementwise, by name -------------------------------------------------------------

    def add(self, a: int, b: int) -> int:
        """a + b"""
        return self._binary("add", a, b)

    def sub(self, a: int, b: int) -> int:
        """a - b"""
        return self._binary("sub", a, b)

    def mul(self, a: int, b: int) -> int:
        """a * b"""
        return self._binary("mul", a, b)

    def div(self, a: int, b: int) -> int:
        """a / b"""
        return self._binary("div", a, b)

    def neg(self, a: int) -> int:
        """-a"""
        return self._unary("neg", a)

    def scale(self, a: int, factor: float) -> int:
        """A number times a."""
        return self.mul(self.num(factor), a)

    def total(self, terms: Sequence[int]) -> int:
        """The sum of at least one value."""
        result = terms[0]
        for term in terms[1:]:
            result = self.add(result, term)
        return result

    # ---- axes -----------------------------------------------------------------------------

    def cast(self, a: int, type_: Type) -> int:
        """A value repeated along the axes it lacks; a number becomes a value of that type."""
        if self.instrs[a].op == "cast":
            a = self.instrs[a].args[0]
        type_ = self._as_vec(a, type_)
        return a if _same(self.type(a), type_) else self.emit("cast", (a,), type_)

    def reduce(self, a: int, type_: Type) -> int:
        """A value summed over the axes that the type lacks."""
        type_ = self._as_vec(a, type_)
        if _same(self.type(a), type_):
            return a
        instr = self.instrs[a]
        if instr.op == "neg":
            return self.neg(self.reduce(instr.args[0], type_))
        if instr.op == "reduce":
            return self.reduce(instr.args[0], type_)
        if instr.op == "mul":
            for one, other in (instr.args, instr.args[::-1]):
                if self.type(one) == NUM and self.type(other) != NUM:
                    return self.mul(one, self.reduce(other, type_))
                inner = self.instrs[one].args[0] if self.instrs[one].op == "cast" else -1
                if inner >= 0 and self.type(inner) == type_ and self.type(other) == instr.type:
                    return self.mul(inner, self.reduce(other, type_))
        return self.emit("reduce", (a,), type_)

    def _as_vec(self, a: int, type_: Type) -> Type:
        """The type that x has beside a value with heads."""
        return VEC if type_ == IN and self.type(a) not in (ONE, NUM) else type_

    def read(self, s: int, k: int) -> int:
        """S^T k; what scales the rows or columns of S is moved to the vectors."""
        return self._read("read", s, k, VEC, inner=KEY)

    def readt(self, s: int, v: int) -> int:
        """S v; what scales the rows or columns of S is moved to the vectors."""
        return self._read("readt", s, v, KEY, inner=VEC)

    def _read(self, op: str, s: int, v: int, type_: Type, inner: Type) -> int:
        instr = self.instrs[s]
        if instr.op == "neg":
            return self.neg(self._read(op, instr.args[0], v, type_, inner))
        if instr.op == "mul":
            for one, other in (instr.args, instr.args[::-1]):
                factor = self.instrs[one].args[0] if self.instrs[one].op == "cast" else one
                if self.type(other) != MAT or self.type(factor) == MAT:
                    continue
                if _same(self.type(factor), inner):
                    return self._read(op, other, self.mul(factor, v), type_, inner)
                return self.mul(factor, self._read(op, other, v, type_, inner))
        return self.emit(op, (s, v), type_)

    # ---- simplification -------------------------------------------------------------------

    def _unary(self, op: str, a: int) -> int:
        instr, number = self.instrs[a], self.number(a)
        if number is not None:
            with np.errstate(all="ignore"):
                return self.num(float(UNARY[op](np.float64(number))))
        if instr.op == "cast":
            return self.cast(self._unary(op, instr.args[0]), instr.type)
        if op == "neg":
            return self._negated(a)
        return self.emit(op, (a,), instr.type)

    def _negated(self, a: int) -> int:
        instr = self.instrs[a]
        if instr.op == "neg":
            return instr.args[0]
        if instr.op == "sub":
            return self.sub(instr.args[1], instr.args[0])
        if instr.op == "mul" and self.number(instr.args[0]) is not None:
            return self.mul(self.num(-(self.number(instr.args[0]) or 0.0)), instr.args[1])
        if instr.op == "num":
            return self.num(-float(instr.attr("value")), str(instr.attr("over")))  # type: ignore[arg-type]
        return self.emit("neg", (a,), instr.type)

    def _binary(self, op: str, a: int, b: int) -> int:
        numbers = self.number(a), self.number(b)
        if None not in numbers:
            with np.errstate(all="ignore"):
                return self.num(float(BINARY[op](*(np.float64(n) for n in numbers if n is not None))))
        inner = self._smaller(a, b)
        if inner is not None:
            result = wider(self.type(a), self.type(b))
            return self.cast(self._binary(op, *inner), result)
        if self._is_full(a) and self.type(b) == wider(self.type(a), self.type(b)):
            a = self.instrs[a].args[0]
        if self._is_full(b) and self.type(a) == wider(self.type(a), self.type(b)):
            b = self.instrs[b].args[0]
        simple = self._simple(op, a, b)
        if simple is not None:
            return simple
        result = wider(self.type(a), self.type(b))
        args = [k if self.type(k) == NUM else self.cast(k, result) for k in (a, b)]
        if op in COMMUTATIVE:
            args.sort(key=lambda k: (self.type(k) != NUM, k))
        return self.emit(op, args, result)

    def _is_full(self, a: int) -> bool:
        instr = self.instrs[a]
        return instr.op == "cast" and self.type(instr.args[0]) == NUM

    def _smaller(self, a: int, b: int) -> tuple[int, int] | None:
        """The operands before casts, where the operation can be done there."""
        inner = [self.instrs[k].args[0] if self.instrs[k].op == "cast" else k for k in (a, b)]
        if inner == [a, b]:
            return None
        if any(k == i and self.type(k) != NUM for k, i in zip((a, b), inner, strict=True)):
            return None
        types = {self.type(k).kind for k in inner}
        return None if types == {"key", "vec"} or types == {"key", "in"} else (inner[0], inner[1])

    def _simple(self, op: str, a: int, b: int) -> int | None:
        rules = {"add": self._sum, "sub": self._difference, "mul": self._product, "div": self._quotient}
        return rules[op](a, b) if op in rules else None

    def _sum(self, a: int, b: int) -> int | None:
        for one, other in ((a, b), (b, a)):
            if self.number(one) == 0:
                return other
            if self.instrs[other].op == "neg":
                return self.sub(one, self.instrs[other].args[0])
        return self.scale(a, 2.0) if a == b else None

    def _difference(self, a: int, b: int) -> int | None:
        if self.number(b) == 0:
            return a
        if self.number(a) == 0:
            return self.neg(b)
        if self.instrs[b].op == "neg":
            return self.add(a, self.instrs[b].args[0])
        if self.instrs[b].op == "sub" and self.instrs[b].args[0] == a:
            return self._typed(self.instrs[b].args[1], self.instrs[b].type)
        return None

    def _typed(self, a: int, type_: Type) -> int:
        """A value as one of a type it joins, cast only where it lacks axes."""
        return a if self.type(a) == type_ else self.cast(a, type_)

    def _product(self, a: int, b: int) -> int | None:
        for one, other in ((a, b), (b, a)):
            number, instr = self.number(one), self.instrs[other]
            if number == 1:
                return other
            if number == -1:
                return self.neg(other)
            if instr.op == "neg":
                return self.neg(self.mul(one, instr.args[0]))
            if self.type(one) == NUM:
                return self._scaled(one, instr)
            if instr.op == "mul" and self.type(instr.args[0]) == NUM:
                return self.mul(instr.args[0], self.mul(one, instr.args[1]))
            if self.instrs[one].op == "step" and self._has_factor(other, one):
                return other
        return None

    def _scaled(self, number: int, product: Instr) -> int | None:
        """A number times a number or a product: it joins another number, or a factor with fewer axes."""
        value = self.number(number)
        if product.op == "num" and value is not None:
            return self.num(value * float(product.attr("value")), str(product.attr("over")))  # type: ignore[arg-type]
        if product.op != "mul":
            return None
        for one, other in (product.args, product.args[::-1]):
            if self.type(one) == NUM:
                folded = self.mul(number, one)
                return self.mul(folded, other) if self.instrs[folded].op == "num" else None
            if self.instrs[one].op == "cast":
                factor = self.mul(number, self.instrs[one].args[0])
                return self.mul(self.cast(factor, self.type(one)), other)
        return None

    def _has_factor(self, product: int, factor: int) -> bool:
        """Whether a product of products has a factor."""
        seen, todo = {product}, [product]
        while todo and factor not in seen:
            instr = self.instrs[todo.pop()]
            if instr.op == "mul":
                todo += [a for a in instr.args if a not in seen]
                seen.update(instr.args)
        return factor in seen

    def _quotient(self, a: int, b: int) -> int | None:
        number, instr = self.number(b), self.instrs[b]
        if number is not None and number != 0:
            return self.mul(self.num(1 / number), a)
        if self.number(a) == 1:
            return self._unary("recip", b)
        if instr.op == "cast":
            return self.mul(a, self._unary("recip", b))
        if self.instrs[a].op == "neg":
            return self.neg(self.div(self.instrs[a].args[0], b))
        return None


def _address(role: str, column: int) -> list[tuple[str, Attr]]:
    return [("role", role), ("column", column)] if column >= 0 else [("role", role)]


# The types whose values are reduced per head, and to what the others are.
def summed(type_: Type) -> Type:
    """The type of one number for each head of a value, or for the whole of an `in` or `mem`."""
    return SCAL if type_.kind in ("vec", "key", "scal") or type_ == MAT else ONE


def count_of(type_: Type, builder: Builder) -> int:
    """One over how many numbers a head of a value has, or the whole of an `in` or `mem`."""
    if type_.kind == "mem":
        return builder.num(1 / type_.size)
    return builder.num(1.0, {"vec": "V", "key": "K", IN.kind: "D"}[type_.kind])
