"""Tree cells in generated C against the reference in float64: states, outputs, every gradient, every policy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from conformance import OWN, TOLERANCES, poisoned
from torch import Tensor

from grammar import Cell, parse, zoo, zoo_names
from nas.backends import choose, merged
from nas.backends.c import tree
from nas.backends.c.compiler import problem
from nas.nn import TreeModule, build
from search_spaces import load_space

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

ODD = {
    "labelled": "(l, r) { state h: vec; leaf { h' = tanh(lin(x)) }; h' = tanh(lin(l.h, r.h, x)) + x; out h' }",
    "ternary": "(a, b, c) { state h: vec; leaf { h' = lin(x) }; h' = tanh(lin(a.h, b.h) + c.h); out lin(h') }",
    "matrix": "(l, r) { state S: mat, v: vec; leaf { S' = outer(lin:key(x), lin(x)); v' = lin(x) };"
    " S' = sigmoid(lin:scal(r.v)) * l.S + outer(lin:key(l.v), r.v); v' = tanh(read(S', lin:key(r.v)));"
    " out lin(v') + hsum(read(r.S, lin:key(l.v))) }",
    "complex": "(l, r) { state z: cvec, c: scal; leaf { z' = lin:cvec(x); c' = lin:scal(x) }; c' = l.c - r.c;"
    " z' = cis(param:vec(init=normal(1))) * l.z + sigmoid(c') * r.z; out re(z') + im(lin:cvec(z')) }",
    "the same for all": "(l, r) { state a: vec, b: vec, m: mat; leaf { a' = param(init=normal(1)); b' = lin(x);"
    " m' = outer(param:key(init=ones), param(init=normal(1))) }; a' = l.b; b' = l.b; m' = outer(param:key(), param());"
    " out lin(lin(param(init=ones), blocks=2), l.b + param(init=normal(1))) }",
    "rounds": "(l, r) { state h: vec, c: vec; leaf { h' = lin(x); c' = x }; c' = l.c + r.c;"
    " depth 2 { h' = tanh(lin(c', r.h)) }; out h' * l.h }",
    "halted": "(*k) { state h: vec, c: vec = 0.5; leaf { h' = tanh(lin(x)); c' = lin(x) };"
    " depth 3 until(sigmoid(param:scal())) { h' = tanh(lin(h)) + sum(k.h * k.c); c' = 0.5 * c }; out h' * c' }",
    "unused": "(l, r) { state h: vec, g: vec; leaf { h' = lin(x); g' = param(init=ones) }; h' = lin(l.h);"
    " g' = stopgrad(r.h); out h' }",
    "any number": "(*k) { state h: vec; leaf { h' = relu(lin(x)) }; h' = tanh(sum(lin(k.h) * k.h));"
    " out h' + sum(k.h) }",
}
CELLS = (
    {name: zoo(name) for name in zoo_names() if zoo(name).kind == "tree"}
    | {name: parse(f"cell c{text}") for name, text in ODD.items()}
    | {f"tree#{k}": load_space("tree").sample(np.random.default_rng(k)) for k in range(3)}
)
HIDDEN, HEADS, BATCH, LEAVES = 40, 2, 3, 9


def drawn_trees(children: int) -> Tensor:
    """Random trees in the order of their merges, `[B, m, children]`."""
    rng, every = np.random.default_rng(1), []
    for _ in range(BATCH):
        nodes, rows = list(range(LEAVES)), list[list[int]]()
        while len(nodes) > 1 and len(rows) < LEAVES:
            chosen = [int(k) for k in rng.choice(nodes, children, replace=False)]
            nodes = [k for k in nodes if k not in chosen] + [LEAVES + len(rows)]
            rows.append(chosen)
        every.append(rows)
    return torch.tensor(np.array(every))


def built(cell: Cell, backend: str, dtype: torch.dtype, policy: str | None = None) -> TreeModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the output of cell")
        size = HIDDEN if cell.graph.equal_width else 33
        module = build(cell, size, HIDDEN, heads=HEADS, backend=backend, policy=policy).double()
    assert isinstance(module, TreeModule)
    generator = torch.Generator().manual_seed(0)
    module.reset_parameters(generator)
    with torch.no_grad():
        for array in (*module.parameters(), *module.buffers()):
            noise = torch.randn(array.shape, generator=generator, dtype=torch.float64)
            array.copy_((array + 0.1 * noise).float())
    return module.to(dtype)


def results(module: TreeModule, children: int, lengths: list[int] | None = None) -> dict[str, Tensor]:
    dtype = next(module.parameters()).dtype
    trees = drawn_trees(children) if module.policy == "given" else None
    rows = LEAVES + (trees.shape[1] if trees is not None and module.labelled else 0)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, rows, module.input_size, generator=generator).to(dtype).requires_grad_()
    torch.manual_seed(3)
    y, after = module(x, tree=trees, lengths=lengths)
    finals = after if isinstance(after, tuple) else (after,)
    values = {"y": y} | {f"final {n}": v for n, v in zip(module.state_names, finals, strict=True)}
    loss = torch.zeros((), dtype=dtype)
    for value in values.values():
        flat = torch.view_as_real(value) if value.is_complex() else value
        loss = loss + (flat * torch.randn(flat.shape, generator=generator).to(dtype)).sum()
    inputs = {"x": x} | {name: p for name, p in module.named_parameters() if p.requires_grad}
    loss.backward()
    values |= {f"gradient of {n}": v.grad for n, v in inputs.items() if v.grad is not None}
    real = ((n, torch.view_as_real(v) if v.is_complex() else v) for n, v in values.items())
    return {name: value.detach().double() for name, value in real}


def agrees(cell: Cell, policy: str | None = None, lengths: list[int] | None = None) -> None:
    children = 2 if cell.graph.variadic else len(cell.graph.children)
    truth = results(built(cell, "reference", torch.float64, policy), children, lengths)
    own = results(built(cell, "reference", torch.float32, policy), children, lengths)
    with poisoned():
        found = results(built(cell, "c", torch.float32, policy), children, lengths)
    assert list(found) == list(truth), "what gets no gradient is the same"
    largest = max(float(value.square().mean()) ** 0.5 for value in truth.values())
    for name, value in truth.items():
        scale = max(float(value.square().mean()) ** 0.5, largest / 50)
        error, plain = (float((v[name] - value).square().mean()) ** 0.5 / scale for v in (found, own))
        assert error <= max(TOLERANCES["c", torch.float32], OWN * plain), (name, error, plain)


@pytest.mark.parametrize("name", CELLS)
def test_agrees_with_the_reference(name: str) -> None:
    agrees(CELLS[name])


@pytest.mark.parametrize("policy", ["balanced", "left", "easy-first", "beam"])
def test_policies_and_lengths(policy: str) -> None:
    agrees(zoo("treelstm"), policy, lengths=[LEAVES, 1, 4])


def test_a_child_may_be_used_twice() -> None:
    """As beams do; the gradients of all uses add up."""
    cell, levels = zoo("treelstm"), [torch.tensor([[0, 1], [1, 0]]), torch.tensor([[3, 3], [4, 2]])]
    made = []
    for backend, dtype in (("c", torch.float32), ("reference", torch.float64)):
        module = built(cell, backend, dtype)
        x = torch.linspace(-1, 1, 99).view(3, 33).to(dtype).requires_grad_()
        run = choose(backend, cell).compile_tree(cell, module.sizes[0])
        weights = list(module.parameters())
        if isinstance(run, tree.CompiledTree):
            values, y = run.grow(x, None, weights, levels)
        else:
            values, y = merged(run, x, None, weights, levels)
        assert y is not None
        (y.sum() + values[1].square().sum()).backward()
        made.append((y.double(), x.grad.double() if x.grad is not None else None))
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-5)


def test_other_types_and_wide_merges_take_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = zoo("treegru")
    monkeypatch.setattr(tree, "part_of", None)
    torch.testing.assert_close(
        results(built(cell, "c", torch.float64), 2), results(built(cell, "reference", torch.float64), 2)
    )
    monkeypatch.undo()
    monkeypatch.setattr(tree, "MOST", 2)
    ours, plain = (built(cell, backend, torch.float32) for backend in ("c", "reference"))
    with pytest.warns(
        RuntimeWarning, match="cell treegru runs on the slow reference backend: merges of more than 2"
    ):
        found = results(ours, 3)
    torch.testing.assert_close(found, results(plain, 3), rtol=1e-4, atol=1e-5)


def test_no_gradient_is_computed_where_none_is_asked_for() -> None:
    module = built(zoo("grc"), "c", torch.float32)
    x = torch.randn(BATCH, LEAVES, 33, generator=torch.Generator().manual_seed(0))
    y, _ = module(x, tree=drawn_trees(2))
    with torch.no_grad():
        plain, _ = module(x, tree=drawn_trees(2))
    assert not plain.requires_grad
    torch.testing.assert_close(plain, y, rtol=0, atol=0)
    wanted = next(iter(module.parameters()))
    (whole,) = torch.autograd.grad(y.sum(), [wanted])
    for parameter in module.parameters():
        parameter.requires_grad_(parameter is wanted)
    (alone,) = torch.autograd.grad(module(x, tree=drawn_trees(2))[0].sum(), [wanted])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-6)
