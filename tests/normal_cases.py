"""Examples on which normal programs are compared with the reference backend: inputs, weights and initial states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from normal_runner import Forward, Machine, run_forward
from strategies import HEADS, HIDDEN, input_size, key_size
from test_nas_backends_conformance import ODD
from torch import Tensor

from grammar import Cell, Sizes, init_weights, parse, zoo, zoo_names
from nas.backends import Steps, runner
from nas.ir import Normal, Place, Program, compile_program, normal_cell
from search_spaces import load_space, space_names

TIME = [name for name in zoo_names() if zoo(name).kind == "time"]
ODD_TIME = [cell for text in ODD if (cell := parse(f"cell odd {{ {text} }}")).kind == "time"]


@dataclass(frozen=True)
class Case:
    """One cell with everything it is run on, in float64; sequences differ in length, the longest comes first."""

    cell: Cell
    sizes: Sizes
    program: Program
    steps: Steps
    x: Tensor  # [rows, D]
    weights: tuple[Tensor, ...]  # in the order of the program's arrays, complex ones as [..., 2]
    state: tuple[Tensor, ...]  # [B, *shape] or [B, steps, *shape] for each of the program's slots

    @property
    def normal(self) -> Normal:
        """The cell's normal form."""
        return normal_cell(self.cell)


def case(cell: Cell, lengths: Sequence[int] = (5, 3, 1), seed: int = 0) -> Case:
    """An example for a time cell."""
    rng = np.random.default_rng(seed)
    sizes = sizes_of(cell)
    program = compile_program(cell)
    weights = arrays(cell, program, sizes, rng)
    steps = Steps([sum(length > t for length in lengths) for t in range(lengths[0])])
    state = tuple(_start(program, s, sizes, len(lengths), rng) for s in range(len(program.slots)))
    x = torch.from_numpy(rng.standard_normal((steps.rows, sizes.input_size)))
    return Case(cell, sizes, program, steps, x, tuple(weights), state)


def sizes_of(cell: Cell) -> Sizes:
    """The small sizes at which a cell can be built."""
    return Sizes.of(input_size(cell), HIDDEN, HEADS, key_size(cell))


def arrays(cell: Cell, program: Program, sizes: Sizes, rng: np.random.Generator) -> list[Tensor]:
    """Arrays in the order of the program, some way from where they start."""
    drawn = init_weights(
        cell, rng, input_size=sizes.input_size, hidden_size=HIDDEN, heads=HEADS, key_size=sizes.key_size
    )
    weights = []
    for array in program.arrays:
        value = drawn[f"{program.weights[array.weight].site}.{array.spec.role}"]
        noisy = torch.from_numpy(value + 0.1 * rng.standard_normal(value.shape))
        weights.append(torch.view_as_real(noisy).clone() if array.spec.complex else noisy)
    return weights


def _start(program: Program, s: int, sizes: Sizes, batch: int, rng: np.random.Generator) -> Tensor:
    """A slot's value before the first step: some way from where it starts."""
    slot = program.slots[s]
    shape = (batch, *((slot.steps,) if slot.steps else ()), *sizes.shape(slot.type))
    init = 0.0 if isinstance(slot.init, str) else slot.init
    if math.isinf(init):
        return torch.full(shape, init, dtype=torch.float64)
    value = init + 0.5 * torch.from_numpy(rng.standard_normal(shape))
    return (
        torch.complex(value, 0.5 * torch.from_numpy(rng.standard_normal(shape)))
        if slot.type.is_complex
        else value
    )


def real(value: Tensor) -> Tensor:
    """A value as real numbers, complex ones `[..., 2]`."""
    return torch.view_as_real(value) if value.is_complex() else value


def part(value: Tensor, place: Place) -> Tensor:
    """What of a slot of the program is one slot of its normal form."""
    if place.step >= 0:
        return value[:, place.step]
    return {"": value, "re": value.real, "im": value.imag}[place.part] if value.is_complex() else value


def parts(values: Sequence[Tensor], normal: Normal) -> list[Tensor]:
    """The slots of a normal form, from those of its program."""
    return [part(values[place.slot], place) for place in normal.slots]


def reference(example: Case) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output rows and final slots of the reference backend."""
    run = runner("reference", example.cell, example.sizes)
    return run(example.x, list(example.weights), list(example.state), example.steps)


def interpreted(example: Case) -> Forward:
    """A run of the normal form."""
    machine = Machine(example.normal.program, example.sizes, example.weights)
    x = list(torch.split(example.x, list(example.steps.sizes)))
    return run_forward(machine, x, parts(example.state, example.normal))


def sampled(space: str, count: int, seed: int = 0) -> list[Cell]:
    """Random time cells of a space."""
    rng = np.random.default_rng(seed)
    return [cell for _ in range(count) if (cell := load_space(space).sample(rng)).kind == "time"]


SPACES = [name for name in space_names() if name not in ("tree", "depth")]
