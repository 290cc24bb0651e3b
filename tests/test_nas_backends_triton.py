"""The triton backend without a GPU: its partition and texts, its kernels interpreted and compiled ahead of time."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from source_tree import ROOT
from torch import Tensor

from grammar import Cell, Sizes, parse, zoo, zoo_names
from nas.backends import Runner, Steps, backend_names, choose, runner
from nas.backends.primitives import product
from nas.backends.triton.cudnn import TorchRunner, plain_name
from nas.backends.triton.partition import Gap, Sweep, one_step, outers_of, partition
from nas.backends.triton.scan import components
from nas.backends.triton.tiles import Tiles, power, tiles
from nas.errors import AnalysisError, BuildError
from nas.ir import Program, Recurrence, adjoint_cell, normal_cell, recurrences
from nas.nn import build

TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not TRITON, reason="triton is not installed")
TIME = [name for name in zoo_names() if zoo(name).kind == "time"]
SIZES = Sizes.of(12, 12, 2)


def sweeps(name: str, sizes: Sizes = SIZES) -> list[Sweep]:
    program = normal_cell(zoo(name)).program
    return [s for s in partition(program, sizes, [program.out]).steps if isinstance(s, Sweep)]


def form(name: str, sizes: Sizes = SIZES) -> list[str]:
    program = normal_cell(zoo(name)).program
    made = [tiles(program, s, sizes) for s in sweeps(name, sizes)]
    return [m.form if isinstance(m, Tiles) else "none" for m in made]


def test_importing_loads_no_triton() -> None:
    code = "import sys, nas.backends; nas.backends.choose; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_says_why_it_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "triton" in backend_names()
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return
    reason = "there is no CUDA device" if TRITON else "triton is not installed"
    with pytest.raises(BuildError, match=f"'triton' cannot run cell 'lstm': {reason}"):
        choose("triton", zoo("lstm"))


@pytest.mark.parametrize("name", TIME)
def test_each_value_is_computed_once_and_after_what_it_needs(name: str) -> None:
    made = adjoint_cell(zoo(name))
    for program, wanted in ((made.forward, [made.forward.out]), (made.backward, [made.dx or 0])):
        cut = partition(program, SIZES, wanted)
        done: set[int] = set()
        for step in cut.steps:
            assert not done & set(step.body)
            here = set(step.body)
            for k in step.body:
                for a in program.instrs[k].args:
                    rows = program.instrs[a].stage not in ("const", "end")
                    given = program.instrs[a].op in ("x", "saved", "past", "next", "dy")
                    assert not rows or given or a in done | here
            done |= here


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("mingru", ["lanes"]),
        ("indrnn", ["lanes"]),
        ("slstm", ["heads"]),
        ("lstm", ["whole"]),
        ("gla", ["heads"]),
        ("rwkv6", ["lanes", "lanes", "heads"]),
    ],
)
def test_forms(name: str, forms: list[str]) -> None:
    assert form(name) == forms


def test_a_recurrence_that_no_program_holds_is_run_step_by_step() -> None:
    sizes = Sizes.of(512, 512)
    program = normal_cell(zoo("lstm")).program
    (sweep,) = sweeps("lstm", sizes)
    assert tiles(program, sweep, sizes) == "1048576 weights do not fit one multiprocessor"
    inner = one_step(program, sizes, sweep)
    assert [type(step) for step in inner] == [Gap, Sweep]  # four products, one fused kernel
    assert {program.instrs[k].op for k in inner[0].body} == {"lin"}


def test_matrices_are_apart_from_much_else() -> None:
    program = adjoint_cell(zoo("mamba2")).backward
    cut = [s for s in partition(program, SIZES, [program.out]).steps if isinstance(s, Sweep)]

    def has_matrices(sweep: Sweep) -> bool:
        return any(program.instrs[k].type.kind == "mat" for k in (*sweep.body, *sweep.loads))

    assert [has_matrices(sweep) for sweep in cut] == [False, True, False, False]
    assert max(len(sweep.loads) + len(sweep.consts) for sweep in cut if has_matrices(sweep)) <= 10


def test_a_heads_values_are_shared_where_nothing_is_summed_along_them() -> None:
    sizes, found = Sizes.of(128, 128, 2), {}
    for name in ("ffm", "gla"):  # gla's gradient of keys is a sum over values
        program = adjoint_cell(zoo(name)).backward
        cut = [s for s in partition(program, sizes, [program.out]).steps if isinstance(s, Sweep)]
        found[name] = max(m.split for s in cut if isinstance(m := tiles(program, s, sizes), Tiles))
    assert found == {"ffm": 2, "gla": 1}


def test_a_recurrence_is_apart_from_what_only_sums_want() -> None:
    program = adjoint_cell(zoo("tkan")).backward
    first, *_ = [s for s in partition(program, SIZES, [program.out]).steps if isinstance(s, Sweep)]
    assert first.slots == [0, 1]  # of h and c: all splines are computed in the sweep of s
    assert len(first.stores) <= 10


def test_sums_of_outer_products_are_no_part_of_a_sweep() -> None:
    program = adjoint_cell(zoo("srwm")).backward
    summed = [i.args[0] for i in program.instrs if i.op == "total" and i.type.kind == "mat"]
    cut = [s for s in partition(program, SIZES, [program.out]).steps if isinstance(s, Sweep)]
    before, sweep, after = cut
    assert not before.slots
    assert not after.slots  # only what recurrences and matrices do not need is apart
    assert len(summed) == 3
    assert sweep.totals == []
    for k in summed:
        outers = outers_of(program, k)
        assert outers is not None
        assert [sign for sign, *_ in outers] == [1, 1]
        assert {a for _, *pair in outers for a in pair} <= {*sweep.stores, *sweep.loads}


@needs_triton
def test_a_replay_takes_what_a_sweep_before_it_computed() -> None:
    from nas.backends.triton.emit import Kernel
    from nas.backends.triton.runner import Both

    both = Both(adjoint_cell(zoo("mamba2")), SIZES, torch.float32)
    (kernel,) = [k for k in both.backward.kernels() if isinstance(k, Kernel) and k.replays]
    kinds = {kind for kind, _ in kernel.pointers}
    assert {"check", "scratch"} <= kinds
    assert not {"again", "once"} & kinds  # nothing that convs and their silus are made from


@needs_triton
@pytest.mark.parametrize("name", ["retnet", "rglru"])
def test_values_of_parameters_alone_are_not_rounded_to_bfloat16(name: str) -> None:
    from nas.backends.triton.execute import Eager, Values

    program = normal_cell(zoo(name)).program
    torch.manual_seed(0)
    module = build(zoo(name), 12, 12, heads=2, backend="reference").bfloat16()
    weights = [p.detach() for p in module.parameters()]
    exact = [w.double() for w in weights]
    eager = Eager(program, SIZES)
    ours = eager.constants(Values({}, weights, {}, weights[0]))
    theirs = eager.constants(Values({}, exact, {}, exact[0]))
    assert {"param", "sigmoid", "softplus"} & {program.instrs[k].op for k in ours} > {"param"}
    for k, value in ours.items():
        torch.testing.assert_close(value.double(), theirs[k], rtol=1e-6, atol=0)


@needs_triton
def test_what_is_made_of_x_is_no_more_rounded_in_a_map_than_x() -> None:
    from nas.backends.triton.execute import halves, rounded

    value = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    first, second = halves(value, torch.bfloat16)
    assert first.dtype == second.dtype == torch.bfloat16
    torch.testing.assert_close(first.float() + second.float(), value, rtol=2.0**-16, atol=0)
    narrow = value.bfloat16()
    for given, dtype in ((narrow, torch.bfloat16), (value, torch.float32), (narrow, torch.float32)):
        (same,) = halves(given, dtype)
        assert same.dtype == dtype
        assert torch.equal(same, rounded(given, dtype)[0])


@needs_triton
@pytest.mark.parametrize("text", ["h' = 0.5 * h + lin(u)", "h' = sigmoid(lin(u)) * h + lin(u)"])
def test_maps_of_all_rows_see_more_digits_than_those_of_a_step(text: str) -> None:
    from nas.backends.triton.execute import Executable, Order, Values

    program = normal_cell(parse(f"cell mixed {{ state h: vec; u = x * sigmoid(x); {text}; out h' }}")).program
    maps = tuple(k for k, i in enumerate(program.instrs) if i.op == "lin")
    (a,) = {program.instrs[k].args[0] for k in maps}
    executable = Executable(program, SIZES, [program.out], dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    operand = torch.randn(6, SIZES.input_size, generator=generator)
    shapes = [tuple(SIZES.at(n) for n in array.spec.shape) for array in program.arrays]
    weights = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]

    def off(order: Order | None) -> float:
        rows, values = {a: operand}, Values({}, weights, {}, operand.bfloat16())
        executable._gap(Gap(maps), rows, values, order)
        errors = []
        for k in maps:
            w = executable.eager.array(program.instrs[k], values)
            exact = operand.double() @ w.double().t()
            errors.append(float((rows[k] - exact).norm() / exact.norm()))
        return max(errors)

    assert off(Order.of(Steps((3, 3)), False, operand.device)) < 1e-5
    assert 1e-4 < off(None) < 1e-2


def test_products_of_x_are_no_part_of_a_sweep() -> None:
    program = normal_cell(zoo("gru")).program
    gap, sweep = partition(program, SIZES, [program.out]).steps
    assert isinstance(gap, Gap)
    assert isinstance(sweep, Sweep)
    assert len(gap.body) == 3
    assert sweep.slots == [0]
    assert sweep.loads == list(gap.body)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mingru", [[((0,), "affine")]]),
        ("lru", [[((0, 1), "affine2")], []]),
        ("rwkv4", [[((3,), "affine")], [((2,), "maxplus"), ((0,), "affine"), ((1,), "affine")]]),
        ("indrnn", [None]),
        ("lstm", [None]),
    ],
)
def test_what_can_be_scanned(name: str, found: list[object]) -> None:
    program = normal_cell(zoo(name)).program
    made = [components(program, sweep) for sweep in sweeps(name)]
    assert [m and sorted(m, key=lambda part: part[1] != "maxplus") for m in made] == found


SWAPPED = """cell swapped {
  state b: vec, a: vec; g = tanh(lin(a, x)); f = sigmoid(lin(x, a)); b' = sigmoid(lin(x, a)) * g + f * b;
  a' = tanh(b') * sigmoid(lin(x, a)); out a'
}"""


@pytest.mark.parametrize("lengths", [(3, 3, 3), (3, 2, 1, 1)])
@pytest.mark.parametrize(
    "cell", [zoo("lstm"), zoo("gru"), zoo("elman"), parse(SWAPPED)], ids=lambda c: c.name
)
def test_plain_cells_by_torchs_own_kernels(cell: Cell, lengths: tuple[int, ...]) -> None:
    steps, module = Steps(lengths), build(cell, 5, 6, backend="reference").double()
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weights = drawn(steps.rows, 5), [drawn(*p.shape) for p in module.parameters()]
    state = [drawn(3, 6) for _ in cell.states]

    def results(run: Runner) -> list[Tensor]:
        y, last = run(x, weights, state, steps)
        loss = (y * y).sum() + sum((k + 1) * value.pow(3).sum() for k, value in enumerate(last))
        return [y, *last, *torch.autograd.grad(loss, [x, *weights, *state])]

    reference = runner("reference", cell, Sizes.of(5, 6))
    torch.testing.assert_close(results(TorchRunner(cell)), results(reference), rtol=1e-10, atol=1e-10)


def test_only_plain_cells_are_torchs() -> None:
    assert [name for name in TIME if plain_name(zoo(name))] == ["elman", "gru", "lstm"]


@needs_triton
def test_many_values_at_once_take_more_warps() -> None:
    from nas.backends.triton.emit import Kernel
    from nas.backends.triton.runner import Both

    both = Both(adjoint_cell(zoo("mamba2")), Sizes.of(128, 128, 2), torch.float32, chunked=True)
    warps = [kernel.warps for kernel in both.backward.kernels() if isinstance(kernel, Kernel)]
    assert warps == [4, 8, 4]  # the second holds some 90 values of 64 lanes for each sequence: 2 warps spill


@needs_triton
def test_what_kernels_are_chosen_by_is_held_against_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.backends.triton.runner import Runner as Kernels

    cell = parse("cell dense { state h: vec; h' = tanh(lin(x, h) + 0.125); out h' }")

    def too_strong(program: Program) -> tuple[Recurrence, ...]:
        return tuple(replace(found, mixing="elementwise") for found in recurrences(program))

    monkeypatch.setattr("nas.ir.checking.recurrences", too_strong)
    with pytest.raises(
        AnalysisError, match="the recurrence of cell dense is refuted by numbers: h: elementwise"
    ):
        Kernels(cell, Sizes.of(4, 4)).adjoint  # noqa: B018


@needs_triton
@pytest.mark.parametrize("name", ["gla", "gated_deltanet", "fast_weights"])
def test_threads_wait_for_what_others_write(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter has one thread, and does not show where a barrier between writing and reading is missing."""
    from nas.backends.triton.runner import Both

    monkeypatch.setattr("nas.backends.triton.tiles.ALL", 0)  # the products of `fast_weights` in parts
    monkeypatch.setattr("nas.backends.triton.emit.PART", 64)
    both = Both(adjoint_cell(zoo(name)), Sizes.of(64, 64, 2), torch.float32)
    shared = set()
    for kernel in (*both.forward.kernels(), *both.backward.kernels()):
        found = re.findall(r"tl\.(load|store)\(([a-z]+\d+)|tl\.(debug_barrier)", kernel.text)
        names = {name for op, name, _ in found if op == "load"} & {n for op, n, _ in found if op == "store"}
        shared |= {re.sub(r"\d", "", name) for name in names}
        open_: set[tuple[str, str]] = set()  # since the last barrier
        for op, where, barrier in found * 2:  # loops come to their first line again
            if barrier:
                open_.clear()
            elif where in names:
                other = "store" if op == "load" else "load"
                assert (other, where) not in open_, f"{op} of {where}"
                open_.add((op, where))
    assert shared == ({"scratch", "aside"} if name == "fast_weights" else {"scratch"})


def test_operators_are_no_part_of_cuda_graphs() -> None:
    for name in ("cell", "cell_backward"):
        assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.recell, name).default.tags


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
def test_narrow_products_of_candidates_are_one_product(
    axes: tuple[int | None, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a rule torch.vmap warns, and multiplies one after the other."""
    shapes, products, bmm = ((4, 5), (5, 6)), [], torch.bmm

    def counted(*given: Any, **options: Any) -> Tensor:
        products.append(options)
        return bmm(*given, **options)

    monkeypatch.setattr(torch, "bmm", counted)
    rows, w = (
        torch.empty(*(() if axis is None else (3,)), *shape, dtype=torch.bfloat16, device="meta")
        for shape, axis in zip(shapes, axes, strict=True)
    )
    made = torch.vmap(product, in_dims=axes)(rows, w)
    assert (made.shape, made.dtype) == ((3, 4, 6), torch.float32)
    assert products == [{"out_dtype": torch.float32}]


def test_powers() -> None:
    assert [power(n) for n in (1, 2, 3, 40, 64, 96)] == [1, 2, 4, 64, 64, 128]


@needs_triton
@pytest.mark.timeout(600)
def test_kernels_in_the_interpreter(request: pytest.FixtureRequest) -> None:
    interpreted(request, "not slow")


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_kernels_in_the_interpreter(request: pytest.FixtureRequest) -> None:
    interpreted(request, "slow")


def interpreted(request: pytest.FixtureRequest, marked: str) -> None:
    """Run tests/triton_interpreted.py in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        marked,
        "-p",
        "no:cacheprovider",
        "--timeout",
        "1200",
    ]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "triton_interpreted.py")],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# ---- ahead of time ----------------------------------------------------------------------------


def fits(name: str, sizes: Sizes, dtype: torch.dtype, chunked: bool = False) -> None:
    """Every kernel of a cell, forward and backward, builds for sm_90, spills nothing and fits shared memory."""
    from nas.backends.triton.ahead import SHARED, taken
    from nas.backends.triton.runner import Both

    both = Both(adjoint_cell(zoo(name)), sizes, dtype, chunked=chunked)
    assert (both.plans is not None) == chunked
    for which in (both.forward, both.backward):
        for kernel in which.kernels():
            made = taken(kernel, dtype)
            assert made.spilled == 0, f"{name}: {made}"
            assert made.shared <= SHARED, f"{name}: {made}"


@needs_triton
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:triton")
@pytest.mark.parametrize(("name", "heads"), [("mingru", 1), ("elman", 1)])
def test_kernels_fit_the_chip(name: str, heads: int) -> None:
    fits(name, Sizes.of(64, 64, heads), torch.bfloat16)


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "width", "heads"),
    [
        ("mingru", 256, 1),
        ("hgrn", 256, 1),
        ("lru", 256, 1),
        ("rwkv4", 256, 1),
        ("indrnn", 256, 1),
        ("lstm", 64, 1),
        ("lstm", 128, 1),
        ("lstm", 512, 1),
        ("gru", 128, 1),
        ("gru_cho", 64, 1),
        ("slstm", 256, 4),
        ("aaren", 256, 4),
        ("gla", 256, 4),
        ("deltanet", 256, 4),
        ("mlstm", 256, 4),
        ("lmu", 64, 1),
        ("mamba2", 256, 2),
    ],
)
def test_representative_kernels_fit_the_chip(name: str, width: int, heads: int, dtype: torch.dtype) -> None:
    fits(name, Sizes.of(width, width, heads), dtype)


REAL = [name for name in TIME if not any(state.type.is_complex for state in zoo(name).states)]


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in TIME),
        *((name, torch.bfloat16) for name in REAL),
    ],
    ids=str,
)
def test_every_known_cell_fits_the_chip(name: str, dtype: torch.dtype) -> None:
    """Step by step, however short a sequence is; chunks of matrices are held below."""
    fits(name, Sizes.of(128, 128, 2), dtype)


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name",
    """
    deltanet deltanet_negative gated_deltanet gla hgrn2 linear_attention mamba2 mlstm retnet rwkv6
    """.split(),
)
def test_chunks_of_matrices_fit_the_chip(name: str, dtype: torch.dtype) -> None:
    fits(name, Sizes.of(128, 128, 2), dtype, chunked=True)  # heads of 64 keys and values
