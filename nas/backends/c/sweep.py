"""C text of one sweep: a function that runs over the steps of a block of sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas.backends.c import delays
from nas.backends.c.body import Body, Names
from nas.backends.c.fuse import MATRIX
from nas.backends.c.loops import Place, literal
from nas.backends.c.text import Function, Text
from nas.backends.c.world import Held, Key, Recomputed, World
from nas.ir import Sweep

_APART = 16  # floats between the buffers of a block, besides a row: a line of the cache
# bytes that the values of a block may take: of rows, of matrices that stay near, and of all that a chunk holds
_ROWS, _MATRICES, _CHUNK = 96 * 1024, 24 * 1024, 768 * 1024


class SweepText:
    """The function `name`: its text, and its ports in the order of its pointers (after those of the steps).

    In a backward half, `replay` says how matrices are computed once more: from the checkpoint before it, one chunk of
    steps at a time, of which the matrices are all held.
    """

    def __init__(self, world: World, sweep: Sweep, name: str, replay: Recomputed | None = None) -> None:
        self.w, self.sweep, self.name = world, sweep, name
        self.f = Function()
        nodes = world.schedule.nodes
        args = {a for k in (*sweep.body, *sweep.grams) for a in nodes[k].args}
        read = {a for a in args if nodes[a].op in ("past", "next") and nodes[a].type.kind == "mat"}
        self.replay = replay if read else None
        given = {}
        if self.replay:
            for k in read:
                r = self.replay.slots.index(nodes[k].slot)
                given[k] = Place(f"h{nodes[k].op}{r}", str(self._pad(world.size(k))))
            self.again = Body(
                self.replay.world, self.f, self.replay.sweep, Names("hc", "hn", "hu", apart=True), {}
            )
        self.delayed = [s for s in sweep.slots if s in world.chains]  # those of its slots that are read in x
        past = {
            k: nodes[k].slot for k in sorted(args) if nodes[k].op == "past" and nodes[k].slot in world.past
        }
        self.past = sorted(set(past.values()))  # and those of the other half
        given |= {k: delays.place(slot) for k, slot in past.items()}
        self.body = Body(world, self.f, sweep, Names(), given)
        self.block = self._block()
        self.text = self._function()

    @property
    def ports(self) -> Sequence[Key]:
        """What the function's pointers are connected to."""
        return self.f.ports

    def _pad(self, count: int) -> int:
        return -(-count // self.w.lanes) * self.w.lanes

    def _block(self) -> int:
        """How many sequences are run over the steps together."""
        bodies = [self.body, self.again] if self.replay else [self.body]
        products = any(g.space is None for body in bodies for g in body.groups)
        matrices = any(g.space == MATRIX for body in bodies for g in body.groups)
        near = (_MATRICES if matrices else _ROWS) // (4 * max(self.f.per_row, 1))
        if self.replay:
            near = min(near, _CHUNK // (4 * self._held_per_row()))
        return max(8 if products else 1, min(32, near))

    def _held_per_row(self) -> int:
        assert self.replay is not None
        sizes = (self._pad(self.again.slot_width(r)) for r in range(len(self.replay.slots)))
        return (self.replay.every + 1) * sum(sizes)

    # -- the function -----------------------------------------------------------------------

    def _function(self) -> str:
        body = [*self._clear(), *self._steps(), *self._ends()]
        names, floats = [], self.f.floats
        for name, size in self.f.buffers:
            names.append(f"float *{name} = S + {floats};")
            # Not a power of two apart: their rows would compete for the same few places of the nearest cache, and a
            # load that follows a store to such an address waits for it.
            floats += size * (self.block + 1) + _APART
        if self.replay:
            for r in range(len(self.replay.slots)):
                names.append(f"float *H{r} = S + {floats};")
                floats += self._pad(self.again.slot_width(r)) * self.block * (self.replay.every + 1)
        head = [
            "const long B = g[0], T = g[1], ts = g[2], bs = g[3], rev = g[4];",
            "const long *off = p[0], *size = p[1];",
        ]
        whole = [*head, *self.f.prologue]
        lines = [line if line != "@names" else "\n".join(names) for line in body]
        return "\n".join([*self.f.opening(self.name, floats), *whole, *lines, "free(S);", "return 0;", "}\n"])

    def _steps(self) -> list[str]:
        """The loops over blocks of sequences and over steps."""
        return [
            f"for (long b0 = 0; b0 < B; b0 += {self.block}) {{",
            f"const long most = B - b0 < {self.block} ? B - b0 : {self.block};",
            "long m = 0, chunk = -1;",
            "@names",
            "for (long step = 0; step < T; step++) {",
            "const long t = rev ? T - 1 - step : step;",
            "long now = size ? size[t] - b0 : most;",
            "now = now < 0 ? 0 : now > most ? most : now;",
            *delays.ahead(self.w, self.f, self.delayed),
            *delays.back(self.w, self.f, self.past),
            *self._borders(),
            "m = now;",
            "if (!m) continue;",
            *delays.kept(self.w, self.f, self.delayed),
            "const long r0 = (off ? off[t] : t * ts) + b0 * bs;",
            "const long nx = step + 1 == T ? 0 : off ? off[rev ? t - 1 : t + 1] - off[t] : rev ? -ts : ts;",
            *self.body.row_pointers(),
            *self._checkpoints(),
            *(self._replayed() if self.replay else []),
            *self.body.lines,
            "}",
            *(["const long step = T, t = rev ? -1 : T;"] if self.delayed else []),
            *delays.ahead(self.w, self.f, self.delayed),
            *self._store_slots("0", "m"),
            "}",
        ]

    def _clear(self) -> list[str]:
        counts = []
        for k in self.body.grams:
            size = 4 * math.prod(self.body.w.gram_shape(k))
            counts += [f"long g{k} = 0;", f"memset({self.f.port(('gram', k))}, 0, {size});"]
        return counts + [
            f"memset({place}, 0, {8 * self._pad(self.body.total_width(k))});"
            for k, place in self.body.totals.items()
        ]

    def _ends(self) -> list[str]:
        """Sums over rows to where the caller wants them."""
        lines = [self.body.multiplied(k) for k in self.body.grams]
        for k, place in self.body.totals.items():
            size, port = self.body.total_width(k), self.f.port(("total", k))
            lines.append(f"flush({place}, {self._pad(size)});")
            lines.append(f"memcpy({port}, {place} + {self._pad(size)}, {4 * size});")
        return lines

    # -- slots ------------------------------------------------------------------------------

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
        for s in self.body.slots:
            held, size = self.w.held[s], self.body.slot_width(s)
            pointer, to = self.f.port(("init", held.slot)), f"st{s} + i * {self._pad(size)}"
            start = 0.0 if held.start is None else held.start
            one = f"for (long j = 0; j < {size}; j++) ({to})[j] = {literal(start)};"
            if start == 0:
                one = f"memset({to}, 0, {4 * size});"
            rows = f"for (long i = {first}; i < {last}; i++)"
            lines.append(
                f"if ({pointer}) {rows} {self._moved(held, to, pointer, size, load=True)} else {rows} {one}"
            )
        return lines

    def _store_slots(self, first: str, last: str) -> list[str]:
        lines = []
        for s in self.sweep.slots:
            held, size = self.w.held[s], self.body.slot_width(s)
            pointer, of = self.f.port(("final", held.slot)), f"st{s} + i * {self._pad(size)}"
            if s in self.delayed:
                of = delays.place(s).at("i")
            move = self._moved(held, of, pointer, size, load=False)
            lines.append(f"if ({pointer}) for (long i = {first}; i < {last}; i++) {move}")
        return lines

    @staticmethod
    def _moved(held: Held, here: str, pointer: str, size: int, load: bool) -> str:
        """The statement that moves one row of a slot between scratch memory and the caller's tensor."""
        there = f"{pointer} + (b0 + i) * {held.row} + {held.first}"
        if held.step == 1:
            return (
                f"memcpy({here}, {there}, {4 * size});" if load else f"memcpy({there}, {here}, {4 * size});"
            )
        one, other = f"({here})[j]", f"({there})[j * {held.step}]"
        if not load:
            one, other = other, one
        return f"for (long j = 0; j < {size}; j++) {one} = {other};"

    # -- matrices that the backward half needs again ------------------------------------------

    def _checkpoints(self) -> list[str]:
        """In a forward half: slots stored every so many steps."""
        lines = []
        for s, every in self.w.checkpoints.items():
            if s in self.sweep.slots:
                size, pointer = self.body.slot_width(s), self.f.port(("checkpoint", s))
                to = f"{pointer} + ((b0 + i) * (T / {every} + 2) + step / {every}) * {size}"
                copy = f"memcpy({to}, st{s} + i * {self._pad(size)}, {4 * size});"
                lines.append(f"if ({pointer} && step % {every} == 0) for (long i = 0; i < m; i++) {copy}")
        return lines

    def _replayed(self) -> list[str]:
        """In a backward half: the matrices of the chunk of steps that begins here, and of the step."""
        assert self.replay is not None
        every, lines = self.replay.every, ["const long s = T - 1 - step;"]
        load, pointers, here = list[str](), list[str](), list[str]()
        for r, slot in enumerate(self.replay.slots):
            size = self.again.slot_width(r)
            pad, checkpoint = self._pad(size), self.f.port(("checkpoint", slot))
            source = f"{checkpoint} + ((b0 + i) * (T / {every} + 2) + s / {every}) * {size}"
            load.append(f"for (long i = 0; i < most; i++) memcpy(H{r} + i * {pad}, {source}, {4 * size});")
            pointers.append(
                f"float *hc{r} = H{r} + u % {every} * {self.block * pad}, *hn{r} = hc{r} + {self.block * pad};"
            )
            here.append(f"const float *hpast{r} = H{r} + s % {every} * {self.block * pad};")
            here.append(f"const float *hnext{r} = hpast{r} + {self.block * pad};")
        return [
            *lines,
            f"if (s / {every} != chunk) {{",
            f"chunk = s / {every};",
            *load,
            f"for (long u = s - s % {every}; u <= s; u++) {{",
            "const long t = rev ? u : T - 1 - u;",
            "long m = size ? size[t] - b0 : most;",
            "m = m < 0 ? 0 : m > most ? most : m;",
            "const long r0 = (off ? off[t] : t * ts) + b0 * bs;",
            "const long nx = u == s ? 0 : off ? off[rev ? t + 1 : t - 1] - off[t] : rev ? ts : -ts;",
            *pointers,
            *self.again.row_pointers(),
            *self.again.lines,
            "}",
            "}",
            *here,
        ]


class EndText(Text):
    """The function `name` that computes `results` of the stage `end` from sums over rows."""

    def __init__(self, world: World, results: Sequence[int], name: str) -> None:
        super().__init__(world, Function())
        for k, node in enumerate(self.nodes):
            if node.op == "total":
                self.places[k] = Place(self.f.port(("total", k)))
        grams = [k for k in results if self.nodes[k].op == "gram"]
        plain = [k for k in results if k not in grams]
        self._fixed_values([*plain, *(a for g in grams for a in self.nodes[g].args)], "end")
        lines = [
            f"memcpy({self.f.port(('end', k))}, {self.places[k].base}, {4 * world.size(k)});" for k in plain
        ]
        for k in grams:
            (a, b), to = self.nodes[k].args, self.f.port(("gram", k))
            first, second = self.places[a].base, self.places[b].base
            blocks, n, w = world.gram_shape(k)
            lines += [
                f"kit->gram(1, {n}, {w}, {first} + {q * n}, {n}, {second} + {q * w}, {w}, {to} + {q * n * w}, {w}, 0);"
                for q in range(blocks)
            ]
        opening = self.f.opening(name, self.f.floats)
        self.text = "\n".join([*opening, *self.f.prologue, *lines, "free(S);", "return 0;", "}\n"])

    @property
    def ports(self) -> Sequence[Key]:
        """What the function's pointers are connected to."""
        return self.f.ports
