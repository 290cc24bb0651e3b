"""A numbering of a graph's parts that depends on its structure alone.

Colour refinement with individualisation and backtracking, after B. D. McKay, Practical graph
isomorphism, 1981: colours are refined until stable; where equal colours remain, each candidate is
made first in turn, the smallest certificate wins, and automorphisms found on the way prune the rest.
States make cycles, so a bottom-up hash would not do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from grammar.graph import Graph, Node
from grammar.ops import OPS
from grammar.printer import show_state
from grammar.syntax import State

_Colours = tuple[int, ...]
_Key = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Labelling:
    """Ranks: of each node, of each state, and of each operand slot of the weights of `lin`.

    `slots[(weight, j)]` orders the operands of a `lin`, whose order in the text does not matter.
    """

    nodes: tuple[int, ...]
    states: tuple[int, ...]
    slots: dict[tuple[int, int], int]


def label(graph: Graph) -> Labelling:
    """The canonical numbering of a simplified graph."""
    search = _Search(_Structure(graph))
    best = search.run()
    structure = search.structure
    count = len(graph.nodes)
    slots = {key: best[i] for key, i in structure.slot_index.items()}
    states = best[count : count + len(graph.states)]
    return Labelling(best[:count], states, slots)


def is_unordered(node: Node) -> bool:
    """Whether the order of a node's operands does not matter."""
    return node.op == "lin" or (node.op in OPS and OPS[node.op].commutative)


class _Structure:
    """The graph as coloured vertices: nodes, then states, then weights, then slots, with their relations."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        count = len(graph.nodes)
        self.state_vertex = {s.name: count + i for i, s in enumerate(graph.states)}
        used = sorted({n.weight for n in graph.nodes if n.weight >= 0})
        first = count + len(graph.states)
        self.weight_vertex = {w: first + i for i, w in enumerate(used)}
        self.slot_index: dict[tuple[int, int], int] = {}
        following = first + len(used)
        for node in graph.nodes:
            if node.op == "lin":
                for j in range(len(node.args)):
                    if (node.weight, j) not in self.slot_index:
                        self.slot_index[node.weight, j] = following
                        following += 1
        self.size = following
        # links[v] = (role, other vertices): ordered within one link, links themselves as a multiset
        self.links: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(self.size)]
        self.start = self._invariants()
        self._relate()
        self.neighbours = [{o for _, others in links for o in others} for links in self.links]

    def _invariants(self) -> _Colours:
        graph = self.graph
        keys: list[tuple[str, ...]] = []
        roots = {graph.out: "o"}
        for node in graph.nodes:
            attrs = tuple((k, v) for k, v in node.attrs if k not in ("state", "name", "child"))
            child = str(graph.children.index(str(node.attr("child")))) if node.op == "child" else ""
            keys.append((_rank(node), node.op, repr(attrs), str(node.type), child))
        for index in roots:
            keys[index] = (*keys[index], "out")
        if graph.region:
            keys[graph.region.until] = (*keys[graph.region.until], "until")
        keys.extend(("5", show_state(State("", s.type, s.init)), repr(s.init)) for s in graph.states)
        for index in self.weight_vertex:
            weight = graph.weights[index]
            keys.append(("6", weight.op, repr(weight.init), str(weight.fixed)))
        keys.extend(("7", f"{place:03}") for place in self._places())
        return _ranks(keys)

    def _places(self) -> list[int]:
        """For each slot, which one it is among those of its weight that read the same value.

        Where one node alone uses the weight these may be exchanged, so any order is as good as another;
        saying so at once keeps `lin(h, h, ..., h)` from being searched. Other slots have place 0.
        """
        users = Counter(node.weight for node in self.graph.nodes)
        places = dict.fromkeys(self.slot_index, 0)
        for node in self.graph.nodes:
            if node.op == "lin" and users[node.weight] == 1:
                seen: Counter[int] = Counter()
                for j, arg in enumerate(node.args):
                    places[node.weight, j] = seen[arg]
                    seen[arg] += 1
        return list(places.values())

    def _relate(self) -> None:
        graph = self.graph
        for index, node in enumerate(graph.nodes):
            owner = str(node.attr("state" if node.op == "child" else "name"))
            if node.op in ("state", "child", "carry", "final"):
                self._link(1, index, self.state_vertex[owner])
            if node.weight >= 0:
                self._link(2, index, self.weight_vertex[node.weight])
            for j, arg in enumerate(node.args):
                if node.op == "lin":
                    slot = self.slot_index[node.weight, j]
                    self._link(3, index, slot, arg)
                elif is_unordered(node):
                    self._link(4, index, arg)
                else:
                    self._link(16 + j, index, arg)
        for (weight, _), slot in self.slot_index.items():
            self._link(5, slot, self.weight_vertex[weight])
        for name, vertex in self.state_vertex.items():
            position = vertex - len(graph.nodes)
            self._link(6, vertex, graph.next[position])
            if graph.leaf:
                self._link(7, vertex, graph.leaf[position])
            if graph.region and name in graph.region.states:
                self._link(8, vertex, graph.region.next[graph.region.states.index(name)])

    def _link(self, role: int, *vertices: int) -> None:
        """A relation among vertices; each of them sees the others, with its own place in it."""
        for place, vertex in enumerate(vertices):
            others = vertices[:place] + vertices[place + 1 :]
            self.links[vertex].append((role * 4 + place, others))

    def refine(self, colours: _Colours) -> _Colours:
        """The coarsest stable refinement of `colours`.

        In each round a vertex is keyed by its colour and those that it is linked with. Keys change only beside what
        was split off in the round before, so only these are looked at again, and one for all the others of a colour.
        """
        order = sorted(range(self.size), key=colours.__getitem__)
        members: dict[int, set[int]] = {}  # a colour is the place of its first vertex in the order
        colour = [0] * self.size
        for _, group in groupby(enumerate(order), key=lambda pair: colours[pair[1]]):
            pairs = list(group)
            members[pairs[0][0]] = {vertex for _, vertex in pairs}
            for _, vertex in pairs:
                colour[vertex] = pairs[0][0]
        beside: set[int] = set(range(self.size))
        while beside:
            splits = list(self._splits(members, colour, beside))
            beside = set()
            for place, parts in splits:
                largest = max(parts, key=len)
                for part in parts:
                    members[place] = part
                    for vertex in part:
                        colour[vertex] = place
                        if part is not largest:
                            beside |= self.neighbours[vertex]
                    place += len(part)
        return _ranks(colour)

    def _splits(
        self, members: Mapping[int, set[int]], colour: Sequence[int], beside: set[int]
    ) -> Iterator[tuple[int, list[set[int]]]]:
        """The colours that fall apart, each with its parts in the order of their keys."""
        changed: dict[int, list[int]] = {}
        for vertex in beside:
            if len(members[colour[vertex]]) > 1:
                changed.setdefault(colour[vertex], []).append(vertex)
        for place, vertices in changed.items():
            parts: dict[_Key, set[int]] = {}
            for vertex in vertices:
                parts.setdefault(self._key(vertex, colour), set()).add(vertex)
            others = members[place].difference(vertices)
            if others:
                parts.setdefault(self._key(next(iter(others)), colour), set()).update(others)
            if len(parts) > 1:
                yield place, [parts[key] for key in sorted(parts)]

    def _key(self, vertex: int, colour: Sequence[int]) -> _Key:
        """What a vertex is linked with, by colour."""
        of = colour.__getitem__
        return tuple(sorted([(role, tuple(map(of, others))) for role, others in self.links[vertex]]))

    def certificate(self, colours: _Colours) -> tuple[object, ...]:
        """The whole structure in terms of a discrete colouring; equal ones are isomorphic."""
        order = sorted(range(self.size), key=colours.__getitem__)
        return tuple(self._key(v, colours) for v in order)


def _rank(node: Node) -> str:
    return {"x": "0", "state": "1", "child": "1", "carry": "1", "final": "2", "num": "9"}.get(node.op, "3")


def _ranks(keys: Sequence[object]) -> _Colours:
    """The rank of each key among the distinct ones."""
    order = {key: i for i, key in enumerate(sorted(set(keys)))}  # type: ignore[type-var]
    return tuple(order[k] for k in keys)


class _Search:
    def __init__(self, structure: _Structure) -> None:
        self.structure = structure
        self.best: _Colours | None = None
        self.best_certificate: tuple[object, ...] = ()
        self.automorphisms: list[tuple[int, ...]] = []

    def run(self) -> _Colours:
        self._visit(self.structure.refine(self.structure.start), ())
        assert self.best is not None
        return self.best

    def _visit(self, colours: _Colours, prefix: tuple[int, ...]) -> None:
        cell = self._first_tie(colours)
        if not cell:
            self._leaf(colours)
            return
        explored: list[int] = []
        for vertex in cell:
            if explored and self._equivalent(vertex, explored, prefix):
                continue
            explored.append(vertex)
            split = tuple(2 * c + (c == colours[vertex] and v != vertex) for v, c in enumerate(colours))
            self._visit(self.structure.refine(_ranks(split)), (*prefix, vertex))

    def _first_tie(self, colours: _Colours) -> list[int]:
        groups: dict[int, list[int]] = {}
        for vertex, colour in enumerate(colours):
            groups.setdefault(colour, []).append(vertex)
        ties = [colour for colour, group in groups.items() if len(group) > 1]
        return groups[min(ties)] if ties else []

    def _leaf(self, colours: _Colours) -> None:
        certificate = self.structure.certificate(colours)
        if self.best is None or certificate < self.best_certificate:
            self.best, self.best_certificate = colours, certificate
        elif certificate == self.best_certificate:
            place = {colour: vertex for vertex, colour in enumerate(colours)}
            self.automorphisms.append(tuple(place[c] for c in self.best))

    def _equivalent(self, vertex: int, explored: list[int], prefix: tuple[int, ...]) -> bool:
        """Whether an automorphism that keeps `prefix` takes an explored vertex to this one."""
        fixing = [a for a in self.automorphisms if all(a[p] == p for p in prefix)]
        seen = {vertex}
        stack = [vertex]
        while stack:
            current = stack.pop()
            for mapping in fixing:
                for image in (mapping[current], mapping.index(current)):
                    if image not in seen:
                        seen.add(image)
                        stack.append(image)
        return any(v in seen for v in explored)
