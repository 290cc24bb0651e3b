"""The text of a sweep's kernel: what is before the steps, one or several steps, and what is after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from grammar import Type
from nas.backends.triton.body import Body
from nas.backends.triton.order import Work, ordered
from nas.backends.triton.partition import Sweep
from nas.backends.triton.replayed import Again, replayed
from nas.backends.triton.text import HEAD as HEAD
from nas.backends.triton.text import NOT_KNOWN, ONE, Loaded
from nas.backends.triton.tiles import Tiles, loads_ahead, loads_consts, needs_all
from nas.ir import Program

UNROLLED = 4  # steps whose rows are loaded before the first of them is computed, in elementwise sweeps
ROOMY = 32 * 1024  # weights beside which a program's registers hold the rows of two steps

# What a pointer is for: rows loaded and stored, values without rows, matrices, a slot's first and last value, sums.
# A matrix slot is not kept: `check` has it before every CHUNK-th step, `scratch` between those of one chunk; `again`
# and `once` are the rows and the values without rows that the replay needs.
# `aside` is memory for an operand of a product that a program computes part by part.
KINDS = "load store const weight first last total check scratch again once aside".split()
PART = 4 * 1024  # numbers of a matrix that such a part has


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's text, and what each of its pointers is: (one of KINDS, instruction or slot)."""

    text: str
    pointers: tuple[tuple[str, int], ...]
    tiles: Tiles
    loop: bool
    unrolled: int
    replays: bool = False
    scan: bool = False
    strided: tuple[int, ...] = ()  # the loads whose distance from row to row is an argument
    registers: int | None = (
        None  # of a thread, at most: otherwise ptxas would rather spill some than take a half of all
    )

    @property
    def warps(self) -> int:
        """Warps of a program."""
        return self.tiles.warps

    @property
    def stride_names(self) -> tuple[str, ...]:
        """The arguments that say how far it is from row to row."""
        return tuple(f"stride{k}" for k in self.strided)


def emit(
    program: Program,
    sweep: Sweep,
    tiles: Tiles,
    *,
    reverse: bool = False,
    compute: str = "tl.float32",
    interpreted: bool = False,
    checks: Sequence[int] = (),
    again: Again | None = None,
) -> Kernel:
    """The kernel of a sweep; `reverse` runs the steps from the last to the first.

    `checks`: the slots that it writes checkpoints of; `again`: what it replays from such.
    """
    emitter = Emitter(program, sweep, tiles, reverse, compute, interpreted)
    emitter.checks, emitter.again = tuple(s for s in sweep.slots if s in checks), again
    return emitter.kernel()


class Emitter:
    def __init__(
        self, program: Program, sweep: Sweep, tiles: Tiles, reverse: bool, compute: str, interpreted: bool
    ) -> None:
        self.program, self.sweep, self.tiles, self.reverse = program, sweep, tiles, reverse
        self.body = Body(program, sweep, tiles, compute, interpreted)
        self.compute = compute
        self.lins = [k for k in sweep.body if program.instrs[k].op == "lin"]
        self.unrolled = UNROLLED if tiles.form == "lanes" and sweep.slots else 1
        self.lines: list[str] = []
        self.depth = 1
        self.checks: tuple[int, ...] = ()
        self.again: Again | None = None
        self.often = False  # whether what has no rows is loaded in each step, where it is used
        self.order = sweep.body

    def put(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    # ---- addresses ------------------------------------------------------------------------

    def across(self, vector: str, inner: int) -> str:
        """A vector over rows with axes for a value's own."""
        return f"{vector}[{', '.join([':', *['None'] * inner])}]"

    def rank(self, space: str) -> int:
        return len(self.tiles.inner(space))

    def strided(self) -> list[int]:
        """The rows that may be part of wider ones: results of products that are computed side by side."""
        return [k for k in self.sweep.loads if self.program.instrs[k].op == "lin"]

    def place(self, pointer: str, type_: Type, row: str) -> tuple[str, str]:
        """The addresses of a value at rows, and the mask of the places that exist."""
        space = self.tiles.space(type_)
        rank = self.rank(space)
        wide = pointer.removeprefix("load")
        if pointer.startswith("load") and int(wide) in self.strided():
            return f"{pointer} + {self.across(row, rank)} * stride{wide} + o_{space}", f"m_{space}"
        offset = f"{self.across(row, rank)} * {self.tiles.width(type_)} + o_{space}"
        if self.has_mats:  # else each pointer has addresses of its own that are held all the time
            offset = f"({offset})"
        return f"{pointer} + {offset}", f"m_{space}"

    def load(self, name: str, pointer: str, type_: Type, row: str, on: str) -> None:
        where, mask = self.place(pointer, type_, row)
        on = self.across(on, self.rank(self.tiles.space(type_)))
        self.put(f"{name} = tl.load({where}, mask={on} & {mask}, other=0.0).to({self.compute})")

    def store(self, name: str, pointer: str, type_: Type, row: str, on: str) -> None:
        where, mask = self.place(pointer, type_, row)
        space = self.tiles.space(type_)
        on = self.across(on, self.rank(space))
        self.put(f"tl.store({where}, {name}, mask={on} & {mask}{self.first_lane(space)})")

    def first_lane(self, space: str) -> str:
        """In an elementwise sweep a number per head is computed in each lane, and stored by the first."""
        own = self.tiles.space(self.tiles.lanes)
        return "" if self.tiles.form != "lanes" or space == own else f" & u_{space}"

    def spaces(self) -> list[str]:
        instrs, program = self.program.instrs, self.program
        used = [*self.sweep.body, *self.sweep.loads, *self.sweep.consts]
        used += [a for k in self.sweep.body for a in instrs[k].args]
        types = [instrs[k].type for k in used] + [program.slots[s].type for s in self.sweep.slots]
        if self.again is not None:
            inner = self.again.sweep
            types += [self.again.program.instrs[k].type for k in (*inner.body, *inner.loads, *inner.consts)]
        return sorted({self.tiles.space(t) for t in types if t.kind != "num"})

    def addresses(self) -> None:
        tiles, sizes = self.tiles, self.tiles.sizes
        if tiles.form == "lanes":
            width, own = tiles.width(tiles.lanes), tiles.space(tiles.lanes)
            self.put(f"c = tl.program_id(1) * {tiles.block} + tl.arange(0, {tiles.block})")
            for space in self.spaces():
                per = 1 if space == own else width // (sizes.heads if space == "scal" else 1)
                self.put(f"o_{space} = (c // {per})[None, :]" if per > 1 else f"o_{space} = c[None, :]")
                self.put(f"m_{space} = (c < {width})[None, :]")
                if space != own:
                    self.put(f"u_{space} = (c % {per} == 0)[None, :]")
            return
        first = "tl.program_id(1)" if tiles.form == "heads" else "0"
        part = ""  # where a program's values of a head begin
        if tiles.split > 1:
            first += f" // {tiles.split}"
            part = f" + tl.program_id(1) % {tiles.split} * {tiles.value}"
        self.put(f"n = {first} + tl.arange(0, {tiles.heads})")
        v, k = sizes.value_size, sizes.key_size
        for space in self.spaces():
            if space.startswith("flat"):
                self.put(f"o_{space} = tl.arange(0, {tiles.inner(space)[0]})[None, :]")
                self.put(f"m_{space} = o_{space} < {space[4:]}")
                continue
            heads = f"(n < {sizes.heads})"
            if space == "scal":
                self.put("o_scal = n[None, :]")
                self.put(f"m_scal = {heads}[None, :]")
            elif space in ("vec", "key"):
                extent, size = (tiles.value, v) if space == "vec" else (tiles.key, k)
                own = part if space == "vec" else ""
                self.put(f"l_{space} = tl.arange(0, {extent})[None, None, :]{own}")
                self.put(f"o_{space} = n[None, :, None] * {size} + l_{space}")
                self.put(f"m_{space} = {heads}[None, :, None] & (l_{space} < {size})")
            else:
                self.put(f"lk = tl.arange(0, {tiles.key})[None, None, :, None]")
                self.put(f"lv = tl.arange(0, {tiles.value})[None, None, None, :]{part}")
                self.put(f"o_mat = (n[None, :, None, None] * {k} + lk) * {v} + lv")
                self.put(f"m_mat = {heads}[None, :, None, None] & (lk < {k}) & (lv < {v})")

    def weight(self, k: int) -> None:
        """Load a matrix, whole: `[in, out]`, or one block for each head."""
        given = self.program.instrs[self.program.instrs[k].args[0]].type
        self.weight_rows(k, f"tl.arange(0, {self.tiles.flat(self.tiles.space(given))})")

    def weight_rows(self, k: int, lane: str) -> None:
        """Load the rows of a matrix that go with some places of its operand's tile made flat."""
        tiles, instr = self.tiles, self.program.instrs[k]
        given, result = self.program.instrs[instr.args[0]].type, instr.type
        (o_in, m_in), (o_out, m_out) = self.flat_places(given, lane), self.flat_places(result)
        stride = tiles.width(result)
        base = f"weight{k}"
        if tiles.form == "heads":
            size_in, stride = tiles.width(given) // tiles.sizes.heads, stride // tiles.sizes.heads
            base += f" + tl.program_id(1).to(tl.int64) * {size_in * stride}"
        where = f"{base} + ({o_in})[:, None] * {stride} + ({o_out})[None, :]"
        self.put(f"w{k} = tl.load({where}, mask=({m_in})[:, None] & ({m_out})[None, :], other=0.0)")
        if self.compute == "tl.float64" or self.body.interpreted:
            self.put(f"w{k} = w{k}.to({self.compute})")

    def product_in_parts(self, k: int, name: str, a: str) -> None:
        """The product of one row and a matrix, some rows of that at a time: so it never takes many registers.

        The operand goes through memory: each thread loads the places of it that go with its rows.
        """
        tiles, (arg,) = self.tiles, self.program.instrs[k].args
        given, result = self.program.instrs[arg].type, self.program.instrs[k].type
        space, out = tiles.space(given), tiles.flat(tiles.space(result))
        part = min(tiles.flat(space), max(1, PART // out))
        self.put("tl.debug_barrier()")
        self.store(a, f"aside{arg}", given, "b", "mb")
        self.put("tl.debug_barrier()")
        self.put(f"sum{k} = tl.zeros([1, {part}, {out}], {self.compute})")
        self.put(f"for c{k} in range(0, {tiles.flat(space)}, {part}):")
        self.depth += 1
        lane = f"(c{k} + tl.arange(0, {part}))"
        self.weight_rows(k, lane)
        where, mask = self.flat_places(given, lane)
        base = f"aside{arg} + b[:, None] * {tiles.width(given)}"
        if tiles.form == "heads":
            base += f" + tl.program_id(1) * {tiles.width(given) // tiles.sizes.heads}"
        there = f"mb[:, None] & ({mask})[None, :]"
        self.put(f"a{k} = tl.load({base} + ({where})[None, :], mask={there}, other=0.0)")
        self.put(f"sum{k} += a{k}[:, :, None] * w{k}[None, :, :]")
        self.depth -= 1
        self.put(f"{name} = tl.reshape(tl.sum(sum{k}, 1), {self.body.shape(result)})")

    def flat_places(self, type_: Type, lane: str = "") -> tuple[str, str]:
        """Where each place of a value's tile made flat lies, and whether it exists; in a head for "heads"."""
        tiles, sizes, space = self.tiles, self.tiles.sizes, self.tiles.space(type_)
        lane = lane or f"tl.arange(0, {tiles.flat(space)})"
        if space.startswith("flat"):
            return lane, f"{lane} < {space[4:]}"
        v, k, heads = tiles.value, tiles.key, sizes.heads
        if space == "scal":
            limit = 1 if tiles.form == "heads" else heads
            return lane, f"{lane} < {limit}"
        if space == "mat":
            inside = f"({lane} // {v} % {k} * {sizes.value_size} + {lane} % {v})"
            head, per = f"({lane} // {v * k})", sizes.key_size * sizes.value_size
            exists = f"({lane} // {v} % {k} < {sizes.key_size}) & ({lane} % {v} < {sizes.value_size})"
        else:
            padded, per = (v, sizes.value_size) if space == "vec" else (k, sizes.key_size)
            inside, head = f"({lane} % {padded})", f"({lane} // {padded})"
            exists = f"({lane} % {padded} < {per})"
        limit = 1 if tiles.form == "heads" else heads
        return f"{head} * {per} + {inside}", f"{exists} & ({head} < {limit})"

    # ---- the kernel -----------------------------------------------------------------------

    def kernel(self) -> Kernel:
        program, sweep, tiles = self.program, self.sweep, self.tiles
        again = self.again
        pointers = self.pointers()
        names = ", ".join(f"{kind}{k}" for kind, k in pointers)
        strides = "".join(f"stride{k}, " for k in self.strided())
        head = '@triton.jit(do_not_specialize=["T", "B", "CHUNK"])\n'
        head += f"def sweep(T, B, CHUNK, {strides}offsets, counts, {names}, EVEN: tl.constexpr):"
        self.sequences()
        self.addresses()
        more = 0 if again is None else again.more
        self.often = self.has_mats and loads_consts(program, sweep, tiles, more)
        for k in sweep.consts:
            if not self.often:
                self.load(f"v{k}", f"const{k}", program.instrs[k].type, *ONE)
        for k in () if tiles.streamed else self.lins:
            self.weight(k)
        for s in sweep.slots:
            self.load(f"s{s}", f"first{s}", program.slots[s].type, "b", "mb")
        for t in sweep.totals:
            shape = self.body.shape(program.instrs[program.instrs[t].args[0]].type)
            self.put(f"t{t} = tl.zeros({shape}, {self.compute})")
        if self.has_mats:
            self.order = self.ordered()
        if again is not None:
            replayed(self, again)
        elif sweep.slots:
            self.loop()
        else:
            self.loads("b", "mb", "")
            self.step("b", "mb", "")
        for s in sweep.slots:
            self.store(f"s{s}", f"last{s}", program.slots[s].type, "b", "mb")
        for t in sweep.totals:
            type_ = program.instrs[program.instrs[t].args[0]].type
            self.put(f"t{t} = tl.sum(t{t}, 0, keep_dims=True)")
            self.store(f"t{t}", f"total{t}", type_, "(pb + tl.zeros([1], tl.int64))", ONE[1])
        text = HEAD + "\n\n" + head + "\n" + "\n".join(self.lines) + "\n"
        loop = bool(sweep.slots) or again is not None
        strided = tuple(self.strided())
        most = 255 if self.has_mats and needs_all(program, sweep, tiles, more) else None
        return Kernel(
            text, tuple(pointers), tiles, loop, self.unrolled, again is not None, False, strided, most
        )

    def pointers(self) -> list[tuple[str, int]]:
        """The kernel's pointers in their order: what each is for, and the value or slot that it has."""
        sweep = self.sweep
        pointers = (
            [("load", k) for k in sweep.loads]
            + [("const", k) for k in sweep.consts]
            + [("weight", k) for k in self.lins]
            + [("first", s) for s in sweep.slots]
            + [("store", k) for k in sweep.stores]
            + [("last", s) for s in sweep.slots]
            + [("total", t) for t in sweep.totals]
            + [("check", s) for s in self.checks]
        )
        again = self.again
        if again is not None:
            pointers = [
                (kind, k) for kind, k in pointers if kind != "load" or k not in {**again.past, **again.next}
            ]
            pointers += [(kind, s) for s in again.slots for kind in ("check", "scratch")]
            pointers += [("again", k) for k in again.sweep.loads if k not in again.borrowed]
            pointers += [("once", k) for k in again.sweep.consts]
        if self.in_parts():
            pointers += [
                ("aside", a) for a in dict.fromkeys(self.program.instrs[k].args[0] for k in self.lins)
            ]
        return pointers

    def sequences(self) -> None:
        """Which sequences a program sees."""
        rows = self.tiles.rows
        self.put("pb = tl.program_id(0).to(tl.int64)")
        self.put(f"b = pb * {rows} + tl.arange(0, {rows})")
        self.put("mb = b < B")

    def rows(self, step: str, suffix: str) -> None:
        """The rows of a step, and which of them exist."""
        self.put(f"i{suffix} = {step}")
        self.put(f"t{suffix} = T - 1 - i{suffix}" if self.reverse else f"t{suffix} = i{suffix}")
        self.put("if EVEN:")
        self.put(f"    row{suffix} = t{suffix} * (B + 0 * b) + b")
        self.put(f"    on{suffix} = mb & (i{suffix} + 0 * b < T)")
        self.put("else:")
        self.put(f"    row{suffix} = tl.load(offsets + i{suffix}) + b")
        self.put(f"    on{suffix} = b < tl.load(counts + i{suffix})")

    def loads(self, row: str, on: str, suffix: str) -> None:
        for k in self.sweep.loads:
            self.load(f"v{k}{suffix}", f"load{k}", self.program.instrs[k].type, row, on)

    def late(self, row: str, on: str, suffix: str) -> dict[int, Loaded]:
        """The same, to be loaded during the step."""
        types = {k: self.program.instrs[k].type for k in self.sweep.loads}
        return {k: (f"v{k}{suffix}", f"load{k}", type_, row, on) for k, type_ in types.items()}

    def in_parts(self) -> bool:
        """Whether products are computed part by part, not by tensor cores."""
        return self.tiles.streamed and self.tiles.rows < 16

    @cached_property
    def has_mats(self) -> bool:
        """Whether a program has matrices."""
        return self.tiles.form != "lanes" and "mat" in self.spaces()

    def held(self) -> int:
        """The weights that a program holds."""
        flat, instrs = self.tiles.flat, self.program.instrs
        return sum(flat(self.body.space(instrs[k].args[0])) * flat(self.body.space(k)) for k in self.lins)

    def ordered(self) -> list[int]:
        """The body in an order that fits registers."""
        instrs, sweep = self.program.instrs, self.sweep
        threads = 32 * self.tiles.warps
        late = set() if self.ahead() or not (sweep.slots or self.again) else set(sweep.loads)
        if self.often:
            late |= set(sweep.consts)

        def size(k: int) -> int:
            type_ = instrs[instrs[k].args[0]].type if instrs[k].op == "cast" else instrs[k].type
            if type_.kind == "num":
                return 0
            count = self.tiles.rows * self.tiles.flat(self.tiles.space(type_))
            least = 1 if type_.kind == "scal" else 2  # other axes are in several threads
            return max(-(-count // threads), least)

        reads = {instrs[k].slot: k for k in sweep.body if instrs[k].op == "state"}
        slots = {k: self.program.slots[s].next for s, k in reads.items()}
        return ordered(Work(sweep.body, lambda k: instrs[k].args, size, late, slots))

    def ahead(self) -> bool:
        """Whether the rows of a step are loaded during the step before it."""
        if self.again is not None or not self.sweep.slots or not self.sweep.loads:
            return False
        return self.held() <= ROOMY and loads_ahead(self.program, self.sweep, self.tiles)

    def loop(self) -> None:
        if self.unrolled > 1:
            self.put(f"for i in range(0, T, {self.unrolled}):")
            self.depth += 1
            for u in range(self.unrolled):
                self.rows(f"i + {u}", f"_{u}")
                self.loads(f"row_{u}", f"on_{u}", f"_{u}")
            for u in range(self.unrolled):
                self.step(f"row_{u}", f"on_{u}", f"_{u}")
            self.depth -= 1
            return
        ahead = self.ahead()
        if ahead:
            self.put("zero = T - T")
            self.rows("zero", "_n")
            self.loads("row_n", "on_n", "_n")
        self.put("for i in range(0, T):")
        self.depth += 1
        self.rows("i + 0", "_0")
        if ahead:
            for k in self.sweep.loads:
                self.put(f"v{k}_0 = v{k}_n")
            self.rows("i + 1", "_n")
            self.loads("row_n", "on_n", "_n")
        late = {} if ahead else self.late("row_0", "on_0", "_0")
        self.step("row_0", "on_0", "_0", late)
        self.depth -= 1

    def step(self, row: str, on: str, suffix: str, late: Mapping[int, Loaded] | None = None) -> None:
        """One step: its values, what is stored of them, and the slots' new values.

        What is loaded `late` is loaded where it is used first: loads above all else would fill the registers.
        """
        for s in self.checks:
            self.put(f"if i{suffix} % CHUNK == 0:")
            self.depth += 1
            self.store(
                f"s{s}",
                f"check{s}",
                self.program.slots[s].type,
                f"((i{suffix} // CHUNK).to(tl.int64) * B + b)",
                "mb",
            )
            self.depth -= 1
        program, sweep = self.program, self.sweep
        names = {k: f"v{k}" for k in sweep.consts} | {k: f"v{k}{suffix}" for k in sweep.loads}
        late = dict(late or {})
        if self.often:
            late |= {
                k: (f"v{k}", f"const{k}", program.instrs[k].type, NOT_KNOWN.format(row=row), ONE[1])
                for k in sweep.consts
            }
        followed: dict[int, list[int]] = {}
        for i in sweep.slots:
            followed.setdefault(program.slots[i].next, []).append(i)
        for k in self.order:
            instr = program.instrs[k]
            names[k] = f"v{k}{suffix}"
            for a in instr.args:
                if a in late:
                    self.load(*late.pop(a))
            if instr.op == "lin" and self.in_parts():
                self.product_in_parts(k, names[k], names[instr.args[0]])
            else:
                if instr.op == "lin" and self.tiles.streamed:
                    self.weight(k)
                value = f"s{instr.slot}" if instr.op == "state" else self.body.write(k, names)
                self.put(f"{names[k]} = {value}")
            if self.has_mats:
                self.written(k, names[k], row, on, followed.pop(k, ()))
        for k in () if self.has_mats else self.order:
            self.written(k, names[k], row, on, followed.pop(k, ()))
        for k, rest in followed.items():
            if k in late:
                self.load(*late.pop(k))
            for s in rest:
                self.following(s, self.body.number(k) if program.instrs[k].op == "num" else names[k], on)
        for s in sweep.slots:
            self.put(f"s{s} = n{s}")

    def written(self, k: int, name: str, row: str, on: str, slots: Sequence[int]) -> None:
        """Store a value, add it to sums, and take it as the new value of slots.

        Beside matrices that is done as soon as it is there: nothing has to be held for it then. Elsewhere the compiler
        makes more of it after all else.
        """
        if k in self.sweep.stores:
            self.store(name, f"store{k}", self.program.instrs[k].type, row, on)
        self.sums(k, on, name)
        for s in slots:
            self.following(s, name, on)

    def following(self, s: int, new: str, on: str) -> None:
        """A slot's value after the step."""
        exists = self.across(on, self.rank(self.tiles.space(self.program.slots[s].type)))
        self.put(f"n{s} = tl.where({exists}, {new}, s{s})")

    def sums(self, k: int, on: str, name: str) -> None:
        """Add a value of this step to its sums over all rows."""
        for t in self.sweep.totals:
            if self.program.instrs[t].args[0] == k:
                space = self.body.space(k)
                exists = f"{self.across(on, self.rank(space))} & m_{space}"
                self.put(f"t{t} += tl.where({exists}, {name}, 0.0)")
