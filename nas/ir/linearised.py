"""Elementwise circles of a normal program with the derivatives of their step, and an order to solve them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import networkx

from grammar import IN
from nas.errors import BuildError
from nas.ir.builder import Builder
from nas.ir.derivatives import DERIVATIVES, NO_DERIVATIVE
from nas.ir.program import Instr, Program
from nas.ir.recurrence import Recurrence, recurrences
from nas.ir.scans import scan_of


@dataclass(frozen=True, slots=True)
class Circle:
    """Slots that depend on each other, entry by entry, and the derivatives of their new values.

    `slopes[i][j]` is the derivative of slot i's new value by slot j, None where that is zero; it may be a number or
    have no rows. Where `max_plus`, slot i becomes the largest of all slot j + `slopes[i][j]` and of `rest[i]` instead.
    `step` are the instructions that make the new values, `tangent` those that the slopes need beside them; all of them
    depend on the slots. `nonlinear`: not one scan solves the circle.
    """

    slots: tuple[int, ...]
    slopes: tuple[tuple[int | None, ...], ...]
    rest: tuple[int | None, ...]
    step: tuple[int, ...]
    tangent: tuple[int, ...]
    max_plus: bool
    nonlinear: bool


@dataclass(frozen=True, eq=False, slots=True)
class Linearised:
    """A program with slopes added, and its values in an order in which each circle stands where it can be solved.

    `at[k]` is where instruction k of the program it was made of is.
    """

    program: Program
    order: tuple[int | Circle, ...]
    at: tuple[int, ...]

    def cut(self, roots: Sequence[int]) -> tuple[int | Circle, ...]:
        """The part of `order` that these instructions need."""
        instrs, slots = self.program.instrs, self.program.slots
        circles = {s: item for item in self.order if isinstance(item, Circle) for s in item.slots}
        seen: set[int] = set()
        todo = list(roots)
        while todo:
            k = todo.pop()
            if k in seen:
                continue
            seen.add(k)
            todo.extend(instrs[k].args)
            if instrs[k].op == "state":
                todo.append(slots[instrs[k].slot].next)
                circle = circles.get(instrs[k].slot)
                if circle is not None:
                    todo += [slots[s].next for s in circle.slots]
                    todo += [a for row in (*circle.slopes, circle.rest) for a in row if a is not None]
        return tuple(
            item
            for item in self.order
            if (slots[item.slots[0]].next if isinstance(item, Circle) else item) in seen
        )


def linearised(program: Program) -> Linearised:
    """The elementwise circles of a normal program, forward or backward, with their derivatives.

    Raises BuildError, naming the slots and their class, where a circle is not elementwise.
    """
    b = Builder()
    at: list[int] = []
    for instr in program.instrs:
        args = [at[a] for a in instr.args]
        at.append(b.emit(instr.op, args, instr.type, instr.attrs, instr.weight, instr.slot))
    drafts: list[_Draft] = []
    for found in recurrences(program):
        _check(program, found)
        if found.degree == "nonlinear":
            drafts.append((found, _Slopes(program, found, b, at).rows(), ()))
        else:
            scan = scan_of(program, found, b, at)
            drafts.append((found, scan.a, scan.b if scan.max_plus else ()))
    slots = tuple(replace(slot, next=at[slot.next]) for slot in program.slots)
    whole = replace(program, instrs=tuple(b.instrs), slots=slots, out=at[program.out])
    return Linearised(whole, _ordered(whole, drafts, at), tuple(at))


_Draft = tuple[Recurrence, tuple[tuple[int | None, ...], ...], tuple[int | None, ...]]


def _check(program: Program, found: Recurrence) -> None:
    kinds = {"vec" if program.slots[s].type == IN else str(program.slots[s].type) for s in found.slots}
    if found.mixing != "elementwise" or len(kinds) > 1:
        names = ", ".join(program.slots[s].name for s in found.slots)
        raise BuildError(
            f"the recurrence of {names} is {found}, and Newton's method is for elementwise ones: each entry of a "
            "state depends on its own past and on that of the same entry of other states"
        )


class _Slopes:
    """The derivatives of a circle's new values, beside the program itself. See `derivatives.Reverse`."""

    def __init__(self, program: Program, found: Recurrence, b: Builder, at: Sequence[int]) -> None:
        self.program, self.found, self.b, self.at = program, found, b, at

    def value(self, k: int) -> int:
        """See `derivatives.Reverse`."""
        return self.at[k]

    def made(self, op: str, a: int) -> int:
        """See `derivatives.Reverse`."""
        return self.b.apply(op, self.at[a])

    def is_number(self, k: int) -> bool:
        """See `derivatives.Reverse`."""
        return self.program.instrs[k].type.kind == "num"

    def rows(self) -> tuple[tuple[int | None, ...], ...]:
        """See `Circle.slopes`."""
        return tuple(self._row(s) for s in self.found.slots)

    def _row(self, slot: int) -> tuple[int | None, ...]:
        """The derivatives of one new value by all slots: backwards through the step, once."""
        instrs, inside = self.program.instrs, set(self.found.body)
        terms: dict[int, list[int]] = {k: [] for k in inside}
        terms[self.program.slots[slot].next].append(self.b.num(1.0))
        found: dict[int, int] = {}
        for k in reversed(self.found.body):
            instr = instrs[k]
            if not terms[k]:
                continue
            slope = self.b.total(terms[k])
            if instr.op == "state":
                found[instr.slot] = slope
                continue
            for a, part in zip(instr.args, self._parts(instr, k, slope), strict=True):
                if a in inside and part is not None:
                    terms[a].append(part)
        return tuple(found.get(s) for s in self.found.slots)

    def _parts(self, instr: Instr, k: int, slope: int) -> tuple[int | None, ...]:
        if instr.op in (
            "stopgrad",
            "cast",
        ):  # what follows from a value, not what it is blamed for; equal axes
            return (slope,)
        if instr.op in NO_DERIVATIVE:
            return (None,) * len(instr.args)
        return DERIVATIVES[instr.op](self, instr, k, slope)


def _ordered(program: Program, drafts: Sequence[_Draft], at: Sequence[int]) -> tuple[int | Circle, ...]:
    """Components of what depends on what, each after those it needs. A circle needs what its slopes are made of."""
    graph: networkx.DiGraph[int] = networkx.DiGraph()
    graph.add_nodes_from(range(len(program.instrs)))
    reads = {i.slot: k for k, i in enumerate(program.instrs) if i.op == "state"}
    for k, instr in enumerate(program.instrs):
        graph.add_edges_from((a, k) for a in instr.args)
        if instr.op == "state":
            graph.add_edge(program.slots[instr.slot].next, k)
    for found, slopes, rest in drafts:
        needs = [a for row in (*slopes, rest) for a in row if a is not None]
        graph.add_edges_from((a, reads[s]) for a in needs for s in found.slots)
    draft_of = {reads[s]: draft for draft in drafts for s in draft[0].slots}
    condensed = networkx.condensation(graph)
    members = {c: sorted(condensed.nodes[c]["members"]) for c in condensed}
    order: list[int | Circle] = []
    for component in networkx.lexicographical_topological_sort(condensed, key=lambda c: members[c][0]):
        own = members[component]
        draft = next((draft_of[k] for k in own if k in draft_of), None)
        if draft is None:
            order.append(own[0])
            continue
        found, slopes, rest = draft
        states = {reads[s] for s in found.slots}
        step = tuple(sorted({at[k] for k in found.body} - states))
        tangent = tuple(k for k in own if k not in states and k not in step)
        nonlinear = found.degree == "nonlinear"
        order.append(Circle(found.slots, slopes, rest, step, tangent, found.degree == "max-plus", nonlinear))
    return tuple(order)
