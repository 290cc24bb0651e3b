"""Untrained functional probes: what small random stacks of a cell do with their input, as numbers.

Each cell runs as a stack of three layers of `WIDTH` with random weights, at several gains of the weights and sizes
of the input. Two kinds of rows go through it:

* a full factorial design over five neighbouring tokens, each of which is one of two vectors. The Walsh transform
  of the outputs over the 32 rows splits their energy into what each token does alone (memory, sensitivity by lag),
  what pairs do beyond that, and so on (the analysis of variance of Sobol, 1993; compare the information processing
  capacity of Dambre et al., "Information Processing Capacity of Dynamical Systems", 2012);
* sequences of random tokens, for the covariance of the outputs (its spectrum is the best published training-free
  score of recurrent cells: Serianni and Kalita, ACL 2023), their size, drift and correlation over time.

All cells see the same inputs, and draw their weights from generators of the same seed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grammar import Cell, CellBuildError, evaluate_stack, init_weights

Floats = NDArray[np.floating]

WIDTH = 16
LAYERS = 3
HEADS = (2, 1, 4, 8, 16)  # tried in this order until one fits the cell
BEFORE, TOKENS, AFTER = 4, 5, 8  # steps before the design, of it, and after it
SEQUENCES, SYMBOLS = 8, 8
DRAWS = 2  # independent weights for each setting
# (gain of the weights, scale of the input, contrast of the two tokens): from the usual initialisation to trained sizes.
SETTINGS = ((1.0, 0.1, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 0.1), (1.8, 1.0, 1.0), (3.2, 1.0, 1.0))
DELAYS = (0, 1, 2, 4, 8)  # steps after the last token of the design at which outputs are analysed
_RIDGES = (1e-1, 1e-2, 1e-3, 1e-4)
_READ_RIDGES = (1e-2, 1e-4)
_FLOOR, _CEILING = 1e-7, 1e9
_CHUNK = 32  # cells whose outputs are analysed together
MISSING = 0.0  # every probe of a cell that cannot be run as a stack over time; `probed` says so


@dataclass(frozen=True)
class _Design:
    """The rows that go in, and the Walsh functions that take the outputs apart."""

    x: NDArray[np.float32]  # [sets, B, T, WIDTH]
    subsets: tuple[tuple[int, ...], ...]
    walsh: NDArray[np.float32]  # [subsets, rows of the design]
    targets: Mapping[str, NDArray[np.float32]]  # what is read back from the token rows: [samples, columns]

    @property
    def rows(self) -> int:
        return int(self.walsh.shape[1])


@functools.cache
def _design() -> _Design:
    rng = np.random.default_rng(11)
    steps = BEFORE + TOKENS + AFTER
    signs = np.array(list(itertools.product((-1, 1), repeat=TOKENS)))
    first, second = rng.normal(size=(steps, WIDTH)), rng.normal(size=(TOKENS, WIDTH))
    vectors, symbols = rng.normal(size=(SYMBOLS, WIDTH)), rng.integers(0, SYMBOLS, (SEQUENCES, steps))
    tokens = vectors[symbols]
    here = slice(BEFORE, BEFORE + TOKENS)
    sets = []
    for _, scale, contrast in SETTINGS:
        half = (first[here] - second) / 2
        middle = (first[here] + second) / 2 if contrast == 1 else first[here]
        rows = np.repeat(first[None], len(signs), axis=0)
        rows[:, here] = middle + signs[:, :, None] * half * contrast
        sets += [scale * np.concatenate([rows, tokens])] * DRAWS
    subsets = [s for size in range(TOKENS + 1) for s in itertools.combinations(range(TOKENS), size)]
    walsh = np.array([signs[:, list(s)].prod(axis=1) for s in subsets]) / len(signs)
    targets = _targets(symbols, tokens)
    return _Design(np.array(sets, np.float32), tuple(subsets), walsh.astype(np.float32), targets)


def _targets(symbols: NDArray[np.int64], tokens: Floats) -> dict[str, NDArray[np.float32]]:
    """Tokens of some steps ago, and products of two of them, in the order of `_sequences`: centred, of unit size."""
    steps = tokens.shape[1]

    def ago(array: Floats, lag: int) -> Floats:
        return np.moveaxis(array[:, BEFORE - lag : steps - lag], 1, 0).reshape(-1, array.shape[-1])

    named = {f"token{lag}": ago(np.eye(SYMBOLS)[symbols], lag) for lag in range(BEFORE + 1)}
    named |= {f"product{i}{j}": ago(tokens, i) * ago(tokens, j) for i, j in ((0, 1), (0, 2), (1, 2))}
    centred = {name: target - target.mean(axis=0) for name, target in named.items()}
    return {
        name: (target / (target.std(axis=0) + 1e-9)).astype(np.float32) for name, target in centred.items()
    }


@functools.cache
def probe_names() -> tuple[str, ...]:
    """The names of the probes, in the order of the columns of `probe_features`."""
    x = _design().x
    some = np.random.default_rng(0).normal(size=(1, x.shape[2], LAYERS, len(x), x.shape[1], WIDTH))
    names = [f"{name}_{k}" for name, _ in _measures(some.astype(np.float32)) for k in range(len(SETTINGS))]
    return ("probed", *names)


def probe_features(cells: Iterable[Cell]) -> NDArray[np.float64]:
    """The probes of each cell: float64 [n, len(probe_names())], finite.

    Cells over trees or whole sequences, and cells that fit none of the sizes, get MISSING throughout.
    """
    rows: list[NDArray[np.float64]] = []
    todo = iter(cells)
    while chunk := list(itertools.islice(todo, _CHUNK)):
        rows.append(_analysed([_responses(cell) for cell in chunk]))
    return np.concatenate(rows) if rows else np.empty((0, len(probe_names())))


def _analysed(responses: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float64]:
    found = np.full((len(responses), len(probe_names())), MISSING)
    have = [i for i, y in enumerate(responses) if y is not None]
    if have:
        stacked = np.stack([y for y in responses if y is not None])
        with np.errstate(all="ignore"):
            columns = [_by_setting(values) for _, values in _measures(stacked)]
        found[have] = np.concatenate([np.ones((len(have), 1)), *columns], axis=1)
    return found


def _responses(cell: Cell) -> NDArray[np.float32] | None:
    """What a stack gives at each step: [T, LAYERS, sets, B, WIDTH], clipped and finite; None if it cannot run."""
    small = cell.canonical()
    x = _design().x
    for heads in HEADS:
        try:
            weights = init_weights(
                small, np.random.default_rng(3), input_size=WIDTH, hidden_size=WIDTH, heads=heads,
                sets=(LAYERS, len(x)), dtype=np.float32,
            )  # fmt: skip
            y = evaluate_stack(small, x, _with_gains(weights), layers=LAYERS, sets=len(x), heads=heads)
        except CellBuildError:
            continue
        clean = np.nan_to_num(y, copy=False, nan=_CEILING, posinf=_CEILING, neginf=-_CEILING)
        return np.asarray(np.clip(clean, -_CEILING, _CEILING, out=clean))
    return None


def _with_gains(weights: dict[str, Floats]) -> dict[str, Floats]:
    """Matrices times the gain of their setting; vectors (biases, decays) stay as they were drawn."""
    gains = np.repeat([gain for gain, _, _ in SETTINGS], DRAWS).astype(np.float32)
    return {
        name: array * gains.reshape((1, -1) + (1,) * (array.ndim - 2)) if array.ndim > 3 else array
        for name, array in weights.items()
    }


def _by_setting(values: Floats) -> NDArray[np.float64]:
    """[n, sets] as [n, settings]: the mean over draws."""
    means = values.reshape(len(values), len(SETTINGS), DRAWS).mean(axis=-1)
    return np.asarray(means, dtype=np.float64)


def _log(values: Floats) -> Floats:
    return np.log10(np.clip(values, _FLOOR, _CEILING))


# ---- what is measured -------------------------------------------------------------------------


def _measures(y: NDArray[np.float32]) -> Iterator[tuple[str, Floats]]:
    """(name, values [n, sets]) of outputs y [n, T, LAYERS, sets, B, WIDTH]."""
    rows = _design().rows
    for layer in reversed(range(LAYERS)):
        name = f"layer{layer + 1}"
        tokens = y[:, BEFORE:, layer, :, rows:]
        spread = np.sqrt(tokens.var(axis=(1, 3)).mean(axis=-1)) + 1e-9
        for delay in DELAYS if layer != 1 else DELAYS[::2]:
            outputs = y[:, BEFORE + TOKENS - 1 + delay, layer, :, :rows]
            yield from _effects(f"{name}_after{delay}", outputs, spread, delay)
        yield f"{name}_spread", _log(spread)
        yield from _sequences(name, tokens, y[:, 2, layer, :, rows:], spread)


def _effects(name: str, outputs: Floats, spread: Floats, delay: int) -> Iterator[tuple[str, Floats]]:
    """The energy of each order, of each token, and of neighbouring pairs, relative to the spread."""
    design = _design()
    energy = (np.matmul(design.walsh, outputs) ** 2).mean(axis=-1)  # [n, sets, subsets]
    order = np.array([len(s) for s in design.subsets])
    for low, high in ((1, 1), (2, 2), (3, 3), (4, TOKENS)):
        of_order = energy[..., (order >= low) & (order <= high)].sum(axis=-1)
        yield f"{name}_order{low}", _log(np.sqrt(of_order) / spread)
    yield f"{name}_additive", energy[..., order == 1].sum(axis=-1) / (energy[..., 1:].sum(axis=-1) + 1e-18)
    for index, subset in enumerate(design.subsets):
        lags = "_".join(str(TOKENS - 1 - place + delay) for place in reversed(subset))
        neighbours = len(subset) == 2 and (delay == 0 or (delay <= 2 and subset[1] - subset[0] == 1))
        if len(subset) == 1 or neighbours:
            yield f"{name}_lag{lags}", _log(np.sqrt(energy[..., index]) / spread)


def _sequences(name: str, tokens: Floats, early: Floats, spread: Floats) -> Iterator[tuple[str, Floats]]:
    """Size, drift, spectrum, tails and correlation over time of tokens [n, T, sets, B, WIDTH]."""
    late = (tokens[:, -1].astype(np.float64) ** 2).mean(axis=(-1, -2))
    yield f"{name}_scale", _log(np.sqrt((tokens.astype(np.float64) ** 2).mean(axis=(1, 3, 4))))
    yield f"{name}_drift", _log(np.sqrt(late / ((early.astype(np.float64) ** 2).mean(axis=(-1, -2)) + 1e-12)))
    count, sets = len(tokens), tokens.shape[2]
    flat = np.moveaxis(tokens, 1, 2).reshape(count, sets, -1, WIDTH)  # steps, then rows
    scaled = (flat - flat.mean(axis=2, keepdims=True)) / spread[..., None, None]
    covariance = np.matmul(np.swapaxes(scaled, -1, -2), scaled) / flat.shape[2]
    spectrum = np.maximum(np.linalg.eigvalsh(covariance)[..., ::-1], 1e-9)
    for ridge in _RIDGES:
        yield f"{name}_freedom{ridge:g}", (spectrum / (spectrum + ridge)).sum(axis=-1)
    for place in (0, WIDTH // 2):
        yield f"{name}_eigenvalue{place}", np.log10(spectrum[..., place])
    squared = scaled**2
    tails = (squared**2).mean(axis=2) / np.maximum(squared.mean(axis=2), 1e-6) ** 2
    yield f"{name}_tails", np.minimum(tails.mean(axis=-1), 50)
    yield from _readback(name, scaled, covariance)
    steps = scaled.reshape(count, sets, tokens.shape[1], -1)
    for lag in (1, 3):
        yield f"{name}_correlation{lag}", (steps[:, :, lag:] * steps[:, :, :-lag]).mean(axis=(-1, -2))


def _readback(name: str, scaled: Floats, covariance: Floats) -> Iterator[tuple[str, Floats]]:
    """How much of each target a ridge regression reads out of outputs [n, sets, samples, WIDTH]: 0 to 1."""
    targets = _design().targets
    joined = np.concatenate(list(targets.values()), axis=1)
    shared = np.matmul(np.swapaxes(scaled, -1, -2), joined) / scaled.shape[2]
    for ridge in _READ_RIDGES:
        solved = np.linalg.solve(covariance + np.float32(ridge) * np.eye(WIDTH, dtype=np.float32), shared)
        read = (solved * shared).sum(axis=-2)
        ends = np.cumsum([target.shape[1] for target in targets.values()])
        for target, part in zip(targets, np.split(read, ends[:-1], axis=-1), strict=True):
            yield f"{name}_{target}_{ridge:g}", np.clip(part.mean(axis=-1), 0.0, 1.0)
