"""Newton's method over time: equal to the loop on every elementwise cell, and no answer where it does not converge."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from conformance import cases, check, known_cells, poisoned, random_cells
from torch import Tensor

from grammar import Cell, parse, zoo
from nas.backends.newton import rows
from nas.backends.newton.scan import LINEAR, MAX_PLUS, solved, stepwise
from nas.errors import BuildError
from nas.ir import normal_cell, recurrences
from nas.nn import CellModule, Stack, build

# Cells with gates that see the state through a vector: the first three have one state, the others more in one circle.
MADE = {
    "dgru": "state h: vec; z = sigmoid(lin(x) + diag(h)); r = sigmoid(lin(x) + diag(h));"
    " h' = lerp(z, h, tanh(lin(x) + diag(r * h))); out h'",
    "dtanh": "state h: vec = learned; h' = tanh(lin(x) + 0.5 * diag(h)); out h' + lin(h)",
    "stopped": "state h: vec; h' = tanh(lin(x) + 0.9 * stopgrad(diag(h)) + 0.1 * h); out h'",
    "dlstm": "state h: vec, c: vec; i = sigmoid(lin(x) + diag(h)); f = sigmoid(lin(x) + diag(h));"
    " o = sigmoid(lin(x) + diag(h)); c' = f * c + i * tanh(lin(x) + diag(h)); h' = o * tanh(c'); out h'",
    "three": "state a: vec, b: vec = 0.5, c: vec; a' = tanh(lin(x) + 0.5 * b); b' = sigmoid(lin(x) + c);"
    " c' = 0.5 * sin(a' + lin(x)); out a' * b' + c",
    "complex": "state z: cvec; z' = cis(param:vec(init=uniform(0, 3))) * modrelu(0.9 * z, -0.1) + lin:cvec(x);"
    " out re(z') + im(z')",
    "window": "state h: vec; h' = tanh(lin(x) + conv(h, k=3)); out h'",
    "switch": "state h: vec, m: scal = -1; m' = max(m - 0.1, lin:scal(x)); h' = relu(min(diag(h) + lin(x), 2)) + m';"
    " out h'",
    "fission": "state h: vec, g: vec, k: vec; h' = tanh(lin(x) + diag(h)); g' = tanh(lin(h') + 0.5 * g);"
    " k' = sigmoid(lin(g', x)) * k + lin(h); out k' * h",
    "matrix": "state S: mat; S' = tanh(0.9 * S + outer(lin:key(x), lin(x))); out read(S', lin:key(x))",
}
CELLS = {name: parse(f"cell {name} {{ {text} }}") for name, text in MADE.items()}


def _elementwise(cell: Cell) -> bool:
    return all(found.mixing == "elementwise" for found in recurrences(normal_cell(cell).program))


KNOWN = {name: cell for name, cell in known_cells().items() if _elementwise(cell)}
DRAWN = random_cells(10, spaces=("diagonal",)) | random_cells(20, spaces=("mixed", "matrix", "nasbench_nlp"))
ALL = CELLS | KNOWN | {name: cell for name, cell in DRAWN.items() if _elementwise(cell)}
QUICK = (
    *CELLS,
    "indrnn",
    "sru",
    "mingru",
    "rwkv4",
    "lru",
    "gla",
    "odd4",
    *(f"diagonal#{k}" for k in range(4)),
)


# ---- the scan ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algebra", [LINEAR, MAX_PLUS], ids=["linear", "max-plus"])
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 64, 101])
def test_the_scan_is_the_loop(steps: int, slots: int, algebra: object) -> None:
    generator = torch.Generator().manual_seed(steps)
    a: list[list[Tensor | None]] = [
        [torch.randn(steps, 2, 3, generator=generator, dtype=torch.float64) for _ in range(slots)]
        for _ in range(slots)
    ]
    if slots > 1:
        a[0][1] = None
    b = [torch.randn(steps, 2, 3, generator=generator, dtype=torch.float64) for _ in range(slots)]
    for found, truth in zip(solved(a, b, algebra), stepwise(a, b, algebra), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)


# ---- equal to the loop ------------------------------------------------------------------------


def disagreements(name: str, which: slice) -> list[object]:
    cell, index = ALL[name], list(ALL).index(name)
    with poisoned():
        outcomes = [check(case, "newton", torch.float32) for case in list(cases(name, cell, index))[which]]
    assert any(o.status == "ok" for o in outcomes)
    # "wild": the reference itself is beyond what float32 holds
    return [o.message or o for o in outcomes if o.status not in ("ok", "wild")]


@pytest.mark.parametrize("name", QUICK)
def test_agrees_with_the_reference(name: str) -> None:
    """Outputs, final states and all gradients; initial states that are given, lengths that vary, poisoned memory."""
    assert disagreements(name, slice(1, 2)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_agrees_with_the_reference_at_all_shapes(name: str) -> None:
    assert disagreements(name, slice(None)) == []


def small(cell: Cell, solver: str = "newton", **options: Any) -> CellModule:
    """A module of which two with different solvers have the same weights."""
    torch.manual_seed(3)
    return build(cell, 6, 6, heads=2, backend="reference", solver=solver, **options).double()


def all_of(module: CellModule, x: Tensor, **given: object) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    y, after = module(x, **given)
    finals = after if isinstance(after, tuple) else (after,)
    total = y.sin().sum() + sum((torch.view_as_real(f) if f.is_complex() else f).cos().sum() for f in finals)
    wanted = {n: p for n, p in module.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(total, [x, *wanted.values()], allow_unused=True, materialize_grads=True)
    return (
        {"y": y}
        | {f"final {k}": f for k, f in enumerate(finals)}
        | dict(zip(("x", *wanted), grads, strict=True))
    )


def assert_equal(
    one: CellModule, other: CellModule, x: Tensor, tolerance: float = 1e-9, **given: object
) -> None:
    found, truth = all_of(one, x, **given), all_of(other, x, **given)
    for name, value in truth.items():
        assert torch.allclose(found[name], value, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("name", CELLS)
def test_converges_on_gentle_cells(name: str) -> None:
    module = small(CELLS[name])
    assert_equal(
        module, small(CELLS[name], "exact"), torch.randn(3, 40, 6, dtype=torch.float64), lengths=[40, 7, 23]
    )
    assert (module.newton.calls, module.newton.returned, module.newton.stepwise) == (1, 0, 0)
    assert 0 < module.newton.most <= 12


@pytest.mark.parametrize("name", ["indrnn", "sru"])
def test_known_cells_take_few_rounds(name: str) -> None:
    module = small(zoo(name))
    module(torch.randn(4, 500, 6, dtype=torch.float64))
    assert 1 < module.newton.most <= 16
    assert module.newton.returned == 0


@pytest.mark.parametrize("name", ["mingru", "lru", "rwkv4", "gla"])
def test_what_is_a_scan_takes_one(name: str) -> None:
    module = small(zoo(name))
    module(torch.randn(2, 30, 6, dtype=torch.float64))
    assert module.newton.most <= 2


def test_layers_directions_and_dropout() -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": False}
    one, other = small(CELLS["dlstm"], **options), small(CELLS["dlstm"], "exact", **options)
    assert_equal(one, other, torch.randn(9, 3, 6, dtype=torch.float64), lengths=[9, 4, 6])
    assert one.newton.calls == 4


@pytest.mark.parametrize("name", ["dgru", "dlstm", "window", "complex"])
def test_gradients_are_those_of_differences(name: str) -> None:
    module = small(CELLS[name])
    x = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)
    start = module.init_state(2)
    state = tuple(
        (s.detach() + 0.3).requires_grad_() for s in (start if isinstance(start, tuple) else (start,))
    )

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        y, after = module(x, rest[: len(state)] if len(state) > 1 else rest[0], lengths=[6, 4])
        finals = after if isinstance(after, tuple) else (after,)
        return (y, *(torch.view_as_real(f) if f.is_complex() else f for f in finals))

    assert torch.autograd.gradcheck(run, (x, *state, *module.parameters()), fast_mode=True)
    assert module.newton.returned == 0


def test_only_what_is_asked_for_has_a_gradient() -> None:
    module = small(CELLS["dgru"])
    module.requires_grad_(False)
    state = torch.zeros(1, 2, 6, dtype=torch.float64, requires_grad=True)
    module(torch.randn(2, 5, 6, dtype=torch.float64), state)[0].sum().backward()
    assert state.grad is not None
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_bits_are_solved_in_float32(dtype: torch.dtype) -> None:
    module = build(CELLS["dgru"], 6, 6, backend="reference", solver="newton").to(dtype)
    y, state = module(torch.randn(2, 20, 6, dtype=dtype))
    y.sum().backward()
    assert (y.dtype, state.dtype, module.newton.returned) == (dtype, dtype, 0)
    wide = build(CELLS["dgru"], 6, 6, backend="reference")
    wide.load_state_dict(module.state_dict())
    x = torch.randn(2, 20, 6, dtype=dtype)
    torch.testing.assert_close(module(x)[0].float(), wide(x.float())[0], rtol=2e-2, atol=2e-2)


def test_runs_under_autocast() -> None:
    module = build(CELLS["dgru"], 8, 8, backend="reference", solver="newton")
    x = torch.randn(2, 9, 8)
    plain, _ = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = module(x)
        y.sum().backward()
    assert torch.equal(y, plain)


# ---- what does not converge -------------------------------------------------------------------


def wild(solver: str) -> CellModule:
    """A chaotic module: tanh of a large multiple of the state."""
    module = small(CELLS["dtanh"], solver)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(".w"):
                p.copy_(torch.where(p > 0, 9.0, -9.0))
    return module


def test_a_chaotic_cell_takes_the_exact_path() -> None:
    module, x = wild("newton"), torch.randn(2, 80, 6, dtype=torch.float64)
    with pytest.warns(
        RuntimeWarning, match="did not converge for cell dtanh: this call takes the exact path"
    ):
        found = all_of(module, x)
    for name, value in all_of(wild("exact"), x).items():
        assert torch.equal(found[name], value), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once for each module
        module(x)
    assert (module.newton.calls, module.newton.returned) == (2, 2)


def test_numbers_that_are_none_take_the_exact_path() -> None:
    module, x = small(CELLS["dlstm"]), torch.zeros(2, 9, 6, dtype=torch.float64)
    x[1, 4, 2] = torch.nan
    with pytest.warns(RuntimeWarning, match="did not converge"):
        y, _ = module(x)
    assert module.newton.returned == 1
    torch.testing.assert_close(y, small(CELLS["dlstm"], "exact")(x)[0], equal_nan=True)


def test_too_few_rounds_give_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 60, 6, dtype=torch.float64)
    truth, _ = small(CELLS["dlstm"], "exact")(x)
    for rounds in range(8):
        monkeypatch.setattr(rows, "ROUNDS", rounds)
        module = small(CELLS["dlstm"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y, _ = module(x)
        assert module.newton.returned == (rounds < 5)
        torch.testing.assert_close(y, truth, rtol=1e-12, atol=1e-12)


def test_what_is_small_after_a_spike_is_right() -> None:
    """The largest value of the sequence says little about the others."""
    cell = parse(
        "cell spike { state h: vec; h' = 0.3 * h + 0.6 * tanh(2 * diag(h) + lin(x)) + lin(x); out h' }"
    )
    built = {}
    for solver in ("newton", "exact"):
        torch.manual_seed(3)
        built[solver] = build(cell, 4, 4, backend="reference", solver=solver)
    x = torch.randn(2, 90, 4)
    x[:, 5] *= 1e8
    found, truth = (built[solver](x)[0][:, 40:] for solver in ("newton", "exact"))
    assert (built["newton"].newton.calls, built["newton"].newton.returned) == (1, 0)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


def test_as_many_rounds_as_steps_always_converge() -> None:
    """After n rounds the first n steps are exact, however wild the cell."""
    module, x = wild("newton"), torch.randn(2, rows.ROUNDS - 1, 6, dtype=torch.float64)
    assert_equal(module, wild("exact"), x, tolerance=1e-6)
    assert module.newton.returned == 0


def test_a_gradient_whose_scan_overflows_goes_step_by_step() -> None:
    cell = parse("cell steep { state h: vec; h' = 1e30 * h + lin(x, bias=no); out h' }")
    module, x = build(cell, 3, 3, backend="reference", solver="newton"), torch.zeros(2, 40, 3)
    start = torch.zeros(1, 2, 3, requires_grad=True)
    y, _ = module(x, start)
    y[:, 0].sum().backward()
    assert (module.newton.returned, module.newton.stepwise) == (0, 1)
    assert start.grad is not None
    assert torch.equal(start.grad, torch.full((1, 2, 3), 1e30))


# ---- manners ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "gru",
            "cell gru: the recurrence of h is dense nonlinear, and Newton's method is for elementwise ones",
        ),
        ("lattice", "the recurrence of S is block nonlinear"),
        ("deltanet", "the recurrence of S is matrix-affine"),
        ("ut", "cell ut: it runs cells over time, and this is a depth cell"),
        ("treelstm", "a solver is for cells over time, and treelstm is a tree cell; received 'newton'"),
    ],
)
def test_other_cells_are_refused(cell: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build(zoo(cell), 6, 6, solver="newton")


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(BuildError, match="the solvers are exact and newton; received 'newten'"):
        build(zoo("indrnn"), 4, 4, solver="newten")


def test_single_steps_and_traces_are_exact() -> None:
    module, x = small(CELLS["dlstm"]), torch.randn(2, 5, 6, dtype=torch.float64)
    y, _ = module(x)
    state = module.init_state(2)
    for t, x_t in enumerate(x.unbind(1)):
        y_t, state = module.step(x_t, state)
        torch.testing.assert_close(y_t, y[:, t])
    assert module.newton.calls == 1
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x)[0], y)


def test_copies_count_for_themselves() -> None:
    module, x = small(CELLS["dgru"]), torch.randn(2, 5, 6, dtype=torch.float64)
    module(x)
    copied = copy.deepcopy(module)
    assert "solver='newton'" in repr(copied)
    assert torch.equal(copied(x)[0], module(x)[0])
    module(x)
    assert (module.newton.calls, copied.newton.calls) == (3, 2)


def test_a_stack_is_exact_unless_asked() -> None:
    assert Stack(zoo("indrnn"), 4, 4, 8).cell.solver == "exact"
