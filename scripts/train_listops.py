#!/usr/bin/env python3
"""Train a cell on ListOps and print its accuracy by length.

A tree cell gets the parse (--policy given) or finds its own: left, balanced, easy-first, beam. A cell over time, such
as zoo:lstm, reads the tokens from left to right.

    scripts/train_listops.py zoo:grc
    scripts/train_listops.py zoo:grc --policy beam --steps 4000
    scripts/train_listops.py zoo:lstm --width 128
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from nas.errors import NasError
from nas.nn import Stack
from nas.tasks import Batch, load_task
from nas.tasks.listops import SHORTEST, ListOps
from nas.training import TrialResult, TrialSpec, load_trained, train

WIDE = 5  # lengths that share a row of the table


def arguments() -> argparse.Namespace:
    """The command line."""
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell", help="zoo:NAME, a file, or the text of a cell")
    parser.add_argument(
        "--policy", help="of a tree cell: given (the default), left, balanced, easy-first or beam"
    )
    parser.add_argument("--width", type=int, default=64, help="hidden size (default 64)")
    parser.add_argument("--steps", type=int, default=3000, help="steps of training (default 3000)")
    parser.add_argument("--batch", type=int, default=64, help="expressions in a step (default 64)")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default 3e-3)")
    parser.add_argument(
        "--longest", type=int, default=20, help="tokens of the longest in training (default 20)"
    )
    parser.add_argument(
        "--tested", type=int, help="tokens of the longest in testing (default: as in training)"
    )
    parser.add_argument(
        "--count", type=int, default=200, help="test expressions of each length (default 200)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    return parser.parse_args()


def main() -> int:
    """Train, test, print; 0 when it worked, 1 when the cell cannot be trained."""
    given = arguments()
    torch.set_num_threads(given.threads)
    task = load_task("listops")
    assert isinstance(task, ListOps)
    recipe = task.recipe.replace(
        steps=given.steps, batch_size=given.batch, sequence_length=given.longest, lr=given.lr
    )
    spec = TrialSpec(
        cell_text(given.cell), "listops", recipe, width=given.width, seed=given.seed, policy=given.policy
    )
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="recell-") as folder:
        place = Path(folder) / "model"
        result = train(spec, save_to=place, on_progress=None if given.json else show_progress)
        if result.status != "ok":
            print(f"{result.status}: {result.message}", file=sys.stderr)
            return 1
        model = load_trained(place)[0]
    seconds = time.process_time() - started
    lengths = range(SHORTEST, (given.tested or given.longest) + 1)
    right = accuracies(model, task.splits("test", lengths, given.count))
    report(given, result, seconds, right)
    return 0


def cell_text(given: str) -> str:
    """The text of a cell from what the command line calls it."""
    from grammar import parse, zoo

    if given.startswith("zoo:"):
        return str(zoo(given.removeprefix("zoo:")))
    return str(parse(Path(given).read_text() if Path(given).is_file() else given))


def show_progress(steps: int, loss: float) -> None:
    """A line that the next one replaces."""
    print(f"\r{steps} steps, loss {loss:.4f}", end="", file=sys.stderr, flush=True)


def accuracies(model: Stack, batches: Iterable[Batch]) -> dict[int, float]:
    """The part of right answers for each length."""
    right: dict[int, list[float]] = {}
    with torch.no_grad():
        for batch in batches:
            logits, _ = model(**batch.inputs())
            answers, targets = ListOps.answers(logits, batch)
            assert batch.lengths is not None
            for length, hit in zip(
                batch.lengths.tolist(), (answers.argmax(-1) == targets).tolist(), strict=True
            ):
                right.setdefault(length, []).append(float(hit))
    return {length: sum(hits) / len(hits) for length, hits in right.items()}


def report(given: argparse.Namespace, result: TrialResult, seconds: float, right: dict[int, float]) -> None:
    """Accuracy on test expressions, in rows of neighbouring lengths and as a whole (each length counts the same)."""
    rows = {}
    for first in range(SHORTEST // WIDE * WIDE, max(right) + 1, WIDE):
        own = [length for length in range(first + 1, first + WIDE + 1) if length in right]
        if own:
            rows[f"{own[0]}-{own[-1]}"] = sum(right[length] for length in own) / len(own)
    whole = sum(right.values()) / len(right)
    if given.json:
        facts = {"accuracy": whole, "by_length": right, "params": result.params, "seconds": round(seconds, 1)}
        print(json.dumps({**vars(given), **facts}))
        return
    what = f"{given.cell} {given.policy or ''}".strip()
    print(f"\n{what}: {result.params:,} parameters, {seconds:.0f} s of processor time in training\n")
    for name, value in rows.items():
        print(f"  length {name:>6}  {value:7.2%}")
    print(f"  {'all':>13}  {whole:7.2%}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (NasError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
