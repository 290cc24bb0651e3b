"""The passes of the compiler. Each takes a Program and returns an equal one; `compile_program` lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import networkx

from grammar import OPS, Cell
from nas.errors import NasError
from nas.ir.lowering import lower
from nas.ir.program import STACK, STAGES, Instr, Map, Program, Region

Pass = Callable[[Program], Program]


@lru_cache(maxsize=1024)
def compile_program(cell: Cell, after: str | None = None) -> Program:
    """The Program of a cell after all passes, or as it stands after the one named (`lower`: before the first).

    Raises NasError for an unknown name.
    """
    names = passes()
    if after not in (None, *names):
        raise NasError(f"there is no pass {after!r}; the passes are {', '.join(names)}")
    place = len(names) - 1 if after is None else names.index(after)
    return _PASSES[place - 1](compile_program(cell, names[place - 1])) if place else lower(cell)


def passes() -> tuple[str, ...]:
    """The names of the passes in their order; the first is `lower`, which makes the Program."""
    return ("lower", *(step.__name__ for step in _PASSES))


def drop_dead(program: Program) -> Program:
    """Remove what neither the output nor any state needs; a buffer goes with its `shift` or `conv`.

    Declared states stay, read or not: their final values are part of what a module returns.
    """
    buffers = {i.slot for i in program.instrs if i.op in ("shift", "conv")}
    declared = [s for s in range(len(program.slots)) if s not in buffers]
    region = (program.region.until, *program.region.next) if program.region else ()
    kept = _needed(program, (program.out, *program.leaf, *region, *(program.slots[s].next for s in declared)))
    live = {program.instrs[k].slot for k in kept} | set(declared)
    place = {old: new for new, old in enumerate(s for s in range(len(program.slots)) if s in live)}
    return _renumbered(program, sorted(kept), place)


def hoist(program: Program) -> Program:
    """Move what no state is needed for out of the loop: to `const`, or to `before` where it depends on x."""
    stages: list[str] = []
    for instr in program.instrs:
        stages.append(_earliest(program, instr, [stages[a] for a in instr.args]))
    return _staged(program, stages)


def delay(program: Program) -> Program:
    """Turn each state that is part of no recurrence into a shift of its new value, which need not be in the loop.

    A state is recurrent where it depends on itself, over any number of steps. One that only leads from one such
    circle to another stays a state, unless it depends on x alone.
    """
    if program.kind != "time":
        return program
    states = {i.slot for i in program.instrs if i.op == "state"}
    graph: networkx.DiGraph[object] = networkx.DiGraph()
    graph.add_nodes_from(states)
    graph.add_edges_from((s, r) for s in states for r in _slots_read(program, program.slots[s].next))
    circles = [c for c in networkx.strongly_connected_components(graph) if len(c) > 1]
    recurrent = {s for c in circles for s in c} | {s for s in graph if graph.has_edge(s, s)}
    feeding = {r for s in recurrent for r in networkx.descendants(graph, s)}
    driven = {s for s in graph if recurrent & networkx.descendants(graph, s)}
    stay = recurrent | (feeding & driven)
    instrs = list(program.instrs)
    for k, instr in enumerate(instrs):
        if instr.op == "state" and instr.slot not in stay:
            instrs[k] = replace(instr, op="shift", args=(program.slots[instr.slot].next,))
    return hoist(_ordered(program, instrs))


def split(program: Program) -> Program:
    """Split each `lin` in the loop (in a round) of values from within and from before: the latter leave it."""
    instrs = list(program.instrs)
    for k, instr in enumerate(program.instrs):
        early = [p for p, a in enumerate(instr.args) if instrs[a].stage != instr.stage]
        if (
            instr.op != "lin"
            or instr.stage not in ("loop", "round")
            or not early
            or not is_plain(program, instr)
        ):
            continue
        (whole,) = instr.maps
        late = [p for p in range(len(instr.args)) if p not in early]
        args = tuple(instr.args[p] for p in early)
        stage = max((instrs[a].stage for a in args), key=STAGES.index)
        first = replace(whole, parts=tuple(whole.parts[p] for p in early))
        instrs.append(replace(instr, args=args, stage=stage, maps=(first,)))
        rest = replace(whole, parts=tuple(whole.parts[p] for p in late), bias=False, base=len(late))
        instrs[k] = replace(instr, args=(*(instr.args[p] for p in late), len(instrs) - 1), maps=(rest,))
    return _ordered(program, instrs)


def absorb(program: Program) -> Program:
    """Fold the sum of a `lin` in the loop (in a round) and a value from before it into that product, as its base."""
    uses = _uses(program)
    instrs = list(program.instrs)
    for k, instr in enumerate(program.instrs):
        if instr.op != "add" or instr.stage not in ("loop", "round"):
            continue
        for a, b in (instr.args, instr.args[::-1]):
            lin, base = instrs[a], instrs[b]
            alone = lin.op == "lin" and uses[a] == 1 and lin.maps[0].base < 0 and is_plain(program, lin)
            earlier = STAGES.index(base.stage) < STAGES.index(instr.stage)
            if alone and earlier and lin.stage == instr.stage and base.type == lin.type == instr.type:
                added = replace(lin.maps[0], base=len(lin.args))
                instrs[k] = replace(lin, args=(*lin.args, b), maps=(added,))
                break
    return drop_dead(_ordered(program, instrs))


def align(program: Program) -> Program:
    """Put a `cast` before each operand of an elementwise operation that lacks axes of the result."""
    instrs = list(program.instrs)
    known: dict[Instr, int] = {}
    for k, instr in enumerate(program.instrs):
        if not joins(instr.op):
            continue
        args = list(instr.args)
        for p, a in enumerate(args):
            if not same_axes(instrs[a].type.kind, instr.type.kind):
                cast = Instr("cast", (a,), instr.type, instrs[a].stage)
                if cast not in known:
                    known[cast] = len(instrs)
                    instrs.append(cast)
                args[p] = known[cast]
        instrs[k] = replace(instr, args=tuple(args))
    return _ordered(program, instrs)


def sink(program: Program) -> Program:
    """Move what no recurrence needs behind the loop. No matrix leaves the loop: what reads one stays there."""
    if program.kind != "time":
        return program
    instrs = program.instrs
    reads = [k for k, i in enumerate(instrs) if i.op == "state"]
    todo = reads + [program.slots[instrs[k].slot].next for k in reads]
    needed: set[int] = set()
    while todo:
        needed |= {k for k in _needed(program, todo) if instrs[k].stage == "loop"}
        todo = [
            k
            for k, i in enumerate(instrs)
            if k not in needed and any(a in needed and instrs[a].type.kind in ("mat", "cmat") for a in i.args)
        ]
    stages = ["after" if i.stage == "loop" and k not in needed else i.stage for k, i in enumerate(instrs)]
    return _staged(program, stages)


def stack(program: Program) -> Program:
    """Make one product of all plain `lin` of the same operands in one stage.

    What the output does not see stays apart from what it sees: its weights get no gradient, not even zeros.
    """
    seen = _seen(program)
    groups: dict[tuple[str, tuple[int, ...], bool], list[int]] = {}
    for k, instr in enumerate(program.instrs):
        if instr.op == "lin" and is_plain(program, instr):
            operands = instr.args[: len(instr.maps[0].parts)]
            groups.setdefault((instr.stage, operands, k in seen), []).append(k)
    instrs = list(program.instrs)
    for (stage, operands, _), members in groups.items():
        if len(members) < 2:
            continue
        args, maps = list(operands), list[Map]()
        for place, k in enumerate(members):
            (one,) = instrs[k].maps
            if one.base >= 0:
                args.append(instrs[k].args[one.base])
                one = replace(one, base=len(args) - 1)
            maps.append(one)
            instrs[k] = Instr("piece", (len(instrs),), one.type, stage, (("index", place),))
        instrs.append(Instr("stack", tuple(args), STACK, stage, maps=tuple(maps)))
    return _ordered(program, instrs)


def tree_parts(program: Program) -> tuple[Program, Program]:
    """What a tree cell does at a leaf, and what it does in a merge, each as a Program of its own."""
    at_leaf = tuple(replace(slot, next=k) for slot, k in zip(program.slots, program.leaf, strict=True))
    leaf = replace(program, slots=at_leaf, out=program.leaf[0], leaf=(), region=None)
    return drop_dead(leaf), drop_dead(replace(program, leaf=()))


_PASSES: tuple[Pass, ...] = (drop_dead, hoist, delay, split, absorb, align, sink, stack)


def joins(op: str) -> bool:
    """Whether an operation is elementwise in several operands, which it brings to one type."""
    row = OPS.get(op)
    if row is None or row.weights is not None or row.name in ("outer", "sum"):
        return False
    return row.mixes == "elementwise" and row.arity[1] not in (0, 1)


def same_axes(kind: str, result: str) -> bool:
    """Whether a value of one kind joins a result elementwise as it stands (a number always does)."""
    return kind == "num" or _AXES.get(kind, kind) == _AXES.get(result, result)


_AXES = {"in": "vec", "cvec": "vec", "seq": "vec", "cmat": "mat"}


def is_plain(program: Program, instr: Instr) -> bool:
    """Whether a `lin` is a dense real map, which can be split by operands and stacked with others."""
    one = instr.maps[0]
    complex_ = any(spec.complex for spec in program.weights[one.weight].specs)
    return one.blocks == 1 and one.rank == 0 and not complex_


def _earliest(program: Program, instr: Instr, stages: Sequence[str]) -> str:
    """The first stage in which an instruction can be computed, given those of its operands."""
    stepwise = "before" if program.kind == "depth" else "loop"
    if instr.op == "final":
        return stepwise
    if instr.op in ("state", "child"):
        own = stepwise
    elif instr.op == "carry":
        own = "round"
    else:
        own = "before" if instr.op in ("x", "posemb", "shift", "conv", "attn", "top") else "const"
    return max((own, *stages), key=STAGES.index)


def _slots_read(program: Program, root: int) -> set[int]:
    """The slots whose previous value `root` depends on within one step."""
    return {program.instrs[k].slot for k in _needed(program, [root]) if program.instrs[k].op == "state"}


def _needed(program: Program, roots: Sequence[int]) -> set[int]:
    found: set[int] = set()
    todo = list(roots)
    while todo:
        index = todo.pop()
        if index not in found:
            found.add(index)
            todo.extend(program.instrs[index].args)
    return found


def _seen(program: Program) -> set[int]:
    """What the output depends on, over any number of steps (in a tree: everything)."""
    roots = program.roots if program.kind == "tree" else (program.out,)
    while True:
        found = _needed(program, roots)
        slots = {program.instrs[k].slot for k in found} - {-1}
        following = {program.slots[s].next for s in slots} - found
        if not following:
            return found
        roots = (*roots, *following)


def _uses(program: Program) -> list[int]:
    counts = [0] * len(program.instrs)
    for used in (*(a for i in program.instrs for a in i.args), *program.roots):
        counts[used] += 1
    return counts


def _staged(program: Program, stages: Sequence[str]) -> Program:
    instrs = (i.at(s) for i, s in zip(program.instrs, stages, strict=True))
    return replace(program, instrs=tuple(instrs))


def _ordered(program: Program, instrs: Sequence[Instr]) -> Program:
    """The program with these instructions, each moved behind what it uses; otherwise they keep their order."""
    order: list[int] = []
    done: set[int] = set()
    for root in range(len(instrs)):
        todo = [root]
        while todo:
            index = todo[-1]
            missing = [a for a in instrs[index].args if a not in done]
            if index in done or not missing:
                todo.pop()
                if index not in done:
                    done.add(index)
                    order.append(index)
            else:
                todo.extend(reversed(missing))
    return _renumbered(replace(program, instrs=tuple(instrs)), order)


def _renumbered(program: Program, order: Sequence[int], slots: dict[int, int] | None = None) -> Program:
    """The program with only the instructions in `order`, in that order, and only the slots in `slots`."""
    new = {old: k for k, old in enumerate(order)}
    slots = {s: s for s in range(len(program.slots))} if slots is None else slots
    instrs = (
        i.of(tuple([new[a] for a in i.args]), slots.get(i.slot, -1))
        for i in (program.instrs[k] for k in order)
    )
    region = program.region and Region(
        program.region.times,
        new[program.region.until],
        tuple(slots[s] for s in program.region.slots),
        tuple(new[k] for k in program.region.next),
    )
    return replace(
        program,
        instrs=tuple(instrs),
        slots=tuple(replace(program.slots[s], next=new[program.slots[s].next]) for s in slots),
        out=new[program.out],
        leaf=tuple(new[k] for k in program.leaf),
        region=region,
    )
