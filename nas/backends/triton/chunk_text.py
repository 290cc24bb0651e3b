"""What kernels of chunks are written from: rows of a chunk, values at them, and products of decays."""

from __future__ import annotations

from dataclasses import dataclass

from grammar import Sizes
from nas.backends.triton.tiles import power
from nas.ir import OWN, Chain, Factors, Instr, Matrices, Program

HEAD = """import triton
import triton.language as tl


@triton.jit
def _mul(a, b):
    return a * b
"""


@dataclass(frozen=True, slots=True)
class ChunkKernel:
    """A kernel's text, what each of its pointers is, and how it is launched.

    The pointers are those of `emit.Kernel`; `again` and `once` are of the forward program, `check` and `held` the
    matrices before each chunk, of the program's own chain and of the forward program's, `square` those of scores
    within each. `stride_names`: names of the
    arguments that say how far it is from row to row, one for each pointer to rows. Loops over a chunk have the argument
    CHUNK, its steps, for a bound: where it is a constant, LLVM unrolls them and registers spill.
    """

    text: str
    pointers: tuple[tuple[str, int], ...]
    stride_names: tuple[str, ...]
    warps: int
    steps: int
    chunks: bool  # a program for each chunk, otherwise one for all, and one for each block of values
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Way:
    """A chain as a kernel sees it: forward in time or not, and which pointers its factors are."""

    chain: Chain
    ahead: bool
    origin: int
    name: str  # of its variables


class ChunkText:
    """Writes one kernel."""

    def __init__(
        self,
        program: Program,
        forward: Program,
        found: Matrices,
        sizes: Sizes,
        reverse: bool,
        steps: int,
        compute: str,
        exact: bool,
    ) -> None:
        self.programs, self.found, self.sizes = (program, forward), found, sizes
        self.reverse, self.steps, self.compute = reverse, steps, compute
        three = {"tl.float32": "tf32x3" if exact else "tf32"}.get(compute, "ieee")
        self.precision = f', input_precision="{three}"'
        self.key, self.value = (max(16, power(n)) for n in (sizes.key_size, sizes.value_size))
        self.pointers: list[tuple[str, int]] = []
        self.strides: dict[str, None] = {}
        self.lines: list[str] = []
        self.made: dict[tuple[object, ...], str] = {}
        self.depth, self.count = 1, 0

    # ---- lines ----------------------------------------------------------------------------

    def put(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def let(self, text: str) -> str:
        """A new variable."""
        self.count += 1
        self.put(f"u{self.count} = {text}")
        return f"u{self.count}"

    def once(self, *key: object, text: str) -> str:
        """A variable that is written the first time it is asked for."""
        if key not in self.made:
            self.made[key] = self.let(text)
        return self.made[key]

    def pointer(self, kind: str, k: int) -> str:
        if (kind, k) not in self.pointers:
            self.pointers.append((kind, k))
        return f"{kind}{k}"

    def dot(self, a: str, b: str) -> str:
        return f"tl.dot({a}, {b}{self.precision})"

    def dots(self, a: str, b: str) -> str:
        """The dot product of each row of a with each of b, `[C, C]`.

        Not by tensor cores: beside a square product Triton lets every warp hold all of the other operand of all others.
        """
        return f"tl.sum({a}[:, None, :] * {b}[None, :, :], 2)"

    def kernel(self, warps: int, chunks: bool, blocks: int = 1) -> ChunkKernel:
        names = ", ".join(f"{kind}{k}" for kind, k in self.pointers)
        strides = "".join(f"{name}, " for name in self.strides)
        head = '\n\n@triton.jit(do_not_specialize=["T", "B", "CHUNK"])\n'
        head += f"def sweep(T, B, CHUNK, {strides}offsets, counts, {names}, EVEN: tl.constexpr):\n"
        text = HEAD + head + "\n".join(self.lines) + "\n"
        return ChunkKernel(text, tuple(self.pointers), tuple(self.strides), warps, self.steps, chunks, blocks)

    def _warps(self, wide: int) -> int:
        """Warps of a program that holds a matrix of so many values, and as many numbers on the way."""
        return next((w for w, most in ((4, 32), (8, 64)) if self.key * wide <= most * 64), 16)

    # ---- addresses ------------------------------------------------------------------------

    def places(self, block: int = 0) -> None:
        """Which head and lanes a program sees."""
        wide = block or self.value
        self.put("b = tl.program_id(0).to(tl.int64)")
        self.put("n = tl.program_id(1)")
        self.put(f"idx = tl.arange(0, {self.steps})")
        self.put(f"lk = tl.arange(0, {self.key})")
        self.put(f"lv = tl.arange(0, {wide})" + (f" + tl.program_id(2) * {wide}" if block else ""))
        self.put(f"mk = lk < {self.sizes.key_size}")
        self.put(f"mv = lv < {self.sizes.value_size}")
        self.put(f"o_mat = lk[:, None] * {self.sizes.value_size} + lv[None, :]")
        self.put("m_mat = mk[:, None] & mv[None, :]")

    def rows(self, name: str, step: str, valid: str = "") -> None:
        """The rows of steps, and which of them exist; a step may lie outside the chunk where it is not `valid`."""
        extra = f" & {valid}" if valid else ""
        self.put(f"i{name} = {step}")
        self.put(f"there{name} = tl.minimum(tl.maximum(i{name}, 0), T - 1)")
        self.put("if EVEN:")
        self.put(f"    row{name} = i{name} * (B + 0 * b) + b")
        self.put(f"    on{name} = (i{name} < T) & (i{name} >= 0){extra}")
        self.put("else:")
        self.put(f"    row{name} = tl.load(offsets + there{name}) + b")
        self.put(
            f"    on{name} = (b < tl.load(counts + there{name})) & (i{name} < T) & (i{name} >= 0){extra}"
        )

    def chunk(self, number: str) -> None:
        """The rows of a chunk, and of the steps before and after each within it."""
        steps = self.steps
        self.put(f"c = {number} + n * 0")
        self.put(f"base = c * {steps}")
        self.rows("", "base + idx")
        self.rows("_p", "base + idx - 1", "(idx > 0)")
        self.rows("_n", "base + idx + 1", f"(idx < {steps - 1})")

    def matrix(self, kind: str, s: int, number: str) -> str:
        """The address of a matrix kept before a chunk."""
        size = self.sizes.key_size * self.sizes.value_size
        name = self.pointer(kind, s)
        return f"{name} + (({number}).to(tl.int64) * B + b) * {self.sizes.heads * size} + n * {size} + o_mat"

    # ---- values ---------------------------------------------------------------------------

    def instr(self, value: tuple[int, int]) -> Instr:
        return self.programs[value[0]].instrs[value[1]]

    def load(self, value: tuple[int, int], at: str) -> str:
        """A value at rows `at`: scals `[C]`, keys and vecs `[C, ...]`; without rows a number and `[1, ...]`."""
        origin, k = value
        instr = self.instr(value)
        const = instr.stage == "const"
        kind = {(0, False): "load", (0, True): "const", (1, False): "again", (1, True): "once"}[origin, const]
        space = instr.type.kind
        size = {"scal": 1, "key": self.sizes.key_size}.get(space, self.sizes.value_size)
        lane, mask = {"scal": ("", ""), "key": ("lk", "mk")}.get(space, ("lv", "mv"))
        pointer = self.pointer(kind, k)
        where = f"n * {size}" + (f" + {lane}" if lane else "")
        if const:
            text = f"tl.load({pointer} + {where}" + (f", mask={mask}, other=0.0)" if mask else ")")
            made = f"{text}.to({self.compute})"
            return self.once("const", value, text=f"{made}[None, :]" if lane else made)
        self.strides[f"stride_{kind}{k}"] = None
        row, on = f"row{at} * stride_{kind}{k}", f"on{at}"
        if lane:
            row, on, lane, mask = (
                f"({row})[:, None]",
                f"{on}[:, None]",
                f"{lane}[None, :]",
                f"{mask}[None, :]",
            )
            where = f"n * {size} + {lane}"
        on = f"{on} & {mask}" if mask else on
        return self.once(
            value, at, text=f"tl.load({pointer} + {row} + {where}, mask={on}, other=0.0).to({self.compute})"
        )

    def space(self, factors: Factors) -> str:
        """ "key" or "vec" where a product has one, "scal" otherwise."""
        kinds = {self.instr(value).type.kind for value in factors.values}
        return "key" if "key" in kinds else "vec" if kinds & {"vec", "in"} else "scal"

    def product(self, factors: Factors, at: str = "") -> str:
        """A product at rows; zero where there are none. Scals alone are `[C]`."""
        wide = self.space(factors) != "scal"
        parts = []
        for value in factors.values:
            text = self.load(value, at)
            plain = self.instr(value).type.kind == "scal" and self.instr(value).stage != "const"
            parts.append(f"{text}[:, None]" if wide and plain else text)
        if not parts:  # a number alone would be rounded to float32
            parts.append(f"tl.full([1], {factors.number!r}, {self.compute})")
        elif factors.number != 1.0:
            parts.append(repr(factors.number))
        whole = " * ".join(parts)
        masked = any(self.instr(v).stage != "const" for v in factors.values)  # as it was loaded
        on = f"on{at}[:, None]" if wide else f"on{at}"
        return self.once("product", factors, at, text=whole if masked else f"tl.where({on}, {whole}, 0.0)")

    def wide(self, factors: Factors, at: str = "") -> str:
        """A product of scals and keys as `[C, K]`."""
        text = self.product(factors, at)
        if self.space(factors) == "key":
            return text
        shape = f"[{self.steps}, {self.key}]"
        return self.once(
            "wide", factors, at, text=f"tl.broadcast_to(tl.where(mk[None, :], {text}[:, None], 0.0), {shape})"
        )

    def decay(self, way: Way, at: str = "") -> str:
        """The decay at rows, one where there are none."""
        factors = self.of(way, way.chain.decay)
        text = self.product(factors, at)
        on = f"on{at}[:, None] & mk[None, :]" if self.space(factors) == "key" else f"on{at}"
        return self.once("decay", way.name, at, text=f"tl.where({on}, {text}, 1.0)")

    def of(self, way: Way, factors: Factors) -> Factors:
        """The factors of a chain, of the program that it belongs to."""
        return Factors(factors.number, tuple((way.origin or origin, k) for origin, k in factors.values))

    def kind(self, way: Way) -> str:
        """What a chain's decay is: none, scal or key."""
        decay = way.chain.decay
        return "none" if decay == Factors() else self.space(self.of(way, decay))

    def terms(self, way: Way) -> list[tuple[Factors, Factors]]:
        return [(self.of(way, k), self.of(way, v)) for k, v in way.chain.terms]

    def way(self, source: tuple[str, int]) -> Way:
        """The chain that a form comes from."""
        if source[0] == "state":
            chain = next(c for c in self.found.chains if c.slot == source[1])
            return Way(chain, not self.reverse, OWN, "own")
        chain = next(c for c in self.found.ahead if c.slot == source[1])
        return Way(chain, True, 1, "past")

    # ---- products of decays ---------------------------------------------------------------

    def prefix(self, way: Way, whole: bool = False) -> str:
        """Of each step the product of the decays before it in the chain; of those after it for the other `way`.

        `[C]` or `[C, K]`.
        """
        ahead = way.ahead != whole
        neighbour = self.decay(way, "_p" if ahead else "_n")
        key = self.kind(way) == "key"
        # the first step has no neighbour, there the decay is one
        text = f"tl.associative_scan({neighbour}, 0, _mul, reverse={not ahead})"
        return self.once("prefix", way.name, ahead, key, text=text)

    def column(self, text: str, way: Way) -> str:
        """What is `[C]` for a decay per head, for use with `[C, K]`."""
        return text if self.kind(way) == "key" else f"{text}[:, None]"

    def between(self, way: Way) -> str:
        """The product of the decays between two steps `[t, j]`, zero where j does not come before t."""
        early = "idx[:, None] > idx[None, :]" if way.ahead else "idx[:, None] < idx[None, :]"
        if self.kind(way) == "none":
            return self.once("between", way.name, text=f"tl.where({early}, 1.0, 0.0).to({self.compute})")
        at, one = ("_p", "-") if way.ahead else ("_n", "+")
        neighbour = self.decay(way, at)
        inside = f"idx[:, None] {one} 1 {'>' if way.ahead else '<'} idx[None, :]"
        steps = self.let(f"tl.where({inside}, {neighbour}[:, None], 1.0).to({self.compute})")
        whole = f"tl.associative_scan({steps}, 0, _mul, reverse={not way.ahead})"
        return self.once("between", way.name, text=f"tl.where({early}, {whole}, 0.0)")

    def each(self, way: Way) -> tuple[dict[tuple[object, ...], str], str]:
        """Begin a loop over the steps j of a chain, from its last.

        Returns what was made before, and the name of the products between j and every step.
        """
        steps, last = self.steps, self.steps - 1
        kept = dict(self.made)
        e = self.let(f"tl.zeros([{steps}, {self.key}], {self.compute})")
        self.put("for jx in range(0, CHUNK):")
        self.depth += 1
        self.put(f"jj = {last} - jx + n * 0" if way.ahead else "jj = jx + n * 0")  # a tensor, interpreted too
        self.rows("_1", "base + jj + tl.arange(0, 1)")
        one = "jj + 1" if way.ahead else "jj - 1"
        self.put(f"beside = {one} + tl.arange(0, 1)")
        self.rows("_2", "base + beside", f"(beside >= 0) & (beside < {steps})")
        a = self.decay(way, "_2")
        beyond = ">" if way.ahead else "<"
        here = f"tl.where((idx == {one})[:, None], 1.0, 0.0)"
        self.put(f"{e} = tl.where((idx {beyond} {one})[:, None], {e} * {a}, {here})")
        return kept, e

    def end(self, kept: dict[tuple[object, ...], str]) -> None:
        self.depth -= 1
        self.made = kept

    def scores(self, way: Way, q: str, k: Factors) -> str:
        """The sums over keys of q_t * D_tj * k_j, `[t, j]`."""
        key = ("scores", way.name, q, k)
        if key in self.made:
            return self.made[key]
        if self.kind(way) != "key":
            made = f"{self.between(way)} * {self.dots(q, self.wide(k))}"
            return self.once(*key, text=made)
        name = self.let(f"tl.zeros([{self.steps}, {self.steps}], {self.compute})")
        kept, e = self.each(way)
        one = self.key_row(k)
        self.put(f"{name} = tl.where((idx == jj)[None, :], tl.sum({q} * {e} * {one}, 1)[:, None], {name})")
        self.end(kept)
        self.made[key] = name
        return name

    def key_row(self, k: Factors) -> str:
        """Keys of the row of a loop, to go with `[C, K]`."""
        text = self.product(k, "_1")
        return text if self.space(k) == "key" else f"{text}[:, None]"
