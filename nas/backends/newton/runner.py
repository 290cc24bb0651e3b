"""Newton's method as a runner of modules, beside the exact one that it returns to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.base import Runner
from nas.backends.newton.rows import Effort, Frame, Run
from nas.backends.once import apart, first_order, refuse_transforms
from nas.backends.states import divided, refused, united
from nas.backends.steps import Steps
from nas.errors import BuildError
from nas.ir import (
    Adjoint,
    Linearised,
    adjoint_cell,
    checked_recurrences,
    compile_program,
    linearised,
    normal_cell,
)


@dataclass
class NewtonCount:
    """What Newton's method did in a module.

    `calls` of its layers and directions; `rounds` of all of them, and the `most` of one call; how often a call was
    `returned` to the exact path because it did not converge; how many linear recurrences of gradients went one step
    after the other because their scan was not finite (`stepwise`).
    """

    calls: int = 0
    rounds: int = 0
    most: int = 0
    returned: int = 0
    stepwise: int = 0

    def add(self, effort: Effort) -> None:
        """Count the forward half of a call: its rounds are those of the circle that took most."""
        rounds = max(effort.rounds, default=0)
        self.calls, self.rounds, self.most = self.calls + 1, self.rounds + rounds, max(self.most, rounds)

    def give_up(self, cell: Cell) -> None:
        """Count a return; the first of a module is said."""
        self.returned += 1
        if self.returned == 1:
            warnings.warn(
                f"Newton's method did not converge for cell {cell.name}: this call takes the exact path, "
                "as every other that does not; the module's `newton.returned` counts them",
                RuntimeWarning,
                stacklevel=2,
            )


@dataclass(frozen=True, eq=False)
class _Solver:
    """A cell's two programs with the derivatives of their circles."""

    made: Adjoint
    forward: Linearised
    backward: Linearised
    kept: tuple[int, ...]  # the forward instructions whose rows the backward program reads


@lru_cache(maxsize=256)
def _solver(cell: Cell) -> _Solver:
    """Raises BuildError, naming the cell and the class of its recurrence, where that is not elementwise."""
    reason = refused(cell, ("time",))
    if reason:
        raise BuildError(f"solver='newton' cannot run cell {cell.name}: {reason}")
    try:
        forward = linearised(normal_cell(cell).program)
    except BuildError as error:
        raise BuildError(f"solver='newton' cannot run cell {cell.name}: {error}") from None
    checked_recurrences(cell)
    made = adjoint_cell(cell)
    backward = linearised(made.backward)
    kept = {int(i.attr("of")) for i in made.backward.instrs if i.op == "saved"}  # type: ignore[arg-type]
    kept |= {made.forward.slots[i.slot].next for i in made.backward.instrs if i.op in ("past", "next")}
    return _Solver(made, forward, backward, tuple(sorted(kept)))


class NewtonRunner:
    """One layer in one direction. Single steps, what torch traces, and what does not converge go to `exact`."""

    def __init__(self, cell: Cell, sizes: Sizes, exact: Runner, count: NewtonCount) -> None:
        self.cell, self.sizes, self.exact, self.count = cell, sizes, exact, count
        self.solver, self.places = _solver(cell), normal_cell(cell).slots
        self.slots = len(compile_program(cell).slots)

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `nas.backends.Runner`."""
        traced = torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)
        if traced or steps.count == 1:
            return self.exact(x, weights, state, steps)
        refuse_transforms((x,), weights, state)
        like = weights[0] if weights else x
        kind = like.dtype if like.dtype.itemsize >= 4 else torch.float32
        first = [value.to(kind) for value in divided(state, self.places)]
        arrays, rows = [w.to(kind) for w in weights], x.to(kind)
        with torch.autocast(x.device.type, enabled=False):
            solved = self._solved(rows, arrays, first, steps)
        if solved is None:
            return self.exact(x, weights, state, steps)
        y, *last = _Solved.apply(self, solved, steps, len(arrays), rows, *arrays, *first)  # type: ignore[no-untyped-call]
        ends = united([v.to(like.dtype) for v in last], self.places, self.slots)
        return y.to(like.dtype), ends

    @torch.no_grad()
    def _solved(
        self, x: Tensor, weights: Sequence[Tensor], first: Sequence[Tensor], steps: Steps
    ) -> Run | None:
        """The forward values; None where Newton's method does not find them."""
        made = self.solver.forward
        leaves = {("x", -1): x}
        run = Run(made, Frame(self.sizes, steps, weights, first, leaves, x))
        roots = [made.program.out, *(slot.next for slot in made.program.slots)]
        good = run.solve(made.cut([*roots, *(made.at[k] for k in self.solver.kept)]))
        self.count.add(run.effort)
        if not good:
            self.count.give_up(self.cell)
        return run if good else None


class _Solved(torch.autograd.Function):
    """Gives out what was solved, and goes back through it by one linear recurrence."""

    @staticmethod
    def forward(
        ctx: Any, runner: NewtonRunner, run: Run, steps: Steps, count: int, *given: Tensor
    ) -> tuple[Tensor, ...]:
        made, solver = run.made, runner.solver
        y = run.rows(made.program.out)
        last = [steps.last(run.rows(slot.next)) for slot in made.program.slots]
        if any(ctx.needs_input_grad):
            kept = [run.rows(made.at[k]) for k in solver.kept]
            ctx.runner, ctx.steps, ctx.count = runner, steps, count
            ctx.save_for_backward(*given, *kept)
        # A result that is an input, or a part of a kept value, must not be handed out as itself.
        return (y.clone(), *(value.clone() for value in last))

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor, *dlast: Tensor) -> tuple[Tensor | None, ...]:
        runner, steps, count = ctx.runner, ctx.steps, ctx.count
        solver, needs = runner.solver, ctx.needs_input_grad[4:]
        forward, made = solver.made.forward, solver.backward
        slots = len(forward.slots)
        (x, *weights), first = ctx.saved_tensors[: 1 + count], ctx.saved_tensors[1 + count :][:slots]
        kept = dict(zip(solver.kept, ctx.saved_tensors[1 + count + slots :], strict=True))
        leaves = {("x", -1): x, ("dy", -1): dy} | {("saved", k): rows for k, rows in kept.items()}
        for s, slot in enumerate(forward.slots):
            if slot.next in kept:
                leaves["next", s] = kept[slot.next]
                leaves["past", s] = steps.lag(kept[slot.next], first[s].unsqueeze(1), 1)
        run = Run(made, Frame(runner.sizes, steps, weights, dlast, leaves, x, reverse=True), exact=True)
        parts = [w for w in solver.made.weights if needs[1 + w.array]]
        ends = [slot.next for s, slot in enumerate(made.program.slots) if needs[1 + count + s]]
        dx = made.program.out if needs[0] and solver.made.dx is not None else None
        with torch.autocast(x.device.type, enabled=False):
            run.solve(made.cut([*(made.at[w.value] for w in parts), *ends, *([] if dx is None else [dx])]))
        runner.count.stepwise += run.effort.stepwise
        grads: list[Tensor | None] = [None] * count
        for part in parts:
            value, array = run.values[made.at[part.value]], weights[part.array]
            whole = grads[part.array]
            if part.column < 0:
                value = value.expand(array.shape) if value.dim() == 0 else value.reshape(array.shape)
                grads[part.array] = value if whole is None else whole + value
            else:
                whole = torch.zeros_like(array) if whole is None else whole
                whole[..., part.column] += value.reshape(array.shape[:-1])
                grads[part.array] = whole
        firsts = [
            run.rows(slot.next)[: steps.batch] if needs[1 + count + s] else None
            for s, slot in enumerate(made.program.slots)
        ]
        own = [None if dx is None else run.rows(dx), *grads, *firsts]
        return (None, None, None, None, *apart(own, (dy, *dlast)))
