"""A benchmark: cells at sizes on backends, against baselines, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from grammar import Cell, analyse
from nas.bench.products import EXTRA, FACTOR, products_alone, transcendental_ms
from nas.bench.sizes import BenchSize
from nas.bench.subjects import cell_module, eager_loop, forward, sizes_of, torch_layer, training
from nas.bench.timing import Subject, Times, interleaved
from nas.errors import BenchError, BuildError

PRODUCTS = "products"  # the matrix products alone, among the subjects
PASSES = ("forward", "training")  # a forward pass; forward + backward


@dataclass(frozen=True)
class Plan:
    """What to time. `seconds` bounds the time for one cell at one size and pass, `repeats` its rounds."""

    sizes: tuple[BenchSize, ...]
    backends: tuple[str, ...]
    against: tuple[str, ...] = ()
    passes: tuple[str, ...] = PASSES
    repeats: int = 15
    seconds: float = 10.0
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """One cell at one size, under the name it was given.

    `times` holds the subjects of each pass: backends, baselines, `products`. `refused` says why a backend or baseline
    has none. `transcendental` are the milliseconds of the transcendental functions by the aim's rate, forward and
    backward.
    """

    name: str
    cell: Cell
    group: str
    size: BenchSize
    times: dict[str, dict[str, Times]]
    transcendental: float
    refused: dict[str, str] = field(default_factory=dict)

    def ms(self, subject: str, which: str = "training", statistic: str = "median") -> float | None:
        """The milliseconds of a subject, None where it was not timed."""
        times = self.times.get(which, {}).get(subject)
        return None if times is None else float(getattr(times, statistic))

    def bound(self, statistic: str = "median") -> float | None:
        """Matrix products + transcendental functions, forward and backward, in ms."""
        products = self.ms(PRODUCTS, "training", statistic)
        return None if products is None else products + self.transcendental

    def limit(self, statistic: str = "median") -> float | None:
        """What the aim allows in ms: 1.5 times the bound and 0.3 ms."""
        bound = self.bound(statistic)
        return None if bound is None else FACTOR * bound + EXTRA

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        size = {n: getattr(self.size, n) for n in ("name", "batch", "steps", "width", "heads")}
        times = {
            which: {name: taken.to_dict() for name, taken in subjects.items()}
            for which, subjects in self.times.items()
        }
        return {
            "cell": self.name,
            "text": self.cell.one_line,
            "digest": self.cell.digest,
            "group": self.group,
            "size": size,
            "ms": times,
            "transcendental_ms": self.transcendental,
            "bound_ms": {s: self.bound(s) for s in ("median", "min")},
            "limit_ms": {s: self.limit(s) for s in ("median", "min")},
            "refused": self.refused,
        }


def group_of(cell: Cell) -> str:
    """The kind of cell that an aim is for: `matrix` states, `elementwise` recurrence, or `dense`."""
    if any(state.type.kind in ("mat", "cmat") for state in cell.states):
        return "matrix"
    mixings = {component.mixing for component in analyse(cell).components}
    return "elementwise" if mixings <= {"none", "elementwise"} else "dense"


def bench(cells: Mapping[str, Cell], plan: Plan, tell: Callable[[Row], None] | None = None) -> list[Row]:
    """Time every cell, by name, at every size, on one thread; `tell` hears of each row as it is there.

    Raises BenchError for cells that do not run over time, and CellBuildError where a size does not fit a cell.
    """
    rows = []
    with one_thread():
        for name, cell in cells.items():
            for size in plan.sizes:
                row = _row(name, cell, size, plan)
                rows.append(row)
                if tell is not None:
                    tell(row)
    return rows


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch uses one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _row(name: str, cell: Cell, size: BenchSize, plan: Plan) -> Row:
    if cell.kind != "time":
        raise BenchError(f"a benchmark times cells over time; {cell.name} is a {cell.kind} cell")
    sizes = sizes_of(cell, size)
    sizes.check(cell.graph)
    modules, refused = _modules(cell, size, plan)
    times = {}
    for which in plan.passes:
        make = forward if which == "forward" else training
        subjects: dict[str, Subject] = {
            subject: make(module, size, plan.device) for subject, module in modules.items()
        }
        subjects[PRODUCTS] = products_alone(cell, sizes, size, plan.device, which == "training")
        times[which] = interleaved(subjects, plan.repeats, plan.seconds, plan.device)
    return Row(name, cell, group_of(cell), size, times, transcendental_ms(cell, sizes, size), refused)


def _modules(cell: Cell, size: BenchSize, plan: Plan) -> tuple[dict[str, torch.nn.Module], dict[str, str]]:
    """A module for each backend and baseline, and why others have none."""
    modules: dict[str, torch.nn.Module] = {}
    refused: dict[str, str] = {}
    for name in plan.backends:
        try:
            modules[name] = cell_module(cell, size, name, plan.device)
        except BuildError as error:
            refused[name] = str(error)
    for name in plan.against:
        if name == "torch":
            layer = torch_layer(cell, size, plan.device)
            if layer is not None:
                modules[name] = layer
        else:
            modules[name] = eager_loop(cell_module(cell, size, "reference", plan.device))
    return modules, refused
