"""What is likely to go wrong with a cell, found before any training: warnings, never errors.

Each lint states a fact of the text (an input that nothing reads, a factor that is above 1 whatever is
learned), why it hurts, and what to write instead. Facts come from intervals (`grammar.ranges`) of the
simplified cell in exact arithmetic; where they cannot decide, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from grammar import lints_flow
from grammar.analysis import Component, analyse
from grammar.cell import Cell
from grammar.graph import Node
from grammar.intervals import UNIT
from grammar.lint_facts import Facts
from grammar.lint_facts import Lint as Lint
from grammar.ops import OPS
from grammar.ranges import Ranges

LINTS: Mapping[str, str] = {
    "unused-input": "x never reaches the output",
    "unused-state": "a state never reaches the output",
    "unused-child": "one of the children of a tree never reaches the output",
    "no-memory": "no state depends on its own past",
    "constant-state": "a state keeps its initial value",
    "stopped-gradient": "no gradient reaches the past, or any weight",
    "must-explode": "an affine state is multiplied by more than 1 in each step",
    "unbounded-coefficient": "nothing bounds what an affine state is multiplied by",
    "loose-coefficient": "an affine state is multiplied by what can be more than 1",
    "self-product": "a state is multiplied by itself",
    "gate-out-of-range": "the gate of a blend is never between 0 and 1",
    "loose-gate": "the gate of a blend can be below 0 or above 1",
    "unbounded-exp": "exp of a value that can be arbitrarily large reaches a state or the output",
    "zero-division": "a denominator can be 0",
    "zero-log": "log of a value that can be 0",
    "outside-domain": "log or sqrt of a value that can be negative",
}


def lint(cell: Cell) -> tuple[Lint, ...]:
    """The warnings for a cell in the order of `LINTS`; none is an error, and none means no guarantee."""
    facts = Facts(cell)
    found = [
        *lints_flow.unused(facts),
        *lints_flow.children(facts),
        *lints_flow.memory(facts),
        *lints_flow.gradients(facts),
        *_coefficients(facts),
        *lints_flow.products(facts),
        *_gates(facts),
        *_exponentials(facts),
        *_domains(facts),
    ]
    order = list(LINTS)
    return tuple(sorted(dict.fromkeys(found), key=lambda found: order.index(found.name)))


# ---- affine states ----------------------------------------------------------------------------


class _NotLinearError(Exception):
    """The dependence is not one factor for each entry."""


class _Slopes:
    """What a node is multiplied by, as further nodes: the derivative of an elementwise affine function."""

    def __init__(self, facts: Facts, states: tuple[str, ...]) -> None:
        self.facts = facts
        self.ranges = facts.ranges
        self.carriers = frozenset(states)
        self.reads = facts.reads

    def of(self, root: int) -> dict[str, int]:
        """For each state, the node of its coefficient in node `root`. Raises _NotLinearError."""
        made: dict[int, dict[str, int]] = {}
        for index in sorted(self.facts.graph.reachable([root])):
            moving = bool(self.reads[index] & self.carriers)
            made[index] = self._slope(index, made) if moving else {}
        return made[root]

    def _slope(self, index: int, made: Mapping[int, dict[str, int]]) -> dict[str, int]:
        node = self.ranges.nodes[index]
        if node.op == "state":
            return {str(node.attr("name")): self.ranges.number(1.0)}
        args = node.args
        slopes = [made[a] for a in args]
        if node.op in ("add", "sub"):
            return self._sum(node.op, slopes[0], slopes[1], index)
        if node.op in ("neg", "stopgrad"):
            return {n: self.ranges.make(node.op, (c,), index) for n, c in slopes[0].items()}
        moving = [i for i, s in enumerate(slopes) if s]
        if node.op in ("mul", "div") and len(moving) == 1 and (node.op == "mul" or moving == [0]):
            other = args[1 - moving[0]]
            return {n: self._times(node.op, c, other, index) for n, c in slopes[moving[0]].items()}
        if node.op == "diag":
            factor = self.ranges.append(replace(node, op="param", args=()))
            return {n: self._times("mul", c, factor, index) for n, c in slopes[0].items()}
        if node.op == "lerp":
            return self._blend(args, slopes, index)
        raise _NotLinearError(node.op)

    def _times(self, op: str, coefficient: int, other: int, like: int) -> int:
        one = self.ranges.number(1.0)
        if op == "mul" and coefficient == one:
            return other
        node = self.ranges.nodes[coefficient]
        if op == "div" and node.op == "mul":
            return self.ranges.make(
                "mul", (self.ranges.make("div", (node.args[0], other), like), node.args[1]), like
            )
        return self.ranges.make(op, (coefficient, other), like)

    def _sum(self, op: str, a: dict[str, int], b: dict[str, int], like: int) -> dict[str, int]:
        made = dict(a)
        for name, c in b.items():
            if name in a:
                made[name] = self.ranges.make(op, (a[name], c), like)
            else:
                made[name] = c if op == "add" else self.ranges.make("neg", (c,), like)
        return made

    def _blend(self, args: tuple[int, ...], slopes: list[dict[str, int]], like: int) -> dict[str, int]:
        if slopes[0]:
            if slopes[1] or slopes[2]:
                raise _NotLinearError("lerp")
            way = self.ranges.make("sub", (args[2], args[1]), like)
            return {n: self._times("mul", c, way, like) for n, c in slopes[0].items()}
        zero = self.ranges.number(0.0)
        names = slopes[1].keys() | slopes[2].keys()
        return {
            n: self.ranges.make("lerp", (args[0], slopes[1].get(n, zero), slopes[2].get(n, zero)), like)
            for n in names
        }


def _coefficients(facts: Facts) -> Iterator[Lint]:
    if facts.cell.kind != "time":
        return
    for component in analyse(facts.cell).components:
        scanned = component.mixing == "elementwise" and component.degree == "affine"
        if not (scanned or component.structure == "diagonal"):
            continue
        if not facts.live_states.issuperset(component.states):
            continue  # dead, or through a buffer: shift(h) is no state
        try:
            yield from _component(facts, component)
        except _NotLinearError:
            continue


def _component(facts: Facts, component: Component) -> Iterator[Lint]:
    slopes = _Slopes(facts, component.states)
    found = {s: slopes.of(facts.graph.next[facts.position[s]]) for s in component.states}
    ranges = facts.ranges
    names = ", ".join(component.states)
    if _explodes(ranges, component.states, found):
        only = found[names].get(names) if names in found else None
        factor = "factors" if only is None else f"a factor in {ranges[only].size}"
        yield Lint(
            "must-explode",
            names,
            f"each step multiplies by {factor}, provably more than 1: values grow without limit whatever is learned.",
            "Multiply by a gate in [0, 1], as in `sigmoid(lin(x)) * h`, or blend with `lerp`.",
        )
        return
    for state in component.states:
        own = found[state].get(state)
        if own is None:
            continue
        if ranges[own].size.high == math.inf:
            learned = _is_constant(ranges, own)
            what = "a learned number" if learned else "a value that depends on the input"
            yield Lint(
                "unbounded-coefficient",
                state,
                f"each step multiplies by {what} in {ranges[own].re}, not held in [-1, 1]: a scan of it can grow "
                "without limit.",
                "Bound it: `sigmoid(..)`, `tanh(..)`, or `exp(-softplus(..))` for a decay.",
            )
        elif ranges[own].size.high > 1 + 1e-9 and not _is_constant(ranges, own):
            yield Lint(
                "loose-coefficient",
                state,
                f"each step multiplies by a value in {ranges[own].re} that depends on the input, not held in [-1, 1]: "
                "where it stays beyond, values grow without limit.",
                "Make the factor with `sigmoid(..)` or `tanh(..)` alone, or `1 - 2 * sigmoid(..)` for any sign.",
            )


def _is_constant(ranges: Ranges, index: int) -> bool:
    """Whether a node depends on weights and numbers alone."""
    stack = [index]
    while stack:
        node = ranges.nodes[stack.pop()]
        if node.op in ("x", "state", "child", "carry", "final"):
            return False
        stack.extend(node.args)
    return True


def _explodes(ranges: Ranges, states: tuple[str, ...], found: dict[str, dict[str, int]]) -> bool:
    """Whether the step's matrix of coefficients grows, whatever they are within their ranges."""
    if len(states) == 1:
        own = found[states[0]].get(states[0])
        if own is None:
            return False
        size = ranges[own].size
        return size.low > 1 or (size.low == 1 and size.open_low)
    matrix = np.zeros((len(states), len(states)))
    points = True
    for i, new in enumerate(states):
        for j, old in enumerate(states):
            if old in found[new]:
                value = ranges[found[new][old]]
                points = points and value.is_point and not value.im.low
                matrix[i, j] = value.re.low
    # Of matrices without negative entries a larger one has the larger radius (Perron and Frobenius).
    if not np.isfinite(matrix).all() or not (points or (matrix >= 0).all()):
        return False
    return bool(np.abs(np.linalg.eigvals(matrix)).max() > 1 + 1e-9)


def _gates(facts: Facts) -> Iterator[Lint]:
    for index in sorted(facts.live):
        node = facts.graph.nodes[index]
        if node.op != "lerp" or not facts.reads[index]:
            continue
        gate = facts.ranges[node.args[0]].re
        below = gate.high < 0 or (gate.high == 0 and gate.open_high)
        above = gate.low > 1 or (gate.low == 1 and gate.open_low)
        if below or above:
            yield Lint(
                "gate-out-of-range",
                facts.show(index),
                f"the gate {facts.show(node.args[0])} lies in {gate}, never in {UNIT}: the blend overshoots both "
                "of its values.",
                "Make the gate with `sigmoid(..)`.",
            )
        elif not gate.within(UNIT):
            yield Lint(
                "loose-gate",
                facts.show(index),
                f"the gate {facts.show(node.args[0])} lies in {gate}: where it leaves {UNIT}, the blend overshoots one "
                "of its values, and a state that is blended so can grow.",
                "Make the gate with `sigmoid(..)`, or write the two factors if no blend is meant.",
            )


# ---- values that overflow or have no value ----------------------------------------------------


def _exponentials(facts: Facts) -> Iterator[Lint]:
    graph = facts.graph
    for index in sorted(facts.live):
        node = graph.nodes[index]
        if node.op != "exp" or facts.constants[index]:
            continue
        if facts.ranges[node.args[0]].re.high == math.inf and _overflows(facts, index):
            yield Lint(
                "unbounded-exp",
                facts.show(index),
                f"the argument has no upper bound (it lies in {facts.ranges[node.args[0]].re}), so the result can "
                "overflow, and it reaches a state or the output.",
                "Subtract a running maximum (a state `m' = max(m, s)`, then `exp(s - m')`), or use "
                "`exp(-softplus(..))`, `sigmoid` or `softplus`.",
            )


def _overflows(facts: Facts, start: int) -> bool:
    """Whether infinity at a node, or what becomes of it, can arrive at a state or the output."""
    graph = facts.graph
    infinite, undefined = {start}, set[int]()
    for index in range(start + 1, len(graph.nodes)):
        node = graph.nodes[index]
        reached = [a for a in node.args if a in infinite]
        if any(a in undefined for a in node.args) or _is_undefined(facts, node, reached):
            undefined.add(index)
        elif reached and not _takes_in(facts, index, reached):
            infinite.add(index)
    roots = {graph.out}.union(*(facts.roots(s) for s in facts.live_states))
    return bool(roots & (infinite | undefined))


def _is_undefined(facts: Facts, node: Node, infinite: list[int]) -> bool:
    """Whether infinite operands can make a result that is not a number: inf - inf, inf / inf, 0 inf."""
    if not infinite:
        return False
    ranges = [facts.ranges[a] for a in node.args]
    if node.op == "mul":
        return any(0.0 in r.size for a, r in zip(node.args, ranges, strict=True) if a not in infinite)
    if node.op == "add":
        return len(infinite) == 2 and any(r.re.low == -math.inf for r in ranges)
    if node.op in ("sub", "div"):
        return len({*infinite}) == 2
    return OPS[node.op].mixes != "elementwise" or node.op in ("sin", "cos", "cis", "lerp")


def _takes_in(facts: Facts, index: int, infinite: list[int]) -> bool:
    """Whether a node is finite though an operand is infinite, as tanh(inf) and 1 / inf are."""
    node = facts.graph.nodes[index]
    if node.op == "div":
        return node.args[0] not in infinite
    saturates = node.op in ("sigmoid", "tanh", "exp", "min", "max", "relu")
    return saturates and facts.ranges[index].size.high < math.inf


def _domains(facts: Facts) -> Iterator[Lint]:
    for index in sorted(facts.live):
        node = facts.graph.nodes[index]
        if node.op == "div":
            below = facts.ranges[node.args[1]]
            if 0.0 in below.size:
                sign = f"({facts.show(node.args[1])} + 0.000001)" if below.re.low >= 0 else "max(abs(..), 1)"
                yield Lint(
                    "zero-division",
                    facts.show(index),
                    f"the denominator {facts.show(node.args[1])} lies in {below.re}, which contains 0.",
                    f"Keep it away from 0, as in `.. / {sign}`.",
                )
        elif node.op in ("log", "sqrt"):
            argument = facts.ranges[node.args[0]].re
            if node.op == "log" and 0.0 in argument and argument.low == 0 and not _is_power(facts, index):
                yield Lint(
                    "zero-log",
                    facts.show(index),
                    f"the argument lies in {argument}, which contains 0, and log(0) is -inf.",
                    "Keep it away from 0, as in `log(.. + 0.000001)` or `log(softplus(..))`.",
                )
            elif argument.low < 0:
                yield Lint(
                    "outside-domain",
                    facts.show(index),
                    f"the argument lies in {facts.ranges[node.args[0]].re}, and {node.op} of a negative number is "
                    "not a number.",
                    f"Make it positive, as in `{node.op}(softplus(..))` or `{node.op}(square(..) + 0.000001)`.",
                )


def _is_power(facts: Facts, index: int) -> bool:
    """Whether a logarithm is only in `exp(p * log(a))` with p > 0, which is 0 where a is."""
    graph = facts.graph
    users = [i for i in sorted(facts.live) if index in graph.nodes[i].args]
    for user in users:
        node = graph.nodes[user]
        others = [a for a in node.args if a != index]
        scaled = node.op == "mul" and len(others) == 1 and facts.ranges[others[0]].re.low > 0
        if node.op != "exp" and not (scaled and _is_power(facts, user)):
            return False
    return bool(users) and index not in {graph.out}.union(*(facts.roots(s) for s in facts.live_states))
