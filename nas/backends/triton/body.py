"""The text of one step of a sweep: each primitive of normal programs as Triton says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grammar import Type
from nas.backends.triton.partition import Sweep
from nas.backends.triton.tiles import Tiles
from nas.ir import Instr, Program, number_in

# Elementwise primitives; {0} and {1} are the operands, which stand for themselves.
TEXT: Mapping[str, str] = {
    "neg": "-{0}",
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sqrt": "tl.sqrt({0})",
    "rsqrt": "1.0 / tl.sqrt({0})",
    "recip": "1.0 / {0}",
    "tanh": "_tanh({0})",
    "sigmoid": "1.0 / (1.0 + tl.exp(-{0}))",
    "softplus": "_softplus({0})",
    "erf": "tl.erf({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "abs": "tl.abs({0})",
    "relu": "tl.maximum({0}, 0.0)",
    "sign": "tl.where({0} > 0, 1.0, 0.0) - tl.where({0} < 0, 1.0, 0.0)",
    "step": "tl.where({0} > 0, 1.0, 0.0)",
    "stopgrad": "{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "max": "tl.maximum({0}, {1})",
    "min": "tl.minimum({0}, {1})",
    "ge": "tl.where({0} >= {1}, 1.0, 0.0)",
}

# tanh by one exp that cannot overflow; log(1 + e) without losing a small e.
HELPERS = """
@triton.jit
def _tanh(a):
    e = tl.exp(-2.0 * tl.abs(a))
    r = (1.0 - e) / (1.0 + e)
    return tl.where(a < 0, -r, r)


@triton.jit
def _softplus(a):
    e = tl.exp(-tl.abs(a))
    u = 1.0 + e
    small = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.maximum(a, 0.0) + small
"""


class Body:
    """Writes the values of one step, given the names of those that are there."""

    def __init__(self, program: Program, sweep: Sweep, tiles: Tiles, compute: str, interpreted: bool) -> None:
        self.program, self.sweep, self.tiles = program, sweep, tiles
        self.compute = compute  # the type of all arithmetic
        self.interpreted = interpreted
        three = (
            ', input_precision="tf32x3", out_dtype=tl.float32'  # float32 by three products of tensor cores
        )
        self.accurate = three if compute == "tl.float32" else ""

    def number(self, k: int) -> str:
        """A literal."""
        instr = self.program.instrs[k]
        value = number_in(instr.attr("value"), instr.attr("over"), self.tiles.sizes)
        return repr(value) if abs(value) < float("inf") else f"float('{value}')"

    def shape(self, type_: Type) -> str:
        """The shape of a value's tile."""
        extents = (str(self.tiles.rows), *map(str, self.tiles.inner(self.tiles.space(type_))))
        return f"[{', '.join(extents)}]"

    def operand(self, a: str, k: int) -> str:
        """An operand of a matrix product, rounded to the type of its weights."""
        if self.interpreted:  # the interpreter multiplies bits of bfloat16
            return f"{a}.to(weight{k}.dtype.element_ty).to({self.compute})"
        return f"{a}.to(w{k}.dtype)"

    def space(self, k: int) -> str:
        return self.tiles.space(self.program.instrs[k].type)

    def masked(self, name: str, space: str, otherwise: str = "0.0") -> str:
        """A value with another in the places that pad it."""
        if not self.padded(space):
            return name
        return f"tl.where(m_{space}, {name}, {otherwise})"

    def padded(self, space: str) -> bool:
        """Whether a tile has places that are no numbers of the value."""
        sizes, tiles = self.tiles.sizes, self.tiles
        if tiles.form == "lanes":
            return tiles.width(tiles.lanes) % tiles.block != 0
        if space.startswith("flat"):
            return tiles.inner(space)[0] != int(space[4:])
        whole = tiles.form == "heads" or tiles.heads == sizes.heads
        value = tiles.value * tiles.split == sizes.value_size
        key = tiles.key == sizes.key_size
        return not (whole and {"vec": value, "key": key, "scal": True, "mat": value and key}[space])

    def write(self, k: int, names: Mapping[int, str]) -> str:
        """The expression of an instruction."""
        instr = self.program.instrs[k]
        args = [self.number(a) if self.program.instrs[a].op == "num" else names[a] for a in instr.args]
        if instr.op in TEXT:
            return TEXT[instr.op].format(*(f"({a})" if a.startswith("-") else a for a in args))
        return SHAPED[instr.op](self, instr, args)


def _cast(body: Body, instr: Instr, args: list[str]) -> str:
    (a,), kind = args, body.program.instrs[instr.args[0]].type.kind
    shape = body.shape(instr.type)
    if kind == "num":
        return f"tl.full({shape}, {a}, {body.compute})"
    if body.tiles.form == "lanes":
        return a
    given, result = body.tiles.space(body.program.instrs[instr.args[0]].type), body.tiles.space(instr.type)
    places = {
        ("scal", "vec"): "[:, :, None]",
        ("scal", "key"): "[:, :, None]",
        ("scal", "mat"): "[:, :, None, None]",
        ("key", "mat"): "[:, :, :, None]",
        ("vec", "mat"): "[:, :, None, :]",
    }.get((given, result), "")
    if given == result:
        return a
    if given == "flat1" and result.startswith("flat"):
        a, places = f"tl.sum({body.masked(a, given)}, 1)", "[:, None]"
    return f"tl.broadcast_to({a}{places}, {shape})"


def _reduce(body: Body, instr: Instr, args: list[str]) -> str:
    given, result = body.space(instr.args[0]), body.tiles.space(instr.type)
    a = body.masked(args[0], given)
    if given.startswith("flat"):
        return f"tl.broadcast_to(tl.sum({a}, 1)[:, None], {body.shape(instr.type)})"
    if given == "mat":
        if result == "scal":
            return f"tl.sum(tl.sum({a}, 3), 2)"
        return f"tl.sum({a}, {3 if result == 'key' else 2})"
    return f"tl.sum({a}, 2)"


def _hmax(body: Body, instr: Instr, args: list[str]) -> str:
    given = body.space(instr.args[0])
    a = body.masked(args[0], given, "float('-inf')")
    if given.startswith("flat"):
        return f"tl.broadcast_to(tl.max({a}, 1)[:, None], {body.shape(instr.type)})"
    return f"tl.max({a}, 2)"


def _outer(body: Body, instr: Instr, args: list[str]) -> str:
    return f"{args[0]}[:, :, :, None] * {args[1]}[:, :, None, :]"


def _read(body: Body, instr: Instr, args: list[str]) -> str:
    return f"tl.sum({body.masked(f'{args[0]} * {args[1]}[:, :, :, None]', 'mat')}, 2)"


def _readt(body: Body, instr: Instr, args: list[str]) -> str:
    return f"tl.sum({body.masked(f'{args[0]} * {args[1]}[:, :, None, :]', 'mat')}, 3)"


def _lin(body: Body, instr: Instr, args: list[str]) -> str:
    given, tiles = body.space(instr.args[0]), body.tiles
    k = body.program.instrs.index(instr)
    a, inner = body.masked(args[0], given), tiles.flat(given)
    rows = tiles.rows
    a = f"tl.reshape({a}, [{rows}, {inner}])"
    if tiles.rows < 16:
        result = f"tl.sum({a}[:, :, None] * w{k}[None, :, :], 1)"
    else:
        result = f"tl.dot({body.operand(a, k)}, w{k}{body.accurate})"
    return f"tl.reshape({result}, {body.shape(instr.type)})"


def _same(body: Body, instr: Instr, args: list[str]) -> str:
    return args[0]


Shaped = Callable[[Body, Instr, list[str]], str]
SHAPED: Mapping[str, Shaped] = {
    "cast": _cast,
    "reduce": _reduce,
    "hmax": _hmax,
    "outer": _outer,
    "read": _read,
    "readt": _readt,
    "lin": _lin,
    "tokey": _same,
    "toval": _same,
}

__all__ = ["HELPERS", "SHAPED", "TEXT", "Body"]
