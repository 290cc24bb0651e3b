"""Tree cells: against the NumPy interpreter on given trees, and the fixed policies against given trees."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from strategies import HEADS, HIDDEN, cells, input_size, key_size
from torch import Tensor

from grammar import Cell, evaluate, parse, zoo, zoo_names
from nas.errors import BuildError
from nas.nn import TreeModule, build

TREES = [name for name in zoo_names() if zoo(name).kind == "tree"]
BATCH, LEAVES, TOLERANCE, WILD = 3, 5, 1e-9, 1e6
LABELLED = parse(
    "cell labelled(l, r) { state h: vec; leaf { h' = tanh(lin(x)) }; h' = tanh(lin(l.h, r.h, x)); out h' }"
)
TERNARY = parse(
    "cell ternary(a, b, c) { state h: vec; leaf { h' = lin(x) }; h' = tanh(lin(a.h, b.h) + c.h); out lin(h') }"
)
# Blocks that carry, or are halted by, what is the same for all nodes.
HALTED = tuple(
    parse(f"cell halted{head} {{ state h: vec, c: vec = 0.5; leaf {{ h' = tanh(lin(x)); c' = x }}; {body} }}")
    for head, body in (
        (
            "(*k)",
            "depth 3 until(sigmoid(param:scal())) { h' = tanh(lin(h)) + sum(k.h * k.c); c' = 0.5 * c }; out h' * c'",
        ),
        (
            "(l, r)",
            "c' = l.c; depth 2 until(sigmoid(hsum(r.h))) { h' = param(init=normal(1)) }; out h' + lin(c')",
        ),
    )
)


def built(cell: Cell, policy: str | None = None) -> TreeModule:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the output of cell")
        module = build(
            cell, input_size(cell), HIDDEN, heads=HEADS, key_size=key_size(cell), policy=policy
        ).double()
    assert isinstance(module, TreeModule)
    return module


def drawn_tree(leaves: int, children: int, rng: np.random.Generator) -> list[list[int]]:
    """A random tree, in the order of its merges."""
    nodes, rows = list(range(leaves)), list[list[int]]()
    while len(nodes) > 1:
        chosen = [int(k) for k in rng.choice(nodes, children, replace=False)]
        nodes = [k for k in nodes if k not in chosen] + [leaves + len(rows)]
        rows.append(chosen)
    return rows


def states(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def agrees(cell: Cell) -> None:
    rng = np.random.default_rng(0)
    module = built(cell)
    children = 2 if cell.graph.variadic else len(cell.graph.children)
    trees = np.array([drawn_tree(LEAVES, children, rng) for _ in range(BATCH)])
    labels = trees.shape[1] if cell is LABELLED else 0
    x: NDArray[np.float64] = rng.standard_normal((BATCH, LEAVES + labels, module.input_size))
    arrays = {name.removeprefix("layers.0."): value.numpy() for name, value in module.state_dict().items()}
    expected = evaluate(cell, x, arrays, hidden_size=HIDDEN, heads=HEADS, key_size=key_size(cell), tree=trees)
    with torch.no_grad():
        y, after = module(torch.tensor(x), tree=torch.tensor(trees))
    for ours, theirs in zip((y, *(p[0] for p in states(after))), (expected.y, *expected.state), strict=True):
        assert ours.shape == theirs.shape
        if not np.isfinite(theirs).all() or np.abs(theirs).max() > WILD:
            return
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("cell", [*map(zoo, TREES), LABELLED, TERNARY, *HALTED], ids=lambda cell: cell.name)
def test_known_tree_cells_agree_with_the_interpreter(cell: Cell) -> None:
    agrees(cell)


@settings(max_examples=40)
@given(cells(kinds=("tree",), smooth=True))
def test_any_tree_cell_agrees_with_the_interpreter(cell: Cell) -> None:
    agrees(cell)


@pytest.mark.parametrize(
    ("policy", "trees"),
    [
        ("balanced", [[[0, 1], [2, 3], [5, 6], [7, 4]], [], [[0, 1], [5, 2]]]),
        ("left", [[[0, 1], [5, 2], [6, 3], [7, 4]], [], [[0, 1], [5, 2]]]),
    ],
)
@pytest.mark.parametrize("name", ["treelstm", "treelstm_childsum"])
def test_fixed_policies_and_lengths(name: str, policy: str, trees: list[list[list[int]]]) -> None:
    module, by_tree = built(zoo(name), policy), built(zoo(name))
    by_tree.load_state_dict(module.state_dict())
    lengths = [5, 1, 3]
    x = torch.randn(BATCH, LEAVES, module.input_size, dtype=torch.float64)
    y, after = module(x, lengths=lengths)
    padded = torch.tensor([rows + [[0, 0]] * (LEAVES - 1 - len(rows)) for rows in trees])
    torch.testing.assert_close(by_tree(x, lengths=lengths, tree=padded), (y, after))
    for k, (rows, n) in enumerate(zip(trees, lengths, strict=True)):
        own = torch.tensor(rows, dtype=torch.int64).view(1, -1, 2)
        one, end = by_tree(x[k : k + 1, :n], tree=torch.where(own < LEAVES, own, own - LEAVES + n))
        torch.testing.assert_close(y[k, : n - 1], one[0])
        assert bool((y[k, n - 1 :] == 0).all())
        for whole, part in zip(states(after), states(end), strict=True):
            torch.testing.assert_close(whole[:, k], part[:, 0])


def test_order_of_children_does_not_matter_to_a_sum() -> None:
    module = built(zoo("treelstm_childsum"))
    x = torch.randn(1, 3, module.input_size, dtype=torch.float64)
    one, other = (module(x, tree=torch.tensor([pairs]))[0] for pairs in ([[0, 1], [3, 2]], [[1, 0], [2, 3]]))
    torch.testing.assert_close(one, other)


def test_gradients_are_those_of_differences() -> None:
    module = build(zoo("treelstm"), 3, 3, policy="balanced").double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        y, after = module(x, lengths=[4, 3])
        return (y, *states(after))

    assert torch.autograd.gradcheck(run, (x, *module.parameters()), fast_mode=True)


def test_leaves_can_come_first() -> None:
    module = built(zoo("treelstm"), "left")
    x = torch.randn(BATCH, LEAVES, module.input_size, dtype=torch.float64)
    expected, after = module(x)
    module.batch_first = False
    y, end = module(x.transpose(0, 1))
    torch.testing.assert_close((y.transpose(0, 1), end), (expected, after))


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        (
            zoo("treelstm"),
            {"policy": "best"},
            "policies of a tree cell are given, balanced, left, easy-first, beam; received 'best'",
        ),
        (zoo("treelstm"), {"num_layers": 2}, "tree cell treelstm has one layer, .* received num_layers=2"),
        (zoo("lstm"), {"policy": "left"}, "a policy is for tree cells; received 'left'"),
        (LABELLED, {"policy": "left"}, "cell labelled sees x in its merges: only policy 'given'"),
        (TERNARY, {"policy": "balanced"}, "merges two nodes; cell ternary takes 3"),
    ],
)
def test_what_cannot_be_built_is_refused(cell: Cell, options: dict[str, object], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build(cell, 3, 4, **options)  # type: ignore[arg-type]


X = torch.zeros(1, 3, 3)
CHAIN = torch.tensor([[[0, 1], [3, 2]]])


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (X[0], {"tree": CHAIN}, r"x must have the shape \[B, n, 3\]; received \[3, 3\]"),
        (
            X,
            {"tree": CHAIN, "state": torch.zeros(1, 1, 4)},
            "begins at its leaves: cell treelstm takes no state",
        ),
        (X, {}, r"policy 'given' needs a tree \[1, m, children\] of int64; received None"),
        (X, {"tree": CHAIN.float()}, r"received torch.float32 \[1, 2, 2\]"),
        (X, {"tree": CHAIN.tolist()}, r"needs a tree .* received \[\[\[0, 1\]"),
        (X, {"tree": CHAIN[..., :0]}, r"received torch.int64 \[1, 2, 0\]"),
        (X, {"tree": CHAIN[..., :1]}, r"each merge has 2 children; received a tree of shape \[1, 2, 1\]"),
        (X, {"tree": CHAIN[:, :1]}, r"received 1 merges and \[3\] leaves"),
        (X, {"tree": torch.tensor([[[0, 1], [4, 2]]])}, "names leaves, from 0, and earlier merges"),
        (X, {"tree": torch.tensor([[[0, -1], [3, 2]]])}, "names leaves, from 0, and earlier merges"),
        (
            X,
            {"tree": torch.tensor([[[0, 1], [0, 1]]])},
            "each leaf and each earlier merge once; received one",
        ),
        (
            X,
            {"tree": torch.tensor([[[0, 1], [2, 2]]])},
            "each leaf and each earlier merge once; received one",
        ),
        (X, {"tree": CHAIN, "lengths": [4]}, r"lengths are 1 whole numbers from 1 to 3"),
    ],
)
def test_wrong_calls_are_refused(x: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build(zoo("treelstm"), 3, 4)(x, **options)


def test_trees_are_for_the_policy_given() -> None:
    with pytest.raises(BuildError, match="a tree is for policy 'given'; the policy of this module is 'left'"):
        build(zoo("treelstm"), 3, 4, policy="left")(X, tree=CHAIN)
