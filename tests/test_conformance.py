"""Every backend at sizes that are used; and the suite itself, which must find wrong ones out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conformance import TOLERANCES, Outcome, cases, check, known_cells, poisoned, random_cells
from hypothesis import given, settings
from mutants import WRONG, Change, Mutant, unchanged
from strategies import cells
from torch import Tensor

from grammar import Cell, Sizes, parse, zoo
from nas.backends import backend_names, choose, register_backend
from nas.backends.reference import Reference
from nas.errors import BuildError
from nas.nn import CellModule, build

RANDOM = 10  # of each space
CELLS = known_cells() | random_cells(RANDOM)
FAST = [pair for pair in TOLERANCES if pair[0] in backend_names() and pair[0] != "reference"]
CUDA_ONLY = ("triton",)
MANNERS = ["lstm", "gru_cho", "mingru", "gated_deltanet", "lru", "mamba"]


def test_each_backend_is_in_the_suite() -> None:
    assert set(backend_names()) <= {backend for backend, _ in TOLERANCES}


@pytest.mark.parametrize(("backend", "dtype"), FAST)
@pytest.mark.parametrize(("index", "name"), list(enumerate(CELLS)), ids=list(CELLS))
def test_agrees_with_the_reference(index: int, name: str, backend: str, dtype: torch.dtype) -> None:
    skip_without(backend)
    bad = [outcome for outcome in run(name, CELLS[name], index, backend, dtype) if outcome.status != "ok"]
    assert not bad, "\n".join(described(outcome) for outcome in bad)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "dtype"), FAST)
@settings(max_examples=20)
@given(cell=cells(kinds=("time",), smooth=True))
def test_any_cell_agrees_with_the_reference(backend: str, dtype: torch.dtype, cell: Cell) -> None:
    skip_without(backend)
    with poisoned():
        outcomes = [check(case, backend, dtype) for case in list(cases("any", cell, 1))[:2]]
    assert not [described(o) for o in outcomes if o.status not in ("ok", "wild")]


def run(name: str, cell: Cell, index: int, backend: str, dtype: torch.dtype) -> list[Outcome]:
    with poisoned():
        return [check(case, backend, dtype) for case in cases(name, cell, index)]


def described(outcome: Outcome) -> str:
    own = "" if outcome.own is None else f", {outcome.own:.1e} in the reference in float32"
    what = f"{outcome.where} errs by {outcome.error:.1e}{own}" if outcome.where else outcome.message
    return f"{outcome.case}: {outcome.status}: {what}"


def skip_without(backend: str) -> None:
    reason = choose_reason(backend)
    if reason:
        pytest.skip(reason)
    if backend in CUDA_ONLY and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")


def choose_reason(backend: str) -> str:
    try:
        choose(backend, zoo("elman"))
    except BuildError as error:
        return str(error)
    return ""


# ---- the suite itself -------------------------------------------------------------------------


@pytest.fixture
def mutant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Registers a changed reference under the name `mutant` for one test."""

    def register(change: Change) -> None:
        monkeypatch.setattr("nas.backends.registry._BACKENDS", {"reference": Reference()})
        monkeypatch.setitem(TOLERANCES, ("mutant", torch.float32), 5e-6)
        register_backend(Mutant(change))
        from nas.backends import runner

        runner.cache_clear()

    return register


def found_wrong(backend: str = "mutant") -> set[str]:
    names = ["gru", "mingru", "deltanet"]
    outcomes = [o for name in names for o in run(name, zoo(name), 3, backend, torch.float32)]
    return {o.case.name for o in outcomes if o.status == "failed"}


def test_the_reference_passes(mutant: Callable[[Change], None]) -> None:
    mutant(unchanged)
    assert found_wrong() == set()


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_a_wrong_backend_fails(change: Change, mutant: Callable[[Change], None]) -> None:
    mutant(change)
    assert found_wrong() == {"gru", "mingru", "deltanet"}


def test_a_refusal_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reference, "refuses", lambda self, cell: "it will not")
    (outcome, *_) = run("gru", zoo("gru"), 0, "reference", torch.float32)
    assert (outcome.status, outcome.message) == (
        "refused",
        "the backend 'reference' cannot run cell 'gru': it will not",
    )


def test_cases_cover_the_sizes_that_are_promised() -> None:
    shapes = [case.shape for k, (name, cell) in enumerate(CELLS.items()) for case in cases(name, cell, k)]
    for own in range(0, len(shapes), 3):
        assert [shape.steps for shape in shapes[own : own + 3]] == [1, 63, 200]
    assert {shape.hidden_size for shape in shapes} == {40, 96}
    for steps in (1, 63, 200):
        at = [shape for shape in shapes if shape.steps == steps]
        assert {shape.batch for shape in at} >= ({3} if steps == 63 else {1, 3})
        assert {shape.given for shape in at} == {False, True}
        assert {shape.heads for shape in at} >= {1, 2, 3, 4, 5}
        assert any(shape.input_size not in (shape.hidden_size,) for shape in at)
    assert sum(not shape.learned for shape in shapes) > len(shapes) // 6
    assert sum(shape.lengths is not None for shape in shapes) > len(shapes) // 6


def test_explosive_cells_are_calmed() -> None:
    cell = parse("cell c { state h: vec; h' = 1.5 * h + lin(x); out h' }")
    outcomes = run("c", cell, 0, "reference", torch.float32)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    assert outcomes[2].case.shape.steps == 20
    worse = parse("cell c { state h: vec; h' = exp(exp(square(h) + 9)) + lin(x); out h' }")
    assert {outcome.status for outcome in run("c", worse, 0, "reference", torch.float32)} == {"wild"}


# ---- manners that no single comparison shows ---------------------------------------------------


def module_and_input(name: str, backend: str) -> tuple[CellModule, Tensor]:
    module = build(zoo(name), 24, 24, heads=2, backend=backend)
    module.reset_parameters(torch.Generator().manual_seed(0))
    return module, torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(1))


def backends() -> list[str]:
    return sorted({"reference", *(backend for backend, _ in FAST if backend not in CUDA_ONLY)})


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", MANNERS)
def test_gradients_are_the_same_a_second_time(name: str, backend: str) -> None:
    skip_without(backend)
    module, x = module_and_input(name, backend)
    y, _ = module(x)
    parameters = list(module.parameters())
    first = torch.autograd.grad(y.square().sum(), parameters, retain_graph=True, allow_unused=True)
    module(2 * x)[0].sum().backward()
    second = torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", MANNERS)
def test_strides_and_frozen_weights_change_nothing(name: str, backend: str) -> None:
    skip_without(backend)
    module, x = module_and_input(name, backend)
    y, _ = module(x)
    strided = torch.empty(9, 24, 3, 2)[..., 0].permute(2, 0, 1).copy_(x)
    expanded = x[:1].expand(3, -1, -1)
    for other, expected in ((strided, y), (expanded, y[:1].expand(3, -1, -1))):
        torch.testing.assert_close(module(other)[0], expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(module(x)[0], y, rtol=1e-5, atol=1e-6)
    wanted = next(iter(module.parameters()))
    (whole,) = torch.autograd.grad(y.sum(), [wanted])
    for parameter in module.parameters():
        parameter.requires_grad_(parameter is wanted)
    (alone,) = torch.autograd.grad(module(x)[0].sum(), [wanted])
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", MANNERS)
def test_a_loss_may_see_the_final_state_alone(name: str, backend: str) -> None:
    skip_without(backend)
    (module, x), (plain, _) = (module_and_input(name, b) for b in (backend, "reference"))
    found, expected = (
        torch.autograd.grad(real(m(x)[1]), list(m.parameters()), allow_unused=True, materialize_grads=True)
        for m in (module, plain)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", MANNERS)
def test_float64_is_the_reference_to_the_last_bits(name: str, backend: str) -> None:
    """A backend of float32 hands other types on."""
    skip_without(backend)
    (module, x), (plain, _) = (module_and_input(name, b) for b in (backend, "reference"))
    x = x.double()
    found, expected = (m.double()(x, lengths=[9, 2, 5]) for m in (module, plain))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    ours, theirs = (
        torch.autograd.grad(y.sum(), list(m.parameters()), allow_unused=True)
        for m, (y, _) in ((module, found), (plain, expected))
    )
    for one, other in zip(ours, theirs, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def real(state: Tensor | tuple[Tensor, ...]) -> Tensor:
    last = state if isinstance(state, Tensor) else state[-1]
    return (torch.view_as_real(last) if last.is_complex() else last).square().sum()


def test_sizes_fit_every_known_cell() -> None:
    for name, cell in known_cells().items():
        for case in cases(name, cell, 0):
            shape = case.shape
            Sizes.of(shape.input_size, shape.hidden_size, shape.heads, shape.key_size).check(cell.graph)
