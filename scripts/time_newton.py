"""How long `solver="newton"` takes beside the loops that it replaces, and how many rounds it needs.

    python scripts/time_newton.py                                     # the CPU: generated C, eager torch, Newton
    python scripts/time_newton.py --device cuda --exact triton --steps 1024,8192
    python scripts/time_newton.py --rounds                            # only rounds, for vectors of growing size

Cells: the zoo's elementwise nonlinear ones, and a GRU and an LSTM whose gates see the state through a vector (`diag`)
drawn from N(0, 0.5); `--rounds` draws it from N(0, s). One thread on the CPU; times by the processor's clock there, by
the wall's on a GPU, each the least of interleaved repeats, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _output import output_file

from grammar import Cell, parse, zoo
from nas.nn import CellModule, build

GRU = (
    "cell gru_diag { state h: vec; z = sigmoid(lin(x) + diag(h)); r = sigmoid(lin(x) + diag(h));"
    " h' = lerp(z, h, tanh(lin(x) + diag(r * h))); out h' }"
)
LSTM = (
    "cell lstm_diag { state h: vec, c: vec; i = sigmoid(lin(x) + diag(h)); f = sigmoid(lin(x) + diag(h));"
    " o = sigmoid(lin(x) + diag(h)); c' = f * c + i * tanh(lin(x) + diag(h)); h' = o * tanh(c'); out h' }"
)
CELLS = {cell.name: cell for cell in (zoo("indrnn"), zoo("sru"), parse(GRU), parse(LSTM))}
SIZES = ((8, 64, 64), (32, 128, 64), (16, 128, 128), (1, 4096, 64))


def main() -> None:
    """Time, print and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--exact", default="c", help="the backend of the loop")
    parser.add_argument("--steps", help="lengths instead of the sizes, comma-separated")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", action="store_true")
    parser.add_argument("--json", type=output_file)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Newton's method did not converge")
    rows = []
    for row in rounds(args.device) if args.rounds else times(args):
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


def made(cell: Cell, width: int, spread: float, device: str, **options: Any) -> CellModule:
    """A module; where the vectors of a cell have no initial values of their own, they are from N(0, spread)."""
    generator = torch.Generator().manual_seed(0)
    module = build(cell, width, width, **options)
    module.reset_parameters(generator)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith(".w") and cell.name != "indrnn":
                value.copy_(spread * torch.randn(value.shape, generator=generator))
    return module.to(device)


def times(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Milliseconds of a forward and backward pass, and ratios."""
    sizes = SIZES if args.steps is None else tuple((16, int(n), 768) for n in args.steps.split(","))
    kinds: dict[str, dict[str, Any]] = {
        "exact": {"backend": args.exact},
        "eager": {"backend": "reference"},
        "newton": {"backend": args.exact, "solver": "newton"},
    }
    for cell in CELLS.values():
        for batch, steps, width in sizes:
            x = torch.randn(batch, steps, width, device=args.device)
            modules = {name: made(cell, width, 0.5, args.device, **kind) for name, kind in kinds.items()}
            calls = {name: passes(module, x) for name, module in modules.items()}
            taken = least(calls, args.repeats, args.device)
            count = modules["newton"].newton
            yield (
                {"cell": cell.name, "B": batch, "T": steps, "H": width}
                | {name: f"{value:.2f} ms" for name, value in taken.items()}
                | {f"newton/{name}": f"{taken['newton'] / taken[name]:.2f}" for name in ("exact", "eager")}
                | {"rounds": count.most, "returned": f"{count.returned} of {count.calls}"}
            )


def passes(module: CellModule, x: torch.Tensor) -> Callable[[], None]:
    """One pass forward and backward."""

    def call() -> None:
        y, _ = module(x)
        assert isinstance(y, torch.Tensor)
        y.square().mean().backward()

    return call


def least(calls: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, float]:
    """The least milliseconds of each call, after two that are not timed."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(2 + repeats):
        for name, call in calls.items():
            before = clock(device)
            call()
            if turn >= 2:
                taken[name].append(1e3 * (clock(device) - before))
    return {name: min(samples) for name, samples in taken.items()}


def clock(device: str) -> float:
    """Seconds; those of the processor, or of the wall when a GPU is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def rounds(device: str) -> Iterator[dict[str, Any]]:
    """Rounds until the states follow one another, `-` where that was not reached; B = 4, H = 32."""
    for cell in CELLS.values():
        for spread in (0.5, 1.0, 2.0, 4.0):
            row: dict[str, Any] = {"cell": cell.name, "s": spread}
            for steps in (64, 256, 1024, 4096):
                module = made(cell, 32, spread, device, backend="reference", solver="newton")
                x = torch.randn(4, steps, 32, generator=torch.Generator().manual_seed(1))
                with torch.no_grad():
                    module(x.to(device))
                row[f"T{steps}"] = "-" if module.newton.returned else module.newton.rounds
            yield row


if __name__ == "__main__":
    main()
