"""Where the values of a cell lie at every step: the intervals of `grammar.intervals` over a whole graph.

States begin at their declared values and widen until the step keeps them (an inductive invariant).
Sums and differences are also read as linear forms, so that `exp(a - m')` with `m' = max(.., a)` is
seen to stay below 1, and `1 - (1 - f)` to be `f`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grammar.graph import Graph, Node
from grammar.intervals import (
    ANY,
    INF,
    REALS,
    Interval,
    Range,
    add,
    join,
    meet,
    mul,
    point,
    range_of,
)
from grammar.syntax import State
from grammar.types import NUM

_STEPS = (-1.0, 0.0, 1.0)  # where a widening bound may come to rest before infinity
_PATIENCE = 2  # exact rounds before bounds are widened
_LARGEST_FORM = 12  # terms of a linear form; longer sums count as one term


class Ranges:
    """The range of every node of a graph; nodes may be added, as a derivative is written in old nodes.

    They hold for a run from the declared initial values, on a tree from its leaves.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = list(graph.nodes)
        self._known = {node: i for i, node in enumerate(self.nodes)}
        self._forms: list[_Form] = []
        self.states = {s.name: _initial(s) for s in graph.states}
        self._carried = {n: self.states[n] for n in graph.region.states} if graph.region else {}
        self._found: list[Range] = []
        for index in range(len(self.nodes)):
            self._forms.append(self._form(index))
        self._settle()

    def __getitem__(self, index: int) -> Range:
        return self._found[index]

    def index(self, node: Node) -> int | None:
        """The index of a node, or None where there is none like it."""
        return self._known.get(node)

    def same(self, a: int, b: int) -> bool:
        """Whether two nodes are equal as sums of other nodes."""
        return self._forms[a] == self._forms[b]

    def make(self, op: str, args: tuple[int, ...], like: int) -> int:
        """A parameter-free operation on nodes, of the type of node `like`; its index."""
        return self.append(Node(op, args, (), self.nodes[like].type))

    def number(self, value: float) -> int:
        """A number; its index."""
        return self.append(Node("num", (), (("value", value),), NUM))

    def append(self, node: Node) -> int:
        """The index of a node on nodes that are there; it is added where it is new."""
        index = self._known.get(node)
        if index is None:
            index = self._known[node] = len(self.nodes)
            self.nodes.append(node)
            self._forms.append(self._form(index))
            self._found.append(self._range(index))
        return index

    # -- states -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Widen what states may be until one more step adds nothing."""
        if self.graph.leaf is not None:
            self.states = {}
            self._sweep()
            self.states = {
                s.name: self._found[i] for s, i in zip(self.graph.states, self.graph.leaf, strict=True)
            }
        turn = 0
        while True:
            self._sweep()
            if not self._widen(turn):
                return
            turn += 1

    def _sweep(self) -> None:
        """The range of every node; those that nothing new reaches are as in the sweep before."""
        before, self._found = self._found, []
        changed: set[int] = set()
        above: set[int] = set()  # what sees one of `changed`, over any number of nodes
        for index, node in enumerate(self.graph.nodes):
            reached = not above.isdisjoint(node.args)
            if before and node.args and not (reached and self._reads(index, changed)):
                self._found.append(before[index])
            else:
                self._found.append(self._range(index))
                if not before or self._found[index] != before[index]:
                    changed.add(index)
                    reached = True
            if reached:
                above.add(index)

    def _reads(self, index: int, changed: set[int]) -> bool:
        """Whether the range of a node may be another one where those of `changed` are; a little too often."""
        node, terms = self.nodes[index], self._forms[index].terms
        if node.op == "div" or not changed.isdisjoint(node.args):
            return True
        if node.op not in ("add", "sub", "neg"):
            return False
        return not changed.isdisjoint(terms) or any(self.nodes[term].op in (*_ABOVE, "min") for term in terms)

    def _widen(self, turn: int) -> bool:
        """Add what one step makes of the states; whether that was anything new."""
        graph = self.graph
        pairs = [(self.states, s.name, i) for s, i in zip(graph.states, graph.next, strict=True)]
        if any(s.type.kind == "seq" for s in graph.states):
            pairs = []  # recursion in depth: the step is taken once
        if graph.region:
            pairs += [
                (self._carried, n, i) for n, i in zip(graph.region.states, graph.region.next, strict=True)
            ]
        moved = False
        for table, name, index in pairs:
            old = table[name]
            new = join(old, self._found[index])
            if new != old:
                table[name] = new if turn < _PATIENCE else _stretched(old, new)
                moved = True
        if graph.region:
            for name in graph.region.states:
                self._carried[name] = join(self._carried[name], self.states[name])
        return moved

    # -- nodes ------------------------------------------------------------------------------

    def _range(self, index: int) -> Range:
        node = self.nodes[index]
        if node.op == "num":
            return Range.real(point(float(node.attr("value"))))  # type: ignore[arg-type]
        anything = ANY[node.type.is_complex]
        if node.op == "x":
            return anything
        if node.op in ("state", "child"):
            return self.states.get(str(node.attr("state" if node.op == "child" else "name")), anything)
        if node.op == "carry":
            return self._carried[str(node.attr("name"))]
        if node.op == "final":
            return self._final(str(node.attr("name")))
        weight = self.graph.weights[node.weight] if node.weight >= 0 else None
        found = range_of(node, [self._found[a] for a in node.args], weight)
        if node.type.is_complex:
            return found
        form = self._forms[index]
        if node.op in ("add", "sub", "neg") and index not in form.terms:  # a long sum is its own only term
            return Range.real(meet(found.re, self._bounds(form)))
        if node.op == "mul":
            return Range.real(meet(self._repeated(node), found.re))
        return Range.real(meet(found.re, self._share(node))) if node.op == "div" else found

    def _repeated(self, node: Node) -> Interval:
        """What is known of a * a and of a * sigmoid(a), which simplified graphs have for `square` and `silu`."""
        for a, b in (node.args, node.args[::-1]):
            op = "square" if a == b else "silu"
            if a == b or (self.nodes[b].op == "sigmoid" and self.nodes[b].args == (a,)):
                return range_of(Node(op, (a,), (), node.type), [self._found[a]], None).re
        return REALS

    def _final(self, name: str) -> Range:
        """After `depth .. until(p)`: a mean of the rounds' values where p is not negative."""
        region = self.graph.region
        assert region is not None
        if len(self._found) <= region.until or self._found[region.until].re.low < 0:
            return ANY[False]
        return self._found[region.next[region.states.index(name)]]

    # -- linear forms -----------------------------------------------------------------------

    def _form(self, index: int) -> _Form:
        """A node as a sum of other nodes."""
        node = self.nodes[index]
        if node.op == "num":
            return _Form({}, float(node.attr("value")))  # type: ignore[arg-type]
        itself = _Form({index: 1.0})
        if node.type.is_complex or any(self.nodes[a].type.is_complex for a in node.args):
            return itself
        args = [self._forms[a] for a in node.args]
        made = itself
        if node.op == "add":
            made = args[0].plus(args[1])
        elif node.op == "sub":
            made = args[0].plus(args[1], -1.0)
        elif node.op == "neg":
            made = _Form({}).plus(args[0], -1.0)
        elif node.op == "stopgrad":
            made = args[0]
        elif node.op == "mul" and any(not a.terms for a in args):
            number, other = args if not args[0].terms else args[::-1]
            made = _Form({}).plus(other, number.constant)
        elif node.op == "div" and not args[1].terms and args[1].constant:
            made = _Form({}).plus(args[0], 1 / args[1].constant)
        return made if len(made.terms) <= _LARGEST_FORM else itself

    def _bounds(self, form: _Form) -> Interval:
        low = -self._at_most(_Form({}).plus(form, -1.0), 2)
        high = self._at_most(form, 2)
        return Interval(low.low, high.high, low.open_low, high.open_high)

    def _at_most(self, form: _Form, depth: int) -> Interval:
        """An interval whose upper end bounds the form: of all ways to replace a part by something larger."""
        best = point(form.constant)
        for term, factor in form.terms.items():
            best = add(best, _scaled(self._found[term].re, factor))
        for larger in self._larger(form) if depth else ():
            other = self._at_most(larger, depth - 1)
            if (other.high, not other.open_high) < (best.high, not best.open_high):
                best = best._replace(high=other.high, open_high=other.open_high)
        return best

    def _larger(self, form: _Form) -> Iterator[_Form]:
        for term, factor in form.terms.items():
            node = self.nodes[term]
            if (factor < 0 and node.op in _ABOVE) or (factor > 0 and node.op == "min"):
                for other in node.args:
                    yield form.plus(_Form({term: 1.0}), -factor).plus(self._forms[other], factor)

    def _share(self, node: Node) -> Interval:
        """The part that a is of b in a / b: at most 1 where b is a and something that is not negative."""
        a, b = (self._found[i].re for i in node.args)
        if self.nodes[node.args[1]].type.is_complex or b.low < 0 or a.low < 0:
            return REALS
        rest = self._bounds(self._forms[node.args[1]].plus(self._forms[node.args[0]], -1.0))
        if rest.low < 0:
            return REALS
        return Interval(0.0, 1.0, a.open_low and a.low == 0, rest.open_low or rest.low > 0)


@dataclass(frozen=True, slots=True)
class _Form:
    """A sum of nodes, each times a number, and a constant."""

    terms: dict[int, float]
    constant: float = 0.0

    def plus(self, other: _Form, factor: float = 1.0) -> _Form:
        terms = dict(self.terms)
        for node, value in other.terms.items():
            terms[node] = terms.get(node, 0.0) + factor * value
        kept = {node: value for node, value in terms.items() if value}
        return _Form(kept, self.constant + factor * other.constant)


_ABOVE = ("max", "relu", "softplus", "abs")  # never less than an operand


def _scaled(value: Interval, factor: float) -> Interval:
    """value * factor; nearly all terms of sums and differences count once."""
    if factor == 1.0:
        return value
    return -value if factor == -1.0 else mul(value, point(factor))


def _initial(state: State) -> Range:
    if isinstance(state.init, str):
        return ANY[state.type.is_complex]
    return Range.real(point(float(state.init)))


def _stretched(old: Range, new: Range) -> Range:
    """`new`, with each bound that moved taken on to the next resting place."""
    return Range(*(_stretch(a, b) for a, b in zip(_parts(old), _parts(new), strict=True)))


def _parts(value: Range) -> Sequence[Interval]:
    return value.re, value.im, value.size


def _stretch(old: Interval, new: Interval) -> Interval:
    low, high = (new.low, new.open_low), (new.high, new.open_high)
    if new.low < old.low:
        rest = [s for s in _STEPS if s <= new.low]
        low = (max(rest), False) if rest else (-INF, new.low != -INF or new.open_low)
    if new.high > old.high:
        rest = [s for s in _STEPS if s >= new.high]
        high = (min(rest), False) if rest else (INF, new.high != INF or new.open_high)
    return Interval(low[0], high[0], low[1], high[1])
