"""C text of values and products, as far as it does not matter which step they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from nas.backends.c.fuse import MATRIX, Fusion
from nas.backends.c.loops import Frame, Item, Loop, Place
from nas.backends.c.world import Key, World
from nas.ir import Node, Use, number_in


@dataclass
class Function:
    """What all text of one C function shares: its pointers, its scratch memory, what comes before the steps."""

    ports: list[Key] = field(default_factory=list)
    floats: int = 0  # of scratch memory, without what each row takes
    buffers: list[tuple[str, int]] = field(default_factory=list)  # that of the rows of a block, by name
    prologue: list[str] = field(default_factory=list)
    # where weights of products lie, by use
    packed: dict[tuple[object, ...], str] = field(default_factory=dict)

    @property
    def per_row(self) -> int:
        """Floats of scratch memory for each row of a block."""
        return sum(size for _, size in self.buffers)

    def port(self, key: Key) -> str:
        """The name of a pointer."""
        if key not in self.ports:
            self.ports.append(key)
        return f"p{self.ports.index(key) + 2}"

    def opening(self, name: str, floats: int) -> list[str]:
        """The head of the function."""
        return [
            f"static int {name}(const Kit *kit, const long *g, void *const *p) {{",
            *(f"float *p{n + 2} = p[{n + 2}];" for n in range(len(self.ports))),
            f"float *S = aligned_alloc(64, {4 * floats + 256} / 64 * 64);",
            "if (!S) return 1;",
        ]


class Text:
    """Text about the nodes of one schedule, in one C function."""

    def __init__(self, world: World, function: Function) -> None:
        self.w, self.f = world, function
        self.nodes = world.schedule.nodes
        self.numbers = {
            k: number_in(n.attr("value"), n.attr("over"), world.sizes)
            for k, n in enumerate(self.nodes)
            if n.op == "num"
        }
        self.widths = {k: self._space_of(k) for k in range(len(self.nodes))}
        self.kinds = {k: self._kind(n) for k, n in enumerate(self.nodes)}
        self.places: dict[int, Place] = {}
        self.stores: dict[int, list[Place]] = {}

    # -- small facts ------------------------------------------------------------------------

    def _space_of(self, k: int) -> int:
        node = self.nodes[k]
        if node.op == "gram":
            return 0
        return MATRIX if node.type.kind == "mat" else self.w.size(k)

    @staticmethod
    def _kind(node: Node) -> str:
        kind = node.type.kind
        return kind if kind in ("scal", "key", "mat") else "vec"

    def _pad(self, count: int) -> int:
        return -(-count // self.w.lanes) * self.w.lanes

    def _fixed(self, count: int) -> str:
        """A pointer to scratch memory that all rows share."""
        self.f.floats += self._pad(count)
        return f"(S + {self.f.floats - self._pad(count)})"

    def _frame(self) -> Frame:
        s = self.w.sizes
        return Frame(
            self.w.lanes,
            s.heads,
            s.key_size,
            s.value_size,
            self.places,
            self.numbers,
            self.widths,
            self.kinds,
        )

    # -- values without rows ----------------------------------------------

    def _fixed_values(self, roots: Iterable[int], stage: str = "const") -> None:
        """Values of a stage without rows and all that they are made of, as far as `roots` need them."""
        needed: set[int] = set()
        todo = [k for k in roots if self.nodes[k].stage in ("const", stage)]
        while todo:
            k = todo.pop()
            if k not in needed and k not in self.places:
                needed.add(k)
                todo.extend(self.nodes[k].args)
        inner = sorted(k for k in needed if self.nodes[k].args)
        for k in sorted(needed):
            if self.nodes[k].op == "param":
                self.places[k] = self._param(self.nodes[k])
        fusion = Fusion(self.nodes, inner, self.widths.__getitem__)
        for k in inner:
            self.places[k] = Place(self._fixed(self.w.size(k)))
        for group in fusion.groups():
            if group.space is None:
                self.f.prologue += self._product(group.nodes[0], "1", "0")
            else:
                items = [Item(k, self.nodes[k], [self.places[k]]) for k in group.nodes]
                self.f.prologue += Loop(self._frame(), group.space, items, "1").lines()

    def _param(self, node: Node) -> Place:
        """An array as it is, or one place of its last axis copied together."""
        index, shape = self.w.arrays[node.weight, str(node.attr("role"))]
        column, pointer = int(node.attr("column", -1)), self.f.port(("w", index))  # type: ignore[call-overload]
        if column < 0:
            return Place(pointer)
        count = math.prod(shape) // shape[-1]
        place = self._fixed(count)
        self.f.prologue.append(
            f"for (long j = 0; j < {count}; j++) {place}[j] = {pointer}[j * {shape[-1]} + {column}];"
        )
        return Place(place)

    def _product(self, k: int, rows: str, place: str | None) -> list[str]:
        """One matrix product inside a sweep, its weights packed before."""
        node, lines = self.nodes[k], list[str]()
        stores = self.stores[k] if place is None else [self.places[k]]
        target = next(p for p in stores if not p.unless)
        for n, (a, use) in enumerate(zip(node.args, node.uses, strict=True)):
            source, blocks = self.places[a], self.w.blocks(use.blocks)
            inner, outer = self.w.size(a) // blocks, self.w.size(k) // blocks
            packed = self._packed(use, blocks, inner, outer)
            lines += [
                f"kit->product({rows}, {outer}, {inner}, {source.base} + {b * inner}, {source.row}, "
                f"{packed} + {b * inner * self._pad(outer)}, {target.base} + {b * outer}, {target.row}, {int(n > 0)});"
                for b in range(blocks)
            ]
        for other in stores:
            if other is not target:
                guard = f"if ({other.unless}) " if other.unless else ""
                lines.append(
                    f"{guard}for (long i = 0; i < {rows}; i++) "
                    f"memcpy({other.at('i')}, {target.at('i')}, {4 * self.w.size(k)});"
                )
        return lines

    def _packed(self, use: Use, blocks: int, inner: int, outer: int) -> str:
        """Where a map's weights lie as products want them; maps that share them read them from one place."""
        key = (use, blocks, inner, outer)
        if key not in self.f.packed:
            index, _ = self.w.arrays[use.weight, use.role]
            pointer, each = self.f.port(("w", index)), 2 if use.column >= 0 else 1
            self.f.packed[key] = packed = self._fixed(blocks * inner * self._pad(outer))
            across, down = (outer, 1) if use.transpose else (1, inner)
            for b in range(blocks):
                first = f"{pointer} + {b * inner * outer * each + max(use.column, 0)}"
                here = f"{packed} + {b * inner * self._pad(outer)}"
                whole, strides = f"{inner}, {outer}", f"{across * each}, {down * each}"
                self.f.prologue.append(f"kit->pack({here}, {whole}, 0, 0, {first}, {whole}, {strides});")
        return self.f.packed[key]
