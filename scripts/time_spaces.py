"""How long it takes to draw cells from each search space on one core, and whether they are what they should be.

    python scripts/time_spaces.py [SPACE ...] [-n 100000] [--check 100000] [--parse 10000]

Time is processor time and includes making the space's tables. Cells are checked (the check is not timed): that they
are well formed and within the limits, the first ones (--parse) also that they parse back and are members. Exits 1 if a
space takes five minutes or more for 100,000 cells, or if a cell is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from grammar import Cell, parse
from search_spaces import Space, load_space, space_names

MOST = 300.0  # seconds for 100,000 cells
CHUNK = 1_000  # cells that are held at once


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spaces", nargs="*", help="names or files; without any, all shipped spaces")
    parser.add_argument("-n", type=int, default=100_000, help="cells of each space")
    parser.add_argument("--check", type=int, help="how many are checked; without it, all")
    parser.add_argument("--parse", type=int, default=10_000, help="how many are parsed back and looked up")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = False
    for name in given.spaces or space_names():
        checked = given.n if given.check is None else given.check
        seconds, wrong = measure(load_space(name), given.n, checked, given.parse, given.seed)
        failed |= bool(wrong) or seconds >= MOST * given.n / 100_000
        print(f"{name}: {given.n:,} cells in {seconds:.1f} s, {wrong} of {checked:,} wrong", flush=True)
    return int(failed)


def measure(space: Space, number: int, checked: int, parsed: int, seed: int) -> tuple[float, int]:
    """Seconds of processor time, and how many cells are wrong."""
    rng = np.random.default_rng(seed)
    seconds, wrong = 0.0, 0
    for start in range(0, number, CHUNK):
        begin = time.process_time()
        cells = [space.sample(rng) for _ in range(min(CHUNK, number - start))]
        seconds += time.process_time() - begin
        wrong += sum(is_wrong(space, cell, i < parsed) for i, cell in enumerate(cells, start) if i < checked)
    return seconds, wrong


def is_wrong(space: Space, cell: Cell, parsed: bool) -> bool:
    """Whether a cell is not well formed or not within the limits; with `parsed`, or no member."""
    graph = cell.graph  # raises if it is not well formed
    if not graph.nodes or len(cell.states) > (space.limits.states or len(cell.states)):
        return True
    if not parsed:
        return False
    return (
        parse(str(cell)) is not cell or not space.limits.least_size <= space.size(cell) <= space.limits.size
    )


if __name__ == "__main__":
    sys.exit(main())
