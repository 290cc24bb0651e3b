"""Zero-cost scores: what gradients say of a cell before it is trained, as columns for predictors.

A stack of three layers of width 16 sees one batch of symbols, once with weights as they are drawn and once with
matrices twice as large; some 45 ms of one core for a cell. The symbols are of an invented language, made here, so that
the columns are the same everywhere; or of a text. What the scores add to a predictor is in docs/predictors.md.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from grammar import Cell
from nas.errors import BuildError, TrainingError
from nas.nn import Stack

ZERO_COST_VERSION = 1  # raised when any column changes what it means
SYMBOLS, WIDTH, LAYERS = 32, 16, 3
ROWS, WINDOW = 16, 16  # sequences of the batch, and their tokens
LEAST = 2000  # characters of a text
GAINS = (1.0, 2.0)  # of matrices: as they are drawn, and of trained sizes
_LAGS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12)
_SCORES = (
    "input_gradient",
    "cell_gradient",
    "saliency",
    *(f"gradient_lag{lag}" for lag in _LAGS),
    "jacobians",
    "spread",
    "dimension",
)
_LARGE = 1e9

Floats = NDArray[np.float64]


def zero_cost_names() -> tuple[str, ...]:
    """The names of the columns of `zero_cost_columns`."""
    return tuple(f"{name}_{k}" for k in range(len(GAINS)) for name in _SCORES)


def zero_cost_key(text: str | None = None) -> str:
    """16 hex digits that change when the columns do: predictors keep it beside what they were fitted to."""
    given = "" if text is None else hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(f"{ZERO_COST_VERSION}:{given}:{zero_cost_names()}".encode()).hexdigest()[:16]


def zero_cost_columns(cells: Iterable[Cell], text: str | None = None) -> Floats:
    """One row per cell, [n, len(zero_cost_names())], to be `extras` of `predictors.fit`.

    NaN for cells that have none: those over trees, and those that fit no width of 16. Rows depend on the canonical
    form alone. `text` takes the place of the invented language: its 31 most frequent characters, without case, and the
    beginning of it. Raises TrainingError where it is too short.
    """
    stream = invented_language() if text is None else symbols_of(text)
    length = len(stream) // ROWS
    rows = torch.from_numpy(stream[: ROWS * length].reshape(ROWS, length))
    x, y = rows[:, :WINDOW], rows[:, 1 : WINDOW + 1]
    made = [_scores(cell.canonical(), x, y) for cell in cells]
    return np.array(made, dtype=np.float64).reshape(len(made), len(zero_cost_names()))


def _scores(cell: Cell, x: Tensor, y: Tensor) -> list[float]:
    if cell.kind == "tree":
        return [math.nan] * len(zero_cost_names())
    found: list[float] = []
    for seed, gain in enumerate(GAINS, start=1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:  # the reference: nothing has to be compiled for a single batch
                model = Stack(cell, SYMBOLS, SYMBOLS, WIDTH, num_layers=LAYERS, backend="reference")
            except BuildError:
                return [math.nan] * len(zero_cost_names())
        with torch.no_grad():
            for weight in model.cell.parameters():
                if weight.dim() > 1:
                    weight.mul_(gain)
        found += zero_cost(model, x, y)
    return found


def zero_cost(model: Stack, x: Tensor, y: Tensor) -> list[float]:
    """Scores of a model as it stands, on one batch of tokens `x` and answers `y`, int64 [B, T]. Norms are decimal logs.

    The norm of the gradients of the inputs and of the cell's weights; the sum of |weight x gradient| (Lee et al.,
    "SNIP", 2019); the norm of the gradient of the last answer's loss by how many steps before an input is; how
    uncorrelated these gradients are between sequences (Mellor et al., 2021); the spread of outputs; their dimension.
    """
    inputs = model.input(x).detach().requires_grad_(True)
    hidden, _ = model.cell(inputs, None, None)
    logits = model.head(cast(Tensor, hidden))
    loss = functional.cross_entropy(logits.reshape(-1, SYMBOLS), y.reshape(-1))
    weights = [p for p in model.cell.parameters() if p.requires_grad]
    found = _gradients(loss, [inputs, *weights])
    pairs = [(w.detach(), g) for w, g in zip(weights, found[1:], strict=True) if g is not None]
    saliency = sum(float((w * g).abs().sum()) for w, g in pairs)
    whole = math.sqrt(sum(float((g**2).sum()) for _, g in pairs))
    last = functional.cross_entropy(logits[:, -1], y[:, -1], reduction="sum")
    (reached,) = _gradients(last, [inputs])
    back = torch.zeros_like(inputs) if reached is None else reached
    profile = (back.detach() ** 2).sum(dim=-1).mean(dim=0).sqrt()
    lags = [_log(float(profile[x.shape[1] - 1 - lag])) for lag in _LAGS]
    own = 0.0 if found[0] is None else float(found[0].norm())
    return [_log(own), _log(whole), _log(saliency), *lags, _uncorrelated(back), *_spectrum(hidden.detach())]


def _gradients(loss: Tensor, of: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """None for what the loss does not depend on."""
    return torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)


def _uncorrelated(gradients: Tensor) -> float:
    """How far the correlations between sequences' gradients [B, T, D] are from those of equal ones."""
    flat = gradients.detach().reshape(len(gradients), -1).double()
    flat = flat - flat.mean(dim=1, keepdim=True)
    unit = torch.nan_to_num(flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30))
    values = torch.linalg.eigvalsh(unit @ unit.T).clamp_min(0) + 1e-5
    return float(-(values.log() + 1 / values).sum()) / 1e3


def _spectrum(hidden: Tensor) -> list[float]:
    """The spread of outputs [B, T, H], as a logarithm, and in how many directions they vary."""
    flat = torch.nan_to_num(hidden.reshape(-1, hidden.shape[-1]).double(), nan=0.0, posinf=1e6, neginf=-1e6)
    flat = flat - flat.mean(dim=0)
    values = torch.linalg.eigvalsh(flat.T @ flat / len(flat)).clamp_min(0)
    ratio = float(values.sum() ** 2 / (values**2).sum().clamp_min(1e-30))
    return [_log(float(flat.std(dim=0).mean())), ratio]


def _log(value: float) -> float:
    return math.log10(min(max(value, 1 / _LARGE), _LARGE)) if math.isfinite(value) else math.log10(_LARGE)


# ---- what is predicted ------------------------------------------------------------------------


@functools.cache
def invented_language(length: int = 120_000, seed: int = 23) -> NDArray[np.int64]:
    """Symbols below SYMBOLS of a language made for this: int64 [length], the same everywhere.

    Words of up to 7 letters, whose letters follow each other as in a language; a word is chosen by how common it is,
    by the class of the word before, and by the topic, which changes once in some 50 words: the last symbol, the last
    few, the last word and long ago all tell something of the next one.
    """
    rng = np.random.default_rng(seed)
    letters = rng.gamma(0.35, size=(27, 26)) + 1e-3  # the last row: first letters
    words, classes, topics = 600, 8, 24
    lexicon = [_word(letters, rng) for _ in range(words)]
    of = rng.integers(0, classes, words)
    common = 1 / (np.arange(words) + 3.0)
    follow = rng.gamma(0.4, size=(classes, classes)) + 0.01
    topic = np.exp(rng.normal(0, 1.5, size=(topics, words)))
    chances = np.cumsum((common * follow[:, of])[:, None, :] * topic, axis=2)
    made: list[int] = []
    before, about = 0, 0
    while len(made) < length:
        if rng.random() < 0.02:
            about = int(rng.integers(topics))
        word = _drawn(chances[before, about], rng)
        before = int(of[word])
        made += lexicon[word]
        stop = rng.random() < 0.12
        made += ([27, 28] if rng.random() < 0.3 else [27, 26]) if stop else [26]
    return np.array(made[:length], dtype=np.int64)


def _word(letters: Floats, rng: np.random.Generator) -> list[int]:
    chances, at, word = np.cumsum(letters, axis=1), 26, []
    for _ in range(int(rng.integers(1, 4) + rng.integers(0, 5))):
        at = _drawn(chances[at], rng)
        word.append(at)
    return word


def _drawn(cumulative: Floats, rng: np.random.Generator) -> int:
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1]))


def symbols_of(text: str) -> NDArray[np.int64]:
    """A text without case, as its 31 most frequent characters and 0 for all others: int64. Raises TrainingError."""
    small = text.lower()
    if len(small) < LEAST:
        raise TrainingError(f"zero-cost scores need a text of {LEAST} characters; received {len(small)}")
    kept = sorted(Counter(small).items(), key=lambda pair: (-pair[1], pair[0]))[: SYMBOLS - 1]
    number = {character: i + 1 for i, (character, _) in enumerate(kept)}
    return np.array([number.get(character, 0) for character in small], dtype=np.int64)
