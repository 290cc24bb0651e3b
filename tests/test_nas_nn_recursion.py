"""Tree cells of the zoo, and `depth` blocks inside time cells, against plain loops: values and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_grammar_zoo_other import TREES, Node, some_tree
from torch import Tensor
from zoo_suite import HIDDEN, Weights, compare

from grammar import parse, zoo, zoo_names
from nas.nn import CellModule, build

INPUTS = 5
Results = dict[str, Tensor]


def test_every_tree_cell_of_the_zoo_is_here() -> None:
    assert sorted(TREES) == [name for name in zoo_names() if zoo(name).kind == "tree"]


@pytest.mark.parametrize("merges", [[4, 0, 2, 5], [1], [3, 3]], ids=str)
@pytest.mark.parametrize("name", TREES)
def test_trees_of_different_shapes(name: str, merges: list[int]) -> None:
    """A batch whose trees differ in shape and size: outputs, states at the root and every gradient."""
    leaf, body, width = TREES[name]
    module = drawn(build(zoo(name), INPUTS, HIDDEN).double())
    rng = np.random.default_rng(len(merges))
    leaves = [1 + rows * (width - 1) for rows in merges]
    x = torch.tensor(rng.normal(size=(len(merges), max(leaves), INPUTS)))
    own = [some_tree(rng, rows, width) for rows in merges]
    tree = torch.zeros(len(merges), max(merges), width, dtype=torch.int64)
    for b, rows in enumerate(own):
        shifted = [[k if k < leaves[b] else k - leaves[b] + max(leaves) for k in row] for row in rows]
        tree[b, : len(rows)] = torch.tensor(shifted, dtype=torch.int64).view(-1, width)

    def ours(x: Tensor) -> Results:
        y, after = module(x, lengths=leaves, tree=tree)
        return named(module, y, after)

    def plain(x: Tensor, w: Weights) -> Results:
        y = [torch.zeros(max(merges), HIDDEN, dtype=torch.float64) for _ in merges]
        roots: list[Node] = []
        for b, rows in enumerate(own):
            nodes = [leaf(w, value) for value in x[b, : leaves[b]]]
            nodes += [{} for _ in rows]
            for row, chosen in enumerate(rows):
                nodes[leaves[b] + row] = body(w, [nodes[k] for k in chosen])
            if rows:
                made = torch.stack([node["h"] for node in nodes[leaves[b] :]])
                y[b] = torch.cat([made, y[b][len(rows) :]])
            roots.append(nodes[-1])
        states = {state: torch.stack([root[state] for root in roots]) for state in roots[0]}
        return {"y": torch.stack(y), **states}

    agree(module, x, ours, plain)


def elman(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    return torch.tanh(x @ w.arrays["h.w0"].T + h @ w.arrays["h.w1"].T + w.arrays["h.b"])


def fixed(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    """Three rounds in one step."""
    for _ in range(3):
        h = elman(w, x, h)
    return h


def rounds(turn: Callable[[Tensor], Tensor], gate: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """Up to four rounds for one row: A. Graves, arXiv 1603.08983, with epsilon 0.01."""
    total, used = torch.zeros_like(h), torch.zeros((), dtype=h.dtype)
    for count in range(4):
        p = torch.sigmoid(gate(h))
        h = turn(h)
        if count == 3 or float((used + p).detach()) >= 0.99:
            break
        total, used = total + p * h, used + p
    return total + (1 - used) * h


def halting(w: Weights, x: Tensor, h: Tensor) -> Tensor:
    """Each sequence has its own number of rounds."""

    def gate(h: Tensor) -> Tensor:
        return h @ w.arrays["until.w0"][0] + w.arrays["until.b"][0]

    rows = zip(x, h, strict=True)
    return torch.stack([rounds(lambda h, x_b=x_b: elman(w, x_b, h), gate, h_b) for x_b, h_b in rows])  # type: ignore[misc]


DEPTH = {
    "fixed": ("depth 3 { h' = tanh(lin(x, h)) }", fixed),
    "halting": ("depth 4 until(sigmoid(lin:scal(h))) { h' = tanh(lin(x, h)) }", halting),
}


@pytest.mark.parametrize("name", DEPTH)
def test_depth_inside_a_time_cell(name: str) -> None:
    block, step = DEPTH[name]
    module = drawn(
        build(parse(f"cell deep {{ state h: vec; {block}; out h' }}"), INPUTS, HIDDEN).double(), 1.0
    )
    x = torch.randn(5, 7, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def ours(x: Tensor) -> Results:
        return named(module, *module(x))

    def plain(x: Tensor, w: Weights) -> Results:
        h, rows = torch.zeros(len(x), HIDDEN, dtype=torch.float64), []
        for x_t in x.unbind(1):
            h = step(w, x_t, h)
            rows.append(h)
        return {"y": torch.stack(rows, 1), "h": h}

    agree(module, x, ours, plain)


INSIDE_TREES = {
    "two": ("cell deep(l, r)", "l.h, r.h", "", ""),
    "any": ("cell deep(*k)", "sum(k.h), sum(square(k.h))", " = 0.5", ""),
    "two halting": ("cell deep(l, r)", "l.h, r.h", " = 0.5", "until(sigmoid(lin:scal(h) + hsum(l.h)))"),
    "any halting": (
        "cell deep(*k)",
        "sum(k.h), sum(square(k.h))",
        "",
        "until(sigmoid(lin:scal(h) + sum(hsum(k.h))))",
    ),
}


@pytest.mark.parametrize("name", INSIDE_TREES)
def test_depth_inside_a_tree_cell(name: str) -> None:
    """What is written plain is that of the round before, and the initial value in the first."""
    head, operands, start, until = INSIDE_TREES[name]
    block = f"depth 4 {until} {{ h' = tanh(lin({operands}, h)) }}"
    cell = parse(f"{head} {{ state h: vec{start}; leaf {{ h' = lin(x) }}; {block}; out 2 * h' }}")
    module = drawn(build(cell, INPUTS, HIDDEN).double())
    width = 2 if name.startswith("two") else 3
    tree = torch.tensor([some_tree(np.random.default_rng(k), 3, width) for k in range(4)])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 1 + 3 * (width - 1), INPUTS, dtype=torch.float64, generator=generator)

    def ours(x: Tensor) -> Results:
        return named(module, *module(x, tree=tree))

    def merge(w: Weights, children: list[Tensor]) -> Tensor:
        every = torch.stack(children)
        two = name.startswith("two")
        seen = children if two else [every.sum(0), every.square().sum(0)]
        offset = children[0].sum() if two else every.sum()

        def turn(h: Tensor) -> Tensor:
            maps = [w.arrays[f"h.w{i}"] @ a for i, a in enumerate([*seen, h])]
            return torch.tanh(torch.stack(maps).sum(0) + w.arrays["h.b"])

        h = torch.full_like(every[0], 0.5 if start else 0.0)
        if until:
            return rounds(turn, lambda h: h @ w.arrays["until.w0"][0] + w.arrays["until.b"][0] + offset, h)
        return turn(turn(turn(turn(h))))

    def plain(x: Tensor, w: Weights) -> Results:
        rows = []
        for leaves, own in zip(x, tree.tolist(), strict=True):
            nodes = [w.arrays["leaf_h.w0"] @ leaf + w.arrays["leaf_h.b"] for leaf in leaves]
            for chosen in own:
                nodes.append(merge(w, [nodes[k] for k in chosen]))
            rows.append(torch.stack(nodes[len(leaves) :]))
        y = torch.stack(rows)
        return {"y": 2 * y, "h": y[:, -1]}

    agree(module, x, ours, plain)


def test_halting_really_differs_between_rows() -> None:
    """The check above would be empty if every row took all rounds, or one."""
    w = Weights({"until.w0": torch.ones(1, 1), "until.b": torch.zeros(1)}, 1)
    w.arrays |= {"h.w0": torch.zeros(1, 1), "h.w1": torch.ones(1, 1), "h.b": torch.zeros(1)}
    quick, slow = halting(w, torch.zeros(2, 1), torch.tensor([[9.0], [-9.0]]))
    assert float(quick) == pytest.approx(np.tanh(9.0))
    assert float(slow) != pytest.approx(np.tanh(-9.0))


def drawn(module: CellModule, spread: float = 0.5) -> CellModule:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(spread * torch.randn(value.shape, dtype=value.dtype, generator=generator))
    return module


def named(module: CellModule, y: Tensor, after: Tensor | tuple[Tensor, ...]) -> Results:
    parts = (after,) if isinstance(after, Tensor) else after
    return {"y": y, **{name: part[0] for name, part in zip(module.state_names, parts, strict=True)}}


def agree(
    module: CellModule,
    x: Tensor,
    ours: Callable[[Tensor], Results],
    plain: Callable[[Tensor, Weights], Results],
) -> None:
    """Both give the same results, and the same gradients for x and every array."""
    arrays: dict[str, Tensor] = {
        name.removeprefix("layers.0."): value for name, value in module.named_parameters()
    }
    copies = {name: value.detach().clone().requires_grad_() for name, value in arrays.items()}
    compare(
        with_gradients(ours, x, arrays), with_gradients(lambda x: plain(x, Weights(copies, 1)), x, copies)
    )


def with_gradients(call: Callable[[Tensor], Results], x: Tensor, arrays: dict[str, Tensor]) -> Results:
    x = x.clone().requires_grad_()
    results = call(x)
    loss = torch.zeros((), dtype=torch.float64)
    for value in results.values():
        weight = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).mul(37).cos().view(value.shape)
        loss = loss + (value * weight).sum()
    wanted = {"x": x} | arrays
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
    assert any(bool(gradient.abs().max() > 1e-3) for gradient in found)
    return {name: value.detach() for name, value in results.items()} | {
        f"gradient of {name}": gradient for name, gradient in zip(wanted, found, strict=True)
    }


def test_cells_over_depth_are_traced_whole() -> None:
    """Positions are computed without a lock, and rounds that nobody needs are not asked for."""
    module, x = build(zoo("mor"), 4, 4), torch.randn(2, 3, 4)
    torch._dynamo.reset()
    traced = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(x), module(x))
