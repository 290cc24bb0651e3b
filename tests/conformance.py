"""What every backend is held against at sizes that are used: the reference in float64, on outputs, states, gradients.

No pytest and no hypothesis here: `scripts/conformance` and `scripts/gpu_check` run it, too, on machines that have
neither. A case is a cell at one shape; `check` compares

- the output, the final value of every state, and the gradients of a fixed functional of them all (final states
  included) to x, to the initial states and to every weight,
- from initial states that are given, or as the text says,
- with sequences of one length, or of several in memory that is NaN behind their ends,
- with fresh memory full of NaN (`poisoned`),

each by the RMS of its error over its own RMS. An array may differ by the tolerance of its backend and type, or by
four times what the reference itself errs in float32 on that array, whichever is larger: there are chaotic cells.

A few runs do not say how much an ill-conditioned cell can err: one that divides by what is nearly 0 errs differently in
each, and where a number is within rounding of the kink of relu, leaky_relu, abs or max, its derivative is the one or
the other. So an array that errs more is judged once more, by what the cell is rather than by who computes it: it may
err four times as the reference does, and as much as the exact result (float64) moves when every input and weight moves
by up to four units in the last place of float32. For a well-conditioned cell that adds next to nothing.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grammar import Cell, CellBuildError, Sizes, parse, zoo, zoo_names
from nas.errors import BuildError
from nas.nn import CellModule, build
from search_spaces import load_space, space_names

# (backend, dtype) -> how far an array may be from the reference in float64. Never relaxed to make a test pass.
TOLERANCES = {
    ("reference", torch.float32): 5e-6,
    ("c", torch.float32): 5e-6,
    ("triton", torch.float32): 1e-3,
    ("triton", torch.bfloat16): 8e-3,
    # no backend, but what `solver="newton"` does on the reference
    ("newton", torch.float32): 5e-6,
}
OWN = 4.0  # an array may err so many times as much as the reference does in float32
FLOOR = 1e-7  # errors this far below the largest gradient (output, state) of the case are rounding: see `_compare`
MOVES = 32  # runs of the reference in float64, at most, that say how much the exact result moves
ROUNDINGS = 3  # runs of the reference in float32 that say how much it errs
WILD = 1e8  # a case with numbers beyond this is made calmer, and at last given up
CALMER = (1.0, 0.5, 0.25)  # weights are multiplied by these in turn, then sequences made short
SHORT = 20

# What no cell of the zoo has, or no two in one cell.
ODD = (
    "state p: vec, h: vec, q: vec; p' = lin(x); q' = tanh(lin(h')); h' = tanh(lin(shift(x), conv(h), p) + lin(x));"
    " out q * h' + conv(q)",
    "state m: scal = -inf, k: key = 0.5, h: vec = learned; m' = max(m - 1, lin:scal(x));"
    " k' = lerp(sigmoid(m'), k, lin:key(h, k)); h' = exp(m - m') * h + lin(k', x, param:vec(init=normal(1)));"
    " out h' * softmax(h')",
    "state z: cvec = learned, S: cmat; z' = cis(param:vec(init=uniform(0, 3))) * z + lin:cvec(x, z);"
    " S' = lerp(0.5, S, complex(outer(lin:key(x), lin(x)), 0));"
    " out re(read(S', lin:key(re(z')))) + abs(modrelu(z', -0.1)) + im(z')",
    "state m: mem(3), h: vec; m' = lin:mem(3)(m, x, fixed=yes);"
    " h' = tanh(lin(h, x, blocks=2) + lin(m') + lin(x, rank=2) + hsum(h) * 0.1);"
    " out lnorm(h') + rmsnorm(h) * dot(h, h')",
    "state h: vec; a = param:vec(init=ones); h' = a * 2; out h' + h + lin(conv(a, k=2))",
    "state h: vec; h' = x; out h * 2 + max(1, 3) * shift(conv(x, k=1))",
    "state h: vec; u = lin(x); h' = lin(h, share=w, bias=no) + lin(u, share=w, transpose=yes, bias=no)"
    " * sqrt1m2(sigmoid(u)); out leaky_relu(h') + min(h', 0.5) + gelu(h) + softplus(h) + log(exp(h))",
    "state h: vec, z: cvec = learned; z' = 0.5 * reflect(z, lin:cvec(x)) + lin:cvec(h);"
    " h' = reflect(tanh(lin(h)), x) + abs(z'); out reflect(h', param(init=normal(1)))",
    "state S: mat; S' = 0.9 * S + outer(lin:key(x), lin(x)); v = readt(S, lin(x)); out read(shift(S'), v)",
    "state h: vec; h' = tanh(lin(x)) + lin(h, blocks=heads); out lin(lin(x, h'), h, x) + lin(outer(lin:key(x), h'))",
    "state h: vec, g: vec; h' = relu(lin(x) + diag(h)); g' = tanh(lin(g, h')); out g' * hmax(h) - softmax(g)",
    "state h: vec, g: vec; depth 4 until(sigmoid(lin:scal(h, x))) { h' = tanh(lin(h, g, x)); g' = lin(h) + g };"
    " out h' * g'",
    "state h: vec; g = sigmoid(lin(h) + tanh(lin(x))); h' = g * (lin(h) + lin(conv(x))) + lin(h) + x; out tanh(h')",
    "state h: vec; depth 3 until(sigmoid(lin:scal(h) + hsum(x))) { h' = tanh(lin(h) + lin(x)) }; out h'",
    "state h: vec, c: vec; h' = tanh(lin(h) + diag(x)); c' = lin(c) + lin:vec(x) * x + h';"
    " out lin(h') + sigmoid(lin(x)) + lin(c') * x",
    "state h: vec; h' = 0.9 * h + stopgrad(lin(h)) * 0.1 + sin(lin(x)) * cos(h); out h' / (1 + square(h'))",
)


@dataclass(frozen=True)
class Shape:
    """B sequences of up to T steps, H wide, N heads, keys K; D is H where the cell needs it, else `input_size`."""

    batch: int
    steps: int
    hidden_size: int
    heads: int
    key_size: int | None
    input_size: int
    lengths: tuple[int, ...] | None = None
    given: bool = False  # whether the initial state is
    learned: bool = True  # whether x takes a gradient
    calm: float = 1.0  # factor of the weights

    def __str__(self) -> str:
        key = "" if self.key_size is None else f" K{self.key_size}"
        lengths = "" if self.lengths is None else f" lengths {','.join(map(str, self.lengths))}"
        state = " from a state" if self.given else ""
        learned = "" if self.learned else " without dx"
        calm = "" if self.calm == 1 else f" weights x {self.calm}"
        sizes = f"B{self.batch} T{self.steps} D{self.input_size} H{self.hidden_size} N{self.heads}"
        return sizes + key + lengths + state + learned + calm

    def shorter(self) -> Shape:
        """The same with few steps."""
        lengths = None if self.lengths is None else tuple(min(n, SHORT) for n in self.lengths)
        return replace(self, steps=min(self.steps, SHORT), lengths=lengths)


@dataclass(frozen=True)
class Case:
    """A cell, by name, at one shape; `seed` draws weights and inputs."""

    name: str
    cell: Cell
    shape: Shape
    seed: int

    def __str__(self) -> str:
        return f"{self.name} at {self.shape}"


@dataclass(frozen=True)
class Outcome:
    """What came of a case: `ok`, `failed`, `crashed`, `refused` by the backend, `wild` (numbers too large to compare).

    `worst` is the largest error of an array relative to what it may err: the case failed where it is above 1. `error`
    is that array's RMS ratio; `own` that of the reference in float32, and `moved` how far the exact result moves
    within rounding of what is given, each where it was needed.
    """

    case: Case
    status: str
    worst: float = 0.0
    error: float = 0.0
    own: float | None = None
    where: str = ""
    message: str = ""
    moved: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "cell": self.case.name,
            "shape": str(self.case.shape),
            "status": self.status,
            "worst": told(self.worst),
            "error": told(self.error),
            "own": told(self.own),
            "moved": told(self.moved),
            "where": self.where,
            "message": self.message,
        }


def told(value: float | None) -> float | None:
    """A number as JSON can hold it; None for what is not finite."""
    return value if value is not None and np.isfinite(value) else None


# ---- cases ------------------------------------------------------------------------------------

# H, N, K, D: by turns, one for each cell, so that a backend that builds for sizes builds each cell once.
_WIDTHS = (
    (40, 1, None, 33),
    (96, 3, 7, 96),
    (40, 5, None, 40),
    (96, 1, None, 17),
    (40, 2, 6, 40),
    (96, 4, None, 96),
)


def known_cells() -> dict[str, Cell]:
    """The zoo's cells over time, and odd ones."""
    found = {name: zoo(name) for name in zoo_names() if zoo(name).kind == "time"}
    return found | {f"odd{k}": parse(f"cell odd {{ {text} }}") for k, text in enumerate(ODD)}


def random_cells(number: int, seed: int = 0, spaces: Sequence[str] = ()) -> dict[str, Cell]:
    """`number` cells over time of every search space, the same for the same seed."""
    found: dict[str, Cell] = {}
    for name in spaces or space_names():
        space, rng = load_space(name), np.random.default_rng(seed)
        cells = (space.sample(rng) for _ in range(number))
        found |= {f"{name}#{k}": cell for k, cell in enumerate(cells) if cell.kind == "time"}
    return found


def cases_of(cells: Mapping[str, Cell]) -> Iterator[Case]:
    """Three cases for each cell: T = 1, 63 and 200, the rest by turns."""
    for index, (name, cell) in enumerate(cells.items()):
        yield from cases(name, cell, index)


def cases(name: str, cell: Cell, index: int) -> Iterator[Case]:
    """The three cases of the cell with this index."""
    hidden, heads, key, inputs = _fitting(cell, index)
    turn = index // 2
    some = (63, 1, 32) if turn % 2 else (17, 63, 40)
    for batch, steps, lengths, given, learned in (
        (3 - 2 * (turn % 2), 1, None, turn % 3 == 0, turn % 3 != 1),
        (3, 63, some if turn % 4 < 3 else None, turn % 2 == 0, True),
        (1 + 2 * (turn % 2), 200, None, turn % 2 == 1, turn % 4 != 2),
    ):
        shape = Shape(batch, steps, hidden, heads, key, inputs, lengths, given, learned)
        yield Case(name, cell, shape, 1000 + index)


def _fitting(cell: Cell, index: int) -> tuple[int, int, int | None, int]:
    """The next widths that the cell can have."""
    graph = cell.graph
    for turn in range(len(_WIDTHS)):
        hidden, heads, key, inputs = _WIDTHS[(index + turn) % len(_WIDTHS)]
        key = None if graph.k_is_v else key
        for width in (hidden,) if graph.equal_width else (inputs, hidden):
            try:
                Sizes.of(width, hidden, heads, key).check(graph)
            except CellBuildError:
                continue
            return hidden, heads, key, width
    raise CellBuildError(f"none of the widths of the suite fits {cell.one_line}")


# ---- running ----------------------------------------------------------------------------------


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, fresh memory of torch is full of NaN (torch fills it in deterministic mode): reading it must show."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def whole_float32() -> Iterator[None]:
    """Inside, cuDNN multiplies float32 as it is.

    torch lets it round to TF32, which alone may err by nearly the tolerance: .0009 in gradients of the tanh network.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@dataclass(frozen=True)
class Given:
    """What a case is run on, in float64, with values that `dtype` has exactly."""

    arrays: tuple[Tensor, ...]  # parameters and buffers, as the module lists them
    x: Tensor
    state: tuple[Tensor, ...] | None
    seed: int

    def nudged(self, generator: torch.Generator, by: float = 0.5) -> Given:
        """The same within the rounding of float32, or moved by up to so many units in the last place."""

        def nudge(value: Tensor) -> Tensor:
            noise = 2 * by * (torch.rand(value.shape, generator=generator, dtype=torch.float64) - 0.5)
            return value * (1 + 2.0**-23 * (torch.complex(noise, noise) if value.is_complex() else noise))

        state = None if self.state is None else tuple(nudge(v) for v in self.state)
        return Given(tuple(nudge(a) for a in self.arrays), nudge(self.x), state, self.seed)


def module_of(case: Case, backend: str) -> CellModule:
    """The cell on a backend, at the sizes of the case. Raises BuildError where the backend refuses it."""
    shape = case.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the output of cell")
        return build(
            case.cell,
            shape.input_size,
            shape.hidden_size,
            heads=shape.heads,
            key_size=shape.key_size,
            backend="reference" if backend == "newton" else backend,
            solver="newton" if backend == "newton" else "exact",
        )


def given(case: Case, dtype: torch.dtype) -> Given:
    """Weights some way from where they start, an input, and where asked for a state that the cell can be in."""
    shape, module = case.shape, module_of(case, "reference").double()
    generator = torch.Generator().manual_seed(case.seed)
    module.reset_parameters(generator)

    def rounded(value: Tensor) -> Tensor:
        exact = value.to(
            dtype.to_complex() if value.is_complex() and dtype != torch.bfloat16 else value.dtype
        )
        return (exact if exact.is_complex() else exact.to(dtype)).to(value.dtype)

    def drawn(*extents: int) -> Tensor:
        return rounded(torch.randn(extents, generator=generator, dtype=torch.float64))

    arrays = []
    for array in (*module.parameters(), *module.buffers()):
        noise = 0.1 * torch.randn(array.shape, generator=generator, dtype=torch.float64)
        arrays.append(rounded(shape.calm * (array.detach() + noise)))
    _load(module, arrays)
    state = None
    if shape.given:
        with torch.no_grad():
            _, after = module(drawn(shape.batch, 3, shape.input_size))
        state = tuple(rounded(value) for value in (after if isinstance(after, tuple) else (after,)))
        state = tuple(torch.where(value.real.isfinite(), value, 0) for value in state)
    return Given(tuple(arrays), drawn(shape.batch, shape.steps, shape.input_size), state, case.seed)


def _load(module: CellModule, arrays: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for own, value in zip((*module.parameters(), *module.buffers()), arrays, strict=True):
            own.copy_(value)


def results(
    case: Case, backend: str, dtype: torch.dtype, on: Given, device: str = "cpu"
) -> dict[str, Tensor]:
    """Output, final states and gradients, in float64 on the CPU. Raises BuildError where the backend refuses."""
    shape = case.shape
    module = module_of(case, backend).to(device=device, dtype=dtype)
    _load(module, on.arrays)
    x = on.x.to(device=device, dtype=dtype)
    for row, length in enumerate(shape.lengths or ()):
        x[row, length:] = torch.nan
    inputs: dict[str, Tensor] = {"x": x.requires_grad_()} if shape.learned else {}
    state = None
    if on.state is not None:
        parts = [v.to(device=device, dtype=dtype.to_complex() if v.is_complex() else dtype) for v in on.state]
        for name, part in zip(module.state_names, parts, strict=True):
            inputs[f"initial {name}"] = part.requires_grad_()
        state = parts[0] if len(parts) == 1 else tuple(parts)
    inputs |= {name: p for name, p in module.named_parameters() if p.requires_grad}
    y, after = module(x, state, lengths=shape.lengths)
    finals = after if isinstance(after, tuple) else (after,)
    values = {"y": y} | {f"final {n}": v for n, v in zip(module.state_names, finals, strict=True)}
    generator = torch.Generator().manual_seed(case.seed + 1)
    loss = torch.zeros((), dtype=torch.float32 if dtype == torch.bfloat16 else dtype, device=device)
    for value in values.values():
        flat = torch.view_as_real(value) if value.is_complex() else value
        # values that every type has exactly: rounded to bfloat16 on one side alone, they would be another functional
        weight = torch.randn(flat.shape, generator=generator, dtype=torch.float64).to(torch.bfloat16)
        loss = loss + (flat * weight.to(device, dtype)).sum(dtype=loss.dtype)
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    values |= {f"gradient of {name}": g for name, g in zip(inputs, found, strict=True)}
    if shape.lengths is None:
        values["y of single steps"] = _single_steps(module, x.detach()[:, :3], state)
    return {name: _plain(value) for name, value in values.items()}


def _single_steps(module: CellModule, x: Tensor, state: Any) -> Tensor:
    outputs = []
    with torch.no_grad():
        for x_t in x.unbind(1):
            y_t, state = module.step(x_t, state)
            outputs.append(y_t)
    return torch.stack(outputs, 1)


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return (torch.view_as_real(value) if value.is_complex() else value).double()


# ---- comparing --------------------------------------------------------------------------------


def check(case: Case, backend: str, dtype: torch.dtype, device: str = "cpu") -> Outcome:
    """Run a case on a backend and hold it against the reference; where its numbers explode, a calmer one."""
    try:
        module_of(case, backend)
    except BuildError as error:
        return Outcome(case, "refused", message=str(error))
    for shape in (case.shape, case.shape.shorter()):
        for calm in CALMER:
            calmer = replace(case, shape=replace(shape, calm=calm))
            on = given(calmer, dtype)
            truth = results(calmer, "reference", torch.float64, on)
            if all(_is_tame(value) for value in truth.values()):
                try:
                    found = results(calmer, backend, dtype, on, device)
                except Exception as error:
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    where = f"{Path(place.filename).name}:{place.lineno}"
                    return Outcome(calmer, "crashed", message=f"{type(error).__name__} in {where}: {error}")
                return _compare(calmer, found, truth, on, TOLERANCES[backend, dtype])
    return Outcome(case, "wild")


def _is_tame(value: Tensor) -> bool:
    return bool(value.isfinite().all() and (value.abs() < WILD).all())


def _compare(
    case: Case, found: Mapping[str, Tensor], truth: Mapping[str, Tensor], on: Given, tolerance: float
) -> Outcome:
    """Every array by itself. What its own reference errs is asked for only where an array errs more than allowed."""
    if list(found) != list(truth) or any(found[n].shape != truth[n].shape for n in truth):
        return Outcome(case, "failed", worst=float("inf"), message="arrays of other names or shapes")
    scales = {kind: max(_rms(v) for n, v in truth.items() if _kind(n) == kind) for kind in map(_kind, truth)}
    errors = {name: _error(found[name], truth[name], scales[_kind(name)], tolerance) for name in truth}
    where = max(errors, key=lambda name: errors[name])
    if errors[where] <= tolerance:
        return Outcome(case, "ok", errors[where] / tolerance, errors[where], None, where)
    own = _own_errors(case, truth, on, scales, tolerance)
    allowed = {name: max(tolerance, OWN * own[name]) for name in truth}
    parts = {name: errors[name] / allowed[name] for name in truth}
    where, far = max(parts, key=lambda name: parts[name]), None
    status = "ok" if parts[where] <= 1 else "failed"
    if status == "failed" and not all(np.isfinite(list(own.values()))):
        status = "wild"  # float32 cannot hold what this cell computes
    elif status == "failed":
        moved = dict.fromkeys(truth, 0.0)
        for more in _moves(case, truth, on, scales, tolerance):
            moved = {name: max(moved[name], more[name]) for name in truth}
            parts = {n: errors[n] / max(allowed[n], OWN * own[n] + moved[n]) for n in truth}
            if max(parts.values()) <= 1:
                break
        where = max(parts, key=lambda name: parts[name])
        status, far = "ok" if parts[where] <= 1 else "failed", moved[where]
    return Outcome(case, status, parts[where], errors[where], own[where], where, moved=far)


def _own_errors(
    case: Case, truth: Mapping[str, Tensor], on: Given, scales: Mapping[str, float], tolerance: float
) -> dict[str, float]:
    """What the reference errs in float32, the most of some runs that differ by less than rounding."""
    generator = torch.Generator().manual_seed(case.seed + 2)
    worst = dict.fromkeys(truth, 0.0)
    for turn in range(ROUNDINGS):
        again = results(case, "reference", torch.float32, on.nudged(generator) if turn else on)
        for name, value in truth.items():
            worst[name] = max(worst[name], _error(again[name], value, scales[_kind(name)], tolerance))
    return worst


def _moves(
    case: Case, truth: Mapping[str, Tensor], on: Given, scales: Mapping[str, float], tolerance: float
) -> Iterator[dict[str, float]]:
    """How far the exact results move, run by run, when all that is given moves by `OWN` units in the last place."""
    generator = torch.Generator().manual_seed(case.seed + 3)
    for _ in range(MOVES):
        again = results(case, "reference", torch.float64, on.nudged(generator, OWN))
        if all(_is_tame(value) for value in again.values()):
            yield {n: _error(again[n], value, scales[_kind(n)], tolerance) for n, value in truth.items()}


def _error(found: Tensor, truth: Tensor, scale: float, tolerance: float) -> float:
    """RMS of the error over the RMS of the truth.

    What is 0 but for rounding (a bias before a softmax) has no relative error: an array is taken to be no smaller than
    the part of the largest of its kind at which `FLOOR` becomes the tolerance.
    """
    error, size = _rms(found - truth), max(_rms(truth), scale * FLOOR / tolerance)
    if error == 0:
        return 0.0
    return float("inf") if size == 0 or not np.isfinite(error) else error / size


def _rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt()) if value.numel() else 0.0


def _kind(name: str) -> str:
    return "gradient" if name.startswith("gradient") else "value"
