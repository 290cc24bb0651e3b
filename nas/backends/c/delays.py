"""Slots that have x as it was some steps before: read where x lies, and not carried from step to step.

A window of a conv over x has `width - 1` such slots, a shift of x has one. In the first steps they have what the caller
gave. A backward half reads them so, too: of all their values it needs the first ones alone kept.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

from nas.backends.c.loops import Place, literal
from nas.backends.c.text import Function
from nas.backends.c.world import World
from nas.ir import Normal, Schedule, Sweep

WINDOWS = ("windows", 0)  # the first values of all slots that a backward half reads, `[batch, floats]`


def chains_of(normal: Normal) -> dict[int, tuple[int, ...]]:
    """Of each slot that has x of some steps before, as many slots: itself, then the ones that it takes its values from.

    Before step n it has what slot n of these had in the beginning, and when there is none more, x. Parts of complex
    slots are carried: a caller's tensor has their numbers apart, and no row of it is what they begin with.
    """
    program, found = normal.program, dict[int, tuple[int, ...]]()
    slots = zip(normal.slots, program.slots, strict=True)
    following = {s: program.instrs[slot.next] for s, (place, slot) in enumerate(slots) if not place.part}
    new: dict[int, tuple[int, ...]] = {s: (s,) for s, instr in following.items() if instr.op == "x"}
    while new:
        found |= new
        new = {
            s: (s, *found[instr.slot])
            for s, instr in following.items()
            if s not in found and instr.op == "state" and instr.slot in new
        }
    return found


def read_by_sweeps(plan: Schedule, slots: Collection[int]) -> set[int]:
    """Those slots whose values nothing but the bodies of sweeps reads, in the schedule of a backward half."""
    sweeps = [step for step in plan.steps if isinstance(step, Sweep)]
    inside = {k for sweep in sweeps for k in sweep.body}
    outside = {k for sweep in sweeps for k in sweep.stored}
    outside |= {a for k, node in enumerate(plan.nodes) if k not in inside for a in node.args}
    return {
        s
        for s in slots
        if not any(node.op == "past" and node.slot == s and k in outside for k, node in enumerate(plan.nodes))
    }


def place(slot: int) -> Place:
    """Where the value of such a slot is; `ahead` and `back` say so at each step."""
    return Place(f"z{slot}", f"zr{slot}")


def ahead(world: World, f: Function, slots: Sequence[int]) -> list[str]:
    """The places before step `step`, which is at `t`, in a forward half."""
    lines = []
    for s in slots:
        chain, size = world.chains[s], world.sizes.input_size
        lines += _of_x(f, s, f"step >= {len(chain)}", -len(chain), size)
        starts = [world.held[other] for other in chain]
        for first, end, apart in _runs([(h.slot, h.row, h.start) for h in starts], [h.first for h in starts]):
            held, pointer = starts[first], f.port(("init", starts[first].slot))
            begin = f"b0 * {held.row} + {held.first} + (step - {first}) * {apart}"
            start = _start(f, 0.0 if held.start is None else held.start, size)
            lines += [
                f"else if (step < {end}) {{",
                f"z{s} = {pointer} ? {pointer} + {begin} : {start};",
                f"zr{s} = {pointer} ? {held.row} : 0;",
                "}",
            ]
    return lines


def kept(world: World, f: Function, slots: Sequence[int]) -> list[str]:
    """In a forward half: the values before the first step, for the backward half."""
    wanted = [s for s in slots if s in world.windows]
    if not wanted:
        return []
    size, whole, port = world.sizes.input_size, world.window, f.port(WINDOWS)
    copies = [
        f"memcpy({port} + (b0 + i) * {whole} + {world.windows[s]}, z{s} + i * zr{s}, {4 * size});"
        for s in wanted
    ]
    return [f"if (!step && {port}) for (long i = 0; i < m; i++) {{", *copies, "}"]


def back(world: World, f: Function, slots: Sequence[int]) -> list[str]:
    """The places before the forward step that a backward half is at."""
    lines = []
    for s in slots:
        chain, size = world.past[s], world.sizes.input_size
        lines += _of_x(f, s, f"T - 1 - step >= {len(chain)}", len(chain), size)
        places = [world.windows[other] for other in chain]
        for first, end, apart in _runs([None] * len(chain), places):
            begin = f"b0 * {world.window} + {places[first]} + (T - 1 - step - {first}) * {apart}"
            lines.append(
                f"else if (T - 1 - step < {end}) "
                f"{{ z{s} = {f.port(WINDOWS)} + {begin}; zr{s} = {world.window}; }}"
            )
    return lines


def _runs(kinds: Sequence[object], places: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of one kind, evenly apart: where each begins and ends, and how far apart. A wide window is one run."""
    runs: list[tuple[int, int, int]] = []
    for n, (kind, place) in enumerate(zip(kinds, places, strict=True)):
        first, end, apart = runs[-1] if runs else (n, n, 0)
        if n and kind == kinds[n - 1] and (end - first == 1 or place - places[n - 1] == apart):
            runs[-1] = (first, n + 1, place - places[n - 1])
        else:
            runs.append((n, n + 1, 0))
    return runs


def _of_x(f: Function, s: int, when: str, steps: int, size: int) -> list[str]:
    """A row of x so many steps of this half further on."""
    t = f"(rev ? t - {steps} : t + {steps})" if steps > 0 else f"(rev ? t + {-steps} : t - {-steps})"
    row = f"(off ? off[{t}] : {t} * ts) + b0 * bs"
    return [
        f"const float *z{s} = 0;",
        f"long zr{s} = 0;",
        f"if ({when}) {{ z{s} = {f.port(('x', 0))} + ({row}) * {size}; zr{s} = bs * {size}; }}",
    ]


def _start(f: Function, value: float, size: int) -> str:
    """A row of one number, made once."""
    name = f"start_{struct.pack('d', value).hex()}"
    if not any(line.startswith(f"float *const {name} ") for line in f.prologue):
        f.prologue += [
            f"float *const {name} = S + {f.floats};",
            f"for (long j = 0; j < {size}; j++) {name}[j] = {literal(value)};",
        ]
        f.floats += -(-size // 16) * 16
    return name
