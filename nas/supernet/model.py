"""The supernet: one set of weights by role for all cells of a sketch, run as the mixture or as one path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from grammar import Cell
from nas.errors import BuildError
from nas.nn import CellModule, Stack, State
from search_spaces import Relaxed

Picks = Mapping[int, int]
Gates = Sequence[Tensor]
Arrays = Mapping[str, Tensor]


class Supernet(nn.Module):
    """The mixture of a sketch as a `Stack`, and every cell of the sketch with the same weights.

    `mix(gates, ...)` runs the mixture, `gates[i]` `[options of hole i]` being what each option of hole i is multiplied
    by; `run(picks, ...)` the cell with these options alone, at the cost of that cell. Both give what `Stack` gives:
    outputs and the final state. With one-hot gates they agree, and so do the gradients. Weights are shared by role (see
    `search_spaces.Relaxed`), also over layers' holes: each layer has its own weights and the same gates.

    The arguments after `relaxed` are those of `Stack`; paths run on `path_backend`, the mixture on `backend`. With
    `through` a path runs as the mixture with one-hot gates, which is compiled once, where the path would be for each:
    to the same values, unless an option that is not taken has some that are not finite.
    """

    def __init__(
        self,
        relaxed: Relaxed,
        inputs: int,
        outputs: int,
        width: int,
        num_layers: int = 1,
        heads: int = 1,
        dropout: float = 0.0,
        embed: bool = True,
        backend: str = "auto",
        path_backend: str = "reference",
        policy: str | None = None,
        through: bool = False,
    ) -> None:
        super().__init__()
        self.relaxed = relaxed
        self.through = through
        self.heads = heads
        self.path_backend = path_backend
        self._sizes = {"inputs": inputs, "outputs": outputs, "width": width}
        self._manner = {
            "num_layers": num_layers,
            "heads": heads,
            "dropout": dropout,
            "embed": embed,
            "policy": policy,
        }
        self.stack = self._stack(relaxed.cell, backend)
        self._shell = lru_cache(maxsize=64)(self._empty)

    def mix(
        self,
        gates: Gates,
        x: Tensor,
        lengths: Tensor | None = None,
        state: State | None = None,
        tree: Tensor | None = None,
        arrays: Arrays | None = None,
    ) -> tuple[Tensor, State]:
        """The mixture. `arrays` stand in for parameters of `stack` by name, for gradients through a training step."""
        self._check(gates)
        given = {**(arrays or {}), **self._gates(self.stack, gates)}
        return self._call(self.stack, given, x, lengths, state, tree)

    def run(
        self,
        picks: Picks,
        x: Tensor,
        lengths: Tensor | None = None,
        state: State | None = None,
        tree: Tensor | None = None,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """The cell with these options. With `gates` each chosen option is multiplied by its gate, for its gradient."""
        if self.through and gates is None:
            return self.mix(self.one_hot(picks), x, lengths, state, tree)
        shell = self.path(picks, gated=gates is not None)
        own = self.arrays()
        given = {
            name: own[name] for name, _ in (*shell.named_parameters(), *shell.named_buffers()) if name in own
        }
        if gates is not None:
            self._check(gates)
            given |= self._gates(shell, gates)
        return self._call(shell, given, x, lengths, state, tree)

    def path(self, picks: Picks, gated: bool = False) -> Stack:
        """The model of a path, without memory of its own."""
        return self._shell(self.relaxed.path(picks, gated))

    def one_hot(self, picks: Picks) -> list[Tensor]:
        """Gates of 1 for these options; 0 for all others, in a hole that the path does not reach for every one."""
        like = next(self.stack.parameters())
        gates = [torch.zeros(len(hole.options), dtype=like.dtype) for hole in self.relaxed.holes]
        for hole, option in picks.items():
            gates[hole][option] = 1.0
        return [gate.to(like.device) for gate in gates]

    def arrays(self) -> dict[str, Tensor]:
        """Parameters and buffers of the mixture's stack by name."""
        return {**dict(self.stack.named_parameters()), **dict(self.stack.named_buffers())}

    def state_names(self, picks: Picks | None = None) -> tuple[str, ...]:
        """What the entries of the state are, of a path or of the mixture; a state fits where these are the same."""
        stack = self.stack if picks is None or self.through else self.path(picks)
        return stack.cell.state_names

    def copy_to(self, target: Stack | CellModule, picks: Picks) -> None:
        """Copy the weights of a path into a model, or the module, of `relaxed.derived(picks)` of the same sizes."""
        roles = self.relaxed.roles(picks)
        whole = isinstance(target, Stack)
        own = self.arrays()
        with torch.no_grad():
            for name, value in (*target.named_parameters(), *target.named_buffers()):
                value.copy_(own[self._own_name(name if whole else f"cell.{name}", roles)])

    # -- inside ---------------------------------------------------------------------------------

    def _stack(self, cell: Cell, backend: str) -> Stack:
        return Stack(cell, **self._sizes, **self._manner, backend=backend)  # type: ignore[arg-type]

    def _empty(self, cell: Cell) -> Stack:
        with torch.device("meta"):
            return self._stack(cell, self.path_backend).train(self.training)

    @staticmethod
    def _call(
        stack: Stack,
        given: Arrays,
        x: Tensor,
        lengths: Tensor | None,
        state: State | None,
        tree: Tensor | None,
    ) -> tuple[Tensor, State]:
        result = functional_call(stack, dict(given), (x,), {"lengths": lengths, "state": state, "tree": tree})
        return cast(tuple[Tensor, State], result)

    def _gates(self, stack: Stack, gates: Gates) -> dict[str, Tensor]:
        """The gates as arrays of a stack: one number for all heads, the same in every layer."""
        found = {}
        names = {
            f"{name}.w": (i, k) for i, hole in enumerate(self.relaxed.gates) for k, name in enumerate(hole)
        }
        for name, _ in stack.named_buffers():
            at = names.get(".".join(name.split(".")[-2:]))
            if at is not None:
                found[name] = gates[at[0]][at[1]].expand(self.heads)
        return found

    def _check(self, gates: Gates) -> None:
        shapes, wanted = [tuple(g.shape) for g in gates], [(len(h.options),) for h in self.relaxed.holes]
        if shapes != wanted:
            raise BuildError(f"the gates have one number per option, {wanted}; received {shapes}")

    @staticmethod
    def _own_name(name: str, roles: Mapping[str, str]) -> str:
        """The name in the mixture's stack of an array of a derived cell's stack."""
        head, _, array = name.rpartition(".")
        before, _, site = head.rpartition(".")
        role = roles.get(f"{site}.{array}")
        return name if role is None or not before.startswith("cell.") else f"{before}.{role}"

    def train(self, mode: bool = True) -> Supernet:
        """Set the mode of the mixture and of all paths."""
        super().train(mode)
        if "_shell" in self.__dict__:
            self._shell.cache_clear()
        return self
