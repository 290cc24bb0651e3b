"""From a cell to a module."""

from __future__ import annotations

from grammar import Cell
from nas.errors import BuildError
from nas.nn.module import CellModule
from nas.nn.trees import TreeModule


def build(
    cell: Cell,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    heads: int = 1,
    key_size: int | None = None,
    batch_first: bool = True,
    bidirectional: bool = False,
    dropout: float = 0.0,
    backend: str = "auto",
    policy: str | None = None,
    solver: str = "exact",
) -> CellModule:
    """A module that runs `cell` over sequences, used like nn.LSTM: see CellModule for calls and states.

    `heads` N divides `hidden_size` H; `key_size` K is by default H / N. Each of `num_layers` layers has its own
    weights and reads the output of the one before, after `dropout`. `backend` is "auto" or a name of
    `nas.backends.backend_names()`. What is written is built: weights that the output does not see stay in the module,
    and one warning names them.

    `solver="newton"`: all steps at once by Newton's method and parallel scans, where every recurrence of the cell is
    elementwise; a call that does not converge takes the exact path of `backend`. See docs/newton.md and `CellModule`.

    Generated C is for float32 on a CPU, Triton for a CUDA device; tensors that are neither go through the reference.
    torch.compile(fullgraph=True) and torch.export (of any batch and number of steps) trace calls with and without a
    state, and `step`; not `lengths`, whose values they would have to know. Compiled backends have first gradients
    alone, no transforms of torch.func and no forward mode: where these are wanted they are refused, and the reference
    has them.

    A tree cell gives a TreeModule, which says what `policy` is (default "given"); it has one layer and no dropout.

    Raises BuildError where sizes do not fit the cell or each other, and where the backend is unknown, does not work
    on this machine, or cannot run the cell.
    """
    if getattr(cell, "kind", None) == "tree":
        if solver != "exact":
            raise BuildError(
                f"a solver is for cells over time, and {cell.name} is a tree cell; received {solver!r}"
            )
        if num_layers != 1 or bidirectional or dropout:
            raise BuildError(
                f"tree cell {cell.name} has one layer, no direction and no dropout; "
                f"received num_layers={num_layers}, bidirectional={bidirectional}, dropout={dropout}"
            )
        return TreeModule(
            cell,
            input_size,
            hidden_size,
            heads,
            key_size,
            batch_first,
            backend,
            "given" if policy is None else policy,
        )
    if policy is not None:
        raise BuildError(f"a policy is for tree cells; received {policy!r}")
    return CellModule(
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
        solver,
    )
