"""Measure predictors on the tables of trained NAS-Bench-NLP cells: class-level splits, mean +- sd over seeds.

    python scripts/eval_predictors.py --seeds 20 --few 3 --cache CACHE --out docs/benchmarks

Encodes every cell (15 ms each on one core), fits and compares; about 10 s of one core for each seed, 30 s for each of
the `few` seeds of rows with over 1,000 labels. With --cache it goes on where it was stopped: the folder keeps the
encoding, the priors and what each seed gave, by the text of `predictors`. --ablation and --curves measure groups of
columns and numbers of labels too, over the few seeds. Writes predictors.md and predictors.json, or --page NAME: the
parts `models` and `costs` compare the models of `predictors.MODELS`, for models.md. The data is found in $RECELL_DATA,
by default ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from grammar import DIGEST_VERSION  # noqa: E402
from predictors import Benchmark, Predictor, encode, encoding_key, load, read_benchmark  # noqa: E402
from predictors.comparison import compare, costs  # noqa: E402
from predictors.evaluation import (  # noqa: E402
    MEASURES,
    Bench,
    Row,
    prior_of,
    rows_of,
    transfer,
    wt2_with_prior,
)
from predictors.strangers import strangers  # noqa: E402

TABLE = ("ptb", "wt2", "divergence", "many", "transfer", "both", "novelty")
FEW = frozenset({"many", "transfer", "ablation", "curves"})  # parts of few seeds

Found = dict[tuple[str, int], Mapping[str, float]]


def main() -> None:
    options = _options()
    parts = [*options.parts.split(","), *(["ablation"] * options.ablation), *(["curves"] * options.curves)]
    table = read_benchmark(options.data)
    bench = Bench(table, encoded(table, options.cache))
    found, seconds = measured(bench, parts, options.seeds, options.few, options.cache)
    rows = rows_of(found[key] for key in sorted(found, key=lambda key: (parts.index(key[0]), key[1])))
    print("\n".join(row.text() for row in rows), f"\n{seconds:.0f} s", flush=True)
    if options.out:
        command = (
            f"--seeds {options.seeds} --few {options.few} --parts {','.join(parts)} --out docs/benchmarks"
            + (f" --page {options.page}" if options.page != "predictors" else "")
        )
        write(options.out, rows, table, f"python scripts/eval_predictors.py {command}", options.page)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = Path(os.environ.get("RECELL_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--few", type=int, default=3, help="seeds for rows with over 1,000 labels")
    parser.add_argument(
        "--parts", default=",".join(TABLE), help="some of " + ", ".join([*MEASURES, *TABLE[-3:]])
    )
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--cache", type=Path, help="a folder that keeps what has been measured")
    parser.add_argument("--page", default="predictors", help="the name of the page that is written")
    parser.add_argument("--out", type=Path, help="a folder for the page and its numbers (.json)")
    return parser.parse_args()


def encoded(table: Benchmark, folder: Path | None) -> NDArray[np.float64]:
    """The encoding of all cells, from the cache where it is of this version."""
    path = folder / f"cells-{encoding_key()}-{DIGEST_VERSION}-{len(table.cells)}.npy" if folder else None
    if path and path.is_file():
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    start = time.process_time()
    rows = encode(table.cells)
    each = (time.process_time() - start) / len(rows)
    print(f"encoded {len(rows)} cells, {each * 1e3:.1f} ms each", flush=True)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rows.astype(np.float32))
    return rows.astype(np.float32).astype(np.float64)


def measured(
    bench: Bench, parts: list[str], seeds: int, few: int, folder: Path | None
) -> tuple[Found, float]:
    """What each part gave for each seed; what the cache has is not measured again."""
    journal = folder / f"seeds-{_version()}.jsonl" if folder else None
    found: Found = {}
    if journal and journal.is_file():
        for line in journal.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["part"], row["seed"]] = row["found"]
    wanted = [(part, seed) for seed in range(seeds) for part in parts if seed < few or part not in FEW]
    priors: dict[int, Predictor] = {}

    def prior(seed: int) -> Predictor:
        if seed not in priors:
            priors[seed] = _kept_prior(bench, seed, folder)
        return priors[seed]

    start = time.process_time()
    for part, seed in wanted:
        if (part, seed) in found:
            continue
        found[part, seed] = _part(part, few, prior)(bench, seed)
        if journal:
            line = json.dumps({"part": part, "seed": seed, "found": found[part, seed]})
            with journal.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    return {key: found[key] for key in wanted}, time.process_time() - start


def _part(
    part: str, few: int, prior: Callable[[int], Predictor]
) -> Callable[[Bench, int], Mapping[str, float]]:
    if part == "transfer":
        return lambda bench, seed: transfer(bench, prior(seed))
    if part == "both":
        return lambda bench, seed: wt2_with_prior(bench, seed, prior(seed % few))
    others = {"novelty": strangers, "models": compare, "costs": costs}
    return others.get(part) or MEASURES[part]


def _kept_prior(bench: Bench, seed: int, folder: Path | None) -> Predictor:
    path = folder / f"prior-{_version()}-{seed}.recell" if folder else None
    if path and path.is_file():
        return load(path)
    made = prior_of(bench, seed)
    if path:
        made.save(path)
        return load(path)  # its rows are of float32 in a file: the same whether it is read or made
    return made


def _version() -> str:
    """16 hex digits that change when what is measured may change."""
    texts = [path.read_bytes() for path in sorted((ROOT / "predictors").glob("*.py"))]
    return hashlib.sha256(b"".join([*texts, encoding_key().encode(), bytes([DIGEST_VERSION])])).hexdigest()[
        :16
    ]


def write(folder: Path, rows: list[Row], table: Benchmark, command: str, page: str = "predictors") -> None:
    """The table as a page and as numbers; `command` makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = [int(np.isfinite(column).sum()) for column in (table.ptb, table.wt2)]
    lines = [
        "# How good predictors are" + ("" if page == "predictors" else f": {page}"),
        "",
        "Made by this command, from the tables of NAS-Bench-NLP cells of the shared data:",
        "",
        f"    {command}",
        "",
        f"{counts[0]:,} cells with a finite loss on Penn Treebank (PTB), {counts[1]:,} on WikiText-2 (WT2). Values are",
        "Kendall's tau-b unless the row says otherwise, mean +- sd over seeds (splits). A class of equal cells is one",
        "cell, so no twin is on both sides of a split. Probes and learners were chosen by looking at some of these",
        "splits: read differences of 0.01 as nothing.",
        "",
        "| training labels | measured | seeds | goal |",
        "|---|---|---|---|",
        *(row.text() for row in rows),
    ]
    (folder / f"{page}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    numbers = {
        "command": command,
        "encoding": encoding_key(),
        "code": _version(),
        "rows": {
            row.name: {"goal": row.goal or None, "values": [round(v, 4) for v in row.values]} for row in rows
        },
    }
    (folder / f"{page}.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
