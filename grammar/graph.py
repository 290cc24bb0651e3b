"""A cell as a graph of values: every name resolved, every repetition unrolled, every weight identified.

This is what the canonical form, the NumPy evaluator, the analysis and the compiler start from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grammar.ops import OPS, Value, WeightSpec
from grammar.syntax import State
from grammar.types import Type

# Leaves of a graph: the input, a number, a state's previous value (`state`), a child's state (`child`),
# the running value of a state inside `depth ... until` (`carry`) and its value after it (`final`).
GRAPH_LEAVES = ("x", "num", "state", "child", "carry", "final")

HALT = 0.99  # `depth n until(p)` ends where the sum of p reaches this: 1 - epsilon of A. Graves, arXiv 1603.08983


@dataclass(frozen=True, slots=True)
class Node:
    """One value: an operation of the table or a leaf, applied to earlier nodes.

    `args` are indices into `Graph.nodes`; `weight` is an index into `Graph.weights`, or -1.
    """

    op: str
    args: tuple[int, ...]
    attrs: tuple[tuple[str, Value], ...]
    type: Type
    weight: int = -1

    def attr(self, name: str, default: Value = "") -> Value:
        """The option `name`, or `default`."""
        for key, value in self.attrs:
            if key == name:
                return value
        return default


@dataclass(frozen=True, slots=True)
class Weight:
    """The arrays of one site: `site` names it in the text (`i`, `f`, `n_2`), `specs` are its arrays.

    `init` and `fixed` are the options of the text; `label` is its `share=` name, if any.
    """

    site: str
    op: str
    specs: tuple[WeightSpec, ...]
    init: Value | None = None
    fixed: bool = False
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A `depth n until(p)` block: the states it carries, their next values, and the halting gate."""

    times: int
    until: int
    states: tuple[str, ...]
    next: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which each comes after what it uses, and the roots among them.

    `next[i]` is the new value of `states[i]`, `leaf[i]` its value at a leaf of a tree. Parameter-free
    nodes that are equal are one node; each occurrence of a weight in the text has its own index.
    `equal_width` says that x is used where D must equal H; `mentioned` are the states whose primed name stands
    in what the output needs.
    """

    nodes: tuple[Node, ...]
    states: tuple[State, ...]
    next: tuple[int, ...]
    out: int
    weights: tuple[Weight, ...]
    leaf: tuple[int, ...] | None = None
    region: Region | None = None
    children: tuple[str, ...] = ()
    variadic: bool = False
    equal_width: bool = False
    mentioned: frozenset[str] = frozenset()

    def roots(self) -> tuple[int, ...]:
        """Every node that something outside the graph reads."""
        region = (self.region.until, *self.region.next) if self.region else ()
        return (*self.next, *(self.leaf or ()), *region, self.out)

    def reachable(self, roots: Iterable[int]) -> set[int]:
        """The nodes that `roots` need, within one step."""
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            index = stack.pop()
            if index not in seen:
                seen.add(index)
                stack.extend(self.nodes[index].args)
        return seen

    def live(self) -> tuple[set[int], set[str]]:
        """The nodes and the states that the output can see, over any number of steps."""
        position = {s.name: i for i, s in enumerate(self.states)}
        carried = {name: i for i, name in enumerate(self.region.states)} if self.region else {}
        states: set[str] = set()
        nodes = self.reachable([self.out])
        while True:
            named = {
                str(self.nodes[i].attr("state" if self.nodes[i].op == "child" else "name"))
                for i in nodes
                if self.nodes[i].op in ("state", "child", "carry", "final")
            } - states
            if not named:
                return nodes, states
            states |= named
            roots = [self.next[position[n]] for n in named]
            roots += [self.leaf[position[n]] for n in named] if self.leaf else []
            if self.region and named & carried.keys():
                roots += [self.region.until, *(self.region.next[carried[n]] for n in named & carried.keys())]
            nodes |= self.reachable(roots)

    @property
    def k_is_v(self) -> str:
        """The first operation that needs K = V, because it sees a val as a key or the reverse; "" for none."""
        return next((n.op for n in self.nodes if n.op in OPS and OPS[n.op].k_is_v), "")

    def uses(self) -> list[int]:
        """How many times each node is used, by nodes and as a root."""
        counts = [0] * len(self.nodes)
        for node in self.nodes:
            for arg in node.args:
                counts[arg] += 1
        for root in self.roots():
            counts[root] += 1
        return counts
