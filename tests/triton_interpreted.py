"""Triton's kernels in its interpreter: run by test_nas_backends_triton.py in a process of its own.

TRITON_INTERPRET=1 has to be set before triton is imported, and forbids compilation ahead of time in that process.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from backend_suite import built, drawn, results
from conformance import Case, Shape, check
from hypothesis import given, settings
from strategies import cells
from test_nas_backends_conformance import ODD
from torch import Tensor

from grammar import Cell, Sizes, parse, zoo, zoo_names
from nas.backends.operators import key_of
from nas.ir import adjoint_cell, matrices, normal_cell, shape_in
from nas.nn import CellModule, Ensemble, build

# In the places that pad a tile numpy warns of what nothing reads.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
# RMS of the error over RMS of the value, by type of number. A value that should cancel, on the scale of the largest.
RATIOS = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 8e-3}
FEW = ("lstm", "mingru", "slstm", "lmu", "aaren", "gla")
SCANNED = ("mingru", "lru", "rwkv4")  # one slot, two, and max-plus
# Cells with matrix states that are computed a chunk of steps at once.
CHUNKED = """
    deltanet deltanet_negative gated_deltanet gla hgrn2 kda linear_attention mamba2 mlstm retnet rwkv6 rwkv7
""".split()
TIME = [name for name in zoo_names() if zoo(name).kind == "time"]
REAL = [n for n in TIME if not any(s.type.is_complex for s in zoo(n).states)]  # torch has no complex bfloat16
RANDOM = settings(max_examples=40)


def agrees(cell: Cell, dtype: torch.dtype, steps: int = 5, device: str = "cpu") -> None:
    """Outputs, final states and every gradient are the reference's in float64, at weights and x of that type.

    In bfloat16 a few values, such as gradients that cancel, are further off in eager torch too: then no further than
    twice the furthest there.
    """
    module, plain = built(cell, "triton", dtype).to(device), built(cell)
    plain.load_state_dict({name: value.double().cpu() for name, value in module.state_dict().items()})
    x = drawn(module.cpu(), steps)
    ours, theirs = results(module.to(device), x.to(device)), results(plain, x.double())
    assert list(ours) == list(theirs)
    eager = results(built(cell, dtype=dtype), x) if dtype == torch.bfloat16 else {}
    finite = {what: v for what, v in theirs.items() if v.numel() and bool(torch.isfinite(v.abs()).all())}
    largest = max(rms(value) for value in finite.values())
    own = max(
        (rms(eager[k].double() - v) / (rms(v) + 1e-3 * largest) for k, v in finite.items() if eager),
        default=0.0,
    )
    for what, value in finite.items():
        error = rms(ours[what].cpu().to(value.dtype) - value) / (rms(value) + 1e-3 * largest)
        assert error <= max(RATIOS[dtype], 2 * own), f"{what}: {error:.1e}, eager torch {own:.1e}"


def rms(value: Tensor) -> float:
    """The root of the mean square."""
    return float(value.abs().square().mean().sqrt())


@pytest.mark.parametrize("name", FEW)
def test_known_cells(name: str) -> None:
    agrees(zoo(name), torch.float32)


@pytest.mark.parametrize("name", ["gru"])
def test_bfloat16(name: str) -> None:
    agrees(zoo(name), torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlstm", "rwkv7"])
def test_bfloat16_of_matrices_from_a_state(name: str) -> None:
    """A running maximum's gradient, which nearly cancels; mixes with the step before, beside a removal term."""
    case = Case(name, zoo(name), Shape(2, 18, 8, 2, None, 8, (18, 3), given=True), 7)
    outcome = check(case, "triton", torch.bfloat16)
    assert outcome.status == "ok"
    assert outcome.error <= RATIOS[torch.bfloat16]


@pytest.mark.parametrize("name", SCANNED)
def test_scans(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.execute.LONG", 1)
    monkeypatch.setattr("nas.backends.triton.scan.STEPS", 4)
    agrees(zoo(name), torch.float32, steps=7)  # more than one chunk


def test_matrices_read_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.tiles.CHIP", 0)
    agrees(zoo("gru_cho"), torch.float32)


# A block of the map for each head, beside a matrix.
BLOCKS = parse("""cell blocks {
  state h: vec, S: mat; S' = 0.5 * S + outer(tokey(h), h)
  h' = tanh(lin(x) + lin(h, bias=no, blocks=heads)) + 0.1 * read(S', lin:key(x)); out h'
}""")


@pytest.mark.parametrize("name", ["fast_weights", pytest.param("blocks", marks=pytest.mark.slow)])
def test_products_of_one_row_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.backends.triton.emit import Kernel
    from nas.backends.triton.runner import Both

    monkeypatch.setattr("nas.backends.triton.tiles.ALL", 0)
    monkeypatch.setattr("nas.backends.triton.emit.PART", 64)
    cell = BLOCKS if name == "blocks" else zoo(name)
    both = Both(adjoint_cell(cell), built(cell).sizes[0], torch.float32)
    kernels = [k for k in both.forward.kernels() if isinstance(k, Kernel)]
    assert any(kind == "aside" for k in kernels for kind, _ in k.pointers)
    agrees(cell, torch.float32)


def test_what_there_is_no_room_for_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.tiles.HELD", 0)
    agrees(zoo("srwm"), torch.float32)


def test_a_heads_values_in_several_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.backends.triton.emit import Kernel
    from nas.backends.triton.runner import Both

    monkeypatch.setattr("nas.backends.triton.tiles.HELD", 0)
    monkeypatch.setattr("nas.backends.triton.tiles.LEAST", 1)
    both = Both(adjoint_cell(zoo("ffm")), built(zoo("ffm")).sizes[0], torch.float32)
    assert max(k.tiles.split for k in both.backward.kernels() if isinstance(k, Kernel)) > 1
    agrees(zoo("ffm"), torch.float32)


def test_what_does_not_need_matrices_in_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.partition.CROWD", 0)
    agrees(zoo("gla"), torch.float32)


@pytest.mark.parametrize("name", ["gru_cho"])
def test_step_by_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.tiles.CHIP", 0)
    monkeypatch.setattr("nas.backends.triton.tiles.MATRIX", 0)
    agrees(zoo(name), torch.float32)


def test_equal_lengths_and_several_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.tiles.LANES", 8)  # 5 sequences of 8 values are 5 programs
    module, plain = built(zoo("mingru"), "triton"), built(zoo("mingru"))
    x = torch.randn(5, 8, module.input_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ours, theirs in zip(module(x), plain(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# ---- operators of torch -------------------------------------------------------------------------

TRACED = ("mingru", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lstm", "gla", "lru")))
WIDTH = 4


def module_of(name: str) -> CellModule:
    module = build(zoo(name), WIDTH, WIDTH, heads=2, backend="triton")
    module.reset_parameters(torch.Generator().manual_seed(0))
    return module


@pytest.mark.parametrize("name", TRACED)
def test_the_operators_are_what_they_say(name: str) -> None:
    key, module = key_of("triton", zoo(name), Sizes.of(WIDTH, WIDTH, 2)), module_of(name)
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    slots, layout = normal_cell(zoo(name)).program.slots, (None, 2, 5, False, False)
    x, weights = drawn(10, WIDTH), [p.detach().clone().requires_grad_() for p in module.parameters()]
    state = [drawn(2, *shape_in(slot.type, module.sizes[0])) for slot in slots]
    given = (key, x, weights, state, [True] * len(state), *layout, True)
    torch.library.opcheck(torch.ops.recell.cell.default, given)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("name", TRACED)
def test_a_module_is_traced_whole_and_exported(name: str) -> None:
    module = module_of(name)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(1))

    def gradients(run: Any) -> tuple[Tensor, ...]:
        y, after = run(drawn(3, 4))
        parts = after if isinstance(after, tuple) else (after,)
        loss = y.square().sum() + torch.stack([part.abs().sum() for part in parts]).sum()
        return (y, *torch.autograd.grad(loss, list(module.parameters())))

    whole = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(whole), gradients(module), rtol=1e-5, atol=1e-6)
    batch, time = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("time", min=2, max=512)
    module.requires_grad_(False)
    program = torch.export.export(module, (drawn(3, 4),), dynamic_shapes={"x": {0: batch, 1: time}})
    for x in (drawn(3, 4), drawn(2, 7)):
        torch.testing.assert_close(program.module()(x), module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["retnet", "deltanet"])
def test_chunks_of_matrices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.runner.CHUNKED", 1)
    agrees(zoo(name), torch.float64, steps=18)  # more than one chunk


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_of_all_matrices(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.runner.CHUNKED", 1)
    agrees(zoo(name), dtype, steps=20)


# Decays may be negative, zero and above 1, and fall from a state in any order of terms.
MATRICES = (
    "state S: mat; S' = tanh(lin:scal(x)) * S + outer(lin:key(x), lin(x)); out read(S', lin:key(x))",
    "state S: mat; a = max(lin:key(x), 0); S' = a * S - outer(lin:key(x), lin(x)); out read(S, lin:key(x)) + lin(x)",
    "state S: mat; S' = 1.1 * S + outer(lin:key(x), lin(x)) + outer(lin:key(x), lin(x)); out read(S', lin:key(x))",
    "state S: mat, P: mat; S' = 0.5 * S + outer(lin:key(x), lin(x)); P' = P + outer(lin:key(x), lin(x)); "
    "out read(S', lin:key(x)) * read(P, lin:key(x))",
    "state S: mat; P = sigmoid(lin:key(x)) * S; r = read(P, lin:key(x)); "
    "S' = P + outer(lin:key(x), sigmoid(lin:scal(x)) * (lin(x) - 0.3 * r)); out read(S', lin:key(x)) + r",
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("text", MATRICES)
def test_chunks_of_odd_matrices(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.runner.CHUNKED", 1)
    cell = parse(f"cell odd {{ {text} }}")
    forward = matrices(adjoint_cell(cell).forward)
    assert forward is not None
    assert matrices(adjoint_cell(cell).backward, forward.chains) is not None
    agrees(cell, torch.float64, steps=18)


def candidates_agree(cell: Cell, own: bool) -> None:
    """Candidates are those of the reference; each kernel is launched once for all of them."""
    from nas.backends.triton import launch

    launched = []
    plain = launch.over_candidates

    def counted(kernel: Any) -> str:
        launched.append(kernel)
        return str(plain(kernel))

    modules = [built(cell, "triton") for _ in range(2)]
    for number, module in enumerate(modules):
        with torch.no_grad():
            for array in module.parameters():
                array.mul_(1 + 0.3 * number)
    ours, theirs = Ensemble.of(modules), Ensemble.of(modules, backend="reference")
    x = drawn(modules[0], 4)
    x = torch.stack([x, x.flip(0)]) if own else x
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "over_candidates", counted)
        found = results(ours, x)
    both = ours._runners[0].kernels.both(torch.float64)  # type: ignore[attr-defined]
    assert 1 <= len(launched) <= len(both.forward.kernels()) + len(both.backward.kernels())
    for what, value in results(theirs, x).items():
        scale = float(value.abs().max()) + 1e-12
        torch.testing.assert_close(found[what] / scale, value / scale, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "own"), [("mingru", True), ("gla", False)])
def test_candidates(name: str, own: bool) -> None:
    candidates_agree(zoo(name), own)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", TIME)
def test_candidates_of_every_known_cell(name: str, own: bool) -> None:
    candidates_agree(zoo(name), own)


def test_gradients_add_up_over_calls() -> None:
    """Two biases have one gradient, and each its own memory: torch adds to it in place."""
    module = built(parse("cell twins { state h: vec; h' = tanh(lin(x) + lin(h)); out h' }"), "triton")
    x = drawn(module)
    once = torch.autograd.grad(module(x)[0].sum(), list(module.parameters()))
    for _ in range(2):
        module(x)[0].sum().backward()
    for parameter, gradient in zip(module.parameters(), once, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 2 * gradient)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_candidates_are_not_traced_and_say_so() -> None:
    together = Ensemble.of([built(zoo("mingru"), "triton", torch.float32) for _ in range(2)])
    whole = torch.compile(together, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="candidates side by side are no operator that torch traces"):
        whole(drawn(together, 3))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", RATIOS, ids=str)
@pytest.mark.parametrize("name", TIME)
def test_every_known_cell(name: str, dtype: torch.dtype) -> None:
    if dtype != torch.bfloat16 or name in REAL:
        agrees(zoo(name), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mingru", "minlstm", "hgrn", "lru", "rwkv4", "qrnn", "sru", "indrnn"])
def test_long_scans(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.triton.execute.LONG", 1)
    agrees(zoo(name), torch.float64, steps=70)


@pytest.mark.slow
@pytest.mark.parametrize("text", ODD)
def test_odd_cells(text: str) -> None:
    cell = parse(f"cell odd {{ {text} }}")
    if cell.kind == "time" and " depth " not in text:
        agrees(cell, torch.float64)


@pytest.mark.slow
@RANDOM
@given(cell=cells(kinds=("time",), smooth=True))
def test_random_cells(cell: Cell) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agrees(cell, torch.float64)
