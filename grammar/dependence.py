"""How values of one step depend on states: which entries they see, and by what kind of function.

A forward pass over the graph. States are given as carriers; everything that does not depend on a carrier
is a known constant of the step, so what comes earlier in the order of components is known too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from grammar.graph import Graph, Node
from grammar.machine import dependent, memory_length
from grammar.ops import OPS
from grammar.types import Type

MIXINGS = ("none", "elementwise", "block", "dense")
_ROWS = frozenset(("row",))
_COLUMNS = frozenset(("column",))
_FLAT = ("in", "vec", "cvec")  # types whose numbered blocks are consecutive parts of H


@dataclass(frozen=True, slots=True)
class Dependence:
    """How one value depends on others.

    `mixing` says which entries an entry sees: `none`, `elementwise` (the same entry), `block` (those of
    its head or block) or `dense`. `degree` is `const`, `affine`, `max-plus` (affine in that algebra)
    or `nonlinear`; a value that is both affine and max-plus is called affine.
    """

    mixing: str
    degree: str

    def __str__(self) -> str:
        return "none" if self.mixing == "none" else f"{self.mixing} {self.degree}"


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of one node with respect to the carriers.

    `form` describes an affine dependence on matrix states S [K, V]: `diagonal` (entry by entry),
    `left` (diagonal plus low rank, column by column: A S), `right` (row by row: S A), `read` (a `vec`,
    each entry from its own column), `readt` (a `key`, each from its own row), `other`. `low_rank`
    are the operands of nodes that add a rank, `axes` those along which factors vary. `products` is the longest
    chain of matrix products of carriers.
    """

    level: int = 0  # into MIXINGS
    blocks: str = ""  # whose entries a `block` is: "heads", or the number of blocks
    affine: bool = True
    max_plus: bool = True
    form: str = ""
    low_rank: frozenset[tuple[int, int]] = frozenset()
    axes: frozenset[str] = frozenset()
    products: int = 0

    @property
    def dependence(self) -> Dependence:
        """The part that users see."""
        if not self.level:
            return Dependence("none", "const")
        degree = "affine" if self.affine else "max-plus" if self.max_plus else "nonlinear"
        return Dependence(MIXINGS[self.level], degree)


CONSTANT = Flow()
_LOOP = Flow(3, "", affine=False, max_plus=False, form="other")


def join(flows: Sequence[Flow]) -> Flow:
    """What holds of a value that sees all of these, each as it is: a sum, or several values together."""
    level, blocks = 0, ""
    for flow in flows:
        level, blocks = _coarser(level, blocks, flow.level, flow.blocks)
    forms = {f.form for f in flows if f.level}
    return Flow(
        level,
        blocks,
        all(f.affine for f in flows),
        all(f.max_plus for f in flows),
        _one_form(forms),
        frozenset().union(*(f.low_rank for f in flows)),
        frozenset().union(*(f.axes for f in flows)),
        max((f.products for f in flows), default=0),
    )


def _one_form(forms: set[str]) -> str:
    if len(forms) <= 1:
        return forms.pop() if forms else ""
    for side in ("left", "right"):
        if forms == {"diagonal", side}:
            return side
    return "other"


def _coarser(level: int, blocks: str, other: int, others: str) -> tuple[int, str]:
    """The finer of all partitions that both keep."""
    if level < 2 or other < 2:
        return (level, blocks) if level > other else (other, others)
    if level == 3 or other == 3 or "heads" in (blocks, others):
        return (level, blocks) if (level, blocks) == (other, others) else (3, "")
    common = math.gcd(int(blocks), int(others))
    return (2, str(common)) if common > 1 else (3, "")


class Flows:
    """The passes over one graph.

    A vertex is a state by name, or the buffer of a `shift` or `conv` of a state-dependent value, by node.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.carrier_leaf = "child" if graph.children else "state"
        bound = dependent(graph, self.carrier_leaf, "final", "carry")
        live = graph.reachable(graph.roots())
        timed = all(s.type.kind != "seq" for s in graph.states)
        self.buffers = tuple(i for i in sorted(live) if timed and memory_length(graph, i) and i in bound)
        self.vertices: tuple[str | int, ...] = (*(s.name for s in graph.states), *self.buffers)

    @cached_property
    def reads(self) -> tuple[frozenset[str | int], ...]:
        """For each node, the vertices whose earlier value it sees."""
        graph = self.graph
        found: list[frozenset[str | int]] = []
        region: frozenset[str | int] | None = None
        for index, node in enumerate(graph.nodes):
            own: frozenset[str | int] = frozenset().union(*(found[a] for a in node.args))
            if node.op in ("state", "carry"):
                own = frozenset((str(node.attr("name")),))
            elif node.op == "child":
                own = frozenset((str(node.attr("state")),))
            elif node.op == "final" and graph.region:
                if region is None:
                    inner = (graph.region.until, *graph.region.next)
                    region = frozenset().union(graph.region.states, *(found[i] for i in inner))
                own = region
            elif index in self.buffers:
                own = own | {index} if node.op == "conv" else frozenset((index,))
            found.append(own)
        return tuple(found)

    def sources(self, vertex: str | int) -> frozenset[str | int]:
        """The vertices that the new value of a vertex sees."""
        if isinstance(vertex, str):
            return self.reads[self._next(vertex)]
        chain = {vertex} if memory_length(self.graph, vertex) > 1 else set()
        return self.reads[self.graph.nodes[vertex].args[0]] | chain

    def _next(self, state: str) -> int:
        return self.graph.next[[s.name for s in self.graph.states].index(state)]

    def of(self, targets: Collection[str | int], carriers: Collection[str | int]) -> dict[str | int, Flow]:
        """How the new values of `targets` depend on the earlier values of `carriers`."""
        graph = self.graph
        roots = [self._next(v) if isinstance(v, str) else graph.nodes[v].args[0] for v in targets]
        flows = self.nodes(roots, frozenset(carriers))
        made: dict[str | int, Flow] = {}
        for vertex, root in zip(targets, roots, strict=True):
            flow = flows[root]
            if isinstance(vertex, int) and vertex in carriers and memory_length(graph, vertex) > 1:
                flow = join([flow, self._carrier(graph.nodes[vertex])])
            made[vertex] = flow
        return made

    def nodes(self, roots: Sequence[int], carriers: frozenset[str | int]) -> Mapping[int, Flow]:
        """The flow of each node that `roots` need."""
        graph = self.graph
        flows: dict[int, Flow] = {}
        needed = graph.reachable(roots)
        region = graph.region
        if region and any(graph.nodes[i].op == "final" for i in needed):
            needed |= graph.reachable([region.until, *region.next])
        for index in sorted(needed):
            node = graph.nodes[index]
            if not self.reads[index] & carriers:
                flows[index] = CONSTANT
            elif node.op in ("state", "child", "carry"):
                flows[index] = self._carrier(node)
            elif node.op == "final":
                assert region is not None
                turn = max(flows[i].products for i in (region.until, *region.next))
                flows[index] = replace(_LOOP, products=turn * region.times)
            else:
                flows[index] = self._apply(index, flows, carriers)
        return flows

    @staticmethod
    def _carrier(node: Node) -> Flow:
        matrix = node.type.kind in ("mat", "cmat")
        return Flow(1, form="diagonal" if matrix else "other")

    def _apply(self, index: int, flows: Mapping[int, Flow], carriers: frozenset[str | int]) -> Flow:
        node = self.graph.nodes[index]
        if index in self.buffers:
            own = [self._carrier(node)] if index in carriers else []
            if node.op == "shift":
                return join(own)
            return replace(join([*own, flows[node.args[0]]]), max_plus=False)
        args = [flows[a] for a in node.args]
        types = [self.graph.nodes[a].type for a in node.args]
        level, blocks = _mixing(node, types, join(args))
        whole = join(args)
        affine, max_plus = _degree(node, args)
        products = whole.products + _products(node)
        if not affine:
            return Flow(level, blocks, affine, max_plus, "other", products=products)
        form, low_rank, axes = _matrix_form(index, node, args, types)
        return Flow(
            level, blocks, affine, max_plus, form, whole.low_rank | low_rank, whole.axes | axes, products
        )


# ---- transfer ---------------------------------------------------------------------------------


def _products(node: Node) -> int:
    """Matrix products one after the other in one operation."""
    if node.op == "lin":
        return 2 if node.attr("rank") else 1
    return 2 if node.op in ("attn", "mlp") else 0


def _mixing(node: Node, types: Sequence[Type], args: Flow) -> tuple[int, str]:
    """Level and blocks of the result."""
    own = (1, "")
    op = OPS[node.op]
    if op.mixes == "dense":
        blocks = str(node.attr("blocks", 1)) if node.op == "lin" else "1"
        flat = all(t.kind in _FLAT for t in (*types, node.type))
        whole = blocks == "1" or (blocks != "heads" and not flat)
        own = (3, "") if whole or any(t.kind == "mem" for t in (*types, node.type)) else (2, blocks)
    elif op.mixes == "block":
        own = (3, "") if node.type.kind in ("mem", "seq") else (2, "heads")
    return _coarser(args.level, args.blocks, *own)


def _degree(node: Node, args: Sequence[Flow]) -> tuple[bool, bool]:
    """Whether the result is affine, and whether it is affine in the max-plus algebra."""
    moving = [i for i, a in enumerate(args) if a.level]
    affine = all(a.affine for a in args)
    max_plus = all(a.max_plus for a in args)
    degree = OPS[node.op].degree
    if degree == "linear":
        keeps = node.op in ("add", "stopgrad") or (node.op == "sub" and moving == [0])
        return affine, max_plus and keeps and len(moving) == 1
    if degree == "product":
        return affine and len(moving) == 1, False
    if degree == "quotient":
        return affine and moving == [0], False
    if degree == "max":
        return False, max_plus
    if degree == "blend":
        return affine and (moving == [0] or 0 not in moving), False
    return False, False


def _matrix_form(
    index: int, node: Node, args: Sequence[Flow], types: Sequence[Type]
) -> tuple[str, frozenset[tuple[int, int]], frozenset[str]]:
    """The form of an affine result, the rank that this node adds, and the axes its factors vary along."""
    moving = [i for i, a in enumerate(args) if a.level]
    forms = {args[i].form for i in moving}
    none: frozenset[tuple[int, int]] = frozenset()
    if node.op == "read":
        column = forms <= {"diagonal", "left"} and moving == [0]
        return "read" if column else "other", none, frozenset()
    if node.op == "readt":
        row = forms <= {"diagonal", "right"} and moving == [0]
        return "readt" if row else "other", none, frozenset()
    if node.op == "outer":
        made = {"read": "left"} if moving == [1] else {"readt": "right"}
        form = made.get(_one_form(forms), "other") if len(moving) == 1 else "other"
        return form, frozenset(((index, moving[0]),)) if form != "other" else none, frozenset()
    if OPS[node.op].mixes != "elementwise" or node.op in ("re", "im", "complex"):
        return "other", none, frozenset()
    rank: set[tuple[int, int]] = set()
    parts = []
    for i in moving:
        form = args[i].form
        if node.type.kind in ("mat", "cmat") and form in ("read", "readt"):
            form = "left" if form == "read" else "right"
            rank.add((index, i))
        elif node.type != types[i] and form != "diagonal":
            form = "other"
        parts.append(replace(args[i], form=form))
    degree = OPS[node.op].degree
    factors: list[Type] = []
    if node.op == "diag":
        factors = [node.type]
    elif degree == "blend":
        factors = list(types[1:]) if moving == [0] else [types[0]]
    elif degree in ("product", "quotient"):
        factors = [t for i, t in enumerate(types) if i not in moving]
    axes = frozenset[str]().union(*(_axes(t, node.type) for t in factors))
    return join(parts).form, frozenset(rank), axes


def _axes(factor: Type, result: Type) -> frozenset[str]:
    """The axes of [K, V] along which a factor of this type varies."""
    if factor.kind in ("mat", "cmat"):
        return _ROWS | _COLUMNS
    if factor.kind in _FLAT:
        return _COLUMNS if result.kind in (*_FLAT, "mat", "cmat") else frozenset()
    return _ROWS if factor.kind == "key" else frozenset()
