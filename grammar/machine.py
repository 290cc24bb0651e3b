"""A cell's graph with its arrays: applies one node after the other to values, whatever drives it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from grammar.errors import CellBuildError
from grammar.graph import HALT, Graph
from grammar.renderings import RENDERINGS, Array, Call, Value, align
from grammar.sizes import Sizes
from grammar.types import SCAL, Type
from grammar.weights import initial_name, written_arrays


def memory_length(graph: Graph, index: int) -> int:
    """How many earlier values of its operand a node needs: 1 for `shift`, k - 1 for `conv`, else 0."""
    node = graph.nodes[index]
    if node.op == "conv":
        return int(node.attr("k", 4)) - 1  # type: ignore[arg-type]
    return 1 if node.op == "shift" else 0


class Machine:
    """A graph with its arrays: applies nodes to values, whatever drives it."""

    def __init__(self, graph: Graph, x: Array, weights: Mapping[str, Any], sizes: Sizes) -> None:
        self.graph = graph
        self.x = x
        self.sizes = sizes
        self.dtype = x.dtype
        self.complex = np.result_type(x.dtype, np.complex64)
        arrays = {name: self.cast(a) for name, a in written_arrays(graph, weights, sizes).items()}
        self.weights = [{s.role: arrays[f"{w.site}.{s.role}"] for s in w.specs} for w in graph.weights]
        learned = {s: initial_name(graph, s) for s in graph.states if s.init == "learned"}
        self.learned = {state.name: arrays[name] for state, name in learned.items()}
        own = {f"{w.site}.{s.role}": len(s.shape) for w in graph.weights for s in w.specs}
        own |= {name: self.rank(state.type) for state, name in learned.items()}
        self.lead = common_axes([x.shape[:-3], *(a.shape[: a.ndim - own[n]] for n, a in arrays.items())])
        self.batch = 1  # batch axes of a value: B, or B and a second one
        self.length = x.shape[-2]

    def rank(self, type_: Type) -> int:
        """How many own axes a value of this type has."""
        return len(self.sizes.shape(type_))

    def cast(self, array: Any) -> Array:
        """An array in the precision of x."""
        return np.asarray(array, dtype=self.complex if np.iscomplexobj(array) else self.dtype)

    def full(self, array: Value, type_: Type, *batch: int) -> Array:
        """A value broadcast to all weight sets and the batch: [*lead, *batch, *own]."""
        kind = self.complex if type_.is_complex else self.dtype
        shape = (*self.lead, *batch, *self.sizes.shape(type_))
        given = np.asarray(array, dtype=kind)
        return given if given.shape == shape else np.broadcast_to(given, shape)

    def padded(self, array: Array, type_: Type, extra: int = 0) -> Array:
        """A value with axes of length 1 for the weight sets it does not have."""
        missing = len(self.lead) + self.batch + self.rank(type_) + extra - array.ndim
        return array.reshape((1,) * missing + array.shape)

    def initial(self, name: str) -> Array:
        """A state's initial value, with batch axes of length 1 (x itself for `= x`)."""
        state = next(s for s in self.graph.states if s.name == name)
        if state.init == "x":
            return self.x
        own = self.sizes.shape(state.type)
        if isinstance(state.init, str):
            learned = self.learned[name]
            return learned.reshape(learned.shape[: learned.ndim - len(own)] + (1,) * self.batch + own)
        return np.full((1,) * self.batch + own, state.init, self.dtype)

    def apply(self, index: int, values: Mapping[int, Value], past: Sequence[Array] = ()) -> Value:
        """One node on the values of its operands."""
        node = self.graph.nodes[index]
        if node.op == "num":
            return float(node.attr("value"))  # type: ignore[arg-type]
        rendering = RENDERINGS.get(node.op)
        if rendering is None:
            raise CellBuildError(f"the operation {node.op!r} has no NumPy rendering: register_rendering")
        result = rendering(
            Call(
                node,
                [values[a] for a in node.args],
                [self.graph.nodes[a].type for a in node.args],
                self.weights[node.weight] if node.weight >= 0 else {},
                self.sizes,
                self.batch,
                self.length,
                past,
                self.dtype,
            )
        )
        return float(result) if node.type.kind == "num" else result

    def run(self, order: Iterable[int], values: dict[int, Value], memory: Memory) -> None:
        """Compute the nodes of `order`, in place; leaves that are values already are kept."""
        for index in order:
            if index not in values:
                if self.graph.nodes[index].op == "final":
                    self._halting(values, memory)
                else:
                    values[index] = self.apply(index, values, memory.past(index, values))

    def _halting(self, values: dict[int, Value], memory: Memory) -> None:
        """Adaptive computation time: the sum of the rounds' values, weighted by p and the remainder."""
        region = self.graph.region
        assert region is not None
        turning = dependent(self.graph, "carry")
        needed = sorted(self.graph.reachable([region.until, *region.next]))
        self.run([i for i in needed if i not in turning], values, memory)
        carries, finals, states = (leaves(self.graph, op) for op in ("carry", "final", "state"))
        types = {s.name: s.type for s in self.graph.states}
        carried: dict[str, Value] = {n: values[states[n]] for n in region.states}
        final: dict[str, Any] = dict.fromkeys(region.states, 0.0)
        used: Any = np.zeros((), self.dtype)
        running: Any = np.ones((), bool)
        for turn in range(region.times):
            local = {**values, **{carries[n]: v for n, v in carried.items()}}
            self.run([i for i in needed if i in turning], local, memory)
            p = local[region.until]
            halts = used + p >= HALT if turn < region.times - 1 else np.ones((), bool)
            share = np.where(running, np.where(halts, 1 - used, p), 0).astype(self.dtype)
            carried = {n: local[i] for n, i in zip(region.states, region.next, strict=True)}
            for name, value in carried.items():
                final[name] = final[name] + align(share, SCAL, types[name], self.sizes) * value
            used = used + share
            running = running & ~halts
        values.update({finals[n]: v for n, v in final.items()})


class Memory:
    """Earlier values of operands, for `shift` and `conv`. Here none: a tree has no steps."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def past(self, index: int, values: Mapping[int, Value]) -> Sequence[Array]:
        """The values that the operand of node `index` had at the steps before, oldest first."""
        op = self.machine.graph.nodes[index].op
        if op in ("shift", "conv"):
            raise CellBuildError(f"`{op}` looks back in time, and a tree cell has no steps")
        return ()


class Along(Memory):
    """All steps in one array: earlier values are that array, moved along the axis of time.

    `before` is what the buffers held at the start, oldest first, and T is the first axis; or None
    for depth cells, which begin from zeros and have T as their second batch axis.
    """

    def __init__(self, machine: Machine, before: Mapping[int, Sequence[Array]] | None) -> None:
        super().__init__(machine)
        self.before = before
        self.after: dict[int, list[Array]] = {}

    def past(self, index: int, values: Mapping[int, Value]) -> Sequence[Array]:
        machine = self.machine
        steps = memory_length(machine.graph, index)
        if not steps:
            return ()
        arg = machine.graph.nodes[index].args[0]
        type_ = machine.graph.nodes[arg].type
        array = np.asarray(values[arg])
        if self.before is None:
            axis = array.ndim - machine.rank(type_) - 1
            earlier: Sequence[Array] = [np.zeros((), array.dtype)] * steps
        else:
            axis = 0
            array = machine.padded(array, type_, extra=1)
            earlier = self.before[index]
        array = np.moveaxis(array, axis, 0)
        inner = np.broadcast_shapes(array.shape[1:], *(e.shape for e in earlier))
        array = np.broadcast_to(array, (machine.length, *inner))
        extended = np.concatenate([*(np.broadcast_to(e, (1, *inner)) for e in earlier), array])
        self.after[index] = list(extended[machine.length :])
        return [np.moveaxis(extended[j : j + machine.length], 0, axis) for j in range(steps)]


class Buffers(Memory):
    """One step at a time: `held` are the values that each buffer holds, oldest first."""

    def __init__(self, machine: Machine, held: Mapping[int, Sequence[Array]]) -> None:
        super().__init__(machine)
        self.held = {index: list(arrays) for index, arrays in held.items()}

    def past(self, index: int, values: Mapping[int, Value]) -> Sequence[Array]:
        return self.held.get(index, ())

    def advance(self, values: Mapping[int, Value]) -> None:
        """Put the operands of this step in, and let the oldest go."""
        for index, held in self.held.items():
            newest = np.asarray(values[self.machine.graph.nodes[index].args[0]])
            self.held[index] = [*held[1:], newest]


# ---- graphs -----------------------------------------------------------------------------------


def leaves(graph: Graph, op: str) -> dict[str, int]:
    """The nodes of one kind of leaf, by the state they name; a child's is `l.h`, x has no name."""
    found: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        if node.op == op:
            child = f"{node.attr('child')}.{node.attr('state')}"
            found[child if op == "child" else str(node.attr("name"))] = index
    return found


def dependent(graph: Graph, *ops: str, also: Collection[int] = ()) -> frozenset[int]:
    """The nodes that are one of `ops` or one of `also`, or depend on one."""
    found: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if node.op in ops or index in also or any(a in found for a in node.args):
            found.add(index)
    return frozenset(found)


def common_axes(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What leading axes broadcast to. Raises CellBuildError where they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = ", ".join(str(s) for s in shapes)
        raise CellBuildError(
            f"the leading axes of weights, states and x broadcast; received {listed}"
        ) from None
