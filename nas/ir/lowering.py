"""From a cell's graph to its first Program: every value in the loop, nothing moved yet."""

from __future__ import annotations

from grammar import Cell, Graph, Node
from nas.ir.program import Instr, Map, Program, Region, Slot


def lower(cell: Cell) -> Program:
    """The Program that says what the cell's graph says."""
    graph = cell.graph
    position = {state.name: i for i, state in enumerate(graph.states)}
    slots = [
        Slot(s.name, s.type, graph.next[i], float(s.init) if not isinstance(s.init, str) else s.init)
        for i, s in enumerate(graph.states)
    ]
    instrs = []
    for node in graph.nodes:
        slot = -1
        if node.op in ("state", "carry", "final"):
            slot = position[str(node.attr("name"))]
        elif cell.kind == "time" and (node.op == "shift" or (node.op == "conv" and taps(node) > 1)):
            slot = len(slots)
            steps = taps(node) - 1 if node.op == "conv" else 0
            slots.append(Slot(_free(slots, node.op), node.type, node.args[0], 0.0, steps))
        instrs.append(_instr(graph, node, slot))
    region = (
        None
        if graph.region is None
        else Region(
            graph.region.times,
            graph.region.until,
            tuple(position[name] for name in graph.region.states),
            graph.region.next,
        )
    )
    return Program(
        name=cell.name,
        kind=cell.kind,
        instrs=tuple(instrs),
        slots=tuple(slots),
        out=graph.out,
        weights=graph.weights,
        leaf=graph.leaf or (),
        region=region,
        children=graph.children,
        variadic=graph.variadic,
    )


def taps(conv: Node | Instr) -> int:
    """How many steps a `conv` sees; one that sees the present alone keeps no buffer."""
    return int(conv.attr("k", 4))  # type: ignore[arg-type]


def _instr(graph: Graph, node: Node, slot: int) -> Instr:
    if node.op == "carry":
        start = next(k for k, n in enumerate(graph.nodes) if n.op == "state" and n.attrs == node.attrs)
        return Instr("carry", (start,), node.type, slot=slot)
    if node.op == "final":
        assert graph.region is not None
        return Instr("final", (graph.region.until, *graph.region.next), node.type, slot=slot)
    if node.op != "lin":
        kept = () if slot >= 0 and node.op not in ("shift", "conv") else node.attrs
        return Instr(node.op, node.args, node.type, "loop", kept, node.weight, (), slot)
    blocks = node.attr("blocks", 1)
    made = Map(
        weight=node.weight,
        parts=tuple(range(len(node.args))),
        type=node.type,
        bias=bool(node.attr("bias", True)),
        transpose=bool(node.attr("transpose", False)),
        blocks=blocks if isinstance(blocks, str) else int(blocks),  # type: ignore[arg-type]
        rank=int(node.attr("rank", 0)),  # type: ignore[arg-type]
    )
    return Instr("lin", node.args, node.type, "loop", (), -1, (made,))


def _free(slots: list[Slot], op: str) -> str:
    """The name of a further buffer: `shift1`, or with the next number that no slot has."""
    taken = {slot.name for slot in slots}
    return next(name for i in range(1, len(slots) + 2) if (name := f"{op}{i}") not in taken)
