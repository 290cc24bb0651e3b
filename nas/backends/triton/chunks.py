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
from nas.backends.triton.chunk_text import ChunkKernel as ChunkKernel
from nas.backends.triton.chunk_text import ChunkText, Way
from nas.ir import OWN, Chain, Contraction, Factors, Form, Matrices, Program, Read

STEPS = 16  # of a chunk
VALUES, SOLVED = (
    64,
    32,
)  # of the matrix that one program of `states` holds, and of one that solves for its reads
LARGEST = 128  # keys or values of a matrix that a program holds whole


@dataclass(frozen=True, slots=True)
class Plan:
    """The kernels of a program's matrices: of all chains, then of each read and contraction."""

    found: Matrices
    steps: int
    states: tuple[ChunkKernel, ...]
    uses: tuple[tuple[int, str, ChunkKernel], ...]  # the instruction, its kind


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


class _Text(ChunkText):
    """Writes one kernel."""

    # ---- reads of a chain -----------------------------------------------------------------

    def core_read(self, way: Way, q: str, held: str) -> str:
        """S before each step, transposed, times q: `[C, V]`."""
        start = q if self.kind(way) == "none" else self.let(f"{q} * {self.column(self.prefix(way), way)}")
        made = self.let(self.dot(start, held))
        for k, v in self.terms(way):
            made = self.let(f"{made} + {self.dot(self.scores(way, q, k), self.values(v))}")
        return made

    def core_readt(self, way: Way, w: str, held: str) -> str:
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
            self.put(
                f"{made} += {e} * {one} * tl.sum(tl.where((idx == jj)[None, :], {both}, 0.0), 1)[:, None]"
            )
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
        self, way: Way, known: Sequence[tuple[Factors, Factors]], last: tuple[Factors, Factors]
    ) -> None:
        """The read that the next value depends on, step by step within the chunk, and its rows."""
        solved = way.chain.solved
        assert solved is not None
        read = solved.read
        partial = Way(replace(way.chain, terms=tuple(known)), way.ahead, way.origin, way.name)
        by = Factors(1.0, ((OWN, read.by),))
        q = self.wide(by.times(read.form.scale))
        for n, (k, _) in enumerate((*known, last)):
            self.made["scores", way.name, q, k] = self.let(f"tl.load({self.square(n)}).to({self.compute})")
        made = self.core_read(partial, q, "tl.trans(m)")
        for k, v in read.form.terms:
            made = self.let(f"{made} + tl.sum({self.wide(by.times(k))}, 1)[:, None] * {self.values(v)}")
        scores = self.scores(way, q, last[0])
        self.put("for jx in range(0, CHUNK):")
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
        size, lane, mask = (sizes.key_size, "lk", "mk") if space == "key" else (sizes.value_size, "lv", "mv")
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

    def both(self, back: Way, ahead: Way, one: str, other: str) -> str:
        """The sums over values of G * S, G before each step of its chain and S before each of its own: `[C, K]`.

        Step by step: x is the sum of G at the end of the chunk times S, and for each later step i of a term of G
        X_i is S times its v_i; what lies between t and i of G's decays is a product along i.
        """
        result = self.let(f"tl.zeros([{self.steps}, {self.key}], {self.compute})")
        x = self.let(f"tl.sum({one} * {other}, 1)[None, :]")
        terms = [(self.wide(k), self.values(v)) for k, v in self.terms(back)]
        reads = [self.let(self.dot(v, f"tl.trans({other})")) for _, v in terms]
        own = self.terms(ahead)
        crossed = [[self.let(self.dots(w, self.values(v))) for _, v in own] for _, w in terms]
        ends = [self.let(self.dot(self.values(v), f"tl.trans({one})")) for _, v in own]
        suffix = "" if self.kind(back) == "none" else self.column(self.prefix(back), back)
        before = "" if self.kind(back) == "none" else self.decay(back, "_p")
        kept = dict(self.made)
        self.put("for t in range(0, CHUNK):")
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
        for n, (key, _) in enumerate(own):
            row = self.key_row(key)
            self.put(f"{x} += {row} * tl.sum(tl.where({here}, {ends[n]}, 0.0), 0)[None, :]")
            for m, name in enumerate(reads):
                column = f"tl.sum(tl.where((idx == t)[None, :], {crossed[m][n]}, 0.0), 1)[:, None]"
                self.put(f"{name} += {row} * {column}")
        self.end(kept)
        return result
