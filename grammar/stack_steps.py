"""What each operation is on a stack: arrays [layers, sets, *own, B], the batch last.

With the batch last, numbers per head, rows and columns of matrices broadcast over whole runs of it, products of
weights need no transposed copies, and several maps of one operand are one product. Operations without an entry here
run as `grammar.renderings` has them, between two moves of the batch axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grammar.graph import Graph, Node
from grammar.machine import Machine
from grammar.ops import block_count
from grammar.overwriting import OVER, mixed, sigmoid_of_minus, written_over
from grammar.overwriting import Step as Step
from grammar.overwriting import Values as Values
from grammar.overwriting import sigmoid as sigmoid
from grammar.renderings import Array, Value, elementwise_function
from grammar.types import NUM, SCAL, Type

_FLAT = ("in", "vec", "cvec")
_MATRICES = ("mat", "cmat")


def _relu(a: Array) -> Array:
    """max(a, 0): beside an array of zeros in half the time that it takes beside a number."""
    result = np.zeros(a.shape, a.dtype)
    return np.maximum(a, result, out=result)


# Functions of one array or several of one shape, that give what those of `renderings` give in fewer passes.
_QUICK: Mapping[str, Callable[..., Any]] = {
    "sigmoid": sigmoid,
    "relu": _relu,
    "silu": lambda a: a * sigmoid(a),
    "leaky_relu": lambda a: np.maximum(a, 0.01 * a),
}


class Layout:
    """Shapes of values on a stack of `lead` = (layers, sets), for `batch` rows now and at most `most`.

    Layers before `first` have ended. Steps are made once, and see any number of layers and rows: the shapes that they
    ask for leave out the first two axes and end in -1 (see `shaped`). `whole` says that one of them sees all layers.
    """

    def __init__(self, machine: Machine, lead: tuple[int, int], most: int) -> None:
        self.machine, self.lead, self.most, self.batch = machine, lead, most, most
        self.sizes = machine.sizes
        self.first, self.whole = 0, False

    def shape(self, type_: Type) -> tuple[int, ...]:
        """Of a value of this type, with -1 for the rows."""
        return (*self.sizes.shape(type_), -1)

    def flat(self, type_: Type, parts: int = 0) -> tuple[int, ...]:
        """The same with one axis for all numbers of a value, or two for `parts` of them."""
        size = math.prod(self.sizes.shape(type_))
        return (*((parts, size // parts) if parts else (size,)), -1)

    def now(self, array: Array) -> Array:
        """Of an array that `own` made, what layers and rows of now see."""
        return array[self.first :, ..., : self.batch]

    def full(self, value: Value, type_: Type) -> Array:
        """A value at its full shape, in one piece."""
        kind = self.machine.complex if type_.is_complex else self.machine.dtype
        given = np.asarray(value, dtype=kind)
        layers, sets = self.lead
        shape = (layers - self.first, sets, *self.sizes.shape(type_), self.batch)
        return given if given.shape == shape else np.ascontiguousarray(np.broadcast_to(given, shape))

    def taken(self, array: Array, type_: Type) -> Array:
        """From [.., B or 1, *own] of `Machine` to this layout."""
        own = self.machine.rank(type_)
        padded = self.machine.padded(np.asarray(array), type_)
        return self.full(np.moveaxis(padded, -1 - own, -1), type_)

    def given(self, value: Value, type_: Type) -> Value:
        """From this layout to that of `Machine`."""
        return value if type_ == NUM else np.moveaxis(np.asarray(value), -1, len(self.lead))

    def own(self, array: Array, shape: Sequence[int]) -> Array:
        """A weight [.., *own] for every set and the most rows: [layers, sets, *own, most], in one piece."""
        return np.ascontiguousarray(np.broadcast_to(array[..., None], (*self.lead, *shape, self.most)))

    def per_head(self, type_: Type) -> tuple[int, ...]:
        """The shape of a value of `type_` seen per head, with an axis of its own for the numbers of one head."""
        sizes = self.sizes
        inner = (1,) if type_ == SCAL else (sizes.key_size,) if type_.kind == "key" else (sizes.value_size,)
        return (sizes.heads, *inner, -1)

    def as_matrix(self, type_: Type) -> tuple[int, ...]:
        """The shape with which a value of `type_` joins a mat: key by rows, vec by columns, scal per head."""
        sizes = self.sizes
        inner = {"scal": (1, 1), "key": (sizes.key_size, 1)}.get(type_.kind, (1, sizes.value_size))
        if type_.kind in _MATRICES:
            inner = (sizes.key_size, sizes.value_size)
        return (sizes.heads, *inner, -1)


def shaped(array: Array, shape: tuple[int, ...]) -> Array:
    """A value with other axes behind those of layers and sets."""
    return array.reshape(array.shape[:2] + shape)


def make_step(
    layout: Layout,
    graph: Graph,
    index: int,
    past: Callable[[int], Sequence[Array]],
    free: Collection[int] = (),
) -> Step:
    """A function for one node; `past(index)` gives earlier values of its operand, oldest first.

    The values of `free` operands may be written over: see `own_values`.
    """
    node = graph.nodes[index]
    types = [graph.nodes[a].type for a in node.args]
    function = _QUICK.get(node.op) or elementwise_function(node.op)
    if function is not None:
        step = _elementwise(layout, node, types, function, free)
    else:
        maker = _MAKERS.get(node.op)
        step = maker(layout, node, types) if maker else None
        if node.op == "shift":
            step = lambda values: past(index)[-1]  # noqa: E731
    return step or _as_rendered(layout, graph, index, past)


def _as_rendered(layout: Layout, graph: Graph, index: int, past: Callable[[int], Sequence[Array]]) -> Step:
    """The rendering of the table, between two moves of the batch axis."""
    layout.whole = True
    node = graph.nodes[index]
    types = {a: graph.nodes[a].type for a in node.args}

    def step(values: Values) -> Value:
        args = {a: layout.given(values[a], type_) for a, type_ in types.items()}
        kind = next(iter(types.values()), node.type)
        earlier = [np.asarray(layout.given(array, kind)) for array in past(index)]
        return layout.taken(np.asarray(layout.machine.apply(index, args, earlier)), node.type)

    return step


# ---- elementwise ------------------------------------------------------------------------------


def _elementwise(
    layout: Layout, node: Node, types: Sequence[Type], function: Callable[..., Any], free: Collection[int]
) -> Step | None:
    kinds = {t.kind for t in types if t != NUM}
    if not kinds:
        return None
    over = [a for a, t in zip(node.args, types, strict=True) if a in free and t == node.type]
    step = _applied(function, node.args)
    if node.op == "lerp" and not node.type.is_complex and NUM not in types:
        step = mixed(node.args, over)
    elif node.op in OVER and over:
        step = written_over(OVER[node.op], node.args, over[0])
    if kinds == {node.type.kind} or (node.type.kind in _FLAT and kinds <= set(_FLAT)):
        return step
    if kinds <= set(_MATRICES) and node.type.kind in _MATRICES:
        return step
    if node.type.kind in _MATRICES and kinds & set(_MATRICES):
        shape_of = layout.as_matrix
    elif (node.type.kind in _FLAT and kinds & set(_FLAT)) or (
        node.type.kind == "key" and kinds == {"key", "scal"}
    ):
        shape_of = layout.per_head
    else:
        return None
    shapes = [None if t == NUM else shape_of(t) for t in types]
    result = layout.shape(node.type)
    args = node.args

    def aligned(values: Values) -> Value:
        seen = [values[a] if s is None else shaped(values[a], s) for a, s in zip(args, shapes, strict=True)]
        return shaped(np.asarray(function(*seen)), result)

    return aligned


def _applied(function: Callable[..., Any], args: Sequence[int]) -> Step:
    if len(args) == 1:
        (a,) = args
        return lambda values: function(values[a])
    if len(args) == 2:
        a, b = args
        return lambda values: function(values[a], values[b])
    return lambda values: function(*[values[i] for i in args])


# ---- heads and matrices -----------------------------------------------------------------------

Maker = Callable[[Layout, Node, Sequence[Type]], Step | None]


def _norm(function: Callable[[Array], Array]) -> Maker:
    """Over the last axis of each head: a vec per head, a key over K, x over D, a mem over n."""

    def maker(layout: Layout, node: Node, types: Sequence[Type]) -> Step | None:
        (a,) = node.args
        if types[0].kind in ("in", "key", "mem"):
            return lambda values: function(values[a])
        if types[0].kind != "vec":
            return None
        shape, result = layout.per_head(types[0]), layout.shape(node.type)
        return lambda values: shaped(function(shaped(values[a], shape)), result)

    return maker


def _l2norm(a: Array) -> Array:
    return np.asarray(a / np.sqrt((a * a).sum(axis=-2, keepdims=True) + 1e-12))


def _rmsnorm(a: Array) -> Array:
    return np.asarray(a / np.sqrt((a * a).mean(axis=-2, keepdims=True) + 1e-6))


def _lnorm(a: Array) -> Array:
    centred = a - a.mean(axis=-2, keepdims=True)
    centred /= np.sqrt((centred * centred).mean(axis=-2, keepdims=True) + 1e-5)
    return np.asarray(centred)


def _softmax(a: Array) -> Array:
    shifted = a - a.max(axis=-2, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-2, keepdims=True)
    return np.asarray(shifted)


def _outer(layout: Layout, node: Node, types: Sequence[Type]) -> Step:
    (a, b), rows, columns = node.args, layout.as_matrix(types[0]), layout.as_matrix(types[1])
    return lambda values: shaped(values[a], rows) * shaped(values[b], columns)


def _read(layout: Layout, node: Node, types: Sequence[Type]) -> Step:
    (a, b), rows, result = node.args, layout.as_matrix(types[1]), layout.shape(node.type)
    return lambda values: shaped((values[a] * shaped(values[b], rows)).sum(axis=-3), result)


def _readt(layout: Layout, node: Node, types: Sequence[Type]) -> Step:
    (a, b), columns = node.args, layout.as_matrix(types[1])
    return lambda values: (values[a] * shaped(values[b], columns)).sum(axis=-2)


def _reduced(function: Callable[..., Array], count: int) -> Maker:
    """A number per head from `count` operands seen per head."""

    def maker(layout: Layout, node: Node, types: Sequence[Type]) -> Step | None:
        if any(t.kind not in (*_FLAT, "key") for t in types):
            return None
        shapes = [layout.per_head(t) for t in types]
        if count == 1:
            (a,), (shape,) = node.args, shapes
            return lambda values: function(shaped(values[a], shape))
        (a, b), (first, second) = node.args, shapes
        return lambda values: function(shaped(values[a], first), shaped(values[b], second))

    return maker


def _reshaped(layout: Layout, node: Node, types: Sequence[Type]) -> Step:
    (a,), shape = node.args, layout.shape(node.type)
    return lambda values: shaped(values[a], shape)


# ---- weights ----------------------------------------------------------------------------------


def _diag(layout: Layout, node: Node, types: Sequence[Type]) -> Step:
    (a,) = node.args
    weight = layout.own(layout.machine.weights[node.weight]["w"], layout.sizes.shape(node.type))
    return lambda values: values[a] * layout.now(weight)


def _lin(layout: Layout, node: Node, types: Sequence[Type]) -> Step | None:
    """Maps of small rank, of blocks or transposed; plain ones are made by `shared_maps`."""
    arrays = layout.machine.weights[node.weight]
    result, out = layout.shape(node.type), layout.flat(node.type)
    factors: list[list[Array]] = []
    for i in range(len(types)):
        if node.attr("rank"):
            factors.append([arrays[f"v{i}"], arrays[f"u{i}"]])
            continue
        weight = arrays[f"w{i}"]
        factors.append([np.swapaxes(weight, -1, -2) if node.attr("transpose") else weight])
    factors = [[np.broadcast_to(f, (*layout.lead, *f.shape[2:])) for f in each] for each in factors]
    blocks = layout.sizes.at(block_count(dict(node.attrs))) if node.attr("blocks", 1) != 1 else 0
    flat = [layout.flat(type_, blocks) for type_ in types]
    bias = _bias(layout, node)

    def step(values: Values) -> Value:
        total: Any = bias if bias is None else layout.now(bias)
        for arg, shape, matrices in zip(node.args, flat, factors, strict=True):
            product = shaped(values[arg], shape)
            for matrix in matrices:
                product = matrix[layout.first :] @ product
            product = shaped(product, out)
            total = product if total is None else total + product
        return shaped(np.asarray(total), result)

    return step


def _bias(layout: Layout, node: Node) -> Array | None:
    if not node.attr("bias", True):
        return None
    array = layout.machine.weights[node.weight]["b"]
    return layout.own(array, array.shape[-1:])


_MAKERS: Mapping[str, Maker] = {
    "l2norm": _norm(_l2norm),
    "rmsnorm": _norm(_rmsnorm),
    "lnorm": _norm(_lnorm),
    "softmax": _norm(_softmax),
    "outer": _outer,
    "read": _read,
    "readt": _readt,
    "dot": _reduced(lambda a, b: np.asarray((a * b).sum(axis=-2)), 2),
    "hsum": _reduced(lambda a: np.asarray(a.sum(axis=-2)), 1),
    "hmax": _reduced(lambda a: np.asarray(a.max(axis=-2)), 1),
    "toval": _reshaped,
    "tokey": _reshaped,
    "diag": _diag,
    "lin": _lin,
}


@dataclass
class SharedMaps:
    """Plain `lin` nodes: for each operand one product with the matrices of all of them, of which each takes its rows;
    complex maps of an operand are another one.

    `before[node]` are the products to make before that node, with the places of their results in the values;
    `steps[node]` adds up the rows of the node. A map that only sigmoids read has the other sign throughout, which
    rounds alike and saves them a pass; their steps are here too.
    """

    before: dict[int, list[tuple[int, Step]]]
    steps: dict[int, Step]
    parts: dict[int, int]  # by node, how many it adds up
    gates: dict[int, Step]  # by sigmoid of such a map, the step that writes over it
    last: dict[int, int]  # by place, the node that reads it last
    places: int  # of results, behind those of the nodes


def shared_maps(layout: Layout, graph: Graph, order: Sequence[int]) -> SharedMaps:
    """The products of the plain `lin` nodes of `order`, which come after their operands."""
    plain = [i for i in order if graph.nodes[i].op == "lin" and set(dict(graph.nodes[i].attrs)) <= {"bias"}]
    gates = _gates(graph, order, plain)
    # By operand and whether the map is complex: nodes, and which of their operands it is.
    readers: dict[tuple[int, bool], list[tuple[int, int]]] = {}
    for i in plain:
        for j, arg in enumerate(graph.nodes[i].args):
            readers.setdefault((arg, graph.nodes[i].type.is_complex), []).append((i, j))
    found = SharedMaps({}, {}, {}, {}, {}, len(readers))
    parts: dict[int, list[tuple[int, int, int]]] = {i: [] for i in plain}
    for slot, ((arg, _), uses) in enumerate(readers.items(), start=len(graph.nodes)):
        begin, matrices, biases = 0, [], []
        for i, j in uses:
            node = graph.nodes[i]
            matrices.append(layout.machine.weights[node.weight][f"w{j}"])
            rows = matrices[-1].shape[-2]
            bias = _bias(layout, node) if j == 0 else None
            if i in gates:
                matrices[-1] = -matrices[-1]
                bias = bias if bias is None else -bias
            biases.append(np.zeros((*layout.lead, rows, 1), layout.machine.dtype) if bias is None else bias)
            parts[i].append((slot, begin, begin + rows))
            begin += rows
        found.last[slot] = uses[-1][0]
        some = any(j == 0 and graph.nodes[i].attr("bias", True) for i, j in uses)
        found.before.setdefault(uses[0][0], []).append(
            (slot, _product(layout, graph, arg, matrices, biases if some else []))
        )
    found.steps.update({i: _added(layout, graph.nodes[i], parts[i]) for i in plain})
    found.parts.update({i: len(of) for i, of in parts.items()})
    for arg, sigmoids in gates.items():
        found.steps.update(dict.fromkeys(sigmoids, _applied(sigmoid_of_minus, (arg,))))
        found.gates.update(dict.fromkeys(sigmoids, written_over(sigmoid_of_minus, (arg,), arg)))
    return found


def _gates(graph: Graph, order: Sequence[int], plain: Sequence[int]) -> dict[int, list[int]]:
    """Those of the maps `plain` that only sigmoids read, with these."""
    found: dict[int, list[int]] = {i: [] for i in plain if not graph.nodes[i].type.is_complex}
    for index in order:
        node = graph.nodes[index]
        for arg in node.args:
            if node.op != "sigmoid" or node.type != graph.nodes[arg].type:
                found.pop(arg, None)
            elif arg in found:
                found[arg].append(index)
    for root in graph.roots():
        found.pop(root, None)
    return found


def _product(
    layout: Layout, graph: Graph, arg: int, matrices: Sequence[Array], biases: Sequence[Array]
) -> Step:
    sets = [np.broadcast_to(m, (*layout.lead, *m.shape[-2:])) for m in matrices]
    matrix = np.concatenate(sets, axis=-2) if len(sets) > 1 else sets[0]
    full = [np.broadcast_to(b, (*b.shape[:-1], layout.most)) for b in biases]
    bias = np.concatenate(full, axis=-2) if len(full) > 1 else full[0] if full else None
    flat = layout.flat(graph.nodes[arg].type)

    def step(values: Values) -> Value:
        product = matrix[layout.first :] @ shaped(values[arg], flat)
        if bias is not None:
            product += layout.now(bias)
        return np.asarray(product)

    return step


def _added(layout: Layout, node: Node, parts: Sequence[tuple[int, int, int]]) -> Step:
    """The sum of the rows that belong to a node, in the shape of its type."""
    result = layout.shape(node.type)
    (slot, begin, end), *others = parts
    at = (slice(None), slice(None), slice(begin, end))
    if not others and node.type.kind in _FLAT:
        return lambda values: values[slot][at]
    if not others:
        return lambda values: shaped(values[slot][at], result)
    (slot2, begin2, end2), *more = others

    def step(values: Values) -> Value:
        total = values[slot][at] + values[slot2][:, :, begin2:end2]
        for place, first, last in more:
            total += values[place][:, :, first:last]
        return np.asarray(shaped(total, result))

    return step
