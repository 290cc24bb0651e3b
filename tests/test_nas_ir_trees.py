"""Tree cells on the IR: normal forms and adjoints of leaves and merges against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from normal_cases import arrays, parts, real, sizes_of
from normal_runner import Machine
from strategies import cells
from torch import Tensor

from grammar import Cell, Sizes, parse, zoo, zoo_names
from nas.backends import tree_runner
from nas.ir import Adjoint, Normal, adjoint_tree, compile_program, normal_tree, shape_in

ROWS, CHILDREN = 3, 2
WILD = 1e6


def agrees(cell: Cell) -> None:
    """States, outputs and all gradients at leaves and in merges are those of the reference."""
    rng = np.random.default_rng(0)
    sizes = sizes_of(cell)
    program = compile_program(cell)
    weights = [w.requires_grad_() for w in arrays(cell, program, sizes, rng)]
    run = tree_runner("reference", cell, sizes)
    (leaf, merge), (leaf_adjoint, merge_adjoint) = normal_tree(cell, CHILDREN), adjoint_tree(cell, CHILDREN)
    x = torch.from_numpy(rng.standard_normal((ROWS, sizes.input_size))).requires_grad_()
    Half(leaf, leaf_adjoint, sizes, weights, [x], []).agrees(None, run.leaves(x, weights))
    children = [
        [drawn(slot.type.is_complex, (ROWS, *sizes.shape(slot.type)), rng) for _ in range(CHILDREN)]
        for slot in program.slots
    ]
    y, states = run.merge(None, weights, children)
    Half(merge, merge_adjoint, sizes, weights, [], children).agrees(y, states)


def drawn(complex_: bool, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    value = torch.from_numpy(rng.standard_normal(shape))
    if complex_:
        value = torch.complex(value, torch.from_numpy(rng.standard_normal(shape)))
    return value.requires_grad_()


@dataclass
class Half:
    """What a tree cell does at leaves or in merges, and its operands."""

    normal: Normal
    adjoint: Adjoint
    sizes: Sizes
    weights: list[Tensor]
    x: list[Tensor]  # one, or none
    children: list[list[Tensor]]  # by slot, then child

    def agrees(self, y: Tensor | None, states: tuple[Tensor, ...]) -> None:
        """The reference gave this output (not at leaves) and these states."""
        program = self.normal.program
        leaves: dict[tuple[str, int], Tensor] = {}
        for x in self.x:
            leaves["x", -1] = x.detach()
        for c in range(CHILDREN if self.children else 0):
            of_child = parts([state[c].detach() for state in self.children], self.normal)
            leaves |= {(f"child{c}", s): value for s, value in enumerate(of_child)}
        machine = Machine(program, self.sizes, [w.detach() for w in self.weights])
        values = machine.step(leaves)
        pairs = list(
            zip(
                [row(machine, values, slot.next) for slot in program.slots],
                parts(states, self.normal),
                strict=True,
            )
        )
        if y is not None:
            pairs.append((row(machine, values, program.out), y))
        largest = max(float(theirs.detach().abs().max()) for _, theirs in pairs)
        if not largest < WILD:
            return
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9)
        leaves |= {("saved", k): row(machine, values, k) for k in self.adjoint.saved}
        self.gradients_agree(leaves, y, states)

    def gradients_agree(
        self, leaves: dict[tuple[str, int], Tensor], y: Tensor | None, states: tuple[Tensor, ...]
    ) -> None:
        """The gradients of a fixed functional of all results are those of torch."""
        outputs = [*states] if y is None else [*states, y]
        generator = torch.Generator().manual_seed(5)
        pull = [torch.randn(real(o).shape, dtype=torch.float64, generator=generator) for o in outputs]
        loss = sum((torch.sum(real(o) * p) for o, p in zip(outputs, pull, strict=True)), torch.zeros(()))
        inputs = [*self.weights, *(value for state in self.children for value in state), *self.x]
        expected = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        shaped = [
            torch.view_as_complex(p) if o.is_complex() else p for o, p in zip(outputs, pull, strict=True)
        ]
        if y is not None:
            leaves["dy", -1] = shaped.pop()
        leaves |= {("state", s): value for s, value in enumerate(parts(shaped, self.normal))}
        back = Machine(self.adjoint.backward, self.sizes, [w.detach() for w in self.weights])
        made = back.step(leaves)
        sums = {k: back.summed(k, made) for k in range(len(back.program.instrs)) if back.sums_rows(k)}
        self.weights_agree(back.end(sums), expected)
        by_child = {(c.child, c.slot): made[c.value] for c in self.adjoint.children}
        count = len(self.weights)
        for c in range(CHILDREN if self.children else 0):
            theirs = parts(
                [expected[count + s * CHILDREN + c] for s in range(len(self.children))], self.normal
            )
            for s, other in enumerate(theirs):
                close(by_child.get((c, s), torch.zeros_like(other)), other, f"child {c}, slot {s}")
        for x in self.x:
            close(
                torch.zeros_like(x) if self.adjoint.dx is None else made[self.adjoint.dx], expected[-1], "x"
            )

    def weights_agree(self, made: dict[int, Tensor], expected: tuple[Tensor, ...]) -> None:
        """`expected` begins with the gradients of the arrays."""
        program = self.normal.program
        found = [torch.zeros_like(w) for w in self.weights]
        for gradient in self.adjoint.weights:
            whole = found[gradient.array]
            place = whole if gradient.column < 0 else whole[..., gradient.column]
            place += made[gradient.value].reshape(place.shape)
        for k, array in enumerate(program.arrays):
            if not program.weights[array.weight].fixed:
                close(found[k], expected[k], f"{program.weights[array.weight].site}.{array.spec.role}")


def row(machine: Machine, values: dict[int, Tensor], k: int) -> Tensor:
    shape = shape_in(machine.program.instrs[k].type, machine.sizes)
    return values[k].detach().expand(ROWS, *shape)


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, what
    largest = float(theirs.abs().max())
    if largest < WILD:
        scale = max(1.0, largest)
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-9, msg=what)


@pytest.mark.parametrize("name", [name for name in zoo_names() if zoo(name).kind == "tree"])
def test_known_cells(name: str) -> None:
    agrees(zoo(name))


@given(cells(kinds=("tree",), smooth=True))
@settings(max_examples=25)
def test_any_cell(cell: Cell) -> None:
    assume(cell.graph.region is None)  # the reference does not run all of those: see the next test
    agrees(cell)


def test_rounds_within_a_merge() -> None:
    body = "c' = lerp(0.5, l.c, r.c); h' = lerp(tanh(c), l.h, r.h + tanh(lin(h)))"
    text = f"leaf {{ c' = lin:scal(x); h' = lin(x) }}; out lin(h'); depth 3 until(sigmoid(dot(h, r.h))) {{ {body} }}"
    agrees(parse(f"cell a(l, r) {{ state h: vec, c: scal; {text} }}"))


def test_sums_over_children_become_sums() -> None:
    _, merge = normal_tree(zoo("treegru"), 3)
    children = {int(i.attr("child")) for i in merge.program.instrs if i.op == "child"}  # type: ignore[arg-type]
    assert children == {0, 1, 2}
