"""A Program as calls of torch: what runs once, what runs in each step, and where each result is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grammar import Sizes, Type
from nas.backends.linear import affine, flat, shaped, special, stacked
from nas.backends.renderings import RENDERINGS, Kinds, cast
from nas.backends.rounds import Call, Rounds
from nas.backends.steps import Steps
from nas.errors import BuildError
from nas.ir import STAGES, Instr, Program, is_plain, taps


@dataclass
class Plan:
    """The calls of a Program by stage, on a list of `count` cells that one run fills.

    Instruction k has its value in cell `at[k]`. Other cells hold the input and the layout of the rows, the weights by
    role, the slots (in the loop those of a step), and what calls make on the way.
    """

    program: Program
    sizes: Sizes
    calls: dict[str, list[Call]] = field(default_factory=lambda: {s: [] for s in STAGES})
    count: int = 0
    rowless: set[int] = field(default_factory=set)  # cells whose values lack the rows' axis

    def __post_init__(self) -> None:
        program = self.program
        self.arrays = program.arrays
        self.at = [self.cell() for _ in program.instrs]
        self.x, self.steps = self.cell(), self.cell()
        self.weights = [self.cell() for _ in program.weights]
        self.slots = [self.cell() for _ in program.slots]
        self.initial = [self.cell() for _ in program.slots]  # the slots' values before the first step
        self.rounds = -1  # the cell of the final values of all slots of a region
        self.constants: dict[int, Any] = {}
        self.flat: dict[int, int] = {}  # the cell of the whole result of each stack
        for k, instr in enumerate(program.instrs):
            self._add(k, instr)
            if instr.stage == "const":
                self.rowless.add(self.at[k])

    def cell(self) -> int:
        """A new cell."""
        self.count += 1
        return self.count - 1

    def call(self, stage: str, function: Callable[..., Any], *args: int) -> int:
        """Add a call; its result is in the cell returned."""
        out = self.cell()
        self.calls[stage].append(Call(out, function, args))
        if stage == "const":
            self.rowless.add(out)
        return out

    def fresh(
        self,
        x: Tensor | None,
        weights: Sequence[Tensor],
        state: Sequence[Tensor] = (),
        steps: Steps | None = None,
    ) -> list[Any]:
        """The cells at the start of a run."""
        cells: list[Any] = [None] * self.count
        for cell, value in self.constants.items():
            cells[cell] = value
        cells[self.x], cells[self.steps] = x, steps
        arrays: list[dict[str, Tensor]] = [{} for _ in self.program.weights]
        for array, value in zip(self.arrays, weights, strict=True):
            arrays[array.weight][array.spec.role] = (
                torch.view_as_complex(value) if array.spec.complex else value
            )
        for cell, weight in zip(self.weights, arrays, strict=True):
            cells[cell] = weight
        for cell, first, value in zip(self.slots, self.initial, state, strict=False):  # a tree has none
            cells[cell] = cells[first] = value
        return cells

    def in_rows(self, index: int) -> Callable[[list[Any], int], Tensor]:
        """The value of an instruction with the rows' axis, as a function of the cells and the number of rows."""
        cell = self.at[index]
        if cell in self.rowless:
            return lambda cells, rows: cells[cell].expand(rows, *cells[cell].shape)
        return lambda cells, rows: cells[cell]

    # -- one instruction --------------------------------------------------------------------

    def _add(self, k: int, instr: Instr) -> None:
        args = tuple(self.at[a] for a in instr.args)
        kinds = tuple(self.program.instrs[a].type.kind for a in instr.args)
        if instr.op == "x":
            self.at[k] = self.x
        elif instr.op == "state":
            self.at[k] = self.slots[instr.slot]
        elif instr.op in ("carry", "child"):
            pass  # set by the rounds, and for each merge
        elif instr.op == "final":
            self._final(k, instr)
        elif instr.op == "num":
            self.constants[self.at[k]] = float(instr.attr("value"))  # type: ignore[arg-type]
        elif instr.type.kind == "num":
            self._fold(k, instr, kinds)
        elif instr.op in ("lin", "stack"):
            self._linear(k, instr, args, kinds)
        elif instr.op == "piece":
            self._piece(k, instr)
        elif instr.op in ("shift", "conv"):
            self._past(k, instr, args)
        else:
            self._operation(k, instr, args, kinds)

    def _final(self, k: int, instr: Instr) -> None:
        """The value of a slot after all rounds; one call makes those of all slots."""
        region = self.program.region
        assert region is not None
        if self.rounds < 0:
            calls = self.calls["round"]
            carries = {i.slot: c for c, i in enumerate(self.program.instrs) if i.op == "carry"}
            start = {self.at[c]: self.at[self.program.instrs[c].args[0]] for c in carries.values()}
            until, *following = (self._through_rows(self.at[r]) for r in (region.until, *region.next))
            slots = [
                (
                    self.at[carries[s]] if s in carries else None,
                    value,
                    cast(Instr("cast", (), self.program.slots[s].type), ("scal",), self.sizes),
                )
                for s, value in zip(region.slots, following, strict=True)
            ]
            read = {a for call in calls for a in call.args} | {until, *following}
            read -= {call.out for call in calls}
            order = sorted(read | start.keys())
            rounds = Rounds(calls, self.count, order, until, slots, region.times)
            self.rounds = self.call(instr.stage, rounds, *(start.get(cell, cell) for cell in order))
        place = region.slots.index(instr.slot)
        self.calls[instr.stage].append(Call(self.at[k], lambda values: values[place], (self.rounds,)))

    def _operation(self, k: int, instr: Instr, args: tuple[int, ...], kinds: Kinds) -> None:
        rendering = cast if instr.op == "cast" else RENDERINGS.get(instr.op)
        if rendering is None:
            raise BuildError(
                f"the operation {instr.op!r} has no rendering in torch: nas.backends.register_rendering adds one"
            )
        extra: tuple[int, ...] = ()
        if instr.op == "posemb":
            extra = (self.x, self.steps)
        elif instr.op in ("attn", "top"):
            args, extra = tuple(self._through_rows(a) for a in args), (self.steps,)
        if instr.weight >= 0:
            extra += (self.weights[instr.weight],)
        self.calls[instr.stage].append(Call(self.at[k], rendering(instr, kinds, self.sizes), args + extra))

    def _fold(self, k: int, instr: Instr, kinds: Kinds) -> None:
        """An operation on numbers alone."""
        values = [
            torch.tensor(self.constants[self.at[a]], dtype=torch.float64, device="cpu") for a in instr.args
        ]
        self.constants[self.at[k]] = float(RENDERINGS[instr.op](instr, kinds, self.sizes)(*values))

    # -- linear maps ------------------------------------------------------------------------

    def _linear(self, k: int, instr: Instr, args: tuple[int, ...], kinds: Kinds) -> None:
        count = len(instr.maps[0].parts)
        operands = [self._through(instr.stage, flat(kinds[p]), args[p]) for p in range(count)]
        weights = [self.weights[m.weight] for m in instr.maps]
        if not is_plain(self.program, instr):
            result = self.call(instr.stage, special(instr, self.sizes), *operands, *weights)
        else:
            base = self._base(instr, weights)
            result = -1
            for p, operand in enumerate(operands):
                matrix = self.call("const", stacked(instr.maps, p), *weights)
                if base is None:
                    result = self.call(instr.stage, lambda a, w: affine(a, w, None), operand, matrix)
                else:
                    result = self.call(instr.stage, lambda b, a, w: affine(a, w, b), base, operand, matrix)
                base = result
        if instr.op == "stack":
            widths = [self._width(m.type) for m in instr.maps]
            self.flat[k] = result
            self.at[k] = self.call(instr.stage, lambda a: a.split(widths, -1), result)
        else:
            self.at[k] = self._through(
                instr.stage, shaped(instr.type.kind, self.sizes.shape(instr.type)), result
            )

    def _piece(self, k: int, instr: Instr) -> None:
        index = int(instr.attr("index"))  # type: ignore[arg-type]
        piece = self.call(instr.stage, lambda pieces: pieces[index], self.at[instr.args[0]])
        self.at[k] = self._through(instr.stage, shaped(instr.type.kind, self.sizes.shape(instr.type)), piece)

    def _base(self, instr: Instr, weights: list[int]) -> int | None:
        """The cell of what is added to the products, biases and values from before; None where that is nothing."""
        if all(m.base < 0 and not m.bias for m in instr.maps):
            return None
        whole = self._whole_stack(instr)
        if whole is not None and not any(m.bias for m in instr.maps):
            return whole
        stage, added = "const", []
        for m, weight in zip(instr.maps, weights, strict=True):
            if m.base >= 0:
                source = self.program.instrs[instr.args[m.base]]
                stage = max(stage, source.stage, key=STAGES.index)
                base = self._through(source.stage, flat(source.type.kind), self.at[instr.args[m.base]])
                if m.bias:
                    base = self.call(source.stage, lambda a, w: a + w["b"], base, weight)
                added.append(base)
            elif m.bias:
                added.append(self.call("const", lambda w: w["b"], weight))
            else:
                width, role = self._width(m.type), f"w{m.parts[0]}"
                added.append(self.call("const", lambda w, r=role, n=width: w[r].new_zeros(n), weight))
        return added[0] if len(added) == 1 else self.call(stage, _side_by_side, *added)

    def _whole_stack(self, instr: Instr) -> int | None:
        """The cell of an earlier stack whose pieces, all and in order, are the bases of this one."""
        sources = [self.program.instrs[instr.args[m.base]] for m in instr.maps if m.base >= 0]
        biased = any(m.bias for m in instr.maps)
        if biased or len(sources) < len(instr.maps) or any(s.op != "piece" for s in sources):
            return None
        whole = sources[0].args[0]
        same = all(s.args[0] == whole and s.attr("index") == k for k, s in enumerate(sources))
        return self.flat[whole] if same and len(self.program.instrs[whole].maps) == len(sources) else None

    # -- buffers ----------------------------------------------------------------------------

    def _past(self, k: int, instr: Instr, args: tuple[int, ...]) -> None:
        """A shift or conv: in the loop it reads its slot, elsewhere it is computed for all steps at once."""
        keeps = instr.slot >= 0
        stepwise = instr.stage == "loop" and self.program.kind == "time"
        if stepwise and instr.op == "shift":
            self.at[k] = self.slots[instr.slot]
            return
        count = taps(instr) if instr.op == "conv" else 2
        rows = self._through_rows(args[0])
        if stepwise:
            past = (lambda a, window: [*window.unbind(1), a]) if keeps else (lambda a: [a])
            values = self.call("loop", past, rows, *([self.slots[instr.slot]] if keeps else []))
        else:
            window = self.initial[instr.slot] if keeps else self._nothing(instr, rows, count - 1)
            values = self.call(instr.stage, _lags(count), rows, window, self.steps)
        if instr.op == "shift":
            self.at[k] = self.call(instr.stage, lambda lags: lags[0], values)
            return
        conv = RENDERINGS["conv"](instr, (instr.type.kind,), self.sizes)
        self.calls[instr.stage].append(Call(self.at[k], conv, (values, self.weights[instr.weight])))

    def _through_rows(self, cell: int) -> int:
        """A value with the rows' axis."""
        if cell not in self.rowless:
            return cell
        return self.call("before", lambda a, steps: a.expand(steps.rows, *a.shape), cell, self.steps)

    def _nothing(self, instr: Instr, rows: int, steps: int) -> int:
        """A window of zeros, for what has no state: the start of a sequence that is seen whole."""

        def zeros(a: Tensor, layout: Steps) -> Tensor:
            return a.new_zeros(layout.batch, steps, *a.shape[1:])

        return self.call(instr.stage, zeros, rows, self.steps)

    # -- small parts ------------------------------------------------------------------------

    def _through(self, stage: str, function: Callable[[Any], Any] | None, cell: int) -> int:
        return cell if function is None else self.call(stage, function, cell)

    def _width(self, type_: Type) -> int:
        return math.prod(self.sizes.shape(type_))


def _side_by_side(*values: Tensor) -> Tensor:
    """Flat values beside each other; those without the rows' axis are repeated."""
    rows = max(value.shape[0] if value.dim() == 2 else 0 for value in values)
    return torch.cat([v.expand(rows, -1) if rows and v.dim() == 1 else v for v in values], -1)


def _lags(count: int) -> Callable[[Tensor, Tensor, Steps], list[Tensor]]:
    """The values of the last `count` steps, oldest first; a single earlier value is a window of one."""

    def lags(value: Tensor, window: Tensor, steps: Steps) -> list[Tensor]:
        if window.dim() == value.dim():
            window = window.unsqueeze(1)
        return [steps.lag(value, window, by) for by in range(count - 1, 0, -1)] + [value]

    return lags
