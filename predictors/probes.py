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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grammar import Cell, CellBuildError, Draws, EqualRows, equal_rows, evaluate_stack

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
_ROUNDING = (
    1e-6  # parts of the size of outputs that mean nothing: columns are to be the same on every machine
)
_ORDERS = ((1, 1), (2, 2), (3, 3), (4, TOKENS))  # of interactions, lowest and highest
_EIGENVALUES = (0, WIDTH // 2)
_CORRELATED = (1, 3)  # steps apart
_DRAWS = Draws(3, sets=(LAYERS, len(SETTINGS) * DRAWS), dtype=np.float32)
MISSING = 0.0  # every probe of a cell that cannot be run as a stack over time; `probed` says so


@dataclass(frozen=True)
class _Design:
    """The rows that go in, and the Walsh functions that take the outputs apart."""

    x: NDArray[np.float32]  # [sets, B, T, WIDTH]
    equal: tuple[EqualRows, ...]  # rows of the design are the same up to the first token in which they differ
    subsets: tuple[tuple[int, ...], ...]
    walsh: NDArray[np.float32]  # [subsets, rows of the design]
    targets: Mapping[str, NDArray[np.float32]]  # what is read back from the token rows: [samples, columns]

    @property
    def rows(self) -> int:
        return int(self.walsh.shape[1])


@functools.cache
def _design() -> _Design:
    _keep_memory()
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
    x = np.array(sets, np.float32)
    x = np.moveaxis(
        np.ascontiguousarray(np.moveaxis(x, (2, 1), (0, 3))), (0, 3), (2, 1)
    )  # as a stack reads it
    return _Design(x, equal_rows(x), tuple(subsets), walsh.astype(np.float32), targets)


def _keep_memory() -> None:
    """Let glibc keep what is freed: a sixth of the time went to pages that were given back and asked for anew.

    It gives back what is larger than the largest block that was ever freed, up to 32 MiB: so one is, untouched.
    """
    np.empty(30 << 20, np.uint8)


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
    names = [
        f"layer{layer + 1}_{_measures()[measure]}_{setting}"
        for layer, measure in _places()
        for setting in range(len(SETTINGS))
    ]
    return ("probed", *names)


def probe_features(cells: Iterable[Cell]) -> NDArray[np.float64]:
    """The probes of each cell: float64 [n, len(probe_names())], finite.

    Cells over trees or whole sequences, and cells that fit none of the sizes, get MISSING throughout.
    """
    rows = [_probes(cell) for cell in cells]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(probe_names()))


def _probes(cell: Cell) -> NDArray[np.float64]:
    y = _responses(cell)
    if y is None:
        return np.full(len(probe_names()), MISSING)
    with np.errstate(all="ignore"):
        values = _measured(y)
    means = values.reshape(-1, LAYERS, len(SETTINGS), DRAWS).mean(axis=-1)
    layers, measures = _where()
    return np.concatenate([[1.0], means[measures, layers].ravel()])


def _responses(cell: Cell) -> NDArray[np.float32] | None:
    """What a stack gives at each step: [T, LAYERS * sets, WIDTH, B], at most _CEILING; None if it cannot run."""
    small = cell.canonical()
    x = _design().x
    if small.kind != "time":
        return None
    for heads in HEADS:
        try:
            weights = _DRAWS(small, input_size=WIDTH, hidden_size=WIDTH, heads=heads)
            y = evaluate_stack(
                small, x, _with_gains(weights), layers=LAYERS, sets=len(x), heads=heads, equal=_design().equal
            )
        except CellBuildError:
            continue
        y = np.swapaxes(y, -1, -2).reshape(len(y), -1, WIDTH, x.shape[1])
        if not (y.max() <= _CEILING and y.min() >= -_CEILING):  # also where there are NaN
            y = np.maximum(np.fmin(y, np.float32(_CEILING)), np.float32(-_CEILING))
        return y
    return None


def _with_gains(weights: dict[str, Floats]) -> dict[str, Floats]:
    """Matrices times the gain of their setting; vectors (biases, decays) stay as they were drawn."""
    gains = np.repeat([gain for gain, _, _ in SETTINGS], DRAWS).astype(np.float32)
    return {
        name: array * gains.reshape((1, -1) + (1,) * (array.ndim - 2)) if array.ndim > 3 else array
        for name, array in weights.items()
    }


def _log(values: Floats) -> Floats:
    return np.log10(np.clip(values, _FLOOR, _CEILING))


# ---- what is measured -------------------------------------------------------------------------


@functools.cache
def _chosen() -> tuple[int, ...]:
    """The subsets whose energy is a probe of its own: one token, or two."""
    return tuple(i for i, subset in enumerate(_design().subsets) if len(subset) in (1, 2))


@functools.cache
def _measures() -> tuple[str, ...]:
    """What `_measured` gives, in order."""
    names: list[str] = []
    for delay in DELAYS:
        names += [f"after{delay}_order{low}" for low, _ in _ORDERS]
        for index in _chosen():
            lags = "_".join(str(TOKENS - 1 - place + delay) for place in reversed(_design().subsets[index]))
            names.append(f"after{delay}_lag{lags}")
    names += [f"after{delay}_additive" for delay in DELAYS]
    names += ["spread", "scale", "drift"]
    names += [f"freedom{ridge:g}" for ridge in _RIDGES] + [f"eigenvalue{place}" for place in _EIGENVALUES]
    names += ["tails"]
    names += [f"{target}_{ridge:g}" for ridge in _READ_RIDGES for target in _design().targets]
    return (*names, *(f"correlation{lag}" for lag in _CORRELATED))


@functools.cache
def _places() -> tuple[tuple[int, int], ...]:
    """The layer and the measure of each probe, in the order of their columns."""
    at = {name: index for index, name in enumerate(_measures())}
    last = _measures().index("spread")
    found: list[tuple[int, int]] = []
    for layer in reversed(range(LAYERS)):
        for delay in DELAYS if layer != 1 else DELAYS[::2]:
            names = [f"order{low}" for low, _ in _ORDERS] + ["additive"]
            for subset in (_design().subsets[index] for index in _chosen()):
                neighbours = delay == 0 or (delay <= 2 and subset[1:] == (subset[0] + 1,))
                if len(subset) == 1 or neighbours:
                    names.append(
                        "lag" + "_".join(str(TOKENS - 1 - place + delay) for place in reversed(subset))
                    )
            found += [(layer, at[f"after{delay}_{name}"]) for name in names]
        found += [(layer, index) for index in range(last, len(at))]
    return tuple(found)


@functools.cache
def _where() -> NDArray[np.int64]:
    return np.array(_places()).T


def _measured(y: NDArray[np.float32]) -> Floats:
    """What is measured of outputs y [T, n, WIDTH, B]: [len(_measures()), n]."""
    rows = _design().rows
    tokens = np.moveaxis(y[BEFORE:, ..., rows:], 0, -2)  # [n, WIDTH, T, B]
    steps = tokens.shape[-2]
    flat = tokens.reshape(*tokens.shape[:2], -1)
    mean = flat.mean(axis=-1, keepdims=True)
    centred = flat - mean
    variance = np.square(centred).mean(axis=(1, 2))
    size = variance + np.square(mean).mean(axis=(1, 2))
    noise = np.float32(_ROUNDING**2) * size
    spread = np.sqrt(variance + noise) + np.float32(1e-9)
    scaled = centred / spread[:, None, None]
    late, early = (np.square(y[step, ..., rows:]).mean(axis=(1, 2)) for step in (-1, 2))
    covariance = np.matmul(scaled, np.swapaxes(scaled, -1, -2)) / flat.shape[-1]
    by_step = scaled.reshape(*scaled.shape[:2], steps, -1)
    return np.concatenate(
        [
            _effects(y, spread, noise),
            _log(np.stack([spread, np.sqrt(size), np.sqrt(late / (early + np.float32(1e-12)))])),
            _spectrum(covariance),
            [_tails(scaled)],
            _readback(scaled, covariance),
            [_correlation(by_step, lag) for lag in _CORRELATED],
        ]
    )


def _effects(y: NDArray[np.float32], spread: Floats, noise: Floats) -> Floats:
    """The energy of each order, of each token, and of pairs, relative to the spread; the share of single tokens."""
    design = _design()
    outputs = y[[BEFORE + TOKENS - 1 + delay for delay in DELAYS]][..., : design.rows]
    outputs -= outputs[..., :1].copy()  # exact where rows differ little, as the means of these would not be
    effects = np.matmul(outputs, design.walsh.T)  # [delays, n, WIDTH, subsets]
    energy = np.square(effects).mean(axis=-2)
    parts = np.matmul(energy, _sums())
    relative = _log(np.sqrt(parts) / spread[:, None])  # [delays, n, parts]
    additive = parts[..., 0] / (energy[..., 1:].sum(axis=-1) + noise + np.float32(1e-18))
    return np.concatenate([np.swapaxes(relative, 1, 2).reshape(-1, len(spread)), additive])


@functools.cache
def _sums() -> NDArray[np.float32]:
    """Which subsets each order has, and which each probe of one subset: [subsets, parts]."""
    order = np.array([len(subset) for subset in _design().subsets])
    sums = np.array([(order >= low) & (order <= high) for low, high in _ORDERS])
    each = np.eye(len(order))[list(_chosen())]
    return np.concatenate([sums, each]).T.astype(np.float32)


def _spectrum(covariance: Floats) -> list[Floats]:
    """Degrees of freedom at several ridges, and logarithms of eigenvalues."""
    spectrum = np.maximum(np.linalg.eigvalsh(covariance)[..., ::-1], 1e-9)
    freedom = [(spectrum / (spectrum + ridge)).sum(axis=-1) for ridge in _RIDGES]
    return [*freedom, *(np.log10(spectrum[..., place]) for place in _EIGENVALUES)]


def _tails(scaled: Floats) -> Floats:
    """The kurtosis of the units, at most 50."""
    squared = np.square(scaled)
    tails = np.square(squared).mean(axis=-1) / np.maximum(squared.mean(axis=-1), 1e-6) ** 2
    return np.asarray(np.minimum(tails.mean(axis=-1), 50))


def _correlation(by_step: Floats, lag: int) -> Floats:
    """Of outputs [n, WIDTH, T, B] with those of `lag` steps before."""
    return np.asarray((by_step[:, :, lag:] * by_step[:, :, :-lag]).mean(axis=(1, 2, 3)))


def _readback(scaled: Floats, covariance: Floats) -> Floats:
    """How much of each target a ridge regression reads out of outputs [n, WIDTH, samples]: 0 to 1."""
    joined, starts = _joined()
    shared = np.matmul(scaled, joined) / scaled.shape[-1]
    ridges = np.array(_READ_RIDGES, np.float32)[:, None, None, None] * np.eye(WIDTH, dtype=np.float32)
    read = (np.matmul(np.linalg.inv(covariance + ridges), shared) * shared).sum(axis=-2)
    sums = np.add.reduceat(read, starts[:-1], axis=-1) / np.diff(starts).astype(np.float32)
    return np.clip(np.swapaxes(sums, 1, 2).reshape(-1, len(scaled)), 0.0, 1.0)


@functools.cache
def _joined() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The targets side by side [samples, columns], and the column at which each begins."""
    targets = list(_design().targets.values())
    return np.concatenate(targets, axis=1), np.cumsum([0, *(target.shape[1] for target in targets)])
