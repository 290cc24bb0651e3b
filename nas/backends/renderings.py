"""Torch's rendering of each operation of the table: one entry per row, and a test proves that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from grammar import OPS, Sizes
from nas.backends.steps import Steps
from nas.errors import BuildError
from nas.ir import Instr

# What an instruction becomes, given the kinds of its operands (`vec`, `key`, ...) and the sizes: a function of its
# operands, tensors with any leading axes, or floats. Operations with weights take them last, by role.
Function = Callable[..., Any]
Kinds = tuple[str, ...]
Rendering = Callable[[Instr, Kinds, Sizes], Function]
Arrays = Mapping[str, Tensor]

_RENDERINGS: dict[str, Rendering] = {}
RENDERINGS: Mapping[str, Rendering] = MappingProxyType(_RENDERINGS)


def register_rendering(name: str, function: Function) -> None:
    """Say how torch computes a user's own operation: `function(*operands)`, elementwise over any leading axes.

    The operation is in the table already (`grammar.register`). Raises BuildError where it is not, or is rendered.
    """
    if name not in OPS:
        raise BuildError(f"{name!r} is not in the table of operations: grammar.register(Op(...)) comes first")
    if name in _RENDERINGS:
        raise BuildError(f"an operation has one rendering, but {name!r} has one already")
    _RENDERINGS[name] = lambda instr, kinds, sizes: function


def _entry(name: str) -> Callable[[Rendering], Rendering]:
    def add(rendering: Rendering) -> Rendering:
        _RENDERINGS[name] = rendering
        return rendering

    return add


# ---- elementwise ------------------------------------------------------------------------------


def _maximum(a: Tensor | float, b: Tensor | float) -> Tensor:
    if isinstance(a, Tensor):
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)
    assert isinstance(b, Tensor)
    return b.clamp(min=a)


def _minimum(a: Tensor | float, b: Tensor | float) -> Tensor:
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    assert isinstance(b, Tensor)
    return b.clamp(max=a)


def _lerp(g: Tensor | float, a: Tensor | float, b: Tensor | float) -> Tensor | float:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.dtype is not b.dtype:
        return g * b + (1 - g) * a
    if isinstance(g, Tensor) and g.dtype is not a.dtype:  # under autocast
        return g * b + (1 - g) * a
    return torch.lerp(a, b, g)


def _sqrt1m2(a: Tensor) -> Tensor:
    inside = 1 - a * a
    positive = inside > 0
    # The inner `where` keeps the infinite slope of the root at 0 out of the gradient.
    return torch.where(positive, torch.where(positive, inside, 1.0).sqrt(), 0.0)


def _modrelu(z: Tensor, b: Tensor | float) -> Tensor:
    modulus = z.abs()
    return z * (F.relu(modulus + b) / torch.where(modulus > 0, modulus, 1.0))


_PLAIN: dict[str, Function] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": lambda a: F.leaky_relu(a, 0.01),
    "gelu": F.gelu,
    "silu": F.silu,
    # torch turns softplus into the identity above a threshold: 40 keeps the error below that of float64
    "softplus": lambda a: F.softplus(a, threshold=40.0),
    "logsigmoid": F.logsigmoid,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sqrt1m2": _sqrt1m2,
    "square": torch.square,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "neg": torch.neg,
    "stopgrad": torch.Tensor.detach,
    "re": torch.real,
    "im": torch.imag,
    "cis": lambda a: torch.complex(a.cos(), a.sin()),
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": _maximum,
    "min": _minimum,
    "lerp": _lerp,
    "complex": lambda a, b: _complex(a, b),
    "modrelu": _modrelu,
    "sum": lambda a: a.sum(0),  # over the children, whose axis comes first
}
for _name, _function in _PLAIN.items():
    _RENDERINGS[_name] = lambda instr, kinds, sizes, function=_function: function  # type: ignore[misc]


def _complex(a: Tensor | float, b: Tensor | float) -> Tensor:
    if not isinstance(a, Tensor):
        assert isinstance(b, Tensor)
        a = torch.full_like(b, a)
    return torch.complex(a, b if isinstance(b, Tensor) else torch.full_like(a, b))


# ---- over heads -------------------------------------------------------------------------------


def _per_head(kind: str, sizes: Sizes, function: Function) -> Function:
    """A function along the last axis, applied to each head of a `vec` by itself."""
    if kind == "vec" and sizes.heads > 1:
        shape = (sizes.heads, sizes.value_size)
        return lambda a: function(a.unflatten(-1, shape)).flatten(-2)
    return function


def _norm(name: str, function: Function) -> None:
    _RENDERINGS[name] = lambda instr, kinds, sizes: _per_head(instr.type.kind, sizes, function)


_norm("l2norm", lambda a: a * torch.rsqrt(a.square().sum(-1, keepdim=True) + 1e-12))
_norm("rmsnorm", lambda a: a * torch.rsqrt(a.square().mean(-1, keepdim=True) + 1e-6))
_norm("lnorm", lambda a: F.layer_norm(a, a.shape[-1:], eps=1e-5))
_norm("softmax", lambda a: a.softmax(-1))


def _heads(sizes: Sizes) -> Function:
    """A `vec` [..., H] seen as [..., N, V]."""
    shape = (sizes.heads, sizes.value_size)
    return lambda a: a.unflatten(-1, shape)


@_entry("hsum")
def _hsum(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    if kinds[0] == "key":
        return lambda a: a.sum(-1)
    heads = _heads(sizes)
    return lambda a: heads(a).sum(-1)


@_entry("hmax")
def _hmax(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    if kinds[0] == "key":
        return lambda a: a.amax(-1)
    heads = _heads(sizes)
    return lambda a: heads(a).amax(-1)


@_entry("dot")
def _dot(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    if kinds[0] == "key":
        return lambda a, b: (a * b).sum(-1)
    heads = _heads(sizes)
    return lambda a, b: heads(a * b).sum(-1)


@_entry("tokey")
def _tokey(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    return _heads(sizes)


@_entry("toval")
def _toval(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    return lambda a: a.flatten(-2)


@_entry("outer")
def _outer(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    heads = _heads(sizes)
    return lambda k, v: k.unsqueeze(-1) * heads(v).unsqueeze(-2)


@_entry("read")
def _read(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    def read(s: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(k.unsqueeze(-2).to(s.dtype), s).squeeze(-2).flatten(-2)

    return read


@_entry("readt")
def _readt(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    heads = _heads(sizes)
    return lambda s, v: torch.matmul(s, heads(v).unsqueeze(-1).to(s.dtype)).squeeze(-1)


@_entry("reflect")
def _reflect(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    heads = _heads(sizes)

    def reflect(z: Tensor, v: Tensor) -> Tensor:
        z, v = heads(z), heads(v)
        size = (v * v.conj()).real.sum(-1, keepdim=True)
        along = (v.conj() * z).sum(-1, keepdim=True) / torch.where(size > 0, size, 1.0)
        return (z - 2 * v * along).flatten(-2)

    return reflect


def cast(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    """An operand of an elementwise operation with the axes of its result, ready to broadcast."""
    kind, result = kinds[0], instr.type.kind
    if kind == result:
        return lambda a: a
    if kind == "scal":
        if result == "key":
            return lambda a: a.unsqueeze(-1)
        if result in ("mat", "cmat"):
            return lambda a: a.unsqueeze(-1).unsqueeze(-1)
        if sizes.heads > 1:
            width = sizes.value_size
            return lambda a: a.unsqueeze(-1).expand(*a.shape, width).flatten(-2)
        return lambda a: a  # one head: [..., 1] joins [..., H] as it is
    if kind == "key":
        return lambda a: a.unsqueeze(-1)
    heads = _heads(sizes)
    return lambda a: heads(a).unsqueeze(-2)


# ---- weights ----------------------------------------------------------------------------------


@_entry("diag")
def _diag(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    return lambda a, w: a * w["w"]


@_entry("param")
def _param(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    return lambda w: w["w"]


@_entry("conv")
def _conv(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    """`conv(past, w)`: `past` are the operand's last values, oldest first."""
    shape = sizes.shape(instr.type)
    bias = bool(instr.attr("bias", True))

    def conv(past: list[Tensor], w: Arrays) -> Tensor:
        columns = w["w"].unbind(-1)
        total: Tensor | None = w["b"].view(shape) if bias else None
        for value, column in zip(past, columns, strict=True):
            term = value * column.view(shape)
            total = term if total is None else total + term
        assert total is not None
        return total

    return conv


@_entry("mlp")
def _mlp(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    return lambda a, w: F.linear(F.gelu(F.linear(a, w["w1"], w["b1"])), w["w2"], w["b2"])


@_entry("attn")
def _attn(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    """`attn(a, steps, w)`, or `attn(a, keep, steps, w)` with the positions that are seen."""
    heads, causal = _heads(sizes), bool(instr.attr("causal", False))

    def attn(a: Tensor, steps: Steps, w: Arrays, keep: Tensor | None = None) -> Tensor:
        q, k, v = (heads(steps.pad(F.linear(a, w[role]))).transpose(1, 2) for role in "qkv")
        allowed = None if steps.even else steps.running(a.device)[:, None, None, :]
        if keep is not None:
            seen = (steps.pad(keep) > 0).transpose(1, 2).unsqueeze(-2)
            allowed = seen if allowed is None else allowed & seen
        if allowed is not None and causal:
            allowed = allowed & torch.ones(steps.count, steps.count, device=a.device).tril().bool()
        some = None
        if keep is not None and allowed is not None:  # where nothing is seen, see all, and then nothing
            some = allowed.any(-1, keepdim=True)
            allowed = allowed | ~some
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=causal and allowed is None
        )
        mixed = mixed if some is None else mixed.masked_fill(~some, 0.0)
        return F.linear(steps.unpad(mixed.transpose(1, 2).flatten(-2)), w["o"])

    return attn if len(kinds) == 1 else lambda a, keep, steps, w: attn(a, steps, w, keep)


@_entry("top")
def _top(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    """Of equal values the earlier come first."""
    part = float(instr.attr("part", 0.5))  # type: ignore[arg-type]

    def top(a: Tensor, steps: Steps) -> Tensor:
        running = steps.running(a.device)[..., None]
        values = steps.pad(a.detach()).masked_fill(~running, -math.inf)
        places = values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        lengths = running.sum(1, keepdim=True, dtype=torch.float64)
        return steps.unpad((places < (part * lengths + 1e-9).floor().clamp(min=1)).to(a.dtype))

    return top


@_entry("posemb")
def _posemb(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    """A. Vaswani et al., 2017: sine in the even, cosine in the odd places."""

    def posemb(x: Tensor, steps: Steps) -> Tensor:
        width = sizes.hidden_size
        rate = torch.arange(0, width, 2, device=x.device, dtype=torch.float64)
        angle = steps.times(x.device)[:, None] * torch.exp(rate * (-math.log(10000.0) / width))
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[:, :width].to(x.dtype)

    return posemb


# ---- rendered by the runner, which knows the steps ---------------------------------------------


def _elsewhere(instr: Instr, kinds: Kinds, sizes: Sizes) -> Function:
    raise BuildError(f"`{instr.op}` is no function of its operands alone: nas.backends.reference renders it")


for _name in ("lin", "shift"):
    _RENDERINGS[_name] = _elsewhere
