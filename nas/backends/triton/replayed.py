"""Matrices of the forward run that a backward sweep replays, chunk by chunk, from those kept before each chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.backends.triton.body import Body
from nas.backends.triton.partition import Sweep
from nas.backends.triton.text import NOT_KNOWN, ONE
from nas.ir import Program

if TYPE_CHECKING:
    from nas.backends.triton.emit import Emitter


@dataclass(frozen=True, slots=True)
class Again:
    """What a backward sweep replays: a program forward in time, its body, and which slots of the cell its own are.

    `past` and `next` say of instructions that the sweep would load which slot they are, before or after a step.
    `borrowed` says of those that the replay loads which row of the sweep's own they are.
    """

    program: Program
    sweep: Sweep
    slots: tuple[int, ...]
    past: dict[int, int]
    next: dict[int, int]
    borrowed: dict[int, int]

    @property
    def more(self) -> int:
        """The matrices that live beside those of the sweep."""
        return 1 + 2 * len(self.slots)


def borrowing(
    replay: Program, sweep: Sweep, slots: Sequence[int], backward: Program, loads: Iterable[int]
) -> tuple[Sweep, dict[int, int]]:
    """The sweep of a replay without what a backward sweep loads as rows, and which of those its own values are.

    What a sweep before that one has computed from x and the rows kept is not computed once more beside matrices.
    """
    table: dict[object, int] = {}
    names = _names(backward, table, None)
    own = {names[k]: k for k in loads}
    same = {k: own[name] for k, name in enumerate(_names(replay, table, slots)) if name in own}
    body, loaded = set(sweep.body), set(sweep.loads)
    seen: set[int] = set()
    left = [slot.next for slot in replay.slots]
    while left:
        k = left.pop()
        if k in seen:
            continue
        seen.add(k)
        if k in body and k not in same:
            left.extend(replay.instrs[k].args)
    part = Sweep(
        body=[k for k in sweep.body if k in seen and k not in same],
        slots=sweep.slots,
        loads=[k for k in sorted(body | loaded) if k in seen and (k in loaded or k in same)],
        consts=[k for k in sweep.consts if k in seen],
        cyclic=sweep.cyclic,
    )
    return part, {k: same[k] for k in part.loads if k in same}


def _names(program: Program, table: dict[object, int], replays: Sequence[int] | None) -> list[int]:
    """A number for each value, the same for what is computed in the same way; `replays`: the slots that it replays."""
    names: list[int] = []
    for instr in program.instrs:
        args = [names[a] for a in instr.args]
        key: tuple[object, ...] = (
            instr.op,
            tuple(sorted(args) if instr.op in ("add", "mul") else args),
            str(instr.type),
            instr.attrs,
            instr.weight,
            instr.slot,
        )
        if instr.op == "state":
            key = ("own", instr.slot) if replays is None else ("past", (), "", (), -1, replays[instr.slot])
        names.append(table.setdefault(key, len(table)))
    return names


def replayed(emitter: Emitter, again: Again) -> None:
    """The loop of a backward sweep: of each chunk, from the last, its matrices forward and its steps backward."""
    put, zero = emitter.put, NOT_KNOWN.format(row="row")
    slots, types = again.slots, {s: again.program.slots[i].type for i, s in enumerate(again.slots)}
    for k in () if emitter.often else again.sweep.consts:
        emitter.load(f"r{k}", f"once{k}", again.program.instrs[k].type, *ONE)
    put("chunks = (T + CHUNK - 1) // CHUNK")
    put("for h in range(0, chunks):")
    emitter.depth += 1
    put("base = (chunks - 1 - h) * CHUNK")
    for s in slots:
        emitter.load(f"p{s}", f"check{s}", types[s], "((chunks - 1 - h).to(tl.int64) * B + b)", "mb")
    put("for j in range(0, CHUNK):")
    emitter.depth += 1
    _at_time(emitter, "base + j")
    for s in slots:
        emitter.store(f"p{s}", f"scratch{s}", types[s], f"((b * (CHUNK + 1) + j) | {zero})", "mb")
    _replay_step(emitter, again)
    emitter.depth -= 1
    for s in slots:
        emitter.store(f"p{s}", f"scratch{s}", types[s], "(b * (CHUNK + 1) + CHUNK)", "mb")
    put("tl.debug_barrier()")
    put("for j in range(0, CHUNK):")
    emitter.depth += 1
    _at_time(emitter, "base + CHUNK - 1 - j")
    late = emitter.late("row", "on", "")
    for later, held in ((0, again.past), (1, again.next)):
        place = f"((b * (CHUNK + 1) + CHUNK - 1 - j + {later}) | {zero})"
        late |= {k: (f"v{k}", f"scratch{s}", types[s], place, "mb") for k, s in held.items()}
    emitter.step("row", "on", "", late)
    emitter.depth -= 1
    put("tl.debug_barrier()")
    emitter.depth -= 1


def _at_time(emitter: Emitter, time: str) -> None:
    """The rows of a step of the forward run, some of which may lie beyond the last."""
    emitter.put(f"time = {time}")
    emitter.put("there = tl.maximum(T - 1 - time, 0)")
    emitter.put("if EVEN:")
    emitter.put("    row = time * (B + 0 * b) + b")
    emitter.put("    on = mb & (time + 0 * b < T)")
    emitter.put("else:")
    emitter.put("    row = tl.load(offsets + there) + b")
    emitter.put("    on = (b < tl.load(counts + there)) & (time + 0 * b < T)")


def _replay_step(emitter: Emitter, again: Again) -> None:
    """One step of the forward run."""
    program, sweep = again.program, again.sweep
    body = Body(program, sweep, emitter.tiles, emitter.compute, emitter.body.interpreted)
    names = {k: f"r{k}" for k in (*sweep.consts, *sweep.loads, *sweep.body)}
    pointers = {k: f"load{again.borrowed[k]}" if k in again.borrowed else f"again{k}" for k in sweep.loads}
    late = {k: (names[k], pointers[k], program.instrs[k].type, "row", "on") for k in sweep.loads}
    if emitter.often:
        late |= {
            k: (names[k], f"once{k}", program.instrs[k].type, NOT_KNOWN.format(row="row"), ONE[1])
            for k in sweep.consts
        }
    for k in sweep.body:
        instr = program.instrs[k]
        for a in instr.args:
            if a in late:
                emitter.load(*late.pop(a))
        state = f"p{again.slots[instr.slot]}" if instr.op == "state" else ""
        emitter.put(f"{names[k]} = {state or body.write(k, names)}")
    for where in late.values():
        emitter.load(*where)
    for i, s in enumerate(again.slots):
        following = program.slots[i].next
        new = body.number(following) if program.instrs[following].op == "num" else names[following]
        exists = emitter.across("on", emitter.rank(emitter.tiles.space(program.slots[i].type)))
        emitter.put(f"q{s} = tl.where({exists}, {new}, p{s})")
    for s in again.slots:
        emitter.put(f"p{s} = q{s}")
