"""A normal program on tensors, every value for all steps at once: its circles by Newton's method and scans.

Guess the states of all steps; the step function applied to all of them says how far each is from following the one
before. What is missing follows, to first order, a linear recurrence with the step's own derivatives, which a scan
solves; again until nothing is missing. F. Danieli et al., ParaRNN: Unlocking parallel training of nonlinear RNNs for
large language models, arXiv 2510.21450; Y. H. Lim et al., Parallelizing non-linear sequential models over the sequence
length, arXiv 2309.12252. Only states that follow one another to rounding are accepted: the result is the loop's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grammar import Sizes, Type
from nas.backends.newton.scan import MAX_PLUS, solved, stepwise
from nas.backends.primitives import TORCH, array_places, blocks_of, flat, linear, param, product
from nas.backends.steps import Steps
from nas.ir import Circle, Linearised, number_in, shape_in

ROUNDS = 24  # of Newton's method, before it gives up
# How far a state may be from following the one before it, in units of rounding at the largest value that this entry of
# the state takes in this sequence. The loop itself errs by one or two of these in each step.
SLACK = 8.0
# States within that go on until each follows the one before it to rounding of the values beside it, or until a round
# leaves more than half of what is missing there, of so little: a sum that cancels is further off than rounding of its
# result, and stays so.
ROUGH = 1e3


@dataclass
class Frame:
    """What one run works on: rows of leaves by name and slot, weights, the slots' values before the first step."""

    sizes: Sizes
    steps: Steps
    weights: Sequence[Tensor]
    first: Sequence[Tensor]
    leaves: Mapping[tuple[str, int], Tensor]
    like: Tensor
    reverse: bool = False


@dataclass
class Effort:
    """How many rounds the circles of a run took, and how many circles went step by step after all."""

    rounds: list[int] = field(default_factory=list)
    stepwise: int = 0


class Run:
    """The values of the instructions of a program; `solve` computes them.

    `exact`: a circle that does not converge is solved step by step, which its being affine allows.
    """

    def __init__(self, made: Linearised, frame: Frame, exact: bool = False) -> None:
        self.made, self.frame, self.exact = made, frame, exact
        self.program, self.effort = made.program, Effort()
        self.arrays = array_places(made.program)
        self.values: dict[int, Tensor] = {}
        self.reads = {i.slot: k for k, i in enumerate(self.program.instrs) if i.op == "state"}

    def solve(self, order: Sequence[int | Circle]) -> bool:
        """Compute what is in `order`. False where a circle did not converge."""
        for item in order:
            if isinstance(item, Circle):
                if not self._circle(item):
                    return False
            else:
                self.values[item] = self._one(item)
        return True

    def rows(self, k: int) -> Tensor:
        """The rows of an instruction; of one without rows, repeated."""
        value = self.values[k]
        shape = (self.frame.steps.rows, *shape_in(self.program.instrs[k].type, self.frame.sizes))
        return value if tuple(value.shape) == shape else value.expand(shape)

    # ---- single instructions --------------------------------------------------------------

    def _one(self, k: int) -> Tensor:
        """The value of an instruction from those of its operands: rows, or one value where it needs none."""
        instr, frame = self.program.instrs[k], self.frame
        if instr.op == "num":
            number = number_in(instr.attr("value"), instr.attr("over"), frame.sizes)
            return frame.like.new_full((), number)
        if instr.op in ("param", "lin"):
            array = frame.weights[self.arrays[instr.weight, str(instr.attr("role"))]]
            if instr.op == "param":
                return param(array, instr, frame.sizes)
            return linear(self.values[instr.args[0]], self._type(instr.args[0]), instr, array, frame.sizes)
        if instr.op == "state":
            return self._before(self.rows(self.program.slots[instr.slot].next), frame.first[instr.slot])
        if instr.op == "total":
            return self.rows(instr.args[0]).sum(0)
        if instr.op == "gram":
            return self._gram(k)
        if instr.op not in TORCH:
            place = int(instr.attr("of")) if instr.op == "saved" else instr.slot  # type: ignore[arg-type]
            return frame.leaves[instr.op, place]
        args = [self.values[a] for a in instr.args]
        return TORCH[instr.op](args, instr, [self._type(a) for a in instr.args], frame.sizes)

    def _type(self, k: int) -> Type:
        return self.program.instrs[k].type

    def _gram(self, k: int) -> Tensor:
        instr = self.program.instrs[k]
        a, b = (flat(self.rows(arg), self._type(arg)) for arg in instr.args)
        blocks = blocks_of(instr, self.frame.sizes)
        if blocks == 1:
            return product(a.t(), b)
        a, b = (v.unflatten(-1, (blocks, -1)).transpose(0, 1) for v in (a, b))
        return torch.bmm(a.transpose(1, 2), b)

    # ---- time -----------------------------------------------------------------------------

    def _before(self, rows: Tensor, first: Tensor) -> Tensor:
        """Each row's value one step earlier, in the direction of the run."""
        steps = self.frame.steps
        if not self.frame.reverse:
            return steps.lag(rows, first.unsqueeze(1), 1)
        if steps.even:
            return torch.cat([rows[steps.batch :], first.to(rows.dtype)])
        return steps.reverse(steps.lag(steps.reverse(rows), first.unsqueeze(1), 1))

    def _grid(self, rows: Tensor) -> Tensor:
        """Rows as `[T, B, ...]` in the order of the run, zero after a sequence's last step."""
        steps = self.frame.steps
        return steps.pad(steps.reverse(rows) if self.frame.reverse else rows).transpose(0, 1)

    def _ungrid(self, grid: Tensor) -> Tensor:
        steps = self.frame.steps
        rows = steps.unpad(grid.transpose(0, 1))
        return steps.reverse(rows) if self.frame.reverse else rows

    # ---- circles --------------------------------------------------------------------------

    def _circle(self, circle: Circle) -> bool:
        shape = self._shape(circle)
        states = [self.frame.like.new_zeros(shape) for _ in circle.slots]
        if circle.max_plus:
            states = [self._ungrid(h) for h in solved(self._slopes(circle), self._largest(circle), MAX_PLUS)]
        elif circle.nonlinear:  # slopes at what the step makes of nothing are better than those at nothing
            states = self._stepped(circle, states)
        worst = float("inf")
        for turn in range(ROUNDS + 1):
            after = self._stepped(circle, states)
            missing = [self._grid(f - h) for f, h in zip(after, states, strict=True)]
            follows, finite, here = self._judged(missing, after)
            settled = here <= 1 or worst / 2 < here <= ROUGH
            if (follows and settled) or not finite or turn == ROUNDS or circle.max_plus:
                break
            worst = here
            for k in circle.tangent:
                self.values[k] = self._one(k)
            change = solved(self._slopes(circle), missing)
            states = [h + self._ungrid(d) for h, d in zip(states, change, strict=True)]
        self.effort.rounds.append(turn)
        if not follows and self.exact:
            self._stepwise(circle)
        return follows or self.exact

    def _shape(self, circle: Circle) -> tuple[int, ...]:
        """The shape of the rows of its slots."""
        type_ = self.program.slots[circle.slots[0]].type
        return (self.frame.steps.rows, *shape_in(type_, self.frame.sizes))

    def _stepped(self, circle: Circle, states: Sequence[Tensor]) -> list[Tensor]:
        """The step function applied to the states of all steps."""
        for s, h in zip(circle.slots, states, strict=True):
            self.values[self.reads[s]] = self._before(h, self.frame.first[s])
        for k in circle.step:
            self.values[k] = self._one(k)
        return [self.rows(self.program.slots[s].next) for s in circle.slots]

    def _judged(self, missing: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[bool, bool, float]:
        """Whether the states follow one another to rounding, and whether all is finite; asked for at once.

        Rounding is that of the largest value of each entry in its sequence. The third answer is the most that a state
        is away in units of what it may be by the values at its own step and the one before: what is small after a
        spike.
        """
        follows, finite, worst = [], [], []
        for m, f in zip(missing, after, strict=True):
            away, size = m.abs(), self._grid(f).abs()
            near = size.clone()
            torch.maximum(near[1:], size[:-1], out=near[1:])
            slack = SLACK * torch.finfo(f.dtype).eps
            follows.append((away.amax(0) <= slack * size.amax(0)).all())
            finite.append(away.isfinite().all())
            worst.append(torch.where(away > slack * near, away / (slack * near), 0.0).amax())
        answers = torch.stack([torch.stack(v).all().to(worst[0].dtype) for v in (follows, finite)])
        good, whole, most = torch.cat([answers, torch.stack(worst).amax().view(1)]).tolist()
        return bool(good and whole), bool(whole), float(most)

    def _slopes(self, circle: Circle) -> list[list[Tensor | None]]:
        return [[self._coefficient(k, circle) for k in row] for row in circle.slopes]

    def _coefficient(self, k: int | None, circle: Circle) -> Tensor | None:
        """For all steps and sequences, `[T, B, ...]`; the value may be a number."""
        return None if k is None else self._grid(self.values[k].expand(self._shape(circle)))

    def _largest(self, circle: Circle) -> list[Tensor]:
        """What a max-plus circle adds to nothing: its rest, and in the first step what the first values give."""
        rest = []
        for row, k in zip(self._slopes(circle), circle.rest, strict=True):
            b = self._coefficient(k, circle)
            if b is None:  # then the row has a slope
                b = next(torch.full_like(m, -torch.inf) for m in row if m is not None)
            else:
                b = b.clone()
            for m, slot in zip(row, circle.slots, strict=True):
                if m is not None:
                    b[0] = torch.maximum(b[0], m[0] + self.frame.first[slot])
            rest.append(b)
        return rest

    def _stepwise(self, circle: Circle) -> None:
        """An affine circle, one step after the other."""
        nothing = [self.frame.like.new_zeros(self._shape(circle)) for _ in circle.slots]
        rest = [self._grid(f) for f in self._stepped(circle, nothing)]
        self._stepped(circle, [self._ungrid(h) for h in stepwise(self._slopes(circle), rest)])
        self.effort.stepwise += 1
