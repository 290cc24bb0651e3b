"""Matrix states that a chunk of steps can update at once: how they go from step to step, and what reads them.

A state S of type mat takes this form where its recurrence is diagonal, or diagonal plus low rank, by keys:

    S_t = decay_t * S_{t-1} + the sum over terms of outer(k_t, v_t)

with a decay per head or per key. All that others see of S is read(S, q), readt(S, v), and in the adjoint sums of its
products with another such matrix; so neither S nor any other matrix is ever computed for each step. One of the terms
may depend on S itself, as in the delta rule: v_t = e_t * r_t with r_t = read(S, w), a triangular system in each chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nas.ir.program import Instr, Program
from nas.ir.recurrence import recurrences

OWN, AHEAD = 0, 1  # the program itself, and the forward program of an adjoint
_KEYS, _VALUES = ("key", "scal"), ("vec", "in")


@dataclass(frozen=True, slots=True)
class Factors:
    """A number times values, each (OWN or AHEAD, instruction): scals and keys, or vecs."""

    number: float = 1.0
    values: tuple[tuple[int, int], ...] = ()

    def times(self, other: Factors) -> Factors:
        """The product of both."""
        return Factors(self.number * other.number, self.values + other.values)


@dataclass(frozen=True, slots=True)
class Form:
    """A matrix at a step: `scale` times a source before the step, plus the outer products of `terms`.

    The source is ("state", slot), ("past", slot of the forward program), or None.
    """

    source: tuple[str, int] | None = None
    scale: Factors = Factors()
    terms: tuple[tuple[Factors, Factors], ...] = ()


@dataclass(frozen=True, slots=True)
class Solved:
    """The read that the state's own next value depends on, and its term: outer(`key`, the read)."""

    read: Read
    key: Factors


@dataclass(frozen=True, slots=True)
class Chain:
    """A matrix state: its decay and its terms; that of `solved` is the last of them."""

    slot: int
    decay: Factors
    terms: tuple[tuple[Factors, Factors], ...]
    solved: Solved | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """`read` or `readt` of a matrix by a vector: instruction `instr`."""

    instr: int
    op: str
    form: Form
    by: int


@dataclass(frozen=True, slots=True)
class Contraction:
    """The product of two matrices, entry by entry, summed over values, or over both axes: of type `kind`.

    `total` says that it is summed over all rows, too.
    """

    instr: int
    kind: str
    one: Form
    other: Form
    total: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """Instructions that are computed together, for all rows, and what of the program they need."""

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Matrices:
    """All that a program does with matrices. `body` are the instructions that need not be computed.

    The first stage gives the read that a chain solves for, where there is one, the last one the reads and contractions.
    `given` are the instructions of the forward program that it needs, `ahead` the chains of it.
    """

    chains: tuple[Chain, ...]
    ahead: tuple[Chain, ...]
    reads: tuple[Read, ...]
    contractions: tuple[Contraction, ...]
    body: frozenset[int]
    stages: tuple[Stage, ...]
    given: tuple[int, ...]

    @property
    def slots(self) -> frozenset[int]:
        """The matrix slots."""
        return frozenset(chain.slot for chain in self.chains)


def matrices(program: Program, ahead: tuple[Chain, ...] = ()) -> Matrices | None:
    """What a program does with matrices, if all of it has this form; `ahead` are the chains of its forward program."""
    if not any(slot.type.kind == "mat" for slot in program.slots):
        return None
    kinds = {s: found for found in recurrences(program) for s in found.slots}
    for s, slot in enumerate(program.slots):
        if slot.type.kind == "mat" and not (s in kinds and kinds[s].structure and kinds[s].side != "value"):
            return None
    try:
        return _Finder(program, {chain.slot: chain for chain in ahead}).found()
    except _OtherError:
        return None


class _OtherError(Exception):
    """The program does something else with a matrix."""


@dataclass(slots=True)
class _Linear:
    """A vec as known ones, each times a factor, plus a factor times a read of the state."""

    known: list[tuple[Factors, Factors]] = field(default_factory=list)
    factor: Factors | None = None

    def times(self, factor: Factors) -> _Linear:
        own = None if self.factor is None else self.factor.times(factor)
        return _Linear([(by.times(factor), v) for by, v in self.known], own)


class _Finder:
    def __init__(self, program: Program, ahead: Mapping[int, Chain]) -> None:
        self.program, self.ahead = program, ahead
        self.instrs = program.instrs
        self.forms: dict[int, Form] = {}
        self.products: dict[int, tuple[Form, Form]] = {}
        self.slots = [s for s, slot in enumerate(program.slots) if slot.type.kind == "mat"]
        self.circle = self._circle()
        self.cyclic = [k for k in self.circle if self.instrs[k].op == "read"]

    def _circle(self) -> set[int]:
        """What the next value of a matrix depends on and what depends on that matrix, within one step."""
        after: set[int] = set()
        for k, instr in enumerate(self.instrs):
            own = instr.op == "state" and instr.slot in self.slots
            if own or any(a in after for a in instr.args):
                after.add(k)
        todo = [self.program.slots[s].next for s in self.slots]
        before: set[int] = set()
        while todo:
            k = todo.pop()
            if k not in before:
                before.add(k)
                todo.extend(self.instrs[k].args)
        return {k for k in after & before if self.instrs[k].type.kind != "mat"}

    def found(self) -> Matrices:
        if len(self.cyclic) > 1 or len(self.cyclic) < bool(self.circle):
            raise _OtherError
        if self.cyclic and len(self.slots) > 1:
            raise _OtherError
        reads, contractions = [], []
        for k, instr in enumerate(self.instrs):
            mats = [a for a in instr.args if self.instrs[a].type.kind == "mat"]
            if instr.type.kind == "mat":
                self._matrix(k, instr)
            elif mats and instr.op in ("read", "readt"):
                reads.append(Read(k, instr.op, self._form(mats[0]), instr.args[1]))
            elif mats and instr.op == "reduce":
                contractions.append(self._contraction(k, instr))
            elif mats:
                raise _OtherError
        chains = tuple(self._chain(s, reads) for s in self.slots)
        reads = [r for r in reads if r.instr not in self.cyclic]
        if not reads:
            raise _OtherError
        body = frozenset(k for k, i in enumerate(self.instrs) if i.type.kind == "mat")
        ahead = tuple(self.ahead[s] for s in sorted(self.ahead))
        first = [part for chain in chains for part in _of_chain(chain)]
        forms = [r.form for r in reads] + [f for c in contractions for f in (c.one, c.other)]
        past = [c for c in ahead if any(f.source == ("past", c.slot) for f in forms)]
        then = [part for form in forms for part in _of_form(form)]
        then += [_ahead(part) for chain in past for part in _of_chain(replace(chain, solved=None))]
        then += [Factors(1.0, ((OWN, r.by),)) for r in reads]
        whole = [value for part in (*first, *then) for value in part.values]
        given = dict.fromkeys(k for origin, k in whole if origin == AHEAD)
        solved = frozenset(self.cyclic)
        early = dict.fromkeys(k for part in first for o, k in part.values if o == OWN and k not in solved)
        late = dict.fromkeys([*early, *(k for o, k in whole if o == OWN)])
        outputs = [r.instr for r in reads] + [c.instr for c in contractions if not c.total]
        if self._after(solved) & early.keys() or self._after(outputs) & late.keys():
            raise _OtherError
        stages = [Stage(tuple(solved), tuple(early))] if solved else []
        stages.append(Stage(tuple(outputs), tuple(late)))
        made = tuple(reads), tuple(contractions)
        return Matrices(chains, tuple(past), *made, body, tuple(stages), tuple(given))

    def _after(self, start: Iterable[int]) -> set[int]:
        """What depends on these, in the same step or a later one."""
        found = set(start)
        grown = True
        while grown:
            size = len(found)
            for k, instr in enumerate(self.instrs):
                late = instr.op == "state" and self.program.slots[instr.slot].next in found
                if instr.type.kind != "mat" and (late or any(a in found for a in instr.args)):
                    found.add(k)
            grown = len(found) > size
        return found

    # ---- matrices -------------------------------------------------------------------------

    def _form(self, k: int) -> Form:
        if k not in self.forms:
            raise _OtherError
        return self.forms[k]

    def _matrix(self, k: int, instr: Instr) -> None:
        """What a matrix is, if it is a form or the product of two; a total of such stands for itself."""
        args = instr.args
        if instr.op == "total" and args[0] in self.products:
            self.products[k] = self.products[args[0]]
            return
        if instr.op == "mul" and all(a in self.forms for a in args):
            one, other = (self.forms[a] for a in args)
            self.products[k] = (one, other)
            return
        if instr.op == "cast" and self.instrs[args[0]].type.kind in (*_KEYS, "num"):
            return  # a factor of others
        if instr.stage in ("const", "end"):
            raise _OtherError
        made = self._made(instr)
        if made is None:
            raise _OtherError
        self.forms[k] = made

    def _made(self, instr: Instr) -> Form | None:
        args = instr.args
        if instr.op == "state":
            return Form(("state", instr.slot))
        if instr.op in ("past", "next") and instr.slot in self.ahead:
            if instr.op == "past":
                return Form(("past", instr.slot))
            chain = self.ahead[instr.slot]
            terms = tuple((_ahead(k), _ahead(v)) for k, v in chain.terms)
            return Form(("past", instr.slot), _ahead(chain.decay), terms)
        if instr.op in ("neg", "stopgrad") and args[0] in self.forms:
            return self._scaled(self.forms[args[0]], Factors(-1.0 if instr.op == "neg" else 1.0))
        if instr.op in ("add", "sub") and all(a in self.forms for a in args):
            one, other = (self.forms[a] for a in args)
            if instr.op == "sub":
                other = self._scaled(other, Factors(-1.0))
            if one.source and other.source:
                return None
            whole = one if one.source else other
            return Form(whole.source, whole.scale, one.terms + other.terms)
        if instr.op == "mul":
            form, factor = (args[0], args[1]) if args[0] in self.forms else (args[1], args[0])
            return self._scaled(self.forms[form], self._factor(factor)) if form in self.forms else None
        if instr.op == "outer" and args[0] not in self.circle:
            key = self._value(args[0])
            known = self._linear(args[1])
            found = [(key.times(by), v) for by, v in known.known]
            if known.factor is not None:
                found.append((key.times(known.factor), Factors(1.0, ((OWN, self.cyclic[0]),))))
            return Form(None, Factors(), tuple(found))
        return None

    def _scaled(self, form: Form, factor: Factors) -> Form:
        return replace(
            form,
            scale=form.scale.times(factor) if form.source else form.scale,
            terms=tuple((k.times(factor), v) for k, v in form.terms),
        )

    def _factor(self, k: int) -> Factors:
        """What a matrix is multiplied by."""
        instr = self.instrs[k]
        if instr.op == "num" and not instr.attr("over"):
            return Factors(float(instr.attr("value")))  # type: ignore[arg-type]
        if instr.op == "cast" and instr.type.kind in ("mat", "key", "vec"):
            given = self.instrs[instr.args[0]].type.kind
            if given in (*_KEYS, "num") and instr.args[0] not in self.circle:
                return self._factor(instr.args[0]) if given == "num" else self._value(instr.args[0])
        raise _OtherError

    def _value(self, k: int) -> Factors:
        """A vector; one that is a scal everywhere is that scal."""
        instr = self.instrs[k]
        while (
            instr.op == "cast" and self.instrs[instr.args[0]].type.kind == "scal" and instr.type.kind == "key"
        ):
            k = instr.args[0]
            instr = self.instrs[k]
        if instr.type.kind not in (*_KEYS, *_VALUES) or instr.stage == "end":
            raise _OtherError
        return Factors(1.0, ((OWN, k),))

    def _linear(self, k: int) -> _Linear:
        """A vec as a linear function of the one read of the state that the circle has."""
        instr = self.instrs[k]
        if k not in self.circle:
            return _Linear([(Factors(), self._value(k))])
        if instr.op == "read":
            return _Linear([], Factors())
        if instr.op == "neg":
            return self._linear(instr.args[0]).times(Factors(-1.0))
        if instr.op in ("add", "sub"):
            one, other = (self._linear(a) for a in instr.args)
            other = other.times(Factors(-1.0)) if instr.op == "sub" else other
            if one.factor is not None and other.factor is not None:
                raise _OtherError
            return _Linear(one.known + other.known, one.factor or other.factor)
        if instr.op == "mul":
            moving, by = instr.args if instr.args[0] in self.circle else instr.args[::-1]
            return self._linear(moving).times(self._factor(by))
        raise _OtherError

    # ---- what there is of them ------------------------------------------------------------

    def _contraction(self, k: int, instr: Instr) -> Contraction:
        if instr.args[0] not in self.products or instr.type.kind not in _KEYS:
            raise _OtherError
        one, other = self.products[instr.args[0]]
        if (other.source or ("", 0))[0] == "state":
            one, other = other, one
        if (one.source or ("", 0))[0] != "state" or (other.source or ("", 0))[0] != "past":
            raise _OtherError
        return Contraction(k, instr.type.kind, one, other, instr.stage == "end")

    def _chain(self, s: int, reads: list[Read]) -> Chain:
        form = self._form(self.program.slots[s].next)
        if form.source != ("state", s):
            raise _OtherError
        if not self.cyclic:
            return Chain(s, form.scale, form.terms)
        own = (OWN, self.cyclic[0])
        last = [term for term in form.terms if own in term[1].values]
        known = [term for term in form.terms if own not in term[1].values]
        read = next(r for r in reads if r.instr == self.cyclic[0])
        if (
            len(last) != 1
            or read.form.source != ("state", s)
            or any(own in v.values for _, v in read.form.terms)
        ):
            raise _OtherError
        return Chain(s, form.scale, (*known, *last), Solved(read, last[0][0]))


def _of_form(form: Form) -> list[Factors]:
    return [form.scale, *(part for term in form.terms for part in term)]


def _of_chain(chain: Chain) -> list[Factors]:
    parts = [chain.decay, *(part for term in chain.terms for part in term)]
    if chain.solved:
        parts += [Factors(1.0, ((OWN, chain.solved.read.by),)), *_of_form(chain.solved.read.form)]
    return parts


def _ahead(part: Factors) -> Factors:
    """The same of the forward program."""
    return Factors(part.number, tuple((AHEAD, k) for _, k in part.values))
