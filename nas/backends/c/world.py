"""What the C text of one half of a layer is made from: a schedule, sizes, and where rows lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grammar import Sizes
from nas.ir import Program, Schedule, Sweep, width

Key = tuple[str, int]  # what a pointer of a C function is connected to


@dataclass(frozen=True)
class Column:
    """Rows of a value: a buffer, the first column there, and the buffer's width."""

    key: Key
    first: int
    width: int
    optional: bool = False  # stored only where the buffer is there


@dataclass(frozen=True)
class Held:
    """How a slot lies in the caller's tensor: which, floats per row there, the first, and from one to the next."""

    slot: int
    row: int
    first: int = 0
    step: int = 1
    start: float | None = None  # its value where the caller gives none


@dataclass
class World:
    """What the sweeps of one half (forward or backward) share."""

    schedule: Schedule
    sizes: Sizes
    lanes: int
    rows: dict[int, Column]  # where the rows of values are that are stored or given
    kept: dict[int, Column] = field(default_factory=dict)  # where values go that only the other half reads
    held: Sequence[Held] = ()
    checkpoints: Mapping[int, int] = field(default_factory=dict)  # slots that are stored every so many steps
    arrays: Mapping[tuple[int, str], tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    # of slots that are read in x (delays.py): in a forward half those of its own, in a backward half of the other
    chains: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    past: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    windows: Mapping[int, int] = field(default_factory=dict)  # where what both halves read of these begins
    window: int = 0  # floats of all these for each sequence

    def size(self, k: int) -> int:
        """Numbers per row of a node's value."""
        return width(self.schedule.nodes[k].type, self.sizes)

    def blocks(self, blocks: object) -> int:
        """Into how many blocks a map divides its operand and result."""
        return self.sizes.heads if blocks == "heads" else int(blocks)  # type: ignore[call-overload]

    def gram_shape(self, k: int) -> tuple[int, int, int]:
        """The blocks of a `gram`, and the rows and columns of each."""
        (a, b), node = self.schedule.nodes[k].args, self.schedule.nodes[k]
        blocks = self.blocks(node.attr("blocks", 1))
        return blocks, self.size(a) // blocks, self.size(b) // blocks


def arrays_of(program: Program, sizes: Sizes) -> dict[tuple[int, str], tuple[int, tuple[int, ...]]]:
    """Of each array, by weight and role: its number among all, and its shape."""
    found = {}
    for n, array in enumerate(program.arrays):
        shape = tuple(sizes.at(extent) for extent in array.spec.shape)
        found[array.weight, array.spec.role] = (n, (*shape, 2) if array.spec.complex else shape)
    return found


@dataclass(frozen=True)
class Recomputed:
    """How a backward half computes matrix slots of the forward half once more, in chunks of `every` steps."""

    world: World
    sweep: Sweep
    slots: Sequence[int]
    every: int
