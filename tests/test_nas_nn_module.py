"""CellModule: calls, states and errors, as nn.LSTM has them."""

from __future__ import annotations

import contextlib
import copy
import io
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from grammar import parse, parse_sketch, zoo, zoo_names
from nas.backends import linear_cross_entropy
from nas.backends.c.compiler import problem
from nas.errors import BuildError
from nas.nn import CellModule, Ensemble, build

# Every kind of state, and both kinds of buffer; the shift is of x, whose width differs from layer to layer.
MIXED = parse(
    "cell mixed { state h: vec = learned, S: mat, m: scal = -inf, z: cvec; m' = max(m, lin:scal(x));"
    " S' = exp(m - m') * S + outer(lin:key(x), lin(h)); z' = 0.9 * z + lin:cvec(x, shift(x));"
    " h' = tanh(conv(read(S', lin:key(h)), k=3) + re(z')); out h' }"
)
BATCH, STEPS, INPUTS, HIDDEN = 3, 6, 5, 8


def mixed(**options: object) -> CellModule:
    torch.manual_seed(0)
    return build(MIXED, INPUTS, HIDDEN, heads=2, key_size=3, **options).double()  # type: ignore[arg-type]


def sequence(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_states_are_in_the_order_of_the_text_then_buffers() -> None:
    module = mixed()
    assert module.state_names == ("h", "S", "m", "z", "shift1", "conv1")
    _, state = module(sequence(BATCH, STEPS, INPUTS))
    shapes = [(8,), (2, 3, 4), (2,), (8,), (5,), (2, 8)]
    assert [tuple(part.shape) for part in state] == [(1, BATCH, *shape) for shape in shapes]
    assert [part.is_complex() for part in state] == [False, False, False, True, False, False]


def test_states_start_as_the_text_says() -> None:
    module = mixed()
    with torch.no_grad():
        module.get_parameter("layers.0.init.h").fill_(0.25)
    state = module.init_state(2)
    assert [float(part.detach().real.min()) for part in state] == [0.25, 0, -torch.inf, 0, 0, 0]
    x = sequence(2, STEPS, INPUTS)
    torch.testing.assert_close(module(x, state), module(x))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_two_calls_are_one(bidirectional: bool, packed: bool) -> None:
    module = mixed(num_layers=2, bidirectional=bidirectional)
    x = sequence(BATCH, STEPS, INPUTS)
    if (
        bidirectional
    ):  # then the backward half sees the future: two calls differ, but a state is taken and given
        y, state = module(x, module.init_state(BATCH))
        assert y.shape == (BATCH, STEPS, 2 * HIDDEN)
        assert all(part.shape[:2] == (4, BATCH) for part in state)
        return
    y, state = module(x)
    lengths = [2, 4, 1]
    first, between = module(x, lengths=lengths)
    rest = torch.stack([torch.cat([row[n:], row[:n]]) for row, n in zip(x, lengths, strict=True)])
    left = [STEPS - n for n in lengths]
    given = (
        pack_padded_sequence(rest, torch.tensor(left), batch_first=True, enforce_sorted=False)
        if packed
        else rest
    )
    second, after = module(given, between) if packed else module(given, between, left)
    if packed:
        second = pad_packed_sequence(second, batch_first=True)[0]
    for k, n in enumerate(lengths):
        torch.testing.assert_close(torch.cat([first[k, :n], second[k, : STEPS - n]]), y[k])
    torch.testing.assert_close(after, state)


def test_directions_are_two_modules() -> None:
    both, lengths = mixed(bidirectional=True), [6, 2, 5]
    x = sequence(BATCH, STEPS, INPUTS)
    y, state = both(x, lengths=lengths)
    for k, half in enumerate(("layers", "reverse_layers")):
        one = mixed()
        one.layers.load_state_dict(both.get_submodule(half).state_dict())
        turned = x.clone()
        for row, n in zip(turned, lengths, strict=True):
            row[:n] = row[:n].flip(0) if k else row[:n]
        expected, end = one(turned, lengths=lengths)
        found = y[..., k * HIDDEN : (k + 1) * HIDDEN]
        for ours, theirs, n in zip(found, expected, lengths, strict=True):
            torch.testing.assert_close(ours[:n], theirs[:n].flip(0) if k else theirs[:n])
        torch.testing.assert_close(tuple(part[k : k + 1] for part in state), end)


def test_layers_are_modules_on_each_other() -> None:
    stacked = mixed(num_layers=2)
    x = sequence(BATCH, STEPS, INPUTS)
    y, state = stacked(x)
    torch.manual_seed(0)
    layers = (mixed(), build(MIXED, HIDDEN, HIDDEN, heads=2, key_size=3).double())
    values = x
    for k, layer in enumerate(layers):
        layer.layers[0].load_state_dict(stacked.layers[k].state_dict())
        values, end = layer(values)
        for name, whole, part in zip(stacked.state_names, state, end, strict=True):
            torch.testing.assert_close(whole[k, ..., : part.shape[-1]], part[0], msg=name)
    torch.testing.assert_close(y, values)


def test_time_can_come_first() -> None:
    x = sequence(BATCH, STEPS, INPUTS)
    expected, state = mixed()(x, lengths=[6, 3, 4])
    y, after = mixed(batch_first=False)(x.transpose(0, 1), lengths=[6, 3, 4])
    torch.testing.assert_close(y.transpose(0, 1), expected)
    torch.testing.assert_close(after, state)


def test_one_sequence_needs_no_batch() -> None:
    module, x = mixed(), sequence(STEPS, INPUTS)
    y, state = module(x)
    expected, whole = module(x[None])
    torch.testing.assert_close(y, expected[0])
    torch.testing.assert_close(state, tuple(part[:, 0] for part in whole))
    torch.testing.assert_close(module(x, state), tuple_of_first(module(x[None], whole)))


def tuple_of_first(result: tuple[Tensor, tuple[Tensor, ...]]) -> tuple[Tensor, tuple[Tensor, ...]]:
    y, state = result
    return y[0], tuple(part[:, 0] for part in state)


def test_packed_sequences_come_back_packed() -> None:
    module, x = mixed(), sequence(BATCH, STEPS, INPUTS)
    packed = pack_padded_sequence(x, torch.tensor([2, 6, 3]), batch_first=True, enforce_sorted=False)
    y, state = module(packed)
    assert isinstance(y, PackedSequence)
    padded, lengths = pad_packed_sequence(y, batch_first=True)
    assert lengths.tolist() == [2, 6, 3]
    torch.testing.assert_close((padded, state), module(x, lengths=[2, 6, 3]))


def test_gradients_reach_the_given_state() -> None:
    module = build(zoo("lstm"), INPUTS, HIDDEN).double()
    start = tuple(part.requires_grad_() for part in (sequence(1, 2, HIDDEN), sequence(1, 2, HIDDEN)))
    module(sequence(2, STEPS, INPUTS), start, lengths=[2, 6])[0].sum().backward()
    assert all(part.grad is not None and bool((part.grad != 0).any()) for part in start)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize(
    "text", ["state h: vec; h' = x; out h + x", "state h: vec; h' = 0.5 * h + shift(x); out h'"]
)
def test_states_stay_where_the_next_x_is_written_over_this_one(text: str, backend: str) -> None:
    module = build(parse(f"cell c {{ {text} }}"), 4, 4, batch_first=False, backend=backend)
    for count in (1, 3):
        x = torch.randn(count, 2, 4)
        state = module(x)[1]
        parts = state if isinstance(state, tuple) else (state,)
        before = [part.clone() for part in parts]
        x.zero_()
        for part, old in zip(parts, before, strict=True):
            assert torch.equal(part, old)


def test_lone_state_is_the_bare_tensor() -> None:
    module = build(zoo("gru"), INPUTS, HIDDEN)
    y, state = module(torch.ones(BATCH, STEPS, INPUTS))
    assert isinstance(state, Tensor)
    following = module.step(torch.ones(BATCH, INPUTS), state)[1]
    assert isinstance(following, Tensor)
    assert following.shape == state.shape
    torch.testing.assert_close(y[:, -1], state[0])


def test_state_dicts_go_back_and_forth() -> None:
    module = mixed(num_layers=2)
    other = mixed(num_layers=2)
    other.reset_parameters()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = sequence(BATCH, STEPS, INPUTS)
    torch.testing.assert_close(other(x), module(x))
    torch.testing.assert_close(copy.deepcopy(module)(x), module(x))


def test_depth_cells_give_sequences_as_states() -> None:
    module = build(zoo("ut"), 8, 8, num_layers=2, heads=2)
    x = torch.randn(BATCH, STEPS, 8)
    y, state = module(x, lengths=[2, 6, 4])
    assert state.shape == (2, BATCH, STEPS, 8)
    torch.testing.assert_close(state[1], y)
    again, _ = module(x, state, lengths=[2, 6, 4])
    assert not torch.equal(again, y)
    for call in (lambda: module.step(x[:, 0]), lambda: module.init_state(3)):
        with pytest.raises(BuildError, match="for cells over time; ut is a depth cell"):
            call()


def test_dropout_between_layers() -> None:
    module = build(zoo("gru"), INPUTS, HIDDEN, num_layers=2, dropout=0.9)
    x = torch.ones(BATCH, STEPS, INPUTS)
    assert not torch.equal(module(x)[0], module(x)[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


def test_a_module_says_what_it_is() -> None:
    shown = repr(build(zoo("lstm"), 3, 4, num_layers=2))
    assert shown.startswith("CellModule(\n  lstm, 3, 4, num_layers=2, heads=1, key_size=4, batch_first=True")


def test_dead_weights_stay_and_are_named() -> None:
    cell = parse("cell c { state h: vec, d: vec; u = lin(x); d' = lin(d) + u; h' = tanh(lin(x, h)); out h' }")
    with pytest.warns(
        UserWarning, match="output of cell c does not depend on the weights of u, d: they stay"
    ) as seen:
        module = build(cell, 3, 4)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    y, (_, d) = module(torch.ones(1, 2, 3))
    assert bool((d != 0).any())
    y.sum().backward()
    gradients = {name: p.grad is not None for name, p in module.named_parameters()}
    assert [name for name, given in gradients.items() if not given] == [
        "layers.0.u.w0", "layers.0.u.b", "layers.0.d.w0", "layers.0.d.b"
    ]  # fmt: skip


def test_whole_cells_build_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(zoo("lstm"), 3, 4)


def test_cells_without_weights_take_the_precision_of_x() -> None:
    module = build(parse("cell c { state h: vec; h' = h * 0.5 + x; out h' }"), 4, 4)
    for dtype in (torch.float32, torch.float64):
        y, h = module(torch.ones(2, 3, 4, dtype=dtype))
        assert y.dtype == h.dtype == dtype


# ---- errors ------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 5)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("h' = tanh(lin(x, h))", {"heads": 3}, "cell c: heads divides hidden_size; received heads=3 and hidden_size=4"),
        ("h' = tanh(lin(x, h))", {"hidden_size": 0}, "hidden_size is at least 1; received 0"),
        ("h' = tanh(lin(x, h))", {"key_size": 0}, "key_size is at least 1; received 0"),
        ("h' = tanh(lin(x, h))", {"num_layers": 0}, "num_layers must be at least 1; received 0"),
        ("h' = tanh(lin(x, h))", {"dropout": 1.5}, "dropout must be from 0 to 1; received 1.5"),
        ("h' = tanh(lin(x, h))", {"dropout": "some"}, "dropout must be from 0 to 1; received 'some'"),
        ("h' = tanh(lin(x, h))", {"input_size": "5"}, "input_size is a whole number; received '5'"),
        ("h' = tanh(lin(x, h))", {"hidden_size": 4.0}, "hidden_size is a whole number; received 4.0"),
        ("h' = tanh(lin(x, h))", {"heads": None}, "heads is a whole number; received None"),
        ("h' = tanh(lin(x, h))", {"num_layers": True}, "num_layers is a whole number; received True"),
        ("h' = tanh(lin(x, h))", {"backend": "referenc"}, "unknown backend 'referenc'; did you mean 'reference'"),
        ("h' = tanh(lin(x, blocks=2) + h)", {}, r"the weight h.w0 \[2, 1/2 H, 1/2 D\] does not fit: .*input_size=5"),
        ("h' = h * sigmoid(lin(x)) + x", {}, r"input_size == hidden_size, because of `\(\(h \* .*\) \+ x\)`; received"),
        ("h' = x", {}, "because of `h' = x`; received 5 and 4"),
        ("h' = lin(x) * x", {"input_size": 4, "bidirectional": True, "num_layers": 2}, "received 8 and 4 in layer 1"),
        ("h' = diag(h, init=orthogonal(1))", {}, "is for matrices; the weight h of diag is a vector"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(text: str, options: dict[str, object], message: str) -> None:
    given = {"input_size": 5, "hidden_size": 4} | options
    cell = parse(f"cell c {{ state h: vec; {text}; out h' }}")
    with pytest.raises(BuildError, match=message):
        build(cell, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cell c { state s: seq = x; s' = attn(s); out s' }",
            "because of `state s: seq = x`; received 5 and 4",
        ),
        ("cell c { state h: vec; h' = tanh(lin(x, h)); out x }", "because of `out x`; received 5 and 4"),
    ],
)
def test_x_as_wide_as_the_state_is_explained(text: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build(parse(text), 5, 4)


def test_only_cells_are_built() -> None:
    sketch = parse_sketch("cell c { state h: vec; h' = choice{ tanh(h) | lin(x) }; out h' }")
    with pytest.raises(BuildError, match=r"built from a Cell, as parse\(text\) gives it; received Sketch"):
        build(sketch, 5, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(2, 3, 4), {}, r"x must have the shape \[B, T, 5\], or \[T, 5\] for one .* \[2, 3, 4\]"),
        (torch.zeros(5), {}, r"received \[5\]"),
        (torch.zeros(2, 0, 5), {}, r"with at least one of each; received \[2, 0, 5\]"),
        (X, {"lengths": [3, 4]}, r"lengths are 2 whole numbers from 1 to 3, one for each sequence; received \[3, 4\]"),
        (X, {"lengths": [0, 3]}, r"received \[0, 3\]"),
        (X, {"lengths": torch.tensor([3])}, r"received \[3\]"),
        (X[0], {"lengths": [3]}, "lengths go with a batch of sequences"),
        (X, {"state": torch.zeros(1, 2, 4)}, r"the state of lstm is \(h, c\); received 1 values"),
        (X, {"state": (torch.zeros(1, 2, 4), torch.zeros(2, 4))}, r"state c must have .* received \[2, 4\]"),
        (X[0], {"state": (torch.zeros(1, 2, 4), torch.zeros(1, 4))}, r"state h .* \[1, 4\]; received \[1, 2, 4\]"),
        (X, {"lengths": "ab"}, "lengths are 2 whole numbers from 1 to 3, one for each sequence; received 'ab'"),
        (X, {"lengths": [1.5, 2]}, r"received \[1.5, 2\]"),
        (X, {"state": 3}, "a state is a tensor, or a tuple of them; received a int for lstm"),
        (None, {}, "x is a tensor or a PackedSequence; received NoneType"),
        (X.double(), {}, "x must be torch.float32, as the weights are; received torch.float64"),
        (X.bfloat16(), {}, "x must be torch.float32, as the weights are; received torch.bfloat16"),
        (X.long(), {}, "received torch.int64"),
        (PackedSequence(X[0], torch.ones(3)), {"lengths": [3]}, "a PackedSequence has its own lengths"),
        (PackedSequence(X[0, :, :4], torch.ones(3)), {}, r"packed from \[..., 5\]; received rows of \[3, 4\]"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_refused(x: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build(zoo("lstm"), 5, 4)(x, **options)


def test_wrong_steps_are_refused() -> None:
    with pytest.raises(BuildError, match=r"step takes x of shape \[B, 5\]; received \[2, 3, 5\]"):
        build(zoo("lstm"), 5, 4).step(X)
    with pytest.raises(BuildError, match="forward in time; this module is bidirectional"):
        build(zoo("lstm"), 5, 4, bidirectional=True).step(X[:, 0])


@pytest.mark.parametrize("name", [n for n in zoo_names() if zoo(n).kind != "tree"])
def test_every_known_cell_runs_with_one_head(name: str) -> None:
    """The default: with one head, `blocks=heads` still stores its weights as blocks."""
    layer = build(zoo(name), 6, 6)
    y, _ = layer(torch.randn(2, 4, 6))
    assert y.shape == (2, 4, 6)


BACKENDS = ["reference"] + (["c"] if problem() is None else [])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["lstm", "mingru"])
def test_x_of_another_type_than_the_weights_is_refused_by_every_backend(name: str, backend: str) -> None:
    module, x = build(zoo(name), 5, 4, backend=backend), X
    wrong: list[tuple[CellModule, Tensor]] = [(module, x.double()), (module, x.half()), (module, x.int())]
    for one, given in wrong:
        with pytest.raises(
            BuildError,
            match=re.escape(f"x must be torch.float32, as the weights are; received {given.dtype}"),
        ):
            one(given)
    with pytest.raises(BuildError, match=r"received torch\.float64"):
        module.step(x[:, 0].double())
    with pytest.raises(BuildError, match=r"received torch\.float64"):
        module(torch.zeros(2, 3, dtype=torch.int64), table=torch.ones(6, 5).double())
    with pytest.raises(
        BuildError, match=r"x must be torch\.float64, as the weights are; received torch\.float32"
    ):
        module.double()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bool(module.float()(x.bfloat16())[0].isfinite().all())


@pytest.mark.skipif("c" not in BACKENDS, reason=str(problem()))
@pytest.mark.parametrize(
    ("name", "options"),
    [("lstm", {}), ("indrnn", {"solver": "newton"}), ("treelstm", {"policy": "balanced"})],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, in forward mode
def test_transforms_of_torch_func_are_refused_by_compiled_cells(name: str, options: dict[str, Any]) -> None:
    module = build(zoo(name), 5, 4, backend="c", **options)
    weights: dict[str, Tensor] = dict(module.named_parameters())

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        made: Tensor = torch.func.functional_call(module, weights, (x,))[0].square().sum()
        return made

    refused = r"transforms of torch\.func \(grad, jvp, vmap and others\) do not go through compiled cells"
    for run in (
        lambda: torch.func.grad(loss)(weights, X),
        lambda: torch.func.grad(loss, argnums=1)(weights, X),
        lambda: torch.vmap(lambda x: loss(weights, x))(torch.stack([X, X])),
    ):
        with pytest.raises(NotImplementedError, match=refused):
            run()
        with torch.no_grad(), pytest.raises(NotImplementedError, match=refused):
            run()
    assert loss(weights, X).isfinite()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, X)
        for gradients in (True, False):  # without them the tangent would be lost without a word
            with torch.set_grad_enabled(gradients):
                with pytest.raises(NotImplementedError, match="forward-mode derivatives"):
                    loss(weights, dual)
                assert loss(weights, X).isfinite()


TWINS = parse("cell twins { state h: vec; h' = tanh(lin(x) + lin(x) + 0.5 * h); out h' }")
TWIN_TREE = parse(
    "cell twin_tree(l, r) { state h: vec; leaf { h' = lin(x) + lin(x) }; h' = lin(l.h) + lin(r.h); out h' }"
)


@pytest.mark.parametrize("how", ["exact", "newton", "tree", "ensemble"])
def test_gradients_add_up_over_calls(how: str) -> None:
    """Two biases have one gradient, and each its own memory: torch adds to it in place."""
    torch.manual_seed(0)
    if how == "ensemble":
        module: CellModule = Ensemble(TWINS, 1, 4, 4)
    elif how == "tree":
        module = build(TWIN_TREE, 4, 4, policy="left")
    else:
        module = build(TWINS, 4, 4, solver=how)
    x = torch.randn(2, 5, 4)
    once = torch.autograd.grad(module(x)[0].sum(), list(module.parameters()))
    for _ in range(3):
        module(x)[0].sum().backward()
    for parameter, gradient in zip(module.parameters(), once, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 3 * gradient)


@pytest.mark.parametrize("how", ["sequences", "candidates", "left", "beam", "head"])
@pytest.mark.parametrize("default", ["dtype", "device"])
def test_torchs_defaults_do_not_matter_to_what_is_built(how: str, default: str) -> None:
    """Its default dtype and device are those of new modules alone; compiled code writes memory of its own kind."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4)
    if how == "candidates":
        module: torch.nn.Module = Ensemble(zoo("lstm"), 2, 4, 4)
    elif how in ("left", "beam"):
        module = build(zoo("treelstm"), 4, 4, policy=how).eval()
    elif how == "head":
        module = torch.nn.Linear(4, 3)
    else:
        module = build(zoo("lstm"), 4, 4)
    targets = torch.tensor([0, 2, 1, 0, 1])

    def found() -> list[Tensor]:
        if how == "head":
            y = linear_cross_entropy(x[0], module.weight, module.bias, targets)  # type: ignore[arg-type]
        else:
            y = module(x)[0].sum() + module(x, lengths=[5, 3])[0].sum()
        return [y.detach(), *torch.autograd.grad(y, list(module.parameters()))]

    before = found()
    try:
        if default == "dtype":
            torch.set_default_dtype(torch.float64)
        within: Any = torch.device("meta") if default == "device" else contextlib.nullcontext()
        with within:
            after = found()
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_lies_elsewhere_is_refused() -> None:
    """Compiled code would read memory that is not there."""
    module = build(zoo("lstm"), 4, 4)
    x, table = torch.randn(2, 5, 4), torch.randn(3, 4)
    h, c = module.init_state(2)
    with pytest.raises((BuildError, RuntimeError), match="meta"):
        module(x, (h, c.to("meta")))
    if problem() is None:
        with pytest.raises(BuildError, match="x is on meta, and the weights are on cpu"):
            module(torch.zeros(2, 5, dtype=torch.int64, device="meta"), table=table)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_complex_values_have_no_bfloat16(backend: str) -> None:
    module = build(zoo("s4d"), 4, 4, backend=backend).bfloat16()
    with pytest.raises(BuildError, match="torch has no complex bfloat16"):
        module(torch.randn(2, 5, 4).bfloat16())
