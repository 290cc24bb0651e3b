"""Program: what a compiler works on. One instruction per value, and for each when it is computed."""

from __future__ import annotations

from dataclasses import dataclass

from grammar import Type, Weight, WeightSpec

# When a value is computed: once from weights alone; for all steps at once before the loop, from x and weights; once
# per step; once per round of a `depth n until(p)` block; for all steps at once after the loop, from what it stored.
# A depth cell has no loop: all of it is `before`, or in rounds. `end` is for backward programs: once, after all rows.
STAGES = ("const", "before", "loop", "round", "after", "end")

# What stands in programs beside the operations of the language: leaves, and what passes put in.
#   state   the value of a slot before this step            child   a state of a child in a tree
#   carry   a slot's value before a round, first its operand final   its value after all rounds (uses until and next)
#   cast    an operand brought to the axes of the result
#   stack   several `lin` of one operand as one product     piece   one `lin` of a stack
IR_OPS = ("x", "num", "state", "child", "carry", "final", "cast", "stack", "piece")

STACK = Type("stack")  # the type of a `stack`: its maps' results, flat, side by side

Attr = bool | int | float | str | tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True)
class Map:
    """One linear map of a `lin` or `stack`: which operands' blocks of a weight it applies, and its result.

    `parts[i]` is the block (`w0`, `w1`, ...) for operand i; `bias` says that it adds the weight's bias;
    `blocks` and `rank` are the options of the text; `base` is the position in the instruction's `args` of a value
    that is added, or -1.
    """

    weight: int
    parts: tuple[int, ...]
    type: Type
    bias: bool = True
    transpose: bool = False
    blocks: int | str = 1
    rank: int = 0
    base: int = -1


@dataclass(frozen=True, slots=True)
class Instr:
    """One value: an operation of the language or of IR_OPS, applied to earlier instructions.

    `weight` is an index into `Program.weights` (`lin` and `stack` have `maps` instead). `slot` is the state that a
    `state` reads, or the buffer that a `shift` or `conv` keeps.
    """

    op: str
    args: tuple[int, ...]
    type: Type
    stage: str = "loop"
    attrs: tuple[tuple[str, Attr], ...] = ()
    weight: int = -1
    maps: tuple[Map, ...] = ()
    slot: int = -1

    def attr(self, name: str, default: Attr = "") -> Attr:
        """The option `name`, or `default`."""
        for key, value in self.attrs:
            if key == name:
                return value
        return default

    def at(self, stage: str) -> Instr:
        """The same in another stage. This and `of` are called for each instruction by each pass."""
        if stage == self.stage:
            return self
        return Instr(self.op, self.args, self.type, stage, self.attrs, self.weight, self.maps, self.slot)

    def of(self, args: tuple[int, ...], slot: int) -> Instr:
        """The same of other operands and another slot."""
        if args == self.args and slot == self.slot:
            return self
        return Instr(self.op, args, self.type, self.stage, self.attrs, self.weight, self.maps, slot)


@dataclass(frozen=True, slots=True)
class Slot:
    """What is kept from one step to the next: a declared state, or the buffer of a `shift` or `conv`.

    `next` is the instruction whose value it takes. `steps` is 0 for one value `[B, *shape]`, and for a conv the number
    of past values in its window `[B, steps, *shape]`, oldest first. `init` is a number, `"learned"` or `"x"`.
    """

    name: str
    type: Type
    next: int
    init: float | str = 0.0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """A `depth n until(p)` block: at most `times` rounds; slots it carries, their new values, the halting gate."""

    times: int
    until: int
    slots: tuple[int, ...]
    next: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a weight: `weight` is an index into `Program.weights`."""

    weight: int
    spec: WeightSpec


@dataclass(frozen=True, eq=False, slots=True)
class Program:
    """Instructions in an order in which each comes after what it uses. `out` is the instruction of the output.

    Slots are the declared states in their order, then buffers. `arrays` is the order in which a runner takes the
    arrays of all weights, those of dead code included.
    """

    name: str
    kind: str
    instrs: tuple[Instr, ...]
    slots: tuple[Slot, ...]
    out: int
    weights: tuple[Weight, ...]
    leaf: tuple[int, ...] = ()
    region: Region | None = None
    children: tuple[str, ...] = ()
    variadic: bool = False

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Every array of every weight, in the order of the text."""
        return tuple(Array(i, spec) for i, weight in enumerate(self.weights) for spec in weight.specs)

    @property
    def roots(self) -> tuple[int, ...]:
        """The instructions that something outside reads: the output and the new value of every slot."""
        region = (self.region.until, *self.region.next) if self.region else ()
        return (self.out, *(s.next for s in self.slots), *self.leaf, *region)
