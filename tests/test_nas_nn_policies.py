"""The learned policies of tree cells, beam and easy-first, against plain forms that follow one sequence at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grammar import Cell, parse, zoo
from nas.nn import TreeModule, build

LEARNED = ("easy-first", "beam")
CELLS = ("treelstm", "treelstm_childsum", "grc")
INPUTS, HIDDEN = 3, 4
MATRIX = parse(
    "cell matrix(l, r) { state S: mat; leaf { S' = outer(lin:key(x), lin:val(x)) };"
    " S' = l.S + 0.5 * r.S; out lin(read(l.S, param:key()), read(r.S, param:key())) }"
)
Node = list[Tensor]  # the states of a node
Walk = tuple[Tensor, list[Tensor], Node]  # log-probability, outputs, root


def built(cell: Cell | str, policy: str, seed: int = 0) -> TreeModule:
    module = (
        build(zoo(cell) if isinstance(cell, str) else cell, INPUTS, HIDDEN, policy=policy).double().eval()
    )
    assert isinstance(module, TreeModule)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, dtype=value.dtype, generator=generator))
    return module


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def states(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


class Merging:
    """Single leaves and merges of a module with given trees, whose parameters are those of `module`."""

    def __init__(self, module: TreeModule) -> None:
        self.given = build(module.cell, INPUTS, HIDDEN).double()
        self.parameters: dict[str, Tensor] = {
            n: p for n, p in module.named_parameters() if not n.startswith("scorer")
        }

    def tree(self, x: Tensor, rows: list[list[int]]) -> tuple[Tensor, Node]:
        """Output of the last merge and states at the root, for x `[n, D]`."""
        tree = torch.tensor(rows, dtype=torch.int64).view(1, -1, 2)
        y, after = torch.func.functional_call(self.given, self.parameters, (x[None],), {"tree": tree})
        return (y[0, -1] if rows else x.new_zeros(HIDDEN)), [part[0, 0] for part in states(after)]


Written = tuple[int, ...] | tuple["Written", "Written"]  # a leaf (k,), or two subtrees


class Grown:
    """Nodes by how they are written, each computed from its leaves alone."""

    def __init__(self, module: TreeModule, x: Tensor) -> None:
        self.merging, self.x = Merging(module), x
        self.made: dict[Written, tuple[Tensor, Node]] = {}

    def __call__(self, node: Written) -> tuple[Tensor, Node]:
        if node not in self.made:
            self.made[node] = self._make(node)
        return self.made[node]

    def _make(self, node: Written) -> tuple[Tensor, Node]:
        leaves: list[int] = []
        rows: list[list[Written]] = []

        def visit(part: Written) -> None:
            if len(part) == 1:
                leaves.append(part[0])
                return
            for child in part:
                visit(child)  # type: ignore[arg-type]
            rows.append(list(part))  # type: ignore[arg-type]

        visit(node)
        names: dict[str, int] = {str((leaf,)): k for k, leaf in enumerate(leaves)}
        numbered = []
        for row in rows:
            numbered.append([names[str(part)] for part in row])
            names[str(tuple(row))] = len(leaves) + len(numbered) - 1
        return self.merging.tree(self.x[leaves], numbered)


def plain_scores(module: TreeModule, grown: Grown, items: list[Written]) -> Tensor:
    """w . gelu(L a + R b + c) of each two neighbours."""
    sides, score = module.scorer.sides, module.scorer.score
    rows = [torch.cat([s.flatten() for s in grown(item)[1]]) for item in items]
    left, right = sides.weight.chunk(2)  # type: ignore[union-attr,operator]
    first, second = sides.bias.chunk(2)  # type: ignore[union-attr,operator]
    pairs = [F.gelu(left @ a + first + right @ b + second) for a, b in pairwise(rows)]
    return torch.stack([pair @ score.weight[0] for pair in pairs])  # type: ignore[union-attr,index]


def plain_beam(module: TreeModule, x: Tensor, k: int) -> Walk:
    """Beam search as it is told: every beam a list of what is left."""
    grown = Grown(module, x)
    beams: list[tuple[Tensor, list[Tensor], list[Written]]] = [
        (x.new_zeros(()), [], [(leaf,) for leaf in range(len(x))])
    ]
    for _ in range(len(x) - 1):
        following = []
        for total, outputs, items in beams:
            logs = plain_scores(module, grown, items).log_softmax(0)
            for place, log in enumerate(logs):
                node: Written = (items[place], items[place + 1])
                rest = [*items[:place], node, *items[place + 2 :]]
                following.append((total + log, [*outputs, grown(node)[0]], rest))
        beams = sorted(following, key=lambda beam: -float(beam[0].detach()))[:k]
    share = torch.stack([total for total, _, _ in beams]).softmax(0)
    ends = [grown(items[0])[1] for _, _, items in beams]
    root = [sum(w * end[s] for w, end in zip(share, ends, strict=True)) for s in range(len(ends[0]))]
    steps = range(len(x) - 1)
    mean = [sum(w * beam[1][step] for w, beam in zip(share, beams, strict=True)) for step in steps]
    return share, mean, root


@pytest.mark.parametrize("name", [*CELLS, "matrix"])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_beam_is_the_search_that_it_says(name: str, k: int) -> None:
    """With 40 beams every order of merges of 5 leaves is one, and the result the exact mean over all orders."""
    module = built(MATRIX if name == "matrix" else name, "beam")
    module.beam_size = k
    x = drawn(2, 5 if k > 3 else 6, INPUTS).requires_grad_()
    lengths = [x.shape[1], 3]

    def plain() -> tuple[Tensor, ...]:
        y = torch.zeros(2, x.shape[1] - 1, HIDDEN, dtype=torch.float64)
        roots = []
        for b, n in enumerate(lengths):
            _, outputs, root = plain_beam(module, x[b, :n], k)
            y = y.index_put((torch.tensor(b), torch.arange(n - 1)), torch.stack(outputs))
            roots.append(root)
        return (y, *(torch.stack(parts)[None] for parts in zip(*roots, strict=True)))

    def ours() -> tuple[Tensor, ...]:
        y, after = module(x, lengths=lengths)
        return (y, *states(after))

    same(ours, plain, [x, *module.parameters()])


def plain_easy_first(module: TreeModule, x: Tensor) -> tuple[Tensor, Node]:
    """All neighbours tried, one kept: exactly in its value, as a softmax in its gradient."""
    merging, query = MergingStates(module), module.scorer.query
    items = [merging.leaf(row) for row in x]
    outputs = []
    while len(items) > 1:
        tried = [merging.merge(a, b) for a, b in pairwise(items)]
        soft = torch.stack([y @ query for y, _ in tried]).softmax(0)  # type: ignore[operator]
        best = int(soft.argmax())
        choice = [s - s.detach() + float(k == best) for k, s in enumerate(soft)]
        outputs.append(sum((c * y for c, (y, _) in zip(choice, tried, strict=True)), torch.zeros(HIDDEN)))
        items = [
            [
                choice[k] * new
                + sum(choice[k + 1 :], torch.zeros(())) * a
                + sum(choice[:k], torch.zeros(())) * b
                for new, a, b in zip(tried[k][1], items[k], items[k + 1], strict=True)
            ]
            for k in range(len(tried))
        ]
    return torch.stack(outputs), items[0]


class MergingStates:
    """One leaf or one merge of any states, with the weights of a tree LSTM or a gated recursive cell."""

    def __init__(self, module: TreeModule) -> None:
        self.w = {n.removeprefix("layers.0."): p for n, p in module.named_parameters()}

    def lin(self, site: str, *operands: Tensor) -> Tensor:
        maps = [self.w[f"{site}.w{i}"] @ a for i, a in enumerate(operands)]
        return sum(maps, self.w[f"{site}.b"])

    def leaf(self, x: Tensor) -> Node:
        c = self.lin("leaf_c", x)
        return [torch.tanh(c), c]

    def merge(self, left: Node, right: Node) -> tuple[Tensor, Node]:
        pair = (left[0], right[0])
        i, o = torch.sigmoid(self.lin("i", *pair)), torch.sigmoid(self.lin("o", *pair))
        fl, fr = torch.sigmoid(self.lin("fl", *pair) + 1), torch.sigmoid(self.lin("fr", *pair) + 1)
        c = fl * left[1] + fr * right[1] + i * torch.tanh(self.lin("c", *pair))
        h = o * torch.tanh(c)
        return h, [h, c]


def test_easy_first_is_straight_through() -> None:
    module = built("treelstm", "easy-first")
    x = drawn(2, 6, INPUTS).requires_grad_()

    def plain() -> tuple[Tensor, ...]:
        y, roots = torch.zeros(2, 5, HIDDEN, dtype=torch.float64), []
        for b, n in enumerate((6, 4)):
            outputs, root = plain_easy_first(module, x[b, :n])
            y = y.index_put((torch.tensor(b), torch.arange(n - 1)), outputs)
            roots.append(root)
        return (y, *(torch.stack(parts)[None] for parts in zip(*roots, strict=True)))

    def ours() -> tuple[Tensor, ...]:
        y, after = module(x, lengths=[6, 4])
        return (y, *states(after))

    same(ours, plain, [x, *module.parameters()])


def same(
    ours: Callable[[], tuple[Tensor, ...]], plain: Callable[[], tuple[Tensor, ...]], inputs: list[Tensor]
) -> None:
    """Equal results, and equal gradients for each input."""
    found, wanted = ours(), plain()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    gradients = []
    for results in (found, wanted):
        loss = torch.zeros((), dtype=torch.float64)
        for value in results:
            loss = loss + (value * drawn(*value.shape, seed=7)).sum()
        gradients.append(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))
    for value, one, other in zip(inputs, *gradients, strict=True):
        assert one.shape == value.shape
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    assert any(bool(gradient.abs().max() > 0) for gradient in gradients[0][1:])


@pytest.mark.parametrize("policy", LEARNED)
def test_a_batch_is_its_sequences(policy: str) -> None:
    module = built("treelstm", policy)
    lengths = [7, 1, 2, 4]
    x = drawn(4, 7, INPUTS)
    y, after = module(x, lengths=lengths)
    assert y.shape == (4, 6, HIDDEN)
    for k, n in enumerate(lengths):
        one, end = module(x[k : k + 1, :n])
        torch.testing.assert_close(y[k, : n - 1], one[0])
        assert bool((y[k, n - 1 :] == 0).all())
        for whole, part in zip(states(after), states(end), strict=True):
            torch.testing.assert_close(whole[:, k], part[:, 0])


@pytest.mark.parametrize("policy", LEARNED)
def test_training_draws_its_merges(policy: str) -> None:
    module, x = built("treelstm", policy).train(), drawn(4, 9, INPUTS)
    torch.manual_seed(0)
    first = module(x)[0]
    assert not torch.equal(module(x)[0], first)
    torch.manual_seed(0)
    assert torch.equal(module(x)[0], first)
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


@pytest.mark.parametrize("policy", LEARNED)
def test_policies_own_weights_that_travel_with_the_module(policy: str) -> None:
    module, x = built("grc", policy), drawn(2, 5, INPUTS)
    names = [name for name in module.state_dict() if name.startswith("scorer.")]
    assert names
    other = built("grc", policy, seed=3)
    other.load_state_dict(module.state_dict())
    for twin in (other, copy.deepcopy(module)):
        torch.testing.assert_close(twin(x), module(x))
    drawings = []
    for _ in range(2):
        module.reset_parameters(torch.Generator().manual_seed(5))
        drawings.append({name: value.clone() for name, value in module.state_dict().items()})
    assert all(torch.equal(drawings[0][name], drawings[1][name]) for name in drawings[0])
    assert any(not torch.equal(drawings[0][name], other.state_dict()[name]) for name in names)
    with torch.device("meta"):
        assert all(p.is_meta for p in build(zoo("grc"), INPUTS, HIDDEN, policy=policy).parameters())


@pytest.mark.parametrize("policy", ["left", *LEARNED])
def test_the_root_of_one_leaf_is_its_state(policy: str) -> None:
    module = built("treelstm", policy)
    x = drawn(3, 4, INPUTS)
    root, after = module.root(x, lengths=[4, 1, 2])
    y, same_state = module(x, lengths=[4, 1, 2])
    torch.testing.assert_close(after, same_state)
    torch.testing.assert_close(root, torch.stack([y[0, 2], states(after)[0][0, 1], y[2, 0]]))
    alone, end = module.root(x[:, :1])
    torch.testing.assert_close(alone, states(end)[0][0])
