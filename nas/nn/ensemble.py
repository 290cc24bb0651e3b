"""Ensemble: many models of one cell side by side, in one call of what runs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from grammar import Cell
from nas.backends import FlexibleRunner, Runner, Steps, candidates_runner
from nas.errors import BuildError
from nas.nn.module import CellModule, State
from nas.nn.rows import Layout, as_rows, check_tensor, check_tokens, checked_lengths, looked_up, whole_number

Module = TypeVar("Module", bound=CellModule)
_SAME = (
    "input_size",
    "hidden_size",
    "num_layers",
    "heads",
    "key_size",
    "batch_first",
    "bidirectional",
    "dropout",
    "solver",
)


class Ensemble(CellModule):
    """C candidates of one cell, which differ in their weights (seeds, say), trained and run side by side.

    Small cells leave a machine idle: C of them in one call cost less than C calls. Every weight has the name that it
    has in the module of one candidate, and an axis over the candidates before its own: `[C, ...]`.

    `y, state = m(x, state=None, lengths=None)` with x `[B, T, D]`, the same for all candidates, or `[C, B, T, D]`
    (without `batch_first`, T before B), and y `[C, B, T, H]`. The states are `[C, layers * directions, B, ...]`. No
    candidate sees another: outputs and gradients are those of C separate modules. With dropout each draws its own.

    `Ensemble.of(modules)` puts modules side by side, `candidate(c)` takes one out; both copy the weights. What else
    is there is as in CellModule, whose arguments those of `Ensemble` are.

    Raises BuildError like `build`, for a cell that is not over time, and where the backend runs no candidates.
    """

    _kinds = ("time",)

    def __init__(
        self,
        cell: Cell,
        candidates: int,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        heads: int = 1,
        key_size: int | None = None,
        batch_first: bool = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        candidates = whole_number("candidates", candidates)
        if candidates < 1:
            raise BuildError(f"an ensemble has at least 1 candidate; received candidates={candidates}")
        kind = getattr(cell, "kind", "time")  # what is no cell is found out later
        if kind not in self._kinds:
            raise BuildError(f"candidates run side by side for cells over time; {cell.name} is a {kind} cell")
        self.candidates = candidates
        self._lead = (candidates,)
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            heads,
            key_size,
            batch_first,
            bidirectional,
            dropout,
            backend,
        )

    @classmethod
    def of(cls, modules: Iterable[CellModule], backend: str | None = None) -> Ensemble:
        """Modules of one cell at the same sizes, side by side: weights are copied, with their dtype and device.

        `backend` is by default that of the first. Raises BuildError where the modules differ in structure.
        """
        if not isinstance(modules, Iterable):
            raise BuildError(f"an ensemble is made of modules; received one {type(modules).__name__}")
        modules = list(modules)
        if not modules:
            raise BuildError("an ensemble has at least 1 candidate; received no modules")
        first = modules[0]
        for number, module in enumerate(modules):
            _check_same(first, module, number)
        if first.solver != "exact":
            raise BuildError(
                f"candidates side by side have the exact solver; received modules with {first.solver!r}"
            )
        options = {name: getattr(first, name) for name in _SAME if name != "solver"}
        made = cls(first.cell, len(modules), backend=backend or first.backend, **options)
        states = [module.state_dict() for module in modules]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        made.to(first._like())
        made.load_state_dict(stacked)
        return _as_set(made, first)

    def candidate(self, number: int) -> CellModule:
        """One candidate as a module of its own, with a copy of its weights."""
        if not 0 <= whole_number("number", number) < self.candidates:
            raise BuildError(f"there are the candidates 0 to {self.candidates - 1}; received {number}")
        options = {name: getattr(self, name) for name in _SAME}  # the exact solver, too
        made = CellModule(self.cell, backend=self.backend, **options).to(self._like())
        made.load_state_dict({name: value[number] for name, value in self.state_dict().items()})
        return _as_set(made, self)

    # -- weights ----------------------------------------------------------------------------

    def reset_parameters(
        self, generator: torch.Generator | Sequence[torch.Generator | None] | None = None
    ) -> None:
        """Draw all weights anew, candidate by candidate, as each module by itself would.

        `generator` is one for all, or one for each: candidate c then begins as a module with the c-th one does.
        """
        own = list(generator) if isinstance(generator, Sequence) else [generator] * self.candidates
        if not all(one is None or isinstance(one, torch.Generator) for one in own):
            raise BuildError(
                f"candidates are drawn by a torch.Generator, or one for each; received {generator!r}"
            )
        if len(own) != self.candidates:
            raise BuildError(
                f"there is one generator for each of {self.candidates} candidates; received {len(own)}"
            )
        for number, one in enumerate(own):
            for layer, sizes in enumerate(self.sizes):
                for direction in range(self.directions):
                    self._weights(layer, direction).reset(self.program, sizes, one, (number,))

    def _find_runners(self) -> tuple[Runner, ...]:
        return tuple(candidates_runner(self.backend, self.cell, sizes) for sizes in self.sizes)

    def extra_repr(self) -> str:
        """Candidates, cell and sizes, for print."""
        return f"{self.candidates} x {super().extra_repr()}"

    # -- running ----------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        table: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Output and final state: see the class. Raises BuildError where a shape is wrong.

        With `table`, [V, D] or [C, V, D], x is of tokens, `[B, T]` int64, and candidates see those rows of it.
        """
        if table is not None:
            x = self._of_table(check_tokens(x, self.batch_first), table, lengths)
        layout, rows = self._as_rows(x, lengths)
        rows, final = self._run(self._runners, rows, layout.steps, self._state_in(state, layout))
        return self._restored(rows, layout), self._state_out(final, layout)

    def _of_table(self, tokens: Tensor, table: Tensor, lengths: Tensor | Sequence[int] | None) -> Tensor:
        """The rows of a table that tokens are, `[B, T, D]`, or `[C, B, T, D]` where each candidate has its own."""
        C, D = self.candidates, self.input_size
        if table.dim() not in (2, 3) or table.shape[-1] != D or (table.dim() == 3 and table.shape[0] != C):
            raise BuildError(
                f"table must have the shape [V, {D}] or [{C}, V, {D}]; received {list(table.shape)}"
            )
        if table.dim() == 2:
            return looked_up(tokens, table, lengths, self.batch_first)
        rows = looked_up(tokens, table.transpose(0, 1).flatten(1), lengths, self.batch_first)
        own: Tensor = rows.unflatten(2, (C, D)).movedim(2, 0)
        return own

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: x `[B, D]` or `[C, B, D]` and a state to y `[C, B, H]` and the next state."""
        self._check_stepwise("step")
        C, D = self.candidates, self.input_size
        if x.dim() not in (2, 3) or x.shape[-1] != D or (x.dim() == 3 and x.shape[0] != C):
            raise BuildError(f"step takes x of shape [B, {D}] or [{C}, B, {D}]; received {list(x.shape)}")
        layout = Layout(Steps.same(x.shape[-2], 1))
        rows = _apart(x) if x.dim() == 3 else x.expand(C, *x.shape)
        y, final = self._run(self._runners, rows, layout.steps, self._state_in(state, layout))
        return y, self._state_out(final, layout)

    def _as_rows(
        self, x: Tensor | PackedSequence, lengths: Tensor | Sequence[int] | None
    ) -> tuple[Layout, Tensor]:
        """The layout of x and its rows `[C, rows, D]`."""
        check_tensor(x)
        if isinstance(x, PackedSequence):
            raise BuildError("an ensemble takes padded sequences with lengths=, no PackedSequence")
        C, D = self.candidates, self.input_size
        own = x.dim() == 4
        if x.dim() not in (3, 4) or x.shape[-1] != D or 0 in x.shape or (own and x.shape[0] != C):
            wanted = "B, T" if self.batch_first else "T, B"
            raise BuildError(
                f"x must have the shape [{wanted}, {D}], the same for all candidates, or [{C}, {wanted}, {D}]; "
                f"received {list(x.shape)}"
            )
        flexible = all(isinstance(call, FlexibleRunner) for call in self._runners)
        if not own:
            layout, rows = as_rows(x, lengths, self.batch_first, D, flexible)
            return layout, rows.expand(C, *rows.shape)
        x = _apart(x)
        batch, total = x.shape[1:3] if self.batch_first else (x.shape[2], x.shape[1])
        if lengths is None or bool((checked_lengths(lengths, batch, total) == total).all()):
            whole = self.batch_first and flexible
            ordered = x.transpose(1, 2) if self.batch_first and not whole else x
            return Layout(Steps.same(batch, total, whole), self.batch_first), ordered.reshape(C, -1, D)
        layout, rows = as_rows(x.movedim(0, 2).flatten(2), lengths, self.batch_first, C * D)
        return layout, rows.view(-1, C, D).transpose(0, 1)

    def _restored(self, rows: Tensor, layout: Layout) -> Tensor:
        """Rows `[C, rows, H]` as `[C, B, T, H]`."""
        steps, width = layout.steps, rows.shape[-1]
        if layout.packed is not None:
            padded = layout.restore(rows.transpose(0, 1).flatten(1))
            assert isinstance(padded, Tensor)
            found: Tensor = padded.unflatten(2, (self.candidates, width)).movedim(2, 0)
            return found
        if steps.by_sequence:
            return rows.view(self.candidates, steps.batch, steps.count, width)
        y = rows.view(self.candidates, steps.count, steps.batch, width)
        return y.transpose(1, 2) if self.batch_first else y


def _apart(x: Tensor) -> Tensor:
    """x `[C, ...]` with memory for each candidate where its gradient is wanted: each has its own there.

    Backends take rows that lie in one place for those that all candidates share, and sum their gradients.
    """
    return x.contiguous() if x.requires_grad and x.stride(0) == 0 else x


def _as_set(made: Module, like: CellModule) -> Module:
    """A module in the mode of another, with the same parameters trained."""
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(like.get_parameter(name).requires_grad)
    return made.train(like.training)


def _check_same(first: CellModule, module: CellModule, number: int) -> None:
    """Raise BuildError where two modules cannot stand side by side."""
    if type(module) is not CellModule:
        raise BuildError(
            f"an ensemble is made of modules over time; number {number} is a {type(module).__name__}"
        )
    if module.cell is not first.cell:
        raise BuildError(
            f"candidates side by side have one structure, and differ in their weights alone; number {number} is of "
            f"another cell than number 0: {module.cell.one_line} and {first.cell.one_line}"
        )
    for name in _SAME:
        ours, theirs = getattr(module, name), getattr(first, name)
        if ours != theirs:
            raise BuildError(
                f"candidates side by side have the same sizes; number {number} has {name}={ours}, number 0 {theirs}"
            )
    ours, theirs = (
        [name for name, parameter in one.named_parameters() if parameter.requires_grad]
        for one in (module, first)
    )
    if ours != theirs:
        raise BuildError(
            f"candidates side by side have the same weights trained; number {number} differs from number 0 "
            f"in {', '.join(sorted(set(ours) ^ set(theirs)))}"
        )
