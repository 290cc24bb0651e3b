"""One NumPy function per operation of the table: what `evaluate` runs.

Arrays have three groups of axes: those of weight sets (any number, broadcast from the right), those of
the batch (one, or two where a whole sequence is one value), and the value's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grammar.errors import GrammarError
from grammar.graph import Node
from grammar.ops import OPS, block_count
from grammar.sizes import Sizes
from grammar.types import NUM, Type

Array = NDArray[Any]
Value = Array | float  # a float for a `num`


@dataclass(frozen=True, slots=True)
class Call:
    """One operation at work: the operands, and all that its row may depend on.

    `past` holds earlier values of the operand, oldest first, for `shift` and `conv`; `batch` is the
    number of batch axes; `length` is T where a whole sequence is one value.
    """

    node: Node
    args: Sequence[Value]
    types: Sequence[Type]
    weights: Mapping[str, Array]
    sizes: Sizes
    batch: int = 1
    length: int = 1
    past: Sequence[Array] = ()
    dtype: Any = np.float64

    def arg(self, index: int = 0) -> Array:
        """An operand as an array."""
        return np.asarray(self.args[index], dtype=self.dtype if self.types[index] == NUM else None)

    def flat(self, index: int = 0) -> Array:
        """An operand with its own axes made one: `key` [.., N, K] becomes [.., N K]."""
        return flatten(self.arg(index), len(self.sizes.shape(self.types[index])))

    def weight(self, role: str, axes: int = 1) -> Array:
        """A weight [.., *own] with axes for the batch between its sets and its own `axes`."""
        array = self.weights[role]
        return array.reshape(array.shape[: array.ndim - axes] + (1,) * self.batch + array.shape[-axes:])

    def matrix(self, role: str) -> Array:
        """A weight [.., out, in] with one batch axis fewer: the last one belongs to the matrix product."""
        array = self.weights[role]
        return array.reshape(array.shape[:-2] + (1,) * (self.batch - 1) + array.shape[-2:])

    def heads(self, index: int = 0) -> Array:
        """A `vec` (or x) [.., H] per head, [.., N, V]."""
        return per_head(self.arg(index), self.sizes)


Rendering = Callable[[Call], Array]
RENDERINGS: dict[str, Rendering] = {}


def register_rendering(name: str, rendering: Rendering) -> None:
    """Give an operation of the table its NumPy function; `elementwise(fn)` makes one of an array function.

    Raises GrammarError for a name that is not in the table, or that has a rendering.
    """
    if name not in OPS:
        raise GrammarError(f"an operation is registered in the table before its rendering; received {name!r}")
    if name in RENDERINGS:
        raise GrammarError(f"an operation has one NumPy rendering, and {name!r} has one already")
    RENDERINGS[name] = rendering


def elementwise(function: Callable[..., Any]) -> Rendering:
    """A rendering that aligns all operands to the result's type and applies `function` to the arrays."""

    def rendering(call: Call) -> Array:
        aligned = (
            align(a, t, call.node.type, call.sizes) for a, t in zip(call.args, call.types, strict=True)
        )
        return np.asarray(function(*aligned))

    return rendering


# Operations that IEEE 754 rounds correctly, so that every machine folds them alike: digests depend on it.
_EXACT = ("add", "sub", "mul", "div", "max", "min", "lerp", "neg", "abs", "square", "sqrt", "sqrt1m2", "relu")
_EXACT_AT_ZERO = ("sigmoid", "tanh", "exp", "sin", "cos", "silu", "gelu")


def fold(op: str, values: Sequence[float]) -> float | None:
    """A parameter-free operation on numbers, or None where it stays as it is written.

    Folded is what has the same last bit on every machine (so not `exp(2)`) and is finite.
    """
    if op not in _EXACT and not (op in _EXACT_AT_ZERO and not any(values)):
        return None
    call = Call(Node(op, (), (), NUM), tuple(values), (NUM,) * len(values), {}, Sizes(1, 1, 1, 1))
    with np.errstate(all="ignore"):
        number = float(RENDERINGS[op](call))
    return number if np.isfinite(number) else None


# ---- shapes -----------------------------------------------------------------------------------


def flatten(array: Array, axes: int) -> Array:
    """The last `axes` axes made one."""
    outer = array.ndim - axes
    return array.reshape((*array.shape[:outer], math.prod(array.shape[outer:])))


def per_head(array: Array, sizes: Sizes) -> Array:
    """[.., H] as [.., N, V]."""
    return array.reshape((*array.shape[:-1], sizes.heads, array.shape[-1] // sizes.heads))


def align(value: Value, from_: Type, to: Type, sizes: Sizes) -> Value:
    """A value so shaped that it broadcasts with one of type `to`: see `grammar.types.join`."""
    if from_ == NUM:
        return value
    array = np.asarray(value)
    if to.kind in ("mat", "cmat"):
        if from_.kind == "scal":
            return array[..., None, None]
        if from_.kind == "key":
            return array[..., None]
        if from_.kind in ("in", "vec", "cvec"):
            return per_head(array, sizes)[..., None, :]
        return array
    if from_.kind != "scal" or to.kind == "scal":
        return array
    return array[..., None] if to.kind == "key" else np.repeat(array, sizes.value_size, axis=-1)


# ---- functions of arrays ----------------------------------------------------------------------


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), without overflow."""
    small = np.exp(-np.abs(a))
    return np.where(np.asarray(a) >= 0, 1 / (1 + small), small / (1 + small))


def softplus(a: Array) -> Array:
    """log(1 + exp(a)), without overflow."""
    return np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a)))


# S. L. Moshier, Cephes mathematical library (ndtr.c): rational approximations, relative error < 4e-16.
_ERF_P = (9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3,
          7.00332514112805075473e3, 5.55923013010394962768e4)  # fmt: skip
_ERF_Q = (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3,
          2.26290000613890934246e4, 4.92673942608635921086e4)  # fmt: skip
_ERFC_P = (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0,
           4.86371970985681366614e1, 1.96520832956077098242e2, 5.26445194995477358631e2,
           9.34528527171957607540e2, 1.02755188689515710272e3, 5.57535335369399327526e2)  # fmt: skip
_ERFC_Q = (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2,
           9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3,
           1.65666309194161350182e3, 5.57535340817727675546e2)  # fmt: skip


def _polynomial(coefficients: Sequence[float], a: Array) -> Array:
    result = np.full_like(a, coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * a + coefficient
    return result


def erf(a: Array) -> Array:
    """The error function, to 1e-15 in float64."""
    a = np.asarray(a)
    near = np.clip(a, -1, 1)
    inner = near * _polynomial(_ERF_P, near * near) / _polynomial(_ERF_Q, near * near)
    far = np.clip(np.abs(a), 1, 6)  # erf(6) is 1 to the last bit
    outer = 1 - np.exp(-far * far) * _polynomial(_ERFC_P, far) / _polynomial(_ERFC_Q, far)
    result: Array = np.where(np.abs(a) <= 1, inner, np.copysign(outer, a))
    return np.where(np.isnan(a), a, result)


def gelu(a: Array) -> Array:
    """a Phi(a), exact."""
    return np.asarray(a * 0.5 * (1 + erf(a * 0.7071067811865476)))


def modrelu(z: Array, bias: Array) -> Array:
    """relu(|z| + b) z / |z|, 0 at 0."""
    size = np.abs(z)
    safe = np.where(size == 0, 1, size)
    return np.asarray(np.where(size == 0, 0, np.maximum(size + bias, 0) / safe * z))


def softmax(a: Array) -> Array:
    """Over the last axis."""
    shifted = np.exp(a - a.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _l2norm(a: Array) -> Array:
    return np.asarray(a / np.sqrt((a * a).sum(axis=-1, keepdims=True) + 1e-12))


def _rmsnorm(a: Array) -> Array:
    return np.asarray(a / np.sqrt((a * a).mean(axis=-1, keepdims=True) + 1e-6))


def _lnorm(a: Array) -> Array:
    centred = a - a.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5))


def _over_heads(function: Callable[[Array], Array]) -> Rendering:
    """A norm over each head's last axis: `vec` per head, `key` over K, x over D, `mem` over n, `seq` over H."""

    def rendering(call: Call) -> Array:
        if call.types[0].kind != "vec":
            return function(call.arg())
        return flatten(function(call.heads()), 2)

    return rendering


# ---- operations with weights, memory, or matrices ---------------------------------------------


def _lin(call: Call) -> Array:
    """Every operand [.., in] times its [out, in], one bias; the result in the shape of its type."""
    attr = call.node.attr
    total: Any = 0.0
    for i in range(len(call.args)):
        operand = call.flat(i)
        if attr("rank"):
            inner = operand @ np.swapaxes(call.matrix(f"v{i}"), -1, -2)
            total = total + inner @ np.swapaxes(call.matrix(f"u{i}"), -1, -2)
        elif attr("blocks", 1) != 1:
            total = total + _blocks(call, operand, call.weight(f"w{i}", 3))
        else:
            matrix = call.matrix(f"w{i}")
            total = total + operand @ (matrix if attr("transpose") else np.swapaxes(matrix, -1, -2))
    if attr("bias", True):
        total = total + call.weight("b")
    return np.asarray(total.reshape(total.shape[:-1] + call.sizes.shape(call.node.type)))


def _blocks(call: Call, operand: Array, weight: Array) -> Array:
    """[.., in] times the diagonal blocks [.., blocks, out/blocks, in/blocks]."""
    count = call.sizes.at(block_count(dict(call.node.attrs)))
    parts = operand.reshape((*operand.shape[:-1], count, operand.shape[-1] // count, 1))
    matrix = np.swapaxes(weight, -1, -2) if call.node.attr("transpose") else weight
    return flatten(matrix @ parts, 3)


def _own(call: Call, role: str = "w") -> Array:
    """A weight in the shape of the result's type."""
    return call.weight(role, len(call.sizes.shape(call.node.type)))


def _conv(call: Call) -> Array:
    """sum_j w[:, j] * a at t - k + 1 + j, plus the bias: tap 0 is the oldest."""
    own = len(call.sizes.shape(call.node.type))
    weight = call.weight("w", 2)
    total: Any = call.flat() * weight[..., -1]
    for tap, earlier in enumerate(call.past):
        total = total + flatten(earlier, own) * weight[..., tap]
    if call.node.attr("bias", True):
        total = total + call.weight("b")
    return np.asarray(total.reshape(total.shape[:-1] + call.sizes.shape(call.node.type)))


def _attn(call: Call) -> Array:
    """Multi-head self-attention over T of a seq [.., B, T, H], scaled by 1/sqrt(V), without biases.

    With a second operand [.., B, T, N] only to the positions where it is above 0; 0 where no position is left.
    """
    sizes = call.sizes

    def split(role: str) -> Array:
        projected = call.arg() @ np.swapaxes(call.matrix(role), -1, -2)
        return np.swapaxes(per_head(projected, sizes), -3, -2)  # [.., B, N, T, V]

    scores = split("q") @ np.swapaxes(split("k"), -1, -2) / np.sqrt(sizes.value_size).item()
    allowed = np.tri(scores.shape[-1], dtype=bool) if call.node.attr("causal", False) else np.array(True)
    if len(call.args) == 2:
        allowed = allowed & (np.swapaxes(call.arg(1), -1, -2) > 0)[..., None, :]
    some = np.broadcast_to(allowed, scores.shape).any(axis=-1, keepdims=True)
    weights = np.where(some, softmax(np.where(allowed | ~some, scores, -np.inf)), 0)
    mixed = np.swapaxes(weights @ split("v"), -3, -2)
    return np.asarray(flatten(mixed, 2) @ np.swapaxes(call.matrix("o"), -1, -2))


def _top(call: Call) -> Array:
    """[.., B, T, N] of 1 and 0: of equal values the earlier come first."""
    values = np.broadcast_to(call.arg(), np.broadcast_shapes(call.arg().shape, (call.length, 1)))
    places = (-values).argsort(axis=-2, kind="stable").argsort(axis=-2)
    return np.asarray(places < top_count(call.node, call.length)).astype(values.dtype)


def top_count(node: Node, length: int) -> int:
    """How many of `length` positions `top` chooses; a part such as 0.29 of 100 is whole in spite of rounding."""
    return max(1, math.floor(float(node.attr("part", 0.5)) * length + 1e-9))  # type: ignore[arg-type]


def _mlp(call: Call) -> Array:
    inner = gelu(call.arg() @ np.swapaxes(call.matrix("w1"), -1, -2) + call.weight("b1"))
    return np.asarray(inner @ np.swapaxes(call.matrix("w2"), -1, -2) + call.weight("b2"))


def _posemb(call: Call) -> Array:
    """[1, T, H]: sin(t / 10000^(2i/H)) at 2i, cos of the same at 2i + 1 (Vaswani et al., 2017)."""
    width = call.sizes.hidden_size
    column = np.arange(width)
    angle = np.arange(call.length)[:, None] / 10000.0 ** ((column - column % 2) / width)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(call.dtype)[None]


def _read(call: Call) -> Array:
    """S^T k per head."""
    return flatten((call.arg(0) * call.arg(1)[..., None]).sum(axis=-2), 2)


def _readt(call: Call) -> Array:
    """S v per head."""
    return np.asarray((call.arg(0) * call.heads(1)[..., None, :]).sum(axis=-1))


def _outer(call: Call) -> Array:
    return np.asarray(call.arg(0)[..., None] * call.heads(1)[..., None, :])


def _reflect(call: Call) -> Array:
    """z - 2 v (v* z) / (v* v) per head."""
    z, v = call.heads(0), call.heads(1)
    size = (np.abs(v) ** 2).sum(axis=-1, keepdims=True)
    along = (np.conj(v) * z).sum(axis=-1, keepdims=True) / np.where(size == 0, 1, size)
    return flatten(z - 2 * v * along, 2)


def _by_head(call: Call, index: int = 0) -> Array:
    return call.arg(index) if call.types[index].kind == "key" else call.heads(index)


def _shift(call: Call) -> Array:
    return call.past[-1]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "leaky_relu": lambda a: np.where(np.asarray(a) >= 0, a, 0.01 * a),
    "gelu": gelu,
    "silu": lambda a: a * sigmoid(a),
    "softplus": softplus,
    "logsigmoid": lambda a: -softplus(-a),
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "sqrt1m2": lambda a: np.sqrt(np.maximum(1 - a * a, 0)),
    "square": lambda a: a * a,
    "sin": np.sin,
    "cos": np.cos,
    "abs": np.abs,
    "neg": lambda a: -a,
    "stopgrad": lambda a: a,
    "re": np.real,
    "im": np.imag,
    "cis": lambda a: np.cos(a) + 1j * np.sin(a),
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "lerp": lambda g, a, b: g * b + (1 - g) * a,
    "complex": lambda a, b: a + 1j * b,
    "modrelu": modrelu,
}
for _name, _function in _FUNCTIONS.items():
    register_rendering(_name, elementwise(_function))


def elementwise_function(op: str) -> Callable[..., Any] | None:
    """What an operation of the table is on arrays of one shape, None where it is more than elementwise."""
    return _FUNCTIONS.get(op)


_OTHERS: dict[str, Rendering] = {
    "l2norm": _over_heads(_l2norm),
    "rmsnorm": _over_heads(_rmsnorm),
    "lnorm": _over_heads(_lnorm),
    "softmax": _over_heads(softmax),
    "outer": _outer,
    "read": _read,
    "readt": _readt,
    "dot": lambda call: np.asarray((_by_head(call, 0) * _by_head(call, 1)).sum(axis=-1)),
    "hsum": lambda call: np.asarray(_by_head(call).sum(axis=-1)),
    "hmax": lambda call: np.asarray(_by_head(call).max(axis=-1)),
    "toval": lambda call: flatten(call.arg(), 2),
    "reflect": _reflect,
    "tokey": lambda call: call.heads(),
    "lin": _lin,
    "diag": lambda call: call.arg() * _own(call),
    "param": _own,
    "conv": _conv,
    "shift": _shift,
    "attn": _attn,
    "top": _top,
    "mlp": _mlp,
    "posemb": _posemb,
    "sum": lambda call: np.asarray(call.arg().sum(axis=0)),
}
for _name, _rendering in _OTHERS.items():
    register_rendering(_name, _rendering)
