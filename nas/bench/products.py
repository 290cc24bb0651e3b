"""What a cell must cost on any kernel: its matrix products, and its transcendental functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import networkx
import torch

from grammar import OPS, Cell, Graph, Node, Sizes
from nas.bench.sizes import BenchSize
from nas.bench.timing import Subject

NANOSECONDS = 2.5  # of one transcendental function of one number, forward and backward together
FACTOR, EXTRA = 1.5, 0.3  # the aim: time <= FACTOR * bound + EXTRA ms


@dataclass(frozen=True, slots=True)
class Product:
    """`count` maps from `inner` to `outer` numbers for each row of the batch.

    `stepwise` ones are part of a recurrence and done step by step, others for all steps at once. A `plain` one has
    one matrix for all rows; otherwise each row has its own, a matrix state [inner, outer] or an outer product.
    """

    inner: int
    outer: int
    count: int = 1
    stepwise: bool = False
    plain: bool = True


@lru_cache(maxsize=512)
def products_of(cell: Cell, sizes: Sizes) -> tuple[Product, ...]:
    """The matrix products of one step of a time cell; those of one operand are one product.

    A product is part of a recurrence where its result and that operand depend on each other, over any number of
    steps: any other can be done for all steps at once, as a compiler knows that moves it before or behind the loop.
    """
    graph = cell.graph
    live, circles, fixed = _live(graph), _circles(graph), _constant(graph)
    found: list[Product] = []
    stacked: dict[tuple[int, bool], int] = {}  # (operand, stepwise) -> width of all dense maps of it
    for k in sorted(live - fixed):
        node = graph.nodes[k]
        for p, a in enumerate(node.args):
            stepwise = (k, a) in circles
            if node.op == "lin" and a not in fixed:
                if _dense(graph, node):
                    key = (a, stepwise)
                    stacked[key] = stacked.get(key, 0) + math.prod(sizes.shape(node.type))
                else:
                    found += _structured(graph, node, p, sizes, stepwise)
        if node.op in ("outer", "read", "readt"):
            stepwise = any((k, a) in circles for a in node.args)
            heads, rows, columns = sizes.heads, sizes.key_size, sizes.value_size
            wide = 2 if any(graph.nodes[j].type.kind == "cmat" for j in (k, *node.args)) else 1
            found.append(Product(rows, wide * columns, heads, stepwise, plain=False))
    dense = [
        Product(math.prod(sizes.shape(graph.nodes[a].type)), width, 1, stepwise)
        for (a, stepwise), width in stacked.items()
    ]
    return (*dense, *found)


def transcendentals(cell: Cell, sizes: Sizes) -> float:
    """Transcendental functions per step and sequence, by the table of operations; those of weights alone are free."""
    graph = cell.graph
    counted = sorted(_live(graph) - _constant(graph))
    total = 0
    for k in counted:
        node = graph.nodes[k]
        if node.op in OPS and OPS[node.op].transcendental:
            total += OPS[node.op].transcendental * math.prod(sizes.shape(node.type))
    return total


def transcendental_ms(cell: Cell, sizes: Sizes, size: BenchSize) -> float:
    """Their milliseconds by the aim's rate, forward and backward."""
    return transcendentals(cell, sizes) * size.batch * size.steps * NANOSECONDS * 1e-6


def products_alone(cell: Cell, sizes: Sizes, size: BenchSize, device: str, backward: bool) -> Subject:
    """The matrix products of a cell and nothing else, with torch's own kernels into memory that is there already.

    With `backward` also those of the gradients: for each product one of the same size for its operand, and one for its
    weights over all rows at once.
    """
    calls: list[tuple[Callable[[], object], int]] = []
    for product in products_of(cell, sizes):
        make = _plain_calls if product.plain else _own_calls
        calls += make(product, size, device, backward)

    def run() -> None:
        with torch.no_grad():
            for call, times in calls:
                for _ in range(times):
                    call()

    return run


def _plain_calls(
    p: Product, size: BenchSize, device: str, backward: bool
) -> list[tuple[Callable[[], object], int]]:
    rows = size.batch * size.steps
    times, at_once = (size.steps, size.batch) if p.stepwise else (1, rows)
    wide = () if p.count == 1 else (p.count,)
    a, w, y = (
        torch.randn(*wide, *s, device=device)
        for s in ((at_once, p.inner), (p.inner, p.outer), (at_once, p.outer))
    )
    multiply = torch.bmm if wide else torch.mm
    made: list[tuple[Callable[[], object], int]] = [(lambda: multiply(a, w, out=y), times)]
    if backward:
        operands, results, gradient = (
            torch.randn(*wide, *s, device=device)
            for s in ((rows, p.inner), (rows, p.outer), (p.inner, p.outer))
        )
        made.append((lambda: multiply(y, w.mT, out=a), times))
        made.append((lambda: multiply(operands.mT, results, out=gradient), 1))
    return made


def _own_calls(
    p: Product, size: BenchSize, device: str, backward: bool
) -> list[tuple[Callable[[], object], int]]:
    """An outer product or a read: one of these each way, and in the backward pass two more."""
    at_once, times = (size.batch, size.steps)  # all steps together would not fit into memory
    rows = at_once * p.count
    k, s, v, w = (
        torch.randn(rows, *shape, device=device)
        for shape in ((1, p.inner), (p.inner, p.outer), (1, p.outer), (p.outer, 1))
    )
    column = torch.empty(rows, p.inner, 1, device=device)
    made: list[tuple[Callable[[], object], int]] = [(lambda: torch.bmm(k, s, out=v), times)]
    if backward:
        made.append((lambda: torch.bmm(s, w, out=column), times))
        made.append((lambda: torch.bmm(column, v, out=s), times))
    return made


def _dense(graph: Graph, node: Node) -> bool:
    complex_ = any(spec.complex for spec in graph.weights[node.weight].specs)
    return node.attr("blocks", 1) == 1 and not node.attr("rank", 0) and not complex_


def _structured(graph: Graph, node: Node, p: int, sizes: Sizes, stepwise: bool) -> list[Product]:
    """The products of one operand of a `lin` with blocks, a rank or complex weights."""
    specs = {spec.role: spec for spec in graph.weights[node.weight].specs}
    if node.attr("rank", 0):
        pairs = [specs[f"v{p}"], specs[f"u{p}"]]
    else:
        pairs = [specs[f"w{p}"]]
    made = []
    for spec in pairs:
        *blocks, outer, inner = (sizes.at(extent) for extent in spec.shape)
        if node.attr("transpose", False):
            outer, inner = inner, outer
        wide = 2 if spec.complex else 1  # a complex product is a real one of twice the sides
        made.append(Product(wide * inner, wide * outer, math.prod(blocks), stepwise))
    return made


def _live(graph: Graph) -> set[int]:
    return graph.reachable([graph.out, *graph.next])


def _constant(graph: Graph) -> set[int]:
    """Nodes that depend on weights and numbers alone."""
    found: set[int] = set()
    for k, node in enumerate(graph.nodes):
        if node.op not in ("x", "state", "shift", "conv", "posemb") and all(a in found for a in node.args):
            found.add(k)
    return found


def _circles(graph: Graph) -> set[tuple[int, int]]:
    """The pairs (node, operand) that lie on one circle of a recurrence."""
    whole: networkx.DiGraph[int] = networkx.DiGraph()
    whole.add_nodes_from(range(len(graph.nodes)))
    whole.add_edges_from((a, k) for k, node in enumerate(graph.nodes) for a in node.args)
    position = {state.name: k for k, state in enumerate(graph.states)}
    for k, node in enumerate(graph.nodes):
        if node.op == "state":
            whole.add_edge(graph.next[position[str(node.attr("name"))]], k)
    group = {k: g for g, part in enumerate(networkx.strongly_connected_components(whole)) for k in part}
    return {(k, a) for k, node in enumerate(graph.nodes) for a in node.args if group[k] == group[a]}
