"""Micro-training: what a very small stack of a cell learns in its first steps, as columns for predictors.

Three layers of width 16 learn to predict symbols for 400 steps, which takes about a second of one core for a cell that
was never built before, half of it in the C compiler. The losses on the way are honest, as each window of
the stream is seen once, and say what probes of random weights cannot: whether gradients reach what a cell could do.
Beside them stand zero-cost scores, before and after: norms of gradients, how far back those of the last answer
reach, saliency, the correlation of Jacobians, the spectrum of the outputs (`zero_cost`).

The symbols are of an invented language, made here, so that the columns are the same everywhere; or of a text.
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
from torch import Tensor, nn
from torch.nn import functional

from grammar import Cell, CellBuildError
from nas.errors import BuildError, TrainingError
from nas.nn import Stack, detach_state

MICRO_VERSION = 1  # raised when any column changes what it means
SYMBOLS, WIDTH, LAYERS = 32, 16, 3
ROWS, WINDOW, STEPS, EVERY = 16, 16, 400, 20  # streams, tokens of a window, steps, steps between losses
_RATE, _CLIP, _WARM, _FALLS = 8e-3, 1.0, 20, 0.7  # the rate falls in the last 30 % of the steps
_BETAS = (0.9, 0.99)
_POINTS = (1, 2, 5, 10, 15)  # places in the curve whose losses are columns; the mean of the last two is one too
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


def micro_names() -> tuple[str, ...]:
    """The names of the columns of `micro_columns`."""
    losses = [f"loss{(point + 1) * EVERY}" for point in _POINTS]
    late = ["loss_end", "fall_late", "fall_last"]
    return (
        *losses,
        *late,
        *(f"before.{n}" for n in _SCORES),
        *(f"after.{n}" for n in _SCORES),
        "gradient_first",
        "gradient_last",
    )


def micro_key(text: str | None = None) -> str:
    """16 hex digits that change when the columns do: predictors keep it beside what they were fitted to."""
    source = "invented" if text is None else text
    return hashlib.sha256(
        f"{MICRO_VERSION}:{source}:{','.join(micro_names())}".encode()
    ).hexdigest()[:16]


def micro_columns(
    cells: Iterable[Cell], text: str | None = None, *, seed: int = 1, backend: str = "auto"
) -> Floats:
    """One row per cell, [n, len(micro_names())], to be `extras` of `predictors.fit`: NaN for cells that have none.

    These are cells over trees or whole sequences, and those that fit no width of 16. The canonical form is trained,
    so that cells of equal digests have equal rows. `text` takes the place of the invented language: its 31 most
    frequent characters, without case. Raises TrainingError where it is too short.
    """
    stream = invented_language() if text is None else symbols_of(text)
    length = len(stream) // ROWS
    rows = torch.from_numpy(stream[: ROWS * length].reshape(ROWS, length))
    made = []
    for cell in cells:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(_trained(cell.canonical(), rows, backend))
    return np.array(made, dtype=np.float64).reshape(len(made), len(micro_names()))


def _trained(cell: Cell, rows: Tensor, backend: str) -> list[float]:
    try:
        model = Stack(cell, SYMBOLS, SYMBOLS, WIDTH, num_layers=LAYERS, backend=backend)
        first = _Window(rows, 0)
        before = zero_cost(model, first.x, first.y)
    except (BuildError, CellBuildError):
        return [math.nan] * len(micro_names())
    curve, norms = _fit(model, rows)
    last = _Window(rows, STEPS - 1)
    after = zero_cost(model, last.x, last.y) if len(curve) == STEPS // EVERY else [-9.0] * len(before)
    curve += [_UNTRAINED] * (STEPS // EVERY - len(curve))
    end = sum(curve[-2:]) / 2
    falls = [curve[_POINTS[2]] - curve[-1], curve[_POINTS[3]] - curve[-1]]
    gradients = [_log(float(np.mean(part))) for part in (norms[:EVERY], norms[-50:])]
    return [*(curve[p] for p in _POINTS), end, *falls, *before, *after, *gradients]


_UNTRAINED = 9.0  # the loss where training failed: log(32) = 3.5 is that of the trivial answer


class _Window:
    """The tokens of one step, and those that come after each: int64 [ROWS, WINDOW]."""

    def __init__(self, rows: Tensor, step: int) -> None:
        at = step * WINDOW % (rows.shape[1] - WINDOW - 1)
        self.x, self.y = rows[:, at : at + WINDOW], rows[:, at + 1 : at + WINDOW + 1]


def _fit(model: Stack, rows: Tensor) -> tuple[list[float], list[float]]:
    """Losses, each the mean of EVERY steps, until one is not finite; and the norm of each step's gradient."""
    flat, gradient = _flattened(model)
    mean, square = torch.zeros_like(flat), torch.zeros_like(flat)
    curve: list[float] = []
    norms: list[Tensor] = []
    losses: list[Tensor] = []
    state = None
    for step in range(STEPS):
        window = _Window(rows, step)
        logits, state = model(window.x, state=state)
        state = detach_state(state)
        loss = functional.cross_entropy(logits.reshape(-1, SYMBOLS), window.y.reshape(-1))
        gradient.zero_()
        torch.autograd.backward(loss)
        losses.append(loss.detach())
        norms.append(gradient.norm())
        gradient.mul_((_CLIP / (norms[-1] + 1e-6)).clamp(max=1.0))
        mean.lerp_(gradient, 1 - _BETAS[0])
        square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        fair = [1 - beta ** (step + 1) for beta in _BETAS]
        root = square.sqrt().mul_(1 / math.sqrt(fair[1])).add_(1e-8)
        flat.addcdiv_(mean, root, value=-_rate(step) / fair[0])
        if (step + 1) % EVERY == 0:
            found = float(torch.stack(losses).mean())
            losses = []
            if not math.isfinite(found):
                break
            curve.append(found)
    return curve, [float(norm) for norm in norms]


def _flattened(model: nn.Module) -> tuple[Tensor, Tensor]:
    """All weights in one array, of which the module's are views, and their gradients: a third of the time of a loop."""
    weights = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat([p.detach().reshape(-1) for p in weights])
    gradient, at = torch.zeros_like(flat), 0
    for p in weights:
        p.data = flat[at : at + p.numel()].view_as(p)
        p.grad = gradient[at : at + p.numel()].view_as(p)
        at += p.numel()
    return flat, gradient


def _rate(step: int) -> float:
    """Adam's rate: a short warm-up, a plateau, a fall to a tenth (Kingma and Ba, 2015)."""
    late = max(0.1, (STEPS - step) / (STEPS * (1 - _FALLS))) if step >= STEPS * _FALLS else 1.0
    return _RATE * min(1.0, (step + 1) / _WARM) * late


def zero_cost(model: Stack, x: Tensor, y: Tensor) -> list[float]:
    """Scores of a model as it stands, on one batch of tokens `x` and answers `y`, int64 [B, T]. Norms are decimal logs.

    The norm of the gradients of the inputs and of the cell's weights; the sum of |weight x gradient| (Lee et al.,
    "SNIP", 2019); the norm of the gradient of the last answer's loss by how many steps before an input is; how
    uncorrelated these gradients are between sequences (Mellor et al., 2021); the size and participation ratio of outputs.
    """
    inputs = model.input(x).detach().requires_grad_(True)
    hidden, _ = model.cell(inputs, None, None)
    logits = model.head(cast(Tensor, hidden))
    loss = functional.cross_entropy(logits.reshape(-1, SYMBOLS), y.reshape(-1))
    weights = [p for p in model.cell.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [inputs, *weights], retain_graph=True, allow_unused=True)
    pairs = [(w.detach(), g) for w, g in zip(weights, found[1:], strict=True) if g is not None]
    saliency = sum(float((w * g).abs().sum()) for w, g in pairs)
    whole = math.sqrt(sum(float((g**2).sum()) for _, g in pairs))
    last = functional.cross_entropy(logits[:, -1], y[:, -1], reduction="sum")
    (reached,) = torch.autograd.grad(last, [inputs], allow_unused=True)
    back = torch.zeros_like(inputs) if reached is None else reached
    profile = (back.detach() ** 2).sum(dim=-1).mean(dim=0).sqrt()
    lags = [_log(float(profile[x.shape[1] - 1 - lag])) for lag in _LAGS]
    own = 0.0 if found[0] is None else float(found[0].norm())
    return [_log(own), _log(whole), _log(saliency), *lags, _uncorrelated(back), *_spectrum(hidden.detach())]


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


# ---- what is learnt ---------------------------------------------------------------------------


@functools.cache
def invented_language(length: int = 120_000, seed: int = 23) -> NDArray[np.int64]:
    """Symbols below SYMBOLS of a language made for this: int64 [length], the same everywhere.

    Words of up to 7 letters, whose letters follow each other as in a language; a word is chosen by how common it is,
    by the class of the word before, and by the topic, which changes once in some 50 words. So there is something to learn
    from the last symbol, from the last few, from the last word and from long ago.
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
    if len(small) < ROWS * WINDOW * STEPS // 4:
        raise TrainingError(
            f"micro-training needs a text of {ROWS * WINDOW * STEPS // 4} characters; received {len(small)}"
        )
    counted: Sequence[tuple[str, int]] = Counter(small).most_common()
    kept = sorted(counted, key=lambda pair: (-pair[1], pair[0]))[: SYMBOLS - 1]
    number = {character: i + 1 for i, (character, _) in enumerate(kept)}
    return np.array([number.get(character, 0) for character in small], dtype=np.int64)
