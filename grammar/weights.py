"""The arrays of a cell by name: their shapes, how they are drawn, and their canonical names.

An array is named `site.role`, as in `f.w0` (the map of the first operand in the equation of `f`), and the
learned initial value of a state h `init.h`. The canonical names are `w0`, `w1`, ... (see
`canonical_weights`) and `s0`, `s1`, ... for learned initial values: cells of equal digest share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from grammar.canonical import canonical_weights
from grammar.cell import Cell
from grammar.errors import CellBuildError, suggest
from grammar.graph import Graph, Weight
from grammar.labelling import label
from grammar.ops import Value, WeightSpec
from grammar.renderings import Array
from grammar.simplify import simplify
from grammar.sizes import Sizes
from grammar.starts import KNOWN_MATRICES, known_matrix
from grammar.syntax import State


@dataclass(frozen=True, slots=True)
class _Slot:
    """One array: its name and shape, and the weight it belongs to (None: a learned initial value)."""

    name: str
    shape: tuple[int, ...]
    complex: bool
    weight: Weight | None = None
    spec: WeightSpec | None = None


def weight_shapes(
    cell: Cell, *, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a cell. Raises CellBuildError where the sizes do not fit."""
    sizes = Sizes.of(input_size, hidden_size, heads, key_size)
    sizes.check(cell.graph)
    return {slot.name: slot.shape for slot in _slots(cell.graph, sizes)}


def init_weights(
    cell: Cell,
    rng: np.random.Generator,
    *,
    input_size: int,
    hidden_size: int,
    heads: int = 1,
    key_size: int | None = None,
    sets: Sequence[int] = (),
    dtype: DTypeLike = np.float64,
) -> dict[str, Array]:
    """Fresh arrays by name, drawn as the text says; `sets` are leading axes of independent draws.

    By default U(-s, s) with s = 1/sqrt(fan_in), complex ones in both parts, U(-1, 1) for `diag`, zeros
    for `param` and learned initial values. With the option `init` biases are 0. Raises
    CellBuildError where the sizes or the option do not fit.
    """
    sizes = Sizes.of(input_size, hidden_size, heads, key_size)
    sizes.check(cell.graph)
    kinds = {False: np.dtype(dtype), True: np.result_type(dtype, np.complex64)}
    return {
        slot.name: _draw(rng, slot, (*sets, *slot.shape), sizes).astype(kinds[slot.complex])
        for slot in _slots(cell.graph, sizes)
    }


class Draws:
    """`init_weights` of many cells, each from a fresh generator of one seed: what is drawn alike is drawn once.

    The arrays are not for writing. At most `most` of them are remembered: then all are forgotten.
    """

    def __init__(
        self, seed: int, *, sets: Sequence[int] = (), dtype: DTypeLike = np.float64, most: int = 500
    ) -> None:
        self._seed, self._sets, self._most = seed, tuple(sets), most
        self._kinds = {False: np.dtype(dtype), True: np.result_type(dtype, np.complex64)}
        self._first, self._count = _Drawn(), 0

    def __call__(self, cell: Cell, *, input_size: int, hidden_size: int, heads: int = 1) -> dict[str, Array]:
        """As `init_weights(cell, np.random.default_rng(seed), ...)`. Raises what that raises."""
        sizes = Sizes.of(input_size, hidden_size, heads)
        sizes.check(cell.graph)
        rng: np.random.Generator | None = None  # of the place where `at` is, once something new is drawn
        found: dict[str, Array] = {}
        at = self._first
        for slot in _slots(cell.graph, sizes):
            key = _likeness(slot, sizes)
            after = at.after.get(key)
            if after is None:
                if rng is None:
                    rng = np.random.default_rng(self._seed)
                    if at.state is not None:
                        rng.bit_generator.state = at.state
                array = _draw(rng, slot, (*self._sets, *slot.shape), sizes).astype(self._kinds[slot.complex])
                array.flags.writeable = False
                after = _Drawn(array, rng.bit_generator.state)
                self._keep(at, key, after)
            else:
                rng = None
            found[slot.name] = after.array
            at = after
        return found

    def _keep(self, at: _Drawn, key: tuple[Any, ...], after: _Drawn) -> None:
        if self._count >= self._most:
            self._first, self._count = _Drawn(), 0
        at.after[key] = after
        self._count += 1


@dataclass(slots=True)
class _Drawn:
    """An array, the state of the generator behind it, and what was drawn next."""

    array: Array = field(default_factory=lambda: np.zeros(0))
    state: Any = None
    after: dict[tuple[Any, ...], _Drawn] = field(default_factory=dict)


def _likeness(slot: _Slot, sizes: Sizes) -> tuple[Any, ...]:
    """All that `_draw` sees of an array."""
    weight, spec = slot.weight, slot.spec
    if weight is None or spec is None:
        return slot.shape, slot.complex
    fan_in = sizes.at(spec.fan_in)
    return slot.shape, slot.complex, weight.op, weight.init, spec.role.startswith("b"), fan_in


def _slots(graph: Graph, sizes: Sizes) -> Iterator[_Slot]:
    for weight in graph.weights:
        for spec in weight.specs:
            shape = tuple(sizes.at(extent) for extent in spec.shape)
            yield _Slot(f"{weight.site}.{spec.role}", shape, spec.complex, weight, spec)
    for state in graph.states:
        if state.init == "learned":
            yield _Slot(initial_name(graph, state), sizes.shape(state.type), state.type.is_complex)


def initial_name(graph: Graph, state: State) -> str:
    """The name of a state's learned initial value: `init.h`."""
    site = "init"
    while any(weight.site == site for weight in graph.weights):
        site += "_"
    return f"{site}.{state.name}"


def _draw(rng: np.random.Generator, slot: _Slot, shape: tuple[int, ...], sizes: Sizes) -> Array:
    weight, spec = slot.weight, slot.spec
    if weight is None or spec is None:
        return np.zeros(shape)
    if weight.init is not None:
        return np.zeros(shape) if spec.role.startswith("b") else _told(rng, slot, weight.init, shape)
    if weight.op == "param":
        return np.zeros(shape)
    bound = 1.0 if weight.op == "diag" else 1 / math.sqrt(sizes.at(spec.fan_in))
    return _parts(slot.complex, lambda: rng.uniform(-bound, bound, shape))


def _parts(is_complex: bool, draw: Callable[[], Array]) -> Array:
    """A real draw, or a complex one whose parts are drawn alike."""
    return draw() + 1j * draw() if is_complex else draw()


def _told(rng: np.random.Generator, slot: _Slot, init: Value, shape: tuple[int, ...]) -> Array:
    """As the option `init` says; a number is real."""
    name, *numbers = init if isinstance(init, tuple) else (init,)
    first, second = (*(float(n) for n in numbers), 0.0, 0.0)[:2]
    if isinstance(name, int | float) or name in ("zeros", "ones"):
        return np.full(shape, {"zeros": 0.0, "ones": 1.0}.get(str(name), name), dtype=np.float64)
    if name == "orthogonal":
        return first * _orthogonal(rng, slot, shape)
    if name == "permutation":
        return _permutation(rng, slot, shape)
    if name in KNOWN_MATRICES:
        matrix = known_matrix((str(name), first), slot.shape, slot.complex, slot.name)
        return np.broadcast_to(matrix, shape)
    if name == "normal":
        return _parts(slot.complex, lambda: first * rng.standard_normal(shape))
    if name == "uniform":
        return _parts(slot.complex, lambda: first + (second - first) * rng.random(shape))
    if min(first, second) <= 0:
        raise CellBuildError(
            f"log_uniform(a, b) has positive a and b; received {numbers[0]} and {numbers[1]} for {slot.name}"
        )
    low, high = math.log(first), math.log(second)
    return _parts(slot.complex, lambda: np.exp(low + (high - low) * rng.random(shape)))


def _orthogonal(rng: np.random.Generator, slot: _Slot, shape: tuple[int, ...]) -> Array:
    """Orthonormal (complex: unitary) rows or columns, whichever are fewer, over the last two axes."""
    if len(slot.shape) < 2:
        raise CellBuildError(f"orthogonal(...) is for matrices; {slot.name} has shape {slot.shape}")
    rows, columns = shape[-2:]
    tall = (*shape[:-2], max(rows, columns), min(rows, columns))
    q, r = np.linalg.qr(_parts(slot.complex, lambda: rng.standard_normal(tall)))
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    q = q * (diagonal / np.abs(diagonal))[..., None, :]
    return np.asarray(q if rows >= columns else np.swapaxes(q, -1, -2))


def _permutation(rng: np.random.Generator, slot: _Slot, shape: tuple[int, ...]) -> Array:
    """One 1 in each row and column of the last two axes."""
    if len(slot.shape) < 2 or shape[-1] != shape[-2]:
        raise CellBuildError(f"permutation is for a matrix [n, n]; {slot.name} has shape {slot.shape}")
    return np.asarray(np.eye(shape[-1])[rng.random(shape[:-1]).argsort(-1)])


# ---- canonical names --------------------------------------------------------------------------


def canonical_arrays(cell: Cell, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a cell under their canonical names; those of dead code are left out.

    Cells of equal digest give equal outputs for equal arrays under these names.
    """
    return {new: weights[old] for new, old in _canonical_names(cell.graph).items()}


def _canonical_names(graph: Graph) -> dict[str, str]:
    """canonical name -> name in the cell as written."""
    names = {c.name: f"{graph.weights[c.weight].site}.{c.role}" for c in canonical_weights(graph)}
    small = simplify(graph)
    if any(s.init == "learned" for s in small.states):
        ranks = label(small).states
        ordered = sorted(range(len(small.states)), key=ranks.__getitem__)
        states = [small.states[i] for i in ordered]
        names |= {f"s{k}": initial_name(graph, s) for k, s in enumerate(states) if s.init == "learned"}
    return names


def written_arrays(graph: Graph, weights: Mapping[str, Any], sizes: Sizes) -> dict[str, Array]:
    """Checked arrays under the names of the cell as written; `weights` has either kind of name.

    Raises CellBuildError for a missing or unknown name, or a shape that does not fit.
    """
    expected = {slot.name: slot for slot in _slots(graph, sizes)}
    as_written = not expected or any("." in name for name in weights)
    canonical = {} if as_written else _canonical_names(graph)
    if as_written or (canonical and not weights):
        _same_names(weights, expected)
        given = dict(weights)
    else:
        _same_names(weights, canonical)
        given = {old: weights[new] for new, old in canonical.items()}
        for name in expected.keys() - given.keys():  # of dead code: whatever they hold, nothing is seen of it
            given[name] = np.zeros(expected[name].shape, complex if expected[name].complex else float)
    return {name: _checked(slot, given[name]) for name, slot in expected.items()}


def _same_names(given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in given:
        if name not in expected:
            raise CellBuildError(f"the cell has no array {name!r}{suggest(name, expected)}")
    missing = [name for name in expected if name not in given]
    if missing:
        raise CellBuildError(f"weights has an array for each name; missing {', '.join(missing)}")


def _checked(slot: _Slot, given: Any) -> Array:
    array = np.asarray(given)
    if slot.complex and not np.iscomplexobj(array):
        if array.shape[-1:] != (2,):
            raise CellBuildError(
                f"the complex array {slot.name} is complex, or real with a last axis of 2; received {array.shape}"
            )
        array = array[..., 0] + 1j * array[..., 1]
    own = len(slot.shape)
    if array.ndim < own or array.shape[array.ndim - own :] != slot.shape:
        shape = ", ".join(map(str, slot.shape))
        raise CellBuildError(f"{slot.name} has the shape [.., {shape}]; received {array.shape}")
    return array
