"""What lints are made from: one warning, and the facts of a cell that they look at."""

from __future__ import annotations

from dataclasses import dataclass

from grammar.cell import Cell
from grammar.graph import Graph, Node
from grammar.ops import OPS
from grammar.printer import show_expr
from grammar.ranges import Ranges
from grammar.simplify import simplify
from grammar.syntax import Expr, X, num, ref

PAST = ("state", "child", "carry", "final")  # leaves of a graph that are earlier values of a state
_SHOWN_DEPTH = 3  # operations of an expression that a message shows


@dataclass(frozen=True, slots=True)
class Lint:
    """One warning: `name` is its kind, `where` the state or the expression (simplified), as text.

    `message` explains it in a sentence or two; `repair` is what to write instead.
    """

    name: str
    where: str
    message: str
    repair: str

    def __str__(self) -> str:
        return f"{self.name}: {self.where}: {self.message} {self.repair}"


def _constants(graph: Graph) -> tuple[bool, ...]:
    """For each node, whether it depends on weights and numbers alone, and on no time."""
    fixed: list[bool] = []
    for node in graph.nodes:
        timeless = node.op == "num" or (node.op in OPS and node.op not in ("posemb", "top", "shift", "conv"))
        fixed.append(timeless and all(fixed[a] for a in node.args))
    return tuple(fixed)


class Facts:
    """The simplified graph of a cell, where its values lie, and what of it the output can see."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.graph = simplify(cell.graph)
        self.ranges = Ranges(self.graph)
        graph = self.graph
        self.position = {s.name: i for i, s in enumerate(graph.states)}
        self.constants = _constants(graph)
        self.reads = self._reads()
        self.live, self.live_states = self._seen()
        self.unchanged = frozenset(s.name for s in graph.states if self._keeps(s.name))

    def _keeps(self, name: str) -> bool:
        """Whether a state of a time cell has its initial value in every step."""
        if self.cell.kind == "time" and self.ranges.states[name].is_point:
            return True
        node = Node("state", (), (("name", name),), self.graph.states[self.position[name]].type)
        index = self.ranges.index(node) if self.cell.kind == "time" else None
        return index is not None and self.ranges.same(index, self.graph.next[self.position[name]])

    def roots(self, name: str) -> list[int]:
        """The nodes that give a state its values."""
        graph = self.graph
        made = [graph.next[self.position[name]]]
        made += [graph.leaf[self.position[name]]] if graph.leaf else []
        if graph.region and name in graph.region.states:
            made += [graph.region.until, graph.region.next[graph.region.states.index(name)]]
        return made

    def _reads(self) -> list[frozenset[str]]:
        """For each node, the states whose earlier values it depends on; what is one number sees none."""
        found: list[frozenset[str]] = []
        for index, node in enumerate(self.graph.nodes):
            own: frozenset[str] = frozenset().union(*(found[a] for a in node.args))
            if node.op in PAST:
                own = frozenset((state_name(self.graph, index),))
                region = self.graph.region
                if node.op == "final" and region:
                    earlier = [i for i in (region.until, *region.next) if i < index]
                    own = own.union(*(found[i] for i in earlier))
            found.append(frozenset() if self.ranges[index].is_point else own)
        return found

    def _seen(self) -> tuple[frozenset[int], frozenset[str]]:
        """The nodes and the states that the output can see, through values that are not one number."""
        seen: set[int] = set()
        states: set[str] = set()
        stack = [self.graph.out]
        while stack:
            index = stack.pop()
            if index in seen or self.ranges[index].is_point:
                continue
            seen.add(index)
            node = self.graph.nodes[index]
            stack.extend(node.args)
            if node.op in PAST:
                name = state_name(self.graph, index)
                states.add(name)
                stack.extend(self.roots(name))
        return frozenset(seen), frozenset(states)

    def show(self, index: int) -> str:
        """A node as text, its inner parts as `..`."""
        return show_expr(_expression(self.graph, index, _SHOWN_DEPTH))


def state_name(graph: Graph, index: int) -> str:
    node = graph.nodes[index]
    return str(node.attr("state" if node.op == "child" else "name"))


def _expression(graph: Graph, index: int, depth: int) -> Expr:
    node = graph.nodes[index]
    if node.op == "x":
        return X
    if node.op == "num":
        return num(float(node.attr("value")))  # type: ignore[arg-type]
    if node.op in ("state", "carry", "final"):
        return ref(f"{node.attr('name')}{chr(39) if node.op == 'final' else ''}")
    if node.op == "child":
        return Expr("child", (), node.attrs)
    if not depth and node.args:
        return ref("..")
    attrs = dict(node.attrs)
    if node.op in ("lin", "param") and node.type.kind not in ("vec", "seq"):
        attrs |= {"type": node.type.kind} | ({"size": node.type.size} if node.type.kind == "mem" else {})
    args = tuple(_expression(graph, a, depth - 1) for a in node.args)
    return Expr(node.op, args, tuple(sorted(attrs.items())))
