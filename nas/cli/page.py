"""The page that `recell show` prints: what a cell says, what it is made of, how it can run, what it costs."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from nas.cli.console import can_print, console, table
from nas.cli.console import show as put

if TYPE_CHECKING:
    from grammar import Analysis, Cell, Poly, Weight

_WORDS = {"cell", "state", "out", "leaf", "repeat", "fresh", "depth", "until"}
_KINDS = {"time": "runs over time", "tree": "runs over trees", "depth": "runs over a whole sequence"}
_ROWS = 24  # of the table of weights
_LINES = 60  # of a canonical form
_COSTS = 60  # columns, below which the table of costs has no room for its three
_DRAWN = 400  # values of a graph that can be taken in


def show_page(cell: Cell, analysis: Analysis, sizes: dict[str, int]) -> None:
    """Print all about a cell; `sizes` (input_size, hidden_size, heads) are for the numbers."""
    from grammar import lint
    from nas.cli.drawing import DOT, SYMBOLS, draw, outline

    put(Text.assemble((cell.name, "bold"), f"  {_KINDS[cell.kind]}  ", (cell.digest[:12], "dim")))
    for line in _about(cell):
        put(Text(line, style="italic"))
    put("", coloured(str(cell).rstrip()))
    _heading("States")
    rows = [(s.name, str(s.type), s.type.shape, begin_text(s.init)) for s in cell.states]
    put(table(["name", "type", "shape", "begins as"], rows) if rows else "none: it has no memory")
    _heading("Values")
    put(table(["type", "shape", "names"], [(t, shape, ", ".join(names)) for t, shape, names in values(cell)]))
    _heading("Recurrence")
    for component in analysis.components:
        route = (component.route, "green" if component.parallel else "yellow")
        put(Text.assemble((", ".join(component.states), "bold green"), f": {component.kind} -> ", route))
    if cell.kind == "depth":
        deep = f"{analysis.gemm_depth} matrix products deep"
        put(f"in depth, {deep}; over time there is none, so all positions go together")
    elif not analysis.components:
        put("none")
    _show_weights(cell, sizes)
    _heading("Costs")
    _show_costs(analysis, sizes, refusal(cell, sizes))
    warnings = lint(cell)
    if warnings:
        _heading("Warnings")
        for warning in warnings:
            put(Text.assemble((warning.name, "bold yellow"), f"  {warning.where}"))
            put(Text(f"  {warning.message} {warning.repair}"))
    _heading("Graph")
    count = len(cell.graph.nodes)
    symbols = can_print("".join(SYMBOLS.values()) + DOT)
    if count <= _DRAWN:
        put(*draw(cell, symbols))
    else:
        put(f"{count:,} values, its blocks written out: too many to draw; what each equation reads:")
        put(outline(cell, symbols))
    _heading("Canonical form")
    _show_canonical(cell)
    put("", Text(f"digest {cell.digest}", style="dim"))


def _about(cell: Cell) -> Iterator[str]:
    """What the zoo says of the cell, or which of its cells this one is under another name."""
    from grammar import zoo, zoo_doc, zoo_names

    if cell.name in zoo_names() and zoo(cell.name) is cell:
        yield from zoo_doc(cell.name).splitlines()
        return
    twin = next((name for name in zoo_names() if zoo(name).digest == cell.digest), None)
    if twin is not None:
        yield f"This is zoo:{twin}, written differently."


def _show_weights(cell: Cell, sizes: dict[str, int]) -> None:
    weights = cell.graph.weights
    if not weights:
        return
    _heading("Weights")
    fits = refusal(cell, sizes) is None
    rows: list[tuple[str, ...]] = [
        (w.site, w.op, ", ".join(arrays(w)), _numbers(w, sizes) if fits else "-", _how(w))
        for w in weights[:_ROWS]
    ]
    columns = ["in", "as", "arrays", "numbers", ""]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    put(table(columns, rows, ["numbers"]))
    if len(weights) > _ROWS:
        put(Text(f"... and {len(weights) - _ROWS} more; --json has all", style="dim"))


def refusal(cell: Cell, sizes: dict[str, int]) -> str | None:
    """Why `nas.build` would not make the cell with these sizes, or None."""
    from grammar import CellBuildError, Sizes

    try:
        Sizes.of(**sizes).check(cell.graph)
    except CellBuildError as error:
        return str(error)
    return None


def _numbers(weight: Weight, sizes: dict[str, int]) -> str:
    return f"{sum(_count(s.shape, sizes) for s in weight.specs):,}"


def _how(weight: Weight) -> str:
    """What is unusual about a weight: where it begins, whether it is trained."""
    init = weight.init
    shown = f"{init[0]}({', '.join(f'{v:g}' for v in init[1:])})" if isinstance(init, tuple) else init
    start = "" if init is None else f"begins as {shown}"
    return ", ".join(part for part in (start, "not trained" if weight.fixed else "") if part)


def arrays(weight: Weight) -> list[str]:
    """The arrays of a weight with their shapes, as in `w0 [H, D]`."""
    return [
        f"{s.role} [{', '.join(str(e).replace('H N^-1', 'V') for e in s.shape)}]"
        + (" complex" if s.complex else "")
        for s in weight.specs
    ]


def _count(shape: Sequence[Poly], sizes: dict[str, int]) -> int:
    total = 1
    for extent in shape:
        total *= int(extent.at(**sizes))
    return total


def values(cell: Cell) -> list[tuple[str, str, list[str]]]:
    """The types in a cell, each with its shape and the names of this type: x, the states, the helpers."""
    from nas.exporters import value_names

    named: dict[str, list[str]] = {}
    shapes: dict[str, str] = {}

    def add(name: str, kind: Any) -> None:
        shapes[str(kind)] = kind.shape
        if name not in named.setdefault(str(kind), []):
            named[str(kind)].append(name)

    for node in cell.graph.nodes:
        if node.op == "x":
            add("x", node.type)
    for state in cell.states:
        add(state.name, state.type)
    for index, name in sorted(value_names(cell).items()):
        if not name.endswith("_new"):
            add(name, cell.graph.nodes[index].type)
    return [(kind, shapes[kind], names) for kind, names in named.items()]


def _costs(analysis: Analysis) -> list[tuple[str, Poly]]:
    per = {"time": "step", "tree": "inner node", "depth": "position"}[analysis.kind]
    fixed = [("fixed parameters", analysis.fixed_parameters)] if analysis.fixed_parameters.terms else []
    return [
        ("parameters", analysis.parameters),
        *fixed,
        (f"operations per {per}", analysis.flops),
        *([("operations per leaf", analysis.leaf_flops)] if analysis.kind == "tree" else []),
        ("bytes of state", analysis.state_bytes),
    ]


def _show_costs(analysis: Analysis, sizes: dict[str, int], refused: str | None) -> None:
    at = _at(sizes)
    if refused:
        put(Text.assemble((f"none {at}: ", "bold yellow"), refused))
        put(table(["", "in general"], [(name, str(p)) for name, p in _costs(analysis)]))
        return
    rows = [(name, f"{float(p.at(**sizes)):,.0f}", str(p)) for name, p in _costs(analysis)]
    if console().width < _COSTS:
        put(Text(at, style="dim"))
        for name, number, formula in rows:
            put(f"{name}: {number}", *_wrapped(f"= {formula}"))
        return
    put(table(["", at, "in general"], rows, [at]))


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    """Lines of a text for this terminal, broken between words."""
    return textwrap.wrap(
        text,
        max(20, console().width),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
    )


def _at(sizes: dict[str, int]) -> str:
    return f"at D={sizes['input_size']}, H={sizes['hidden_size']}, N={sizes['heads']}"


def _show_canonical(cell: Cell) -> None:
    text = str(cell.canonical()).rstrip()
    lines = text.split("\n")
    if text == str(cell).rstrip():
        put("as written")
        return
    put(coloured("\n".join(lines[:_LINES])))
    if len(lines) > _LINES:
        put(Text(f"... and {len(lines) - _LINES:,} lines more; --json has all", style="dim"))


def begin_text(init: float | str) -> str:
    """The initial value of a state."""
    return init if isinstance(init, str) else f"{init:g}"


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


# ---- two cells --------------------------------------------------------------------------------


def difference(one: str, other: str, name: str, name_of_other: str) -> list[str]:
    """A unified diff of two texts, whole."""
    lines = difflib.unified_diff(
        one.splitlines(), other.splitlines(), name, name_of_other, lineterm="", n=999
    )
    return list(lines)


def verdict(one: Cell, other: Cell) -> str:
    """Whether two cells compute the same: `text`, `canonical` form, `fingerprint`, or `different`."""
    from grammar import fingerprint

    if one is other:
        return "text"
    if one.digest == other.digest:
        return "canonical"
    return "fingerprint" if fingerprint(one) == fingerprint(other) else "different"


_SAID = {
    "canonical": "The same function: equal canonical forms, whatever the names and the order.",
    "fingerprint": "The same function as far as can be tried: other canonical forms, equal outputs for equal weights.",
    "different": "Different functions. Canonical forms:",
}


def show_difference(one: Cell, other: Cell, sizes: dict[str, int]) -> None:
    """Print what differs between two cells: their texts, what they compute, what they cost."""
    from grammar import analyse

    found = verdict(one, other)
    if found == "text":
        put("the same text")
        return
    names = (one.name, other.name) if one.name != other.name else (f"{one.name} (1)", f"{other.name} (2)")
    _show_lines(difference(str(one), str(other), *names))
    put("", _SAID[found])
    if found != "different":
        return
    _show_lines(difference(str(one.canonical()), str(other.canonical()), *names)[2:])
    analyses = analyse(one), analyse(other)
    rows = [("recurrence", *("; ".join(map(str, a.components)) or "in depth" for a in analyses))]
    for (label, mine), (theirs_label, theirs) in zip(
        *(_costs_in_common(a, one.kind == other.kind) for a in analyses), strict=True
    ):
        same = label if label == theirs_label else label.split(" per ")[0]
        rows.append((same, *(f"{float(p.at(**sizes)):,.0f} = {p}" for p in (mine, theirs))))
    put("", table([_at(sizes), *names], rows))


def _costs_in_common(analysis: Analysis, same_kind: bool) -> list[tuple[str, Poly]]:
    """The rows that both cells have; only cells over trees have leaves."""
    left_out = {"fixed parameters"} | (set() if same_kind else {"operations per leaf"})
    return [row for row in _costs(analysis) if row[0] not in left_out]


def _show_lines(lines: Sequence[str]) -> None:
    for line in lines:
        if not line.startswith("@@"):
            put(Text(line, style={"+": "green", "-": "red"}.get(line[:1], "")))
