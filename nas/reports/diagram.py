"""A cell's graph as boxes and arrows in layers: previous states and x above, new states and the output below."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from grammar import OPS, Cell, Graph, Node, show_number
from nas.exporters import value_names

SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "sigmoid": "σ", "neg": "−"}  # noqa: RUF001
_LONGEST_CHAIN = 22  # characters of a label
_SWEEPS = 24
_GAP = 26.0
_LAYER_HEIGHT = 74.0
_CHARACTER = 7.6


@dataclass
class Box:
    """A value, or a chain of operations that each have one reader. `kind` chooses its colour, `title` is its name."""

    label: str
    kind: str
    title: str = ""
    layer: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        """In the units of the drawing; a bend of an arrow takes little room."""
        if self.kind == "bend":
            return 6.0
        return max(34.0, _CHARACTER * max(len(self.label), len(self.title)) + 22.0)

    @property
    def y(self) -> float:
        """The middle of the box."""
        return 30.0 + _LAYER_HEIGHT * self.layer


@dataclass
class Diagram:
    """Boxes, and arrows as chains of box numbers: from a box over bends to a box. `ports` names an arrow's operand."""

    boxes: list[Box] = field(default_factory=list)
    arrows: list[tuple[int, ...]] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)

    @property
    def width(self) -> float:
        """Of the whole drawing."""
        return max((b.x + b.width / 2 for b in self.boxes), default=0.0) + 16.0

    @property
    def height(self) -> float:
        """Of the whole drawing."""
        return max((b.y for b in self.boxes), default=0.0) + 34.0


def diagram(cell: Cell) -> Diagram:
    """Lay out the graph of a cell. The same cell gives the same drawing."""
    made = _Boxes(cell).diagram
    _place_layers(made)
    _insert_bends(made)
    rows = _order(made)
    _place_columns(made, rows)
    return made


class _Boxes:
    """Groups the nodes of a graph into boxes."""

    def __init__(self, cell: Cell) -> None:
        self.graph: Graph = cell.graph
        new = {*cell.graph.next, cell.graph.out}  # these have boxes of their own at the foot
        self.names = {node: name for node, name in value_names(cell).items() if node not in new}
        self.uses = self.graph.uses()
        self.diagram = Diagram()
        self.box_of: dict[int, int] = {}
        self._add_previous(cell)
        for root in dict.fromkeys(self.graph.roots()):
            self._visit(root)
        self._add_new(cell)

    def _add_previous(self, cell: Cell) -> None:
        """x first and the states in their order, so that the reader finds them where they are declared."""
        live = self.graph.reachable(self.graph.roots())
        for index in sorted(live, key=lambda i: (self.graph.nodes[i].op != "x", i)):
            node = self.graph.nodes[index]
            if node.op == "x":
                self._box(index, "x", "input")
            elif node.op in ("state", "child", "carry", "final"):
                name = str(node.attr("state" if node.op == "child" else "name"))
                self._box(index, f"{node.attr('child')}.{name}" if node.op == "child" else name, "state")

    def _add_new(self, cell: Cell) -> None:
        sinks: dict[int, list[str]] = {}
        for state, following in zip(self.graph.states, self.graph.next, strict=True):
            sinks.setdefault(following, []).append(f"{state.name}′")  # noqa: RUF001
        sinks.setdefault(self.graph.out, []).append("y")
        for source, names in sinks.items():
            kind = "out" if names[-1] == "y" else "new"
            self.diagram.boxes.append(Box(" = ".join(names), kind))
            self._arrow(self.box_of[source], len(self.diagram.boxes) - 1, "")

    def _visit(self, index: int) -> int:
        if index in self.box_of:
            return self.box_of[index]
        chain = self._chain(index)
        last = self.graph.nodes[chain[-1]]
        args = [(a, port) for a, port in _operands(self.graph, last) if self.graph.nodes[a].op != "num"]
        sources = [(self._visit(a), port) for a, port in args]
        label = " ".join(_label(self.graph, self.graph.nodes[i]) for i in chain)
        kind = self._kind([self.graph.nodes[i] for i in chain])
        box = self._box(index, label, kind, self.names.get(index, ""))
        for source, port in sources:
            self._arrow(source, box, port)
        return box

    def _chain(self, index: int) -> list[int]:
        """The node and what it alone reads, as long as each has one operand: `sigmoid lin`."""
        chain = [index]
        length = len(_label(self.graph, self.graph.nodes[index]))
        while True:
            node = self.graph.nodes[chain[-1]]
            inner = [a for a in node.args if self.graph.nodes[a].op != "num"]
            if len(inner) != 1 or node.op == "lin" or self.uses[inner[0]] != 1:
                return chain
            following = self.graph.nodes[inner[0]]
            text = _label(self.graph, following)
            length += 1 + len(text)
            named = inner[0] in self.names  # an equation of its own, as the reader knows it
            if named or following.op not in OPS or _is_join(self.graph, following) or length > _LONGEST_CHAIN:
                return chain
            chain.append(inner[0])

    def _kind(self, nodes: Sequence[Node]) -> str:
        if any(n.op == "sigmoid" for n in nodes):
            return "gate"
        return "weight" if any(n.weight >= 0 for n in nodes) else "op"

    def _box(self, index: int, label: str, kind: str, title: str = "") -> int:
        self.diagram.boxes.append(Box(label, kind, title))
        self.box_of[index] = len(self.diagram.boxes) - 1
        return self.box_of[index]

    def _arrow(self, source: int, target: int, port: str) -> None:
        self.diagram.arrows.append((source, target))
        self.diagram.ports.append(port)


def _is_join(graph: Graph, node: Node) -> bool:
    return node.op != "lin" and sum(graph.nodes[a].op != "num" for a in node.args) > 1


def _label(graph: Graph, node: Node) -> str:
    symbol = SYMBOLS.get(node.op, node.op)
    if len(node.args) < 2 or node.op == "lin":
        return symbol
    numbers = [
        show_number(float(graph.nodes[a].attr("value"))) if graph.nodes[a].op == "num" else ""  # type: ignore[arg-type]
        for a in node.args
    ]
    if not any(numbers):
        return symbol
    if OPS[node.op].symbol is not None:
        return " ".join(part for part in (numbers[0], symbol, numbers[1]) if part)
    return f"{symbol}({', '.join(n or '·' for n in numbers)})"


def _operands(graph: Graph, node: Node) -> list[tuple[int, str]]:
    """The operands, with a name where their order matters and a reader could not tell."""
    if node.op == "lerp":
        return list(zip(node.args, ("g", "a", "b"), strict=True))
    if node.op in ("sub", "div") and _is_join(graph, node):
        return list(zip(node.args, ("1", "2"), strict=True))
    if node.op in ("outer", "read", "readt"):
        names = {"outer": ("k", "v"), "read": ("S", "k"), "readt": ("S", "v")}[node.op]
        return list(zip(node.args, names, strict=True))
    return [(a, "") for a in dict.fromkeys(node.args)]


def _place_layers(made: Diagram) -> None:
    """Each box below all that it reads; the new states and the output together at the foot."""
    into: dict[int, list[int]] = {}
    for source, target in made.arrows:
        into.setdefault(target, []).append(source)
    # Boxes are numbered so that each comes after what it reads.
    for number, box in enumerate(made.boxes):
        box.layer = 1 + max((made.boxes[s].layer for s in into.get(number, ())), default=-1)
    foot = max(box.layer for box in made.boxes)
    for number, box in enumerate(made.boxes):
        if box.kind in ("new", "out"):
            box.layer = foot
        elif number not in into and box.kind not in ("input", "state"):  # a learned constant: near its reader
            readers = [made.boxes[t].layer for s, t in made.arrows if s == number]
            box.layer = max(0, min(readers, default=1) - 1)


def _insert_bends(made: Diagram) -> None:
    arrows: list[tuple[int, ...]] = []
    for source, target in made.arrows:
        path = [source]
        for layer in range(made.boxes[source].layer + 1, made.boxes[target].layer):
            made.boxes.append(Box("", "bend", layer=layer))
            path.append(len(made.boxes) - 1)
        arrows.append((*path, target))
    made.arrows = arrows


def _order(made: Diagram) -> list[list[int]]:
    """The boxes of each layer from left to right, so that few arrows cross: repeated sweeps by neighbours' mean."""
    rows: list[list[int]] = [[] for _ in range(1 + max(b.layer for b in made.boxes))]
    for number, box in enumerate(made.boxes):
        rows[box.layer].append(number)
    above, below = _neighbours(made)
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    place = {n: i for row in rows for i, n in enumerate(row)}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for row in rows[1:] if down else rows[-2::-1]:
            means = {n: _mean([place[m] for m in near[n]], place[n]) for n in row}
            row.sort(key=means.__getitem__)
            place.update((n, i) for i, n in enumerate(row))
        count = _crossings(rows, below)
        if count < fewest:
            best, fewest = [list(row) for row in rows], count
    return best


def _neighbours(made: Diagram) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in made.boxes]
    below: list[list[int]] = [[] for _ in made.boxes]
    for path in made.arrows:
        for source, target in pairwise(path):
            above[target].append(source)
            below[source].append(target)
    return above, below


def _crossings(rows: Sequence[Sequence[int]], below: Sequence[Sequence[int]]) -> int:
    place = {n: i for row in rows for i, n in enumerate(row)}
    total = 0
    for row in rows:
        seen: list[int] = []  # ends of the arrows from boxes further left, in order
        for number in row:
            ends = [place[t] for t in below[number]]
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _place_columns(made: Diagram, rows: Sequence[Sequence[int]]) -> None:
    """Horizontal places: drawn to the neighbours' mean, kept apart and in order."""
    above, below = _neighbours(made)
    for row in rows:
        edge = 0.0
        for number in row:
            made.boxes[number].x = edge + made.boxes[number].width / 2
            edge += made.boxes[number].width + _GAP
    for sweep in range(_SWEEPS):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = [_mean([made.boxes[m].x for m in near[n]], made.boxes[n].x) for n in row]
            for number, x in zip(row, _apart([made.boxes[n] for n in row], wanted), strict=True):
                made.boxes[number].x = x
    left = min(b.x - b.width / 2 for b in made.boxes)
    for box in made.boxes:
        box.x += 16.0 - left


def _apart(boxes: Sequence[Box], wanted: Sequence[float]) -> list[float]:
    """Places near the wanted ones, in the same order and without overlap: boxes that touch move as one block."""
    blocks: list[tuple[float, int, list[float]]] = []  # sum of (wanted - offset), count, offsets
    for k, (box, want) in enumerate(zip(boxes, wanted, strict=True)):
        blocks.append((want, 1, [0.0]))
        while len(blocks) > 1:
            (s1, n1, o1), (s2, n2, o2) = blocks[-2:]
            first = k - n2 + 1
            gap = (boxes[first - 1].width + boxes[first].width) / 2 + _GAP
            if s1 / n1 + o1[-1] + gap <= s2 / n2:
                break
            shift = o1[-1] + gap
            merged = [*o1, *(shift + o for o in o2)]
            blocks[-2:] = [(s1 + s2 - n2 * shift, n1 + n2, merged)]
        assert box is boxes[k]
    return [total / count + offset for total, count, offsets in blocks for offset in offsets]


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
