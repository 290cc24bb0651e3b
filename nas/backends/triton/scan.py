"""Elementwise recurrences that are affine, or max-plus: a chunk of steps at once by a parallel scan.

A slot's new value is a * s + b (or max(s + a, b)) with a and b that do not depend on it, or two slots' new values are
a 2 x 2 matrix times both plus a vector. Maps compose associatively; the scan carries each prefix with and without its
last step, so that it gives the slot before every step, and all else is elementwise on the chunk.
"""

from __future__ import annotations

from dataclasses import replace

import networkx

from nas.backends.triton.body import TEXT
from nas.backends.triton.emit import HEAD, Emitter, Kernel
from nas.backends.triton.partition import Sweep
from nas.backends.triton.tiles import Tiles
from nas.ir import Program

STEPS = 32  # of a chunk
LANES = 32

# (a, b, p, q): the map of all steps of a part, and of all but its last.
COMBINE = """

@triton.jit
def _affine(a, b, p, q, c, d, r, s):
    return c * a, c * b + d, r * a, r * b + s


@triton.jit
def _maxplus(a, b, p, q, c, d, r, s):
    return a + c, tl.maximum(b + c, d), a + r, tl.maximum(b + r, s)


@triton.jit
def _affine2(a, b, c, d, u, v, e, f, g, h, x, y, i, j, k, l, m, n, o, p, q, r, s, t):
    return (
        i * a + j * c, i * b + j * d, k * a + l * c, k * b + l * d, i * u + j * v + m, k * u + l * v + n,
        o * a + p * c, o * b + p * d, q * a + r * c, q * b + r * d, o * u + p * v + s, q * u + r * v + t,
    )
"""


def components(program: Program, sweep: Sweep) -> list[tuple[tuple[int, ...], str]] | None:
    """The slots of a sweep in the order of their scans, each with the form of its maps; None where one has none.

    A component is one slot, `affine` or `maxplus`, or two that are `affine2`.
    """
    reads = {k: program.instrs[k].slot for k in sweep.body if program.instrs[k].op == "state"}
    inside = set(sweep.body)
    seen: dict[int, frozenset[int]] = {}
    for k in sweep.body:
        below = [seen.get(a, frozenset()) for a in program.instrs[k].args]
        seen[k] = frozenset().union(*below, {reads[k]} if k in reads else ())
    graph: networkx.DiGraph[int] = networkx.DiGraph()
    graph.add_nodes_from(sweep.slots)
    for s in sweep.slots:
        following = program.slots[s].next
        if following in inside:
            graph.add_edges_from((r, s) for r in seen[following])
    condensed = networkx.condensation(graph)
    found = []
    for node in networkx.topological_sort(condensed):
        members = tuple(sorted(condensed.nodes[node]["members"]))
        forms = ("affine", "maxplus") if len(members) == 1 else ("affine2",) if len(members) == 2 else ()
        form = next((f for f in forms if all(_fits(program, seen, members, s, f) for s in members)), None)
        if form is None:
            return None
        found.append((members, form))
    return found


def _fits(
    program: Program, seen: dict[int, frozenset[int]], members: tuple[int, ...], s: int, form: str
) -> bool:
    """Whether the next value of a slot is a map of that form of the members."""

    def free(k: int) -> bool:
        return not seen.get(k, frozenset()) & set(members)

    def fits(k: int) -> bool:
        instr = program.instrs[k]
        if free(k) or instr.op == "state":
            return True
        args = instr.args
        if instr.op == "cast":
            return fits(args[0])
        if form == "maxplus":
            if instr.op in ("add", "max"):
                return (free(args[0]) or free(args[1])) and all(fits(a) for a in args)
            return instr.op == "sub" and free(args[1]) and fits(args[0])
        if instr.op in ("add", "sub", "neg"):
            return all(fits(a) for a in args)
        if instr.op == "mul":
            return (free(args[0]) or free(args[1])) and all(fits(a) for a in args)
        return instr.op == "div" and free(args[1]) and fits(args[0])

    return fits(program.slots[s].next)


def scan(
    program: Program,
    sweep: Sweep,
    tiles: Tiles,
    *,
    reverse: bool = False,
    compute: str = "tl.float32",
    interpreted: bool = False,
) -> Kernel | None:
    """The kernel of an elementwise sweep as a scan over chunks, or None where its slots are not of such a form."""
    if tiles.form != "lanes" or not sweep.slots:
        return None
    parts = components(program, sweep)
    if parts is None:
        return None
    warps = 4 if len(sweep.slots) == 1 and len(sweep.body) <= 16 else 8
    chunk = replace(tiles, rows=STEPS, block=min(LANES, tiles.block), warps=warps)
    emitter = _ScanEmitter(program, sweep, chunk, reverse, compute, interpreted)
    emitter.parts = parts
    made = emitter.kernel()
    text = made.text.replace(HEAD, HEAD + COMBINE)
    return replace(made, text=text, scan=True, registers=255)


class _ScanEmitter(Emitter):
    """Writes the chunks. The first axis of a tile is time; a program sees one sequence."""

    parts: list[tuple[tuple[int, ...], str]]

    def sequences(self) -> None:
        self.put("pb = tl.program_id(0).to(tl.int64)")
        self.put("b = pb + tl.arange(0, 1)")
        self.put("mb = b < B")

    def loop(self) -> None:
        self.put(f"for start in range(0, T, {STEPS}):")
        self.depth += 1
        self.put(f"i = start + tl.arange(0, {STEPS})")
        self.put(f"final = (tl.arange(0, {STEPS}) == {STEPS - 1})[:, None]")
        self.put("t = T - 1 - i" if self.reverse else "t = i")
        self.put("if EVEN:")
        self.put("    row = t * (B + 0 * b) + b")
        self.put("    on = i < T")
        self.put("else:")
        self.put("    row = tl.load(offsets + i) + b")
        self.put("    on = b < tl.load(counts + i)")
        self.loads("row", "on", "")
        self.names = {k: f"v{k}" for k in (*self.sweep.consts, *self.sweep.loads)}
        self.component = {s: part for part in self.parts for s in part[0]}
        self.scanned: set[int] = set()
        for k in self.sweep.body:
            self.need(k)
        for part in self.parts:
            self.scanned_part(part)
        for k in self.sweep.stores:
            self.store(self.names[k], f"store{k}", self.program.instrs[k].type, "row", "on")
        for k in dict.fromkeys(self.program.instrs[t].args[0] for t in self.sweep.totals):
            self.sums(k, "on", self.names[k])
        for s in self.sweep.slots:
            self.put(f"s{s} = n{s}")
        self.depth -= 1

    def need(self, k: int) -> str:
        """The name of a value, written first if it is not there."""
        instr = self.program.instrs[k]
        if instr.op == "num":
            return self.body.number(k)
        if k not in self.names:
            if instr.op == "state":
                self.scanned_part(self.component[instr.slot])
                self.names[k] = f"past{instr.slot}"
            else:
                for a in instr.args:
                    self.need(a)
                self.names[k] = f"v{k}"
                self.put(f"v{k} = {self.body.write(k, self.names)}")
        return self.names[k]

    def scanned_part(self, part: tuple[tuple[int, ...], str]) -> None:
        """The scan of one slot or two: their values before each step, and after the chunk."""
        members, form = part
        if members[0] in self.scanned:
            return
        self.scanned.update(members)
        shape = self.body.shape(self.program.slots[members[0]].type)
        unit, nothing = ("1.0", "0.0") if form != "maxplus" else ("0.0", "float('-inf')")
        maps = [self.coefficients(self.program.slots[s].next, members, form) for s in members]
        matrix, vector = [], []
        for row, (factors, rest) in enumerate(maps):
            for column, factor in enumerate(factors):
                same = unit if row == column else nothing
                none = "0.0" if form != "maxplus" else "float('-inf')"
                matrix.append(self.masked(factor or none, same, shape))
            vector.append(self.masked(rest or nothing, nothing, shape))
        s = "_".join(map(str, members))
        given = [f"g{s}_{n}" for n in range(len(matrix) + len(vector))]
        for name, text in zip(given, (*matrix, *vector), strict=True):
            self.put(f"{name} = {text}")
        count = len(members)
        identity = [unit if r == c else nothing for r in range(count) for c in range(count)] + [
            nothing
        ] * count
        full = [f"tl.full({shape}, {text}, {self.compute})" for text in identity]
        after, before = ([f"{side}{s}_{n}" for n in range(len(given))] for side in ("after", "before"))
        operands = ", ".join((*given, *full))
        self.put(f"{', '.join((*after, *before))} = tl.associative_scan(({operands}), 0, _{form})")
        for row, own in enumerate(members):
            self.put(f"past{own} = {self.applied(before, members, row, form)}")
            self.put(f"end{own} = {self.applied(after, members, row, form)}")
        for own in members:
            self.put(f"n{own} = tl.sum(tl.where(final, end{own}, 0.0), 0, keep_dims=True)")

    def masked(self, text: str, otherwise: str, shape: str) -> str:
        """A coefficient, that of the identity where there is no step."""
        return f"tl.broadcast_to(tl.where(on[:, None], {text}, {otherwise}), {shape}).to({self.compute})"

    def applied(self, names: list[str], members: tuple[int, ...], row: int, form: str) -> str:
        """A prefix applied to the slots before the chunk."""
        if form == "maxplus":
            return f"tl.maximum(s{members[0]} + {names[0]}, {names[1]})"
        count = len(members)
        terms = [f"{names[row * count + c]} * s{s}" for c, s in enumerate(members)]
        return " + ".join((*terms, names[count * count + row]))

    def coefficients(
        self, k: int, members: tuple[int, ...], form: str
    ) -> tuple[list[str | None], str | None]:
        """A value as a map of the members: a factor for each, and the rest; None is nothing."""
        self.memory: dict[int, tuple[list[str | None], str | None]] = {}
        self.fresh = f"c{'_'.join(map(str, members))}_{k}_"
        return self.split(k, members, form)

    def split(self, k: int, members: tuple[int, ...], form: str) -> tuple[list[str | None], str | None]:
        """See `coefficients`."""
        if k not in self.memory:
            self.memory[k] = self.split_anew(k, members, form)
        return self.memory[k]

    def name(self, text: str) -> str:
        """A new variable."""
        self.count = getattr(self, "count", 0) + 1
        self.put(f"{self.fresh}{self.count} = {text}")
        return f"{self.fresh}{self.count}"

    def split_anew(self, k: int, members: tuple[int, ...], form: str) -> tuple[list[str | None], str | None]:
        instr = self.program.instrs[k]
        nothing: list[str | None] = [None] * len(members)
        if instr.op == "state" and instr.slot in members:
            unit = "0.0" if form == "maxplus" else "1.0"
            return [unit if s == instr.slot else None for s in members], None
        if not self.depends(k, members):
            return nothing, self.need(k)
        parts = [self.split(a, members, form) for a in instr.args]
        if instr.op == "cast":
            return parts[0]
        if instr.op in ("add", "sub", "neg") and form != "maxplus":
            sides = list(zip(*(([*f, r]) for f, r in parts), strict=True))
            made = [self.sum(instr.op, terms) for terms in sides]
            return made[:-1], made[-1]
        bound, value = (0, 1) if self.depends(instr.args[0], members) else (1, 0)
        other = self.need(instr.args[value])
        factors, rest = parts[bound]
        if form != "maxplus":
            symbol = "*" if instr.op == "mul" else "/"
            scaled = [None if t is None else self.name(f"{t} {symbol} ({other})") for t in (*factors, rest)]
            return scaled[:-1], scaled[-1]
        if instr.op == "max":
            return factors, other if rest is None else self.name(f"tl.maximum({rest}, {other})")
        symbol = "+" if instr.op == "add" else "-"
        moved = [None if t is None else self.name(f"{t} {symbol} ({other})") for t in (*factors, rest)]
        return moved[:-1], moved[-1]

    def sum(self, op: str, terms: tuple[str | None, ...]) -> str | None:
        """A sum, difference or negation of what may be nothing."""
        if op == "neg":
            return None if terms[0] is None else self.name(f"-({terms[0]})")
        one, other = terms
        if other is None:
            return one
        if one is None:
            return other if op == "add" else self.name(f"-({other})")
        return self.name(TEXT[op].format(f"({one})", f"({other})"))

    def depends(self, k: int, members: tuple[int, ...]) -> bool:
        """Whether a value sees the members before this step."""
        instr = self.program.instrs[k]
        if instr.op == "state":
            return instr.slot in members
        if k not in self.sweep.body:
            return False
        return any(self.depends(a, members) for a in instr.args)
