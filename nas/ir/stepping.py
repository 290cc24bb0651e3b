"""One step of a normal program in NumPy, at a random point, for many states at once: what checks of it run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grammar import CellBuildError, Sizes, Type
from nas.ir.builder import BINARY, UNARY, number_in, shape_in
from nas.ir.program import Instr, Program

Array = NDArray[np.float64]


def fitting_sizes(program: Program, key_size: int = 4) -> Sizes:
    """Small sizes with two heads at which all weights have whole shapes, K = V and D = H.

    Raises CellBuildError where there are none.
    """
    for value_size in range(key_size, 65):
        sizes = Sizes.of(2 * value_size, 2 * value_size, 2, value_size)
        try:
            for array in program.arrays:
                for extent in array.spec.shape:
                    sizes.at(extent)
        except CellBuildError:
            continue
        return sizes
    raise CellBuildError(f"no size up to 128 fits the blocks of {program.name}")


class Step:
    """The slots after one step, as a function of the slots before it; all else is drawn once."""

    def __init__(self, program: Program, sizes: Sizes, rng: np.random.Generator) -> None:
        self.program, self.sizes, self.rng = program, sizes, rng
        self.fixed: dict[Instr, Array] = {}
        self.arrays = {(a.weight, a.spec.role): self._array(k) for k, a in enumerate(program.arrays)}

    def start(self) -> list[Array]:
        """Random slots, `[1, *shape]`."""
        return [self.rng.standard_normal((1, *shape_in(s.type, self.sizes))) for s in self.program.slots]

    def __call__(self, slots: Sequence[Array]) -> list[Array]:
        """The slots `[rows, *shape]` after a step from slots `[rows, *shape]`."""
        rows = len(slots[0])
        values: dict[int, Array] = {}
        with np.errstate(all="ignore"):
            for k in self._order:
                instr = self.program.instrs[k]
                args = [values[a] for a in instr.args]
                values[k] = slots[instr.slot] if instr.op == "state" else self._apply(instr, args)
        made = [values[slot.next] for slot in self.program.slots]
        shapes = [(rows, *shape_in(slot.type, self.sizes)) for slot in self.program.slots]
        return [np.broadcast_to(a, shape) for a, shape in zip(made, shapes, strict=True)]

    @cached_property
    def _order(self) -> list[int]:
        needed: set[int] = set()
        todo = [slot.next for slot in self.program.slots]
        while todo:
            k = todo.pop()
            if k not in needed:
                needed.add(k)
                todo.extend(self.program.instrs[k].args)
        return sorted(needed)

    def _array(self, index: int) -> Array:
        """Maps of the size that keeps values, other arrays between 0.1 and 0.9: most functions are defined there."""
        array = self.program.arrays[index]
        shape = tuple(self.sizes.at(extent) for extent in array.spec.shape)
        shape = (*shape, 2) if array.spec.complex else shape
        if self.program.weights[array.weight].op == "lin" and array.spec.role != "b":
            return self.rng.standard_normal(shape) / math.sqrt(self.sizes.at(array.spec.fan_in))
        return self.rng.uniform(0.1, 0.9, shape)

    # ---- one instruction ------------------------------------------------------------------

    def _apply(self, instr: Instr, args: Sequence[Array]) -> Array:
        """Values have an axis of rows in front, of length 1 where they do not depend on the slots."""
        if instr.op in UNARY:
            return np.asarray(
                np.vectorize(math.erf)(args[0]) if instr.op == "erf" else UNARY[instr.op](*args)
            )
        if instr.op in BINARY:
            return np.asarray(_PLAIN[instr.op](*args))
        if instr.op == "num":
            return np.full(1, number_in(instr.attr("value"), instr.attr("over"), self.sizes))
        if instr.op == "param":
            return self._own(instr).reshape((1, *shape_in(instr.type, self.sizes)))
        if instr.op == "lin":
            return self._lin(instr, args[0])
        if instr.op in ("tokey", "toval", "outer", "read", "readt"):
            return self._matrix(instr.op, args)
        if instr.op in ("cast", "reduce", "hmax"):
            return self._axes(instr, args[0])
        if instr not in self.fixed:  # a leaf: one row of x, of what was kept, of a gradient
            self.fixed[instr] = self.rng.standard_normal((1, *shape_in(instr.type, self.sizes)))
        return self.fixed[instr]

    def _own(self, instr: Instr) -> Array:
        whole = self.arrays[instr.weight, str(instr.attr("role"))]
        column = int(instr.attr("column", -1))  # type: ignore[arg-type]
        return whole if column < 0 else np.asarray(whole[..., column])

    def _lin(self, instr: Instr, a: Array) -> Array:
        matrix = self._own(instr)
        matrix = np.swapaxes(matrix, -1, -2) if instr.attr("transpose", False) else matrix
        flat = a.reshape(len(a), -1)
        if matrix.ndim == 3:
            made = np.einsum("boi,rbi->rbo", matrix, flat.reshape(len(a), matrix.shape[0], -1))
        else:
            made = flat @ matrix.T
        return np.reshape(made, (len(a), *shape_in(instr.type, self.sizes)))

    def _heads(self, a: Array) -> Array:
        return a.reshape(len(a), self.sizes.heads, -1)

    def _matrix(self, op: str, args: Sequence[Array]) -> Array:
        if op == "tokey":
            return self._heads(args[0])
        if op == "toval":
            return args[0].reshape(len(args[0]), -1)
        if op == "outer":
            return np.asarray(args[0][..., None] * self._heads(args[1])[..., None, :])
        if op == "read":
            made = (args[0] * args[1][..., None]).sum(-2)
            return np.reshape(made, (len(made), -1))
        return np.asarray((args[0] * self._heads(args[1])[..., None, :]).sum(-1))

    def _axes(self, instr: Instr, a: Array) -> Array:
        source = self.program.instrs[instr.args[0]].type.kind
        shape = shape_in(instr.type, self.sizes)
        if instr.op == "cast":
            return self._cast(a, source, instr.type, shape)
        if instr.type.kind == "mem":
            function: Any = np.max if instr.op == "hmax" else np.sum
            return np.asarray(function(a.reshape(len(a), -1), axis=-1, keepdims=True))
        if source == "mat":
            axes = {"scal": (-2, -1), "key": (-1,), "vec": (-2,)}[instr.type.kind]
            return np.reshape(a.sum(axes), (len(a), *shape))
        heads = self._heads(a)
        return np.asarray(heads.max(-1) if instr.op == "hmax" else heads.sum(-1))

    def _cast(self, a: Array, kind: str, type_: Type, shape: tuple[int, ...]) -> Array:
        if kind == "scal":
            if type_.kind == "vec":
                return np.repeat(a, self.sizes.value_size, axis=-1)
            a = a.reshape(*a.shape, *(1,) * (len(shape) - 1))
        elif kind == "key" and type_.kind == "mat":
            a = a[..., None]
        elif type_.kind == "mat" and kind in ("vec", "in"):
            a = self._heads(a)[..., None, :]
        elif kind == "num":
            a = a.reshape(1, *(1,) * len(shape))
        return np.broadcast_to(a, (len(a), *shape))


_PLAIN = dict(BINARY) | {"ge": lambda a, b: (a >= b).astype(float)}
