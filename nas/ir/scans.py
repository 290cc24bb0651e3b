"""Elementwise affine and max-plus recurrences in the form that a parallel scan takes: coefficients for each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.ir.builder import Builder
from nas.ir.keeping import cloned
from nas.ir.normal import pruned, staged
from nas.ir.program import Instr, Program
from nas.ir.recurrence import Recurrence, recurrences


@dataclass(frozen=True, slots=True)
class Scan:
    """One circle of slots that a scan can compute, entry by entry, from instructions that do not depend on it.

    Where `max_plus` is false, slot i becomes the sum over j of `a[i][j]` * slot j, plus `b[i]`; otherwise the largest
    of all slot j + `a[i][j]` and of `b[i]`. None stands for what is not there. All slots have one type; `a` and `b`
    may be numbers or have no rows.
    """

    slots: tuple[int, ...]
    max_plus: bool
    a: tuple[tuple[int | None, ...], ...]
    b: tuple[int | None, ...]


def with_scans(program: Program) -> tuple[Program, tuple[Scan, ...]]:
    """An equal program, in which the slots of each circle that a scan can compute are computed in its form.

    That are the elementwise affine and max-plus ones, diagonal matrices among them, forward or backward.
    """
    b = Builder()
    new = [-1] * len(program.instrs)
    for k, instr in enumerate(program.instrs):
        new[k] = cloned(b, instr, [new[a] for a in instr.args])
    following = [new[slot.next] for slot in program.slots]
    scans = []
    for found in recurrences(program):
        kinds = {program.slots[s].type for s in found.slots}
        if found.mixing == "elementwise" and found.degree != "nonlinear" and len(kinds) == 1:
            scan = scan_of(program, found, b, new)
            scans.append(scan)
            for s, a, const in zip(scan.slots, scan.a, scan.b, strict=True):
                following[s] = _step(b, scan, program, a, const)
    slots = tuple(replace(slot, next=k) for slot, k in zip(program.slots, following, strict=True))
    whole = replace(program, instrs=tuple(b.instrs), slots=slots, out=new[program.out])
    parts = [k for scan in scans for row in (*scan.a, scan.b) for k in row if k is not None]
    final, place = pruned(whole, parts)

    def moved(row: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(None if k is None else place[k] for k in row)

    made = tuple(replace(scan, a=tuple(map(moved, scan.a)), b=moved(scan.b)) for scan in scans)
    return staged(final), made


@dataclass(frozen=True, slots=True)
class _Form:
    """A value of a circle: what each slot is multiplied by (what is added to it), and the rest."""

    slots: Mapping[int, int]
    rest: int | None = None


def scan_of(program: Program, found: Recurrence, b: Builder, new: Sequence[int]) -> Scan:
    """The coefficients of a circle in a builder that has instruction k of the program as `new[k]`."""
    max_plus = found.degree == "max-plus"
    unit = b.num(0.0 if max_plus else 1.0)
    forms: dict[int, _Form] = {}
    for k in found.body:
        instr = program.instrs[k]
        if instr.op == "state":
            forms[k] = _Form({instr.slot: unit})
        else:
            args = [forms[a] if a in forms else _Form({}, new[a]) for a in instr.args]
            forms[k] = _max_plus(b, instr, args) if max_plus else _affine(b, instr, args)
    ends = [forms[program.slots[s].next] for s in found.slots]
    a = tuple(tuple(end.slots.get(s) for s in found.slots) for end in ends)
    return Scan(found.slots, max_plus, a, tuple(end.rest for end in ends))


def _affine(b: Builder, instr: Instr, args: list[_Form]) -> _Form:
    first = args[0]
    if instr.op in ("neg", "stopgrad"):
        return _each(first, lambda k: b.apply(instr.op, k))
    if instr.op == "add":
        return _merged(first, args[1], b.add)
    if instr.op == "sub":
        return _merged(first, _each(args[1], b.neg), b.add)
    factor = args[1] if first.slots else first
    moving = first if first.slots else args[1]
    assert factor.rest is not None
    assert not factor.slots
    other = b.apply("recip", factor.rest) if instr.op == "div" else factor.rest
    return _each(moving, lambda k: b.mul(k, other))


def _max_plus(b: Builder, instr: Instr, args: list[_Form]) -> _Form:
    if instr.op == "stopgrad":
        return args[0]
    if instr.op == "max":
        return _merged(args[0], args[1], lambda x, y: b.apply("max", x, y))
    moving, added = (args[0], args[1].rest) if args[0].slots else (args[1], args[0].rest)
    assert added is not None
    return _each(moving, lambda k: b.apply(instr.op, k, added))


def _each(form: _Form, function: Callable[[int], int]) -> _Form:
    rest = None if form.rest is None else function(form.rest)
    return _Form({s: function(k) for s, k in form.slots.items()}, rest)


def _merged(one: _Form, other: _Form, function: Callable[[int, int], int]) -> _Form:
    """Two forms joined part by part."""
    slots = dict(one.slots)
    for s, k in other.slots.items():
        slots[s] = function(slots[s], k) if s in slots else k
    rests = [r for r in (one.rest, other.rest) if r is not None]
    rest = function(rests[0], rests[1]) if len(rests) == 2 else rests[0] if rests else None
    return _Form(slots, rest)


def _step(b: Builder, scan: Scan, program: Program, a: tuple[int | None, ...], const: int | None) -> int:
    """The new value of one slot in the form of its scan."""
    join, apply = ("max", "add") if scan.max_plus else ("add", "mul")
    terms = [] if const is None else [const]
    for s, factor in zip(scan.slots, a, strict=True):
        if factor is not None:
            state = b.emit("state", (), program.slots[s].type, slot=s)
            terms.append(b.apply(apply, factor, state))
    result = terms[0]
    for term in terms[1:]:
        result = b.apply(join, result, term)
    return b.cast(result, program.slots[scan.slots[0]].type)
