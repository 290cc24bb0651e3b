"""Graph to smaller equal graph: dead code, constants, and identities that hold for every value.

No rule here needs the range of a value. Weights go only with values that the result does not depend on.

Of several ways to write a value one is kept. `square(a)` and `silu(a)` become products, `max(a, 0)` becomes `relu(a)`.
A value has one number as a factor: `a / 4 * 2` is `a * 0.5`, `-(2 * a)` is `-2 * a`. Terms are subtracted rather than
negative: `a + -2 * b` is `a - 2 * b`, `-a - b` is `-(a + b)`. Numbers that are added one after another are one if
their signs agree, so that nothing cancels which rounding would keep: `a + 1 + 2` is `a + 3`, `a + 1 - 1` stays.

Numbers are combined in float64, and a divisor becomes its reciprocal there: what two texts mean may differ by rounding
(relative 2^-52 a step), and `a * 0.1 * 3`, where 0.1 * 3 is not the float64 0.3, is not `a * 0.3`. The order in which
factors that are not numbers are multiplied, or terms added, is kept.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace

from grammar.graph import Graph, Node
from grammar.ops import OPS
from grammar.renderings import fold
from grammar.syntax import State
from grammar.types import NUM, SEQ, Type


def simplify(graph: Graph) -> Graph:
    """An equal graph without dead nodes and states, with constants folded and identities applied.

    Weights keep their indices in `graph.weights`; the weights of dead nodes are no longer used.
    """
    current = _rebuild(graph)
    for _ in range(len(graph.nodes) + 2):
        following = _rebuild(current)
        if following == current:
            return current
        current = following
    raise AssertionError(f"simplify did not settle on a graph of {len(graph.nodes)} nodes")


class _Builder:
    """New nodes, hash-consed; each is simplified as it is made."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.known: dict[Node, int] = {}

    def add(self, node: Node) -> int:
        if node.op in OPS and OPS[node.op].commutative:
            # a + b and b + a are one value; labelling orders them by structure later
            node = Node(node.op, tuple(sorted(node.args)), node.attrs, node.type, node.weight)
        index = self.known.get(node)
        if index is None:
            index = self.known[node] = len(self.nodes)
            self.nodes.append(node)
        return index

    def number(self, value: float) -> int:
        return self.add(Node("num", (), (("value", value + 0.0),), NUM))

    def value(self, index: int) -> float | None:
        """The number a node is, or None."""
        node = self.nodes[index]
        return float(node.attr("value")) if node.op == "num" else None  # type: ignore[arg-type]

    def match(self, index: int, op: str) -> tuple[int, ...] | None:
        """The operands of a node if it is an `op`."""
        node = self.nodes[index]
        return node.args if node.op == op else None

    def scaled(self, index: int) -> tuple[float, int] | None:
        """`c, a` where the node is c * a with a number c."""
        args = self.match(index, "mul")
        for number, other in _both_orders(args):
            value = self.value(number)
            if value is not None:
                return value, other
        return None

    def flipped(self, index: int) -> int | None:
        """`a` where the node is -a: negated, a number below 0, or a product with one."""
        value = self.value(index)
        if value is not None:
            return self.number(-value) if value < 0 else None
        negated = self.match(index, "neg")
        if negated:
            return negated[0]
        scaled = self.scaled(index)
        if scaled is None or scaled[0] >= 0:
            return None
        return self.make("mul", (self.number(-scaled[0]), scaled[1]), self.nodes[index].type)

    def one_minus(self, index: int) -> int | None:
        """`a` where the node is 1 - a."""
        args = self.match(index, "sub")
        return args[1] if args and self.value(args[0]) == 1.0 else None

    def make(self, op: str, args: tuple[int, ...], type_: Type) -> int:
        """A parameter-free operation, or something simpler that equals it."""
        values = [self.value(a) for a in args]
        if type_ == NUM and None not in values:
            folded = fold(op, [v for v in values if v is not None])
            if folded is not None:
                return self.number(folded)
        rule = _RULES.get(op)
        found = rule(self, args, type_) if rule else None
        return self.add(Node(op, args, (), type_)) if found is None else found


def _same_type(b: _Builder, index: int, type_: Type) -> int | None:
    """The node, where it can stand for a result of this type."""
    return index if b.nodes[index].type == type_ else None


def _add(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    for this, other in (args, args[::-1]):
        if b.value(other) == 0.0:
            return _same_type(b, this, type_)
        difference = _moves_from(b, this, other)
        if difference:
            return b.make("lerp", difference, type_)
    mixture = _mixture(b, args, type_)
    if mixture is not None:
        return mixture
    first, second = map(b.flipped, args)
    if first is not None and second is not None:
        return b.make("neg", (b.make("add", (first, second), type_),), type_)
    if first is not None:
        return b.make("sub", (args[1], first), type_)
    if second is not None:
        return b.make("sub", (args[0], second), type_)
    for this, other in (args, args[::-1]):
        total = _further(b, "add", this, other)
        if total:
            return b.make("add", total, type_)
    return None


def _further(b: _Builder, op: str, start: int, step: int) -> tuple[int, int] | None:
    """(a + 1) + 2 is a + 3, and so with `sub`; the numbers are positive."""
    second = b.value(step)
    for a, number in _both_orders(b.match(start, op)):
        first = b.value(number)
        if first is not None and second is not None and math.isfinite(first + second):
            return a, b.number(first + second)
        if op == "sub":
            break
    return None


def _moves_from(b: _Builder, start: int, step: int) -> tuple[int, int, int] | None:
    """a + z * (b - a) is lerp(z, a, b)."""
    for gate, other in _both_orders(b.match(step, "mul")):
        way = b.match(other, "sub")
        if way and way[1] == start:
            return gate, start, way[0]
    return None


def _mixture(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    """(1 - z) * a + z * b is lerp(z, a, b)."""
    for first, second in (args, args[::-1]):
        for complement, a in _both_orders(b.match(first, "mul")):
            gate = b.one_minus(complement)
            if gate is None:
                continue
            for other, value in _both_orders(b.match(second, "mul")):
                if other == gate:
                    return b.make("lerp", (gate, a, value), type_)
    return None


def _both_orders(pair: tuple[int, ...] | None) -> tuple[tuple[int, ...], ...]:
    return (pair, pair[::-1]) if pair else ()


def _sub(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    left, right = args
    if b.value(right) == 0.0:
        return _same_type(b, left, type_)
    if b.value(left) == 0.0:
        return b.make("neg", (right,), type_)
    inner = b.one_minus(right)
    if b.value(left) == 1.0 and inner is not None:
        return _same_type(b, inner, type_)
    first, second = b.flipped(left), b.flipped(right)
    if first is not None and second is not None:
        return b.make("sub", (second, first), type_)
    if first is not None:
        return b.make("neg", (b.make("add", (first, right), type_),), type_)
    if second is not None:
        return b.make("add", (left, second), type_)
    total = _further(b, "sub", left, right)
    return b.make("sub", total, type_) if total else None


def _mul(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    for this, other in (args, args[::-1]):
        if b.value(other) == 1.0:
            return _same_type(b, this, type_)
        if b.value(other) == -1.0 and b.nodes[this].type == type_:
            return b.make("neg", (this,), type_)
        scaled = _scaled(b, b.value(other), this, type_)
        if scaled is not None:
            return scaled
    if args[0] == args[1]:
        positive = b.flipped(args[0])
        return b.make("mul", (positive, positive), type_) if positive is not None else None
    return None


def _scaled(b: _Builder, factor: float | None, index: int, type_: Type) -> int | None:
    """A number times a negated value or one that has a number as factor already."""
    if factor is None:
        return None
    negated, scaled = b.match(index, "neg"), b.scaled(index)
    if negated:
        return b.make("mul", (b.number(-factor), negated[0]), type_)
    if scaled and _keeps(factor * scaled[0], factor, scaled[0]):
        return b.make("mul", (b.number(factor * scaled[0]), scaled[1]), type_)
    return None


def _keeps(product: float, *factors: float) -> bool:
    """Whether a product of numbers has not left the range of float64."""
    return math.isfinite(product) and (0.0 in factors or abs(product) >= sys.float_info.min)


def _div(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    divisor = b.value(args[1])
    if not divisor or not _keeps(1.0 / divisor):
        return None
    return b.make("mul", (args[0], b.number(1.0 / divisor)), type_)


def _neg(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    twice = b.match(args[0], "neg")
    if twice:
        return twice[0]
    difference, scaled = b.match(args[0], "sub"), b.scaled(args[0])
    if scaled:
        return b.make("mul", (b.number(-scaled[0]), scaled[1]), type_)
    return b.make("sub", difference[::-1], type_) if difference else None


def _lerp(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    gate, a, other = args
    if a == other:
        return _same_type(b, a, type_)
    if b.value(gate) in (0.0, 1.0):
        return _same_type(b, other if b.value(gate) else a, type_)
    inner = b.one_minus(gate)
    return b.make("lerp", (inner, other, a), type_) if inner is not None else None


def _max(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    for this, other in (args, args[::-1]):
        if b.value(other) == 0.0:
            return b.make("relu", (this,), type_)
    return _equal(b, args, type_)


def _square(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    return b.make("mul", (args[0], args[0]), type_)


def _silu(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    return b.make("mul", (args[0], b.make("sigmoid", args, type_)), type_)


def _even(op: str) -> Callable[[_Builder, tuple[int, ...], Type], int | None]:
    """op(-a) is op(a)."""

    def rule(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
        positive = b.flipped(args[0])
        return b.make(op, (positive,), type_) if positive is not None else None

    return rule


def _abs(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    if b.nodes[args[0]].op in ("abs", "relu", "exp") and not b.nodes[args[0]].type.is_complex:
        return args[0]
    return _even("abs")(b, args, type_)


def _equal(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
    return args[0] if args[0] == args[1] else None


def _undo(op: str) -> Callable[[_Builder, tuple[int, ...], Type], int | None]:
    """The value within, where the operand is `op` of one of the result's type."""

    def rule(b: _Builder, args: tuple[int, ...], type_: Type) -> int | None:
        inner = b.match(args[0], op)
        return _same_type(b, inner[0], type_) if inner else None

    return rule


def _idempotent(op: str) -> Callable[[_Builder, tuple[int, ...], Type], int | None]:
    return lambda b, args, type_: args[0] if b.nodes[args[0]].op == op else None


_RULES: dict[str, Callable[[_Builder, tuple[int, ...], Type], int | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "lerp": _lerp,
    "max": _max,
    "min": _equal,
    "relu": _idempotent("relu"),
    "abs": _abs,
    "cos": _even("cos"),
    "square": _square,
    "silu": _silu,
    "stopgrad": _idempotent("stopgrad"),
    "tokey": _undo("toval"),
    "toval": _undo("tokey"),
}


def _named(graph: Graph, live: set[int], states: set[str]) -> set[str]:
    """The states that are no more than a name for a live value: `c` in `c' = tanh(lin(x)); h' = lin(h, c')`.

    A module returns them, so they are not dead code, as NAS-Bench-NLP's classes have it too; a state whose new value
    nothing live mentions is. One such name for a value is enough. A tree's leaf, and what is carried through
    `depth ... until`, would need values of their own for the name, and get none.
    """
    found: set[str] = set()
    if graph.leaf is not None or graph.region is not None:
        return found
    named = {n for s, n in zip(graph.states, graph.next, strict=True) if s.name in states}
    for state, node in zip(graph.states, graph.next, strict=True):
        is_leaf = not graph.nodes[node].args and graph.nodes[node].weight < 0
        if state.name in graph.mentioned - states and node in live - named and not is_leaf:
            found.add(state.name)
            named.add(node)
    return found


def _rebuild(graph: Graph) -> Graph:
    live, states = graph.live()
    builder = _Builder()
    new: dict[int, int] = {}
    for index in sorted(live):
        node = graph.nodes[index]
        args = tuple(new[a] for a in node.args)
        if node.weight < 0 and not node.attrs and args:
            new[index] = builder.make(node.op, args, node.type)
        else:
            new[index] = builder.add(Node(node.op, args, node.attrs, node.type, node.weight))
    named = _named(graph, live, states)
    kept = [replace(s, init=0.0) if s.name in named else s for s in graph.states if s.name in states | named]
    position = {s.name: i for i, s in enumerate(graph.states)}
    following = tuple(new[graph.next[position[s.name]]] for s in kept)
    if not kept and any(s.type == SEQ for s in graph.states):
        # A cell over depth is one by its seq states: where none is seen, one that does nothing stands for them.
        kept = [State(graph.states[0].name, SEQ)]
        idle = Node("state", (), (("name", kept[0].name),), SEQ)
        following = (builder.add(idle),)
    leaf = tuple(new[graph.leaf[position[s.name]]] for s in kept) if graph.leaf is not None else None
    region = graph.region
    if region is not None:
        carried = [i for i, name in enumerate(region.states) if name in states]
        if carried and region.until in new:
            region = type(region)(
                region.times,
                new[region.until],
                tuple(region.states[i] for i in carried),
                tuple(new[region.next[i]] for i in carried),
            )
        else:
            region = None
    made = Graph(
        tuple(builder.nodes), tuple(kept), following, new[graph.out], graph.weights, leaf, region,
        graph.children, graph.variadic, graph.equal_width, graph.mentioned,
    )  # fmt: skip
    return _compact(made)


def _compact(graph: Graph) -> Graph:
    """Drop nodes that rewriting left behind, keeping the order."""
    live = sorted(graph.reachable(graph.roots()))
    if len(live) == len(graph.nodes):
        return graph
    new = {old: i for i, old in enumerate(live)}
    nodes = tuple(
        Node(n.op, tuple(new[a] for a in n.args), n.attrs, n.type, n.weight)
        for n in (graph.nodes[i] for i in live)
    )
    region = graph.region and type(graph.region)(
        graph.region.times,
        new[graph.region.until],
        graph.region.states,
        tuple(new[i] for i in graph.region.next),
    )
    leaf = tuple(new[i] for i in graph.leaf) if graph.leaf is not None else None
    return Graph(
        nodes, graph.states, tuple(new[i] for i in graph.next), new[graph.out], graph.weights, leaf, region,
        graph.children, graph.variadic, graph.equal_width, graph.mentioned,
    )  # fmt: skip
