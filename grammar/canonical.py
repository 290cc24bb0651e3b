"""The canonical form: one text for all cells that differ only in what does not matter.

Simplify, number the graph by structure alone, and write it out in that order. States are `s0`, `s1`,
...; what is used twice is a let `v0`, `v1`, ...; weights used twice carry `share=w0`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from grammar.graph import Graph, Node
from grammar.labelling import Labelling, is_unordered, label
from grammar.ops import Value
from grammar.parser import CellTree
from grammar.simplify import simplify
from grammar.syntax import Depth, Expr, Leaf, Let, Out, State, Statement, X, expressions, num, ref

_INLINE = 40  # a value nested deeper than this gets a let, so that long chains stay readable


@dataclass(frozen=True, slots=True)
class CanonicalWeight:
    """Where one array of the canonical cell comes from: `name` is w0, w1, ... in the canonical text.

    `weight` and `role` name the array in the original cell's `graph.weights`.
    """

    name: str
    weight: int
    role: str


def canonical_tree(graph: Graph) -> CellTree:
    """The canonical form of a cell, as a syntax tree."""
    return _Writer(graph).tree


def canonical_weights(graph: Graph) -> tuple[CanonicalWeight, ...]:
    """The arrays of the canonical cell in its own order, each with its origin in `graph`.

    Cells of equal digest have equally many, and the i-th of each mean the same: copying arrays by
    these names makes two modules of equal digest equal.
    """
    writer = _Writer(graph)
    made: list[CanonicalWeight] = []
    for weight, order in writer.weight_order():
        for role in _roles(graph, weight, order):
            made.append(CanonicalWeight(f"w{len(made)}", weight, role))
    return tuple(made)


def _roles(graph: Graph, weight: int, order: tuple[int, ...]) -> Iterator[str]:
    """The roles of a weight in the canonical order of its operands."""
    roles = [s.role for s in graph.weights[weight].specs]
    if graph.weights[weight].op != "lin":
        yield from roles
        return
    for j in order:
        yield from (r for r in roles if r[1:] == str(j))
    yield from (r for r in roles if r == "b")


@dataclass(slots=True)
class _Block:
    """One block being written: its statements, and the names of values defined in it."""

    statements: list[Statement] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)


class _Writer:
    """Writes the numbered graph; twice, because only a first pass shows which weights repeat."""

    def __init__(self, original: Graph) -> None:
        self.graph = simplify(original)
        self.labels: Labelling = label(self.graph)
        graph = self.graph
        ranked = sorted(range(len(graph.states)), key=self.labels.states.__getitem__)
        self.state_names = {graph.states[i].name: f"s{k}" for k, i in enumerate(ranked)}
        self.state_order = ranked
        self.uses_of_weight = Counter(n.weight for n in graph.nodes)
        self.carried = self._depends("carry") if graph.region else frozenset[int]()
        self.per_child = self._depends("child") if graph.variadic else frozenset[int]()
        self.over_sums = self._over_sums() if graph.variadic else frozenset[int]()
        self.shared: dict[int, str] = {}
        self.emitted: list[tuple[Expr, int]] = []
        first = self._write()
        counts = Counter(weight for _, weight in self.emitted)
        for _, weight in self._in_order(first):
            if counts[weight] > 1 and weight not in self.shared:
                self.shared[weight] = f"w{len(self.shared)}"
        self.emitted = []
        self.tree = self._write() if self.shared else first

    def weight_order(self) -> list[tuple[int, tuple[int, ...]]]:
        """The original weights in the order of the canonical text, each with its operands' order."""
        order: dict[int, tuple[int, ...]] = {}
        for node_index, weight in self._in_order(self.tree):
            order.setdefault(weight, tuple(j for j, _ in self._operands(node_index)))
        return list(order.items())

    def _in_order(self, tree: CellTree) -> Iterator[tuple[int, int]]:
        """(node, weight) of each weight of the text, as a reader meets them."""
        node_of = {id(expr): node for expr, node in self._emitted_nodes}
        for expr in expressions(tree.statements):
            for part in expr.walk():
                index = node_of.get(id(part))
                if index is not None:
                    yield index, self.graph.nodes[index].weight

    # -- writing ----------------------------------------------------------------------------

    def _write(self) -> CellTree:
        graph = self.graph
        self._emitted_nodes: list[tuple[Expr, int]] = []
        self.count = 0
        states = tuple(
            State(f"s{k}", graph.states[i].type, graph.states[i].init) for k, i in enumerate(self.state_order)
        )
        leaf = self._leaf_block()
        body = _Block()
        following = {i: graph.next[i] for i in self.state_order}
        first_state: dict[int, str] = {}
        for i in self.state_order:
            if not self._is_leaf(graph.next[i]):
                first_state.setdefault(graph.next[i], f"{self.state_names[graph.states[i].name]}'")
        uses = self._uses([*following.values(), graph.out])
        region = self._region_block(body)
        for i in self.state_order:
            name = self.state_names[graph.states[i].name]
            if graph.region and graph.states[i].name in graph.region.states:
                continue
            self._define_root(body, uses, following[i], f"{name}'", first_state)
        out = self._emit(body, uses, graph.out, first_state)
        children = tuple(f"k{i}" for i in range(len(graph.children)))
        statements = (
            *leaf,
            *body.statements[: region[0]],
            *region[1],
            *body.statements[region[0] :],
            Out(out),
        )
        return CellTree("c", children, graph.variadic, states, statements)

    def _define_root(
        self, block: _Block, uses: Counter[int], node: int, name: str, first: dict[int, str]
    ) -> None:
        if first.get(node) == name:
            if node not in block.names:
                self._let(block, uses, node, name, first)
            return
        block.statements.append(Let(name, self._emit(block, uses, node, first)))

    def _leaf_block(self) -> tuple[Statement, ...]:
        graph = self.graph
        if graph.leaf is None:
            return ()
        block = _Block()
        first: dict[int, str] = {}
        for i in self.state_order:
            if not self._is_leaf(graph.leaf[i]):
                first.setdefault(graph.leaf[i], f"{self.state_names[graph.states[i].name]}'")
        uses = self._uses([graph.leaf[i] for i in self.state_order])
        for i in self.state_order:
            name = f"{self.state_names[graph.states[i].name]}'"
            self._define_root(block, uses, graph.leaf[i], name, first)
        return (Leaf(tuple(block.statements)),)

    def _region_block(self, body: _Block) -> tuple[int, tuple[Statement, ...]]:
        """The `depth ... until` block, and how many outer statements stand before it."""
        graph = self.graph
        region = graph.region
        if region is None:
            return 0, ()
        block = _Block()
        ordered = sorted(region.states, key=lambda n: self.state_names[n])
        following = {n: region.next[region.states.index(n)] for n in ordered}
        first: dict[int, str] = {}
        for n in ordered:
            if following[n] in self.carried and not self._is_leaf(following[n]):
                first.setdefault(following[n], f"{self.state_names[n]}'")
        uses = self._uses([*following.values(), region.until])
        self._hoist(body, uses, [*following.values(), region.until])
        block.names.update(body.names)
        for n in ordered:
            self._define_root(block, uses, following[n], f"{self.state_names[n]}'", first)
        until = self._emit(block, uses, region.until, first)
        return len(body.statements), (Depth(region.times, until, tuple(block.statements)),)

    def _hoist(self, body: _Block, uses: Counter[int], roots: list[int]) -> None:
        """Lets outside the region for what it uses but does not change from round to round."""
        seen: set[int] = set()
        stack = sorted(roots, key=self.labels.nodes.__getitem__, reverse=True)
        while stack:
            index = stack.pop()
            node = self.graph.nodes[index]
            if index in seen:
                continue
            seen.add(index)
            if index in self.carried:
                stack.extend(arg for _, arg in reversed(self._operands(index)))
            elif (node.args or node.op == "state") and index not in body.names:
                self._let(body, uses, index, self._new_name(), {})

    def _let(self, block: _Block, uses: Counter[int], node: int, name: str, first: dict[int, str]) -> None:
        for _, arg in self._operands(node):
            self._prepare(block, uses, arg, 1, first)
        block.statements.append(Let(name, self._operation(block, node)))
        block.names[node] = name

    def _new_name(self) -> str:
        self.count += 1
        return f"v{self.count - 1}"

    def _emit(self, block: _Block, uses: Counter[int], index: int, first: dict[int, str]) -> Expr:
        """The expression for a node, after the lets that it needs."""
        self._prepare(block, uses, index, 0, first)
        return self._expr(block, index)

    def _prepare(
        self, block: _Block, uses: Counter[int], index: int, depth: int, first: dict[int, str]
    ) -> None:
        """Write the lets below a node, and its own if it deserves one; a stack, because chains may be long."""
        stack: list[tuple[int, str | None, Iterator[int], int]] = []

        def enter(node: int, depth: int) -> None:
            if node in block.names or self._is_leaf(node):
                return
            name: str | None = None
            # A sum is not nested in another: what has one in it has a name there.
            inside = bool(stack) and stack[-1][0] in self.per_child
            if node not in self.per_child:
                if node in first:
                    name = first[node]
                elif uses[node] > 1 or depth >= _INLINE or (inside and node in self.over_sums):
                    name = self._new_name()
            below = iter([arg for _, arg in self._operands(node)])
            stack.append((node, name, below, 0 if name else depth))

        enter(index, depth)
        while stack:
            node, name, below, at = stack[-1]
            arg = next(below, None)
            if arg is not None:
                enter(arg, at + 1)
                continue
            stack.pop()
            if name is not None:
                block.statements.append(Let(name, self._operation(block, node)))
                block.names[node] = name

    def _expr(self, block: _Block, index: int) -> Expr:
        """A name where the node has one, else written out."""
        return ref(block.names[index]) if index in block.names else self._operation(block, index)

    def _operation(self, block: _Block, index: int) -> Expr:
        node = self.graph.nodes[index]
        if node.op == "x":
            return X
        if node.op == "num":
            return num(float(node.attr("value")))  # type: ignore[arg-type]
        if node.op in ("state", "carry"):
            return ref(self.state_names[str(node.attr("name"))])
        if node.op == "final":
            return ref(f"{self.state_names[str(node.attr('name'))]}'")
        if node.op == "child":
            k = self.graph.children.index(str(node.attr("child")))
            state = self.state_names[str(node.attr("state"))]
            return Expr("child", (), (("child", f"k{k}"), ("state", state)))
        args = tuple(self._expr(block, arg) for _, arg in self._operands(index))
        made = Expr(node.op, args, self._attrs(node))
        if node.weight >= 0:
            self.emitted.append((made, node.weight))
            self._emitted_nodes.append((made, index))
        return made

    def _attrs(self, node: Node) -> tuple[tuple[str, Value], ...]:
        attrs: dict[str, Value] = dict(node.attrs)
        if node.weight >= 0:
            weight = self.graph.weights[node.weight]
            if weight.init is not None:
                attrs["init"] = weight.init
            if weight.fixed:
                attrs["fixed"] = True
            if node.weight in self.shared:
                attrs["share"] = self.shared[node.weight]
            if node.op in ("lin", "param") and node.type.kind not in ("vec", "seq"):
                attrs["type"] = node.type.kind
                if node.type.kind == "mem":
                    attrs["size"] = node.type.size
            elif node.op == "param" and node.type.kind == "seq":
                attrs["type"] = "seq"
        return tuple(sorted(attrs.items()))

    # -- order ------------------------------------------------------------------------------

    def _operands(self, index: int) -> list[tuple[int, int]]:
        """(original position, node) of each operand, in canonical order."""
        node = self.graph.nodes[index]
        pairs = list(enumerate(node.args))
        if is_unordered(node):
            ranks = self.labels
            if node.op == "lin":
                pairs.sort(key=lambda p: (ranks.nodes[p[1]], ranks.slots[node.weight, p[0]]))
                if self.uses_of_weight[node.weight] > 1:
                    pairs.sort(key=lambda p: ranks.slots[node.weight, p[0]])
            else:
                pairs.sort(key=lambda p: ranks.nodes[p[1]])
        return pairs

    def _uses(self, roots: Iterable[int]) -> Counter[int]:
        roots = list(roots)
        uses = Counter(roots)
        for index in self.graph.reachable(roots):
            uses.update(self.graph.nodes[index].args)
        return uses

    def _is_leaf(self, index: int) -> bool:
        return not self.graph.nodes[index].args and self.graph.nodes[index].weight < 0

    def _depends(self, op: str) -> frozenset[int]:
        """The nodes that depend on a leaf `op` (for `child`: outside the `sum` over it)."""
        found: set[int] = set()
        for index, node in enumerate(self.graph.nodes):
            through = node.op != "sum" and any(a in found for a in node.args)
            if node.op == op or through:
                found.add(index)
        return frozenset(found)

    def _over_sums(self) -> frozenset[int]:
        """The nodes that a `sum` over children is below, or that are one."""
        found: set[int] = set()
        for index, node in enumerate(self.graph.nodes):
            if node.op == "sum" or any(a in found for a in node.args):
                found.add(index)
        return frozenset(found)
