"""How much longer the mixture of a space of sketches takes, forward and backward, than a cell of it, on one backend.

    python scripts/time_supernet.py                              # darts_rnn, H=300, B=64, T=35: the sizes of DARTS
    python scripts/time_supernet.py --backend reference --repeats 5
    python scripts/time_supernet.py --device cuda --backend triton --json times.json

Two mixtures are timed: with every choice mixed where it stands, and with the choice of a node's input mixed at the
node's output (`lift`), as DARTS does: that computes each node for each input. The cell is one of median time among
`--cells` cells drawn from the space. Times are the least and the median of the repeats, taken in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _output import output_file
from torch.func import functional_call

from nas.nn import CellModule, build
from search_spaces import Relaxed, SketchSpace, load_space


def main() -> None:
    """Time, print and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="darts_rnn")
    parser.add_argument("--hidden", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cells", type=int, default=3)
    parser.add_argument("--json", type=output_file)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    rows = []
    for backend in args.backend or ["c", "reference"]:
        rows += time_backend(args, backend)
    for row in rows:
        print(
            f"{row['backend']:10} {row['what']:18} {1e3 * row['least']:9.1f} ms  {1e3 * row['median']:9.1f} ms  "
            f"{row['ratio']:5.2f} x",
            flush=True,
        )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


def time_backend(args: argparse.Namespace, backend: str) -> list[dict[str, Any]]:
    """The rows of one backend: the discrete cell and both mixtures."""
    space = load_space(args.space)
    assert isinstance(space, SketchSpace), f"{args.space} is no space of sketches"
    plain, lifted = (Relaxed(space.sketches[0], lift) for lift in (False, True))
    rng = np.random.default_rng(0)
    cells = [plain.derived(plain.template.complete({}, rng)) for _ in range(args.cells)]
    subjects = {f"cell {i}": cell for i, cell in enumerate(cells)}
    subjects |= {"mixture": plain.cell, "mixture, lifted": lifted.cell}
    torch.manual_seed(0)
    x = torch.randn(args.batch, args.steps, args.hidden, device=args.device)
    calls = {
        name: passes(build(cell, args.hidden, args.hidden, backend=backend).to(args.device), x)
        for name, cell in subjects.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(args.repeats):
        for name, call in calls.items():
            taken[name].append(clocked(call, args.device))
    discrete = sorted((name for name in taken if name.startswith("cell")), key=lambda name: min(taken[name]))
    base = discrete[len(discrete) // 2]
    return [
        {
            "backend": backend,
            "what": "cell" if name == base else name,
            "least": min(taken[name]),
            "median": statistics.median(taken[name]),
            "ratio": min(taken[name]) / min(taken[base]),
        }
        for name in (base, "mixture", "mixture, lifted")
    ]


def passes(module: CellModule, x: torch.Tensor) -> Callable[[], None]:
    """Forward and backward, to x, all weights and, in a mixture, all gates."""

    def run() -> None:
        gates = {name: value.clone().requires_grad_() for name, value in module.named_buffers()}
        module.zero_grad(set_to_none=True)
        y, _ = functional_call(module, gates, (x.detach().requires_grad_(),))
        y.sum().backward()

    return run


def clocked(call: Callable[[], None], device: str) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
