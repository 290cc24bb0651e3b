"""CellModule: a cell as a torch module with the manners of nn.LSTM."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from grammar import Cell, CellBuildError, Sizes, canonical_arrays, weight_shapes
from nas.backends import FlexibleRunner, NewtonCount, NewtonRunner, Runner, Steps, choose, runner
from nas.errors import BuildError
from nas.ir import Program, Slot, compile_program, describe
from nas.nn.rows import (
    Layout,
    as_rows,
    check_batch,
    check_dtype,
    check_numbers,
    check_tokens,
    check_weights,
    looked_up,
    whole_number,
)
from nas.nn.weights import LayerWeights, array_shape

State = Tensor | tuple[Tensor, ...]
SOLVERS = ("exact", "newton")
_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128, torch.float16: torch.complex32}


class CellModule(nn.Module):
    """Layers of one cell, run over sequences. Made by `build`, which says what the arguments are.

    `y, state = m(x, state=None, lengths=None)` with x `[B, T, D]` (`[T, B, D]` without `batch_first`, `[T, D]` for one
    sequence, or a PackedSequence) and y `[B, T, H]` (twice H if bidirectional). `lengths` are those of the sequences,
    1 to T; what follows the end of a sequence is ignored in x and zero in y.

    The state is a tuple of the declared states in their order, then the buffers of `shift` and `conv`, each
    `[layers * directions, B, ...]`; a lone one is the bare tensor. It is that after each sequence's last step.

    `newton` counts what Newton's method did, with `solver="newton"`.
    """

    _kinds: tuple[str, ...] = ("time", "depth")
    _lead: tuple[int, ...] = ()  # axes of all weights, rows and states before their own: over candidates
    # what `_look_up` finds, and no copy has
    _found: tuple[str, ...] = ("_program", "_runners", "_shapes", "_slots")

    def __init__(
        self,
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
        solver: str = "exact",
    ) -> None:
        super().__init__()
        if not isinstance(cell, Cell):
            raise BuildError(
                f"a module is built from a Cell, as parse(text) gives it; received {type(cell).__name__}"
            )
        if cell.kind not in self._kinds:
            raise BuildError(f"cell {cell.name} is a tree cell: build(...) makes its module")
        input_size, hidden_size = (
            whole_number("input_size", input_size),
            whole_number("hidden_size", hidden_size),
        )
        num_layers, heads = whole_number("num_layers", num_layers), whole_number("heads", heads)
        key_size = None if key_size is None else whole_number("key_size", key_size)
        if num_layers < 1:
            raise BuildError(f"num_layers must be at least 1; received {num_layers}")
        if not _is_share(dropout):
            raise BuildError(f"dropout must be from 0 to 1; received {dropout!r}")
        self.cell = cell
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.bidirectional, self.dropout = batch_first, bidirectional, dropout
        self.backend, self.solver, self.newton = backend, solver, NewtonCount()
        if solver not in SOLVERS:
            raise BuildError(f"the solvers are {' and '.join(SOLVERS)}; received {solver!r}")
        choose(backend, cell)
        inner = hidden_size * self.directions
        widths = [input_size] + [inner] * (num_layers - 1)
        try:
            self.sizes = tuple(Sizes.of(width, hidden_size, heads, key_size) for width in widths)
            for layer, sizes in enumerate(self.sizes):
                _check_width(cell, sizes, layer)
                sizes.check(cell.graph)
        except CellBuildError as error:
            raise BuildError(f"cell {cell.name}: {error}") from None
        self.heads, self.key_size = heads, self.sizes[0].key_size
        self._look_up()
        _warn_of_dead_weights(cell)
        self._make_weights()
        self.reset_parameters()

    # -- weights ----------------------------------------------------------------------------

    def _make_weights(self) -> None:
        program = self.program
        self.layers = nn.ModuleList(LayerWeights(program, sizes, self._lead) for sizes in self.sizes)
        if self.bidirectional:
            self.reverse_layers = nn.ModuleList(
                LayerWeights(program, sizes, self._lead) for sizes in self.sizes
            )

    def _weights(self, layer: int, direction: int) -> LayerWeights:
        layers = self.reverse_layers if direction else self.layers
        return cast(LayerWeights, layers[layer])

    def _arrays(self, layer: int, direction: int) -> Sequence[Tensor]:
        """The arrays of one layer in one direction, in the order of `Program.arrays`."""
        return self._weights(layer, direction).arrays()

    def _learned(self, layer: int, direction: int, slot: int) -> Tensor | None:
        """The learned initial value of a slot, if there is one."""
        return self._weights(layer, direction).initial(slot)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, fixed ones too, from `generator` (default: torch's global one)."""
        for layer, sizes in enumerate(self.sizes):
            for direction in range(self.directions):
                self._weights(layer, direction).reset(self.program, sizes, generator)

    def canonical_weights(self, layer: int = 0, reverse: bool = False) -> dict[str, Tensor]:
        """The arrays of one layer under their canonical names (`grammar.canonical_arrays`), without those of dead code.

        Modules of cells with equal digests give equal outputs for equal arrays under these names. Complex arrays are
        real with a last axis of 2.
        """
        return canonical_arrays(self.cell, self._written(layer, reverse))

    def load_canonical_weights(
        self, weights: Mapping[str, Tensor], layer: int = 0, reverse: bool = False
    ) -> None:
        """Copy arrays under canonical names into one layer. Raises BuildError where names or shapes differ."""
        own = self.canonical_weights(layer, reverse)
        if own.keys() != weights.keys():
            raise BuildError(
                f"the canonical weights of {self.cell.name} are {', '.join(own)}; received {', '.join(weights)}"
            )
        for name, value in own.items():
            if value.shape != weights[name].shape:
                raise BuildError(
                    f"the canonical weight {name} has the shape {list(value.shape)}; "
                    f"received {list(weights[name].shape)}"
                )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(weights[name])

    def _written(self, layer: int, reverse: bool) -> dict[str, Tensor]:
        """The arrays of one layer, and its learned initial states, under the names of the text."""
        if not 0 <= layer < self.num_layers or (reverse and not self.bidirectional):
            half = " in reverse" if reverse else ""
            raise BuildError(
                f"there is no layer {layer}{half}: num_layers={self.num_layers}, {self.bidirectional=}"
            )
        sizes = self.sizes[layer]
        names = weight_shapes(
            self.cell,
            input_size=sizes.input_size,
            hidden_size=sizes.hidden_size,
            heads=sizes.heads,
            key_size=sizes.key_size,
        )
        slots = range(len(self.program.slots))
        learned = (self._learned(layer, int(reverse), slot) for slot in slots)
        values = [*self._arrays(layer, int(reverse)), *(value for value in learned if value is not None)]
        return dict(zip(names, values, strict=True))

    # -- facts ------------------------------------------------------------------------------

    @property
    def program(self) -> Program:
        """The compiled Program."""
        return self._program

    def _look_up(self) -> None:
        """Find what is shared by all modules of the cell: its Program, and what runs each layer."""
        self._program = compile_program(self.cell)
        arrays = self._program.arrays
        self._shapes = [[(*self._lead, *array_shape(a.spec, sizes)) for a in arrays] for sizes in self.sizes]
        slots, widest = self._program.slots, max(self.sizes, key=lambda sizes: sizes.input_size)
        self._slots = [[slot_shape(slot, sizes) for slot in slots] for sizes in (*self.sizes, widest)]
        self._runners = self._find_runners()

    def _find_runners(self) -> tuple[Runner, ...]:
        exact = tuple(runner(self.backend, self.cell, sizes) for sizes in self.sizes)
        if self.solver == "exact":
            return exact
        return tuple(
            NewtonRunner(self.cell, sizes, own, self.newton)
            for sizes, own in zip(self.sizes, exact, strict=True)
        )

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in self._found}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._look_up()

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the entries of the state are: declared states, then buffers such as `shift1`."""
        return tuple(slot.name for slot in self.program.slots)

    def extra_repr(self) -> str:
        """Cell and sizes, for print."""
        return (
            f"{self.cell.name}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, heads={self.heads}"
            f", key_size={self.key_size}, batch_first={self.batch_first}, bidirectional={self.bidirectional}"
            f", dropout={self.dropout}, backend={self.backend!r}"
            + ("" if self.solver == "exact" else f", solver={self.solver!r}")
        )

    # -- running ----------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        table: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Output and final state: see the class. Raises BuildError where a shape is wrong.

        With `table` [V, D] x is of tokens, `[B, T]` int64, and the cell sees `table[x]`. Where a backend can, maps of x
        are then done for the rows of the table instead of those of all steps.
        """
        calls = self._runners
        flexible = all(isinstance(call, FlexibleRunner) for call in calls)
        if table is not None:
            return self._of_tokens(x, state, lengths, table, flexible)
        layout, rows = as_rows(x, lengths, self.batch_first, self.input_size, flexible)
        rows, final = self._run(calls, rows, layout.steps, self._state_in(state, layout))
        return layout.restore(rows), self._state_out(final, layout)

    def _of_tokens(
        self,
        x: Tensor | PackedSequence,
        state: State | None,
        lengths: Tensor | Sequence[int] | None,
        table: Tensor,
        flexible: bool,
    ) -> tuple[Tensor | PackedSequence, State]:
        """`forward` for rows of a table."""
        x = check_tokens(x, self.batch_first)
        if table.dim() != 2 or table.shape[1] != self.input_size:
            raise BuildError(
                f"table must have the shape [V, {self.input_size}]; received {list(table.shape)}"
            )
        if not flexible or self.bidirectional or self.cell.kind != "time":
            return self.forward(looked_up(x, table, lengths, self.batch_first), state, lengths)
        layout, tokens = as_rows(x.unsqueeze(-1), lengths, self.batch_first, 1, flexible)
        state_in = self._state_in(state, layout)
        rows, final = self._run(self._runners, table, layout.steps, state_in, tokens.flatten())
        return layout.restore(rows), self._state_out(final, layout)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step: x `[B, D]` and a state to y `[B, H]` and the next state."""
        self._check_stepwise("step")
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise BuildError(f"step takes x of shape [B, {self.input_size}]; received {list(x.shape)}")
        layout = Layout(Steps.same(x.shape[0], 1))
        rows, final = self._run(self._runners, x, layout.steps, self._state_in(state, layout))
        return rows, self._state_out(final, layout)

    def init_state(self, batch: int) -> State:
        """The state before the first step for a batch of sequences, where it does not depend on them."""
        self._check_stepwise("init_state")
        check_batch(batch)
        layout, nothing = Layout(Steps.same(batch, 1)), [None] * len(self.program.slots)
        values = [
            self._start(nothing, layer, direction, self._like(), layout.steps)
            for layer in range(self.num_layers)
            for direction in range(self.directions)
        ]
        return self._state_out([[v for v in part if v is not None] for part in values], layout)

    def _check_stepwise(self, name: str) -> None:
        if self.cell.kind != "time":
            raise BuildError(f"{name}() is for cells over time; {self.cell.name} is a {self.cell.kind} cell")
        if self.bidirectional and name == "step":
            raise BuildError("step() runs forward in time; this module is bidirectional")

    def _like(self, x: Tensor | None = None) -> Tensor:
        """Any array, for its dtype and device; of a cell without arrays, x."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor
        return torch.empty(0) if x is None else x

    def _run(
        self,
        calls: Sequence[Runner],
        rows: Tensor,
        steps: Steps,
        state: _Parts,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """All layers. Returns the output's rows and the final value of each slot, by layer and direction.

        With `tokens`, which only one direction has, the input's rows are those of the table `rows`.
        """
        final = []
        for layer, call in enumerate(calls):
            outputs = []
            for direction in range(self.directions):
                place = layer * self.directions + direction
                weights = self._arrays(layer, direction)
                check_weights(weights, self._shapes[layer], self.program)
                if not place:
                    check_dtype(rows, weights, self.program)
                if isinstance(call, FlexibleRunner) and (steps.even or not direction):
                    start = self._start(state[place], layer, direction, rows, steps, known=True)
                    looked_up = None if layer else tokens
                    y, after = call(rows, weights, start, steps, reverse=bool(direction), tokens=looked_up)
                    outputs.append(y)
                else:
                    given = self._reversed(rows, steps) if direction else rows
                    before = [
                        v for v in self._start(state[place], layer, direction, given, steps) if v is not None
                    ]
                    y, after = call(given, weights, before, steps)
                    outputs.append(self._reversed(y, steps) if direction else y)
                    if self.cell.kind == "depth":
                        after = tuple(steps.reverse(value) if direction else value for value in after)
                final.append(list(after))
            rows = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if self.dropout and layer < self.num_layers - 1:
                rows = F.dropout(rows, self.dropout, self.training)
        return rows, final

    def _reversed(self, rows: Tensor, steps: Steps) -> Tensor:
        return steps.reverse(rows.transpose(0, 1)).transpose(0, 1) if self._lead else steps.reverse(rows)

    def _start(
        self,
        given: Sequence[Tensor | None],
        layer: int,
        direction: int,
        x: Tensor,
        steps: Steps,
        known: bool = False,
    ) -> list[Tensor | None]:
        """The value of each slot before the first step: what the caller gave, or what the text says.

        Where that is a number, and `known` by what runs the layer, None.
        """
        values: list[Tensor | None] = []
        depth = self.cell.kind == "depth"
        for s, slot in enumerate(self.program.slots):
            value = given[s]
            if value is not None and depth:
                value = steps.unpad(value)
                value = steps.reverse(value) if direction else value
            elif value is None and not (known and isinstance(slot.init, float)):
                rows = steps.rows if depth else steps.batch
                shape = (*self._lead, rows, *self._slots[layer][s])
                value = self._initial(slot, self._learned(layer, direction, s), shape, x)
            values.append(value)
        return values

    def _initial(self, slot: Slot, learned: Tensor | None, shape: tuple[int, ...], x: Tensor) -> Tensor:
        if slot.init == "x":
            return x
        if learned is not None:
            value = torch.view_as_complex(learned) if slot.type.is_complex else learned
            return value.unsqueeze(len(self._lead)).expand(shape)
        like = self._like(x)
        # a table, because torch.compile does not trace `to_complex`
        dtype = _COMPLEX[like.dtype] if slot.type.is_complex else like.dtype
        return torch.full(shape, float(slot.init), dtype=dtype, device=like.device)

    # -- states -----------------------------------------------------------------------------

    def _state_in(self, state: State | None, layout: Layout) -> _Parts:
        """The value of each slot for each layer and direction; None where it begins as the text says."""
        slots, places = self.program.slots, self.num_layers * self.directions
        if state is None:
            return [[None] * len(slots)] * places
        axis = len(self._lead)  # of layers and directions
        given = (state,) if isinstance(state, Tensor) else state
        if not isinstance(given, Sequence):
            raise BuildError(
                f"a state is a tensor, or a tuple of them; received a {type(state).__name__} for {self.cell.name}"
            )
        if len(given) != len(slots) or not all(isinstance(value, Tensor) for value in given):
            names = ", ".join(self.state_names)
            raise BuildError(f"the state of {self.cell.name} is ({names}); received {len(given)} values")
        parts: list[list[Tensor | None]] = [[] for _ in range(places)]
        for s, (slot, whole) in enumerate(zip(slots, given, strict=True)):
            value = whole.unsqueeze(axis + 1) if layout.single else whole
            own = self._whole_shape(s, layout.steps)
            if tuple(value.shape) != own:
                wanted = [n for k, n in enumerate(own) if k != axis + 1 or not layout.single]
                raise BuildError(
                    f"the state {slot.name} must have the shape {wanted}; received {list(whole.shape)}"
                )
            check_numbers(slot, value)
            if layout.order is not None:
                value = value.index_select(axis + 1, layout.order)
            for place, part in enumerate(value.unbind(axis)):
                width = self._slot_width(slot, place)
                parts[place].append(part if width is None else part[..., :width])
        return parts

    def _state_out(self, final: list[list[Tensor]], layout: Layout) -> State:
        """The caller's form of the slots' final values."""
        whole, axis = [], len(self._lead)
        for s, slot in enumerate(self.program.slots):
            values = [part[s] for part in final]
            if self.cell.kind == "depth":
                values = [layout.steps.pad(value) for value in values]
            if slot.type.kind == "in":  # as wide as the widest layer's input
                widest = max(value.shape[-1] for value in values)
                values = [
                    value if value.shape[-1] == widest else F.pad(value, (0, widest - value.shape[-1]))
                    for value in values
                ]
            value = torch.stack(values, axis) if len(values) > 1 else values[0].unsqueeze(axis)
            if layout.inverse is not None:
                value = value.index_select(axis + 1, layout.inverse)
            whole.append(value.squeeze(axis + 1) if layout.single else value)
        return whole[0] if len(whole) == 1 else tuple(whole)

    def _whole_shape(self, s: int, steps: Steps) -> tuple[int, ...]:
        places = self.num_layers * self.directions
        if self.cell.kind == "depth":
            return (places, steps.batch, steps.count, self.hidden_size)
        return (*self._lead, places, steps.batch, *self._slots[-1][s])

    def _slot_width(self, slot: Slot, place: int) -> int | None:
        return self.sizes[place // self.directions].input_size if slot.type.kind == "in" else None


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


_Parts = Sequence[Sequence[Tensor | None]]


def slot_shape(slot: Slot, sizes: Sizes) -> tuple[int, ...]:
    """The shape of a slot without layers and batch."""
    return ((slot.steps,) if slot.steps else ()) + sizes.shape(slot.type)


def _check_width(cell: Cell, sizes: Sizes, layer: int) -> None:
    """Raise BuildError where x meets something as wide as the state, and is not."""
    if not cell.graph.equal_width or sizes.input_size == sizes.hidden_size:
        return
    reason = _meeting(compile_program(cell, "lower"))
    where = "" if layer == 0 else f" in layer {layer} (whose input is the output of the layer before)"
    raise BuildError(
        f"cell {cell.name} needs input_size == hidden_size, because of {reason}; "
        f"received {sizes.input_size} and {sizes.hidden_size}{where}"
    )


def _meeting(program: Program) -> str:
    """The place in a cell where x is used as if it were as wide as the state."""
    for k, instr in enumerate(program.instrs):
        kinds = [program.instrs[a].type.kind for a in instr.args]
        if "in" in kinds and instr.type.kind != "in" and instr.op not in ("lin", "stack"):
            return f"`{describe(program, k)}`"
    for slot in program.slots:
        if slot.init == "x":
            return f"`state {slot.name}: {slot.type} = x`"
        if program.instrs[slot.next].type.kind == "in" != slot.type.kind:
            return f"`{slot.name}' = {describe(program, slot.next)}`"
    return f"`out {describe(program, program.out)}`"


def _warn_of_dead_weights(cell: Cell) -> None:
    nodes, _ = cell.graph.live()
    live = {cell.graph.nodes[k].weight for k in nodes}
    dead = [w.site for k, w in enumerate(cell.graph.weights) if k not in live]
    if dead:
        warnings.warn(
            f"the output of cell {cell.name} does not depend on the weights of {', '.join(dead)}: "
            "they stay in the module and get no gradient from it",
            stacklevel=4,
        )
