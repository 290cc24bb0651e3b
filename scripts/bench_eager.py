"""The eager baseline that speed-ups are stated against: what a person writes in torch for a new cell. Frozen.

Node by node over `unbind`. Each `lin` of x is hoisted out of the loop, on its own; nothing else is hoisted or merged;
gradients are torch's. It must never get slower: tests/test_bench_eager.py pins the calls of torch that it makes.

    python scripts/bench_eager.py lstm gru --sizes S,M,L

prints its milliseconds, forward + backward, beside those of the matrix products alone and of torch's own layer in the
same run. Needs torch, numpy, networkx and lark only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, wherever this is run from

from grammar import Cell, Node, Sizes, parse, zoo
from nas.backends import RENDERINGS
from nas.backends.renderings import cast
from nas.errors import BuildError
from nas.ir import Instr, joins, same_axes, taps
from nas.nn import CellModule

Arrays = Mapping[str, Tensor]
Call = tuple[
    int, Callable[..., Any], tuple[int, ...], int
]  # place of the result, function, operands, weight or -1


class EagerLoop:
    """One layer of a time cell at given sizes.

    Called with x `[B, T, D]`, the arrays of all weights in the order of the text (complex ones real, `[..., 2]`) and
    the values of the slots before the first step (declared states, then buffers), it gives the output `[B, T, H]`
    and the slots' values after the last step.
    """

    def __init__(self, cell: Cell, sizes: Sizes) -> None:
        if cell.kind != "time":
            raise BuildError(f"the eager baseline runs cells over time; {cell.name} is a {cell.kind} cell")
        self.cell, self.sizes, self.graph = cell, sizes, cell.graph
        sizes.check(self.graph)
        self.shapes = [sizes.shape(node.type) for node in self.graph.nodes]
        self.start: list[Any] = [None] * len(self.graph.nodes)  # the values before a step: numbers are there
        self.hoisted: dict[int, list[int]] = {}  # `lin` nodes that see x, and which of their operands it is
        self.calls: list[Call] = []
        self.linear = [node for node in self.graph.nodes if node.op == "lin"]
        self.follows = list(self.graph.next)  # the node that each slot takes over
        self.reads: list[tuple[int, int]] = []  # nodes that are the value of a slot before the step
        position = {state.name: k for k, state in enumerate(self.graph.states)}
        for k, node in enumerate(self.graph.nodes):
            if node.op == "state":
                self.reads.append((k, position[str(node.attr("name"))]))
            elif node.op == "num":
                self.start[k] = float(node.attr("value"))  # type: ignore[arg-type]
            elif node.op != "x":
                self._add(k, node)

    def _add(self, k: int, node: Node) -> None:
        kinds = tuple(self.graph.nodes[a].type.kind for a in node.args)
        instr = Instr(node.op, node.args, node.type, attrs=node.attrs, weight=node.weight)
        if node.type.kind == "num":
            numbers = (torch.tensor(self.start[a], dtype=torch.float64) for a in node.args)
            self.start[k] = float(RENDERINGS[node.op](instr, kinds, self.sizes)(*numbers))
        elif node.op == "lin":
            self._add_linear(k, node)
        elif node.op in ("shift", "conv"):
            self._add_past(k, node, instr, kinds)
        else:
            self.calls.append((k, self._operation(node, instr, kinds), node.args, node.weight))

    def _operation(self, node: Node, instr: Instr, kinds: tuple[str, ...]) -> Callable[..., Any]:
        """The operation, each operand first brought to the axes of the result."""
        plain: Callable[..., Any] = RENDERINGS[node.op](instr, kinds, self.sizes)
        needed = [joins(node.op) and not same_axes(kind, node.type.kind) for kind in kinds]
        if not any(needed):
            return plain
        casts = [
            cast(Instr("cast", (), node.type), (kind,), self.sizes) if c else _same
            for kind, c in zip(kinds, needed, strict=True)
        ]
        return lambda *values: plain(*(c(v) for c, v in zip(casts, values, strict=True)))

    def _add_linear(self, k: int, node: Node) -> None:
        """The product of x is ready before the loop; in it those of the other operands are added."""
        early = [p for p, a in enumerate(node.args) if self.graph.nodes[a].op == "x"]
        late = [p for p in range(len(node.args)) if p not in early]
        if early:
            self.hoisted[k] = early
        part, bias = _part(node, self.sizes), bool(node.attr("bias", True)) and not early
        shape, axes = self.shapes[k], [len(self.shapes[node.args[p]]) for p in late]

        def linear(ready: Tensor | None, *values: Any) -> Tensor:
            *operands, w = values
            total = ready
            for p, own, a in zip(late, axes, operands, strict=True):
                total = part(total, a.flatten(-own) if own > 1 else a, w, p, bias and p == late[0])
            assert total is not None
            return total if len(shape) == 1 else total.unflatten(-1, shape)

        if not early:
            self.start.append(None)
        ready = k if early else len(self.start) - 1
        self.calls.append((k, linear, (ready, *(node.args[p] for p in late)), self._source(node)))

    def _source(self, lin: Node) -> int:
        """Where the arrays of a `lin` are: behind those of all weights, with its matrices transposed."""
        return len(self.graph.weights) + next(k for k, node in enumerate(self.linear) if node is lin)

    def _add_past(self, k: int, node: Node, instr: Instr, kinds: tuple[str, ...]) -> None:
        """The slot of a `conv` is the list of its last values, that of a `shift` the last one."""
        if node.op == "conv" and taps(instr) == 1:
            conv = RENDERINGS["conv"](instr, kinds, self.sizes)
            self.calls.append((k, lambda a, w: conv([a], w), node.args, node.weight))
            return
        slot = len(self.follows)
        self.follows.append(node.args[0])
        if node.op == "shift":
            self.reads.append((k, slot))
            return
        conv = RENDERINGS["conv"](instr, kinds, self.sizes)
        self.start.append(None)
        self.reads.append((len(self.start) - 1, slot))
        place = len(self.start) - 1
        self.calls.append((k, lambda past, a, w: conv([*past, a], w), (place, *node.args), node.weight))

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See the class."""
        graph, given = self.graph, iter(weights)
        arrays = [
            {
                spec.role: torch.view_as_complex(next(given)) if spec.complex else next(given)
                for spec in w.specs
            }
            for w in graph.weights
        ]
        arrays += [arrays[lin.weight] | _transposed(lin, arrays[lin.weight]) for lin in self.linear]
        steps = x.transpose(0, 1)
        ready = {k: self._of_x(k, steps, arrays).unbind(0) for k in self.hoisted}
        inputs = [k for k, node in enumerate(graph.nodes) if node.op == "x"]
        takes = [
            (f, len(self.shapes[f]) + 2 == v.dim()) for f, v in zip(self.follows, state, strict=True)
        ]  # the node that each slot takes over, and whether the slot is a window
        slots: list[Any] = [list(v.unbind(1)) if w else v for v, (_, w) in zip(state, takes, strict=True)]
        values = list(self.start)
        outputs = []
        for t, x_t in enumerate(steps.unbind(0)):
            for k in inputs:
                values[k] = x_t
            for k, slot in self.reads:
                values[k] = slots[slot]
            for k, products in ready.items():
                values[k] = products[t]
            for k, function, args, weight in self.calls:
                operands = [values[a] for a in args]
                values[k] = function(*operands, arrays[weight]) if weight >= 0 else function(*operands)
            outputs.append(self._full(values[graph.out], graph.out, x_t))
            slots = [
                [*old[1:], values[k]] if window else self._full(values[k], k, x_t)
                for old, (k, window) in zip(slots, takes, strict=True)
            ]
        final = tuple(torch.stack(v, 1) if w else v for v, (_, w) in zip(slots, takes, strict=True))
        return torch.stack(outputs, 1), final

    def _of_x(self, k: int, steps: Tensor, arrays: Sequence[Arrays]) -> Tensor:
        node, total = self.graph.nodes[k], None
        for p in self.hoisted[k]:
            bias = bool(node.attr("bias", True)) and total is None
            total = _part(node, self.sizes)(total, steps, arrays[self._source(node)], p, bias)
        assert total is not None
        return total

    def _full(self, value: Tensor, node: int, x_t: Tensor) -> Tensor:
        """A value with an axis for the batch; that of weights alone has none."""
        own = self.shapes[node]
        return value if value.dim() > len(own) else value.expand(x_t.shape[0], *own)


def _same(value: Any) -> Any:
    return value


def _transposed(node: Node, arrays: Arrays) -> dict[str, Tensor]:
    """The matrices of a plain `lin` as `[in, out]`: once, for all steps."""
    turned = bool(node.attr("transpose", False))
    return {
        f"{role} transposed": array if turned else array.t()
        for role, array in arrays.items()
        if role.startswith("w") and array.dim() == 2 and not array.is_complex()
    }


def _part(node: Node, sizes: Sizes) -> Callable[[Tensor | None, Tensor, Arrays, int, bool], Tensor]:
    """One operand's product, added to what there is: `part(total, a, arrays, operand, with the bias)`."""
    blocks, rank = node.attr("blocks", 1), int(node.attr("rank", 0))  # type: ignore[arg-type]
    count = sizes.heads if blocks == "heads" else int(blocks)  # type: ignore[arg-type]
    transpose = bool(node.attr("transpose", False))

    def product(a: Tensor, w: Arrays, p: int) -> Tensor:
        if rank:
            return F.linear(F.linear(a.to(w[f"v{p}"].dtype), w[f"v{p}"]), w[f"u{p}"])
        array = w[f"w{p}"].transpose(-1, -2) if transpose else w[f"w{p}"]
        if count == 1 and array.dim() == 2:
            return F.linear(a.to(array.dtype), array)
        rows = a.to(array.dtype).unflatten(-1, (count, -1)).unsqueeze(-2)
        each: Tensor = torch.matmul(rows, array.transpose(-1, -2))
        return each.squeeze(-2).flatten(-2)

    def part(total: Tensor | None, a: Tensor, w: Arrays, p: int, bias: bool) -> Tensor:
        matrix = w.get(f"w{p} transposed")
        if matrix is not None and a.dim() == 2 and (total is not None or bias):
            made = torch.addmm(w["b"] if total is None else total, a, matrix)
            return made + w["b"] if bias and total is not None else made
        own: Tensor = product(a, w, p) if matrix is None else torch.matmul(a, matrix)
        both = own if total is None else total + own
        return both + w["b"] if bias else both

    return part


class EagerModule(nn.Module):
    """A CellModule's weights on the eager loop; called like it, with sequences of equal length."""

    def __init__(self, module: CellModule) -> None:
        super().__init__()
        if module.num_layers > 1 or module.bidirectional or not module.batch_first:
            raise BuildError("the eager baseline has one layer, one direction and the batch first")
        self.module, self.cell = module, module.cell
        self.loop = EagerLoop(module.cell, module.sizes[0])

    def forward(
        self, x: Tensor, state: Tensor | tuple[Tensor, ...] | None = None, lengths: None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """As CellModule's."""
        if lengths is not None:
            raise BuildError("the eager baseline takes sequences of equal length")
        before = self.module.init_state(x.shape[0]) if state is None else state
        parts = [v[0] for v in ((before,) if isinstance(before, Tensor) else before)]
        y, final = self.loop(x, self.module._arrays(0, 0), parts)
        after = tuple(value.unsqueeze(0) for value in final)
        return y, after[0] if len(after) == 1 else after


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    from nas.bench import Plan, bench, read_sizes

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = "elman lstm gru indrnn mingru hgrn rglru".split()
    parser.add_argument("cells", nargs="*", default=default, help="texts, or names of known cells")
    parser.add_argument("--sizes", default="S,M,L")
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args(arguments)
    cells = [parse(text) if "{" in text else zoo(text.removeprefix("zoo:")) for text in given.cells]
    plan = Plan(read_sizes(given.sizes), (), ("eager", "torch"), ("training",), given.repeats)
    print("median ms, forward + backward\neager, its matrix products alone, torch's own layer")
    for cell in cells:
        for row in bench({cell.name: cell}, plan):
            taken = [row.ms(name) for name in ("eager", "products", "torch")]
            shown = "".join(f"{'-' if ms is None else f'{ms:.2f}':>9}" for ms in taken)
            print(f"{cell.name:<16}{row.size.name:<4}{shown}", flush=True)


if __name__ == "__main__":
    main()
