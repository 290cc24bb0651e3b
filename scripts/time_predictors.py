"""Time predictors from text: processor seconds for 1,000 cells of each space, and for a single warm query.

    python scripts/time_predictors.py --cells 200 --out docs/benchmarks

Parses, encodes and predicts distinct cells that nothing remembers, on one core, with a predictor of 200 `gated` cells.
Least of `--times` passes for 1,000 cells; for a single query the median over cells, each asked once. Other work
on the machine slows what is measured, also on the processor's clock. Writes predictors_speed.md, which names the
processor, and predictors_speed.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from grammar import parse  # noqa: E402
from predictors import Predictor, encode, fit_rows  # noqa: E402
from search_spaces import load_space, space_names  # noqa: E402

FITTED = 200


def main() -> None:
    options = _options()
    names = options.spaces.split(",") if options.spaces else list(space_names())
    model = _predictor()
    rows: dict[str, dict[str, float]] = {}
    for name in names:
        texts = _texts(name, options.cells + options.queries, seed=1)
        texts, queries = texts[: options.cells], texts[options.cells :]
        batch = min(_batch(model, texts) for _ in range(options.times))
        single = np.median([_single(model, text) for text in queries])
        rows[name] = {
            "per_1000_s": round(batch * 1000 / len(texts), 2),
            "single_ms": round(float(single) * 1e3, 1),
        }
        print(
            f"{name:14s} {rows[name]['per_1000_s']:6.2f} s per 1,000   {rows[name]['single_ms']:6.1f} ms",
            flush=True,
        )
    if options.out:
        _write(options.out, rows, f"--cells {options.cells} --times {options.times}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spaces", default="", help="all by default")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--queries", type=int, default=40, help="cells for the single query")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for predictors_speed.md and predictors_speed.json")
    return parser.parse_args()


def _texts(name: str, count: int, seed: int) -> list[str]:
    rng, space = np.random.default_rng(seed), load_space(name)
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(str(space.sample(rng)))
    return list(found)


def _predictor() -> Predictor:
    """Of made-up scores: what they are takes no part in the time."""
    rows = encode(parse(text) for text in _texts("gated", FITTED, seed=0))
    scores = np.random.default_rng(0).normal(size=len(rows))
    return fit_rows(rows, np.where(scores > 1.5, np.inf, scores), check=False)


def _batch(model: Predictor, texts: list[str]) -> float:
    gc.collect()
    start = time.process_time()
    model.predict([parse(text) for text in texts])
    return time.process_time() - start


def _single(model: Predictor, text: str) -> float:
    start = time.process_time()
    model.predict([parse(text)])
    return time.process_time() - start


def _write(folder: Path, rows: dict[str, dict[str, float]], command: str) -> None:
    from nas.bench import machine_facts  # loads torch, which predictions do without

    lines = [
        "# How fast predictors are",
        "",
        "Processor time of one core, from text to prediction, probes included. "
        f"{machine_facts('cpu')['processor']}. Made by",
        "",
        f"    python scripts/time_predictors.py {command} --out docs/benchmarks",
        "",
        "| space | 1,000 cells (goal 20 s) | a single warm query (goal 50 ms) |",
        "|---|---|---|",
        *(
            f"| {name} | {row['per_1000_s']:.1f} s | {row['single_ms']:.0f} ms |"
            for name, row in rows.items()
        ),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictors_speed.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "predictors_speed.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
