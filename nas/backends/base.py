"""What a backend is: it turns a cell into a function on tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.steps import Steps
from nas.errors import BuildError


class Runner(Protocol):
    """One layer in one direction, differentiable by torch."""

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output and the final state.

        `x` is `[rows, D]`, the rows of all steps as `steps` says, the output `[rows, H]`. `weights` are in the order
        of `Program.arrays`, complex ones as real `[..., 2]`. `state` has the value of each slot before the first
        step, `[B, *shape]` or `[B, steps, *shape]`, and so has the final state, after the last step of each sequence.
        """
        ...


class FlexibleRunner(ABC):
    """A Runner that takes more: rows by sequence, states of which it knows the start as None, and any direction."""

    @abstractmethod
    def __call__(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        state: Sequence[Tensor | None],
        steps: Steps,
        reverse: bool = False,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Runner`. A state is None where it starts as the text says, and that is a number.

        `reverse` goes through equally long sequences from their ends; rows stay where they are. With `tokens` `[rows]`
        int64, x is a table `[V, D]`, and the input's row r its row `tokens[r]`.
        """


class TreeRunner(Protocol):
    """A tree cell, differentiable by torch; rows are any leaves, or any merges whose children are known."""

    def leaves(self, x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The states `[rows, *shape]` at leaves that see x `[rows, D]`."""
        ...

    def merge(
        self, x: Tensor | None, weights: Sequence[Tensor], children: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output `[rows, H]` and the states of merges; `children[s][c]` is state s of child c, `[rows, *shape]`."""
        ...


class FlexibleTreeRunner(ABC):
    """A TreeRunner that takes whole trees at once."""

    @abstractmethod
    def leaves(self, x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See `TreeRunner`."""

    @abstractmethod
    def merge(
        self, x: Tensor | None, weights: Sequence[Tensor], children: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `TreeRunner`."""

    @abstractmethod
    def grow(
        self, x: Tensor, labels: Tensor | None, weights: Sequence[Tensor], levels: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """See `nas.backends.levels.merged`."""


class Backend(ABC):
    """One way to run cells. `name` is what `build(..., backend=name)` takes.

    `meant_for` are the kinds of cells that it runs on any sound machine: where it does not, `auto` says so.
    """

    name: str
    meant_for: frozenset[str] = frozenset()
    candidates: bool = False  # whether it has `compile_candidates`

    @abstractmethod
    def available(self) -> str | None:
        """None where this backend works on this machine, otherwise the reason why it does not."""

    @abstractmethod
    def refuses(self, cell: Cell) -> str | None:
        """None where this backend can run the cell, otherwise the reason why it cannot."""

    @abstractmethod
    def compile(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """A function that runs a time or depth cell at these sizes. Raises BuildError where they do not fit.

        `fallback`: where building fails, the runner warns and uses the reference, instead of an error.
        """

    def compile_candidates(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """The same for many candidates of one time cell side by side, which differ in their weights.

        All tensors that its runner takes and gives have an axis over the candidates before their own: x `[C, rows, D]`
        (expanded where it is the same for all: its gradients then count as a sum), weights `[C, ...]`, states
        `[C, B, ...]`.
        """
        raise BuildError(f"the backend {self.name!r} runs no candidates side by side")

    def compile_tree(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> TreeRunner:
        """The same for a tree cell. A backend without refuses them."""
        raise BuildError(f"the backend {self.name!r} runs no tree cells")
