"""The parameters of one layer in one direction, under the names that the text gives them, and how they start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from grammar import KNOWN_MATRICES, CellBuildError, Sizes, Value, Weight, WeightSpec, known_matrix
from nas.errors import BuildError
from nas.ir import Program


def array_shape(spec: WeightSpec, sizes: Sizes) -> tuple[int, ...]:
    """The shape of an array of a weight; a complex one has its parts on a last axis of 2."""
    return (*(sizes.at(extent) for extent in spec.shape), *((2,) if spec.complex else ()))


class Site(nn.Module):
    """A named group of arrays: those of one weight, or the learned initial states."""


class LayerWeights(nn.Module):
    """One `Site` per weight of the program, named as in the text: `i.w0`, `i.w1`, `i.b`.

    Weights that the text calls fixed are buffers: stored, never trained. Complex arrays are real with a last axis of 2.
    `init.h` is the learned initial value of a state h. A name that means something to torch gets an underscore.
    `lead`: axes before those of each array, over candidates.
    """

    def __init__(self, program: Program, sizes: Sizes, lead: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._names = []  # of each array: the site's and its own
        for weight in program.weights:
            site = self._site(weight.site)
            for spec in weight.specs:
                array = torch.empty((*lead, *array_shape(spec, sizes)))
                if weight.fixed:
                    self._modules[site].register_buffer(spec.role, array)  # type: ignore[union-attr]
                else:
                    self._modules[site].register_parameter(spec.role, nn.Parameter(array))  # type: ignore[union-attr]
                self._names.append((site, spec.role))
        self._initial: dict[int, tuple[str, str]] = {}
        learned = [s for s, slot in enumerate(program.slots) if slot.init == "learned"]
        if learned:
            site = self._site("init")
            for s in learned:
                name, shape = program.slots[s].name, [*lead, *sizes.shape(program.slots[s].type)]
                value = torch.empty([*shape, 2] if program.slots[s].type.is_complex else shape)
                self._initial[s] = (site, self._add_initial(site, name, value))

    def arrays(self) -> list[Tensor]:
        """Every array in the order of `Program.arrays`."""
        return [getattr(self._modules[site], role) for site, role in self._names]

    def initial(self, slot: int) -> Tensor | None:
        """The learned initial value of a slot, without batch; None where it is not learned."""
        if slot not in self._initial:
            return None
        site, name = self._initial[slot]
        value: Tensor = getattr(self._modules[site], name)
        return value

    def reset(
        self, program: Program, sizes: Sizes, generator: torch.Generator | None, at: tuple[int, ...] = ()
    ) -> None:
        """Draw all arrays anew; those of one candidate, `at` its place."""
        with torch.no_grad():
            for array, value in zip(program.arrays, self.arrays(), strict=True):
                if not value.is_meta:
                    start(value[at], program.weights[array.weight], array.spec, sizes, generator)
            for slot in self._initial:
                value = self.initial(slot)  # type: ignore[assignment]
                value[at].zero_()

    def _site(self, name: str) -> str:
        while hasattr(self, name):
            name += "_"
        self.add_module(name, Site())
        return name

    def _add_initial(self, site: str, name: str, value: Tensor) -> str:
        holder = self._modules[site]
        assert holder is not None
        while hasattr(holder, name):
            name += "_"
        holder.register_parameter(name, nn.Parameter(value))
        return name


def start(
    value: Tensor, weight: Weight, spec: WeightSpec, sizes: Sizes, generator: torch.Generator | None
) -> None:
    """Give an array its first values, in place: as the text says, or U(-s, s) with s = 1 / sqrt(fan in).

    Without `init=` a `diag` is drawn from U(-1, 1) and a `param` is 0; with it, biases are 0.
    """
    if weight.init is not None:
        if spec.role.startswith("b"):
            value.zero_()
        else:
            _as_told(value, weight, spec, generator)
    elif weight.op == "param":
        value.zero_()
    else:
        bound = 1.0 if weight.op == "diag" else 1 / math.sqrt(sizes.at(spec.fan_in))
        value.uniform_(-bound, bound, generator=generator)


def _as_told(value: Tensor, weight: Weight, spec: WeightSpec, generator: torch.Generator | None) -> None:
    kind, numbers = _reading(weight.init)
    if kind == "number" or kind in ("zeros", "ones"):
        value.zero_()
        (value[..., 0] if spec.complex else value).fill_(numbers[0] if numbers else float(kind == "ones"))
    elif kind == "uniform":
        value.uniform_(numbers[0], numbers[1], generator=generator)
    elif kind == "normal":
        value.normal_(0.0, numbers[0], generator=generator)
    elif kind == "log_uniform":
        if min(numbers) <= 0:
            raise BuildError(
                f"log_uniform(a, b) of the weight {weight.site} has 0 < a, b; received {numbers}"
            )
        value.uniform_(math.log(numbers[0]), math.log(numbers[1]), generator=generator).exp_()
    elif kind == "permutation":
        _permutation(value, weight, spec, generator)
    elif kind in KNOWN_MATRICES:
        _known(value, weight, spec, kind, numbers[0])
    else:
        _orthogonal(value, weight, spec, numbers[0], generator)


def _reading(init: Value | None) -> tuple[str, list[float]]:
    if isinstance(init, tuple):
        return str(init[0]), [float(n) for n in init[1:]]
    if isinstance(init, str):
        return init, []
    assert init is not None
    return "number", [float(init)]


def _known(value: Tensor, weight: Weight, spec: WeightSpec, kind: str, number: float) -> None:
    """A matrix that its shape and one number determine, in the precision of `value`."""
    shape = value.shape[:-1] if spec.complex else value.shape
    try:
        matrix = known_matrix((kind, number), shape, spec.complex, f"the weight {weight.site}")
    except CellBuildError as error:
        raise BuildError(str(error)) from None
    made = torch.tensor(matrix)
    value.copy_(torch.view_as_real(made) if spec.complex else made)


def _permutation(value: Tensor, weight: Weight, spec: WeightSpec, generator: torch.Generator | None) -> None:
    """One 1 in each row and column of a matrix; each block by itself."""
    matrix = value[..., 0] if spec.complex else value
    if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise BuildError(
            f"permutation is for a matrix [n, n]; the weight {weight.site} has shape {tuple(matrix.shape)}"
        )
    places = torch.rand(matrix.shape[:-1], generator=generator, device=value.device).argsort(-1)
    value.zero_()
    matrix.scatter_(-1, places.unsqueeze(-1), 1.0)


def _orthogonal(
    value: Tensor, weight: Weight, spec: WeightSpec, gain: float, generator: torch.Generator | None
) -> None:
    """Orthogonal (complex: unitary) rows or columns, whichever are fewer, times `gain`; each block by itself."""
    if len(spec.shape) < 2:
        raise BuildError(
            f"orthogonal(...) is for matrices; the weight {weight.site} of {weight.op} is a vector"
        )
    whole = torch.view_as_complex(value) if spec.complex else value
    for matrix in whole.view(-1, *whole.shape[-2:]):
        rows, columns = matrix.shape
        drawn = torch.randn(
            max(rows, columns),
            min(rows, columns),
            generator=generator,
            dtype=matrix.dtype,
            device=matrix.device,
        )
        q, r = torch.linalg.qr(drawn)
        diagonal = r.diagonal()
        q = q * (diagonal / diagonal.abs())
        matrix.copy_(gain * (q if rows >= columns else q.mT))
