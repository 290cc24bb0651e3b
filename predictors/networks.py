"""The graph network and the text transformer, in torch: imported only where one of them is fitted, loaded or asked.

Both are transformers (Vaswani et al., 2017) before whose layers values are normalised. The text one reads tokens,
with their places (after ONNX-Net, arXiv 2510.04938): of its heads one sees the operation in whose brackets a token
stands and what stands in its own, one the same name elsewhere, one the tokens around, one everything. The graph one
reads the nodes of the typed graph: one head sees operands, one users, one what stands a step of time away, one
everything, so that messages go along and against the flow of data with attention (after FLAN, arXiv 2403.02484).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from grammar import Cell
from predictors.errors import PredictorError
from predictors.relations import HEADS, RELATIONS, SELF, graph_arrays, graph_vocabulary
from predictors.tokens import FARTHEST, TEXT_HEADS, TEXT_RELATIONS, UNKNOWN, text_arrays, text_vocabulary
from predictors.weights import Network, shapes

Floats = NDArray[np.float64]

_UNSEEN = -1e4  # as a bias of attention: far below all others, and yet no NaN where a row sees nothing
_ITEMS = 4096  # tokens or nodes of a batch
_WARM = 0.1  # part of the steps in which the rate rises
_CLIP = 1.0
_DECAY = 0.05
_HIDDEN = (
    0.1  # part of the tokens or nodes of a batch whose word is hidden, so that no cell is learnt by heart
)


@dataclass(frozen=True)
class _Cell:
    """`fields` [T, F] of each token or node, `relations` [T, T], `focus`: the one that is read out."""

    fields: NDArray[np.int64]
    relations: NDArray[np.int8]
    focus: int


def _prepared(kind: str, vocabulary: Sequence[str], cell: Cell) -> _Cell:
    if kind == "graph":
        graph = graph_arrays(cell, vocabulary)
        return _Cell(graph.fields, graph.relations, graph.out)
    text = text_arrays(cell, vocabulary)
    return _Cell(text.fields, text.relations, 0)


@dataclass(frozen=True)
class _Batch:
    fields: Tensor  # [B, T, F]
    relations: Tensor  # [B, T, T]
    known: Tensor  # [B, T], whether there is a token or node
    focus: Tensor  # [B]


def _batch(cells: Sequence[_Cell]) -> _Batch:
    longest = max(len(cell.fields) for cell in cells)
    fields = np.zeros((len(cells), longest, cells[0].fields.shape[1]), dtype=np.int64)
    known = np.zeros((len(cells), longest), dtype=bool)
    relations = np.zeros((len(cells), longest, longest), dtype=np.int64)
    for i, cell in enumerate(cells):
        count = len(cell.fields)
        fields[i, :count] = cell.fields
        known[i, :count] = True
        relations[i, :count, :count] = cell.relations
    focus = torch.tensor([cell.focus for cell in cells])
    return _Batch(torch.from_numpy(fields), torch.from_numpy(relations), torch.from_numpy(known), focus)


def _seen(kind: str) -> Tensor:
    """For each head and relation 0 where the head sees it, else _UNSEEN. Each sees the token or node itself."""
    heads, count, own = (
        (HEADS, RELATIONS, SELF) if kind == "graph" else (TEXT_HEADS, TEXT_RELATIONS, FARTHEST)
    )
    seen = torch.full((len(heads), count), _UNSEEN)
    for head, relations in enumerate(heads):
        seen[head, [*relations, own]] = 0.0
    return seen


def _forward(kind: str, sizes: Mapping[str, int], weights: Mapping[str, Tensor], batch: _Batch) -> Tensor:
    """The outputs of a network [B, outputs]."""
    width, heads = sizes["width"], sizes["heads"]
    x = torch.stack(
        [
            functional.embedding(batch.fields[..., i], weights[f"embed{i}"])
            for i in range(batch.fields.shape[2])
        ]
    ).sum(dim=0)
    count, length, _ = x.shape
    unknown = torch.where(batch.known, 0.0, _UNSEEN)[:, None, None, :]
    seen = _seen(kind)
    for layer in range(sizes["layers"]):
        own = {name.partition(".")[2]: w for name, w in weights.items() if name.startswith(f"layer{layer}.")}
        bias = (own["relations"] + seen)[:, batch.relations].transpose(0, 1) + unknown  # [B, heads, T, T]
        parts = functional.linear(functional.layer_norm(x, (width,), own["norm"]), own["attend"])
        query, key, value = parts.view(count, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + functional.linear(found.transpose(1, 2).reshape(count, length, width), own["merge"])
        inner = functional.linear(functional.layer_norm(x, (width,), own["norm2"]), own["up"], own["up_bias"])
        x = x + functional.linear(functional.gelu(inner), own["down"])
    x = functional.layer_norm(x, (width,), weights["norm"])
    mean = (x * batch.known[..., None]).sum(dim=1) / batch.known.sum(dim=1, keepdim=True)
    both = torch.cat([mean, x[torch.arange(count), batch.focus]], dim=1)
    read = functional.gelu(functional.linear(both, weights["read"], weights["read_bias"]))
    return functional.linear(read, weights["head"], weights["head_bias"])


def embed(network: Network, cells: Sequence[Cell], with_words: bool = False) -> Floats:
    """What a network makes of cells [n, outputs]. Depends on the canonical form of each alone.

    `with_words` adds the sum of the learnt vectors of a cell's words, whatever their order [n, outputs + width].
    """
    weights = {name: torch.from_numpy(array) for name, array in network.arrays.items()}
    found = np.zeros((len(cells), network.sizes["outputs"]))
    prepared = [_prepared(network.kind, network.vocabulary, cell) for cell in cells]
    with torch.no_grad():
        for places in _batches([len(cell.fields) for cell in prepared]):
            made = _forward(network.kind, network.sizes, weights, _batch([prepared[i] for i in places]))
            found[places] = made.numpy()
    if not with_words:
        return found
    vectors = network.arrays["embed0"].astype(np.float64)
    sums = [vectors[cell.fields[:, 0]].sum(axis=0) for cell in prepared]
    return np.concatenate([found, np.array(sums).reshape(len(cells), vectors.shape[1])], axis=1)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of cells of about one length, _ITEMS of their tokens or nodes together."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[place] > _ITEMS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def pretrain(
    kind: str,
    cells: Sequence[Cell],
    targets: Floats,
    *,
    seed: int = 0,
    epochs: int = 20,
    rate: float = 2e-3,
    batch: int = 32,
    sizes: Mapping[str, int] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Network:
    """A network that foresees `targets` [n, outputs] of cells; no cell needs a label.

    `sizes` has width, inner and layers. AdamW, the rate rises and falls as a cosine. Same seed, same network on the
    same machine. `on_epoch` hears of each epoch and its error, in parts of the variance of the targets.
    Raises PredictorError for targets that do not fit the cells.
    """
    if targets.ndim != 2 or len(targets) != len(cells) or not len(cells):
        raise PredictorError(
            f"there is a row of targets for each cell; received {len(cells)}, {targets.shape}"
        )
    vocabulary = graph_vocabulary() if kind == "graph" else text_vocabulary()
    made = {
        "width": 64,
        "inner": 128,
        "layers": 3,
        **(sizes or {}),
        "heads": len(HEADS),
        "outputs": targets.shape[1],
    }
    start = _initial(kind, len(vocabulary), made, torch.Generator().manual_seed(seed))
    start["head_bias"] = torch.from_numpy(targets.mean(axis=0)).float()
    weights = {name: array.requires_grad_() for name, array in start.items()}
    prepared = [_prepared(kind, vocabulary, cell) for cell in cells]
    wanted = torch.from_numpy(targets).float()
    unit = wanted.var(dim=0).sum()
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(weights.values(), lr=rate, weight_decay=_DECAY)
    total, step = epochs * -(-len(cells) // batch), 0
    for epoch in range(epochs):
        errors = []
        for places in _shuffled([len(cell.fields) for cell in prepared], batch, rng):
            part = min((step + 1) / (_WARM * total), 0.5 + 0.5 * float(np.cos(np.pi * step / total)))
            for group in optimizer.param_groups:
                group["lr"] = rate * part
            shown = [_hiding(prepared[i], vocabulary.index(UNKNOWN), rng) for i in places]
            said = _forward(kind, made, weights, _batch(shown))
            loss = (said - wanted[places]).square().sum(dim=1).mean() / unit
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), _CLIP)
            optimizer.step()
            errors.append(float(loss.detach()))
            step += 1
        if on_epoch:
            on_epoch(epoch, float(np.mean(errors)))
    return Network(kind, vocabulary, made, {name: _rounded(array) for name, array in weights.items()})


def _hiding(cell: _Cell, unknown: int, rng: np.random.Generator) -> _Cell:
    fields = cell.fields.copy()
    fields[rng.random(len(fields)) < _HIDDEN, 0] = unknown
    return _Cell(fields, cell.relations, cell.focus)


def _rounded(array: Tensor) -> NDArray[np.float32]:
    """As it is kept in files: what fits 16 bits."""
    return array.detach().to(torch.float16).to(torch.float32).numpy()


def _initial(
    kind: str, words: int, sizes: Mapping[str, int], generator: torch.Generator
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, shape in shapes(kind, words, sizes).items():
        last = name.rpartition(".")[2]
        if last in ("norm", "norm2"):
            found[name] = torch.ones(shape)
        elif last.endswith("bias") or last == "relations":
            found[name] = torch.zeros(shape)
        else:
            spread = 0.3 if last.startswith("embed") else shape[-1] ** -0.5
            if last in ("merge", "down"):
                spread /= (2 * sizes["layers"]) ** 0.5
            found[name] = torch.randn(shape, generator=generator) * spread
    return found


def _shuffled(lengths: Sequence[int], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Batches in a random order, each of cells of about one length, so that little of it is padding."""
    noisy = np.array(lengths) * rng.uniform(0.8, 1.25, len(lengths))
    order = np.argsort(noisy, kind="stable")
    parts = [order[at : at + size].tolist() for at in range(0, len(order), size)]
    return [parts[i] for i in rng.permutation(len(parts))]
