"""C text of one group: a loop over lanes, or over the entries of matrices, with all values in registers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nas.backends.c.fuse import MATRIX, WHOLE
from nas.ir import Node

UNARY = {
    "neg": "-{0}",
    "exp": "vexp({0})",
    "log": "vlog({0})",
    "sqrt": "vsqrt({0})",
    "rsqrt": "vrsqrt({0})",
    "recip": "vrecip({0})",
    "tanh": "vtanh({0})",
    "sigmoid": "vsigmoid({0})",
    "softplus": "vsoftplus({0})",
    "erf": "verf({0})",
    "sin": "vsin({0})",
    "cos": "vcos({0})",
    "abs": "vabs({0})",
    "relu": "vrelu({0})",
    "sign": "vsign({0})",
    "step": "vstep({0})",
    "stopgrad": "{0}",
    "tokey": "{0}",
    "toval": "{0}",
}
BINARY = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "max": "vmax({0}, {1})",
    "min": "vmin({0}, {1})",
    "ge": "vge({0}, {1})",
}
EXPRESSIONS = UNARY | BINARY
CHUNK = 4  # vectors of a matrix's row that are worked on at once


@dataclass(frozen=True)
class Place:
    """Where a value is: a pointer to that of the block's first row, floats from row to row, a pointer to ask first."""

    base: str
    row: str = "0"
    unless: str = ""  # a pointer that is NULL where nothing is to be stored
    ahead: str = ""  # floats from here to the same value of the next step, where that lies far away

    def at(self, i: str) -> str:
        """The pointer to row i."""
        return self.base if self.row == "0" else f"{self.base} + {i} * {self.row}"


@dataclass
class Item:
    """One node of a group, and where its value goes. `add` says that it is added to what is there."""

    index: int
    node: Node
    stores: list[Place] = field(default_factory=list)
    adds: list[Place] = field(default_factory=list)


@dataclass
class Frame:
    """What the text of a group needs to know of the world: sizes, where values are, numbers."""

    lanes: int
    heads: int
    key: int
    value: int
    places: dict[int, Place]  # of values from outside the group
    numbers: dict[int, float]
    widths: dict[int, int]  # of all values; MATRIX for matrices
    kinds: dict[int, str]  # how a value joins matrices: `scal`, `key`, `vec` or `mat`


def literal(value: float) -> str:
    """A float as C text."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = repr(float(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


class Loop:
    """The text of one group of items; `rows` is the C expression of how many rows there are."""

    def __init__(self, frame: Frame, space: int, items: Sequence[Item], rows: str) -> None:
        self.f, self.space, self.items, self.rows = frame, space, items, rows
        self.inside = {item.index for item in items if item.node.args}
        self.text: list[str] = []

    def lines(self) -> list[str]:
        """The text."""
        self.text.append(f"for (long i = 0; i < {self.rows}; i++) {{")
        self._pointers()
        if self.space == MATRIX:
            self._matrix()
        else:
            self._lanes()
        self.text.append("}")
        return self.text

    # -- values from outside ----------------------------------------------------------------

    def _outside(self) -> Iterator[int]:
        """The values from outside that the items use, each once."""
        seen = set()
        for item in self.items:
            for a in self._args(item):
                if a not in self.inside and a not in seen and a not in self.f.numbers:
                    seen.add(a)
                    yield a

    def _args(self, item: Item) -> Sequence[int]:
        """What an item reads: a value that is only passed on is its own operand."""
        return item.node.args or (item.index,)

    def _pointers(self) -> None:
        for a in self._outside():
            self.text.append(f"const float *a{a} = {self.f.places[a].at('i')};")
        for item in self.items:
            for n, place in enumerate(item.stores):
                self.text.append(f"float *o{item.index}_{n} = {place.at('i')};")
            for n, place in enumerate(item.adds):
                self.text.append(f"float *t{item.index}_{n} = {place.at('i')};")

    def _name(self, a: int) -> str:
        if a in self.f.numbers:
            return f"vset({literal(self.f.numbers[a])})"
        return f"v{a}"

    def _stores(self, item: Item, where: str, value: str, count: str) -> list[str]:
        """Statements that put a vector of `count` lanes where it goes."""
        lines = []
        for n, place in enumerate(item.stores):
            guard = f"if ({place.unless}) " if place.unless else ""
            lines.append(f"{guard}vstoren(o{item.index}_{n} + {where}, {value}, {count});")
            lines += self._fetch(f"o{item.index}_{n} + {where}", place, write=True)
        for n in range(len(item.adds)):
            there = f"t{item.index}_{n} + {where}"
            lines.append(f"vstoren({there}, vloadn({there}, {count}) + {value}, {count});")
        return lines

    @staticmethod
    def _fetch(here: str, place: Place, write: bool) -> list[str]:
        """Ask for the same value of the next step: hardware does not guess how far apart rows are."""
        return [f"__builtin_prefetch({here} + {place.ahead}, {int(write)}, 2);"] if place.ahead else []

    def _store_one(self, item: Item, where: str, value: str) -> list[str]:
        """The same for a single float."""
        lines = []
        for n, place in enumerate(item.stores):
            guard = f"if ({place.unless}) " if place.unless else ""
            lines.append(f"{guard}o{item.index}_{n}[{where}] = {value};")
        lines += [f"t{item.index}_{n}[{where}] += {value};" for n in range(len(item.adds))]
        return lines

    # -- lanes ------------------------------------------------------------------------------

    def _lanes(self) -> None:
        """A loop over the lanes of values of one width; where something is per head, head by head."""
        casts = [i for i in self.items if self._spreads(i)]
        sums = [i for i in self.items if i.node.op in ("reduce", "hmax")]
        parts = {self._from(i) for i in casts} | {self.f.widths[i.index] for i in sums}
        heads = max(parts | {1})
        self._spread(casts, 1, "0")
        self._begin(sums, 1)
        if heads > 1:
            self.text.append(f"for (int n = 0; n < {heads}; n++) {{")
            self._spread(casts, heads, "n")
            self._begin(sums, heads)
        own = self.space // heads
        first = f"n * {own} + " if heads > 1 else ""
        full = own // self.f.lanes * self.f.lanes
        if full:
            one = full == self.f.lanes
            self.text.append("{" if one else f"for (int j = 0; j < {full}; j += VL) {{")
            self._lanes_body(first + ("0" if one else "j"), "VL")
            self.text.append("}")
        if own > full:
            self.text.append("{")
            self._lanes_body(f"{first}{full}", str(own - full))
            self.text.append("}")
        if heads > 1:
            self._end(sums, heads, "n")
            self.text.append("}")
        self._end(sums, 1, "0")

    def _spreads(self, item: Item) -> bool:
        """Whether an item repeats a value; a cast to the same width does not."""
        return item.node.op == "cast" and (
            item.node.args[0] in self.f.numbers or self.f.widths[item.node.args[0]] != self.space
        )

    def _from(self, item: Item) -> int:
        """The width that a cast is from; 1 where it is from a number."""
        (a,) = item.node.args
        return 1 if a in self.f.numbers else self.f.widths[a]

    def _spread(self, casts: Sequence[Item], width: int, where: str) -> None:
        for item in casts:
            (a,) = item.node.args
            if self._from(item) == width:
                value = literal(self.f.numbers[a]) if a in self.f.numbers else f"a{a}[{where}]"
                self.text.append(f"const V v{item.index} = vset({value});")

    def _begin(self, sums: Sequence[Item], width: int) -> None:
        for item in sums:
            if self.f.widths[item.index] == width:
                start = "vset(-INFINITY)" if item.node.op == "hmax" else "{0}"
                self.text.append(f"V s{item.index} = {start};")

    def _end(self, sums: Sequence[Item], width: int, where: str) -> None:
        for item in sums:
            if self.f.widths[item.index] == width:
                whole = f"vmaximum(s{item.index}, VL)" if item.node.op == "hmax" else f"vsum(s{item.index})"
                self.text.append(f"const float f{item.index} = {whole};")
                self.text += self._store_one(item, where, f"f{item.index}")

    def _lanes_body(self, where: str, count: str) -> None:
        direct = {a for i in self.items if not self._spreads(i) for a in self._args(i)}
        for a in self._outside():
            if a in direct:
                self.text += self._fetch(f"a{a} + {where}", self.f.places[a], write=False)
                self.text.append(f"const V v{a} = vloadn(a{a} + {where}, {count});")
        ends: list[str] = []
        for item in self.items:
            op, index = item.node.op, item.index
            if op in ("reduce", "hmax"):
                value = self._name(item.node.args[0])
                if op == "reduce":
                    self.text.append(f"s{index} += vkeep({value}, {count});")
                else:
                    self.text.append(f"s{index} = vmax(s{index}, vfill({value}, {count}));")
                continue
            if op in EXPRESSIONS:
                value = EXPRESSIONS[op].format(*(self._name(a) for a in item.node.args))
                self.text.append(f"const V v{index} = {value};")
            elif op == "total" or (op == "cast" and not self._spreads(item)):
                self.text.append(f"const V v{index} = {self._name(item.node.args[0])};")
            value = f"v{index}" if item.node.args else self._name(index)
            ends += self._stores(item, where, value, count)
        self.text += ends

    # -- matrices ---------------------------------------------------------------------------

    def _matrix(self) -> None:
        """A loop over heads, keys and the lanes of values, a few vectors of a row at once."""
        self.text.append(f"for (int n = 0; n < {self.f.heads}; n++) {{")
        for item in self.items:
            if item.node.op == "cast" and self._kind(item.node.args[0]) == "scal":
                self.text.append(f"const V v{item.index} = vset(a{item.node.args[0]}[n]);")
            elif item.node.op == "cast" and item.node.args[0] in self.f.numbers:
                self.text.append(f"const V v{item.index} = {self._name(item.node.args[0])};")
            elif item.node.op == "reduce" and item.node.type.kind == "scal":
                self.text.append(f"V s{item.index} = {{0}};")
        wide = CHUNK * self.f.lanes
        for start in range(0, self.f.value, wide):
            counts = [
                min(self.f.lanes, self.f.value - start - q)
                for q in range(0, min(wide, self.f.value - start), self.f.lanes)
            ]
            self._chunk(start, counts)
        for item in self.items:
            if item.node.op == "reduce" and item.node.type.kind == "scal":
                self.text.append(f"const float f{item.index} = vsum(s{item.index});")
                self.text += self._store_one(item, "n", f"f{item.index}")
        self.text.append("}")

    def _kind(self, a: int) -> str:
        """How a value from outside joins a matrix: `scal`, `key`, `vec` or `mat`; a number: `num`."""
        if a in self.f.numbers:
            return "num"
        return self.f.kinds[a]

    def _chunk(self, start: int, counts: Sequence[int]) -> None:
        """Some vectors of all rows of one head's matrix."""
        self.text.append("{")
        sums = [
            i
            for i in self.items
            if i.node.op == "read" or (i.node.op == "reduce" and i.node.type.kind == "vec")
        ]
        for q, count in enumerate(counts):
            where = f"n * {self.f.value} + {start + q * self.f.lanes}"
            for a in sorted(self._by("vec")):
                self.text.append(f"const V w{a}_{q} = vloadn(a{a} + {where}, {count});")
            self.text += [f"V s{i.index}_{q} = {{0}};" for i in sums]
        self.text.append(f"for (int k = 0; k < {self.f.key}; k++) {{")
        for a in sorted(self._by("key")):
            self.text.append(f"const V k{a} = vset(a{a}[n * {self.f.key} + k]);")
        rows = [
            i
            for i in self.items
            if i.node.op == "readt" or (i.node.op == "reduce" and i.node.type.kind == "key")
        ]
        self.text += [f"V r{i.index} = {{0}};" for i in rows]
        for q, count in enumerate(counts):
            self.text.append("{")
            self._matrix_body(
                q, f"(n * {self.f.key} + k) * {self.f.value} + {start + q * self.f.lanes}", str(count)
            )
            self.text.append("}")
        for item in rows:
            self.text.append(f"const float f{item.index} = vsum(r{item.index});")
            where = f"n * {self.f.key} + k"
            if start == 0:
                self.text += self._store_one(item, where, f"f{item.index}")
            else:
                for m, place in enumerate(item.stores):
                    guard = f"if ({place.unless}) " if place.unless else ""
                    self.text.append(f"{guard}o{item.index}_{m}[{where}] += f{item.index};")
        self.text.append("}")
        for q, count in enumerate(counts):
            for item in sums:
                where = f"n * {self.f.value} + {start + q * self.f.lanes}"
                self.text += self._stores(item, where, f"s{item.index}_{q}", str(count))
        self.text.append("}")

    def _by(self, kind: str) -> set[int]:
        """The values from outside that join as this kind."""
        return {
            a
            for item in self.items
            for a in self._args(item)
            if a not in self.inside and self._kind(a) == kind
        }

    def _matrix_body(self, q: int, where: str, count: str) -> None:
        for a in sorted(self._by("mat")):
            self.text.append(f"const V v{a} = vloadn(a{a} + {where}, {count});")
        ends: list[str] = []
        for item in self.items:
            op, index, args = item.node.op, item.index, item.node.args
            if op == "cast":
                kind = self._kind(args[0])
                if kind in ("key", "vec"):
                    value = f"k{args[0]}" if kind == "key" else f"w{args[0]}_{q}"
                    self.text.append(f"const V v{index} = {value};")
            elif op == "outer":
                self.text.append(f"const V v{index} = k{args[0]} * w{args[1]}_{q};")
            elif op == "read":
                self.text.append(f"s{index}_{q} += {self._name(args[0])} * k{args[1]};")
            elif op == "readt":
                self.text.append(f"r{index} += vkeep({self._name(args[0])} * w{args[1]}_{q}, {count});")
            elif op == "reduce":
                value = f"vkeep({self._name(args[0])}, {count})"
                total = {"vec": f"s{index}_{q}", "key": f"r{index}", "scal": f"s{index}"}[item.node.type.kind]
                self.text.append(f"{total} += {value};")
            elif op in EXPRESSIONS:
                value = EXPRESSIONS[op].format(*(self._name(a) for a in args))
                self.text.append(f"const V v{index} = {value};")
            elif op == "total":
                self.text.append(f"const V v{index} = {self._name(args[0])};")
            if op not in WHOLE:
                value = f"v{index}" if args else self._name(index)
                ends += self._stores(item, where, value, count)
        self.text += ends
