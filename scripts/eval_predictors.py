"""Measure predictors on the tables of trained NAS-Bench-NLP cells: class-level splits, mean +- sd over seeds.

    python scripts/eval_predictors.py --seeds 20 -o docs/predictors_table.md

Encodes every cell (about 20 ms each on one core), keeps the rows in --cache, fits and compares. The data is found in
$RECELL_DATA, by default ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from predictors import Benchmark, encode, read_benchmark  # noqa: E402
from predictors.encoding import encoding_key  # noqa: E402
from predictors.evaluation import MEASURES, Bench, evaluate_table  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("RECELL_DATA", ROOT.parent / "shared" / "data")
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--few", type=int, default=3, help="seeds for rows that are fitted to over 1,000 cells"
    )
    parser.add_argument("--parts", default=",".join([*MEASURES, "transfer"]))
    parser.add_argument("--cache", type=Path, help="a folder that keeps the encoded cells")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    table = read_benchmark(Path(options.data))
    bench = Bench(table, encoded(table, options.cache))
    lines = ["| training labels | measured | goal |", "|---|---|---|"]
    for part in options.parts.split(","):
        start = time.process_time()
        rows = evaluate_table(bench, range(options.seeds), [part], options.few)
        lines += [row.text() for row in rows]
        print("\n".join(row.text() for row in rows), f"({time.process_time() - start:.0f} s)", flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def encoded(table: Benchmark, folder: Path | None) -> NDArray[np.float64]:
    """The encoding of all cells, from the cache where it is of this version."""
    path = folder / f"cells-{encoding_key()}-{len(table.cells)}.npy" if folder else None
    if path and path.is_file():
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    start = time.process_time()
    rows = encode(table.cells)
    print(
        f"encoded {len(rows)} cells, {(time.process_time() - start) / len(rows) * 1e3:.1f} ms each",
        flush=True,
    )
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rows.astype(np.float32))
    return rows


if __name__ == "__main__":
    main()
