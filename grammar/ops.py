"""The one table of operations.

Every other table (NumPy evaluator, backends, gradients, features) has one entry per row here, and
a test proves that. A user's own operation is one `register(Op(...))` and its renderings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from grammar.errors import GrammarError
from grammar.poly import H, K, N, Poly, V
from grammar.types import CVEC, IN, KEY, MAT, NUM, SCAL, SEQ, VEC, Type, join

OPS_VERSION = 1  # raised when a row changes what an existing text means

Value = bool | int | float | str | tuple[str | int | float, ...]
Attrs = Mapping[str, Value]


class RuleError(GrammarError):
    """Raised by a type rule; the checker adds the place."""


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """One array that an operation owns: its role, its shape, and how it is initialised.

    `init` is `uniform(a)` for U(-a, a) with `a` = 1/sqrt(fan_in), or what the text says.
    """

    role: str
    shape: tuple[Poly, ...]
    fan_in: Poly
    complex: bool = False


# (types of the operands, options) -> type of the result; raises RuleError
TypeRule = Callable[[Sequence[Type], Attrs], Type]
# (types of the operands, options, type of the result) -> the arrays it owns
WeightRule = Callable[[Sequence[Type], Attrs, Type], tuple[WeightSpec, ...]]
# the same -> floating-point operations per sample and step
CostRule = Callable[[Sequence[Type], Attrs, Type], Poly]


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


_OPS: dict[str, Op] = {}
OPS: Mapping[str, Op] = MappingProxyType(_OPS)


def register(op: Op) -> Op:
    """Add a row. A user's own operation is registered so, before any text that uses it is parsed."""
    if op.name in _OPS:
        raise GrammarError(f"an operation is registered once, but {op.name!r} is in the table already")
    _OPS[op.name] = op
    return op


# ---- type rules -------------------------------------------------------------------------------


def _show(types: Sequence[Type]) -> str:
    return " and ".join(str(t) for t in types)


def _joined(types: Sequence[Type], attrs: Attrs) -> Type:
    result = types[0]
    for other in types[1:]:
        joint = join(result, other)
        if joint is None:
            raise RuleError(
                "operands must have equal types, or be a number, or scal with key, vec or mat, or key "
                f"(rows) or vec (columns) with mat; received {_show(types)}"
            )
        result = joint
    return result


def _real(types: Sequence[Type], attrs: Attrs) -> Type:
    result = _joined(types, attrs)
    if result.is_complex:
        raise RuleError(f"operands must be real (use re(...) or abs(...)); received {_show(types)}")
    return result


def _only(*allowed: Type) -> TypeRule:
    def rule(types: Sequence[Type], attrs: Attrs) -> Type:
        if types[0] not in allowed:
            raise RuleError(f"the operand must be {' or '.join(map(str, allowed))}; received {types[0]}")
        return types[0]

    return rule


def _norm(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0].kind not in ("in", "vec", "key", "mem", "seq"):
        raise RuleError(f"the operand must be in, vec, key, mem or seq; received {types[0]}")
    return types[0]


def _outer(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != KEY or types[1] not in (VEC, IN):
        raise RuleError(f"outer(key, val) is a mat; received {_show(types)}")
    return MAT


def _read(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0].kind not in ("mat", "cmat") or types[1] != KEY:
        raise RuleError(f"read(mat, key) is a val, S^T k; received {_show(types)}")
    return VEC if types[0] == MAT else CVEC


def _readt(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != MAT or types[1] not in (VEC, IN):
        raise RuleError(f"readt(mat, val) is a key, S v; received {_show(types)}")
    return KEY


def _dot(types: Sequence[Type], attrs: Attrs) -> Type:
    pair = {t.kind for t in types}
    if pair != {"key"} and not pair <= {"vec", "in"}:
        raise RuleError(f"dot takes two key, or two val, and gives a scal; received {_show(types)}")
    return SCAL


def _sums(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0].kind not in ("in", "vec", "key"):
        raise RuleError(f"the operand must be vec or key, the result is a scal; received {types[0]}")
    return SCAL


def _complex(types: Sequence[Type], attrs: Attrs) -> Type:
    joint = _real(types, attrs)
    made = {"vec": CVEC, "in": CVEC, "mat": Type("cmat")}.get(joint.kind)
    if made is None:
        raise RuleError(f"complex(a, b) is a + bi of two vec or two mat; received {_show(types)}")
    return made


def _from_complex(types: Sequence[Type], attrs: Attrs) -> Type:
    real = {"cvec": VEC, "cmat": MAT}.get(types[0].kind)
    if real is None:
        raise RuleError(f"the operand must be cvec or cmat; received {types[0]}")
    return real


def _abs(types: Sequence[Type], attrs: Attrs) -> Type:
    return _from_complex(types, attrs) if types[0].is_complex else types[0]


def _cis(types: Sequence[Type], attrs: Attrs) -> Type:
    made = {"vec": CVEC, "mat": Type("cmat")}.get(types[0].kind)
    if made is None:
        raise RuleError(f"cis(a) is exp(i a) of a vec or mat; received {types[0]}")
    return made


def _modrelu(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != CVEC or types[1] not in (VEC, NUM, SCAL):
        raise RuleError(f"modrelu(z, b) takes a cvec and a real bias; received {_show(types)}")
    return CVEC


def _declared(attrs: Attrs, default: Type) -> Type:
    kind = attrs.get("type")
    if kind is None:
        return default
    return Type("mem", int(attrs["size"])) if kind == "mem" else Type(str(kind))  # type: ignore[arg-type]


def _lin(types: Sequence[Type], attrs: Attrs) -> Type:
    for t in types:
        if t == NUM:
            raise RuleError("lin(...) maps values, and a bare number is a bias: leave it out; received num")
    default = SEQ if SEQ in types else VEC
    result = _declared(attrs, default)
    if any(t.is_complex for t in types) and not result.is_complex:
        raise RuleError(f"lin of a complex operand is complex: write re(lin:cvec(...)); received {result}")
    if SEQ in types and result.kind not in ("seq", "scal"):
        raise RuleError(f"lin of a seq gives a seq, or a scal for each position; received {result}")
    if "rank" in attrs and "blocks" in attrs:
        raise RuleError("lin takes rank= or blocks=, not both")
    return result


def _param(types: Sequence[Type], attrs: Attrs) -> Type:
    return _declared(attrs, VEC)


def _weighted(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] == NUM or types[0].is_complex:
        raise RuleError(f"the operand must be a real value; received {types[0]}")
    return types[0]


def _seq_only(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != SEQ:
        raise RuleError(f"the operand must be a seq; received {types[0]}")
    return SEQ


# ---- weights ----------------------------------------------------------------------------------


def _count(attrs: Attrs, name: str) -> int:
    """A whole-number option: `k`, `ratio` and `rank` (checked by the parser)."""
    value = attrs.get(name, 4)
    assert isinstance(value, int)
    return value


def block_count(attrs: Attrs) -> Poly:
    """How many diagonal blocks a `lin` has: 1, a number, or one per head (`blocks=heads`)."""
    blocks = attrs.get("blocks", 1)
    return N if blocks == "heads" else Poly.of(int(blocks))  # type: ignore[arg-type]


def _lin_weights(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    blocks = attrs.get("blocks", 1)
    inverse = Poly.var("N", -1) if blocks == "heads" else Poly.of(1) / int(blocks)  # type: ignore[arg-type]
    fan_in = sum((t.width for t in types), Poly()) * inverse
    made: list[WeightSpec] = []
    rank = attrs.get("rank")
    for i, t in enumerate(types):
        if rank is not None:
            r = Poly.of(_count(attrs, "rank"))
            made.append(WeightSpec(f"v{i}", (r, t.width), fan_in, result.is_complex))
            made.append(WeightSpec(f"u{i}", (result.width, r), r * len(types), result.is_complex))
        elif blocks == 1:
            made.append(WeightSpec(f"w{i}", (result.width, t.width), fan_in, result.is_complex))
        else:
            shape = (block_count(attrs), result.width * inverse, t.width * inverse)
            made.append(WeightSpec(f"w{i}", shape, fan_in, result.is_complex))
    if attrs.get("bias", True):
        made.append(WeightSpec("b", (result.width,), fan_in, result.is_complex))
    return tuple(made)


def shape_of(t: Type) -> tuple[Poly, ...]:
    """The shape of one value of type `t` without the batch (and time) axes."""
    return {"key": (N, K), "scal": (N,), "mat": (N, K, V), "cmat": (N, K, V)}.get(t.kind, (t.width,))


def _own_shape(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    return (WeightSpec("w", shape_of(result), Poly.of(1), result.is_complex),)


def _conv_weights(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    taps = Poly.of(_count(attrs, "k"))
    weight = WeightSpec("w", (result.width, taps), taps)
    return (weight, WeightSpec("b", (result.width,), taps)) if attrs.get("bias", True) else (weight,)


def _attn_weights(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    return tuple(WeightSpec(role, (H, H), H) for role in ("q", "k", "v", "o"))


def _mlp_weights(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    inner = H * _count(attrs, "ratio")
    up = (WeightSpec("w1", (inner, H), H), WeightSpec("b1", (inner,), H))
    return (*up, WeightSpec("w2", (H, inner), inner), WeightSpec("b2", (H,), inner))


# ---- costs ------------------------------------------------------------------------------------


def _each(per_element: int) -> CostRule:
    return lambda types, attrs, result: result.width * per_element


def _lin_cost(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    total = Poly()
    for spec in _lin_weights(types, attrs, result):
        size = Poly.of(1)
        for extent in spec.shape:
            size = size * extent
        total = total + size * (1 if spec.role == "b" else 2)
    return total


def _matrix_cost(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    return H * K * (1 if result == MAT else 2)


def _free(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    return Poly()


def _attn_cost(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    return H * H * 8  # projections only: the part that depends on T is not a polynomial in D, H, N, K


def _mlp_cost(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    return H * H * (4 * _count(attrs, "ratio"))


# ---- the table --------------------------------------------------------------------------------


def _unary(name: str, doc: str, cost: int, trans: int = 0, **facts: object) -> None:
    rule = facts.pop("rule", _real)
    register(Op(name, (1, 1), rule, _each(cost), doc, transcendental=trans, **facts))  # type: ignore[arg-type]


_unary("sigmoid", "1 / (1 + exp(-a))", 4, 1, bounds=(0.0, 1.0))
_unary("tanh", "the hyperbolic tangent", 4, 1, bounds=(-1.0, 1.0))
_unary("relu", "max(a, 0)", 1)
_unary("leaky_relu", "a where a >= 0, else 0.01 a", 2)
_unary("gelu", "a * Phi(a), Phi the normal distribution function (exact, by erf)", 6, 1)
_unary("silu", "a * sigmoid(a)", 5, 1)
_unary("softplus", "log(1 + exp(a)), computed without overflow", 6, 2)
_unary("logsigmoid", "log(sigmoid(a)), computed without overflow", 6, 2)
_unary("exp", "exp(a); complex too", 4, 1, rule=_joined)
_unary("log", "the natural logarithm", 4, 1)
_unary("sqrt", "the square root", 2)
_unary("sqrt1m2", "sqrt(1 - a^2), 0 where |a| >= 1", 4)
_unary("square", "a * a", 1)
_unary("sin", "the sine", 4, 1, bounds=(-1.0, 1.0))
_unary("cos", "the cosine", 4, 1, bounds=(-1.0, 1.0))
_unary("abs", "the absolute value; of a complex value its modulus, real", 1, rule=_abs)
_unary("neg", "-a", 1, rule=_joined, degree="linear", symbol="-")
_unary("stopgrad", "a, through which no gradient flows", 0, rule=_joined, degree="linear")
_unary("re", "the real part", 0, rule=_from_complex, degree="linear")
_unary("im", "the imaginary part", 0, rule=_from_complex, degree="linear")
_unary("cis", "exp(i a) of a real a", 8, 2, rule=_cis)

register(Op("add", (2, 2), _joined, _each(1), "a + b", "+", commutative=True, degree="linear"))
register(Op("sub", (2, 2), _joined, _each(1), "a - b", "-", degree="linear"))
register(Op("mul", (2, 2), _joined, _each(1), "a * b", "*", commutative=True, degree="product"))
register(Op("div", (2, 2), _joined, _each(1), "a / b", "/", degree="quotient"))
register(Op("max", (2, 2), _real, _each(1), "the larger of a and b", commutative=True, degree="max"))
register(Op("min", (2, 2), _real, _each(1), "the smaller of a and b", commutative=True))
register(Op("lerp", (3, 3), _joined, _each(3), "lerp(g, a, b) = g * b + (1 - g) * a", degree="blend"))
register(Op("complex", (2, 2), _complex, _free, "a + bi", degree="linear"))
register(Op("modrelu", (2, 2), _modrelu, _each(6), "relu(|z| + b) * z / |z|, 0 at z = 0", transcendental=1))

register(Op("l2norm", (1, 1), _norm, _each(3), "a / sqrt(sum a^2 + 1e-12) over each head", mixes="block"))
register(Op("rmsnorm", (1, 1), _norm, _each(3), "a / sqrt(mean a^2 + 1e-6) over each head", mixes="block"))
register(Op("lnorm", (1, 1), _norm, _each(5), "(a - mean) / sqrt(var + 1e-5) over each head", mixes="block"))
register(Op("softmax", (1, 1), _norm, _each(6), "over each head", mixes="block", transcendental=1))

register(Op("outer", (2, 2), _outer, _matrix_cost, "outer(key, val) is a mat, k v^T", degree="product"))
register(
    Op("read", (2, 2), _read, _matrix_cost, "read(S, k) is a val, S^T k", degree="product", mixes="block")
)
register(
    Op("readt", (2, 2), _readt, _matrix_cost, "readt(S, v) is a key, S v", degree="product", mixes="block")
)
register(
    Op(
        "dot",
        (2, 2),
        _dot,
        _each(2),
        "the inner product in each head, a scal",
        commutative=True,
        degree="product",
        mixes="block",
    )
)
register(
    Op("hsum", (1, 1), _sums, _each(1), "the sum over each head, a scal", degree="linear", mixes="block")
)

_SHARED = ("share", "fixed", "init")
register(
    Op(
        "lin",
        (1, None),
        _lin,
        _lin_cost,
        "one linear map with one bias over all operands together",
        degree="linear",
        mixes="dense",
        weights=_lin_weights,
        options=(*_SHARED, "bias", "blocks", "rank", "transpose"),
        typed=True,
    )
)
register(
    Op(
        "diag",
        (1, 1),
        _weighted,
        _each(1),
        "a learned vector times a",
        degree="linear",
        weights=_own_shape,
        options=_SHARED,
    )
)
register(
    Op(
        "param",
        (0, 0),
        _param,
        _free,
        "a learned constant",
        degree="linear",
        weights=_own_shape,
        options=_SHARED,
        typed=True,
    )
)
register(
    Op(
        "conv",
        (1, 1),
        _weighted,
        lambda types, attrs, result: result.width * (2 * _count(attrs, "k")),
        "a causal depthwise convolution over the last k steps",
        degree="linear",
        weights=_conv_weights,
        options=(*_SHARED, "k", "bias"),
    )
)
register(Op("shift", (1, 1), _weighted, _free, "a at the previous step, 0 at the first", degree="linear"))
register(
    Op(
        "attn",
        (1, 1),
        _seq_only,
        _attn_cost,
        "multi-head self-attention over a seq",
        mixes="dense",
        weights=_attn_weights,
        options=("share", "causal"),
    )
)
register(
    Op(
        "mlp",
        (1, 1),
        _only(SEQ, VEC),
        _mlp_cost,
        "a two-layer perceptron with gelu",
        mixes="dense",
        weights=_mlp_weights,
        options=("share", "ratio"),
    )
)
register(Op("posemb", (0, 0), lambda types, attrs: SEQ, _free, "sinusoidal positions, a seq"))
register(
    Op(
        "sum",
        (1, 1),
        _joined,
        _each(1),
        "the sum over all children k of a tree cell `cell t(*k)`",
        degree="linear",
    )
)

# Leaves of an expression, which are no operations: x, a number, a name, a child's state, a choice.
LEAVES = ("x", "num", "ref", "child", "choice")
