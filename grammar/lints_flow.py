"""Lints about what a cell reads, remembers and learns: inputs, states and children that the output cannot see."""

from __future__ import annotations

import math
from collections.abc import Iterator

import networkx as nx

from grammar.lint_facts import PAST, Facts, Lint, state_name
from grammar.ops import OPS


def unused(facts: Facts) -> Iterator[Lint]:
    graph = facts.graph
    begins = any(s.init == "x" and s.name in facts.live_states for s in graph.states)
    if not begins and not any(graph.nodes[i].op == "x" for i in facts.live):
        yield Lint(
            "unused-input",
            "x",
            "no value of the input reaches the output, at any later step: the cell gives the same for all inputs.",
            "Let a state or the output read it, as in `lin(x, h)`.",
        )
    read = facts.live_states if facts.cell.kind != "depth" else facts.position.keys()
    for state in facts.cell.states:
        if state.name not in read and state.name not in facts.unchanged:
            yield Lint(
                "unused-state",
                state.name,
                f"the previous value {state.name} is not read on the way to the output, so the state stores "
                "nothing that matters.",
                f"Read {state.name} in an equation that reaches `out`, or make {state.name}' a plain name.",
            )


def memory(facts: Facts) -> Iterator[Lint]:
    for name in sorted(facts.unchanged, key=facts.position.__getitem__):
        yield Lint(
            "constant-state",
            name,
            "whatever is fed in and learned, the state keeps its initial value, so it stores nothing.",
            "Add what it should remember, as in `lerp(z, h, lin(x))`, or write `param()` if a constant is meant.",
        )
    if facts.cell.kind == "depth" or (facts.unchanged and facts.unchanged == facts.position.keys()):
        return
    if _circles(facts):
        return
    states = ", ".join(s.name for s in facts.cell.states) or "no state"
    if facts.cell.kind == "tree":
        message = "no state of a node depends on the same state of its children: the leaves are forgotten."
        repair = "Let a state read its children's, as in `h' = tanh(lin(l.h, r.h))`."
    else:
        message = "no state depends on its own past, directly or through others: the cell is feed-forward."
        repair = "Let a state read its own previous value, as in `h' = tanh(lin(x, h))`."
    yield Lint("no-memory", states, message, repair)


def _circles(facts: Facts) -> list[frozenset[str]]:
    """Sets of states that depend on their own past, directly or through one another; by the first state of each."""
    changing = facts.live_states - facts.unchanged
    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_nodes_from(changing)
    for name in changing:
        sources = facts.reads[facts.graph.next[facts.position[name]]]
        flow.add_edges_from((source, name) for source in sources & changing)
    found = [frozenset(c) for c in nx.strongly_connected_components(flow)]
    circles = [c for c in found if len(c) > 1 or any(flow.has_edge(n, n) for n in c)]
    return sorted(circles, key=lambda c: min(facts.position[n] for n in c))


def children(facts: Facts) -> Iterator[Lint]:
    """Of the children of a tree cell some are read and some are not."""
    nodes = facts.graph.nodes
    state = facts.cell.states[0].name if facts.cell.states else ""
    read = {str(nodes[i].attr("child")) for i in facts.live if nodes[i].op == "child"}
    for name in facts.cell.tree.children:
        if read and name not in read:
            yield Lint(
                "unused-child",
                name,
                f"nothing of the child {name} reaches the output: all below it is forgotten, and the tree is read as "
                "a chain.",
                f"Read it, as in `lin({', '.join(f'{c}.{state}' for c in facts.cell.tree.children)})`.",
            )


# ---- what is learned --------------------------------------------------------------------------


def gradients(facts: Facts) -> Iterator[Lint]:
    """Gradients are stopped on every way to the past, or to every weight."""
    if facts.cell.kind == "depth":
        return
    nodes = facts.graph.nodes
    flowing = _with_gradient(facts)
    trained = {
        i for i in facts.live if nodes[i].weight >= 0 and not facts.graph.weights[nodes[i].weight].fixed
    }
    if trained and not trained & flowing:
        yield Lint(
            "stopped-gradient",
            facts.show(facts.graph.out),
            "every way from a weight to the output goes through stopgrad: none of the cell's weights is trained.",
            "Stop the gradient of a part, as in `h + stopgrad(u - h)`, or say that weights are fixed with `fixed=yes`.",
        )
        return
    past = {i for i in facts.live if nodes[i].op in PAST}
    if _circles(facts) and not past & flowing:
        names = ", ".join(sorted({state_name(facts.graph, i) for i in past}, key=facts.position.__getitem__))
        yield Lint(
            "stopped-gradient",
            names,
            "every way from the past to the output goes through stopgrad: no weight learns what to remember, since "
            "what it does to a state is never seen at a later step.",
            "Leave a way open, as in `lerp(z, h, stopgrad(u))` in place of `lerp(z, stopgrad(h), u)`.",
        )


def _with_gradient(facts: Facts) -> set[int]:
    """The live nodes that a gradient of the output arrives at, over any number of steps."""
    found: set[int] = set()
    stack = [facts.graph.out]
    while stack:
        index = stack.pop()
        node = facts.graph.nodes[index]
        if index in found or index not in facts.live or node.op in ("stopgrad", "top"):
            continue
        found.add(index)
        stack.extend(node.args)
        if node.op in PAST:
            stack.extend(facts.roots(state_name(facts.graph, index)))
    return found


# ---- what grows faster than any factor --------------------------------------------------------


def products(facts: Facts) -> Iterator[Lint]:
    """States whose new values are of degree 2 or more in themselves."""
    if facts.cell.kind == "depth":
        return
    for circle in _circles(facts):
        growing, grown = frozenset[str](), dict.fromkeys(circle, 1.0)
        while growing != grown.keys():
            growing = frozenset(grown)
            degrees = _degrees(facts, growing)
            found = {s: degrees.get(facts.graph.next[facts.position[s]], 0.0) for s in growing}
            grown = {
                s: degree for s, degree in found.items() if degree
            }  # those left out are bounded by norms
        if any(degree >= 2 for degree in grown.values()):
            names = sorted((s for s, degree in grown.items() if degree >= 2), key=facts.position.__getitem__)
            yield Lint(
                "self-product",
                ", ".join(names),
                "the new value is a product of earlier values of the state with one another, and nothing bounds it: "
                "what is large grows without limit within a few steps, what is small vanishes as fast.",
                "Bound a factor, as in `sigmoid(h) * h`, or the product, as in `tanh(h * h)`.",
            )


def _degrees(facts: Facts, circle: frozenset[str]) -> dict[int, float]:
    """For each live node, how fast it grows with the states of a circle: as which power; 0 where it is bounded."""
    found: dict[int, float] = {}
    for index in sorted(facts.live):
        node = facts.graph.nodes[index]
        args = [found.get(a, 0.0) for a in node.args]
        if node.op in PAST:
            degree = float(state_name(facts.graph, index) in circle)
        elif not any(args) or facts.ranges[index].size.high < math.inf:
            degree = 0.0
        else:
            degree = _degree(node.op, args)
            if not all(args) and any(facts.reads[a] & circle for a in node.args if a not in found):
                degree = min(degree, 1.0)  # a bounded factor may vanish where the other is large
        if degree and facts.ranges[index].size.high == math.inf:
            found[index] = degree
    return found


def _degree(op: str, args: list[float]) -> float:
    """How fast an operation grows whose operands grow so; the least where it is not known."""
    if op == "lerp":
        return args[0] + max(args[1:])
    if op == "div":
        return max(args[0] - args[1], 0.0)
    if op == "sqrt":
        return args[0] / 2
    if op in OPS and OPS[op].degree == "product":
        return sum(args)
    if op in _GROWING or (op in OPS and OPS[op].degree in ("linear", "max")):
        return max(args)
    return 0.0


_GROWING = ("relu", "leaky_relu", "gelu", "softplus", "abs", "hmax", "min", "mlp")
