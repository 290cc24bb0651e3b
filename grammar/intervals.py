"""Sets of values that a node cannot leave: intervals of reals, and one rule per operation of the table.

Bounds hold for finite inputs and any trained weight, and in exact arithmetic: no ends are rounded
outward. Ends are open or closed, because `exp(a)` never reaches 0 and `relu(a)` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from grammar.errors import GrammarError
from grammar.graph import Node, Weight
from grammar.ops import OPS

INF = math.inf


class Interval(NamedTuple):
    """Real numbers from `low` to `high`; an open end is not reached (at infinity: unbounded, but finite)."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    @property
    def is_point(self) -> bool:
        """Whether it holds one number."""
        return self.low == self.high

    def __contains__(self, value: float) -> bool:  # type: ignore[override]
        above = self.low < value or (self.low == value and not self.open_low)
        return above and (value < self.high or (value == self.high and not self.open_high))

    def within(self, other: Interval) -> bool:
        """Whether every number of this one is in `other`."""
        low = self.low > other.low or (self.low == other.low and self.open_low >= other.open_low)
        high = self.high < other.high or (self.high == other.high and self.open_high >= other.open_high)
        return low and high

    def __neg__(self) -> Interval:
        return Interval(0.0 - self.high, 0.0 - self.low, self.open_high, self.open_low)

    def __str__(self) -> str:
        if self.is_point:
            return f"{{{self.low:g}}}"
        left = "(" if self.open_low else "["
        return f"{left}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


REALS = Interval(-INF, INF, True, True)
ZERO = Interval(0.0, 0.0)
UNIT = Interval(0.0, 1.0)
SYMMETRIC = Interval(-1.0, 1.0)
NONNEGATIVE = Interval(0.0, INF, open_high=True)
_End = tuple[float, bool]


def point(value: float) -> Interval:
    """One number."""
    return Interval(value, value)


def hull(a: Interval, b: Interval) -> Interval:
    """The smallest interval that holds both."""
    low, high = min(_low(a), _low(b)), max(_high(a), _high(b), key=_upper)
    return Interval(low[0], high[0], low[1], high[1])


def meet(a: Interval, b: Interval) -> Interval:
    """What two true statements say together; where rounding makes them contradict, the first."""
    low, high = max(_low(a), _low(b)), min(_high(a), _high(b), key=_upper)
    if low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1])):
        return a
    return Interval(low[0], high[0], low[1], high[1])


def _low(a: Interval) -> _End:
    return a.low, a.open_low


def _high(a: Interval) -> _End:
    return a.high, a.open_high


def _upper(end: _End) -> tuple[float, bool]:
    return end[0], not end[1]


# ---- arithmetic -------------------------------------------------------------------------------


def add(a: Interval, b: Interval) -> Interval:
    """a + b."""
    low, high = _plus(_low(a), _low(b), -INF), _plus(_high(a), _high(b), INF)
    return Interval(low[0], high[0], low[1], high[1])


def _plus(a: _End, b: _End, far: float) -> _End:
    """The sum of two ends on the same side; `far` is that side's infinity, which one closed end reaches."""
    if far in (a[0], b[0]):
        return far, (far, False) not in (a, b)
    total = a[0] + b[0]
    return (far, True) if math.isinf(total) else (total, a[1] or b[1])


def sub(a: Interval, b: Interval) -> Interval:
    """a - b."""
    return add(a, -b)


def mul(a: Interval, b: Interval) -> Interval:
    """a * b."""
    ends = [_times(p, q) for p in (_low(a), _high(a)) for q in (_low(b), _high(b))]
    low, high = min(ends), max(ends, key=_upper)
    return Interval(low[0], high[0], low[1], high[1])


def _times(a: _End, b: _End) -> _End:
    (v, v_open), (w, w_open) = a, b
    if v == 0.0 or w == 0.0:
        return 0.0, not ((v == 0.0 and not v_open) or (w == 0.0 and not w_open))
    product = v * w
    if math.isinf(product):
        return product, not ((math.isinf(v) and not v_open) or (math.isinf(w) and not w_open))
    return product, v_open or w_open


def div(a: Interval, b: Interval) -> Interval:
    """a / b; where b can be 0, what holds wherever it is not."""
    return mul(a, _reciprocal(b))


def _reciprocal(b: Interval) -> Interval:
    if b.low < 0 < b.high or b == ZERO:
        return REALS
    if b.high <= 0:
        return -_reciprocal(-b)
    low = (0.0, b.open_high) if b.high == INF else (1 / b.high, b.open_high)
    high = (INF, True) if b.low == 0 or math.isinf(1 / b.low) else (1 / b.low, b.open_low)
    return Interval(low[0], high[0], low[1], high[1])


def maximum(a: Interval, b: Interval) -> Interval:
    """The larger of the two."""
    low, high = max(_low(a), _low(b)), max(_high(a), _high(b), key=_upper)
    return Interval(low[0], high[0], low[1], high[1])


def minimum(a: Interval, b: Interval) -> Interval:
    """The smaller of the two."""
    return -maximum(-a, -b)


def magnitude(a: Interval) -> Interval:
    """|a|."""
    if a.low >= 0:
        return a
    if a.high <= 0:
        return -a
    high = max(_high(a), _high(-a), key=_upper)
    return Interval(0.0, high[0], False, high[1])


def square(a: Interval) -> Interval:
    """a * a."""
    return monotone(lambda v: v * v)(magnitude(a))


def lerp(gate: Interval, a: Interval, b: Interval) -> Interval:
    """g * b + (1 - g) * a: between a and b for a gate in [0, 1]."""
    direct = add(mul(gate, b), mul(sub(point(1.0), gate), a))
    return meet(direct, hull(a, b)) if gate.within(UNIT) else direct


def total(a: Interval) -> Interval:
    """The sum of any number, at least one, of such values."""
    low = a.low if a.low >= 0 else -INF
    high = a.high if a.high <= 0 else INF
    return Interval(low, high, a.open_low or low == -INF, a.open_high or high == INF)


def monotone(function: Callable[[float], float]) -> Callable[[Interval], Interval]:
    """The image under an increasing function that has limits at infinity."""

    def at(value: float) -> float:
        try:
            return function(value)
        except OverflowError:
            return INF

    def image(a: Interval) -> Interval:
        low, high = at(a.low), at(a.high)
        return Interval(low, high, a.open_low or (low == INF > a.low), a.open_high or (high == INF > a.high))

    return image


# ---- elementary functions ---------------------------------------------------------------------


def _sigmoid(v: float) -> float:
    small = math.exp(-abs(v))
    return 1 / (1 + small) if v >= 0 else small / (1 + small)


def _softplus(v: float) -> float:
    return max(v, 0.0) + math.log1p(math.exp(-abs(v)))


def _dipping(function: Callable[[float], float], least: float) -> Callable[[Interval], Interval]:
    """The image under a function that is 0 at -inf, falls to `least` and then rises, and is 0 at 0."""

    def image(a: Interval) -> Interval:
        ends = [(0.0, True) if e[0] == -INF else (function(e[0]), e[1]) for e in (_low(a), _high(a))]
        high = max(ends, key=_upper)
        low = (least, False) if a.low < 0 else ends[0]
        return Interval(low[0], high[0], low[1], high[1])

    return image


def _gelu(v: float) -> float:
    return v if v == INF else v * 0.5 * (1 + math.erf(v / math.sqrt(2)))


def _silu(v: float) -> float:
    return v if v == INF else v * _sigmoid(v)


def _log(a: Interval) -> Interval:
    if a.high <= 0:
        return REALS
    low = math.log(a.low) if a.low > 0 else -INF
    return Interval(low, math.log(a.high), a.open_low or a.low < 0, a.open_high)


def _sqrt(a: Interval) -> Interval:
    return monotone(math.sqrt)(meet(a, NONNEGATIVE)) if a.high > 0 or 0.0 in a else NONNEGATIVE


def _sqrt1m2(a: Interval) -> Interval:
    size = magnitude(a)
    low, high = (math.sqrt(1 - v * v) if v < 1 else 0.0 for v in (size.high, size.low))
    return Interval(low, high, size.open_high and size.high <= 1, size.open_low and size.low <= 1)


def _wave(function: Callable[[float], float]) -> Callable[[Interval], Interval]:
    return lambda a: point(function(a.low)) if a.is_point and math.isfinite(a.low) else SYMMETRIC


def _signed(limit: float) -> Callable[[Interval], Interval]:
    """The image under a norm: the sign is kept, the size is at most `limit`."""

    def image(a: Interval) -> Interval:
        is_open = limit == INF
        low = 0.0 if a.low >= 0 else -limit
        high = 0.0 if a.high <= 0 else limit
        return Interval(low, high, is_open and low != 0, is_open and high != 0)

    return image


# ---- values, real or complex ------------------------------------------------------------------


class Range(NamedTuple):
    """Where a value lies: its real part, its imaginary part, and its absolute value."""

    re: Interval
    im: Interval
    size: Interval

    @staticmethod
    def real(re: Interval) -> Range:
        """A real value."""
        return Range(re, ZERO, magnitude(re))

    @staticmethod
    def complex(re: Interval, im: Interval, size: Interval = NONNEGATIVE) -> Range:
        """A complex value; what the parts say of the size, and the size of the parts, is added."""
        disc = Interval(-size.high, size.high, size.open_high, size.open_high)
        re, im = meet(re, disc), meet(im, disc)
        a, b = magnitude(re), magnitude(im)
        low = max((a.low, a.open_low), (b.low, b.open_low))
        high = INF if INF in (a.high, b.high) else math.hypot(a.high, b.high)
        box = Interval(low[0], high, low[1], a.open_high or b.open_high)
        return Range(re, im, meet(size, box))

    @property
    def is_point(self) -> bool:
        """Whether it is one number, whatever is fed in."""
        return self.re.is_point and self.im.is_point


ANY_REAL = Range.real(REALS)
ANY_COMPLEX = Range(REALS, REALS, NONNEGATIVE)
ANY = {False: ANY_REAL, True: ANY_COMPLEX}


def join(a: Range, b: Range) -> Range:
    """The smallest range that holds both."""
    return Range(hull(a.re, b.re), hull(a.im, b.im), hull(a.size, b.size))


# (node, ranges of its operands, its weight) -> range of the result
Rule = Callable[[Node, Sequence[Range], Weight | None], Range]
_RULES: dict[str, Rule] = {}
RULES: Mapping[str, Rule] = _RULES


def register_range(name: str, rule: Rule) -> None:
    """Give an operation of the table its rule. Without one, `Op.bounds` or nothing is known of its result.

    Raises GrammarError for a name that is not in the table, or that has a rule.
    """
    if name not in OPS:
        raise GrammarError(f"an operation is registered in the table before its range; received {name!r}")
    if name in _RULES:
        raise GrammarError(f"an operation has one range, and {name!r} has one already")
    _RULES[name] = rule


def range_of(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    """Where the result of an operation lies, given where its operands lie."""
    rule = _RULES.get(node.op)
    known = rule(node, args, weight) if rule else ANY[node.type.is_complex]
    bounds = OPS[node.op].bounds
    if bounds is None or node.type.is_complex:
        return known
    return Range.real(meet(known.re, Interval(*bounds)))


def _on_reals(function: Callable[..., Interval]) -> Rule:
    def rule(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
        if node.type.is_complex:
            return ANY_COMPLEX
        return Range.real(function(*(a.re for a in args)))

    return rule


def _by_parts(function: Callable[..., Interval], size: Callable[..., Interval]) -> Rule:
    """An operation that acts on the real and the imaginary part alike."""

    def rule(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
        re = function(*(a.re for a in args))
        if not node.type.is_complex:
            return Range.real(re)
        return Range.complex(re, function(*(a.im for a in args)), size(*(a.size for a in args)))

    return rule


def _ring(a: Interval, b: Interval) -> Interval:
    """The size of a sum of two values of these sizes: the triangle inequality, both ways."""
    gap = maximum(maximum(sub(a, b), sub(b, a)), ZERO)
    return Interval(gap.low, a.high + b.high, gap.open_low, a.open_high or b.open_high)


def _product(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    a, b = args
    if not node.type.is_complex:
        return Range.real(mul(a.re, b.re))
    re, im = sub(mul(a.re, b.re), mul(a.im, b.im)), add(mul(a.re, b.im), mul(a.im, b.re))
    return Range.complex(re, im, mul(a.size, b.size))


def _quotient(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    a, b = args
    if not node.type.is_complex:
        return Range.real(div(a.re, b.re))
    parts = (div(a.re, b.re), div(a.im, b.re)) if b.im == ZERO else (REALS, REALS)
    return Range.complex(*parts, div(a.size, b.size))


def _lerp(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    gate, a, b = args
    if not node.type.is_complex:
        return Range.real(lerp(gate.re, a.re, b.re))
    if gate.im != ZERO:
        return ANY_COMPLEX
    size = lerp(gate.re, a.size, b.size).high if gate.re.within(UNIT) else INF
    return Range.complex(
        lerp(gate.re, a.re, b.re), lerp(gate.re, a.im, b.im), Interval(0.0, size, False, size == INF)
    )


def _exp(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    size = monotone(math.exp)(args[0].re)
    return Range.complex(REALS, REALS, size) if node.type.is_complex else Range.real(size)


def _modrelu(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    return Range.complex(REALS, REALS, maximum(add(args[0].size, args[1].re), ZERO))


def _summed_product(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    one = _product(node, args, weight)
    if not node.type.is_complex:
        return Range.real(total(one.re))
    return Range.complex(total(one.re), total(one.im))


def _param(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    """A fixed weight stays where it was drawn; a trained one may go anywhere."""
    if weight is None or not weight.fixed or node.type.is_complex:
        return ANY[node.type.is_complex]
    init = weight.init
    if isinstance(init, int | float):
        return Range.real(point(float(init)))
    if init in ("zeros", "ones"):
        return Range.real(point(float(init == "ones")))
    if init is None:
        return Range.real(SYMMETRIC if node.op == "diag" else ZERO)
    if isinstance(init, tuple) and init[0] in ("uniform", "log_uniform"):
        ends = sorted(float(v) for v in init[1:])
        return Range.real(Interval(ends[0], ends[1]))
    return ANY_REAL


def _diag(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    return Range.real(mul(args[0].re, _param(node, (), weight).re))


def _shift(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    return join(args[0], Range.real(ZERO))


def _unknown(node: Node, args: Sequence[Range], weight: Weight | None) -> Range:
    return ANY[node.type.is_complex]


_REAL_FUNCTIONS: dict[str, Callable[..., Interval]] = {
    "sigmoid": monotone(_sigmoid),
    "tanh": monotone(math.tanh),
    "relu": lambda a: maximum(a, ZERO),
    "leaky_relu": monotone(lambda v: v if v >= 0 else 0.01 * v),
    "gelu": _dipping(_gelu, -0.16997120747990369),
    "silu": _dipping(_silu, -0.27846454276107380),
    "softplus": monotone(_softplus),
    "logsigmoid": monotone(lambda v: -_softplus(-v)),
    "log": _log,
    "sqrt": _sqrt,
    "sqrt1m2": _sqrt1m2,
    "square": square,
    "sin": _wave(math.sin),
    "cos": _wave(math.cos),
    "max": maximum,
    "min": minimum,
    "l2norm": _signed(1.0),
    "rmsnorm": _signed(INF),
    "lnorm": lambda a: REALS,
    "softmax": lambda a: Interval(0.0, 1.0, open_low=True),
    "hsum": total,
    "hmax": lambda a: a,
    "posemb": lambda: SYMMETRIC,
    "top": lambda a: UNIT,
}
for _name, _function in _REAL_FUNCTIONS.items():
    register_range(_name, _on_reals(_function))

_OTHERS: dict[str, Rule] = {
    "add": _by_parts(add, _ring),
    "sub": _by_parts(sub, _ring),
    "neg": _by_parts(lambda a: -a, lambda a: a),
    "stopgrad": lambda node, args, weight: args[0],
    "tokey": lambda node, args, weight: args[0],
    "toval": lambda node, args, weight: args[0],
    "mul": _product,
    "div": _quotient,
    "lerp": _lerp,
    "exp": _exp,
    "abs": lambda node, args, weight: Range.real(args[0].size),
    "re": lambda node, args, weight: Range.real(args[0].re),
    "im": lambda node, args, weight: Range.real(args[0].im),
    "complex": lambda node, args, weight: Range.complex(args[0].re, args[1].re),
    "cis": lambda node, args, weight: Range.complex(REALS, REALS, point(1.0)),
    "modrelu": _modrelu,
    "outer": _product,
    "read": _summed_product,
    "readt": _summed_product,
    "dot": _summed_product,
    "sum": _by_parts(total, lambda a: NONNEGATIVE),
    "param": _param,
    "diag": _diag,
    "shift": _shift,
    "lin": _unknown,
    "conv": _unknown,
    "attn": _unknown,
    "mlp": _unknown,
    "reflect": _unknown,
}
for _name, _rule in _OTHERS.items():
    register_range(_name, _rule)
