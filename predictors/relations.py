"""The typed graph of a cell as arrays, for the graph network: what each node is, and how each two are related."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grammar import GRAPH_LEAVES, OPS, Cell, Graph, Node
from predictors.paths import CARRIERS, state_of
from predictors.tokens import PAD, UNKNOWN, number_word, number_words

MOST_NODES = 192  # the last ones in order, among them the output, of a larger graph
MOST_DEGREE = 6
MARKS = 16
KINDS = ("in", "vec", "val", "key", "scal", "mat", "cvec", "cmat", "mem", "seq", "num")
_PORTS = 4  # operands that are told apart by their place
# How node j is related to node i. Of several relations the last in this order counts.
NONE, SAME_WEIGHT, READS = 0, 1, 2  # j is an operand of i: READS + its place
USED_BY = READS + _PORTS  # j has i as an operand
BEFORE = USED_BY + _PORTS  # i carries the state whose new value is j
AFTER = BEFORE + 1  # j carries the state whose new value is i
SELF = AFTER + 1
RELATIONS = SELF + 1
# What each head of attention sees: along the flow of data, against it, along and against time, everything.
HEADS = (
    tuple(range(READS, READS + _PORTS)),
    tuple(range(USED_BY, USED_BY + _PORTS)),
    (BEFORE, AFTER),
    tuple(range(RELATIONS)),
)


@dataclass(frozen=True)
class GraphArrays:
    """`fields` [n, 5]: operation, type, operands, users, marks of each node; `relations` [n, n]; `out`: a node."""

    fields: NDArray[np.int64]
    relations: NDArray[np.int8]
    out: int


def graph_vocabulary() -> tuple[str, ...]:
    """Operations of the table, leaves, and numbers by size."""
    return (PAD, UNKNOWN, *GRAPH_LEAVES, *number_words(), *sorted(OPS))


def field_sizes(vocabulary: Sequence[str]) -> tuple[int, ...]:
    """How many values each of the fields has."""
    return (len(vocabulary), len(KINDS) + 1, MOST_DEGREE + 1, MOST_DEGREE + 1, MARKS)


def graph_arrays(cell: Cell, vocabulary: Sequence[str]) -> GraphArrays:
    """The arrays of the canonical form of a cell."""
    graph = cell.canonical().graph
    places = {word: place for place, word in enumerate(vocabulary)}
    uses = graph.uses()
    fields = np.array(
        [
            (
                places.get(_name(node), places[UNKNOWN]),
                KINDS.index(node.type.kind) + 1 if node.type.kind in KINDS else 0,
                min(len(node.args), MOST_DEGREE),
                min(used, MOST_DEGREE),
                mark,
            )
            for node, used, mark in zip(graph.nodes, uses, _marks(graph), strict=True)
        ],
        dtype=np.int64,
    )
    first = max(len(fields) - MOST_NODES, 0)
    relations = _relations(graph, first)
    return GraphArrays(fields[first:], relations, max(graph.out - first, 0))


def _name(node: Node) -> str:
    return number_word(float(node.attr("value", 0.0))) if node.op == "num" else node.op  # type: ignore[arg-type]


def _marks(graph: Graph) -> list[int]:
    """What outside the graph reads a node, in bits: the output, a state, a leaf's state, a region."""
    region = (graph.region.until, *graph.region.next) if graph.region else ()
    marks = [0] * len(graph.nodes)
    for bit, nodes in enumerate(((graph.out,), graph.next, graph.leaf or (), region)):
        for node in nodes:
            marks[node] |= 1 << bit
    return marks


def _relations(graph: Graph, first: int) -> NDArray[np.int8]:
    count = len(graph.nodes) - first
    found = np.zeros((count, count), dtype=np.int8)
    weights = np.array([node.weight for node in graph.nodes[first:]])
    found[(weights[:, None] == weights[None, :]) & (weights >= 0)] = SAME_WEIGHT
    following = {state.name: new for state, new in zip(graph.states, graph.next, strict=True)}
    for i, node in enumerate(graph.nodes[first:]):
        for port, arg in enumerate(node.args):
            if arg >= first:
                found[i, arg - first] = READS + min(port, _PORTS - 1)
                found[arg - first, i] = USED_BY + min(port, _PORTS - 1)
        if node.op in CARRIERS and (new := following.get(state_of(node), -1)) >= first:
            found[i, new - first] = BEFORE
            found[new - first, i] = AFTER
    np.fill_diagonal(found, SELF)
    return found
