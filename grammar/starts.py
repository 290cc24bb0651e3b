"""First values that are one known matrix: what `init=legt_a(theta)`, `legt_b(theta)` and `fourier(sign)` name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grammar.errors import CellBuildError

Array = NDArray[Any]
KNOWN_MATRICES = ("legt_a", "legt_b", "fourier")
LEAST_WINDOW = 1e-6  # steps of a delay; its matrix over a step has no numbers where it is some 1e-300
_TERMS = 20  # of the exponential's series: its rest is below 1e-24 where the norm is at most 1/2


def known_matrix(
    init: tuple[str | int | float, ...], shape: Sequence[int], is_complex: bool, at: str
) -> Array:
    """The matrix [rows, columns] in double precision that an array [.., rows, columns] begins as.

    `legt_a(theta)` [n, n] and `legt_b(theta)` [n, 1] are the Legendre delay system of a window of theta steps, held
    over each step; `fourier(1)` [n, n] is the unitary discrete Fourier transform and `fourier(-1)` its inverse. `at`
    names the array in errors. Raises CellBuildError where the shape or the number does not fit.
    """
    name, number = str(init[0]), float(init[1])
    rows, columns = (0, 0) if len(shape) < 2 else (int(shape[-2]), int(shape[-1]))
    wanted = "[n, 1]" if name == "legt_b" else "[n, n]"
    if not rows or columns != (1 if name == "legt_b" else rows):
        raise CellBuildError(f"{name}(...) is for a matrix {wanted}; {at} has shape {tuple(shape)}")
    if name == "fourier":
        if not is_complex or abs(number) != 1:
            raise CellBuildError(
                f"fourier(1) and fourier(-1) are for complex maps; received fourier({number:g}) for {at}, "
                f"which is {'complex' if is_complex else 'real'}"
            )
        return _fourier(rows, int(number))
    if is_complex or not number >= LEAST_WINDOW:
        raise CellBuildError(
            f"{name}(theta) is for real maps, with theta >= {LEAST_WINDOW:g}; received {name}({number:g}) for {at}, "
            f"which is {'complex' if is_complex else 'real'}"
        )
    return legendre_delay(rows, number)[name == "legt_b"]


def _fourier(size: int, sign: int) -> Array:
    """Entry j, k is exp(-2 pi i j k / size) / sqrt(size), conjugated for the inverse."""
    steps = np.arange(size)
    angle = np.outer(steps, steps) % size * (2 * np.pi / size)
    return np.asarray((np.cos(angle) - 1j * sign * np.sin(angle)) / np.sqrt(size))


@lru_cache(maxsize=64)
def legendre_delay(order: int, theta: float) -> tuple[Array, Array]:
    """State matrix [order, order] and input map [order, 1] that keep the last `theta` steps as Legendre coefficients.

    theta m' = A m + B u with A_ij = (2i + 1) (-1 if i < j else (-1)^(i - j + 1)) and B_i = (2i + 1) (-1)^i, with u held
    over a step of 1 (A. Voelker et al., Legendre memory units, NeurIPS 2019). Both are read-only.
    """
    i = np.arange(order)[:, None]
    scale = (2 * i + 1) / theta
    whole = np.zeros((order + 1, order + 1))
    whole[:order, :order] = scale * np.where(i < i.T, -1.0, np.where((i - i.T) % 2 == 0, -1.0, 1.0))
    whole[:order, order:] = scale * np.where(i % 2 == 0, 1.0, -1.0)
    made = _exponential(whole)[:order]
    made.setflags(write=False)
    return made[:, :order], made[:, order:]


def _exponential(matrix: Array) -> Array:
    """exp(matrix) by its series at a 2^-k-th of the matrix, squared k times."""
    norm = float(np.abs(matrix).sum(0).max())
    halvings = max(0, int(np.ceil(np.log2(norm))) + 1) if norm else 0
    small = matrix / 2**halvings
    term = total = np.eye(len(matrix))
    for k in range(1, _TERMS):
        term = term @ small / k
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return np.asarray(total)
