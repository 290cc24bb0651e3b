"""The one table of operations.

Every other table (NumPy evaluator, backends, gradients, features) has one entry per row here, and
a test proves that. A user's own operation is one `register(Op(...))` and its renderings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from grammar import rules
from grammar.errors import GrammarError
from grammar.rules import Attrs as Attrs
from grammar.rules import CostRule, TypeRule, WeightRule
from grammar.rules import RuleError as RuleError
from grammar.rules import Value as Value
from grammar.rules import WeightSpec as WeightSpec
from grammar.rules import block_count as block_count
from grammar.rules import shape_of as shape_of
from grammar.rules import weight_specs as weight_specs
from grammar.types import SEQ, VEC

OPS_VERSION = 1  # raised when a row changes what an existing text means


@dataclass(frozen=True, slots=True)
class Op:
    """One row: what the language, the analysis and every backend need to know of an operation.

    `arity` is (least, most), most None for any number. `degree` says how the result depends on an
    operand that carries a state: `linear` (a fixed linear map of all operands together), `product`
    (linear in each operand), `quotient` (linear in the first only), `max` (linear in the max-plus
    algebra), `blend` (lerp), `nonlinear`. `mixes` says which entries of an operand one entry of
    the result sees: `elementwise`, `block` (those of its head) or `dense`.
    """

    name: str
    arity: tuple[int, int | None]
    rule: TypeRule
    cost: CostRule
    doc: str
    symbol: str | None = None
    commutative: bool = False
    degree: str = "nonlinear"
    mixes: str = "elementwise"
    weights: WeightRule | None = None
    options: tuple[str, ...] = ()
    typed: bool = False  # takes `op:type(...)`
    transcendental: int = 0  # exp-like evaluations per element, for cost models
    bounds: tuple[float, float] | None = None  # range of the result whatever the operand
    k_is_v: bool = False  # sees a val as a key or the reverse, which needs K = V


_OPS: dict[str, Op] = {}
OPS: Mapping[str, Op] = MappingProxyType(_OPS)


def register(op: Op) -> Op:
    """Add a row. A user's own operation is registered so, before any text that uses it is parsed."""
    if op.name in _OPS:
        raise GrammarError(f"an operation is registered once, but {op.name!r} is in the table already")
    _OPS[op.name] = op
    return op


# ---- the table --------------------------------------------------------------------------------


def _unary(name: str, doc: str, cost: int, trans: int = 0, **facts: object) -> None:
    rule = facts.pop("rule", rules.real)
    register(Op(name, (1, 1), rule, rules.each(cost), doc, transcendental=trans, **facts))  # type: ignore[arg-type]


_unary("sigmoid", "1 / (1 + exp(-a))", 4, 1, bounds=(0.0, 1.0))
_unary("tanh", "the hyperbolic tangent", 4, 1, bounds=(-1.0, 1.0))
_unary("relu", "max(a, 0)", 1)
_unary("leaky_relu", "a where a >= 0, else 0.01 a", 2)
_unary("gelu", "a * Phi(a), Phi the normal distribution function (exact, by erf)", 6, 1)
_unary("silu", "a * sigmoid(a)", 5, 1)
_unary("softplus", "log(1 + exp(a)), computed without overflow", 6, 2)
_unary("logsigmoid", "log(sigmoid(a)), computed without overflow", 6, 2)
_unary("exp", "exp(a); complex too", 4, 1, rule=rules.joined)
_unary("log", "the natural logarithm", 4, 1)
_unary("sqrt", "the square root", 2)
_unary("sqrt1m2", "sqrt(1 - a^2), 0 where |a| >= 1", 4)
_unary("square", "a * a", 1)
_unary("sin", "the sine", 4, 1, bounds=(-1.0, 1.0))
_unary("cos", "the cosine", 4, 1, bounds=(-1.0, 1.0))
_unary("abs", "the absolute value; of a complex value its modulus, real", 1, rule=rules.modulus)
_unary("neg", "-a", 1, rule=rules.joined, degree="linear", symbol="-")
_unary("stopgrad", "a, through which no gradient flows", 0, rule=rules.joined, degree="linear")
_unary("re", "the real part", 0, rule=rules.from_complex, degree="linear")
_unary("im", "the imaginary part", 0, rule=rules.from_complex, degree="linear")
_unary("cis", "exp(i a) of a real a", 8, 2, rule=rules.cis)

register(Op("add", (2, 2), rules.joined, rules.each(1), "a + b", "+", commutative=True, degree="linear"))
register(Op("sub", (2, 2), rules.joined, rules.each(1), "a - b", "-", degree="linear"))
register(Op("mul", (2, 2), rules.joined, rules.each(1), "a * b", "*", commutative=True, degree="product"))
register(Op("div", (2, 2), rules.joined, rules.each(1), "a / b", "/", degree="quotient"))
register(
    Op("max", (2, 2), rules.real, rules.each(1), "the larger of a and b", commutative=True, degree="max")
)
register(Op("min", (2, 2), rules.real, rules.each(1), "the smaller of a and b", commutative=True))
register(
    Op("lerp", (3, 3), rules.joined, rules.each(3), "lerp(g, a, b) = g * b + (1 - g) * a", degree="blend")
)
register(Op("complex", (2, 2), rules.complex_of, rules.free, "a + bi", degree="linear"))
register(
    Op(
        "modrelu",
        (2, 2),
        rules.modrelu,
        rules.each(6),
        "relu(|z| + b) * z / |z|, 0 at z = 0",
        transcendental=1,
    )
)

register(
    Op("l2norm", (1, 1), rules.norm, rules.each(3), "a / sqrt(sum a^2 + 1e-12) over each head", mixes="block")
)
register(
    Op(
        "rmsnorm",
        (1, 1),
        rules.norm,
        rules.each(3),
        "a / sqrt(mean a^2 + 1e-6) over each head",
        mixes="block",
    )
)
register(
    Op(
        "lnorm",
        (1, 1),
        rules.norm,
        rules.each(5),
        "(a - mean) / sqrt(var + 1e-5) over each head",
        mixes="block",
    )
)
register(Op("softmax", (1, 1), rules.norm, rules.each(6), "over each head", mixes="block", transcendental=1))

register(
    Op("outer", (2, 2), rules.outer, rules.matrix_cost, "outer(key, val) is a mat, k v^T", degree="product")
)
register(
    Op(
        "read",
        (2, 2),
        rules.read,
        rules.matrix_cost,
        "read(S, k) is a val, S^T k",
        degree="product",
        mixes="block",
    )
)
register(
    Op(
        "readt",
        (2, 2),
        rules.readt,
        rules.matrix_cost,
        "readt(S, v) is a key, S v",
        degree="product",
        mixes="block",
    )
)
register(
    Op(
        "dot",
        (2, 2),
        rules.dot,
        rules.each(2),
        "the inner product in each head, a scal",
        commutative=True,
        degree="product",
        mixes="block",
    )
)
register(
    Op(
        "hsum",
        (1, 1),
        rules.sums,
        rules.each(1),
        "the sum over each head, a scal",
        degree="linear",
        mixes="block",
    )
)
register(
    Op(
        "tokey",
        (1, 1),
        rules.tokey,
        rules.free,
        "a val seen as a key, which needs K = V",
        degree="linear",
        mixes="block",
        k_is_v=True,
    )
)
register(
    Op(
        "toval",
        (1, 1),
        rules.toval,
        rules.free,
        "a key seen as a val, which needs K = V",
        degree="linear",
        mixes="block",
        k_is_v=True,
    )
)
register(
    Op(
        "hmax",
        (1, 1),
        rules.sums,
        rules.each(1),
        "the largest in each head, a scal",
        degree="max",
        mixes="block",
    )
)
register(
    Op(
        "reflect",
        (2, 2),
        rules.reflect,
        rules.each(6),
        "z - 2 v (v* z) / (v* v) in each head, z where v is 0: z with its part along v turned round",
        degree="quotient",
        mixes="block",
    )
)

_SHARED = ("share", "fixed", "init")
register(
    Op(
        "lin",
        (1, None),
        rules.lin,
        rules.lin_cost,
        "one linear map with one bias over all operands together",
        degree="linear",
        mixes="dense",
        weights=rules.lin_weights,
        options=(*_SHARED, "bias", "blocks", "rank", "transpose"),
        typed=True,
    )
)
register(
    Op(
        "diag",
        (1, 1),
        rules.weighted,
        rules.each(1),
        "a learned vector times a",
        degree="linear",
        weights=rules.own_shape,
        options=_SHARED,
    )
)
register(
    Op(
        "param",
        (0, 0),
        rules.param,
        rules.free,
        "a learned constant",
        degree="linear",
        weights=rules.own_shape,
        options=_SHARED,
        typed=True,
    )
)
register(
    Op(
        "conv",
        (1, 1),
        rules.weighted,
        lambda types, attrs, result: result.width * (2 * rules.count(attrs, "k")),
        "a causal depthwise convolution over the last k steps",
        degree="linear",
        weights=rules.conv_weights,
        options=(*_SHARED, "k", "bias"),
    )
)
register(
    Op("shift", (1, 1), rules.weighted, rules.free, "a at the previous step, 0 at the first", degree="linear")
)
register(
    Op(
        "attn",
        (1, 2),
        rules.attn,
        rules.attn_cost,
        "multi-head self-attention over a seq; with a second operand to the positions where it is above 0, "
        "and 0 where there is none",
        mixes="dense",
        weights=rules.attn_weights,
        options=("share", "causal"),
    )
)
register(
    Op(
        "top",
        (1, 1),
        rules.top,
        rules.each(2),
        "1 at the part of all positions where a is highest (rounded down, at least one), else 0; no gradient",
        mixes="dense",
        options=("part",),
        bounds=(0.0, 1.0),
    )
)
register(
    Op(
        "mlp",
        (1, 1),
        rules.only(SEQ, VEC),
        rules.mlp_cost,
        "a two-layer perceptron with gelu",
        mixes="dense",
        weights=rules.mlp_weights,
        options=("share", "ratio"),
    )
)
register(Op("posemb", (0, 0), lambda types, attrs: SEQ, rules.free, "sinusoidal positions, a seq"))
register(
    Op(
        "sum",
        (1, 1),
        rules.joined,
        rules.each(1),
        "the sum over all children k of a tree cell `cell t(*k)`",
        degree="linear",
    )
)

# Leaves of an expression, which are no operations: x, a number, a name, a child's state, a choice.
LEAVES = ("x", "num", "ref", "child", "choice")
