"""Commands that look at cells: show, zoo, sample."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from nas.cli.console import show as put
from nas.cli.console import show_json, table
from nas.cli.values import read_cell

if TYPE_CHECKING:
    from grammar import Analysis, Cell

CellArgument = Annotated[
    str, typer.Argument(metavar="CELL", help="A text, a file, zoo:lstm, RUN#3, or - to read one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_WORDS = {"cell", "state", "out", "leaf", "repeat", "fresh", "depth", "until"}


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
    elif diff is not None:
        _show_difference(found, read_cell(diff), json)
    else:
        from grammar import CellBuildError
        from nas.ir import checked_analysis

        if hidden_size % heads:
            raise CellBuildError(
                f"heads divides hidden_size; received heads={heads} and hidden_size={hidden_size}"
            )
        analysis = checked_analysis(found)
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "heads": heads}
        if json:
            show_json(_facts(found, analysis, sizes))
        else:
            _page(found, analysis, sizes)


def _show_program(cell: Cell, after: str, json: bool) -> None:
    from nas.ir import show_after

    text = show_after(cell, after)
    if json:
        show_json({"name": cell.name, "after": after, "program": text})
    else:
        put(text)


def _show_difference(one: Cell, other: Cell, json: bool) -> None:
    equal = one.digest == other.digest
    written = _difference(str(one), str(other), one.name, other.name)
    canonical = _difference(str(one.canonical()), str(other.canonical()), one.name, other.name)
    if json:
        digests = [one.digest, other.digest]
        show_json({"equal": equal, "digests": digests, "diff": written, "canonical_diff": canonical})
        return
    if one is other:
        put("the same text")
        return
    for line in written:
        style = {"+": "green", "-": "red", "@": "dim"}.get(line[:1], "")
        put(Text(line, style=style))
    same = "The same function: equal canonical forms, whatever the names and the order."
    put("", same if equal else "Different functions. Canonical forms:")
    for line in [] if equal else canonical:
        put(Text(line, style={"+": "green", "-": "red", "@": "dim"}.get(line[:1], "")))


def _difference(one: str, other: str, name: str, name_of_other: str) -> list[str]:
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), name, name_of_other, lineterm="", n=20)
    return list(lines)


def _facts(cell: Cell, analysis: Analysis, sizes: dict[str, int]) -> dict[str, Any]:
    from grammar import lint

    def cost(poly: Any) -> dict[str, Any]:
        value = poly.at(**sizes)
        return {"formula": str(poly), "value": value if isinstance(value, int) else float(value)}

    return {
        "name": cell.name,
        "kind": cell.kind,
        "text": str(cell),
        "canonical": str(cell.canonical()),
        "digest": cell.digest,
        "states": [
            {"name": s.name, "type": str(s.type), "shape": s.type.shape, "init": _start(s.init)}
            for s in cell.states
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
        "parameters": cost(analysis.parameters),
        "flops": cost(analysis.flops),
        "state_bytes": cost(analysis.state_bytes),
    }


def _start(init: float | str) -> str:
    return init if isinstance(init, str) else f"{init:g}"


def _page(cell: Cell, analysis: Analysis, sizes: dict[str, int]) -> None:
    from grammar import lint
    from nas.cli.drawing import draw

    kinds = {"time": "runs over time", "tree": "runs over trees", "depth": "runs over a whole sequence"}
    put(Text.assemble((cell.name, "bold"), f"  {kinds[cell.kind]}  ", (cell.digest[:12], "dim")), "")
    put(coloured(str(cell).rstrip()))
    _heading("States")
    rows = [(s.name, str(s.type), s.type.shape, _start(s.init)) for s in cell.states]
    put(table(["name", "type", "shape", "begins as"], rows) if rows else "none: it has no memory")
    _heading("Recurrence")
    for component in analysis.components:
        route = (component.route, "green" if component.parallel else "yellow")
        put(Text.assemble((", ".join(component.states), "bold green"), f": {component.kind} -> ", route))
    if not analysis.components:
        put("none")
    _heading("Costs")
    at = f"at D={sizes['input_size']}, H={sizes['hidden_size']}, N={sizes['heads']}"
    per = {"time": "step", "tree": "inner node", "depth": "position"}[cell.kind]
    costs = [
        ("parameters", analysis.parameters),
        (f"operations per {per}", analysis.flops),
        ("bytes of state", analysis.state_bytes),
    ]
    put(table(["", at, "in general"], [(n, f"{float(p.at(**sizes)):,.0f}", str(p)) for n, p in costs], [at]))
    warnings = lint(cell)
    if warnings:
        _heading("Warnings")
        for warning in warnings:
            put(Text.assemble((warning.name, "bold yellow"), f"  {warning.where}"))
            put(Text(f"  {warning.message} {warning.repair}"))
    trees = draw(cell)
    if trees:
        _heading("Graph")
        put(*trees)
    canonical = str(cell.canonical())
    _heading("Canonical form")
    put("as written" if canonical == str(cell) else coloured(canonical.rstrip()), "")
    put(Text(f"digest {cell.digest}", style="dim"))


def _heading(text: str) -> None:
    put("", Text(text, style="bold underline"))


def coloured(text: str) -> Text:
    """A cell's text with colours: words of the language, x, new values, weights."""
    made = Text(text)
    made.highlight_regex(rf"\b({'|'.join(sorted(_WORDS))})\b", "bold cyan")
    made.highlight_regex(r"\b(lin|diag|param|conv|attn|mlp)\b", "yellow")
    made.highlight_regex(r"\b[A-Za-z_]\w*'", "bold magenta")
    made.highlight_regex(r"(?<![\w'])x(?![\w'])", "bold blue")
    made.highlight_regex(r"#.*", "dim")
    return made


def zoo(
    name: Annotated[str | None, typer.Argument(help="Print this cell's file; without it, list all.")] = None,
    json: Json = False,
) -> None:
    """List the known cells, or print one with its paper."""
    from grammar import zoo as known
    from grammar import zoo_doc, zoo_names, zoo_text

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
    rows = [(n, known(n).kind, zoo_doc(n).splitlines()[0]) for n in zoo_names()]
    if json:
        show_json([{"name": n, "kind": kind, "doc": zoo_doc(n)} for n, kind, _ in rows])
    else:
        put(table(["name", "over", "what it is"], rows))


def sample(
    space: Annotated[
        str, typer.Option(help="A search space: a name of `recell spaces`, or a file.")
    ] = "gated",
    number: Annotated[int, typer.Option("-n", min=1, help="How many cells.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same cells.")] = 0,
    size: Annotated[int | None, typer.Option(min=1, help="Only cells of this many operations.")] = None,
    json: Json = False,
) -> None:
    """Draw cells from a search space, one a line."""
    import numpy as np

    from search_spaces import load_space

    drawn = load_space(space)
    rng = np.random.default_rng(seed)
    cells = [drawn.sample(rng, size) for _ in range(number)]
    if json:
        show_json([{"cell": c.one_line, "digest": c.digest} for c in cells])
    else:
        for cell in cells:
            put(coloured(cell.one_line))
