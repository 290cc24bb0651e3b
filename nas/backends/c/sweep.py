"""C text of one sweep: a function that runs over the steps of a block of sequences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from grammar import Sizes
from nas.backends.c.fuse import MATRIX, WHOLE, Fusion, Group
from nas.backends.c.loops import Frame, Item, Loop, Place, literal
from nas.ir import Node, Schedule, Sweep, Use, width

Key = tuple[str, int]  # what a port of a sweep is connected to
LEAVES = ("x", "num", "param", "state", "child", "saved", "past", "next", "dy")
FLUSH = 16  # steps after which sums over rows are added to those of before: keeps their rounding small


@dataclass(frozen=True)
class Column:
    """Rows of a value: a buffer, the first column there, and the buffer's width."""

    key: Key
    first: int
    width: int
    optional: bool = False  # stored only where the buffer is there


@dataclass(frozen=True)
class Held:
    """How a slot lies in the caller's tensor: which, floats per row there, the first, and from one to the next."""

    slot: int
    row: int
    first: int = 0
    step: int = 1
    start: float | None = None  # its value where the caller gives none


@dataclass
class World:
    """What the sweeps of one half (forward or backward) share."""

    schedule: Schedule
    sizes: Sizes
    lanes: int
    rows: dict[int, Column]  # where the rows of values are that are stored or given
    kept: dict[int, Column] = field(default_factory=dict)  # where values go that only the other half reads
    held: Sequence[Held] = ()
    arrays: Mapping[tuple[int, str], tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    def size(self, k: int) -> int:
        """Numbers per row of a node's value."""
        return width(self.schedule.nodes[k].type, self.sizes)

    def number(self, node: Node) -> float:
        """What a `num` says at these sizes."""
        value = float(node.attr("value"))  # type: ignore[arg-type]
        over = {
            "": 1,
            "D": self.sizes.input_size,
            "H": self.sizes.hidden_size,
            "N": self.sizes.heads,
            "K": self.sizes.key_size,
            "V": self.sizes.value_size,
        }
        return value / over[str(node.attr("over", ""))]


class Text:
    """What C functions of one half have in common: pointers by port, scratch memory, values without rows."""

    def __init__(self, world: World, name: str) -> None:
        self.w, self.name = world, name
        self.nodes = world.schedule.nodes
        self.ports: list[Key] = []
        self.floats = 0  # of scratch memory, without what each row takes
        self.numbers = {k: world.number(n) for k, n in enumerate(self.nodes) if n.op == "num"}
        self.widths = {k: self._space_of(k) for k in range(len(self.nodes))}
        self.kinds = {k: self._kind(n) for k, n in enumerate(self.nodes)}
        self.places: dict[int, Place] = {}
        self.stores: dict[int, list[Place]] = {}
        self.prologue: list[str] = []

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

    def _port(self, key: Key) -> str:
        if key not in self.ports:
            self.ports.append(key)
        return f"p{self.ports.index(key) + 2}"

    def _pad(self, count: int) -> int:
        return -(-count // self.w.lanes) * self.w.lanes

    def _fixed(self, count: int) -> str:
        """A pointer to scratch memory that all rows share."""
        self.floats += self._pad(count)
        return f"(S + {self.floats - self._pad(count)})"

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
                self.prologue += self._product(group.nodes[0], "1", "0")
            else:
                items = [Item(k, self.nodes[k], [self.places[k]]) for k in group.nodes]
                self.prologue += Loop(self._frame(), group.space, items, "1").lines()

    def _param(self, node: Node) -> Place:
        """An array as it is, or one place of its last axis copied together."""
        index, shape = self.w.arrays[node.weight, str(node.attr("role"))]
        column, pointer = int(node.attr("column", -1)), self._port(("w", index))  # type: ignore[call-overload]
        if column < 0:
            return Place(pointer)
        count = math.prod(shape) // shape[-1]
        place = self._fixed(count)
        self.prologue.append(
            f"for (long j = 0; j < {count}; j++) {place}[j] = {pointer}[j * {shape[-1]} + {column}];"
        )
        return Place(place)

    def _product(self, k: int, rows: str, place: str | None) -> list[str]:
        """One matrix product inside a sweep, its weights packed before."""
        node, lines = self.nodes[k], list[str]()
        stores = self.stores[k] if place is None else [self.places[k]]
        target = next(p for p in stores if not p.unless)
        for n, (a, use) in enumerate(zip(node.args, node.uses, strict=True)):
            source, blocks = self.places[a], self._blocks(use)
            inner, outer = self.w.size(a) // blocks, self.w.size(k) // blocks
            index, _ = self.w.arrays[use.weight, use.role]
            pointer, each = self._port(("w", index)), 2 if use.column >= 0 else 1
            packed = self._fixed(blocks * inner * self._pad(outer))
            across, down = (outer, 1) if use.transpose else (1, inner)
            for b in range(blocks):
                first = f"{pointer} + {b * inner * outer * each + max(use.column, 0)}"
                here = f"{packed} + {b * inner * self._pad(outer)}"
                self.prologue.append(
                    f"pack({here}, {first}, {inner}, {outer}, {across * each}, {down * each});"
                )
                lines.append(
                    f"product({rows}, {outer}, {inner}, {source.base} + {b * inner}, {source.row}, {here}, "
                    f"{target.base} + {b * outer}, {target.row}, {int(n > 0)});"
                )
        for other in stores:
            if other is not target:
                guard = f"if ({other.unless}) " if other.unless else ""
                lines.append(
                    f"{guard}for (long i = 0; i < {rows}; i++) "
                    f"memcpy({other.at('i')}, {target.at('i')}, {4 * self.w.size(k)});"
                )
        return lines

    def _blocks(self, use: Use) -> int:
        return self.w.sizes.heads if use.blocks == "heads" else int(use.blocks)

    def _opening(self, floats: int) -> list[str]:
        """The head of the function, which has so many floats of scratch memory."""
        return [
            f"int {self.name}(const long *g, void *const *p) {{",
            *(f"float *p{n + 2} = p[{n + 2}];" for n in range(len(self.ports))),
            f"float *S = aligned_alloc(64, {4 * floats + 256} / 64 * 64);",
            "if (!S) return 1;",
        ]


class SweepText(Text):
    """The function `name`: its text, and its ports in the order of its pointers (after those of the steps)."""

    def __init__(self, world: World, sweep: Sweep, name: str) -> None:
        super().__init__(world, name)
        self.sweep = sweep
        self.per_row = 0
        self.buffers: list[tuple[str, int]] = []  # scratch memory for the rows of a block, by name
        self.steps: list[str] = []
        roots = {a for k in sweep.body for a in self.nodes[k].args} | set(sweep.stored)
        self._fixed_values(roots | {world.schedule.following[s] for s in sweep.slots})
        self.groups = self._fused()
        self._plan_slots()
        self._plan_places()
        self._emit_groups()
        self.text = self._function()

    # -- groups -----------------------------------------------------------------------------

    def _fused(self) -> list[Group]:
        """Groups of the body, then sums over rows and values that are only passed on, each in a fitting group."""
        body = [k for k in self.sweep.body if self.nodes[k].op not in LEAVES]
        fusion = Fusion(self.nodes, body, self.widths.__getitem__)
        groups = [(g.space, list(g.nodes)) for g in fusion.groups()]
        for k in self.sweep.totals:
            a = self.nodes[k].args[0]
            self._join(groups, k, a, after=a in body)
        for k in self.sweep.stored:
            if k not in body:
                self._join(groups, k, k, after=False)
        return [Group(space, tuple(members)) for space, members in groups]

    def _join(self, groups: list[tuple[int | None, list[int]]], k: int, a: int, after: bool) -> None:
        """Put `k`, which reads `a` lane by lane, into the first group that can take it, or a new one."""
        space = self.widths[a]
        first = 0
        if after:
            own = next(g for g, (_, members) in enumerate(groups) if a in members)
            soft = groups[own][0] == space and self.nodes[a].op not in WHOLE
            first = own if soft else own + 1
        for found, members in groups[first:]:
            uses = after or any(a in self.nodes[b].args for b in members)
            if found == space and uses:
                members.append(k)
                return
        groups.insert(first, (space, [k]))

    # -- slots ------------------------------------------------------------------------------

    def _plan_slots(self) -> None:
        """Where each slot's next value is written, and which slots need a second buffer for it."""
        following = self.w.schedule.following
        self.writes: dict[int, int] = {}  # of each value that is written straight into a slot: the slot
        self.copied: list[int] = []  # slots that take a copy at the end of a step
        group_of = {k: g for g, group in enumerate(self.groups) for k in group.nodes}
        states = {self.nodes[k].slot: k for k in range(len(self.nodes)) if self.nodes[k].op == "state"}
        for s in self.sweep.slots:
            k = following[s]
            made = k in group_of and self.nodes[k].args and self.nodes[k].op != "total"
            if made and k not in self.writes:
                self.writes[k] = s
            else:
                self.copied.append(s)
        sources = {following[s] for s in self.copied}
        self.double: set[int] = set()
        for s in self.sweep.slots:
            k, state = following[s], states.get(s)
            if state is None or state == k:
                continue
            if state in sources:
                self.double.add(s)
            elif s not in self.copied:
                reads = [g for g, group in enumerate(self.groups) if self._reads(group, state)]
                same = group_of[k]
                late = any(g > same for g in reads) or (
                    same in reads and not self._in_place(self.groups[same], state, k)
                )
                if late:
                    self.double.add(s)

    def _reads(self, group: Group, state: int) -> bool:
        return state in group.nodes or any(state in self.nodes[k].args for k in group.nodes)

    def _in_place(self, group: Group, state: int, value: int) -> bool:
        """Whether a group may overwrite a state that it reads: lane by lane, in a loop that each lane passes once."""
        if group.space is None or self.nodes[value].op in WHOLE:
            return False
        for k in group.nodes:
            node = self.nodes[k]
            if state in node.args and (
                node.op in ("cast", "outer") or (node.op in ("read", "readt") and node.args[1] == state)
            ):
                return False
        return True

    # -- where values are -------------------------------------------------------------------

    def _plan_places(self) -> None:
        """A place for every value that leaves its group, every slot and every weight of a product."""
        self.rows_used: dict[Key, int] = {}
        inside = set(self.sweep.body)
        used = {a for group in self.groups for k in group.nodes for a in (self.nodes[k].args or (k,))}
        used |= {self.w.schedule.following[s] for s in self.copied}
        for s in self.sweep.slots:
            size = self._pad(self._slot_width(s))
            for name in ("st", "sn") if s in self.double else ("st",):
                self._per_row(f"{name}{s}", size)
        for k, node in enumerate(self.nodes):
            if node.op == "state" and node.slot in self.sweep.slots and k in inside:
                self.places[k] = Place(f"st{node.slot}", str(self._pad(self.w.size(k))))
            elif k in used and k in self.w.rows and (k not in inside or node.op in LEAVES):
                self.places[k] = self._in_rows(self.w.rows[k])
        for group in self.groups:
            for k in group.nodes:
                self._plan_value(k, group)
        self.adds = {}
        self.totals: dict[int, str] = {}
        for k in self.sweep.totals:
            count = self._total_width(k)
            place = self._fixed(2 * self._pad(count))
            self.totals[k] = place
            self.adds[k] = [Place(place)]

    def _slot_width(self, s: int) -> int:
        return width(self.w.schedule.program.slots[s].type, self.w.sizes)

    def _per_row(self, name: str, size: int) -> None:
        """Scratch memory for all rows of a block, under a name."""
        self.buffers.append((name, size))
        self.per_row += size

    def _in_rows(self, column: Column) -> Place:
        pointer = self._port(column.key)
        self.rows_used[column.key] = column.width
        plus = f" + {column.first}" if column.first else ""
        return Place(
            f"{pointer.replace('p', 'q')}{plus}", f"bs * {column.width}", pointer if column.optional else ""
        )

    def _plan_value(self, k: int, group: Group) -> None:
        node, stores = self.nodes[k], list[Place]()
        for table in (self.w.rows, self.w.kept):
            if k in table and k in self.sweep.stored:
                stores.append(self._in_rows(table[k]))
        if k in self.writes:
            s = self.writes[k]
            stores.append(Place(f"{'sn' if s in self.double else 'st'}{s}", str(self._pad(self.w.size(k)))))
        read = node.args and (node.op in WHOLE or group.space is None or self._escapes(k, group))
        sure = [p for p in stores if not p.unless]
        if read and not sure:
            self._per_row(f"u{k}", self._pad(self.w.size(k)))
            sure = [Place(f"u{k}", str(self._pad(self.w.size(k))))]
            stores += sure
        if read and k not in self.places:
            slots = [p for p in sure if p.base.startswith("s")]
            self.places[k] = (slots or sure)[0]
        self.stores[k] = stores

    def _escapes(self, k: int, group: Group) -> bool:
        """Whether something outside of its group reads a value in this step."""
        users = {
            b for other in self.groups if other is not group for b in other.nodes if k in self.nodes[b].args
        }
        sources = {self.w.schedule.following[s] for s in self.copied}
        return bool(users) or k in sources

    # -- text of the groups -----------------------------------------------------------------

    def _emit_groups(self) -> None:
        for group in self.groups:
            if group.space is None:
                self.steps += self._product(group.nodes[0], "m", None)
            else:
                items = [
                    Item(k, self.nodes[k], self.stores[k], self.adds.get(k, [])) for k in self._ordered(group)
                ]
                self.steps += Loop(self._frame(), group.space, items, "m").lines()
        for s in self.copied:
            self.steps += self._copy(s)
        for s in sorted(self.double):
            self.steps.append(f"{{ float *w = st{s}; st{s} = sn{s}; sn{s} = w; }}")
        for k, place in self.totals.items():
            self.steps.append(
                f"if (step % {FLUSH} == {FLUSH - 1}) flush({place}, {self._pad(self._total_width(k))});"
            )

    @staticmethod
    def _ordered(group: Group) -> Sequence[int]:
        return group.nodes

    def _copy(self, s: int) -> list[str]:
        """A slot's next value from where it is."""
        k, size = self.w.schedule.following[s], self._slot_width(s)
        name = f"{'sn' if s in self.double else 'st'}{s}"
        to = f"{name} + i * {self._pad(size)}"
        if k in self.numbers:
            value = literal(self.numbers[k])
            return [f"for (long i = 0; i < m; i++) for (long j = 0; j < {size}; j++) ({to})[j] = {value};"]
        if self.nodes[k].op == "state" and self.nodes[k].slot == s:
            return []
        return [f"for (long i = 0; i < m; i++) memcpy({to}, {self.places[k].at('i')}, {4 * size});"]

    # -- the function -----------------------------------------------------------------------

    def _function(self) -> str:
        block = self._block()
        step = [
            "const long t = rev ? T - 1 - step : step;",
            "long now = size ? size[t] - b0 : most;",
            "now = now < 0 ? 0 : now > most ? most : now;",
            *self._borders(),
            "m = now;",
            "if (!m) continue;",
            "const long r0 = (off ? off[t] : t * ts) + b0 * bs;",
            *self._row_pointers(),
            *self.steps,
        ]
        start, names = self.floats, []
        for name, size in self.buffers:
            names.append(f"float *{name} = S + {start};")
            start += size * block
        ends = [f"flush({place}, {self._pad(self._total_width(k))});" for k, place in self.totals.items()]
        ends += [
            f"for (long j = 0; j < {self._total_width(k)}; j++) "
            f"{self._port(('total', k))}[j] = {place}[{self._pad(self._total_width(k))} + j];"
            for k, place in self.totals.items()
        ]
        clear = [
            f"memset({place}, 0, {8 * self._pad(self._total_width(k))});" for k, place in self.totals.items()
        ]
        body = [
            *clear,
            *self.prologue,
            f"for (long b0 = 0; b0 < B; b0 += {block}) {{",
            f"const long most = B - b0 < {block} ? B - b0 : {block};",
            "long m = 0;",
            *names,
            "for (long step = 0; step < T; step++) {",
            *step,
            "}",
            *self._store_slots("0", "m"),
            "}",
            *ends,
        ]
        head = [
            "const long B = g[0], T = g[1], ts = g[2], bs = g[3], rev = g[4];",
            "const long *off = p[0], *size = p[1];",
        ]
        return "\n".join([*self._opening(start), *head, *body, "free(S);", "return 0;", "}\n"])

    def _total_width(self, k: int) -> int:
        return self.w.size(self.nodes[k].args[0])

    def _block(self) -> int:
        """How many sequences are run over the steps together."""
        small = 96 * 1024 // (4 * max(self.per_row, 1))
        products = any(g.space is None for g in self.groups)
        return max(8 if products else 1, min(32, small))

    def _borders(self) -> list[str]:
        """Slots of sequences that start or end at this step."""
        starts, ends = self._load_slots("m", "now"), self._store_slots("now", "m")
        lines = []
        if starts:
            lines += ["if (now > m) {", *starts, "}"]
        if ends:
            lines += ["if (now < m) {", *ends, "}"]
        return lines

    def _load_slots(self, first: str, last: str) -> list[str]:
        lines = []
        for s in self.sweep.slots:
            held, size = self.w.held[s], self._slot_width(s)
            pointer, to = self._port(("init", held.slot)), f"st{s}[i * {self._pad(size)} + j]"
            start = literal(0.0 if held.start is None else held.start)
            value = f"{pointer} ? {pointer}[(b0 + i) * {held.row} + {held.first} + j * {held.step}] : {start}"
            lines.append(
                f"for (long i = {first}; i < {last}; i++) for (long j = 0; j < {size}; j++) {to} = {value};"
            )
        return lines

    def _store_slots(self, first: str, last: str) -> list[str]:
        lines = []
        for s in self.sweep.slots:
            held, size = self.w.held[s], self._slot_width(s)
            pointer, of = self._port(("final", held.slot)), f"st{s}[i * {self._pad(size)} + j]"
            to = f"{pointer}[(b0 + i) * {held.row} + {held.first} + j * {held.step}]"
            lines.append(
                f"if ({pointer}) for (long i = {first}; i < {last}; i++) for (long j = 0; j < {size}; j++) {to} = {of};"
            )
        return lines

    def _row_pointers(self) -> list[str]:
        return [
            f"float *q{self.ports.index(key) + 2} = p{self.ports.index(key) + 2} + r0 * {size};"
            for key, size in self.rows_used.items()
        ]


class EndText(Text):
    """The function `name` that computes `results` of the stage `end` from sums over rows."""

    def __init__(self, world: World, results: Sequence[int], name: str) -> None:
        super().__init__(world, name)
        for k, node in enumerate(self.nodes):
            if node.op == "total":
                self.places[k] = Place(self._port(("total", k)))
        self._fixed_values([k for k in results if k not in self.places], "end")
        lines = [
            f"memcpy({self._port(('end', k))}, {self.places[k].base}, {4 * world.size(k)});" for k in results
        ]
        self.text = "\n".join(
            [*self._opening(self.floats), *self.prologue, *lines, "free(S);", "return 0;", "}\n"]
        )


def arrays_of(schedule: Schedule, sizes: Sizes) -> dict[tuple[int, str], tuple[int, tuple[int, ...]]]:
    """Of each array, by weight and role: its number among all, and its shape."""
    found = {}
    for n, array in enumerate(schedule.program.arrays):
        shape = tuple(sizes.at(extent) for extent in array.spec.shape)
        found[array.weight, array.spec.role] = (n, (*shape, 2) if array.spec.complex else shape)
    return found
