"""How a sweep lays its values out over the lanes of a program: which template it takes, and where each number lies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from grammar import Sizes, Type
from nas.backends.primitives import blocks_of
from nas.backends.triton.partition import Sweep
from nas.ir import Program, shape_in

FLAT = ("in", "mem", "wide")
ELEMENTWISE_ONLY = ("reduce", "hmax", "lin", "tokey", "toval", "outer", "read", "readt", "gram")
CHIP = 200 * 1024  # bytes of weights that one multiprocessor holds beside all else
LANES = 128  # values of a type that a program of an elementwise sweep computes: one for each thread
MATRIX = 4 * 1024  # numbers of one matrix that is read in each step
ROWS = 8  # times as many, where no step waits for another
MANY = 24  # rows and constants of which a thread has not so many numbers at once
TILE = 32 * 1024  # numbers of one value that a program's registers hold
HELD = 144 * 32 * 8  # numbers of matrices that 8 warps hold beside all else
ALL = 235 * 32 * 8  # numbers that 8 warps hold
LEAST = 16  # values of a head that a program has at least, where several share them


def power(n: int) -> int:
    """The least power of 2 that is not below n."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Tiles:
    """The layout of a sweep.

    `form` is "lanes": a program sees some sequences and some lanes of each value, which are all independent; "heads":
    all of one head; or "whole": all of every head. `lanes` is the type whose lanes count for "lanes".
    """

    form: str
    sizes: Sizes
    rows: int  # sequences per program, a power of 2
    block: int  # "lanes": lanes per program
    lanes: Type
    least: int  # the least extent of an axis that is an operand of a matrix product
    warps: int
    streamed: bool = False  # weights are read again in each step, one matrix at a time
    split: int = 1  # "heads": programs that share the values of a head, a power of 2

    def space(self, type_: Type) -> str:
        """Which addresses a type has: those of `vec`, `key`, `scal`, `mat`, or `flat<n>`."""
        if type_.kind == "in" and self.sizes.input_size == self.sizes.hidden_size:
            return "vec"
        if type_.kind in FLAT:
            return f"flat{self.width(type_)}"
        return type_.kind

    def width(self, type_: Type) -> int:
        """Numbers per row of a type."""
        return math.prod(shape_in(type_, self.sizes))

    @property
    def heads(self) -> int:
        """Heads that a program sees, a power of 2."""
        return 1 if self.form == "heads" else power(self.sizes.heads)

    @property
    def value(self) -> int:
        """The extent of the axis over V."""
        return max(self.least, power(self.sizes.value_size)) // self.split

    @property
    def key(self) -> int:
        """The extent of the axis over K."""
        return max(self.least, power(self.sizes.key_size))

    def inner(self, space: str) -> tuple[int, ...]:
        """The extents of a value's own axes in a program."""
        if self.form == "lanes":
            return (self.block,)
        if space.startswith("flat"):
            return (max(self.least, power(int(space[4:]))),)
        return {
            "vec": (self.heads, self.value),
            "key": (self.heads, self.key),
            "scal": (self.heads,),
            "mat": (self.heads, self.key, self.value),
        }[space]

    def flat(self, space: str) -> int:
        """The extent of a value's own axes made one: an operand or result of a matrix product."""
        return math.prod(self.inner(space))

    def grid(self, batch: int) -> tuple[int, int]:
        """How many programs run, for a number of sequences."""
        across = {
            "lanes": -(-self.width(self.lanes) // self.block) if self.form == "lanes" else 1,
            "heads": self.sizes.heads * self.split,
            "whole": 1,
        }[self.form]
        return -(-batch // self.rows), across


def tiles(
    program: Program,
    sweep: Sweep,
    sizes: Sizes,
    itemsize: int = 4,
    more: int = 0,
    replay: tuple[Program, Sweep] | None = None,
) -> Tiles | str:
    """The layout of a sweep, or the reason why no program can hold it.

    `itemsize`: bytes per number of a weight; `more`: matrices that live beside those of the sweep, for what it replays.
    """
    instrs = program.instrs
    types = {instrs[k].type for k in (*sweep.body, *sweep.loads, *sweep.consts)} | {
        program.slots[s].type for s in sweep.slots
    }
    types = {t for t in types if t.kind != "num"}
    ops = {instrs[k].op for k in sweep.body}
    lanes = _lanes(types, sizes)
    if lanes is not None and lanes.kind != "mat" and not ops & set(ELEMENTWISE_ONLY):
        many = len(sweep.loads) + len(sweep.consts) + len(sweep.stores) > MANY
        return _elementwise(lanes, sizes, 1 if sweep.slots or many else ROWS)
    lins = [k for k in sweep.body if instrs[k].op == "lin"]
    mats = any(t.kind == "mat" for t in types)
    per_head = not any(t.kind in FLAT and not _as_vec(t, sizes) for t in types) and all(
        blocks_of(instrs[k], sizes) == sizes.heads for k in lins
    )
    least = 16 if lins else 1
    rows = 16 if lins and not mats else 1
    made = Tiles("heads" if per_head else "whole", sizes, rows, 0, Type("vec"), least, 4)
    if not lins and not mats:
        rows = max(1, 256 // made.flat("vec"))
        made = replace(made, rows=rows, warps=_warps_of_rows(program, sweep, rows * made.flat("vec")))
    largest = max(made.rows * made.flat(made.space(t)) for t in types)
    if largest > TILE:
        return f"a value of {largest} numbers does not fit the registers of one program"
    ends = [(instrs[instrs[k].args[0]].type, instrs[k].type) for k in lins]
    weights = sum(math.prod(made.flat(made.space(t)) for t in pair) for pair in ends)
    held = weights * itemsize * (2 if itemsize == 4 else 1)  # float32 as two numbers of tensor cores
    streamed = held > CHIP
    if streamed and max(math.prod(made.flat(made.space(t)) for t in pair) for pair in ends) > MATRIX:
        return f"{weights} weights do not fit one multiprocessor"
    warps = made.warps
    if mats and lins:  # such products are sums, not those of tensor cores: weights are in registers
        streamed |= (_alive(program, sweep) + more) * made.flat("mat") + weights > ALL
    if mats:
        parts = [(program, sweep), *([replay] if replay else [])]
        if not any(_mixes_columns(p, k) for p, part in parts for k in part.body):
            made = replace(made, split=_split(program, sweep, made, more))
        warps = _warps(program, sweep, made.flat("mat"), more)
    elif largest > 4096 or held >= 96 * 1024 or (lins and largest >= 1024):
        warps = 8
    return replace(made, least=least, warps=warps, streamed=streamed)


def _alive(program: Program, sweep: Sweep) -> int:
    """The matrices that live at once: those that last, and a few on the way."""
    instrs = program.instrs
    lasting = [instrs[k].type for k in sweep.consts] + [program.slots[s].type for s in sweep.slots]
    lasting += [instrs[t].type for t in sweep.totals]
    return sum(t.kind == "mat" for t in lasting) + 4


def _warps(program: Program, sweep: Sweep, size: int, more: int) -> int:
    """How many warps hold the matrices that live at once in their registers.

    Two times 8 hold no more: they have as many registers, and more threads that hold the same addresses.
    """
    alive = _alive(program, sweep) + more
    return 4 if alive * size <= 128 * 32 * 4 else 8


def _split(program: Program, sweep: Sweep, made: Tiles, more: int) -> int:
    """Into how many programs a head's values go, where 8 warps cannot hold its matrices and those of the next step.

    Columns of matrices can be apart where nothing is summed along them; keys and scals are then the same in all.
    """
    alive, split = _alive(program, sweep) + 2 * _loaded(program, sweep) + more, 1
    while alive * made.key * (made.value // split) > HELD and made.value // split > LEAST:
        split *= 2
    return split


def loads_ahead(program: Program, sweep: Sweep, made: Tiles) -> bool:
    """Whether there is room for the matrices of the next step beside those of a step."""
    loaded = _loaded(program, sweep)
    return not loaded or (_alive(program, sweep) + 2 * loaded) * made.flat("mat") <= HELD


def loads_consts(program: Program, sweep: Sweep, made: Tiles, more: int) -> bool:
    """Whether matrices without rows are loaded in each step, because all of them together do not fit."""
    return (_alive(program, sweep) + more) * made.flat("mat") > HELD


def needs_all(program: Program, sweep: Sweep, made: Tiles, more: int) -> bool:
    """Whether all registers hold the matrices and a half of them, which ptxas would rather take, may not."""
    return HELD < (_alive(program, sweep) + more) * made.flat("mat") <= ALL


def _loaded(program: Program, sweep: Sweep) -> int:
    """The matrices that a step loads."""
    return sum(program.instrs[k].type.kind == "mat" for k in sweep.loads)


def _mixes_columns(program: Program, k: int) -> bool:
    """Whether an instruction sees several values of a head at once."""
    instr = program.instrs[k]
    given = {program.instrs[a].type.kind for a in instr.args}
    if instr.op in ("reduce", "hmax"):
        return bool(given & {"vec", "in"}) or ("mat" in given and instr.type.kind != "vec")
    return instr.op in ("lin", "readt", "tokey", "toval")


def _warps_of_rows(program: Program, sweep: Sweep, size: int) -> int:
    """How many warps hold the vecs and keys that live at once, at most half of their registers."""
    instrs = program.instrs
    lasting = [instrs[k].type for k in (*sweep.consts, *sweep.totals, *sweep.loads)]
    lasting += [instrs[k].type for k in sweep.loads]  # the next step's too
    lasting += [program.slots[s].type for s in sweep.slots]
    alive = sum(t.kind not in ("scal", "num") for t in lasting)
    fewest = 2 if size <= 256 else 4
    return next((w for w in (2, 4, 8) if w >= fewest and alive * size <= 128 * 32 * w), 16)


def _as_vec(type_: Type, sizes: Sizes) -> bool:
    return type_.kind == "in" and sizes.input_size == sizes.hidden_size


def _lanes(types: set[Type], sizes: Sizes) -> Type | None:
    """The type whose lanes all values of an elementwise sweep go with, if there is one."""
    wide = {Type("vec") if _as_vec(t, sizes) else t for t in types} - {Type("scal"), Type("mem", 1)}
    scalar = Type("scal") in types
    if not wide:
        return Type("scal") if scalar else Type("mem", 1)
    if len(wide) > 1:
        return None
    (one,) = wide
    if scalar and one.kind in FLAT:
        return None
    return one


def _elementwise(lanes: Type, sizes: Sizes, more: int) -> Tiles:
    block = min(LANES, power(math.prod(shape_in(lanes, sizes))))
    rows = max(1, LANES // block) * more
    return Tiles("lanes", sizes, rows, block, lanes, 1, 4)
