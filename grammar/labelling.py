"""A numbering of a graph's parts that depends on its structure alone.

Colour refinement with individualisation and backtracking, after B. D. McKay, Practical graph
isomorphism, 1981: colours are refined until stable; where equal colours remain, each candidate is
made first in turn, the smallest certificate wins, and automorphisms found on the way prune the rest.
Pieces that hang together by nothing but what is told apart already have orders that multiply: where these
are many, the pieces are told apart by certificates of their own. States make cycles, so a bottom-up hash would not do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from grammar.errors import GrammarError
from grammar.graph import Graph, Node
from grammar.ops import OPS
from grammar.printer import show_state
from grammar.syntax import State

MAX_WORK = 1_000_000  # vertices of all leaves of a search: some ten seconds; most cells have one leaf
PLAIN = 200_000  # vertices of all leaves up to which all orders of pieces are compared, as digests have always been

_Colours = tuple[int, ...]
_Key = tuple[tuple[int, tuple[int, ...]], ...]
_Certificate = tuple[tuple[int, _Key], ...]


@dataclass(frozen=True, slots=True)
class Labelling:
    """Ranks: of each node, of each state, and of each operand slot of the weights of `lin`.

    `slots[(weight, j)]` orders the operands of a `lin`, whose order in the text does not matter.
    """

    nodes: tuple[int, ...]
    states: tuple[int, ...]
    slots: dict[tuple[int, int], int]


def label(graph: Graph) -> Labelling:
    """The canonical numbering of a simplified graph.

    Raises GrammarError where too many parts look alike without being so: no cell of a space or of the zoo does.
    """
    structure = _Structure(graph)
    partition = _Partition(structure.start)
    structure.refine(partition, set(range(structure.size)))
    best = _Search(structure, partition, range(structure.size)).run()
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
        self.work = 0
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

    def refine(self, partition: _Partition, beside: set[int]) -> None:
        """Make `partition` the coarsest stable one below it; only what stands beside a split can fall apart.

        In each round a vertex is keyed by what it is linked with, by colour. Keys change only beside what was split off
        in the round before, so only these are looked at again, and one for all the others of a colour.
        """
        while beside:
            splits = list(self._splits(partition, beside))
            beside = set()
            for place, parts in splits:
                partition.split(place, parts)
                largest = max(parts, key=len)
                for part in parts:
                    if part is not largest:
                        beside.update(*(self.neighbours[vertex] for vertex in part))

    def individualise(self, partition: _Partition, vertex: int) -> None:
        """Put a vertex before the others of its colour, and refine: their links to it tell the rest apart."""
        place = partition.colour[vertex]
        partition.split(place, [[vertex], [v for v in partition.members(place) if v != vertex]])
        self.refine(partition, self.neighbours[vertex])

    def _splits(self, partition: _Partition, beside: Iterable[int]) -> Iterator[tuple[int, list[list[int]]]]:
        """The colours that fall apart, each with its parts in the order of their keys."""
        changed: dict[int, set[int]] = {}
        for vertex in beside:
            place = partition.colour[vertex]
            if partition.length[place] > 1:
                changed.setdefault(place, set()).add(vertex)
        for place, vertices in changed.items():
            parts: dict[_Key, list[int]] = {}
            for vertex in vertices:
                parts.setdefault(self._key(vertex, partition.colour), []).append(vertex)
            if len(vertices) < partition.length[place]:
                others = [vertex for vertex in partition.members(place) if vertex not in vertices]
                parts.setdefault(self._key(others[0], partition.colour), []).extend(others)
            if len(parts) > 1:
                yield place, [parts[key] for key in sorted(parts)]

    def _key(self, vertex: int, colour: Sequence[int]) -> _Key:
        """What a vertex is linked with, by colour."""
        of = colour.__getitem__
        return tuple(sorted([(role, tuple(map(of, others))) for role, others in self.links[vertex]]))

    def is_automorphism(self, moves: Mapping[int, int]) -> bool:
        """Whether moving these vertices, of equal colours, keeps all relations: those of others follow."""
        for vertex, image in moves.items():
            links = [(role, tuple(moves.get(o, o) for o in others)) for role, others in self.links[vertex]]
            if Counter(links) != Counter(self.links[image]):
                return False
        return True

    def certificate(self, colours: _Colours, vertices: Iterable[int]) -> _Certificate:
        """The structure at these vertices in terms of a colouring in which they differ; equal ones are isomorphic."""
        order = sorted(vertices, key=colours.__getitem__)
        self.work += len(order)
        if self.work > MAX_WORK:
            raise GrammarError(
                "the cell has no canonical form: too many of its parts look alike and are not the same; it has "
                f"{len(self.graph.states)} states and {len(self.graph.nodes)} operations and values"
            )
        return tuple((colours[v], self._key(v, colours)) for v in order)

    def piece(self, partition: _Partition, vertex: int) -> list[int]:
        """A vertex with all that hangs on it by vertices that share their colours with others."""
        found = dict.fromkeys([vertex])
        todo = [vertex]
        while todo:
            for v in self.neighbours[todo.pop()]:
                if v not in found and partition.length[partition.colour[v]] > 1:
                    found[v] = None
                    todo.append(v)
        return [*found]

    def pieces(self, partition: _Partition, vertices: Iterable[int]) -> list[list[int]]:
        """Those of the vertices that share their colours, in pieces that hang together by such."""
        found: list[list[int]] = []
        seen: set[int] = set()
        for v in vertices:
            if v not in seen and partition.length[partition.colour[v]] > 1:
                found.append(self.piece(partition, v))
                seen.update(found[-1])
        return found


def _rank(node: Node) -> str:
    return {"x": "0", "state": "1", "child": "1", "carry": "1", "final": "2", "num": "9"}.get(node.op, "3")


def _ranks(keys: Sequence[object]) -> _Colours:
    """The rank of each key among the distinct ones."""
    order = {key: i for i, key in enumerate(sorted(set(keys)))}  # type: ignore[type-var]
    return tuple(order[k] for k in keys)


class _Partition:
    """Vertices in an order, cut into colours; a colour is the place of its first vertex.

    Splits are kept in a trail, so that a search can take them back.
    """

    def __init__(self, colours: _Colours) -> None:
        self.order = sorted(range(len(colours)), key=colours.__getitem__)
        self.colour = [0] * len(colours)
        self.length = [0] * len(colours)  # by colour
        self.trail: list[tuple[int, int]] = []  # (colour, its length before it was split)
        place = 0
        for _, group in groupby(self.order.copy(), key=colours.__getitem__):
            place += self._put(place, list(group))

    def _put(self, place: int, vertices: Sequence[int]) -> int:
        self.length[place] = len(vertices)
        self.order[place : place + len(vertices)] = vertices
        for vertex in vertices:
            self.colour[vertex] = place
        return len(vertices)

    def copy(self) -> _Partition:
        """The same partition with a trail of its own."""
        made = _Partition(())
        made.order, made.colour, made.length = self.order.copy(), self.colour.copy(), self.length.copy()
        return made

    def members(self, place: int) -> list[int]:
        """The vertices of a colour."""
        return self.order[place : place + self.length[place]]

    def split(self, place: int, parts: Iterable[Sequence[int]]) -> None:
        """Cut a colour into these parts, in this order."""
        self.trail.append((place, self.length[place]))
        for part in parts:
            place += self._put(place, part)

    def undo(self, mark: int) -> None:
        """Take back every split after the first `mark`."""
        while len(self.trail) > mark:
            place, length = self.trail.pop()
            self._put(place, self.order[place : place + length])

    def first_tie(self, vertices: Iterable[int]) -> int | None:
        """The first colour of these vertices that more than one vertex has."""
        return min((place for v in vertices if self.length[place := self.colour[v]] > 1), default=None)

    def split_since(self, mark: int) -> set[int]:
        """The colours that stand where something was split after the first `mark`."""
        found: set[int] = set()
        for first, length in self.trail[mark:]:
            place = first
            while place not in found and place < first + length:  # else it lies in an earlier split
                found.add(place)
                place += self.length[place]
        return found


class _Tie:
    """A place of the search: vertices of equal colour, of which each in turn is put first.

    `depth` vertices have been put first above it, and `mark` splits done.
    """

    def __init__(self, partition: _Partition, vertices: Iterable[int], depth: int) -> None:
        self.depth = depth
        self.mark = len(partition.trail)
        self.vertices = iter(sorted(vertices))
        self.explored: list[int] = []
        self.known = 0  # automorphisms that `orbits` takes in
        self.orbits: dict[int, int] = {}  # union-find: a vertex's parent

    def orbit(self, vertex: int) -> int:
        """One vertex for all those that the known automorphisms take to this one."""
        while (parent := self.orbits.get(vertex, vertex)) != vertex:
            self.orbits[vertex] = self.orbits.get(parent, parent)
            vertex = parent
        return vertex


class _Search:
    """The leaf of the tree of ties in a piece with the smallest certificate; of equal ones the first.

    A vertex that an automorphism takes to an explored one leads to nothing smaller, so it is passed over. Most are
    found without a leaf of their own (`_twins`): interchangeable parts of a cell cost one look each and not a tree.
    """

    def __init__(self, structure: _Structure, partition: _Partition, piece: Collection[int]) -> None:
        self.structure = structure
        self.piece = frozenset(piece)
        self.best: _Colours | None = None
        self.best_path: list[int] = []
        self.best_certificate: _Certificate = ()
        self.automorphisms: list[dict[int, int]] = []  # the vertices that each moves
        self.partition = partition
        self.path: list[int] = []
        self.ties: list[_Tie] = []

    def run(self) -> _Colours:
        """Colours in which the vertices of the piece differ."""
        self._descend(self.piece)
        while self.ties:
            tie = self.ties[-1]
            self.partition.undo(tie.mark)
            del self.path[tie.depth :]
            vertex = self._following(tie)
            if vertex is None:
                self.ties.pop()
                continue
            tie.explored.append(vertex)
            self.path.append(vertex)
            beside = self.structure.piece(self.partition, vertex)
            self.structure.individualise(self.partition, vertex)
            self._descend(beside)
        assert self.best is not None
        return self.best

    def _descend(self, split: Iterable[int]) -> None:
        """To the next tie, or to a leaf. Among `split` are all the vertices whose colours are others than above."""
        self._tell_apart(self.structure.pieces(self.partition, split))
        place = self.partition.first_tie(self.piece)
        if place is None:
            self._leaf(tuple(self.partition.colour))
        else:
            vertices = self.piece.intersection(self.partition.members(place))
            self.ties.append(_Tie(self.partition, vertices, len(self.path)))

    def _tell_apart(self, pieces: Sequence[Sequence[int]]) -> None:
        """Split the colours of pieces by their certificates, if their orders are many; such colours are stable, too."""
        if len(pieces) < 2 or self._orders([1] * len(pieces)) <= PLAIN:
            return
        found: list[_Certificate] = []
        for piece in pieces:
            search = _Search(self.structure, self.partition.copy(), piece)
            search.run()
            found.append(search.best_certificate)
        rank = {certificate: number for number, certificate in enumerate(sorted(set(found)))}
        if self._orders(Counter(found).values()) <= PLAIN:
            return
        kind = {v: rank[own] for own, piece in zip(found, pieces, strict=True) for v in piece}
        for place in sorted({self.partition.colour[v] for v in kind}):
            parts: dict[int, list[int]] = {}
            for v in self.partition.members(place):
                parts.setdefault(kind.get(v, -1), []).append(v)
            if len(parts) > 1:
                self.partition.split(place, [parts[number] for number in sorted(parts)])

    def _orders(self, kinds: Collection[int]) -> int:
        """The vertices of as many leaves as pieces have orders, given how many there are of each kind."""
        orders = math.factorial(sum(kinds)) // math.prod(map(math.factorial, kinds))
        return orders * self.structure.size

    def _leaf(self, colours: _Colours) -> None:
        certificate = self.structure.certificate(colours, self.piece)
        if self.best is None or certificate < self.best_certificate:
            self.best, self.best_path, self.best_certificate = colours, self.path.copy(), certificate
        elif certificate == self.best_certificate:
            vertices = self.partition.order
            images = {v: vertices[self.best[v]] for v in self.piece}
            self.automorphisms.append({v: image for v, image in images.items() if image != v})
            # What is below the tie where the paths part is the image of what was explored there: no need to see it.
            depth = next(i for i, (a, b) in enumerate(zip(self.path, self.best_path, strict=False)) if a != b)
            while self.ties[-1].depth > depth:
                self.ties.pop()
            self.ties[-1].explored.pop()

    def _following(self, tie: _Tie) -> int | None:
        """The next vertex that no automorphism takes to an explored one."""
        for vertex in tie.vertices:
            if not tie.explored:
                return vertex
            self._take_in(tie)
            if tie.orbit(vertex) in {tie.orbit(v) for v in tie.explored}:
                continue
            if not any(self._twins(v, vertex) for v in tie.explored):
                return vertex
        return None

    def _take_in(self, tie: _Tie) -> None:
        """Join the orbits of automorphisms found since; they must leave in place what was put first above."""
        above = self.path[: tie.depth] if tie.known < len(self.automorphisms) else ()
        for moves in self.automorphisms[tie.known :]:
            if not any(vertex in moves for vertex in above):
                for vertex, image in moves.items():
                    tie.orbits[tie.orbit(vertex)] = tie.orbit(image)
        tie.known = len(self.automorphisms)

    def _twins(self, one: int, other: int) -> bool:
        """Whether an automorphism is found that exchanges two vertices of one colour, and what hangs on each.

        What putting either of them first sets apart is matched by its place, and the rest stays as it is. Where that
        is none and sets of vertices differ, one of each is put first too.
        """
        structure = self.structure
        left, right = self.partition.copy(), self.partition.copy()
        pair: tuple[int, int] | None = (one, other)
        while pair is not None:
            structure.individualise(left, pair[0])
            structure.individualise(right, pair[1])
            places = left.split_since(0)
            if places != right.split_since(0) or any(left.length[p] != right.length[p] for p in places):
                return False
            single = [p for p in places if left.length[p] == 1]
            moves = _exchange({left.order[p]: right.order[p] for p in single})
            if structure.is_automorphism(moves):
                self.automorphisms.append(moves)
                return True
            pair = _unmatched(left, right, sorted(places.difference(single)), moves)
        return False


def _exchange(images: Mapping[int, int]) -> dict[int, int]:
    """The vertices that a permutation moves which maps as `images` say, and the rest to themselves or back."""
    moves = {vertex: image for vertex, image in images.items() if image != vertex}
    for start in moves.keys() - moves.values():
        end = start
        while end in moves:
            end = moves[end]
        moves[end] = start
    return moves


def _unmatched(
    left: _Partition, right: _Partition, places: Iterable[int], moves: Mapping[int, int]
) -> tuple[int, int] | None:
    """A vertex of a colour on the left that has not that colour on the right, and one that is so on the right."""
    for place in places:
        here, there = left.members(place), right.members(place)
        ones = set(here).difference(there, moves)
        others = set(there).difference(here, moves)
        if ones and others:
            return min(ones), min(others)
    return None
