"""The texts of kernels for matrix states, a chunk of steps at once (`nas.ir.matrices`).

A program sees one head of one sequence. `states` goes from chunk to chunk and keeps the matrix before each; then every
read and contraction is computed for all chunks at the same time. Within a chunk of C steps, S before step t is

    P_t * S_0 + the sum over j < t and terms of D_tj * outer(k_j, v_j)

with P_t and D_tj products of decays, made as products and never as quotients or by logarithms: a decay may be tiny,
zero or negative. A chain whose steps run backward has j > t instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from grammar import Sizes
from nas.backends.triton.tiles import power
from nas.ir import OWN, Chain, Contraction, Factors, Form, Instr, Matrices, Program, Read

STEPS = 16  # of a chunk
VALUES, SOLVED = 64, 32  # of the matrix that one program of `states` holds, and of one that solves for its reads
LARGEST = 128  # keys or values of a matrix that a program holds whole

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
class Plan:
    """The kernels of a program's matrices: of all chains, then of each read and contraction."""

    found: Matrices
    steps: int
    states: tuple[ChunkKernel, ...]
    uses: tuple[tuple[int, str, ChunkKernel], ...]  # the instruction, its kind


@dataclass(frozen=True, slots=True)
class _Way:
    """A chain as a kernel sees it: forward in time or not, and which pointers its factors are."""

    chain: Chain
    ahead: bool
    origin: int
    name: str  # of its variables


def plan(
    program: Program,
    forward: Program,
    found: Matrices,
    sizes: Sizes,
    *,
    reverse: bool,
    compute: str = "tl.float32",
    exact: bool = True,
) -> Plan:
    """The kernels of a program that runs forward in time, or in `reverse` as the adjoint of `forward`."""
    common = (program, forward, found, sizes, reverse, STEPS, compute, exact)
    states = [_Text(*common).squares(chain) for chain in found.chains if chain.solved]
    states += [_Text(*common).states(chain) for chain in found.chains]
    uses = [(r.instr, "", _Text(*common).read(r)) for r in found.reads]
    uses += [(c.instr, c.kind if c.total else "", _Text(*common).contraction(c)) for c in found.contractions]
    return Plan(found, STEPS, tuple(states), tuple(uses))


def fits(sizes: Sizes) -> bool:
    """Whether a program can hold such a matrix whole."""
    return max(sizes.key_size, sizes.value_size) <= LARGEST


class _Text:
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
        self.put(f"    on{name} = (b < tl.load(counts + there{name})) & (i{name} < T) & (i{name} >= 0){extra}")

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
            row, on, lane, mask = f"({row})[:, None]", f"{on}[:, None]", f"{lane}[None, :]", f"{mask}[None, :]"
            where = f"n * {size} + {lane}"
        on = f"{on} & {mask}" if mask else on
        return self.once(
            value, at, text=f"tl.load({pointer} + {row} + {where}, mask={on}, other=0.0).to({self.compute})"
        )

    def space(self, factors: Factors) -> str:
        """"key" or "vec" where a product has one, "scal" otherwise."""
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
        if factors.number != 1.0 or not parts:
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
        return self.once("wide", factors, at, text=f"tl.broadcast_to(tl.where(mk[None, :], {text}[:, None], 0.0), {shape})")

    def decay(self, way: _Way, at: str = "") -> str:
        """The decay at rows, one where there are none."""
        factors = self.of(way, way.chain.decay)
        text = self.product(factors, at)
        on = f"on{at}[:, None] & mk[None, :]" if self.space(factors) == "key" else f"on{at}"
        return self.once("decay", way.name, at, text=f"tl.where({on}, {text}, 1.0)")

    def of(self, way: _Way, factors: Factors) -> Factors:
        """The factors of a chain, of the program that it belongs to."""
        return Factors(factors.number, tuple((way.origin or origin, k) for origin, k in factors.values))

    def kind(self, way: _Way) -> str:
        """What a chain's decay is: none, scal or key."""
        decay = way.chain.decay
        return "none" if decay == Factors() else self.space(self.of(way, decay))

    def terms(self, way: _Way) -> list[tuple[Factors, Factors]]:
        return [(self.of(way, k), self.of(way, v)) for k, v in way.chain.terms]

    def way(self, source: tuple[str, int]) -> _Way:
        """The chain that a form comes from."""
        if source[0] == "state":
            chain = next(c for c in self.found.chains if c.slot == source[1])
            return _Way(chain, not self.reverse, OWN, "own")
        chain = next(c for c in self.found.ahead if c.slot == source[1])
        return _Way(chain, True, 1, "past")

    # ---- products of decays ---------------------------------------------------------------

    def prefix(self, way: _Way, whole: bool = False) -> str:
        """Of each step the product of the decays before it in the chain; of those after it for the other `way`.

        `[C]` or `[C, K]`.
        """
        ahead = way.ahead != whole
        neighbour = self.decay(way, "_p" if ahead else "_n")
        key = self.kind(way) == "key"
        # the first step has no neighbour, there the decay is one
        text = f"tl.associative_scan({neighbour}, 0, _mul, reverse={not ahead})"
        return self.once("prefix", way.name, ahead, key, text=text)

    def column(self, text: str, way: _Way) -> str:
        """What is `[C]` for a decay per head, for use with `[C, K]`."""
        return text if self.kind(way) == "key" else f"{text}[:, None]"

    def between(self, way: _Way) -> str:
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

    def each(self, way: _Way) -> tuple[dict[tuple[object, ...], str], str]:
        """Begin a loop over the steps j of a chain, from its last.

        Returns what was made before, and the name of the products between j and every step.
        """
        steps, last = self.steps, self.steps - 1
        kept = dict(self.made)
        e = self.let(f"tl.zeros([{steps}, {self.key}], {self.compute})")
        self.put(f"for jx in range(0, CHUNK):")
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

    def scores(self, way: _Way, q: str, k: Factors) -> str:
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

    # ---- reads of a chain -----------------------------------------------------------------

    def core_read(self, way: _Way, q: str, held: str) -> str:
        """S before each step, transposed, times q: `[C, V]`."""
        start = q if self.kind(way) == "none" else self.let(f"{q} * {self.column(self.prefix(way), way)}")
        made = self.let(self.dot(start, held))
        for k, v in self.terms(way):
            made = self.let(f"{made} + {self.dot(self.scores(way, q, k), self.values(v))}")
        return made

    def core_readt(self, way: _Way, w: str, held: str) -> str:
        """S before each step times w: `[C, K]`."""
        made = self.let(self.dot(w, f"tl.trans({held})"))
        if self.kind(way) != "none":
            made = self.let(f"{made} * {self.column(self.prefix(way), way)}")
        for k, v in self.terms(way):
            both = self.let(self.dots(w, self.values(v)))
            if self.kind(way) != "key":
                weights = self.let(f"{both} * {self.between(way)}")
                made = self.let(f"{made} + {self.dot(weights, self.wide(k))}")
                continue
            kept, e = self.each(way)
            one = self.key_row(k)
            self.put(f"{made} += {e} * {one} * tl.sum(tl.where((idx == jj)[None, :], {both}, 0.0), 1)[:, None]")
            self.end(kept)
        return made

    def values(self, factors: Factors) -> str:
        """A product with vecs as `[C, V]`."""
        return self.product(factors)

    def form_read(self, form: Form, q: Factors, held: str) -> str:
        """read(form, q), `[C, V]`."""
        if form.source is None:
            made = self.let(f"tl.zeros([{self.steps}, {self.value}], {self.compute})")
        else:
            made = self.core_read(self.way(form.source), self.wide(q.times(form.scale)), held)
        for k, v in form.terms:
            made = self.let(f"{made} + tl.sum({self.wide(q.times(k))}, 1)[:, None] * {self.values(v)}")
        return made

    def form_readt(self, form: Form, w: str, held: str) -> str:
        """readt(form, w), `[C, K]`."""
        if form.source is None:
            made = self.let(f"tl.zeros([{self.steps}, {self.key}], {self.compute})")
        else:
            made = self.core_readt(self.way(form.source), w, held)
            if form.scale != Factors():
                made = self.let(f"{made} * {self.wide(form.scale)}")
        for k, v in form.terms:
            made = self.let(f"{made} + {self.wide(k)} * tl.sum({w} * {self.values(v)}, 1)[:, None]")
        return made

    # ---- kernels --------------------------------------------------------------------------

    def states(self, chain: Chain) -> ChunkKernel:
        """From chunk to chunk: keeps the matrix before each, and gives the last one."""
        s, way = chain.slot, self.way(("state", chain.slot))
        block = min(self.value, SOLVED if chain.solved else VALUES)
        self.places(block)
        # where it is read, it is held as [V, K]: more keys than values let Triton divide keys among warps (see `dots`)
        held = "tl.trans(m)" if chain.solved else "m"
        self.put(f"m = tl.load({self.matrix('first', s, 'n * 0')}, mask=m_mat, other=0.0).to({self.compute})")
        if chain.solved:
            self.put("m = tl.trans(m)")
        self.put(f"chunks = (T + {self.steps - 1}) // {self.steps}")
        self.put("for h in range(0, chunks):")
        self.depth += 1
        self.chunk("h" if way.ahead else "chunks - 1 - h")
        self.put(f"tl.store({self.matrix('check', s, 'c')}, {held}, mask=m_mat)")
        known = self.terms(way)
        if chain.solved:
            *known, last = known
            self.solve(way, known, last)
            known.append(last)
        keys = []
        if self.kind(way) != "none":
            rest = self.column(self.prefix(way, whole=True), way)
            keys = [self.let(f"{self.wide(k)} * {rest}") for k, _ in known]
            whole = self.let(f"{rest} * {self.column(self.decay(way), way)}")
            first = 0 if way.ahead else self.steps - 1
            total = self.let(f"tl.sum(tl.where((idx == {first})[:, None], {whole}, 0.0), 0)")
            axis = "" if self.kind(way) != "key" else "[None, :]" if chain.solved else "[:, None]"
            self.put(f"m = m * {total}{axis}")
        for n, (k, v) in enumerate(known):
            key = keys[n] if keys else self.wide(k)
            turned = self.dot(f"tl.trans({self.values(v)})", key)
            self.put(f"m += {turned if chain.solved else self.dot(f'tl.trans({key})', self.values(v))}")
        self.depth -= 1
        self.put(f"tl.store({self.matrix('last', s, 'n * 0')}, {held}, mask=m_mat)")
        small = self.key <= 64 and not (chain.solved and self.kind(way) == "key")
        return self.kernel(4 if small else 8, False, -(-self.value // block))

    def square(self, n: int) -> str:
        """The address of the scores of a chain's term n, for a chunk."""
        size = self.steps * self.steps
        name, inside = self.pointer("square", n), f"idx[:, None] * {self.steps} + idx[None, :]"
        return f"{name} + ((c.to(tl.int64) * B + b) * {self.sizes.heads} + n) * {size} + {inside}"

    def squares(self, chain: Chain) -> ChunkKernel:
        """The scores that `solve` needs, for all chunks: none of them depends on the matrix."""
        assert chain.solved is not None
        self.places()
        self.chunk("tl.program_id(2)")
        way, read = self.way(("state", chain.slot)), chain.solved.read
        q = self.wide(Factors(1.0, ((OWN, read.by),)).times(read.form.scale))
        for n, (k, _) in enumerate(self.terms(way)):
            self.put(f"tl.store({self.square(n)}, {self.scores(way, q, k)})")
        return self.kernel(self._warps(self.value), True)

    def solve(
        self, way: _Way, known: Sequence[tuple[Factors, Factors]], last: tuple[Factors, Factors]
    ) -> None:
        """The read that the next value depends on, step by step within the chunk, and its rows."""
        solved = way.chain.solved
        assert solved is not None
        read = solved.read
        partial = _Way(replace(way.chain, terms=tuple(known)), way.ahead, way.origin, way.name)
        by = Factors(1.0, ((OWN, read.by),))
        q = self.wide(by.times(read.form.scale))
        for n, (k, _) in enumerate((*known, last)):
            self.made["scores", way.name, q, k] = self.let(f"tl.load({self.square(n)}).to({self.compute})")
        made = self.core_read(partial, q, "tl.trans(m)")
        for k, v in read.form.terms:
            made = self.let(f"{made} + tl.sum({self.wide(by.times(k))}, 1)[:, None] * {self.values(v)}")
        scores = self.scores(way, q, last[0])
        self.put(f"for jx in range(0, CHUNK):")
        self.put("    jj = jx" if way.ahead else f"    jj = {self.steps - 1} - jx")
        row = f"tl.sum(tl.where((idx == jj)[:, None], {made}, 0.0), 0)"
        column = f"tl.sum(tl.where((idx == jj)[None, :], {scores}, 0.0), 1)"
        self.put(f"    {made} += {column}[:, None] * {row}[None, :]")
        self.store(read.instr, made, "vec")
        self.made["product", last[1], ""] = made

    def store(self, k: int, name: str, space: str) -> None:
        sizes, pointer = self.sizes, self.pointer("store", k)
        if space == "scal":
            self.put(f"tl.store({pointer} + row * {sizes.heads} + n, {name}, mask=on)")
            return
        size, lane, mask = (
            (sizes.key_size, "lk", "mk") if space == "key" else (sizes.value_size, "lv", "mv")
        )
        where = f"row[:, None] * {sizes.heads * size} + n * {size} + {lane}[None, :]"
        self.put(f"tl.store({pointer} + {where}, {name}, mask=on[:, None] & {mask}[None, :])")

    def held(self, source: tuple[str, int]) -> str:
        """The matrix before a chunk."""
        kind = "check" if source[0] == "state" else "held"
        address = self.matrix(kind, source[1], "c")
        return self.once("held", source, text=f"tl.load({address}, mask=m_mat, other=0.0).to({self.compute})")

    def read(self, read: Read) -> ChunkKernel:
        """One read for all chunks."""
        self.places()
        self.chunk("tl.program_id(2)")
        held = "" if read.form.source is None else self.held(read.form.source)
        by = Factors(1.0, ((OWN, read.by),))
        if read.op == "read":
            self.store(read.instr, self.form_read(read.form, by, held), "vec")
        else:
            self.store(read.instr, self.form_readt(read.form, self.values(by), held), "key")
        return self.kernel(self._warps(self.value), True)

    def contraction(self, found: Contraction) -> ChunkKernel:
        """One contraction for all chunks: of a chain that runs backward with one that runs forward."""
        self.places()
        self.chunk("tl.program_id(2)")
        assert found.one.source is not None
        assert found.other.source is not None
        one, other = self.held(found.one.source), self.held(found.other.source)
        made = self.both(self.way(found.one.source), self.way(found.other.source), one, other)
        scale = found.one.scale.times(found.other.scale)
        if scale != Factors():
            made = self.let(f"{made} * {self.wide(scale)}")
        for first, second, held in ((found.one, found.other, other), (found.other, found.one, one)):
            for k, v in first.terms:
                whole = self.form_readt(replace(second, terms=()), self.values(v), held)
                made = self.let(f"{made} + {self.wide(k)} * {whole}")
        for k, v in found.one.terms:
            for p, w in found.other.terms:
                same = f"tl.sum({self.values(v)} * {self.values(w)}, 1)[:, None]"
                made = self.let(f"{made} + {self.wide(k.times(p))} * {same}")
        if found.kind == "scal":
            made = self.let(f"tl.sum({made}, 1)")
        self.store(found.instr, made, found.kind)
        return self.kernel(self._warps(self.value), True)

    def both(self, back: _Way, ahead: _Way, one: str, other: str) -> str:
        """The sums over values of G * S, G before each step of its chain and S before each of its own: `[C, K]`.

        Step by step: x is the sum of G at the end of the chunk times S, and for each later step i of a term of G
        X_i is S times its v_i; what lies between t and i of G's decays is a product along i.
        """
        steps, shape = self.steps, f"[{self.steps}, {self.key}]"
        result = self.let(f"tl.zeros({shape}, {self.compute})")
        x = self.let(f"tl.sum({one} * {other}, 1)[None, :]")
        terms = [(self.wide(k), self.values(v)) for k, v in self.terms(back)]
        reads = [self.let(self.dot(v, f"tl.trans({other})")) for _, v in terms]
        own = self.terms(ahead)
        crossed = [[self.let(self.dots(w, self.values(v))) for _, v in own] for _, w in terms]
        ends = [self.let(self.dot(self.values(v), f"tl.trans({one})")) for _, v in own]
        suffix = "" if self.kind(back) == "none" else self.column(self.prefix(back), back)
        before = "" if self.kind(back) == "none" else self.decay(back, "_p")
        kept = dict(self.made)
        self.put(f"for t in range(0, CHUNK):")
        self.depth += 1
        self.rows("_1", "base + t + tl.arange(0, 1)")
        here = "(idx == t)[:, None]"
        start = x
        if suffix:
            start += f" * tl.sum(tl.where({here}, {suffix}, 0.0), 0)[None, :]"
        if before:
            wide = self.kind(back) == "key"
            inside = "(idx - 1 > t)[:, None]" if wide else "idx - 1 > t"
            between = self.let(f"tl.where({inside}, {before}, 1.0)")
            between = self.let(f"tl.associative_scan({between}, 0, _mul)" + ("" if wide else "[:, None]"))
        later = f" * {between}" if before else ""
        for (k, _), name in zip(terms, reads, strict=True):
            start += f" + tl.sum(tl.where((idx > t)[:, None], {k} * {name}{later}, 0.0), 0)[None, :]"
        self.put(f"{result} = tl.where({here}, {start}, {result})")
        if self.kind(ahead) != "none":
            a = self.column(self.decay(ahead, "_1"), ahead)
            for name in (x, *reads):
                self.put(f"{name} = {name} * {a}")
        for n, (k, _) in enumerate(own):
            row = self.key_row(k)
            self.put(f"{x} += {row} * tl.sum(tl.where({here}, {ends[n]}, 0.0), 0)[None, :]")
            for m, name in enumerate(reads):
                column = f"tl.sum(tl.where((idx == t)[None, :], {crossed[m][n]}, 0.0), 1)[:, None]"
                self.put(f"{name} += {row} * {column}")
        self.end(kept)
        return result
