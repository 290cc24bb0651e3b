"""What the rows of the table of operations are made of: rules for types, for weights, and for costs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from grammar.errors import GrammarError
from grammar.poly import H, K, N, Poly, V
from grammar.types import CVEC, IN, KEY, MAT, NUM, SCAL, SEQ, VEC, Type, join

Value = bool | int | float | str | tuple[str | int | float, ...]
Attrs = Mapping[str, Value]


class RuleError(GrammarError):
    """Raised by a type rule; the checker adds the place."""


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """One array that an operation owns: its role, its shape, and the number of inputs that sets its scale at first."""

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


# ---- type rules -------------------------------------------------------------------------------


def show(types: Sequence[Type]) -> str:
    return " and ".join(str(t) for t in types)


def joined(types: Sequence[Type], attrs: Attrs) -> Type:
    result = types[0]
    for other in types[1:]:
        joint = join(result, other)
        if joint is None:
            raise RuleError(
                "operands must have equal types, or be a number, or scal with key, vec or mat, or key "
                f"(rows) or vec (columns) with mat; received {show(types)}"
            )
        result = joint
    return result


def real(types: Sequence[Type], attrs: Attrs) -> Type:
    result = joined(types, attrs)
    if result.is_complex:
        raise RuleError(f"operands must be real (use re(...) or abs(...)); received {show(types)}")
    return result


def only(*allowed: Type) -> TypeRule:
    def rule(types: Sequence[Type], attrs: Attrs) -> Type:
        if types[0] not in allowed:
            raise RuleError(f"the operand must be {' or '.join(map(str, allowed))}; received {types[0]}")
        return types[0]

    return rule


def norm(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0].kind not in ("in", "vec", "key", "mem", "seq"):
        raise RuleError(f"the operand must be in, vec, key, mem or seq; received {types[0]}")
    return types[0]


def outer(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != KEY or types[1] not in (VEC, IN):
        raise RuleError(f"outer(key, val) is a mat; received {show(types)}")
    return MAT


def read(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0].kind not in ("mat", "cmat") or types[1] != KEY:
        raise RuleError(f"read(mat, key) is a val, S^T k; received {show(types)}")
    return VEC if types[0] == MAT else CVEC


def readt(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != MAT or types[1] not in (VEC, IN):
        raise RuleError(f"readt(mat, val) is a key, S v; received {show(types)}")
    return KEY


def dot(types: Sequence[Type], attrs: Attrs) -> Type:
    pair = {t.kind for t in types}
    if pair != {"key"} and not pair <= {"vec", "in"}:
        raise RuleError(f"dot takes two key, or two val, and gives a scal; received {show(types)}")
    return SCAL


def sums(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0].kind not in ("in", "vec", "key"):
        raise RuleError(f"the operand must be vec or key, the result is a scal; received {types[0]}")
    return SCAL


def tokey(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] not in (VEC, IN):
        raise RuleError(f"tokey(val) is a key, where K = V; received {types[0]}")
    return KEY


def complex_of(types: Sequence[Type], attrs: Attrs) -> Type:
    joint = real(types, attrs)
    made = {"vec": CVEC, "in": CVEC, "mat": Type("cmat")}.get(joint.kind)
    if made is None:
        raise RuleError(f"complex(a, b) is a + bi of two vec or two mat; received {show(types)}")
    return made


def from_complex(types: Sequence[Type], attrs: Attrs) -> Type:
    real = {"cvec": VEC, "cmat": MAT}.get(types[0].kind)
    if real is None:
        raise RuleError(f"the operand must be cvec or cmat; received {types[0]}")
    return real


def modulus(types: Sequence[Type], attrs: Attrs) -> Type:
    return from_complex(types, attrs) if types[0].is_complex else types[0]


def cis(types: Sequence[Type], attrs: Attrs) -> Type:
    made = {"vec": CVEC, "mat": Type("cmat")}.get(types[0].kind)
    if made is None:
        raise RuleError(f"cis(a) is exp(i a) of a vec or mat; received {types[0]}")
    return made


def modrelu(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != CVEC or types[1] not in (VEC, NUM, SCAL):
        raise RuleError(f"modrelu(z, b) takes a cvec and a real bias; received {show(types)}")
    return CVEC


def toval(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != KEY:
        raise RuleError(f"toval(key) is a val, where K = V; received {types[0]}")
    return VEC


def reflect(types: Sequence[Type], attrs: Attrs) -> Type:
    kinds = {t.kind for t in types}
    if kinds == {"cvec"}:
        return CVEC
    if kinds <= {"vec", "in"}:
        return VEC
    raise RuleError(f"reflect takes two cvec, or two vec; received {show(types)}")


def declared(attrs: Attrs, default: Type) -> Type:
    kind = attrs.get("type")
    if kind is None:
        return default
    return Type("mem", int(attrs["size"])) if kind == "mem" else Type(str(kind))  # type: ignore[arg-type]


def lin(types: Sequence[Type], attrs: Attrs) -> Type:
    for t in types:
        if t == NUM:
            raise RuleError("lin(...) maps values, and a bare number is a bias: leave it out; received num")
    default = SEQ if SEQ in types else VEC
    result = declared(attrs, default)
    if any(t.is_complex for t in types) and not result.is_complex:
        raise RuleError(f"lin of a complex operand is complex: write re(lin:cvec(...)); received {result}")
    if SEQ in types and result.kind not in ("seq", "scal"):
        raise RuleError(f"lin of a seq gives a seq, or a scal for each position; received {result}")
    if "rank" in attrs and "blocks" in attrs:
        raise RuleError("lin takes rank= or blocks=, not both")
    return result


def param(types: Sequence[Type], attrs: Attrs) -> Type:
    return declared(attrs, VEC)


def weighted(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] == NUM or types[0].is_complex:
        raise RuleError(f"the operand must be a real value; received {types[0]}")
    return types[0]


def attn(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != SEQ or tuple(types[1:]) not in ((), (SCAL,)):
        raise RuleError(
            f"attn takes a seq, and a scal that says which positions are seen; received {show(types)}"
        )
    return SEQ


def top(types: Sequence[Type], attrs: Attrs) -> Type:
    if types[0] != SCAL:
        raise RuleError(f"the operand must be scal, one number for each position; received {types[0]}")
    return SCAL


# ---- weights ----------------------------------------------------------------------------------


def count(attrs: Attrs, name: str) -> int:
    """A whole-number option: `k`, `ratio` and `rank` (checked by the parser)."""
    value = attrs.get(name, 4)
    assert isinstance(value, int)
    return value


def block_count(attrs: Attrs) -> Poly:
    """How many diagonal blocks a `lin` has: 1, a number, or one per head (`blocks=heads`)."""
    blocks = attrs.get("blocks", 1)
    return N if blocks == "heads" else Poly.of(int(blocks))  # type: ignore[arg-type]


def weight_specs(
    rule: WeightRule, types: Sequence[Type], attrs: tuple[tuple[str, Value], ...], result: Type
) -> tuple[WeightSpec, ...]:
    """What a rule says of options as they are in the text; remembered, as most weights are like others."""
    return _specs(rule, tuple(types), tuple(a for a in attrs if a[0] not in ("share", "init")), result)


@functools.lru_cache(1024)
def _specs(
    rule: WeightRule, types: tuple[Type, ...], attrs: tuple[tuple[str, Value], ...], result: Type
) -> tuple[WeightSpec, ...]:
    return rule(types, dict(attrs), result)


def lin_weights(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    blocks = attrs.get("blocks", 1)
    inverse = Poly.var("N", -1) if blocks == "heads" else Poly.of(1) / int(blocks)  # type: ignore[arg-type]
    fan_in = sum((t.width for t in types), Poly()) * inverse
    made: list[WeightSpec] = []
    rank = attrs.get("rank")
    for i, t in enumerate(types):
        if rank is not None:
            r = Poly.of(count(attrs, "rank"))
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


def own_shape(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    return (WeightSpec("w", shape_of(result), Poly.of(1), result.is_complex),)


def conv_weights(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    taps = Poly.of(count(attrs, "k"))
    weight = WeightSpec("w", (result.width, taps), taps)
    return (weight, WeightSpec("b", (result.width,), taps)) if attrs.get("bias", True) else (weight,)


def attn_weights(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    return tuple(WeightSpec(role, (H, H), H) for role in ("q", "k", "v", "o"))


def mlp_weights(types: Sequence[Type], attrs: Attrs, result: Type) -> tuple[WeightSpec, ...]:
    inner = H * count(attrs, "ratio")
    up = (WeightSpec("w1", (inner, H), H), WeightSpec("b1", (inner,), H))
    return (*up, WeightSpec("w2", (H, inner), inner), WeightSpec("b2", (H,), inner))


# ---- costs ------------------------------------------------------------------------------------


def each(per_element: int) -> CostRule:
    return lambda types, attrs, result: result.width * per_element


def lin_cost(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    total = Poly()
    for spec in lin_weights(types, attrs, result):
        size = Poly.of(1)
        for extent in spec.shape:
            size = size * extent
        total = total + size * (1 if spec.role == "b" else 2)
    return total


def matrix_cost(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    return H * K * (1 if result == MAT else 2)


def free(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    return Poly()


def attn_cost(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    return H * H * 8  # projections only: the part that depends on T is not a polynomial in D, H, N, K


def mlp_cost(types: Sequence[Type], attrs: Attrs, result: Type) -> Poly:
    return H * H * (4 * count(attrs, "ratio"))
