"""Tree cells on given trees, against a recursion written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from strategies import example

from grammar import CellBuildError, evaluate, init_weights, parse, zoo

Array = NDArray[Any]
TREE = [[0, 1], [2, 3], [5, 4]]  # ((0 1) (2 3)) from the right


def sigmoid(a: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-a)))


def test_a_binary_tree_lstm() -> None:
    x, w, sizes = example(zoo("treelstm"), np.random.default_rng(0))
    tree = np.array([TREE, [[3, 0], [1, 2], [4, 5]]])
    found = evaluate(zoo("treelstm"), x, w, **sizes | {"tree": tree})
    for sample in range(2):
        nodes = []
        for leaf in x[sample]:
            c = leaf @ w["leaf_c.w0"].T + w["leaf_c.b"]
            nodes.append((np.tanh(c), c))
        for row, (left, right) in enumerate(tree[sample]):
            (hl, cl), (hr, cr) = nodes[left], nodes[right]
            g = {
                s: hl @ w[f"{s}.w0"].T + hr @ w[f"{s}.w1"].T + w[f"{s}.b"]
                for s in ("i", "fl", "fr", "o", "c")
            }
            c = sigmoid(g["fl"] + 1) * cl + sigmoid(g["fr"] + 1) * cr + sigmoid(g["i"]) * np.tanh(g["c"])
            h = sigmoid(g["o"]) * np.tanh(c)
            nodes.append((h, c))
            np.testing.assert_allclose(found.y[sample, row], h, atol=1e-12)
        for state, wanted in zip(found.state, nodes[-1], strict=True):
            np.testing.assert_allclose(state[sample], wanted, atol=1e-12)


def test_the_order_of_children_matters_where_the_text_says() -> None:
    turned = np.array([[[1, 0], [3, 2], [4, 5]]] * 2)
    for name, same in (("treelstm", False), ("treelstm_childsum", True)):
        x, w, sizes = example(zoo(name), np.random.default_rng(0))
        one = evaluate(zoo(name), x, w, **sizes | {"tree": np.array([TREE] * 2)})
        other = evaluate(zoo(name), x, w, **sizes | {"tree": turned})
        assert np.allclose(one.y, other.y) == same


def test_any_number_of_children() -> None:
    cell = parse("cell a(*k) { state h: vec; leaf { h' = x }; h' = sum(k.h * k.h + 1) - 2; out h' }")
    found = evaluate(
        cell, np.full((1, 5, 4), 2.0), {}, hidden_size=4, tree=np.array([[[0, 1, 2], [3, 4, 5]]])
    )
    np.testing.assert_array_equal(found.y[0, 0], 13)
    np.testing.assert_array_equal(found.y[0, 1], 4 + 4 + 169 + 3 - 2)


def test_inner_nodes_may_see_x() -> None:
    cell = parse("cell a(l, r) { state h: vec; leaf { h' = x }; h' = l.h + r.h + x; out h' }")
    x = 10.0 ** np.arange(5)[None, :, None] * np.ones(2)
    found = evaluate(cell, x, {}, hidden_size=2, tree=np.array([[[0, 2], [3, 1]]]))
    np.testing.assert_array_equal(found.y[0, :, 0], [1101, 11111])


def test_a_leaf_alone() -> None:
    cell = zoo("treelstm")
    w = init_weights(cell, np.random.default_rng(0), input_size=3, hidden_size=4)
    found = evaluate(cell, np.ones((2, 1, 3)), w, hidden_size=4, tree=np.zeros((2, 0, 2), int))
    assert found.y.shape == (2, 0, 4)
    np.testing.assert_allclose(found.state[1], np.ones((2, 3)) @ w["leaf_c.w0"].T + w["leaf_c.b"])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (np.zeros((2, 3, 2)), r"tree is \[B, m, 2\] of whole numbers; received float64"),
        (np.array([TREE]), r"tree is \[B, m, 2\] of whole numbers; received int64 \(1, 3, 2\)"),
        (np.array([[[0, 1, 2], [3, 0, 1]]] * 2), r"this cell has 2 children; tree is \(2, 2, 3\)"),
        (np.array([[[0, 1], [2, 3]]] * 2), "a tree of 2 rows has 3 leaves; received 4"),
        (np.array([[[0, 1], [2, 6], [4, 5]]] * 2), "names leaves and earlier rows only"),
        (np.array([[[0, -1], [2, 3], [4, 5]]] * 2), "names leaves and earlier rows only"),
        (None, "a tree, and only for a tree cell; treelstm is a tree cell"),
    ],
)
def test_trees_that_do_not_fit_are_refused(tree: Array | None, message: str) -> None:
    x, w, sizes = example(zoo("treelstm"), np.random.default_rng(0))
    with pytest.raises(CellBuildError, match=message):
        evaluate(zoo("treelstm"), x, w, **sizes | {"tree": tree})
