"""Trees as arrays: fitted by scikit-learn, kept and read without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.errors import PredictorFileError

Arrays = Mapping[str, NDArray[Any]]
_LEAF = -1
_MOST_DEPTH = 10_000


@dataclass(frozen=True)
class Forest:
    """Binary trees side by side in flat arrays [nodes]; `roots` [trees] says where each begins.

    A row goes left where its `feature` is at most `threshold`. `left` and `right` are nodes further on, -1 at a
    leaf, so that every walk ends. Features and thresholds are compared in float32, as scikit-learn does.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]

    def each(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each tree says of each row of `x` [n, F]: float64 [n, trees]."""
        given = x.astype(np.float32)
        rows = np.arange(len(x))[:, None]
        at = np.broadcast_to(self.roots, (len(x), len(self.roots))).copy()
        while True:
            inner = self.left[at] != _LEAF
            if not inner.any():
                return self.value[at].astype(np.float64)
            goes_left = given[rows, np.where(inner, self.feature[at], 0)] <= self.threshold[at]
            at = np.where(inner, np.where(goes_left, self.left[at], self.right[at]), at)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as `from_arrays` takes them."""
        return {name: getattr(self, name) for name in _KINDS}


_KINDS: Mapping[str, type[np.generic]] = {
    "roots": np.int32,
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.int32,
    "right": np.int32,
    "value": np.float32,
}


def grow(trees: Sequence[Any], column: int = 0, of: NDArray[np.int64] | None = None) -> Forest:
    """The forest of fitted trees of scikit-learn (their `tree_`), each with one output; `column` of its classes.

    `of` says which feature each column was that the trees were fitted to, where they are not the same.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _KINDS}
    total = 0
    for tree in trees:
        left, right = tree.children_left, tree.children_right
        parts["roots"].append(np.array([total]))
        feature = np.maximum(tree.feature, 0)
        parts["feature"].append(feature if of is None else of[feature])
        parts["threshold"].append(_rounded_down(tree.threshold))
        parts["left"].append(np.where(left == _LEAF, _LEAF, left + total))
        parts["right"].append(np.where(right == _LEAF, _LEAF, right + total))
        parts["value"].append(tree.value[:, 0, column])
        total += tree.node_count
    return Forest(**{name: np.concatenate(parts[name]).astype(kind) for name, kind in _KINDS.items()})


def _rounded_down(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 at most each threshold: for features in float32 the comparison stays the same."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float32)


def from_arrays(arrays: Arrays, features: int) -> Forest:
    """The forest that `arrays` hold. Raises PredictorFileError where they are not one over `features` features."""
    for name, kind in _KINDS.items():
        array = arrays.get(name)
        if array is None or array.dtype != kind or array.ndim != 1:
            found = "none" if array is None else f"{array.dtype} {array.shape}"
            raise PredictorFileError(
                f"a forest has a flat array {name!r} of {np.dtype(kind)}; received {found}"
            )
    forest = Forest(**{name: arrays[name] for name in _KINDS})
    nodes = len(forest.feature)
    if any(len(arrays[name]) != nodes for name in _KINDS if name != "roots") or not len(forest.roots):
        raise PredictorFileError("the arrays of a forest have one entry for each node, and there is a root")
    here = np.arange(nodes)
    ends = forest.left == _LEAF
    fine = (forest.left > here) & (forest.right > here) & (forest.left < nodes) & (forest.right < nodes)
    if not (np.all(ends | fine) and np.all((forest.roots >= 0) & (forest.roots < nodes))):
        raise PredictorFileError(
            "a branch of a tree leads to a node further on; this file has one that does not"
        )
    _check_depth(forest)
    if not np.all((forest.feature >= 0) & (forest.feature < features)):
        raise PredictorFileError(f"trees ask for features 0 to {features - 1}; this file has others")
    if not (np.isfinite(forest.value).all() and np.isfinite(forest.threshold).all()):
        raise PredictorFileError("the numbers of a forest are finite; this file has others")
    return forest


def _check_depth(forest: Forest) -> None:
    """Raise PredictorFileError for trees in which a walk, or this, would take a step for each of millions of nodes."""
    at, seen = forest.roots, len(forest.roots)
    for _ in range(_MOST_DEPTH):
        at = at[forest.left[at] != _LEAF]
        if not len(at):
            return
        at = np.concatenate([forest.left[at], forest.right[at]])
        seen += len(at)
        if seen > len(forest.left):
            raise PredictorFileError(
                "one branch leads to a node, or it is a root; this file has nodes of several"
            )
    raise PredictorFileError(f"a tree is at most {_MOST_DEPTH} deep; this file has one that is deeper")
