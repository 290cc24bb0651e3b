"""Steps of a stack that write their result over an operand which nothing reads any more: no memory is asked for anew.

What they give is the same to the last bit. `own_values` says which values may be written over at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from grammar.graph import Graph
from grammar.renderings import Array, Value

Values = list[Any]  # by node: arrays [layers, sets, *own, B], floats for numbers
Step = Callable[[Values], Value]


def sigmoid(a: Array, out: Array | None = None) -> Array:
    """1 / (1 + exp(-a)): exp may overflow, which gives the limit 0."""
    minus = np.negative(a, out=out)
    return sigmoid_of_minus(minus, minus)


def sigmoid_of_minus(a: Array, out: Array | None = None) -> Array:
    """1 / (1 + exp(a))."""
    result = np.exp(a, out=out)
    result += 1
    return np.divide(1, result, out=result)


# Functions that can write their result over an operand of its shape, bit by bit the same.
OVER: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "tanh": np.tanh,
    "exp": np.exp,
    "sigmoid": sigmoid,
}
# Operations whose result shares no memory with an operand.
APART = frozenset({*OVER, "lerp", "relu", "leaky_relu", "silu", "gelu", "softplus", "square", "lin"})


def own_values(graph: Graph, parts: Mapping[int, int]) -> frozenset[int]:
    """The nodes whose value is an array of its own, of which no reader keeps or gives on any part.

    `parts` are the maps that `shared_maps` adds up, and of how many parts: one of a single part is a part of a product.
    """
    shared = {a for node in graph.nodes if node.op not in APART for a in node.args}
    return frozenset(
        i
        for i, node in enumerate(graph.nodes)
        if i not in shared and (node.op in APART - {"lin"} or parts.get(i, 0) > 1)
    )


def written_over(function: Callable[..., Any], args: Sequence[int], place: int) -> Step:
    """A function of one or two operands, of which it takes the memory of `place`."""
    if len(args) == 1:
        return lambda values: function(values[place], out=values[place])
    a, b = args
    return lambda values: function(values[a], values[b], out=values[place])


def mixed(args: Sequence[int], over: Sequence[int]) -> Step:
    """g * b + (1 - g) * a in as few arrays as there can be: those of operands that are free."""
    g, a, b = args
    over_b = b in over and b not in (g, a)
    over_g = g in over and g not in (a, b)

    def step(values: Values) -> Value:
        gate, second = values[g], values[b]
        if over_b:
            result = np.multiply(gate, second, out=second)
            rest = np.subtract(1, gate, out=gate if over_g else None)
            rest *= values[a]
        else:
            rest = np.subtract(1, gate)
            rest *= values[a]
            result = np.multiply(gate, second, out=gate if over_g else None)
        result += rest
        return np.asarray(result)

    return step
