"""Searched cells, tree cells and depth cells of the zoo against plain forms, and that no cell is left out."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_grammar_zoo_gated import CASES as GATED
from test_grammar_zoo_linear import CASES as LINEAR
from test_grammar_zoo_memories import CASES as MEMORIES
from torch import Tensor
from torch.nn import functional as F
from zoo_suite import HIDDEN, TOLERANCE, Case, States, Weights, agree

from grammar import evaluate, from_darts, init_weights, parse, zoo, zoo_doc, zoo_names

# Genotypes as in DARTS's code: each node is a function and the node that it reads.
V1 = "relu0 relu1 tanh2 relu3 relu4 identity1 relu5 relu1"
V2 = "sigmoid0 relu1 relu1 identity1 tanh2 sigmoid5 tanh3 relu5"
ENAS = "tanh0 tanh1 relu1 tanh3 tanh3 relu3 relu4 relu7 relu8 relu8 relu8"
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda a: a
}  # fmt: skip


def genotype(nodes: str, concat: range | list[int]) -> Case:
    """[c, h] = [x, h] W0 and [c, h] = s_j W_i, each W_i one matrix, all without biases."""
    named = [(node.rstrip("0123456789"), int(node[-1])) for node in nodes.split()]

    def mixed(c: Tensor, u: Tensor, s: Tensor) -> Tensor:
        return s + torch.sigmoid(c) * (u - s)

    def step(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
        W0 = torch.cat([torch.cat([w.Xc, w.Hc], 1), torch.cat([w.Xh, w.Hh], 1)], 0)
        c, u = (torch.cat([x, s["h"]], -1) @ W0.T).chunk(2, -1)
        values = [mixed(c, torch.tanh(u), s["h"])]
        for i, (function, j) in enumerate(named, 1):
            c, u = (values[j] @ torch.cat([w.arrays[f"C{i}"], w.arrays[f"U{i}"]], 0).T).chunk(2, -1)
            values.append(mixed(c, FUNCTIONS[function](u), values[j]))
        h = torch.stack([values[i] for i in concat]).mean(0)
        return h, {"h": h}

    first = "Xc=s0.w0 Hc=s0.w1 Xh=s0_2.w0 Hh=s0_2.w1 "
    return Case(first + " ".join(f"C{i}=s{i}.w0 U{i}=s{i}_2.w0" for i in range(1, len(named) + 1)), step)


@pytest.mark.parametrize(
    ("name", "nodes", "concat"),
    [
        ("darts_v1", V1, [*range(1, 9)]),
        ("darts_v2", V2, [*range(1, 9)]),
        ("enas", ENAS, [2, 5, 6, 9, 10, 11]),
    ],
)
def test_searched_cells_are_their_genotypes(name: str, nodes: str, concat: list[int]) -> None:
    recurrent = [(node[:-1], int(node[-1])) for node in nodes.split()]
    assert from_darts({"recurrent": recurrent, "concat": concat}).digest == zoo(name).digest


def sinusoids(x: Tensor) -> Tensor:
    """Sine and cosine of the position in turn, `[T, H]`."""
    place = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
    rates = 10000.0 ** (-torch.arange(0, HIDDEN, 2, dtype=x.dtype) / HIDDEN)
    return torch.stack([torch.sin(place * rates), torch.cos(place * rates)], -1).flatten(1)


def attention(w: Weights, x: Tensor, layer: str = "") -> Tensor:
    """Softmax attention over all positions, head by head."""
    q, k, v = (w.split(w.lin(x, f"W{role}{layer}")).transpose(1, 2) for role in "qkv")
    mixed = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v
    return w.lin(mixed.transpose(1, 2).flatten(2), f"Wo{layer}")


def ut(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """Adaptive computation time by position (A. Graves, 2016, epsilon 0.01): states weighted by their gates."""
    positions = sinusoids(x)

    def norm(a: Tensor) -> Tensor:
        return F.layer_norm(a, (HIDDEN,))

    def block(h: Tensor) -> Tensor:
        a = norm(h + positions + attention(w, h + positions))
        return norm(a + w.lin(F.gelu(w.lin(a, "W1", "b1")), "W2", "b2"))

    h, total = x, torch.zeros_like(x)
    spent = torch.zeros(*x.shape[:2], 1, dtype=x.dtype)
    running = torch.ones_like(spent, dtype=torch.bool)
    for turn in range(6):
        p = torch.sigmoid(w.lin(h, "Wp", "bp"))
        h = block(h)
        stops = running & ((spent + p >= 0.99) | torch.tensor(turn == 5))
        share = torch.where(stops, 1 - spent, torch.where(running, p, torch.zeros_like(p)))
        total, spent, running = total + share * h, spent + share, running & ~stops
    return total, {"h": total}


def mor(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """Sequence by sequence: the chosen tokens are taken out, pass through the block among themselves, and are added."""

    def norm(a: Tensor) -> Tensor:
        return a / torch.sqrt(a.square().mean(-1, keepdim=True) + 1e-6)

    def block(h: Tensor) -> Tensor:
        q, k, v = (norm(h) @ w.arrays[f"W{role}"].T for role in "qkv")
        scores = (q @ k.T / math.sqrt(HIDDEN)).masked_fill(
            torch.ones(len(h), len(h)).triu(1).bool(), -math.inf
        )
        a = h + torch.softmax(scores, -1) @ v @ w.Wo.T
        return a + w.lin(F.gelu(w.lin(norm(a), "W1", "b1")), "W2", "b2")

    rows = []
    for h in x + sinusoids(x):
        chosen = torch.arange(len(h))
        for turn in range(3):
            gate = torch.sigmoid(w.lin(h[chosen], f"R{turn}", f"r{turn}"))
            best = gate[:, 0].topk(len(h) * (3 - turn) // 3).indices.sort().values
            chosen, gate = chosen[best], gate[best]
            h = h.index_add(0, chosen, gate * block(h[chosen]))
        rows.append(h)
    y = torch.stack(rows)
    return y, {"h": y}


def trm(w: Weights, x: Tensor, s: States) -> tuple[Tensor, States]:
    """T = 3 cycles of n = 6 updates; what the first two make is detached."""
    e = x + sinusoids(x)

    def norm(a: Tensor) -> Tensor:
        return a / torch.sqrt(a.square().mean(-1, keepdim=True) + 1e-6)

    def net(h: Tensor) -> Tensor:
        for j in ("1", "2"):
            h = norm(h + attention(w, h, j))
            h = norm(h + w.lin(F.silu(w.lin(h, f"G{j}")) * w.lin(h, f"U{j}"), f"D{j}"))
        return h

    def cycle(y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(6):
            z = net(z + y + e)
        return net(y + z), z

    q, p = cycle(*cycle(torch.zeros_like(x), torch.zeros_like(x)))
    y, z = cycle(q.detach(), p.detach())
    return y, {"p": p, "q": q, "d": z - p.detach()}


CASES = {
    "darts_v1": genotype(V1, range(1, 9)),
    "darts_v2": genotype(V2, range(1, 9)),
    "enas": genotype(ENAS, [2, 5, 6, 9, 10, 11]),
    "ut": Case(
        "Wq=a.q Wk=a.k Wv=a.v Wo=a.o W1=h.w1 b1=h.b1 W2=h.w2 b2=h.b2 Wp=until.w0 bp=until.b",
        run=ut, states="", start=False, inputs=HIDDEN, heads=1, key=None,
    ),
    "mor": Case(
        "Wq=t.q Wk=t.k Wv=t.v Wo=t.o W1=m.w1 b1=m.b1 W2=m.w2 b2=m.b2 "
        "R0=f.w0 r0=f.b R1=g.w0 r1=g.b R2=p.w0 r2=p.b",
        run=mor, states="", start=False, inputs=HIDDEN, heads=1, key=None,
    ),
    "trm": Case(
        " ".join(f"W{r}{j}=t{j}.{r}" for j in "12" for r in "qkvo") + " "
        + " ".join(f"{r}{j}={r.lower()}{j}.w0" for j in "12" for r in "GUD"),
        run=trm, states="", start=False, inputs=HIDDEN, key=None, spread=0.2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_its_equations(name: str) -> None:
    agree(name, CASES[name])


Node = dict[str, Tensor]


def sigmoid(w: Weights, name: str, *operands: Tensor) -> Tensor:
    return torch.sigmoid(maps(w, name, *operands))


def maps(w: Weights, name: str, *operands: Tensor) -> Tensor:
    """One map of the operands put side by side, with a bias."""
    joined = torch.cat([w.arrays[f"{name}.w{i}"] for i in range(len(operands))], 1)
    return joined @ torch.cat(operands) + w.arrays[f"{name}.b"]


def treelstm(w: Weights, children: list[Node]) -> Node:
    pair = tuple(child["h"] for child in children)
    forget = [sigmoid(w, "fl", *pair), sigmoid(w, "fr", *pair)]
    kept = [torch.sigmoid(torch.logit(f) + 1) * child["c"] for f, child in zip(forget, children, strict=True)]
    c = kept[0] + kept[1] + sigmoid(w, "i", *pair) * torch.tanh(maps(w, "c", *pair))
    return {"h": sigmoid(w, "o", *pair) * torch.tanh(c), "c": c}


def treelstm_leaf(w: Weights, x: Tensor) -> Node:
    c = maps(w, "leaf_c", x)
    return {"h": torch.tanh(c), "c": c}


def treelstm_childsum(w: Weights, children: list[Node]) -> Node:
    total = torch.stack([child["h"] for child in children]).sum(0)
    c = sigmoid(w, "i", total) * torch.tanh(maps(w, "c", total))
    for child in children:
        c = c + sigmoid(w, "c_2", child["h"]) * child["c"]
    return {"h": sigmoid(w, "o", total) * torch.tanh(c), "c": c}


def treegru(w: Weights, children: list[Node]) -> Node:
    total = torch.stack([child["h"] for child in children]).sum(0)
    reset = [sigmoid(w, "n", child["h"]) * child["h"] for child in children]
    z = sigmoid(w, "z", total)
    return {"h": (1 - z) * total + z * torch.tanh(maps(w, "n_2", torch.stack(reset).sum(0)))}


def treegru_leaf(w: Weights, x: Tensor) -> Node:
    return {"h": sigmoid(w, "leaf_h", x) * torch.tanh(maps(w, "leaf_h_2", x))}


def grc(w: Weights, children: list[Node]) -> Node:
    """One hidden layer of width 4 H, then four maps of it."""
    left, right = (child["h"] for child in children)
    hidden = F.gelu(torch.cat([maps(w, name, left, right) for name in "abcd"]))
    f1, f2, i, u = (maps(w, name, *hidden.chunk(4)) for name in ("fl", "fr", "i", "u"))
    value = torch.sigmoid(f1) * left + torch.sigmoid(f2) * right + torch.sigmoid(i) * u
    return {"h": F.layer_norm(value, (HIDDEN,), w.arrays["h.w"], w.arrays["h_2.w"])}


def grc_leaf(w: Weights, x: Tensor) -> Node:
    scale, offset = w.arrays["leaf_h_2.w"], w.arrays["leaf_h_3.w"]
    return {"h": F.layer_norm(maps(w, "leaf_h", x), (HIDDEN,), scale, offset)}


Leaf = Callable[[Weights, Tensor], Node]
Body = Callable[[Weights, list[Node]], Node]
TREES: dict[str, tuple[Leaf, Body, int]] = {
    "treelstm": (treelstm_leaf, treelstm, 2),
    "treelstm_childsum": (treelstm_leaf, treelstm_childsum, 3),
    "treegru": (treegru_leaf, treegru, 3),
    "grc": (grc_leaf, grc, 2),
}


def some_tree(rng: np.random.Generator, rows: int, width: int) -> list[list[int]]:
    """Any tree of `rows` inner nodes of `width` children: each row joins nodes that have no parent yet."""
    free = list(range(1 + rows * (width - 1)))
    tree = []
    for row in range(rows):
        chosen = [free.pop(int(rng.integers(len(free)))) for _ in range(width)]
        tree.append(chosen)
        free.append(1 + rows * (width - 1) + row)
    return tree


@pytest.mark.parametrize("name", TREES)
def test_trees_agree_with_their_equations(name: str) -> None:
    leaf, body, width = TREES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    cell, rows = zoo(name), 4
    weights = {
        key: rng.normal(0, 0.5, value.shape)
        for key, value in init_weights(cell, rng, input_size=5, hidden_size=HIDDEN).items()
    }
    x = rng.normal(size=(3, 1 + rows * (width - 1), 5))
    trees = [some_tree(rng, rows, width) for _ in x]
    found = evaluate(cell, x, weights, hidden_size=HIDDEN, tree=np.array(trees))
    w = Weights({key: torch.from_numpy(value) for key, value in weights.items()}, 1)
    for b, tree in enumerate(trees):
        nodes = [leaf(w, value) for value in torch.from_numpy(x[b])]
        for chosen in tree:
            nodes.append(body(w, [nodes[i] for i in chosen]))
        inner = torch.stack([node["h"] for node in nodes[-rows:]])
        np.testing.assert_allclose(found.y[b], inner, rtol=TOLERANCE, atol=TOLERANCE)
        for state, value in zip(cell.states, found.state, strict=True):
            np.testing.assert_allclose(value[b], nodes[-1][state.name], rtol=TOLERANCE, atol=TOLERANCE)


def test_every_cell_is_held_against_a_plain_form() -> None:
    covered = [*GATED, *LINEAR, *MEMORIES, *CASES, *TREES]
    assert sorted(covered) == list(zoo_names())


@pytest.mark.parametrize("name", zoo_names())
def test_text_is_well_kept(name: str) -> None:
    cell = zoo(name)
    assert cell.name == name
    assert parse(str(cell)) is cell
    assert cell.canonical().canonical() is cell.canonical()
    what, paper, *_ = zoo_doc(name).splitlines()
    assert what.endswith(".")
    assert any(str(year) in paper for year in range(1990, 2027))
