"""Pretrain the graph network and the text transformer that come with recell, on cells without labels.

    python scripts/pretrain_networks.py -o predictors/pretrained --cache ROWS.npz

The cells are the zoo, those of recell's own table (their scores are not looked at) and samples of every space. Each
is encoded (`predictors.encode`, 15 ms a cell), and a network learns to foresee, from the graph or the text alone, the
leading components of these rows and what an untrained stack makes of neighbouring tokens together (after FBNetV3,
arXiv 2006.02049, which pretrains on free statistics). A tenth of the cells is held out: how much of their variance is
foreseen is written into the file. With --cache rows are kept, and a run goes on where the last one was stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from grammar import Cell, parse, zoo, zoo_names  # noqa: E402
from predictors import encode, encoding_key, read_trials  # noqa: E402
from predictors.networks import embed, pretrain  # noqa: E402
from predictors.shipping import TABLE  # noqa: E402
from predictors.targets import free_targets  # noqa: E402
from predictors.tokens import words  # noqa: E402
from predictors.weights import NETWORKS, Network, save_network  # noqa: E402
from search_spaces import load_space  # noqa: E402

Floats = NDArray[np.float64]

SAMPLES = {
    "nasbench_nlp": 1200, "gated": 500, "diagonal": 400, "mixed": 500, "matrix": 250, "darts_rnn": 60, "tree": 60,
    "depth": 40,
}  # fmt: skip
OUTPUTS = 48
LONGEST = 100  # tokens of the texts that the transformer is pretrained on: longer ones take most of the time
SETTINGS: dict[str, dict[str, Any]] = {
    "graph": {"epochs": 8, "batch": 16, "rate": 2e-3, "sizes": {"width": 64, "inner": 128, "layers": 3}},
    "text": {"epochs": 6, "batch": 32, "rate": 3e-3, "sizes": {"width": 48, "inner": 96, "layers": 2}},
}
CHUNK = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder of the networks")
    parser.add_argument("--cache", type=Path, help="a file (.npz) that keeps encodings by digest")
    parser.add_argument("--kinds", default=",".join(NETWORKS))
    parser.add_argument("--epochs", type=int, default=0, help="0: as the networks that come along had")
    parser.add_argument(
        "--samples", type=float, default=1.0, help="samples of spaces, in parts of the usual numbers"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cells = unlabelled(options.samples)
    rows = encoded(cells, options.cache)
    targets = free_targets(rows, OUTPUTS)
    for kind in options.kinds.split(","):
        network, about = made(kind, cells, targets, options.epochs, options.seed)
        save_network(network, options.out / f"{kind}.recell", about)
        print(kind, about, flush=True)


def made(
    kind: str, cells: list[Cell], targets: Floats, epochs: int, seed: int
) -> tuple[Network, dict[str, object]]:
    """A network that saw nine tenths of the cells, and how well it foresees the others."""
    out = np.random.default_rng(seed).permutation(len(cells)) % 10 == 0
    short = [kind == "graph" or len(words(cell)) <= LONGEST for cell in cells]
    taken = ~out & np.array(short)
    seen = [cell for cell, one in zip(cells, taken, strict=True) if one]
    settings = {**SETTINGS[kind], **({"epochs": epochs} if epochs else {})}
    start = time.process_time()

    def told(epoch: int, error: float) -> None:
        print(f"{kind} {epoch}: {error:.3f} left, {time.process_time() - start:.0f} s", flush=True)

    network = pretrain(kind, seen, targets[taken], seed=seed, on_epoch=told, **settings)
    said = embed(network, [cell for cell, held in zip(cells, out, strict=True) if held])
    gap = ((said - targets[out]) ** 2).sum(axis=0)
    whole = ((targets[out] - targets[~out].mean(axis=0)) ** 2).sum(axis=0)
    return network, {
        "cells": len(seen),
        "held_out": int(out.sum()),
        "foreseen": round(float(1 - gap.sum() / whole.sum()), 3),
        "foreseen_together": round(float(1 - gap[0] / whole[0]), 3),
        "encoding": encoding_key(),
        "epochs": settings["epochs"],
        "seed": seed,
        "seconds": round(time.process_time() - start),
    }


def unlabelled(part: float) -> list[Cell]:
    """Different cells: of the zoo, the table and all spaces."""
    found: dict[str, Cell] = {}
    for cell in [*(zoo(name) for name in zoo_names()), *(parse(trial.cell) for trial in read_trials(TABLE))]:
        found.setdefault(cell.digest, cell)
    for place, (name, count) in enumerate(SAMPLES.items()):
        space, rng = load_space(name), np.random.default_rng([0, place])
        own: dict[str, Cell] = {}
        while len(own) < int(part * count):
            cell = space.sample(rng)
            own.setdefault(cell.digest, cell)
        found = own | found
    return [found[digest] for digest in sorted(found)]


def encoded(cells: list[Cell], cache: Path | None) -> Floats:
    """The encoding of cells; what the cache has is not made again."""
    known: dict[str, Floats] = {}
    if cache and cache.is_file():
        with np.load(cache, allow_pickle=False) as kept:
            if str(kept["key"]) == encoding_key():
                known = dict(zip(kept["digests"].tolist(), kept["rows"], strict=True))
    new = [cell for cell in cells if cell.digest not in known]
    for at in range(0, len(new), CHUNK):
        part = new[at : at + CHUNK]
        known |= zip((cell.digest for cell in part), encode(part).astype(np.float32), strict=True)
        if cache:
            np.savez(cache, key=encoding_key(), digests=np.array([*known]), rows=np.array([*known.values()]))
        print(f"encoded {len(known)} cells", flush=True)
    return np.array([known[cell.digest] for cell in cells], dtype=np.float64)


if __name__ == "__main__":
    main()
