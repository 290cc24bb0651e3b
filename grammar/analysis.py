"""What kind of recurrence a cell is, and what it costs. Symbolic: nothing is run, torch is not needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import networkx as nx

from grammar.cell import Cell
from grammar.dependence import Dependence, Flow, Flows, join
from grammar.graph import Graph
from grammar.machine import dependent, memory_length
from grammar.ops import OPS
from grammar.poly import Poly
from grammar.syntax import State

_BYTES = 4  # of a float32


@dataclass(frozen=True, slots=True)
class Component:
    """States that depend on each other in a circle, or one state alone, and how they go from step to step.

    Names of states; `shift(...)` and `conv(...)` stand for the buffer of a state-dependent value. What
    earlier components give counts as known. `blocks` says whose entries a `block` holds: `heads`, or of
    how many equal parts. `structure` is `diagonal` or `diagonal-plus-low-rank`
    where all states are matrices and the step is affine, S <- A S + B, else empty; then `rank` bounds
    the rank beside the diagonal, `side` is the axis on which A acts (`key` or `value`), and `decay`
    says along which axes of [K, V] the diagonal varies (`row`, `column`).
    """

    states: tuple[str, ...]
    dependence: Dependence
    blocks: str = ""
    structure: str = ""
    rank: int = 0
    side: str = ""
    decay: tuple[str, ...] = ()
    gemm_depth: int = 0

    @property
    def mixing(self) -> str:
        """`none`, `elementwise`, `block` or `dense`."""
        return self.dependence.mixing

    @property
    def degree(self) -> str:
        """`const`, `affine`, `max-plus` or `nonlinear`."""
        return self.dependence.degree

    @property
    def kind(self) -> str:
        """The class in words, as in `elementwise affine` or `matrix-affine, diagonal`."""
        if self.structure:
            rank = f" (rank {self.rank})" if self.rank else ""
            return f"matrix-affine, {self.structure.replace('-', ' ')}{rank}"
        return str(self.dependence) if self.mixing != "none" else "no recurrence"

    @property
    def parallel(self) -> bool:
        """Whether all steps can be computed without going through them one after the other."""
        linear = self.mixing == "elementwise" and self.degree != "nonlinear"
        return self.mixing == "none" or linear or bool(self.structure)

    @property
    def route(self) -> str:
        """The way this class is run."""
        if self.mixing == "none":
            return "all steps at once"
        if self.structure == "diagonal":
            return "chunkwise scan"
        if self.structure:
            return "chunkwise delta rule"
        if self.mixing == "elementwise":
            if self.degree == "nonlinear":
                return "fused sequential, backward by parallel scan"
            scan = "parallel scan" if self.degree == "affine" else "parallel max-plus scan"
            count = len(self.states)
            return scan if count == 1 else f"{scan} of {count} x {count} systems"
        products = "product" if self.gemm_depth == 1 else "products"
        return f"sequential, {self.gemm_depth} matrix {products} deep" if self.gemm_depth else "sequential"

    def __str__(self) -> str:
        return f"{', '.join(self.states)}: {self.kind} -> {self.route}"


@dataclass(frozen=True, slots=True)
class Analysis:
    """Classes and costs of a cell as written; dead code costs parameters and nothing else.

    `components` are in an order in which each comes after what it depends on. `dependence[new, old]`
    says how the new value of a state depends on the earlier value of another, all else fixed; pairs
    without dependence are left out. `gemm_depth` is the longest chain of matrix products of a
    state within one step. `parameters` are trained numbers (`fixed_parameters` the others), `flops` are
    per step and sample, forward (for a tree per inner node of two children, `leaf_flops` per leaf; for a depth cell per
    position, all rounds, attention scores left out), `state_bytes` per sample in float32, buffers included.
    """

    name: str
    kind: str
    components: tuple[Component, ...]
    dependence: Mapping[tuple[str, str], Dependence]
    gemm_depth: int
    parameters: Poly
    fixed_parameters: Poly
    flops: Poly
    state_bytes: Poly
    leaf_flops: Poly = field(default_factory=Poly)

    @property
    def parallel(self) -> bool:
        """Whether every component can be computed without going through the steps one by one."""
        return self.kind == "time" and all(c.parallel for c in self.components)

    def component(self, state: str) -> Component:
        """The component a state is in. Raises KeyError for an unknown one."""
        for component in self.components:
            if state in component.states:
                return component
        raise KeyError(f"{self.name} has no component with {state!r}")

    def __str__(self) -> str:
        lines = [str(c) for c in self.components]
        if self.kind == "depth":
            lines.append(f"recursion in depth, {self.gemm_depth} matrix products deep")
        lines += [f"parameters: {self.parameters}"]
        lines += [f"fixed parameters: {self.fixed_parameters}"] if self.fixed_parameters.terms else []
        per = {"time": "step", "tree": "inner node", "depth": "position"}[self.kind]
        lines += [f"flops per {per}: {self.flops}"]
        lines += [f"flops per leaf: {self.leaf_flops}"] if self.kind == "tree" else []
        lines += [f"state bytes: {self.state_bytes}"]
        return "\n".join(lines)


def analyse(cell: Cell) -> Analysis:
    """The recurrence class and the costs of a cell, as written (`cell.canonical()` has no dead code)."""
    graph = cell.graph
    flows = Flows(graph)
    components = () if cell.kind == "depth" else tuple(_component(flows, group) for group in _circles(flows))
    names = tuple(s.name for s in graph.states)
    if cell.kind == "depth":
        roots = [*graph.next, graph.out]
        deepest = max(f.products for f in flows.nodes(roots, frozenset(names)).values())
    else:
        deepest = max((c.gemm_depth for c in components), default=0)
    trained, fixed = _parameters(graph)
    return Analysis(
        name=cell.name,
        kind=cell.kind,
        components=components,
        dependence=MappingProxyType(_pairs(flows, names) if cell.kind != "depth" else {}),
        gemm_depth=deepest,
        parameters=trained,
        fixed_parameters=fixed,
        flops=_flops(graph, [*graph.next, graph.out] if graph.leaf else graph.roots()),
        leaf_flops=_flops(graph, graph.leaf) if graph.leaf else Poly(),
        state_bytes=_state_bytes(flows) if cell.kind != "depth" else _width(graph.states) * _BYTES,
    )


# ---- recurrence -------------------------------------------------------------------------------


def _circles(flows: Flows) -> list[tuple[str | int, ...]]:
    """Strongly connected components in order; a buffer alone is no recurrence and is left out."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    place = {vertex: i for i, vertex in enumerate(flows.vertices)}
    graph.add_nodes_from(range(len(place)))
    graph.add_edges_from((place[s], place[v]) for v in place for s in flows.sources(v))
    condensed = nx.condensation(graph)
    members = {c: tuple(sorted(condensed.nodes[c]["members"])) for c in condensed}
    ordered = nx.lexicographical_topological_sort(condensed, key=lambda c: members[c])
    groups = [tuple(flows.vertices[i] for i in members[c]) for c in ordered]
    return [g for g in groups if isinstance(g[0], str)]


def _component(flows: Flows, group: Sequence[str | int]) -> Component:
    graph = flows.graph
    found = flows.of(group, group)
    flow = join(list(found.values()))
    types = {s.name: s.type for s in graph.states}
    matrices = all(isinstance(v, str) and types[v].kind in ("mat", "cmat") for v in group)
    names = vertex_names(flows)
    structure, side = _structure(flow) if matrices else ("", "")
    return Component(
        tuple(names[v] for v in group),
        flow.dependence,
        flow.blocks if flow.dependence.mixing == "block" else "",
        structure,
        len(flow.low_rank) if structure == "diagonal-plus-low-rank" else 0,
        side,
        tuple(sorted(flow.axes, reverse=True)) if structure else (),
        flow.products,
    )


def _structure(flow: Flow) -> tuple[str, str]:
    if not flow.level or not flow.affine:
        return "", ""
    if flow.form == "diagonal":
        return "diagonal", ""
    side = {"left": "key", "right": "value"}.get(flow.form, "")
    return ("diagonal-plus-low-rank", side) if side else ("", "")


def vertex_names(flows: Flows) -> dict[str | int, str]:
    """What vertices are called: states by name, buffers `shift(h)`, a second one of that name `shift(h)_2`."""
    made: dict[str | int, str] = {}
    for vertex in flows.vertices:
        if isinstance(vertex, str):
            made[vertex] = vertex
            continue
        node = flows.graph.nodes[vertex]
        operand = flows.graph.nodes[node.args[0]]
        shown = str(operand.attr("name")) if operand.op == "state" else f"{operand.op}(...)"
        name, count = f"{node.op}({shown})", 1
        while name in made.values():
            count += 1
            name = f"{node.op}({shown})_{count}"
        made[vertex] = name
    return made


def _pairs(flows: Flows, names: Sequence[str]) -> dict[tuple[str, str], Dependence]:
    made: dict[tuple[str, str], Dependence] = {}
    for old in names:
        seeing = [new for new in names if old in flows.sources(new)]
        for new, flow in flows.of(seeing, (old,)).items():
            made[str(new), old] = flow.dependence
    return {pair: made[pair] for pair in sorted(made, key=lambda p: (names.index(p[0]), names.index(p[1])))}


# ---- costs ------------------------------------------------------------------------------------


def _parameters(graph: Graph) -> tuple[Poly, Poly]:
    """Trained numbers and fixed ones; a complex number counts as two."""
    trained, fixed = _width([s for s in graph.states if s.init == "learned"]), Poly()
    for weight in graph.weights:
        for spec in weight.specs:
            size = Poly.of(2 if spec.complex else 1)
            for extent in spec.shape:
                size = size * extent
            trained, fixed = (trained, fixed + size) if weight.fixed else (trained + size, fixed)
    return trained, fixed


def _width(states: Sequence[State]) -> Poly:
    """Real numbers in these states."""
    return sum((s.type.width * (2 if s.type.is_complex else 1) for s in states), Poly())


def _flops(graph: Graph, roots: Iterable[int]) -> Poly:
    """Of the live values that `roots` need; what depends on weights alone is computed once and not counted."""
    live = graph.live()[0] & graph.reachable(roots)
    memory = [i for i in range(len(graph.nodes)) if memory_length(graph, i)]
    moving = dependent(graph, "x", "state", "child", "carry", "final", "posemb", also=memory)
    turning = dependent(graph, "carry")
    total = Poly()
    per_child = _inside_sums(graph)
    for index in sorted(live & moving):
        node = graph.nodes[index]
        if node.op in OPS:
            types = [graph.nodes[a].type for a in node.args]
            cost = OPS[node.op].cost(types, dict(node.attrs), node.type)
            times = graph.region.times if graph.region and index in turning else 1
            total = total + cost * (times * (2 if index in per_child else 1))
    return total


def _inside_sums(graph: Graph) -> frozenset[int]:
    """In a cell with any number of children, the nodes computed for each child."""
    found: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if node.op == "child" or (node.op != "sum" and any(a in found for a in node.args)):
            found.add(index)
    return frozenset(found) if graph.variadic else frozenset()


def _state_bytes(flows: Flows) -> Poly:
    graph = flows.graph
    total = _width(graph.states)
    for index in sorted(graph.reachable(graph.roots())):
        operand = graph.nodes[index].args[:1]
        for arg in operand:
            total = total + graph.nodes[arg].type.width * memory_length(graph, index)
    return total * _BYTES
