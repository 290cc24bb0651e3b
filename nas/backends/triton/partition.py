"""A normal program cut into kernels: sweeps over the steps, and between them what all rows see at once.

A linear map that no recurrence passes through is a product over all rows, in a gap between two sweeps; so is every
value whose shape no sweep holds (an `in` where D is not H, a `mem`). All else is in sweeps: one kernel each, which
computes a step's values from those before it and carries its slots in registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import networkx

from grammar import Sizes
from nas.ir import Matrices, Program

GIVEN = ("x", "saved", "past", "next", "dy")  # rows that are there before anything runs
CROWD = 20  # keys and vecs that a sweep holds beside matrices


@dataclass(slots=True)
class Sweep:
    """One kernel over the steps. `loads` are rows, `consts` values without rows; all are instructions."""

    body: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)  # those it carries
    loads: list[int] = field(default_factory=list)
    consts: list[int] = field(default_factory=list)
    stores: list[int] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)  # of what it computes: summed over all rows
    cyclic: set[int] = field(default_factory=set)  # what the recurrence passes through


@dataclass(frozen=True, slots=True)
class Gap:
    """What torch computes for all rows at once, in order."""

    body: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Partition:
    """The steps of a program, and of each slot which sweep gives its final value (-1: none, it is the last row)."""

    steps: tuple[Sweep | Gap, ...]
    owner: dict[int, int]
    kept: frozenset[int]  # the instructions whose rows exist after all steps


def odd(program: Program, k: int, sizes: Sizes) -> bool:
    """Whether a value has a shape that does not go with vecs, keys and mats."""
    kinds = {program.instrs[k].type.kind, *(program.instrs[a].type.kind for a in program.instrs[k].args)}
    strange = {"mem", "wide"} | ({"in"} if sizes.input_size != sizes.hidden_size else set())
    given = [program.instrs[a].type.kind for a in program.instrs[k].args]
    reducing = program.instrs[k].op in ("reduce", "hmax") and "in" in given
    return bool(kinds & strange) or reducing


def row_values(program: Program) -> list[int]:
    """The instructions that have a value per row."""
    return [k for k, i in enumerate(program.instrs) if i.stage not in ("const", "end")]


def partition(
    program: Program, sizes: Sizes, wanted: Iterable[int], chunked: Matrices | None = None
) -> Partition:
    """Cut a program; the rows of `wanted` are kept beside those that a later step needs.

    What is `chunked` is computed in gaps. Where a sweep has matrices and much else, what they are made from is computed
    in the sweep before it, and what is made from reads of them in the next, unless matrices would be kept for that;
    then only what is before and after all of them, and all recurrences, is.
    """
    rows = row_values(program)
    if chunked is not None:
        rows = [k for k in rows if k not in chunked.body]
    given = {k for k in rows if program.instrs[k].op in GIVEN}
    cut = _Cut(program, sizes, set(wanted), rows, given, chunked).done()
    if any(crowded(program, step) for step in cut.steps if isinstance(step, Sweep)):
        for apart in ("matrices", "core"):
            other = _Cut(program, sizes, set(wanted), rows, given, chunked, apart).done()
            kept = [k for step in other.steps if isinstance(step, Sweep) for k in step.stores]
            if not any(program.instrs[k].type.kind == "mat" for k in kept):
                cut = other
                break
    return _summed_later(program, cut)


def _summed_later(program: Program, cut: Partition) -> Partition:
    """The partition where crowded sweeps keep the rows of what is summed over them, and hold no sums."""
    kept = set(cut.kept)
    for step in cut.steps:
        if isinstance(step, Sweep) and crowded(program, step):
            summed = {program.instrs[t].args[0] for t in step.totals}
            step.stores = sorted({*step.stores, *summed})
            step.totals = []
            kept |= summed
    return replace(cut, kept=frozenset(kept))


def crowded(program: Program, sweep: Sweep) -> bool:
    """Whether a sweep has a matrix, and more keys and vecs than registers hold beside it."""
    instrs = program.instrs
    types = [instrs[k].type for k in (*sweep.loads, *sweep.consts, *sweep.totals)]
    types += [program.slots[s].type for s in sweep.slots]
    kinds = [t.kind for t in types]
    return "mat" in kinds and sum(kind in ("vec", "key", "in") for kind in kinds) > CROWD


def outers_of(program: Program, k: int) -> list[tuple[int, int, int]] | None:
    """A matrix as a sum of outer products, each a sign and two instructions, if it is one.

    Its sum over all rows is then a product of matrices: no sweep has to hold it.
    """
    instr = program.instrs[k]
    if instr.op == "outer":
        key, value = instr.args
        return [(1, key, value)]
    if instr.type.kind != "mat" or instr.op not in ("add", "sub", "neg"):
        return None
    parts = [outers_of(program, a) for a in instr.args]
    first, second = parts[0], parts[-1] if len(parts) > 1 else []
    if first is None or second is None:
        return None
    signs = {"add": (1, 1), "sub": (1, -1), "neg": (-1, 1)}[instr.op]
    return [(sign * s, a, b) for sign, part in zip(signs, (first, second), strict=True) for s, a, b in part]


def one_step(program: Program, sizes: Sizes, sweep: Sweep) -> tuple[Sweep | Gap, ...]:
    """What computes a single step of a sweep: the sweep cut again, with its slots among the given rows."""
    rows = sorted({*sweep.body, *sweep.loads})
    wanted = {*sweep.stores, *(program.slots[s].next for s in sweep.slots)}
    wanted |= {program.instrs[t].args[0] for t in sweep.totals}
    given = {*sweep.loads, *(k for k in rows if program.instrs[k].op == "state")}
    steps = _Cut(program, sizes, wanted & set(rows), rows, given).done().steps
    for step in steps:
        if isinstance(step, Sweep):
            step.totals = []  # summed by who runs the steps
    return steps


class _Cut:
    def __init__(
        self,
        program: Program,
        sizes: Sizes,
        wanted: set[int],
        rows: Sequence[int],
        given: set[int],
        chunked: Matrices | None = None,
        apart: str = "",
    ) -> None:
        self.program, self.sizes, self.wanted, self.apart = program, sizes, wanted, apart
        self.rows, self.given = rows, given
        stages = () if chunked is None else chunked.stages
        self.chunked = {k: stage.inputs for stage in stages for k in stage.outputs}
        self.skipped = frozenset[int]() if chunked is None else chunked.slots
        self.graph = self._graph()
        self.cyclic = self._cyclic()
        self.core = self._core() if apart == "core" else set[int]()
        self.gap: dict[int, int] = {}  # of values computed in gaps: before which sweep
        self.phase: dict[int, int] = {}  # of values computed in sweeps: in which
        self.read = {
            program.instrs[k].slot for k in rows if program.instrs[k].op == "state" and k not in given
        }

    def _needs(self, k: int) -> tuple[int, ...]:
        """What an instruction is computed from."""
        return self.chunked.get(k, self.program.instrs[k].args)

    def _graph(self) -> networkx.DiGraph[int]:
        program, rows = self.program, set(self.rows)
        graph: networkx.DiGraph[int] = networkx.DiGraph()
        graph.add_nodes_from(self.rows)
        for k in self.rows:
            instr = program.instrs[k]
            if k in self.given:
                continue
            graph.add_edges_from((a, k) for a in self._needs(k) if a in rows)
            if instr.op == "state" and program.slots[instr.slot].next in rows:
                graph.add_edge(program.slots[instr.slot].next, k)
        return graph

    def _cyclic(self) -> dict[int, frozenset[int]]:
        """Of what a recurrence passes through: the whole component."""
        found = {}
        for component in networkx.strongly_connected_components(self.graph):
            if len(component) > 1 or any(self.graph.has_edge(k, k) for k in component):
                found.update(dict.fromkeys(component, frozenset(component)))
        return found

    def done(self) -> Partition:
        self._early()
        self._late()
        return self._steps()

    def _early(self) -> None:
        """Put each value where it can be computed first."""
        condensed = networkx.condensation(self.graph)
        inside = {n: condensed.nodes[n]["members"] for n in condensed}
        for node in networkx.lexicographical_topological_sort(condensed, key=lambda n: min(inside[n])):
            members = inside[node]
            before = {a for k in members for a in self.graph.predecessors(k)} - set(members)
            ready = max((self._ready(a) for a in before), default=0)
            if self.apart:
                of = any(map(self._inner, members))
                ready += any(self.phase.get(a) == ready and self._inner(a) != of for a in before)
            (first, *_) = members
            instr = self.program.instrs[first]
            if first in self.given:
                self.gap[first] = 0
            elif first in self.cyclic or instr.op == "state":
                self.phase.update(dict.fromkeys(members, ready))
            elif instr.op == "lin" or first in self.chunked or odd(self.program, first, self.sizes):
                self.gap[first] = max((self._gap_after(a) for a in before), default=0)
            else:
                self.phase[first] = ready

    def _core(self) -> set[int]:
        """Matrices, what is read from them, what recurrences pass through, and all between two of those."""
        core = {k for k in self.graph if k not in self.given and (k in self.cyclic or self._of_matrices(k))}
        after = {k for one in core for k in networkx.descendants(self.graph, one)}
        before = {k for one in core for k in networkx.ancestors(self.graph, one)}
        core |= after & before
        for k in self.graph:  # a number spread out is cheaper to spread again than to load
            users = set(self.graph.successors(k))
            if self.program.instrs[k].op == "cast" and users and users <= core:
                core.add(k)
        return core

    def _inner(self, k: int) -> bool:
        """Whether a value belongs to the sweeps with matrices, where those are apart from others."""
        return k in self.core if self.apart == "core" else self._of_matrices(k)

    def _of_matrices(self, k: int) -> bool:
        """Whether a value is a matrix, or is read from one."""
        instrs = self.program.instrs
        return any(instrs[a].type.kind == "mat" for a in (k, *instrs[k].args))

    def _ready(self, k: int) -> int:
        """The first sweep that sees a value."""
        return self.phase[k] if k in self.phase else self.gap[k]

    def _gap_after(self, k: int) -> int:
        return self.phase[k] + 1 if k in self.phase else self.gap[k]

    def _late(self) -> None:
        """Move values to the sweep that uses them first, where that is a later one."""
        last = {} if self.apart else self._last_of_free()
        for k in reversed(list(networkx.topological_sort(networkx.DiGraph(self._forward())))):
            if k not in self.phase or k in self.cyclic or self.program.instrs[k].op == "state":
                continue
            users = [
                self.phase[u] - (self.apart != "" and self._inner(u) != self._inner(k))
                if u in self.phase
                else self.gap[u] - 1
                for u in self.graph.successors(k)
            ]
            self.phase[k] = max(self.phase[k], min(users, default=last.get(k, 0)))

    def _last_of_free(self) -> dict[int, int]:
        """Of values that no recurrence of their sweep leads to: the last sweep that uses one computed with them.

        What only sums over all rows want can be computed there: beside a recurrence it would take registers. Beside
        matrices it takes more.
        """
        crowds = {self.phase[k] for k in self.cyclic if k in self.phase}
        matrices = {phase for k, phase in self.phase.items() if self._of_matrices(k)}
        free: set[int] = set()
        for k in networkx.lexicographical_topological_sort(self._forward()):
            own = k in self.phase and k not in self.cyclic and not self._of_matrices(k)
            if own and self.program.instrs[k].op != "state":
                before = self.graph.predecessors(k)
                if all(a in free or self.phase.get(a) != self.phase[k] for a in before):
                    free.add(k)
        found: dict[int, int] = {}
        for part in networkx.weakly_connected_components(self.graph.subgraph(free)):
            users = {u for k in part for u in self.graph.successors(k)}
            last = max((self.phase[u] if u in self.phase else self.gap[u] - 1 for u in users), default=0)
            if last not in matrices:
                found.update({k: last for k in part if self.phase[k] in crowds | matrices})
        return found

    def _forward(self) -> networkx.DiGraph[int]:
        graph: networkx.DiGraph[int] = networkx.DiGraph()
        graph.add_nodes_from(self.rows)
        rows = set(self.rows)
        for k in self.rows:
            if k not in self.given:
                graph.add_edges_from((a, k) for a in self._needs(k) if a in rows)
        return graph

    def _steps(self) -> Partition:
        program, instrs = self.program, self.program.instrs
        count = max((*(p + 1 for p in self.phase.values()), *self.gap.values(), 0), default=0)
        sweeps = [Sweep() for _ in range(count)]
        stored: set[int] = set(self.wanted)
        owner: dict[int, int] = {}
        for k in self.rows:
            if k in self.phase:
                sweeps[self.phase[k]].body.append(k)
                if k in self.cyclic:
                    sweeps[self.phase[k]].cyclic.add(k)
            elif k not in self.given:
                stored.update(a for a in self._needs(k) if a in self.phase)
        for k in [k for k, i in enumerate(instrs) if i.op == "gram"]:
            stored.update(instrs[k].args)
        for s, slot in enumerate(program.slots):
            if s not in self.read and s not in self.skipped:
                stored.add(slot.next)
        for p, sweep in enumerate(sweeps):
            inside = set(sweep.body)
            needs: dict[int, None] = {}
            for k in sweep.body:
                needs.update(dict.fromkeys(instrs[k].args))
                if instrs[k].op == "state":
                    s = instrs[k].slot
                    needs[program.slots[s].next] = None
                    if s not in sweep.slots:
                        sweep.slots.append(s)
                        owner.setdefault(s, p)
            for a in needs:
                if a in inside or instrs[a].op == "num":
                    continue
                if instrs[a].stage == "const":
                    sweep.consts.append(a)
                else:
                    sweep.loads.append(a)
                    stored.add(a)
            for t in [t for t, i in enumerate(instrs) if i.op == "total" and i.args[0] in inside]:
                outers = outers_of(program, instrs[t].args[0])
                if outers is None:
                    sweep.totals.append(t)
                stored.update(a for _, *pair in outers or () for a in pair if instrs[a].stage != "const")
        rows = set(self.rows)
        stored.update(i.args[0] for i in instrs if i.op == "total" and i.args[0] not in self.phase)
        steps: list[Sweep | Gap] = []
        order = (
            list(networkx.lexicographical_topological_sort(self._forward())) if self.chunked else self.rows
        )
        for p in range(count + 1):
            members = tuple(k for k in order if self.gap.get(k) == p and k not in self.given)
            if members:
                steps.append(Gap(members))
            if p < count and sweeps[p].body:
                sweeps[p].stores = [k for k in sweeps[p].body if k in stored]
                steps.append(sweeps[p])
        places = {id(step): n for n, step in enumerate(steps)}
        final = {s: places[id(sweeps[p])] for s, p in owner.items()}
        return Partition(tuple(steps), final, frozenset(stored & rows))


def describe(program: Program, steps: Sequence[Sweep | Gap]) -> str:
    """The steps in words, for messages and tests."""
    lines = []
    for step in steps:
        ops = " ".join(f"%{k}={program.instrs[k].op}" for k in step.body)
        lines.append(f"{'sweep' if isinstance(step, Sweep) else 'gap'}: {ops}")
    return "\n".join(lines)
