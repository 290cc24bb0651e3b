"""Names for the values of a cell's graph, taken from the equations of its text: generated code reads like the cell."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence

from grammar import GRAPH_LEAVES, Cell, Expr, Let, Node, Repeat, Statement

RESERVED = frozenset({"F", "Tensor", "math", "nn", "self", "state", "torch", "x", "x_t", "y", "ys"})


def value_names(cell: Cell) -> dict[int, str]:
    """A Python name for each value that an equation of the cell defines: node of `cell.graph` -> name, all different.

    A new state `h'` is `h_new`; what is defined in a `repeat` carries the number of its sub-step. Names say nothing
    about what a value is, so a node that cannot be told apart from its twin just has none.
    """
    names: dict[int, str] = {}
    used = {s.name for s in cell.states} | set(RESERVED)
    for node, wanted in _Finder(cell).found:
        if node not in names and cell.graph.nodes[node].op not in GRAPH_LEAVES:
            names[node] = unused(wanted, used)
    return names


def unused(wanted: str, used: set[str]) -> str:
    """`wanted` as a Python name that is no word of Python and not among `used`, numbered if need be; joins `used`."""
    name = wanted.replace("'", "_new")
    if keyword.iskeyword(name):
        name += "_"
    count = 1
    unique = name
    while unique in used:
        count += 1
        unique = f"{name}_{count}"
    used.add(unique)
    return unique


class _Finder:
    """Walks the equations beside the graph that they were lowered to. `found` is (node, name as in the text)."""

    def __init__(self, cell: Cell) -> None:
        self.graph = cell.graph
        self.known: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for index, node in enumerate(self.graph.nodes):
            self.known.setdefault((node.op, node.args), []).append(index)
        self.claimed: set[int] = set()
        self.found: list[tuple[int, str]] = []
        values: dict[str, int | None] = {}
        for state, following in zip(self.graph.states, self.graph.next, strict=True):
            self.found.append((following, f"{state.name}'"))
            values[f"{state.name}'"] = following
            values[state.name] = self._leaf(Expr("state", (), (("name", state.name),)))
        self._block(cell.statements, values, "")

    def _block(self, body: Sequence[Statement], values: dict[str, int | None], step: str) -> None:
        """Find the values of the equations of a block and add them to `values`; `step` is "_s1" in a `repeat`."""
        lets = {s.name: s.expr for s in body if isinstance(s, Let) and s.name not in values}
        site = ""

        def value(name: str) -> int | None:
            nonlocal site
            if name in lets and name not in values:
                outer, site = site, name.rstrip("'")
                values[name] = None  # until it is known; equations have no cycles
                values[name] = find(lets[name])
                site = outer
            return values.get(name)

        def find(expr: Expr) -> int | None:
            if expr.op == "ref":
                return value(str(expr.attr("name")))
            if not expr.args and expr.op in ("x", "num", "child"):
                return self._leaf(expr)
            args = tuple(a for a in map(find, expr.args) if a is not None)
            return self._matching(expr, args, site, step) if len(args) == len(expr.args) else None

        for name in _bottom_up(lets):  # one after the other, because chains of equations may be long
            value(name)
        for name in lets:
            index = values.get(name)
            if index is not None:
                plain, prime = name.rstrip("'"), "'" if name.endswith("'") else ""
                self.found.append((index, f"{plain}{step.replace('_s', '_')}{prime}"))
        for block in body:
            if isinstance(block, Repeat) and not step:
                self._repeat(block, values)

    def _repeat(self, block: Repeat, values: dict[str, int | None]) -> None:
        before = {name: node for name, node in values.items() if not name.endswith("'")}
        for number in range(1, block.times + 1):
            inner = dict(before)
            self._block(block.body, inner, f"_s{number}")
            before |= {name[:-1]: node for name, node in inner.items() if name.endswith("'")}

    def _leaf(self, expr: Expr) -> int | None:
        nodes = enumerate(self.graph.nodes)
        return next((i for i, node in nodes if node.op == expr.op and node.attrs == expr.attrs), None)

    def _matching(self, expr: Expr, args: tuple[int, ...], site: str, step: str) -> int | None:
        """The node that this expression is; weights are told apart by the equation that they stand in."""
        share = dict(expr.attrs).get("share")
        pattern = re.compile(rf"{re.escape(site)}({step})?(_\d+)?")
        for index in self.known.get((expr.op, args), ()):
            node = self.graph.nodes[index]
            if node.weight < 0:
                if _same_options(expr, node):
                    return index
                continue
            weight = self.graph.weights[node.weight]
            if share is not None and weight.label == share:
                return index
            if share is None and index not in self.claimed and pattern.fullmatch(weight.site):
                self.claimed.add(index)
                return index
        return None


def _bottom_up(lets: Mapping[str, Expr]) -> Iterator[str]:
    """The names of equations, each after those that it uses."""
    seen: set[str] = set()
    for first in lets:
        stack = [(first, _uses(lets[first]))] if first not in seen else []
        seen.add(first)
        while stack:
            following = next((n for n in stack[-1][1] if n in lets and n not in seen), None)
            if following is None:
                yield stack.pop()[0]
            else:
                seen.add(following)
                stack.append((following, _uses(lets[following])))


def _uses(expr: Expr) -> Iterator[str]:
    return (str(part.attr("name")) for part in expr.walk() if part.op == "ref")


def _same_options(expr: Expr, node: Node) -> bool:
    mine, theirs = dict(expr.attrs), dict(node.attrs)
    return all(theirs.get(name) == value for name, value in mine.items() if name in theirs)
