"""Generated code computes what the cell says: compared with the NumPy evaluator in float64, operation by operation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import strategies
import torch
from hypothesis import given, reject, settings

from grammar import OPS, Cell, CellBuildError, parse, zoo, zoo_names
from grammar.evaluate import evaluate
from grammar.weights import init_weights, initial_name
from nas.errors import ExportError
from nas.exporters.layer import layer_body
from nas.exporters.operations import RENDER
from nas.exporters.source import Sizes, cell_source

# In no cell that runs over time: `attn`, `posemb` and `top` need a sequence, `sum` the children of a tree.
ELSEWHERE = {"attn", "posemb", "sum", "top"}

TEXTS = {
    "linear maps": "cell a { state h: vec; h' = tanh(lin(x, h, blocks=2) + lin(h, rank=3)); "
    "out lin(h, blocks=heads) + lin(x, bias=no) }",
    "memory": "cell b { state h: vec, k: key, m: mem(3), s: scal = -1, S: mat; k' = softmax(lin:key(x, k, S)); "
    "m' = lnorm(lin:mem(3)(x, m, s)); s' = max(s, lin:scal(x)); S' = S * k + outer(k', lin(x)) + s; "
    "h' = rmsnorm(lin(h, m)) * s; out lin(readt(S', h) - lin:key(h)) }",
    "buffers": "cell c { state h: vec; h' = tanh(lin(x, h)); out shift(h') + conv(lin(x), k=3) + conv(h, k=2) }",
    "more buffers": "cell d { state h: vec; a = conv(lin:key(x), k=2); h' = l2norm(h) + lin(a); "
    "out hsum(h) * h' + dot(lin:key(h), a) * shift(h) + shift(x) + conv(shift(param()), k=1) }",
    "complex vectors": "cell e { state h: cvec; h' = exp(complex(-1, lin(x))) * h + lin:cvec(x); "
    "out re(lin:cvec(h')) + im(h') + abs(h) }",
    "complex matrices": "cell f { state S: cmat; S' = S * exp(complex(param:mat(), param:mat())) + "
    "outer(lin:key(x), lin(x)); out re(read(S', lin:key(x))) }",
    "unitary": "cell g { state h: cvec; h' = modrelu(lin:cvec(h, bias=no) + cis(lin(x)), param()); out re(h') }",
    "largest": "cell t { state h: vec, k: key; k' = lin:key(x) + 0.5 * hmax(h) * k; h' = tanh(lin(h)) + hmax(k'); "
    "out h' * hmax(x) }",
    "reflections": "cell h { state h: vec, z: cvec; z' = reflect(z + lin:cvec(x), lin:cvec(h)); "
    "h' = reflect(h + x, param(init=normal(1))) + re(z'); out reflect(h, x) + tanh(h') }",
    "initial states": "cell i { state h: vec = learned, c: vec = 0.5, m: vec = -inf; h' = c; c' = lin(x); "
    "m' = max(m, lin(x)); out mlp(h) * stopgrad(c) + 2 - gelu(lin(x)) }",
    "no state": "cell j { out lin(x) + lin(shift(lin(x))) + conv(lin(x), k=1, bias=no) }",
    "shared weights": "cell k { state h: vec; h' = relu(diag(h) + lin(x, share=w) + lin(h, share=u, bias=no) + "
    "lin(h, share=u, transpose=yes, bias=no)); out sqrt1m2(sigmoid(h')) / (1 + square(h')) - min(h, 0.5) + "
    "max(-1, h) }",
    "matrices": "cell l { state S: mat; S' = lerp(sigmoid(lin:key(x)), S, outer(lin:key(x), lin(x))); "
    "out read(S', readt(S, lin(x))) }",
    "repetition": "cell m { state h: vec; repeat 2 { h' = h + tanh(lin(x, h)) }; out h' }",
    "functions": "cell n { state h: vec; h' = sin(h) + cos(lin(x)) + leaky_relu(lin(x)) + softplus(h) + "
    "logsigmoid(h) + log(1 + abs(h)) + sqrt(square(h)) - -h + silu(h) + min(h, lin(x)); out h' }",
    "x as a value": "cell o { state h: vec; h' = x * h + x; out x + 2 * h' }",
    "awkward names": "cell p { state f: vec, lambda: vec, shift_: vec; torch = lin(x); heads = tanh(lin(torch, f)); "
    "f' = heads + shift_; lambda' = f * heads; shift_' = torch; self = lambda'; out self }",
    "names of what the code calls": "cell s { state batch: vec, float: scal = -inf, like: cvec, h: vec; "
    "batch' = tanh(lin(x, batch)); float' = max(float, lin:scal(x)); like' = 0.5 * like + lin:cvec(batch); "
    "h' = re(like') + exp(float - float') * h; out h' }",
    "constants": "cell q { state h: vec; a = sigmoid(param()); h' = a; out a * lin(x) + h }",
    "constant output": "cell r { state h: vec; h' = lin(x, h); out param() }",
}


def module_of(cell: Cell, sizes: Sizes) -> tuple[Any, dict[str, np.ndarray[Any, Any]]]:
    """The exported module in float64 with random weights, and the same weights for the evaluator."""
    source = cell_source(cell, cell.name, sizes, "doc")
    space: dict[str, Any] = {"__name__": "exported"}
    exec(compile(source.text, "cell.py", "exec"), space)
    rng = np.random.default_rng(0)
    weights = init_weights(
        cell,
        rng,
        input_size=sizes.input_size,
        hidden_size=sizes.hidden_size,
        heads=sizes.heads,
        key_size=sizes.key_size,
    )
    sites = cell.graph.weights
    names = {f"{sites[i].site}.{role}": name for (i, role), name in source.parameters.items()}
    learned = {s.name: s for s in cell.states}
    names |= {initial_name(cell.graph, learned[s]): name for s, name in source.learned.items()}
    told = {
        f"{weight.site}.{spec.role}" for weight in sites if weight.init is not None for spec in weight.specs
    }
    state: dict[str, torch.Tensor] = {}
    for key, name in names.items():
        array = weights[key] if key in told else 0.4 * rng.standard_normal(weights[key].shape)
        if np.iscomplexobj(weights[key]) and key not in told:
            array = array + 0.3j * rng.standard_normal(array.shape)
        weights[key] = array
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        state[f"layers.0.{name}"] = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    module = space["Cell"]().double()
    module.load_state_dict(state)
    return module, weights


def check(cell: Cell, heads: int, key_size: int | None) -> None:
    size = 6
    module, weights = module_of(cell, Sizes(size, size, 1, heads, key_size))
    x = np.random.default_rng(1).standard_normal((3, 7, size))
    wanted = evaluate(cell, x, weights, hidden_size=size, heads=heads, key_size=key_size)
    with torch.no_grad():
        y, state = module(torch.from_numpy(x))
        np.testing.assert_allclose(y.numpy(), wanted.y, rtol=1e-6, atol=1e-7)
        parts = (state,) if isinstance(state, torch.Tensor) else state
        assert len(parts) == len(wanted.state)
        for part, expected in zip(parts, wanted.state, strict=True):
            np.testing.assert_allclose(part.numpy()[0], expected, rtol=1e-6, atol=1e-7)

        first, carried = module(torch.from_numpy(x[:, :4]))
        steps = [first]
        for t in range(4, 7):
            y_t, carried = module.step(torch.from_numpy(x[:, t]), carried)
            steps.append(y_t.unsqueeze(1))
        torch.testing.assert_close(torch.cat(steps, 1), y)


@functools.cache
def over_time() -> tuple[str, ...]:
    return tuple(n for n in zoo_names() if zoo(n).kind == "time" and zoo(n).graph.region is None)


@pytest.mark.parametrize("name", over_time())
def test_zoo_cells_compute_the_same(name: str) -> None:
    check(zoo(name), 1, None)
    check(zoo(name).canonical(), 2, None if zoo(name).graph.k_is_v else 4)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize(("heads", "key_size"), [(1, None), (2, 4), (3, None)])
def test_every_kind_of_expression_computes_the_same(text: str, heads: int, key_size: int | None) -> None:
    check(parse(text), heads, key_size)


@settings(max_examples=60)
@given(strategies.cells(smooth=True, fuel=6))
def test_any_cell_computes_the_same(cell: Cell) -> None:
    try:
        check(cell, 2, None)
    except CellBuildError:
        reject()


def test_the_table_of_renderings_is_complete_and_all_of_it_is_tested() -> None:
    assert set(RENDER) == set(OPS)
    texts = [parse(text) for text in TEXTS.values()] + [zoo(name) for name in over_time()]
    used = {node.op for cell in texts for node in cell.graph.nodes}
    assert set(OPS) - used == ELSEWHERE


@pytest.mark.parametrize(
    ("name", "message"),
    [("treelstm", "cells that run over time; `treelstm` is a tree cell"), ("ut", "`ut` is a depth cell")],
)
def test_other_kinds_of_cells_are_refused(name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        layer_body(zoo(name))


def test_halting_is_refused() -> None:
    cell = parse(
        "cell a { state h: vec; depth 3 until(sigmoid(lin:scal(h))) { h' = tanh(lin(x, h)) }; out h' }"
    )
    with pytest.raises(ExportError, match=r"`depth ... until"):
        layer_body(cell)


def test_what_depends_on_x_alone_stands_before_the_loop() -> None:
    lines = layer_body(zoo("lstm")).lines
    loop = next(i for i, line in enumerate(lines) if line.startswith("for "))
    assert [line for line in lines[:loop] if "F.linear(x," in line] == [
        f"{gate}_x = F.linear(x, self.{gate}_w0, self.{gate}_b)" for gate in "ifgo"
    ]
    assert not any("F.linear(x" in line for line in lines[loop:])


def test_no_matrix_is_made_for_all_steps_at_once() -> None:
    lines = layer_body(zoo("retnet")).lines
    loop = next(i for i, line in enumerate(lines) if line.startswith("for "))
    assert not any("heads(" in line for line in lines[:loop])
