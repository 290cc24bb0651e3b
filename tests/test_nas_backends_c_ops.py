"""Compiled layers as operators: what torch asks of them, traced whole, exported; and runners of odd tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from grammar import parse, zoo
from nas.backends import FlexibleRunner, Steps, fallbacks, runner
from nas.backends.c.compiler import problem
from nas.backends.operators import operated
from nas.errors import BuildError
from nas.nn import CellModule, build

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

CELLS = ["lstm", "mingru", "deltanet", "qrnn"]
WIDTH, BATCH, STEPS = 8, 2, 5


def module_of(name: str) -> CellModule:
    module = build(zoo(name), WIDTH, WIDTH, heads=2, backend="c")
    module.reset_parameters(torch.Generator().manual_seed(0))
    return module


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def operands(name: str, needs: bool = True) -> tuple[Any, ...]:
    """What `recell::cell` takes, with a state that is given."""
    module = module_of(name)
    compiled = runner("c", zoo(name), module.sizes[0])
    key = compiled.key  # type: ignore[attr-defined]
    x = drawn(STEPS * BATCH, WIDTH).requires_grad_(needs)
    weights = [p.detach().clone().requires_grad_(needs) for p in module.parameters()]
    shapes = [slot.shape for slot in compiled.slots]  # type: ignore[attr-defined]
    state = [drawn(BATCH, *shape).requires_grad_(needs) for shape in shapes]
    return (key, x, weights, state, [True] * len(state), None, BATCH, STEPS, False, False, needs)


@pytest.mark.parametrize("name", CELLS)
def test_the_operator_is_what_it_says(name: str) -> None:
    torch.library.opcheck(torch.ops.recell.cell.default, operands(name))


@pytest.mark.parametrize("name", CELLS)
def test_its_gradient_is_what_it_says(name: str) -> None:
    key, x, weights, state, given, *layout, _ = operands(name, needs=False)
    y, *rest = torch.ops.recell.cell(key, x, weights, state, given, *layout, True)
    finals, saved = rest[: len(state)], rest[len(state) :]
    saved = [y, *saved] if operated(key).keeps_y else saved
    wanted = [True] * (1 + len(state))
    pulls = [torch.ones_like(v) for v in finals]
    arguments = (key, x, weights, saved, torch.ones_like(y), pulls, *layout, wanted)
    torch.library.opcheck(torch.ops.recell.cell_backward.default, arguments)


@pytest.mark.parametrize("name", CELLS)
def test_a_module_is_traced_whole(name: str) -> None:
    module, x = module_of(name), drawn(BATCH, STEPS, WIDTH)

    def gradients(run: Any) -> tuple[Tensor, ...]:
        y, after = run(x)
        parts = after if isinstance(after, tuple) else (after,)
        loss = y.square().sum() + torch.stack([part.sum() for part in parts]).sum()
        return (y, *torch.autograd.grad(loss, list(module.parameters())))

    whole = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(whole), gradients(module), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"backend": "reference"}])
def test_calls_with_a_state_and_single_steps_are_traced_whole(options: dict[str, Any]) -> None:
    """Text is generated so. The shift is of x, whose width differs from layer to layer."""
    text = "cell c { state h: vec = learned; h' = tanh(lin(x, shift(x), h)); out h' }"
    module, x = build(parse(text), 3, WIDTH, **options), drawn(BATCH, STEPS, 3)
    state = tuple(torch.full_like(part, 0.1) for part in module.init_state(BATCH))
    for run, given in ((module, x), (module.step, x[:, 0])):
        torch._dynamo.reset()
        traced: Any = torch.compile(run, fullgraph=True, backend="eager")
        torch.testing.assert_close(traced(given, state), run(given, state))


def test_what_was_traced_without_gradients_says_so_where_they_are_asked_for() -> None:
    *given, _ = operands("lstm")
    y = torch.ops.recell.cell(*given, False)[0]
    with pytest.raises(
        RuntimeError, match=r"traced with gradients off, as in torch.no_grad\(\), and has none"
    ):
        y.sum().backward()


def test_states_that_torch_conjugates_later() -> None:
    text = "cell c { state z: cvec; z' = 0.5 * z + lin:cvec(x); out re(z') }"
    modules = [build(parse(text), WIDTH, WIDTH, backend=name) for name in ("c", "reference")]
    modules[1].load_state_dict(modules[0].state_dict())
    start = drawn(1, BATCH, WIDTH, 2)
    found = []
    for module in modules:
        given = torch.view_as_complex(start.clone()).conj().requires_grad_()
        y, last = module(drawn(BATCH, STEPS, WIDTH), given)
        assert isinstance(last, Tensor)
        loss = y.square().sum() + (last.conj() * (1 + 2j)).imag.sum()
        found.append((y, *torch.autograd.grad(loss, [given, *module.parameters()])))
        with torch.no_grad():
            assert torch.equal(module(drawn(BATCH, STEPS, WIDTH), given)[0], y)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_export_takes_any_batch_and_any_number_of_steps(name: str) -> None:
    module = module_of(name).requires_grad_(False)
    batch, time = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("time", min=2, max=512)
    shapes: dict[str, Any] = {"x": {0: batch, 1: time}}
    program = torch.export.export(module, (drawn(3, 7, WIDTH),), dynamic_shapes=shapes)
    for size in ((3, 7), (5, 40), (2, 2)):
        x = drawn(*size, WIDTH)
        torch.testing.assert_close(program.module()(x), module(x), rtol=1e-5, atol=1e-6)


def test_fake_tensors_have_the_shapes_of_real_ones() -> None:
    module, x = module_of("lstm"), drawn(BATCH, STEPS, WIDTH)
    real, _ = module(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake, after = module(mode.from_tensor(x))
    assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
    assert [part.shape for part in after] == [(1, BATCH, WIDTH)] * 2


# ---- runners ------------------------------------------------------------------------------------


def run(name: str, dtype: torch.dtype, x: Tensor, steps: Steps, reverse: bool = False) -> tuple[Tensor, ...]:
    module = module_of(name)
    compiled = runner("c", zoo(name), module.sizes[0])
    assert isinstance(compiled, FlexibleRunner)
    weights = [p.detach().to(dtype) for p in module.parameters()]
    y, final = compiled(x, weights, [None] * len(module.program.slots), steps, reverse)
    return (y, *final)


@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
@pytest.mark.parametrize("by_sequence", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_rows_in_any_order_and_of_any_type(name: str, by_sequence: bool, reverse: bool) -> None:
    steps, x = Steps.same(BATCH, STEPS, by_sequence), drawn(BATCH * STEPS, WIDTH)
    single = run(name, torch.float32, x, steps, reverse)
    double = run(name, torch.float64, x.double(), steps, reverse)  # by the reference
    assert all(value.dtype == torch.float64 for value in double)
    torch.testing.assert_close([v.double() for v in single], list(double), rtol=1e-5, atol=1e-5)
    strided = torch.empty(WIDTH, BATCH * STEPS, 2)[..., 0].T.copy_(x)
    assert not strided.is_contiguous()
    torch.testing.assert_close(run(name, torch.float32, strided, steps, reverse), single, rtol=0, atol=0)


def test_x_without_a_gradient_gets_none() -> None:
    module, x = module_of("lstm"), drawn(BATCH, STEPS, WIDTH)
    module(x)[0].sum().backward()
    plain = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    module(x.requires_grad_())[0].sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)
    for parameter, before in zip(module.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, before, rtol=0, atol=0)


def test_tensors_without_memory_give_shapes() -> None:
    module = module_of("mingru").to("meta")
    y, state = module(torch.empty(BATCH, STEPS, WIDTH, device="meta"))
    assert isinstance(state, Tensor)
    assert (y.device.type, y.shape, state.shape) == ("meta", (BATCH, STEPS, WIDTH), (1, BATCH, WIDTH))


@pytest.mark.parametrize("options", [{"backend": "c"}, {"solver": "newton"}])
def test_gradients_of_gradients_are_refused_even_where_the_incoming_one_is_constant(
    options: dict[str, Any],
) -> None:
    module = build(zoo("indrnn"), WIDTH, WIDTH, **options)
    x = drawn(BATCH, STEPS, WIDTH).requires_grad_()
    with pytest.raises(NotImplementedError, match='build the module with backend="reference"'):
        torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    (gradient,) = torch.autograd.grad(module(x)[0].sum(), x)
    assert not gradient.requires_grad


class Own(Tensor):
    """A tensor that goes through the operator, as what torch traces does."""


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's own, tracing
def test_what_is_traced_in_another_type_is_the_references() -> None:
    module, x = module_of("mingru"), drawn(BATCH, STEPS, WIDTH)
    y, state = module(x)
    assert isinstance(state, Tensor)
    torch.testing.assert_close(module(x.as_subclass(Own), state.double())[0], module(x, state)[0])
    with torch.autocast("cpu", torch.bfloat16):
        short = x.bfloat16()
        torch.testing.assert_close(module(short.as_subclass(Own))[0], module(short)[0])
    module.double()
    torch.testing.assert_close(module(x.double().as_subclass(Own))[0], y.double(), rtol=1e-5, atol=1e-6)
    traced = torch.compile(module, backend="aot_eager")
    torch.testing.assert_close(traced(x.double())[0], y.double(), rtol=1e-5, atol=1e-6)


def test_gradients_of_gradients_of_the_operator_are_refused() -> None:
    x = drawn(BATCH, STEPS, WIDTH).as_subclass(Own).requires_grad_()
    with pytest.raises(NotImplementedError, match='build the module with backend="reference"'):
        torch.autograd.grad(module_of("indrnn")(x)[0].sum(), x, create_graph=True)


def test_tensors_on_a_gpu_are_no_silent_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.fallback._REASONS", {})
    shapes = [p.shape for p in module_of("gru").parameters()]
    compiled = runner("c", zoo("gru"), module_of("gru").sizes[0])
    assert isinstance(compiled, FlexibleRunner)
    with FakeTensorMode():
        weights = [torch.empty(shape, device="cuda") for shape in shapes]
        x = torch.empty(BATCH * STEPS, WIDTH, device="cuda")
        with pytest.warns(
            RuntimeWarning, match="cell gru runs on the slow reference backend: generated C is for"
        ):
            y, _ = compiled(x, weights, [None], Steps.same(BATCH, STEPS))
        compiled(x, weights, [None], Steps.same(BATCH, STEPS))  # it is said once
    assert y.device.type == "cuda"
    assert fallbacks() == {zoo("gru"): "generated C is for tensors on a CPU, and these are on cuda"}


class Wrapper(Tensor):
    """A tensor that has its values in another one, as a DTensor has."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __torch_dispatch__(self, *given: Any) -> Any:
        raise AssertionError("nothing is to be computed")


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("place", ["weights", "state"])
def test_what_has_no_memory_of_its_own_is_refused(place: str, grad: bool) -> None:
    """C would read at address 0."""
    compiled = runner("c", zoo("lstm"), module_of("lstm").sizes[0])
    assert isinstance(compiled, FlexibleRunner)
    weights = [p.detach() for p in module_of("lstm").parameters()]
    state: list[Tensor | None] = [drawn(BATCH, WIDTH), None]
    if place == "weights":
        weights[1] = Wrapper(weights[1])
    else:
        state[0] = Wrapper(drawn(BATCH, WIDTH))
    x = drawn(BATCH * STEPS, WIDTH)
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(BuildError, match="a Wrapper has none of its own; give plain"),
    ):
        compiled(x, weights, state, Steps.same(BATCH, STEPS))


def test_weights_of_a_subclass_that_has_memory_are_read() -> None:
    module, x = module_of("lstm"), drawn(BATCH * STEPS, WIDTH)
    compiled = runner("c", zoo("lstm"), module.sizes[0])
    assert isinstance(compiled, FlexibleRunner)
    plain = [p.detach() for p in module.parameters()]
    found, wanted = (
        compiled(x, weights, [None, None], Steps.same(BATCH, STEPS))[0]
        for weights in ([p.as_subclass(Own) for p in plain], plain)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
