"""What every cell of the zoo is held against: a plain loop over its published equations, in float64.

A `Case` names the cell, its plain form, and which array of the text is which published one; `agree` compares
outputs, final states and every gradient, from random initial states and from those that the text declares.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from grammar import Cell, zoo
from nas.nn import CellModule, build

BATCH, STEPS, HIDDEN = 3, 7, 8
TOLERANCE = 1e-8
States = dict[str, Tensor]


class Weights:
    """The published arrays by name, as attributes, and the number of heads."""

    def __init__(self, arrays: dict[str, Tensor], heads: int) -> None:
        self.arrays, self.heads = arrays, heads

    def __getattr__(self, name: str) -> Tensor:
        return self.arrays[name]

    def lin(self, x: Tensor, *names: str) -> Tensor:
        """x times the transpose of the first array, plus the second, if there is one."""
        arrays = [self.arrays[name] for name in names]
        return F.linear(x, arrays[0], *arrays[1:])

    def split(self, a: Tensor) -> Tensor:
        """`[B, ...]` to `[B, N, ...]`: the share of each head."""
        return a.reshape(*a.shape[:-1], self.heads, -1)


Step = Callable[[Weights, Tensor, States], tuple[Tensor, States]]
Run = Callable[[Weights, Tensor, States], tuple[Tensor, States]]


@dataclass(frozen=True)
class Case:
    """`step` takes x `[B, D]`, or `run` x `[B, T, D]`, and the states; both give the output and the new states.

    `arrays` pairs published names with `site.role` of the text; `ones` are its fixed vectors of ones, which no
    equation has. Those in `kept` are not drawn anew: what they begin as is part of the equations. `states` are the
    declared ones and the buffers, in order; those in `positive` start above 0.
    """

    arrays: str
    step: Step | None = None
    run: Run | None = None
    states: str = "h"
    positive: str = ""
    ones: str = ""
    kept: str = ""
    inputs: int = 5
    heads: int = 2
    key: int | None = 3
    spread: float = 0.5  # of the arrays: long recursions amplify rounding where it is large
    start: bool = True  # whether it can start from a given state

    def plain(self, w: Weights, x: Tensor, states: States) -> tuple[Tensor, States]:
        """The plain form over a whole sequence."""
        if self.run is not None:
            return self.run(w, x, states)
        assert self.step is not None
        outputs = []
        for x_t in x.unbind(1):
            y, states = self.step(w, x_t, states)
            outputs.append(y)
        return torch.stack(outputs, 1), states


def agree(name: str, case: Case) -> None:
    """The zoo's cell and its plain form give the same, in every number and every gradient."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    cell = zoo(name)
    module = build(
        cell, case.inputs, HIDDEN, heads=case.heads, key_size=case.key, backend="reference"
    ).double()
    module.reset_parameters(generator)  # in double precision, which what begins as a known matrix needs
    arrays = _arrays(module, cell, case, generator)
    names = dict(pair.split("=") for pair in case.arrays.split())
    assert sorted(names.values()) == sorted(arrays), "each array of the text is named once"
    copies = {own: arrays[written].detach().clone().requires_grad_() for own, written in names.items()}
    x = torch.randn(BATCH, STEPS, case.inputs, dtype=torch.float64, generator=generator)
    before = _declared(module, cell)
    assert list(before) == case.states.split()
    named = {own: arrays[written] for own, written in names.items()}
    weights = Weights(copies, case.heads)
    learned = {written.removeprefix("init."): own for own, written in names.items() if "init." in written}

    def begins() -> States:
        """The declared states, learned ones from the copies."""
        found = {state: copies[own] for state, own in learned.items()}
        return {
            name: (torch.view_as_complex(found[name]) if value.is_complex() else found[name]).expand_as(value)
            if name in found
            else value
            for name, value in before.items()
        }

    compare(
        _results(lambda x, _: _call(module, x, None), x, {}, named),
        _results(lambda x, _: case.plain(weights, x, begins()), x, {}, copies),
    )
    if case.start:
        positive = case.positive.split()
        drawn = {name: _drawn(value, name in positive, generator) for name, value in before.items()}
        compare(
            _results(lambda x, states: _call(module, x, states), x, drawn, named),
            _results(lambda x, states: case.plain(weights, x, states), x, drawn, copies),
        )


def compare(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    """Every entry of `ours` is that of `plain`; fixed arrays have no gradient here."""
    assert ours.keys() <= plain.keys()
    for what, value in ours.items():
        assert bool(torch.isfinite(torch.view_as_real(value) if value.is_complex() else value).all()), what
        wanted = plain[what]
        assert value.shape == wanted.shape, what
        error = float((value - wanted).abs().div(1 + wanted.abs()).max())
        assert error < TOLERANCE, f"{what} is off by {error:.1e}"


def _arrays(module: CellModule, cell: Cell, case: Case, generator: torch.Generator) -> dict[str, Tensor]:
    """The module's arrays by `site.role`, drawn anew; those of ones are checked and left out."""
    found = {key.removeprefix("layers.0."): value for key, value in module.state_dict(keep_vars=True).items()}
    expected = {f"{w.site}.{spec.role}" for w in cell.graph.weights for spec in w.specs}
    assert set(found) == expected | {f"init.{s.name}" for s in cell.states if s.init == "learned"}
    for written in case.ones.split():
        ones = found.pop(written)
        assert not ones.requires_grad
        assert bool((ones == 1).all())
    with torch.no_grad():
        for value in (value for written, value in found.items() if written not in case.kept.split()):
            value.copy_(case.spread * torch.randn(value.shape, dtype=value.dtype, generator=generator))
    return found


def _declared(module: CellModule, cell: Cell) -> States:
    """The states as they start by the text, the buffers at 0; a depth cell's start with x."""
    if cell.kind != "time":
        return {}
    start = module.init_state(BATCH)
    values = (start,) if isinstance(start, Tensor) else start
    own = [0.0 if state.init == "learned" else float(state.init) for state in cell.states] + [0.0] * (
        len(values) - len(cell.states)
    )
    return {
        name: torch.full_like(value[0], number)
        for name, value, number in zip(module.state_names, values, own, strict=True)
    }


def _drawn(like: Tensor, positive: bool, generator: torch.Generator) -> Tensor:
    value = torch.randn(like.shape, dtype=like.dtype, generator=generator)
    return value.abs() + 0.5 if positive else value


def _call(module: CellModule, x: Tensor, states: States | None) -> tuple[Tensor, States]:
    given = None if states is None else tuple(value[None] for value in states.values())
    y, after = module(x, given)
    values = (after,) if isinstance(after, Tensor) else after
    return y, {name: value[0] for name, value in zip(module.state_names, values, strict=True)}


def _results(
    call: Callable[[Tensor, States], tuple[Tensor, States]],
    x: Tensor,
    states: States,
    arrays: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Output, final states, and the gradients of a fixed random functional of them all."""
    x = x.clone().requires_grad_()
    states = {name: value.clone().requires_grad_() for name, value in states.items()}
    y, after = call(x, states)
    results = {"y": y} | {f"final {name}": value for name, value in after.items()}
    loss = torch.zeros((), dtype=torch.float64)
    for value in results.values():
        flat = torch.view_as_real(value) if value.is_complex() else value
        weight = torch.linspace(-1, 1, flat.numel(), dtype=torch.float64).mul(37).cos().view(flat.shape)
        loss = loss + (flat * weight).sum()
    learned = {name: value for name, value in arrays.items() if value.requires_grad}
    inputs = {"x": x} | {f"initial {name}": value for name, value in states.items()} | learned
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    gradients = {f"gradient of {name}": value for name, value in zip(inputs, found, strict=True)}
    return {name: value.detach() for name, value in (results | gradients).items()}
