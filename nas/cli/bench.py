"""The command that times cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from nas.cli.cells import Json
from nas.cli.console import console, show, show_json, table
from nas.cli.errors import UsageError
from nas.cli.values import read_cell

if TYPE_CHECKING:
    from grammar import Cell
    from nas.bench import Build, Outcome, Plan, Row


def bench(
    cells: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CELL",
            help="Texts, files, zoo:lstm, RUN#3; `zoo` stands for all known cells over time.",
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="S, M, L, or BxTxH such as 16x128x96 (BxTxHxN: N heads), with commas.")
    ] = "S,M,L",
    backends: Annotated[
        str | None, typer.Option(help="With commas; by default all that work on this machine.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="Baselines, with commas: torch (nn.LSTM and the like), eager (a plain loop).")
    ] = "torch,eager",
    space: Annotated[list[str] | None, typer.Option(help="Add random cells of this search space.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many of each space.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Draws the random cells.")] = 0,
    heads: Annotated[int | None, typer.Option(min=1, help="N, for all sizes.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Rounds; each times everything once.")] = 15,
    seconds: Annotated[float, typer.Option(min=0, help="Time for the rounds of one cell at one size.")] = 10,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    over: Annotated[bool, typer.Option("--over", help="Show only cells that miss their limit.")] = False,
    builds: Annotated[bool, typer.Option(help="Also time building, never seen and cached.")] = True,
    json: Json = False,
) -> None:
    """Time cells, forward and with gradients, beside torch's own layers and a plain loop in the same run.

    A cell's limit is 1.5 times what its matrix products and transcendental functions must cost, and 0.3 ms.
    """
    from nas.bench import Plan, builds_of, clock, machine_facts, read_sizes
    from nas.bench import bench as run

    chosen = _cells(cells or [], space or [], number, seed)
    plan = Plan(
        sizes=read_sizes(sizes, heads),
        backends=_backends(backends, device),
        against=_baselines(against),
        repeats=repeats,
        seconds=seconds,
        device=_device(device),
    )
    facts = machine_facts(plan.device)
    with _progress(len(chosen) * len(plan.sizes), json) as tell:
        rows = run(chosen, plan, tell)
    timed = [name for name in plan.backends if name != "reference"] if builds else []
    made = [b for name in timed for b in builds_of(chosen, plan.sizes[0], name, plan.device)]
    if json:
        show_json(_facts(rows, made, plan, {**facts, "clock": clock(plan.device)}))
        return
    _page(rows, made, plan, over)
    show(
        "",
        Text(f"{facts['processor']}, {facts.get('gpu', 'one thread')}, torch {facts['torch']}", style="dim"),
    )


def _cells(texts: Sequence[str], spaces: Sequence[str], number: int, seed: int) -> dict[str, Cell]:
    """The cells by name; equal names are numbered."""
    import numpy as np

    from grammar import zoo, zoo_names
    from search_spaces import load_space

    found: list[tuple[str, Cell]] = []
    for text in texts:
        if text == "zoo":
            found += [(name, zoo(name)) for name in zoo_names() if zoo(name).kind == "time"]
        else:
            cell = read_cell(text)
            found.append((cell.name, cell))
    for name in spaces:
        drawn, rng = load_space(name), np.random.default_rng(seed)
        found += [(f"{drawn.name}#{k}", drawn.sample(rng)) for k in range(number)]
    if not found:
        raise UsageError("name a cell, `zoo` for all known ones, or a --space to draw cells from")
    named: dict[str, Cell] = {}
    for name, cell in found:
        label, copy = name, 2
        while label in named:
            label, copy = f"{name}-{copy}", copy + 1
        named[label] = cell
    return named


def _backends(text: str | None, device: str) -> tuple[str, ...]:
    from grammar import suggest
    from nas.backends import backend_names, choose
    from nas.errors import BuildError

    if text is None:
        elsewhere = ("c",) if device == "cuda" else ()  # there it would be the reference by another name
        return tuple(name for name in backend_names() if name not in elsewhere and _works(name))
    from grammar import zoo

    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in ("auto", *backend_names()):
            known = ", ".join(("auto", *backend_names()))
            raise UsageError(
                f"unknown backend {name!r}{suggest(name, backend_names())}; the backends are {known}"
            )
        try:
            choose(name, zoo("elman"))
        except BuildError as error:
            raise UsageError(f"--backends: {error}") from None
    return names


def _works(name: str) -> bool:
    from grammar import zoo
    from nas.backends import choose
    from nas.errors import BuildError

    try:
        choose(name, zoo("elman"))
    except BuildError:
        return False
    return True


def _baselines(text: str) -> tuple[str, ...]:
    from nas.bench import BASELINES

    names = tuple(part.strip() for part in text.split(",") if part.strip() not in ("", "none"))
    for name in names:
        if name not in BASELINES:
            raise UsageError(f"--against takes {', '.join(BASELINES)} or none; received {name!r}")
    return names


def _device(name: str) -> str:
    import torch

    if name not in ("cpu", "cuda"):
        raise UsageError(f"--device is cpu or cuda; received {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda was asked for, but torch finds no CUDA device")
    return name


def _progress(total: int, json: bool) -> Any:
    """A line on a terminal that says which row is there; the context gives the function to tell."""
    out = console()
    if json or not out.is_terminal:
        return nullcontext(None)
    return _Status(out.status("timing ..."), total)


class _Status:
    def __init__(self, status: Any, total: int) -> None:
        self.status, self.total, self.done = status, total, 0

    def __enter__(self) -> Callable[[Row], None]:
        self.status.__enter__()
        return self._tell

    def __exit__(self, *error: object) -> None:
        self.status.__exit__(*error)

    def _tell(self, row: Row) -> None:
        self.done += 1
        self.status.update(f"{row.name} at {row.size.name}: {self.done} of {self.total}")


def _facts(rows: list[Row], made: list[Build], plan: Plan, facts: dict[str, Any]) -> dict[str, Any]:
    from nas.bench import excess, outcomes

    return {
        "machine": facts,
        "repeats": plan.repeats,
        "rows": [
            {
                **row.to_dict(),
                "over_limit": {name: excess(row, name) for name in plan.backends},
            }
            for row in rows
        ],
        "builds": [build.to_dict() for build in made],
        "aims": [o.to_dict() for name in plan.backends for o in outcomes(rows, name)],
    }


def _page(rows: list[Row], made: list[Build], plan: Plan, over: bool) -> None:
    from nas.bench import outcomes, over_limit

    if over:
        late = {id(row): row for name in plan.backends for row in over_limit(rows, name)}
        shown = list(late.values())
        show(f"{len(shown)} of {len(rows)} miss their limit; the least times in ms, the worst first")
    else:
        shown = rows
        show("medians in ms")
    if shown:
        show(_times(shown, plan, "min" if over else "median"))
    for row in shown:
        for name, reason in row.refused.items():
            show(Text(f"{row.name} at {row.size.name}: no {name}: {reason}", style="yellow"))
    reached = [outcome for name in plan.backends for outcome in outcomes(rows, name)]
    if reached and len(rows) > 1:
        show("", _aims(reached))
    if made:
        show("", _builds(made))


def _times(rows: list[Row], plan: Plan, statistic: str) -> Any:
    """Forward, forward + backward (f+b), how often the baselines take as long, and the part of the limit."""
    from nas.bench import excess

    columns, numbers = ["cell", "kind", "size"], ["limit"]
    for name in (*plan.backends, *plan.against):
        columns += [f"{name} fwd", f"{name} f+b"]
        numbers += columns[-2:]
    columns.append("limit")
    for name in plan.backends:
        columns += [f"{base}/{name}" for base in plan.against] + [f"{name}/limit"]
    numbers += columns[-len(plan.backends) * (len(plan.against) + 1) :]
    lines = []
    for row in rows:
        line: list[object] = [row.name, row.group, row.size.name]
        for name in (*plan.backends, *plan.against):
            line += [_ms(row.ms(name, which, statistic)) for which in ("forward", "training")]
        line.append(_ms(row.limit(statistic)))
        for name in plan.backends:
            own = row.ms(name, "training", statistic)
            for base in plan.against:
                other = row.ms(base, "training", statistic)
                line.append(_times_text(other / own if own and other else None))
            part = excess(row, name, statistic)
            style = "" if part is None else "green" if part <= 1 else "red"
            line.append(Text("" if part is None else f"{part:.2f}", style=style))
        lines.append(line)
    return table(columns, lines, numbers)


def _aims(reached: list[Outcome]) -> Any:
    lines = []
    for one in reached:
        style = "" if one.met is None else "green" if one.met else "red"
        wanted = "" if one.aim is None else f"{'>=' if 'over' in one.name else '<='} {one.aim:g}"
        value = Text(f"{one.value:.2f}", style=style)
        lines.append([one.name, one.backend, one.size, value, wanted, one.cells])
    return table(["aim", "backend", "size", "ratio", "wanted", "cells"], lines, ["ratio", "wanted", "cells"])


def _builds(made: list[Build]) -> Any:
    from nas.bench import CACHED_AIM, COLD_AIM

    lines = [
        [
            build.cell,
            build.backend,
            *(
                Text(f"{times['all']:.0f}", style="green" if times["all"] <= aim else "red")
                for times, aim in ((build.cold, COLD_AIM), (build.cached, CACHED_AIM))
            ),
        ]
        for build in made
    ]
    names = ["never seen, ms", "cached, ms"]
    return table(["text to first step", "backend", *names], lines, names)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _times_text(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}x"
