"""Commands that look at cells: show, zoo, sample."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from nas.cli.console import console, show_json, table
from nas.cli.console import show as put
from nas.cli.values import read_cell

if TYPE_CHECKING:
    from grammar import Analysis, Cell

_WIDE = 120  # columns for the whole list of the zoo
CellArgument = Annotated[
    str, typer.Argument(metavar="CELL", help="A text, a file, zoo:lstm, RUN#3, or - to read one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def show(
    cell: CellArgument,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="PASS",
            help="Print the compiler's program after this pass, its `normal` form or its `adjoint` instead.",
        ),
    ] = None,
    diff: Annotated[
        str | None, typer.Option(metavar="CELL", help="Print what differs from this cell instead.")
    ] = None,
    input_size: Annotated[int, typer.Option(min=1, help="D, for the costs.")] = 128,
    hidden_size: Annotated[int, typer.Option(min=1, help="H, for the costs.")] = 128,
    heads: Annotated[int, typer.Option(min=1, help="N, for the costs.")] = 1,
    json: Json = False,
) -> None:
    """Show a cell: its equations, how its recurrence can run, what it costs, its graph, its canonical form."""
    found = read_cell(cell)
    if after is not None:
        _show_program(found, after, json)
        return
    from grammar import Sizes
    from nas.cli.page import show_page
    from nas.ir import checked_analysis

    Sizes.of(input_size, hidden_size, heads)
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "heads": heads}
    if diff is not None:
        _show_difference(found, read_cell(diff), sizes, json)
    elif json:
        show_json(_facts(found, checked_analysis(found), sizes))
    else:
        show_page(found, checked_analysis(found), sizes)


def _show_program(cell: Cell, after: str, json: bool) -> None:
    from nas.ir import show_after

    text = show_after(cell, after)
    if json:
        show_json({"name": cell.name, "after": after, "program": text})
    else:
        put(text)


def _show_difference(one: Cell, other: Cell, sizes: dict[str, int], json: bool) -> None:
    from nas.cli.page import difference, show_difference, verdict

    if not json:
        show_difference(one, other, sizes)
        return
    same = verdict(one, other)
    show_json(
        {
            "equal": same in ("text", "canonical"),
            "same": same,
            "digests": [one.digest, other.digest],
            "diff": difference(str(one), str(other), one.name, other.name),
            "canonical_diff": difference(str(one.canonical()), str(other.canonical()), one.name, other.name),
        }
    )


def _facts(cell: Cell, analysis: Analysis, sizes: dict[str, int]) -> dict[str, Any]:
    from grammar import lint
    from nas.cli.page import arrays, begin_text, refusal, values

    refused = refusal(cell, sizes)

    def cost(poly: Any) -> dict[str, Any]:
        value = poly.at(**sizes)
        number = value if isinstance(value, int) else float(value)
        return {"formula": str(poly), "value": None if refused else number}

    return {
        "name": cell.name,
        "kind": cell.kind,
        "text": str(cell),
        "canonical": str(cell.canonical()),
        "digest": cell.digest,
        "states": [
            {"name": s.name, "type": str(s.type), "shape": s.type.shape, "init": begin_text(s.init)}
            for s in cell.states
        ],
        "values": [{"type": t, "shape": shape, "names": names} for t, shape, names in values(cell)],
        "weights": [
            {"site": w.site, "op": w.op, "arrays": arrays(w), "trained": not w.fixed}
            for w in cell.graph.weights
        ],
        "lints": [
            {"name": w.name, "where": w.where, "message": w.message, "repair": w.repair} for w in lint(cell)
        ],
        "components": [
            {"states": list(c.states), "class": c.kind, "runs_as": c.route, "parallel": c.parallel}
            for c in analysis.components
        ],
        "parallel": analysis.parallel,
        "gemm_depth": analysis.gemm_depth,
        "sizes": sizes,
        "sizes_refused": refused,
        "parameters": cost(analysis.parameters),
        "flops": cost(analysis.flops),
        **({"leaf_flops": cost(analysis.leaf_flops)} if analysis.kind == "tree" else {}),
        "state_bytes": cost(analysis.state_bytes),
    }


def zoo(
    name: Annotated[str | None, typer.Argument(help="Print this cell's file; without it, list all.")] = None,
    json: Json = False,
) -> None:
    """List the known cells, or print one with its paper."""
    from grammar import zoo as known
    from grammar import zoo_doc, zoo_names, zoo_text
    from nas.cli.page import coloured

    if name is not None:
        name = name.removeprefix("zoo:")
        text = zoo_text(name)
        if json:
            cell = known(name)
            show_json(
                {
                    "name": name,
                    "doc": zoo_doc(name),
                    "text": str(cell),
                    "kind": cell.kind,
                    "digest": cell.digest,
                }
            )
        else:
            put(coloured(text.rstrip()))
        return
    rows = [(n, known(n).kind, _route(known(n)), _sentence(zoo_doc(n))) for n in zoo_names()]
    if json:
        show_json([{"name": n, "kind": kind, "runs_as": r, "doc": zoo_doc(n)} for n, kind, r, _ in rows])
    elif console().width < _WIDE:
        for name, _, route, what in rows:
            put(Text.assemble((name, "bold"), f"  {route}"))
            put(
                *textwrap.wrap(
                    what,
                    max(20, console().width),
                    initial_indent="  ",
                    subsequent_indent="  ",
                    break_on_hyphens=False,
                )
            )
    else:
        put(table(["name", "runs", "what it is"], [(name, route, what) for name, _, route, what in rows]))


def _sentence(doc: str) -> str:
    """The first sentence of a comment, which may go over several lines."""
    text = " ".join(doc.split())
    return re.split(r"(?<=[.?!])\s+(?=[A-Z])", text, maxsplit=1)[0]


def _route(cell: Cell) -> str:
    """How a cell is run, in a few words: what holds it back most."""
    from grammar import analyse

    if cell.kind != "time":
        return {"tree": "over trees", "depth": "in depth"}[cell.kind]
    components = analyse(cell).components
    slowest = next((c for c in components if not c.parallel), components[-1])
    return slowest.route.split(",")[0]


def sample(
    space: Annotated[
        str, typer.Option(help="A search space: a name of `recell spaces`, or a file.")
    ] = "gated",
    number: Annotated[int, typer.Option("-n", min=1, help="How many cells.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same cells.")] = 0,
    size: Annotated[int | None, typer.Option(min=1, help="Only cells of this many operations.")] = None,
    by: Annotated[
        str,
        typer.Option(
            help="`weights` of the file, or `size`: each size, and each derivation of one, as often."
        ),
    ] = "weights",
    json: Json = False,
) -> None:
    """Draw cells from a search space, one a line."""
    import numpy as np

    from nas.cli.page import coloured
    from search_spaces import load_space

    drawn = load_space(space)
    rng = np.random.default_rng(seed)
    cells = [drawn.sample(rng, size, by) for _ in range(number)]
    if json:
        show_json([{"cell": c.one_line, "digest": c.digest} for c in cells])
    else:
        for cell in cells:
            put(coloured(cell.one_line))
