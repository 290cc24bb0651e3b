"""Many models of one cell side by side: what separate modules give, and weights that go in and out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from grammar import Cell, parse, zoo
from nas.backends import Backend, Runner, choose, register_backend
from nas.backends.c.compiler import problem
from nas.backends.registry import _BACKENDS
from nas.errors import BuildError
from nas.nn import CellModule, Ensemble, build

COUNT, BATCH, STEPS, WIDTH = 3, 4, 6, 8
BACKENDS = ["reference"] + (["c"] if problem() is None else [])
# dense, elementwise, a matrix state, splines, buffers and learned starts, complex numbers
BUFFERED = parse(
    "cell buffered { state h: vec = learned; h' = tanh(conv(x, k=3) + shift(h)) * lin(h, fixed=yes); out h' }"
)
CELLS = [zoo(name) for name in ("lstm", "mingru", "gla", "tkan", "lru")] + [BUFFERED]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}


def modules(cell: Cell, dtype: torch.dtype = torch.float32, **options: Any) -> list[CellModule]:
    torch.manual_seed(0)
    made = [build(cell, WIDTH, WIDTH, heads=2, **options).to(dtype) for _ in range(COUNT)]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in made:  # learned starts are 0 otherwise
            for array in module.parameters():
                array.add_(0.1 * torch.randn(array.shape, generator=generator, dtype=dtype))
    return made


def as_tuple(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


def results(module: CellModule, x: Tensor, state: Any, pulls: list[Tensor], lengths: Any) -> list[Tensor]:
    """Output and final states, and the gradients of a functional of them to x, the initial states and weights."""
    x = x.detach().clone().requires_grad_()
    first = None if state is None else [s.detach().clone().requires_grad_() for s in state]
    y, after = module(x, None if first is None else first[0] if len(first) == 1 else tuple(first), lengths)
    found = [y, *as_tuple(after)]
    loss = sum(
        (torch.view_as_real(v) if v.is_complex() else v).mul(p).sum()
        for v, p in zip(found, pulls, strict=True)
    )
    inputs = [x, *(first or []), *(p for p in module.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
    return [v.detach() for v in (*found, *gradients)]


def agrees(
    cell: Cell,
    dtype: torch.dtype,
    own: bool,
    given: bool,
    lengths: list[int] | None,
    **options: Any,
) -> None:
    """An ensemble is what its modules are, one by one: outputs, final states, every gradient."""
    apart = modules(cell, dtype, **options)
    together = Ensemble.of(apart)
    x = drawn(*([COUNT] if own else []), BATCH, STEPS, WIDTH, dtype=dtype)
    y, after = together(x, lengths=lengths)
    state = [0.5 * drawn(*s.shape, dtype=dtype).to(s.dtype) for s in as_tuple(after)] if given else None
    shapes = [(*v.shape, 2) if v.is_complex() else v.shape for v in (y, *as_tuple(after))]
    pulls = [drawn(*shape, dtype=dtype) for shape in shapes]
    ours = results(together, x, state, pulls, lengths)
    inside = 1 + len(as_tuple(after))
    total = torch.zeros_like(x)
    for c, module in enumerate(apart):
        start = None if state is None else [s[c] for s in state]
        theirs = results(module, x[c] if own else x, start, [p[c] for p in pulls], lengths)
        for place, (mine, value) in enumerate(zip(ours, theirs, strict=True)):
            if place == inside and not own:
                total += value  # the gradient of an x that all share is the sum of theirs
            else:
                close(mine[c], value, dtype)
    if not own:
        close(ours[inside], total, dtype)


def close(mine: Tensor, value: Tensor, dtype: torch.dtype) -> None:
    scale = float(value.abs().max()) + 1e-6
    torch.testing.assert_close(mine / scale, value / scale, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_candidates_are_separate_modules(backend: str, cell: Cell, own: bool) -> None:
    agrees(cell, torch.float32, own, given=own, lengths=[6, 2, 6, 1] if own else None, backend=backend)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("backend", BACKENDS)  # c takes float64 to the reference
def test_in_float64_they_are_to_rounding(backend: str, cell: Cell) -> None:
    agrees(cell, torch.float64, own=False, given=True, lengths=[1, 6, 3, 3], backend=backend)


@pytest.mark.parametrize("lengths", [None, [6, 2, 6, 1]])
@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_and_directions(backend: str, lengths: list[int] | None) -> None:
    options = {"num_layers": 2, "bidirectional": True, "backend": backend}
    agrees(zoo("lstm"), torch.float32, own=True, given=True, lengths=lengths, **options)
    agrees(zoo("lstm"), torch.float32, own=False, given=False, lengths=lengths, **options)


def test_time_first() -> None:
    together = Ensemble.of(modules(zoo("gru"), batch_first=False))
    x = drawn(COUNT, STEPS, BATCH, WIDTH)
    for lengths in (None, [6, 2, 6, 1]):
        y, after = together(x, lengths=lengths)
        for c in range(COUNT):
            torch.testing.assert_close((y[c], after[c]), together.candidate(c)(x[c], lengths=lengths))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_expanded_x_has_gradients_of_each_candidate(backend: str, batch_first: bool) -> None:
    together = Ensemble.of(modules(zoo("mingru"), batch_first=batch_first, backend=backend))
    x = drawn(1, BATCH, STEPS, WIDTH).expand(COUNT, -1, -1, -1)
    own, expanded = x.clone().requires_grad_(), x.detach().requires_grad_()
    assert (expanded.stride(0), expanded.is_leaf) == (0, True)
    for given in (own, expanded):
        y, _ = together(given)
        first, _ = together.step(given[:, 0])
        (y.square().sum() + first.square().sum()).backward()
    assert own.grad is not None
    torch.testing.assert_close(expanded.grad, own.grad)
    assert own.grad.flatten(1).norm(dim=1).min() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_a_sequence(backend: str) -> None:
    together = Ensemble.of(modules(zoo("lstm"), backend=backend))
    x = drawn(BATCH, STEPS, WIDTH)
    y, after = together(x)
    state: Any = together.init_state(BATCH)
    assert [s.shape for s in state] == [(COUNT, 1, BATCH, WIDTH)] * 2
    for t in range(STEPS):
        given = x[:, t] if t % 2 else x[:, t].expand(COUNT, BATCH, WIDTH)
        y_t, state = together.step(given, state)
        torch.testing.assert_close(y_t, y[:, :, t])
    torch.testing.assert_close(state, after)


def test_one_candidate_is_a_module() -> None:
    module = modules(zoo("gru"))[0]
    x = drawn(BATCH, STEPS, WIDTH)
    y, after = Ensemble.of([module])(x)
    torch.testing.assert_close((y[0], after[0]), module(x))


@pytest.mark.skipif("c" not in BACKENDS, reason=str(problem()))
def test_groups_of_candidates_are_one_call_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nas.backends.c.runner._AT_ONCE", 2 * 4 * WIDTH * BATCH * STEPS
    )  # two candidates, then one
    agrees(zoo("lstm"), torch.float32, own=False, given=True, lengths=None, backend="c")
    agrees(zoo("gla"), torch.float32, own=True, given=False, lengths=[6, 2, 6, 1], backend="c")


@pytest.mark.skipif("c" not in BACKENDS, reason=str(problem()))
def test_all_candidates_are_one_call_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.backends.c.running import Running

    calls = []
    plain = Running.__call__

    def counted(self: Running, *given: Any) -> None:
        calls.append(given[2:])
        plain(self, *given)

    monkeypatch.setattr(Running, "__call__", counted)
    together = Ensemble.of(modules(zoo("lstm"), backend="c"))
    together(drawn(BATCH, STEPS, WIDTH))[0].sum().backward()
    assert calls == [(COUNT,)] * 2  # forward and backward


@pytest.mark.skipif("c" not in BACKENDS, reason=str(problem()))
@pytest.mark.parametrize("name", ["lstm", "gla"])
def test_an_ensemble_is_traced_whole(name: str) -> None:
    together = Ensemble.of(modules(zoo(name), backend="c"))
    x = drawn(BATCH, STEPS, WIDTH)
    whole = torch.compile(together, fullgraph=True, backend="aot_eager")

    def gradients(run: Any) -> tuple[Tensor, ...]:
        y, _ = run(x)
        return (y, *torch.autograd.grad(y.square().sum(), list(together.parameters())))

    torch.testing.assert_close(gradients(whole), gradients(together), rtol=1e-5, atol=1e-6)


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [zoo("lstm"), BUFFERED], ids=lambda cell: cell.name)
def test_weights_go_in_and_out(cell: Cell) -> None:
    apart = modules(cell, torch.float64, num_layers=2)
    apart[0].layers[0].requires_grad_(False)
    with pytest.raises(BuildError, match="trained"):
        Ensemble.of(apart)
    for module in apart:
        module.layers[0].requires_grad_(False)
        module.eval()
    together = Ensemble.of(apart)
    assert list(together.state_dict()) == list(apart[0].state_dict())
    for c, module in enumerate(apart):
        alone = together.candidate(c)
        assert type(alone) is CellModule
        assert not alone.training
        torch.testing.assert_close(alone.state_dict(), module.state_dict(), rtol=0, atol=0)
        assert [p.requires_grad for p in alone.parameters()] == [p.requires_grad for p in module.parameters()]
        alone.load_state_dict({name: value[c] for name, value in together.state_dict().items()})
    again = Ensemble.of([together.candidate(c) for c in range(COUNT)])
    torch.testing.assert_close(again.state_dict(), together.state_dict(), rtol=0, atol=0)
    with torch.no_grad():
        next(again.parameters()).zero_()  # copies: the modules stay as they are
    assert bool(next(together.parameters()).any())


def test_candidates_begin_as_modules_of_the_same_seeds() -> None:
    cell = zoo("gla")
    together = Ensemble(cell, COUNT, WIDTH, WIDTH, heads=2)
    together.reset_parameters([torch.Generator().manual_seed(seed) for seed in range(COUNT)])
    for seed in range(COUNT):
        module = build(cell, WIDTH, WIDTH, heads=2)
        module.reset_parameters(torch.Generator().manual_seed(seed))
        torch.testing.assert_close(together.candidate(seed).state_dict(), module.state_dict(), rtol=0, atol=0)
    torch.manual_seed(7)
    one_by_one = [build(cell, WIDTH, WIDTH, heads=2) for _ in range(COUNT)]
    torch.manual_seed(7)
    at_once = Ensemble(cell, COUNT, WIDTH, WIDTH, heads=2)
    torch.testing.assert_close(at_once.state_dict(), Ensemble.of(one_by_one).state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("own", [False, True])
def test_tokens_of_a_table(own: bool) -> None:
    parts = modules(zoo("gru"))
    table, tokens = drawn(COUNT, 5, WIDTH), torch.tensor([[0, 4, 2], [3, 3, 1]])
    y, _ = Ensemble.of(parts)(tokens, table=table if own else table[0])
    for c, (module, rows) in enumerate(zip(parts, table, strict=True)):
        torch.testing.assert_close(y[c], module(tokens, table=rows if own else table[0])[0])
    with pytest.raises(BuildError, match=r"x is tokens, a tensor \[B, T\] of int64"):
        Ensemble.of(parts)(drawn(2, 3, WIDTH), table=table)
    for wrong in (tokens - 1, tokens + 1):  # -1 is no token
        with pytest.raises(IndexError, match="range"):
            Ensemble.of(parts)(wrong, table=table if own else table[0])
    for shape in (table[0, 0], table[:2], table[..., :2]):
        with pytest.raises(BuildError, match="table must have the shape"):
            Ensemble.of(parts)(tokens, table=shape)


def test_copies() -> None:
    together = Ensemble.of(modules(zoo("gru")))
    x = drawn(BATCH, STEPS, WIDTH)
    torch.testing.assert_close(copy.deepcopy(together)(x), together(x), rtol=0, atol=0)
    assert "Ensemble(\n  3 x gru, 8, 8" in str(together)


def test_training_side_by_side_is_training_one_by_one() -> None:
    """Elementwise optimisers know no candidates, so k models are trained by one of them."""
    apart = modules(zoo("gru"))
    together = Ensemble.of(apart)
    x, aim = drawn(BATCH, STEPS, WIDTH), drawn(BATCH, STEPS, WIDTH).tanh()

    def trained(module: nn.Module) -> None:
        optimiser = torch.optim.AdamW(module.parameters(), 1e-2)
        for _ in range(5):
            optimiser.zero_grad()
            (module(x)[0] - aim).square().mean((-3, -2, -1)).sum().backward()
            optimiser.step()

    for module in (*apart, together):
        trained(module)
    for c, module in enumerate(apart):
        torch.testing.assert_close(
            together.candidate(c).state_dict(), module.state_dict(), rtol=1e-4, atol=1e-5
        )


# ---- what is wrong ------------------------------------------------------------------------------


def test_modules_of_another_structure() -> None:
    module = build(zoo("gru"), WIDTH, WIDTH)
    with pytest.raises(BuildError, match=r"have one structure.*number 1 is of another cell than number 0"):
        Ensemble.of([module, build(zoo("lstm"), WIDTH, WIDTH)])
    with pytest.raises(BuildError, match="the same sizes; number 1 has hidden_size=16, number 0 8"):
        Ensemble.of([module, build(zoo("gru"), WIDTH, 16)])
    with pytest.raises(BuildError, match="modules over time; number 1 is a TreeModule"):
        Ensemble.of([module, build(zoo("treelstm"), WIDTH, WIDTH)])
    with pytest.raises(BuildError, match="have the exact solver; received modules with 'newton'"):
        Ensemble.of([build(zoo("indrnn"), WIDTH, WIDTH, solver="newton")])
    with pytest.raises(BuildError, match="at least 1 candidate; received no modules"):
        Ensemble.of([])


def test_arguments_that_are_wrong() -> None:
    with pytest.raises(BuildError, match="at least 1 candidate; received candidates=0"):
        Ensemble(zoo("gru"), 0, WIDTH, WIDTH)
    with pytest.raises(BuildError, match="cells over time; treelstm is a tree cell"):
        Ensemble(zoo("treelstm"), COUNT, WIDTH, WIDTH)
    together = Ensemble(zoo("gru"), COUNT, WIDTH, WIDTH)
    with pytest.raises(
        BuildError, match=r"\[B, T, 8\], the same .* or \[3, B, T, 8\]; received \[2, 4, 6, 8\]"
    ):
        together(drawn(2, BATCH, STEPS, WIDTH))
    with pytest.raises(BuildError, match=r"\[B, 8\] or \[3, B, 8\]; received \[2, 4, 8\]"):
        together.step(drawn(2, BATCH, WIDTH))
    with pytest.raises(BuildError, match=r"h must have the shape \[3, 1, 4, 8\]; received \[1, 4, 8\]"):
        together(drawn(BATCH, STEPS, WIDTH), drawn(1, BATCH, WIDTH))
    packed = pack_padded_sequence(drawn(BATCH, STEPS, WIDTH), [6, 5, 4, 3], batch_first=True)
    with pytest.raises(BuildError, match="no PackedSequence"):
        together(packed)
    with pytest.raises(BuildError, match="candidates 0 to 2; received 3"):
        together.candidate(3)
    with pytest.raises(BuildError, match="one generator for each of 3 candidates; received 1"):
        together.reset_parameters([torch.Generator()])
    with pytest.raises(BuildError, match=r"drawn by a torch\.Generator, or one for each; received 3"):
        together.reset_parameters(3)  # type: ignore[arg-type]
    with pytest.raises(BuildError, match="number is a whole number; received 'a'"):
        together.candidate("a")  # type: ignore[arg-type]
    with pytest.raises(BuildError, match="x is a tensor or a PackedSequence; received list"):
        together([1.0])
    with pytest.raises(
        BuildError, match=r"x must be torch\.float32, as the weights are; received torch\.float64"
    ):
        together(drawn(BATCH, STEPS, WIDTH).double())


@pytest.mark.parametrize("candidates", ["2", 2.5, True, None])
def test_candidates_are_a_whole_number(candidates: Any) -> None:
    with pytest.raises(BuildError, match=f"candidates is a whole number; received {candidates!r}"):
        Ensemble(zoo("gru"), candidates, WIDTH, WIDTH)


def test_sizes_are_whole_numbers() -> None:
    with pytest.raises(BuildError, match="input_size is a whole number; received '8'"):
        Ensemble(zoo("gru"), COUNT, "8", WIDTH)  # type: ignore[arg-type]
    with pytest.raises(BuildError, match="hidden_size is a whole number; received None"):
        Ensemble(zoo("gru"), COUNT, WIDTH, None)  # type: ignore[arg-type]


def test_modules_may_come_one_by_one_and_are_modules() -> None:
    assert Ensemble.of(module for module in modules(zoo("gru"))).candidates == COUNT
    with pytest.raises(BuildError, match="made of modules; received one CellModule"):
        Ensemble.of(build(zoo("gru"), WIDTH, WIDTH))  # type: ignore[arg-type]
    with pytest.raises(BuildError, match="made of modules; received one NoneType"):
        Ensemble.of(None)  # type: ignore[arg-type]


def test_a_backend_without_candidates_is_passed_over() -> None:
    class Plain(Backend):
        name = "plain"

        def available(self) -> str | None:
            return None

        def refuses(self, cell: Cell) -> str | None:
            return None

        def compile(self, cell: Cell, sizes: Any, fallback: bool = False) -> Runner:
            return choose("reference", cell).compile(cell, sizes)

    register_backend(Plain())
    try:
        assert choose("auto", zoo("gru")).name == "plain"
        assert choose("auto", zoo("gru"), candidates=True).name != "plain"
        Ensemble(zoo("gru"), COUNT, WIDTH, WIDTH)
        with pytest.raises(BuildError, match="backend 'plain' runs no candidates side by side"):
            Ensemble(zoo("gru"), COUNT, WIDTH, WIDTH, backend="plain")
    finally:
        del _BACKENDS["plain"]
