"""C text of one step of a sweep: its groups in their order, and where their values are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nas.backends.c import delays
from nas.backends.c.fuse import WHOLE, Fusion, Group
from nas.backends.c.loops import Item, Loop, Place, literal
from nas.backends.c.text import Function, Text
from nas.backends.c.world import Column, Key, World
from nas.ir import Node, Sweep, width

LEAVES = ("x", "num", "param", "state", "child", "saved", "past", "next", "dy")
HOARD = 64  # rows that are put by for a product over rows
FLUSH = 16  # steps after which sums over rows are added to those of before: keeps their rounding small


@dataclass(frozen=True)
class Names:
    """How a body calls the memory of a slot before and after the step, and that of other values."""

    now: str = "st"
    new: str = "sn"
    value: str = "u"
    apart: bool = False  # before and after are never the same memory


class Body(Text):
    """The text of a step, `lines`, for rows 0 to m of a block; `rows_used` are the buffers whose rows it sees."""

    def __init__(
        self, world: World, function: Function, sweep: Sweep, names: Names, given: dict[int, Place]
    ) -> None:
        super().__init__(world, function)
        self.sweep, self.names = sweep, names
        self.slots = [s for s in sweep.slots if s not in world.chains]  # those that are carried
        self.places |= given
        self.lines: list[str] = []
        roots = {a for k in sweep.body for a in self.nodes[k].args} | set(sweep.stored)
        self._fixed_values(roots | {world.schedule.following[s] for s in sweep.slots})
        self.groups = self._fused()
        self._plan_slots()
        self._plan_places()
        self._emit()

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
        for s in self.slots:
            k = following[s]
            made = k in group_of and self.nodes[k].args and self.nodes[k].op != "total"
            if made and k not in self.writes:
                self.writes[k] = s
            else:
                self.copied.append(s)
        sources = {following[s] for s in self.copied}
        sources |= {a for k in self.sweep.grams for a in self.nodes[k].args}
        self.double: set[int] = set(self.slots) if self.names.apart else set()
        for s in self.slots:
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

    def slot_width(self, s: int) -> int:
        """Numbers per row of a slot."""
        return width(self.w.schedule.program.slots[s].type, self.w.sizes)

    def slot_place(self, s: int, new: bool) -> Place:
        """Where a slot is before the step, or after it."""
        name = self.names.new if new and s in self.double else self.names.now
        return Place(f"{name}{s}", str(self._pad(self.slot_width(s))))

    # -- where values are -------------------------------------------------------------------

    def _plan_places(self) -> None:
        """A place for every value that leaves its group, every slot and every sum over rows."""
        self.rows_used: dict[Key, int] = {}
        inside = set(self.sweep.body)
        used = {a for group in self.groups for k in group.nodes for a in (self.nodes[k].args or (k,))}
        used |= {self.w.schedule.following[s] for s in self.copied}
        used |= {a for k in self.sweep.grams for a in self.nodes[k].args}
        for s in self.slots if not self.names.apart else ():
            for name in (self.names.now, self.names.new) if s in self.double else (self.names.now,):
                self.f.buffers.append((f"{name}{s}", self._pad(self.slot_width(s))))
        for k, node in enumerate(self.nodes):
            if node.op == "state" and node.slot in self.sweep.slots and k in inside:
                delayed = node.slot in self.w.chains
                self.places[k] = delays.place(node.slot) if delayed else self.slot_place(node.slot, new=False)
            elif k in self.places:  # the same for all rows
                continue
            elif k in used and k in self.w.rows and (k not in inside or node.op in LEAVES):
                self.places[k] = self._in_rows(self.w.rows[k])
        self.sources = {self.w.schedule.following[s] for s in self.copied}
        self.sources |= {a for g in self.sweep.grams for a in self.nodes[g].args}
        self.readers: dict[int, list[Group]] = {}
        for group in self.groups:
            for a in {a for k in group.nodes for a in self.nodes[k].args}:
                self.readers.setdefault(a, []).append(group)
        for group in self.groups:
            for k in group.nodes:
                self._plan_value(k, group)
        self.adds: dict[int, list[Place]] = {}
        self.totals: dict[int, str] = {}
        for k in self.sweep.totals:
            self.totals[k] = self._fixed(2 * self._pad(self.total_width(k)))
            self.adds[k] = [Place(self.totals[k])]

        self.grams: dict[int, str] = {}
        for k in self.sweep.grams:
            self.grams[k] = self._fixed(HOARD * sum(self.w.size(a) for a in self.nodes[k].args))

    def total_width(self, k: int) -> int:
        """Numbers in a sum over rows."""
        return self.w.size(self.nodes[k].args[0])

    def _in_rows(self, column: Column) -> Place:
        pointer = self.f.port(column.key)
        self.rows_used[column.key] = column.width
        plus = f" + {column.first}" if column.first else ""
        unless = pointer if column.optional else ""
        base, row, ahead = (
            f"{pointer.replace('p', 'q')}{plus}",
            f"bs * {column.width}",
            f"nx * {column.width}",
        )
        return Place(base, row, unless, ahead)

    def _plan_value(self, k: int, group: Group) -> None:
        node, stores = self.nodes[k], list[Place]()
        for table in (self.w.rows, self.w.kept):
            if k in table and k in self.sweep.stored:
                stores.append(self._in_rows(table[k]))
        own = None
        if k in self.writes:
            own = self.slot_place(self.writes[k], new=True)
            stores.append(own)
        read = self._item(k).args and (node.op in WHOLE or group.space is None or self._escapes(k, group))
        sure = [p for p in stores if not p.unless]
        if read and not sure:
            size = self._pad(self.w.size(k))
            self.f.buffers.append((f"{self.names.value}{k}", size))
            sure = [Place(f"{self.names.value}{k}", str(size))]
            stores += sure
        if read and k not in self.places:
            self.places[k] = own or sure[0]
        self.stores[k] = stores

    def _escapes(self, k: int, group: Group) -> bool:
        """Whether something outside of its group reads a value in this step."""
        return k in self.sources or any(other is not group for other in self.readers.get(k, ()))

    # -- text -------------------------------------------------------------------------------

    def _emit(self) -> None:
        for group in self.groups:
            if group.space is None:
                self.lines += self._product(group.nodes[0], "m", None)
            else:
                items = [Item(k, self._item(k), self.stores[k], self.adds.get(k, [])) for k in group.nodes]
                self.lines += Loop(self._frame(), group.space, items, "m").lines()
        for k in self.grams:  # before slots change: an operand may be a slot's old value
            self.lines += self._hoard(k)
        for s in self.copied:
            self.lines += self._copy(s)
        for s in sorted(self.double) if not self.names.apart else ():
            now, new = f"{self.names.now}{s}", f"{self.names.new}{s}"
            self.lines.append(f"{{ float *w = {now}; {now} = {new}; {new} = w; }}")
        for k, place in self.totals.items():
            flush = f"flush({place}, {self._pad(self.total_width(k))});"
            self.lines.append(f"if (step % {FLUSH} == {FLUSH - 1}) {flush}")

    def _item(self, k: int) -> Node:
        """A node as its group sees it: one that is the same for all rows is only passed on."""
        node = self.nodes[k]
        return node if k in self.sweep.body or k in self.sweep.totals else replace(node, op="kept", args=())

    def _hoard(self, k: int) -> list[str]:
        """Rows of both operands of a gram put by; when there are enough of them, they are multiplied."""
        a, b = self.nodes[k].args
        n, w, place = self.w.size(a), self.w.size(b), self.grams[k]
        return [
            f"if (g{k} + m > {HOARD}) {{ {self.multiplied(k)} }}",
            f"for (long i = 0; i < m; i++, g{k}++) {{",
            f"memcpy({place} + g{k} * {n}, {self.places[a].at('i')}, {4 * n});",
            f"memcpy({place} + {HOARD * n} + g{k} * {w}, {self.places[b].at('i')}, {4 * w});",
            "}",
        ]

    def multiplied(self, k: int) -> str:
        """The statements that add what was put by to a gram."""
        place, port = self.grams[k], self.f.port(("gram", k))
        blocks, n, w = self.w.gram_shape(k)
        parts = [
            f"kit->gram(g{k}, {n}, {w}, {place} + {q * n}, {blocks * n}, "
            f"{place} + {HOARD * blocks * n + q * w}, {blocks * w}, {port} + {q * n * w}, {w}, 1);"
            for q in range(blocks)
        ]
        return " ".join([*parts, f"g{k} = 0;"])

    def _copy(self, s: int) -> list[str]:
        """A slot's next value from where it is."""
        k, size = self.w.schedule.following[s], self.slot_width(s)
        to = self.slot_place(s, new=True).at("i")
        if k in self.numbers:
            value = literal(self.numbers[k])
            return [f"for (long i = 0; i < m; i++) for (long j = 0; j < {size}; j++) ({to})[j] = {value};"]
        if self.nodes[k].op == "state" and self.nodes[k].slot == s and s not in self.double:
            return []
        return [f"for (long i = 0; i < m; i++) memcpy({to}, {self.places[k].at('i')}, {4 * size});"]

    def row_pointers(self) -> list[str]:
        """Pointers to the rows of the block at this step."""
        names = ((self.f.port(key), size) for key, size in self.rows_used.items())
        return [f"float *{p.replace('p', 'q')} = {p} + r0 * {size};" for p, size in names]
