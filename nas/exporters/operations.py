"""How each operation of the table is written in torch: one entry per row of `grammar.OPS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Protocol

from grammar import NUM, Node, Type
from nas.exporters.text import ATOM, UNARY, Code, call, infix


class Place(Protocol):
    """Where an expression is written: it knows the weights of a node and which axes are there."""

    def weight(self, node: Node, role: str) -> Code:
        """The array of a node's weight, complex if it is."""
        ...

    def has_weight(self, node: Node, role: str) -> bool:
        """Whether the node's weight has an array of this role."""
        ...

    def types(self, node: Node) -> Sequence[Type]:
        """The types of a node's operands."""
        ...


Render = Callable[[Place, Node, Sequence[Code]], Code]


def coerced(code: Code, of: Type, to: Type) -> Code:
    """`code`, a value of type `of`, so that it broadcasts with a value of type `to`."""
    if of in (to, NUM) or code.number:
        return code
    kind = to.kind
    if of.kind == "scal":
        if kind == "key":
            return code.method("unsqueeze", -1)
        if kind in ("mat", "cmat"):
            return Code(f"{code.at(ATOM)}[..., None, None]")
        return call("spread", code, "self.hidden_size")
    if kind in ("mat", "cmat"):
        if of.kind == "key":
            return code.method("unsqueeze", -1)
        if of.kind in ("vec", "in", "cvec"):
            return call("heads", code, "self.heads").method("unsqueeze", -2)
    return code


def _function(name: str) -> Render:
    return lambda place, node, args: call(name, *map(_tensor, args))


def _method(name: str) -> Render:
    return lambda place, node, args: _tensor(args[0]).method(name)


def _attribute(name: str) -> Render:
    return lambda place, node, args: Code(f"{args[0].at(ATOM)}.{name}")


def _infix(symbol: str) -> Render:
    return lambda place, node, args: infix(symbol, args[0], args[1])


def _tensor(code: Code) -> Code:
    return call("torch.tensor", code) if code.number else code


def _extreme(name: str, bound: str) -> Render:
    def render(place: Place, node: Node, args: Sequence[Code]) -> Code:
        for number, other in (args, tuple(reversed(args))):
            if number.number and not other.number:
                return other.method("clamp", f"{bound}={number.text}")
        return call(name, *map(_tensor, args))

    return render


def _norm(name: str) -> Render:
    """Over the last axis; a vec has one row per head."""

    def render(place: Place, node: Node, args: Sequence[Code]) -> Code:
        if node.type.kind == "vec":
            return call(name, call("heads", args[0], "self.heads")).method("flatten", -2)
        return call(name, args[0])

    return render


def _softmax(place: Place, node: Node, args: Sequence[Code]) -> Code:
    if node.type.kind == "vec":
        return call("heads", args[0], "self.heads").method("softmax", -1).method("flatten", -2)
    return args[0].method("softmax", -1)


def _read(place: Place, node: Node, args: Sequence[Code]) -> Code:
    key = f"{args[1].at(ATOM)}.to({args[0].at(ATOM)}.dtype)" if node.type.is_complex else args[1].text
    return Code(f'torch.einsum("...kv,...k->...v", {args[0].text}, {key})').method("flatten", -2)


def _readt(place: Place, node: Node, args: Sequence[Code]) -> Code:
    return Code(f'torch.einsum("...kv,...v->...k", {args[0].text}, heads({args[1].text}, self.heads))')


def _outer(place: Place, node: Node, args: Sequence[Code]) -> Code:
    value = call("heads", args[1], "self.heads").method("unsqueeze", -2)
    return infix("*", args[0].method("unsqueeze", -1), value)


def _reflect(place: Place, node: Node, args: Sequence[Code]) -> Code:
    return call("reflect", *(call("heads", a, "self.heads") for a in args)).method("flatten", -2)


def _over_head(method: str, place: Place, node: Node, value: Code) -> Code:
    """A method along the last axis of each head."""
    rows = value if place.types(node)[0].kind == "key" else call("heads", value, "self.heads")
    return rows.method(method, -1)


def _dot(place: Place, node: Node, args: Sequence[Code]) -> Code:
    return _over_head("sum", place, node, infix("*", args[0], args[1]))


def _mlp(place: Place, node: Node, args: Sequence[Code]) -> Code:
    w1, b1, w2, b2 = (place.weight(node, role) for role in ("w1", "b1", "w2", "b2"))
    return call("F.linear", call("F.gelu", call("F.linear", args[0], w1, b1)), w2, b2)


def linear(place: Place, node: Node, operands: Sequence[tuple[int, Code, Type]], bias: bool) -> Code:
    """The part of a `lin` that its `operands` (position, value, type) add; not yet in the shape of its type."""
    total: Code | None = None
    b = place.weight(node, "b") if bias and place.has_weight(node, "b") else None
    for position, value, of in operands:
        term = _term(place, node, position, _flat(value, of, node.type), b if total is None else None)
        total = term if total is None else infix("+", total, term)
    assert total is not None
    return total


def shaped(code: Code, to: Type) -> Code:
    """The flat result of a `lin` as a value of its type."""
    if to.kind == "key":
        return code.method("unflatten", -1, "(self.heads, -1)")
    if to.kind in ("mat", "cmat"):
        return code.method("unflatten", -1, "(self.heads, self.key_size, -1)")
    return code


def _flat(value: Code, of: Type, to: Type) -> Code:
    """A value with one axis for all its numbers."""
    first = {"key": -2, "mat": -3, "cmat": -3}.get(of.kind)
    value = value if first is None else value.method("flatten", first)
    return infix("+", value, Code("0j")) if to.is_complex and not of.is_complex else value


def _term(place: Place, node: Node, position: int, value: Code, bias: Code | None) -> Code:
    if node.attr("rank"):
        down = call("F.linear", value, place.weight(node, f"v{position}"))
        return call("F.linear", down, place.weight(node, f"u{position}"), *([bias] if bias else []))
    w = place.weight(node, f"w{position}")
    w = Code(f"{w.at(ATOM)}.mT") if node.attr("transpose") else w
    if node.attr("blocks", 1) != 1:
        product = call("block_linear", value, w)
        return product if bias is None else infix("+", product, bias)
    return call("F.linear", value, w, *([bias] if bias else []))


def _statement(place: Place, node: Node, args: Sequence[Code]) -> Code:
    raise NotImplementedError(f"`{node.op}` is more than an expression: `layer.py` writes it")


def _elsewhere(place: Place, node: Node, args: Sequence[Code]) -> Code:
    raise NotImplementedError(f"`{node.op}` is in no cell that runs over time")


_RENDER: dict[str, Render] = {
    "sigmoid": _function("torch.sigmoid"),
    "tanh": _function("torch.tanh"),
    "relu": _function("torch.relu"),
    "leaky_relu": _function("F.leaky_relu"),
    "gelu": _function("F.gelu"),
    "silu": _function("F.silu"),
    "softplus": _function("F.softplus"),
    "logsigmoid": _function("F.logsigmoid"),
    "exp": _function("torch.exp"),
    "log": _function("torch.log"),
    "sqrt": _function("torch.sqrt"),
    "sqrt1m2": _function("sqrt1m2"),
    "square": _method("square"),
    "sin": _function("torch.sin"),
    "cos": _function("torch.cos"),
    "abs": _method("abs"),
    "neg": lambda place, node, args: Code(f"-{args[0].at(UNARY)}", UNARY),
    "stopgrad": _method("detach"),
    "re": _attribute("real"),
    "im": _attribute("imag"),
    "cis": lambda place, node, args: call("torch.exp", infix("*", Code("1j"), args[0])),
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "div": _infix("/"),
    "max": _extreme("torch.maximum", "min"),
    "min": _extreme("torch.minimum", "max"),
    "lerp": lambda place, node, args: call("lerp", *args),
    "complex": lambda place, node, args: infix("+", args[0], infix("*", Code("1j"), args[1])),
    "modrelu": lambda place, node, args: call("modrelu", *args),
    "l2norm": _norm("l2norm"),
    "rmsnorm": _norm("rmsnorm"),
    "lnorm": _norm("lnorm"),
    "softmax": _softmax,
    "outer": _outer,
    "read": _read,
    "readt": _readt,
    "dot": _dot,
    "hsum": lambda place, node, args: _over_head("sum", place, node, args[0]),
    "hmax": lambda place, node, args: _over_head("amax", place, node, args[0]),
    "toval": lambda place, node, args: args[0].method("flatten", -2),
    "reflect": _reflect,
    "tokey": lambda place, node, args: call("heads", args[0], "self.heads"),
    "lin": _statement,
    "diag": lambda place, node, args: infix("*", place.weight(node, "w"), args[0]),
    "param": lambda place, node, args: place.weight(node, "w"),
    "conv": _statement,
    "shift": _statement,
    "mlp": _mlp,
    "attn": _elsewhere,
    "top": _elsewhere,
    "posemb": _elsewhere,
    "sum": _elsewhere,
}
RENDER = MappingProxyType(_RENDER)
