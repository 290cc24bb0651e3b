"""A second key beside the digest: what a cell computes, on fixed inputs and weights matched by what they do.

The digest equates cells by rules of rewriting; the fingerprint runs a tiny instance instead, so it sees
through reassociated sums, products multiplied out, `1 - sigmoid(u)` for `sigmoid(-u)`, and whatever else
is the same function of the same weights. The question is only which weight of one cell is which of
the other, when nothing of their texts may be compared. So a weight array is known by its shape, by how
it is drawn, and by what happens to the output when it alone is changed: colour refinement, where the
neighbourhood of an array is its effect. Of arrays whose effects stay equal (as of the two in
`lin(x) * lin(x)`) one is singled out, and refinement goes on.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from grammar.cell import Cell, make_cell
from grammar.errors import CellBuildError
from grammar.evaluate import evaluate
from grammar.graph import Graph, Weight
from grammar.machine import memory_length
from grammar.ops import WeightSpec
from grammar.renderings import Array
from grammar.sizes import Sizes
from grammar.syntax import Depth, Expr, Leaf, Let, Out, Repeat, Statement, num
from grammar.weights import initial_name

FINGERPRINT_VERSION = 3  # raised when the fingerprint of any cell changes

_STEPS = 6
_NODES = 4  # inner nodes of the tree that tree cells run over
_DECIMALS = 1e6  # results are compared to 1e-6: rounding errors are some 1e-14
_LARGE = ((60.0, 1.0), (4.0, 20.0))  # inputs and matrices times these: what is bounded only far out shows
_LARGE_STEPS = 3  # more would let states grow out of reach
_LARGE_DECIMALS = 1e5  # rounding errors grow with the values
_FAINT = 1e-3  # an output smaller than this tells cells apart too badly
_MOST_RUNS = 1_000  # of the instance with one set of weights; known cells take up to 200
_MOST_NUMBERS = 30_000_000  # of all arrays that are run together; blocks of 4093 and 4091 would need 10^15
_STOP = 0.8123  # stands for stopgrad, which has a value but no gradient: a cell with it is another cell


def fingerprint(cell: Cell) -> str:
    """64 hex digits that cells computing the same function share, in most cases. Cost: some milliseconds.

    Equal digests give equal fingerprints. Beyond that, cells are equated that give the same outputs for
    the same weights: other grouping of sums and products, common factors, other forms of a
    function of one argument, `lin(x, h)` and `lin(x) + lin(h, bias=no)` (they differ in the scale of the
    default initialisation), other units of a state. Not equated: what needs other values of weights (`sigmoid(-lin(x))`
    and `sigmoid(lin(x))`, two biases added), other `init`, `fixed` or initial states, other numbers of states
    or buffers beyond what 6 steps show, and what differs in `stopgrad`. Besides small values the instance is run with
    inputs and matrices so large that what goes into a function reaches about +-20, so that `min(u, 3)` is not `u`;
    outputs that are not finite there are left out. Cells whose outputs on small values are
    not finite, or nearly 0, and those so large or with so many arrays of like effect that it takes long, share a
    fingerprint only with cells of the same digest. Different functions could
    share one where they differ by less than 1e-6 in all of the few steps (1e-5 far out), as
    `lerp(0.999999999, a, b)` and `b` do; none of the zoo does.
    """
    canonical = cell.canonical()
    found = _KNOWN.get(canonical)
    if found is None:
        try:
            text = _Probe(_marked(canonical)).text()
        except CellBuildError:  # no sizes of ours fit the cell, or it cannot be run, or is too large
            text = ""
        found = hashlib.sha256(f"{FINGERPRINT_VERSION}:{text or cell.digest}".encode()).hexdigest()
        _KNOWN[canonical] = found
    return found


_KNOWN: WeakKeyDictionary[Cell, str] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class _Array:
    """An array of the tiny instance. `kind` is what is known of it at once; a `constant` one is not matched."""

    name: str
    shape: tuple[int, ...]
    complex: bool
    kind: str
    constant: float | None = None


class _Probe:
    """A tiny instance of a cell, and the search for which of its arrays is which."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        graph = cell.graph
        self.sizes = _sizes(graph)
        arrays = _arrays(graph, self.sizes)
        self.numbers = sum(math.prod(a.shape) for a in arrays)
        if self.numbers > _MOST_NUMBERS:
            raise CellBuildError(f"{cell.name} has more than {_MOST_NUMBERS:,} numbers at {self.sizes}")
        self.fixed = {a.name: np.full(a.shape, a.constant) for a in arrays if a.constant is not None}
        self.arrays = [a for a in arrays if a.constant is None]
        self.tree = _tree(graph)
        buffers = sum(memory_length(graph, i) for i in graph.reachable(graph.roots()))
        steps = (
            max(_STEPS, 3 + len(graph.live()[1]) + buffers)
            if self.tree is None
            else _positions(graph, self.tree)
        )
        self.x = _noise(_seed("x"), (1, steps, self.sizes.input_size), False)
        self.colours = [_seed(a.kind) for a in self.arrays]

    def text(self) -> str:
        """The rounded outputs once each array has its values; empty where they say nothing."""
        runs = 0
        while True:
            counts = Counter(self.colours)
            tied = [i for i, c in enumerate(self.colours) if counts[c] > 1]
            if (1 + len(tied)) * self.numbers > _MOST_NUMBERS:
                return ""
            y = self._run(tied)
            runs += len(y)
            if runs > _MOST_RUNS or not np.isfinite(y[0]).all() or np.abs(y[0]).max() < _FAINT:
                return ""
            if not tied:
                return ":".join([self.cell.kind, *_rounded(y, 8), *(self._far(*by) for by in _LARGE)])
            effects = _rounded(y, 4)
            finer = {i: _seed(f"{self.colours[i]}:{e}") for i, e in zip(tied, effects[1:], strict=True)}
            if len({*finer.values()}) == len({self.colours[i] for i in tied}):
                first = min(tied, key=lambda i: (self.colours[i], i))
                finer = {first: _seed(f"{self.colours[first]}:first")}
            for i, colour in finer.items():
                self.colours[i] = colour

    def _far(self, inputs: float, matrices: float) -> str:
        """The rounded outputs of a few steps on values that are so many times larger; empty if some are not finite."""
        with np.errstate(all="ignore"):
            y = self._outputs(
                self._weights(matrices), inputs, None if self.tree is not None else _LARGE_STEPS
            )
        return _rounded(y[None], 8, _LARGE_DECIMALS)[0] if np.isfinite(y).all() else ""

    def _weights(self, matrices: float = 1.0) -> dict[str, Array]:
        weights: dict[str, Array] = dict(self.fixed)
        for i, array in enumerate(self.arrays):
            scale = matrices if len(array.shape) > 1 else 1.0
            weights[array.name] = scale * _noise(self.colours[i], array.shape, array.complex)
        return weights

    def _run(self, changed: Sequence[int]) -> Array:
        """y [1 + changed, ...] with all arrays as coloured, then with each of `changed` in turn altered."""
        weights = self._weights()
        for turn, i in enumerate(changed):
            array = self.arrays[i]
            sets = np.repeat(weights[array.name][None], 1 + len(changed), axis=0)
            sets[1 + turn] = _noise(_seed(f"{self.colours[i]}:other"), array.shape, array.complex)
            weights[array.name] = sets
        return self._outputs(weights).reshape((1 + len(changed), -1))

    def _outputs(self, weights: dict[str, Array], scale: float = 1.0, steps: int | None = None) -> Array:
        sizes = self.sizes
        return evaluate(
            self.cell, scale * self.x[:, :steps], weights, hidden_size=sizes.hidden_size, heads=sizes.heads,
            key_size=sizes.key_size, tree=self.tree,
        ).y.reshape(-1)  # fmt: skip


# ---- numbers ----------------------------------------------------------------------------------


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _noise(seed: int, shape: tuple[int, ...], is_complex: bool) -> Array:
    """Numbers in [-s, s), s = 1.5/sqrt(last extent): SplitMix64 (Steele et al., 2014), the same everywhere."""
    count = math.prod(shape) * (2 if is_complex else 1)
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    unit = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    unit = unit * (1.5 / math.sqrt(shape[-1]) if len(shape) > 1 else 1.0)
    half = math.prod(shape)
    return (unit[:half] + 1j * unit[half:] if is_complex else unit).reshape(shape)


def _rounded(y: Array, count: int, decimals: float = _DECIMALS) -> list[str]:
    """`count` projections of each row of y, rounded; large values are compared by their logarithm."""
    compressed = np.nan_to_num(np.arcsinh(y), nan=900.0, posinf=800.0, neginf=-800.0)
    onto = _noise(_seed("projection"), (compressed.shape[-1], count), False)
    values = np.rint(compressed @ onto * decimals).astype(np.int64)
    return [",".join(map(str, row)) for row in values]


# ---- the tiny instance ------------------------------------------------------------------------


def _sizes(graph: Graph) -> Sizes:
    """Sizes that the cell can take, D = H and K = 2 V, or V where it must be. Raises CellBuildError where none fit."""
    counts = {int(b) for n in graph.nodes for b in (n.attr("blocks", 1),) if b != "heads"}  # type: ignore[arg-type]
    blocks = math.lcm(*counts)
    value = 4 if 8 % blocks == 0 else blocks
    small = Sizes.of(2 * value, 2 * value, 2, value if graph.k_is_v else 2 * value)
    try:
        small.check(graph)
    except CellBuildError:
        small = Sizes.of(4 * blocks, 4 * blocks, blocks, 4 if graph.k_is_v else 8)
        small.check(graph)
    return small


def _arrays(graph: Graph, sizes: Sizes) -> list[_Array]:
    made: list[_Array] = []
    for weight in graph.weights:
        for spec in weight.specs:
            shape = tuple(sizes.at(extent) for extent in spec.shape)
            init = _init(weight, spec)
            known = init if weight.fixed and isinstance(init, float) else None
            role = spec.role if weight.op in ("attn", "mlp") else ""
            kind = f"{tuple(map(str, spec.shape))} {spec.complex} {weight.fixed} {role} {init}"
            made.append(_Array(f"{weight.site}.{spec.role}", shape, spec.complex, kind, known))
    for state in graph.states:
        if state.init == "learned":
            kind = f"initial {state.type}"
            name = initial_name(graph, state)
            made.append(_Array(name, sizes.shape(state.type), state.type.is_complex, kind))
    return made


def _init(weight: Weight, spec: WeightSpec) -> float | str:
    """How an array is drawn: a number where all entries are that number. See `grammar.weights.init_weights`."""
    init = weight.init
    if init is not None and spec.role.startswith("b"):
        return 0.0
    if isinstance(init, int | float):
        return float(init)
    if init in ("zeros", "ones"):
        return float(init == "ones")
    if init is None:
        drawn: dict[str, float | str] = {"param": 0.0, "diag": str(("uniform", -1.0, 1.0))}
        return drawn.get(weight.op, "by fan-in")
    return str((init[0], *map(float, init[1:]))) if isinstance(init, tuple) else str(init)


def _tree(graph: Graph) -> Array | None:
    """[1, m, children]: each inner node takes the one before it, at another place each time, and new leaves."""
    if graph.leaf is None:
        return None
    width = 3 if graph.variadic else len(graph.children)
    leaves = 1 + _NODES * (width - 1)
    fresh = iter(range(leaves))
    rows = [[next(fresh) for _ in range(width)]]
    for i in range(1, _NODES):
        rows.append([leaves + i - 1 if place == i % width else next(fresh) for place in range(width)])
    return np.array([rows])


def _positions(graph: Graph, tree: Array) -> int:
    """How many vectors a tree cell takes: one for each leaf, and for each inner node if the body sees x."""
    _, rows, width = tree.shape
    sees_x = any(graph.nodes[i].op == "x" for i in graph.reachable([*graph.next, graph.out]))
    return int(1 + rows * (width - 1) + (rows if sees_x else 0))


# ---- stopgrad ---------------------------------------------------------------------------------


def _marked(cell: Cell) -> Cell:
    """The cell with a function in the place of each stopgrad, so that its place can be seen in values."""
    marked = [node for node in cell.graph.nodes if node.op == "stopgrad"]
    if not marked:
        return cell
    bent = not any(node.type.is_complex for node in marked)
    statements = [_in_statement(s, bent) for s in cell.statements]
    return make_cell(cell.name, cell.states, statements, cell.tree.children, cell.tree.variadic)


def _in_statement(statement: Statement, bent: bool) -> Statement:
    if isinstance(statement, Let):
        return Let(statement.name, _in_expr(statement.expr, bent))
    if isinstance(statement, Out):
        return Out(_in_expr(statement.expr, bent))
    body = tuple(_in_statement(s, bent) for s in statement.body)
    if isinstance(statement, Leaf):
        return Leaf(body)
    if isinstance(statement, Repeat):
        return Repeat(statement.times, statement.fresh, body)
    until = None if statement.until is None else _in_expr(statement.until, bent)
    return Depth(statement.times, until, body)


def _in_expr(expr: Expr, bent: bool) -> Expr:
    """`bent`: neither sums nor products nor means go through the mark (complex values have none such)."""
    args = tuple(_in_expr(a, bent) for a in expr.args)
    if expr.op != "stopgrad":
        return Expr(expr.op, args, expr.attrs)
    moved = Expr("add", (Expr("mul", (num(_STOP), *args)), num(1 - _STOP)))
    return Expr("leaky_relu", (moved,)) if bent else moved
