"""Weisfeiler-Lehman labels of a cell's typed graph, counted: what a kernel between cells compares.

Shervashidze et al., "Weisfeiler-Lehman Graph Kernels", 2011; for architectures Ru et al., "Interpretable Neural
Architecture Search via Bayesian Optimisation with Weisfeiler-Lehman Kernels", 2021. A Laplace kernel of the sum of
absolute differences of counts falls with what two cells do not share, as the kernel of intersections rises with
what they do; its linear part is the subtree kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from grammar import OPS, Cell, Graph, Node
from predictors.paths import CARRIERS, state_of

# Columns for the labels after 0, 1, 2, 3 rounds. There is no end of labels: some share a column.
BUCKETS = (256, 1024, 2048, 2048)
SHARES = (0.4, 0.3, 0.2, 0.1)  # of the rounds in the distance
_NAMES = frozenset({"name", "state", "child"})  # options that only name a state


def wl_columns(cells: Iterable[Cell]) -> NDArray[np.float64]:
    """How often each label occurs in the canonical form: [n, sum(BUCKETS)]."""
    rows = [_counts(cell.canonical().graph) for cell in cells]
    return np.array(rows, dtype=np.float64).reshape(len(rows), sum(BUCKETS))


def wl_rounds() -> NDArray[np.int64]:
    """The round that each column is of."""
    return np.repeat(np.arange(len(BUCKETS)), BUCKETS)


def _counts(graph: Graph) -> NDArray[np.float64]:
    labels = [_first(node, i == graph.out) for i, node in enumerate(graph.nodes)]
    following = {state.name: new for state, new in zip(graph.states, graph.next, strict=True)}
    found = []
    for rounds, buckets in enumerate(BUCKETS):
        if rounds:
            labels = [
                _hashed(f"{label}<{_around(node, labels, following)}")
                for node, label in zip(graph.nodes, labels, strict=True)
            ]
        found.append(np.bincount([int(label, 16) % buckets for label in labels], minlength=buckets))
    return np.concatenate(found).astype(np.float64)


def _first(node: Node, out: bool) -> str:
    options = sorted((key, str(value)) for key, value in node.attrs if key not in _NAMES)
    return _hashed(f"{node.op}:{node.type.kind}:{options}:{out}")


def _around(node: Node, labels: list[str], following: dict[str, int]) -> str:
    """The labels of a node's operands; of a leaf that carries a state, the label of its new value."""
    if node.op in CARRIERS:
        new = following.get(state_of(node))
        return "" if new is None else f"t{labels[new]}"
    near = [labels[arg] for arg in node.args]
    free = node.op == "lin" or (node.op in OPS and OPS[node.op].commutative)
    return ",".join(sorted(near) if free else near)


def _hashed(text: str) -> str:
    return blake2b(text.encode(), digest_size=7).hexdigest()
