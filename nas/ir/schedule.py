"""The order in which a kernel backend computes a normal program: sweeps over time, and big matrix products between.

A linear map that no recurrence passes through is one product over all rows. Everything else that is between two such
products becomes one sweep: one pass over the steps that computes all of it row by row. The products cut the work into
phases; a value is computed in the latest phase in which that stores no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from grammar import Sizes, Type
from nas.ir.builder import shape_in
from nas.ir.circles import circles_of
from nas.ir.program import Program

THICK = (
    1 << 20
)  # weights of a map of matrices beyond which it is no work for a sweep: they would not stay near
ROWS = ("before", "loop", "after")  # the stages of values that there is one of per row


@dataclass(frozen=True, slots=True)
class Use:
    """How a matrix product uses an array of a weight; see `Builder.lin`."""

    weight: int
    role: str
    column: int = -1
    transpose: bool = False
    blocks: int | str = 1


@dataclass(frozen=True, slots=True)
class Node:
    """An instruction of a schedule: as in the Program, save that sums of `lin` are one `matmul`, a use per operand."""

    op: str
    args: tuple[int, ...]
    type: Type
    stage: str
    attrs: tuple[tuple[str, object], ...] = ()
    weight: int = -1
    slot: int = -1
    uses: tuple[Use, ...] = ()

    def attr(self, name: str, default: object = "") -> object:
        """The option `name`, or `default`."""
        for key, value in self.attrs:
            if key == name:
                return value
        return default


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product for all rows: the sums of `operands` through their weights, for each of `results`."""

    operands: tuple[int, ...]
    results: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass over the steps: what it computes per row, and of that what it stores as rows; the slots it carries.

    `totals` are the nodes that sum a value of its body over all rows, `grams` those that sum products with a matrix.
    """

    body: tuple[int, ...]
    stored: tuple[int, ...]
    slots: tuple[int, ...]
    totals: tuple[int, ...] = ()
    grams: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """Nodes and the steps that compute them. `at` says which node has the value of an instruction."""

    program: Program
    nodes: tuple[Node, ...]
    steps: tuple[Sweep | Product, ...]
    at: dict[int, int]
    following: tuple[int, ...]  # of each slot: the node of its next value


def schedule(program: Program, sizes: Sizes, keep: Sequence[int] = (), whole: bool = False) -> Schedule:
    """The schedule of a normal program; the rows of the instructions in `keep` are stored, be they used or not.

    `whole`: as one sweep that computes every product step by step.
    """
    sums = _Sums(program, keep)
    return _Scheduling(program, sums, {sums.at[k] for k in keep}, sizes, whole).done()


@lru_cache(maxsize=4096)
def width(type_: Type, sizes: Sizes) -> int:
    """Numbers per row of a value."""
    return math.prod(shape_in(type_, sizes))


# ---- sums of linear maps -------------------------------------------------------------------------


class _Sums:
    """A program's instructions as nodes, where the `lin` terms of each sum are one `matmul`."""

    def __init__(self, program: Program, keep: Iterable[int]) -> None:
        self.instrs = program.instrs
        self.uses = [0] * len(self.instrs)
        for a in (*(a for i in self.instrs for a in i.args), *program.roots, *keep):
            self.uses[a] += 1
        self.circles = _on_circles(program)
        self.nodes: list[Node] = []
        self.at: dict[int, int] = {}
        hidden: set[int] = set()
        sums: dict[
            int, list[list[int]]
        ] = {}  # of each sum that changes: its other terms, then groups of `lin`
        for k in self._tops():
            leaves, inner = self._leaves(k)
            lins = [a for a in leaves if self.instrs[a].op == "lin" and self._alone(a, k)]
            lins = [a for a in lins if self.instrs[a].stage in ROWS]
            groups = [[a for a in lins if (a in self.circles) == on] for on in (False, True)]
            groups = [group for group in groups if len(group) > 1]
            if groups:
                taken = {a for group in groups for a in group}
                hidden |= taken | inner
                sums[k] = [[a for a in leaves if a not in taken], *groups]
        for k, instr in enumerate(self.instrs):
            if k in sums:
                self._sum(k, *sums[k])
            elif instr.op == "lin" and k not in hidden:
                self.at[k] = self._matmul([k])
            elif k not in hidden:
                args = tuple(self.at[a] for a in instr.args)
                node = Node(instr.op, args, instr.type, instr.stage, instr.attrs, instr.weight, instr.slot)
                self.at[k] = self._add(node)

    def _tops(self) -> list[int]:
        """The sums of rows that are no term of another sum of that type."""
        inner = {
            a
            for k, i in enumerate(self.instrs)
            if i.op == "add"
            for a in i.args
            if self.instrs[a].op == "add" and self._alone(a, k)
        }
        return [k for k, i in enumerate(self.instrs) if i.op == "add" and i.stage in ROWS and k not in inner]

    def _alone(self, a: int, k: int) -> bool:
        return self.uses[a] == 1 and self.instrs[a].type == self.instrs[k].type

    def _leaves(self, k: int) -> tuple[list[int], set[int]]:
        """The terms of a sum, and the sums inside it."""
        leaves, inner, todo = list[int](), set[int](), list(self.instrs[k].args)
        while todo:
            a = todo.pop(0)
            if self.instrs[a].op == "add" and self._alone(a, k):
                inner.add(a)
                todo = [*self.instrs[a].args, *todo]
            else:
                leaves.append(a)
        return leaves, inner

    def _sum(self, k: int, others: list[int], *groups: list[int]) -> None:
        instr = self.instrs[k]
        terms = [self.at[a] for a in others] + [self._matmul(group) for group in groups]
        result = terms[0]
        for term in terms[1:]:
            result = self._add(Node("add", (result, term), instr.type, instr.stage))
        self.at[k] = result

    def _matmul(self, lins: Sequence[int]) -> int:
        instrs = [self.instrs[k] for k in lins]
        uses = tuple(
            Use(
                i.weight,
                str(i.attr("role")),
                int(i.attr("column", -1)),  # type: ignore[arg-type]
                bool(i.attr("transpose", False)),
                i.attr("blocks", 1),  # type: ignore[arg-type]
            )
            for i in instrs
        )
        args = tuple(self.at[i.args[0]] for i in instrs)
        return self._add(Node("matmul", args, instrs[0].type, instrs[0].stage, uses=uses))

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1


def _on_circles(program: Program) -> set[int]:
    """The instructions that lie on a circle through the slots."""
    edges = [(a, k) for k, i in enumerate(program.instrs) for a in i.args]
    edges += [(program.slots[i.slot].next, k) for k, i in enumerate(program.instrs) if i.op == "state"]
    return {k for circle in circles_of(len(program.instrs), edges) for k in circle}


# ---- phases --------------------------------------------------------------------------------------

GIVEN = ("x", "saved", "past", "dy", "next", "child")  # leaves whose rows are there from the start


class _Scheduling:
    """Phases of nodes, and the steps that follow from them."""

    def __init__(self, program: Program, sums: _Sums, kept: set[int], sizes: Sizes, whole: bool) -> None:
        nodes, at = sums.nodes, sums.at
        self.program, self.nodes, self.at, self.kept, self.sizes = program, nodes, at, kept, sizes
        self.following = [at[slot.next] for slot in program.slots]
        self.rows = [k for k, node in enumerate(nodes) if node.stage in ROWS]
        self.row = set(self.rows)
        self.given = {k for k in self.rows if nodes[k].op in GIVEN}
        self.width = {k: width(nodes[k].type, sizes) for k in self.rows}
        self.reads: dict[int, list[int]] = {}  # of each slot: the nodes that read it
        for k in self.rows:
            if nodes[k].op == "state":
                self.reads.setdefault(nodes[k].slot, []).append(k)
        self.circle: dict[int, frozenset[int]] = {}
        for circle in circles_of(len(nodes), self._edges()):
            self.circle |= dict.fromkeys(circle, frozenset(circle))
        self.big = set() if whole else {k for k in self.rows if self._can_be_big(k)}

    def done(self) -> Schedule:
        """Phases, the later ones for what can wait, and the steps."""
        self._settle()
        self._sink()
        steps: list[Sweep | Product] = []
        for phase in range(1 + max([*self.phase.values(), 0])):
            steps += [*self._sweep(phase), *self._products(phase)]
        return Schedule(self.program, tuple(self.nodes), tuple(steps), self.at, tuple(self.following))

    # -- the earliest phases ----------------------------------------------------------------

    def _edges(self) -> list[tuple[int, int]]:
        """From values to what needs them, in this step or the next."""
        edges = [(a, k) for k in self.rows for a in self.nodes[k].args if a in self.row]
        edges += [(self.following[s], k) for s, reads in self.reads.items() for k in reads]
        return [(a, k) for a, k in edges if a in self.row]

    def _can_be_big(self, k: int) -> bool:
        """Whether a node is a product over all rows: one of dense maps that no circle passes through."""
        node = self.nodes[k]
        if node.op != "matmul" or k in self.circle or any(u.blocks != 1 for u in node.uses):
            return False
        flat = all(self.nodes[a].type.kind != "mat" for a in (k, *node.args))
        return flat or sum(self.width[k] * width(self.nodes[a].type, self.sizes) for a in node.args) > THICK

    def _settle(self) -> None:
        """Earliest phases; a product between a matrix and what reads it in a later phase is done in the sweep."""
        while True:
            self.phase = self._earliest()
            late = set[int]()
            for a, k in self._edges():
                matrix = self.nodes[a].type.kind == "mat" and a not in self.given | self.big
                if matrix and self.phase[k] > self.phase[a]:
                    late |= {b for b in self._above(k) & self.big if self.phase[b] >= self.phase[a]}
            if not late:
                return
            self.big -= late

    def _earliest(self) -> dict[int, int]:
        before: dict[int, list[int]] = {k: [] for k in self.rows}
        for a, k in self._edges():
            before[k].append(a)
        phase = dict.fromkeys(self.rows, 0)
        changed = True
        while changed:
            changed = False
            for k in self.rows:
                least = max((phase[a] + (a in self.big) for a in before[k]), default=0)
                if least > phase[k]:
                    changed = True
                    for c in self.circle.get(k, (k,)):
                        phase[c] = least
        return phase

    def _above(self, k: int) -> set[int]:
        """What a node is computed from, through any number of steps."""
        found, todo = set[int](), [k]
        before: dict[int, list[int]] = {k: [] for k in self.rows}
        for a, b in self._edges():
            before[b].append(a)
        while todo:
            for a in before[todo.pop()]:
                if a not in found:
                    found.add(a)
                    todo.append(a)
        return found

    # -- later ones -------------------------------------------------------------------------

    def _sink(self) -> None:
        """Move values to the phase of their first use, where no more is stored then."""
        users: dict[int, list[int]] = {k: [] for k in self.rows}
        for k in self.rows:
            for a in self.nodes[k].args:
                if a in self.row:
                    users[a].append(k)
        slots: dict[int, list[int]] = {}
        for s, k in enumerate(self.following):
            slots.setdefault(k, []).append(s)
        for k in reversed(self.rows):
            if k in self.circle or k in self.big:
                continue
            phases = [self.phase[u] for u in users[k]] + [self._home(s) for s in slots.get(k, ())]
            if self.nodes[k].op == "state" and self.following[self.nodes[k].slot] in self.circle:
                phases.append(self.phase[self.following[self.nodes[k].slot]])
            latest = min(phases, default=self.phase[k])
            if latest <= self.phase[k]:
                continue
            if k in self.given or self._costs(k, users) <= self.width[k]:
                self.phase[k] = latest

    def _costs(self, k: int, users: dict[int, list[int]]) -> int:
        """Numbers per row that are stored because `k` is computed in a later phase."""
        total = 0
        for a in self.nodes[k].args:
            if a not in self.row or self.nodes[a].op in GIVEN or a in self.big or a in self.kept:
                continue
            if self.nodes[a].type.kind == "mat" or self.nodes[a].op == "state":
                return 1 << 60
            if not any(self.phase[u] > self.phase[a] for u in users[a] if u != k):
                total += self.width[a]
        return total

    def _home(self, slot: int) -> int:
        """The phase whose sweep carries a slot: that of its reads, else that in which its next value is there."""
        reads = self.reads.get(slot)
        if reads:
            return max(self.phase[k] for k in reads)
        k = self.following[slot]
        return self.phase.get(k, 0) + (k in self.big)

    # -- steps ------------------------------------------------------------------------------

    def _sweep(self, phase: int) -> list[Sweep]:
        body = [k for k in self.rows if self.phase[k] == phase and k not in self.big]
        slots = [s for s in range(len(self.following)) if self._home(s) == phase]
        inside = set(body)
        grams = [k for k in self._matrix_grams() if self._gram_phase(k) == phase]
        outside = [k for k in range(len(self.nodes)) if k not in inside and k not in grams]
        outside = [k for k in outside if self.nodes[k].op != "total"]
        needed = {a for k in outside for a in self.nodes[k].args} | self.kept
        needed |= {self.following[s] for s in range(len(self.following)) if s not in slots}
        stored = [k for k in body if self.nodes[k].op not in GIVEN and k in needed]
        if phase == 0:  # an output that is the same for all rows
            stored += [k for k in self.kept if k not in self.row]
        totals = [
            k
            for k, node in enumerate(self.nodes)
            if node.op == "total" and node.args[0] in inside - self.given
        ]
        if not slots and not stored and not totals and not grams:
            return []
        return [Sweep(tuple(body), tuple(stored), tuple(slots), tuple(totals), tuple(grams))]

    def _matrix_grams(self) -> list[int]:
        """The sums of products with a matrix that there are no rows of."""
        grams = [k for k, node in enumerate(self.nodes) if node.op == "gram"]
        return [k for k in grams if any(self._rowless_matrix(a) for a in self.nodes[k].args)]

    def _rowless_matrix(self, a: int) -> bool:
        matrix = a in self.row and self.nodes[a].type.kind == "mat" and self.nodes[a].op != "saved"
        return matrix and a not in self.big and not any(a in self.nodes[k].args for k in self.big)

    def _gram_phase(self, k: int) -> int:
        """The phase whose sweep has both operands of a gram."""
        return max(self.phase[a] + (a in self.big) for a in self.nodes[k].args)

    def _products(self, phase: int) -> list[Product]:
        """The big products of a phase, those of the same operands as one."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for k in sorted(self.big):
            if self.phase[k] == phase:
                groups.setdefault(self.nodes[k].args, []).append(k)
        return [Product(operands, tuple(results)) for operands, results in groups.items()]
