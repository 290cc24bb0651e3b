"""Memory that calls of C lend each other: whose it is, and that nothing which outlives a call lies in it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from grammar import Cell, parse, zoo
from nas.backends.c import running, scratch
from nas.backends.c.compiler import problem
from nas.backends.c.running import Running
from nas.nn import CellModule, Ensemble, build

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

WIDTH, BATCH, STEPS = 8, 3, 20  # more steps than a block of rows, or a chunk of matrices, has
# rows of convs and maps both ways; a dense recurrence; matrices that are replayed; an output that a map makes
CELLS = {
    "convs": parse(
        "cell convs { state h: vec; g = sigmoid(lin(conv(x))); h' = g * h + (1 - g) * lin(conv(x)); out lin(h') }"
    ),
    "lstm": zoo("lstm"),
    "deltanet": zoo("deltanet"),
    "odd": parse("cell odd { state h: vec; h' = tanh(lin(h) + lin(x)); out lin(h') * sigmoid(lin(x)) }"),
}


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    scratch._kept.buffer = None
    yield
    scratch._kept.buffer = None


def module_of(cell: Cell) -> CellModule:
    module = build(cell, WIDTH, WIDTH, heads=2, backend="c")
    module.reset_parameters(torch.Generator().manual_seed(0))
    return module


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def kept() -> Tensor | None:
    return scratch._kept.buffer


def lent(floats: int, candidates: int = 0) -> tuple[list[Tensor | None], scratch.Lent]:
    values: list[Tensor | None] = [None, None]
    rows = (candidates, floats) if candidates else (floats,)
    return values, scratch.lend(values, [(1, 1)], rows)


# ---- the buffer -------------------------------------------------------------------------------


def test_a_buffer_grows_and_is_lent_again() -> None:
    _, first = lent(100)
    scratch.give_back(first)
    values, second = lent(50)
    assert second[0] is first[0]
    assert values[1] is first[0]
    scratch.give_back(second)
    _, third = lent(1000)
    assert third[0].numel() >= 1000
    scratch.give_back(third)
    assert lent(100)[1][0] is third[0]


def test_a_call_inside_of_another_gets_its_own() -> None:
    _, outer = lent(100)
    _, inner = lent(200)
    assert inner[0].data_ptr() != outer[0].data_ptr()
    scratch.give_back(inner)
    scratch.give_back(outer)
    assert kept() is inner[0]  # the larger one
    _, outer = lent(300)
    _, inner = lent(50)
    scratch.give_back(inner)
    scratch.give_back(outer)
    assert kept() is outer[0]


def test_parts_lie_apart_and_candidates_share_them() -> None:
    values: list[Tensor | None] = [None] * 3
    scratch.lend(values, [(2, 7), (0, 5)], (4, 3))
    first, second = values[2], values[0]
    assert first is not None
    assert second is not None
    assert first.stride(0) == second.stride(0) == 0
    assert first.shape[0] == second.shape[0] == 4
    gap = second.data_ptr() - first.data_ptr()
    assert gap >= 4 * 3 * 7
    assert gap % 64 == 0
    assert second.shape[1] >= 3 * 5


def test_too_large_a_buffer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "MOST", 500)
    _, small = lent(100)
    scratch.give_back(small)
    _, large = lent(1000)
    assert kept() is small[0]
    scratch.give_back(large)
    assert kept() is small[0]


def test_each_thread_has_its_own() -> None:
    _, own = lent(100)
    scratch.give_back(own)

    def other() -> tuple[bool, int]:
        had = kept() is not None
        _, found = lent(100)
        scratch.give_back(found)
        return had, found[0].data_ptr()

    with ThreadPoolExecutor(1) as pool:
        had, place = pool.submit(other).result()
    assert not had
    assert place != own[0].data_ptr()
    assert kept() is own[0]


def test_it_is_poisoned_as_fresh_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():  # what is made here can be written outside by C alone
        _, found = lent(100)
    assert found[0].isnan().all()
    with torch.inference_mode():
        found[0].zero_()
    scratch.give_back(found)
    assert found[0].isnan().all()  # what anyone kept of it shows
    with torch.inference_mode():
        found[0].zero_()
    _, found = lent(100)
    assert found[0].isnan().all()
    with torch.inference_mode():
        found[0].zero_()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    scratch.give_back(found)
    _, again = lent(100)
    assert again[0] is found[0]
    assert not again[0].isnan().any()


# ---- what calls return and save ---------------------------------------------------------------


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """All buffers that are lent inside; none is freed, so that their memory is nobody else's."""
    found: list[Tensor] = []
    made = scratch._borrowed

    def borrowed(floats: int) -> Tensor:
        found.append(made(floats))
        return found[-1]

    with monkeypatch.context() as patch:
        patch.setattr(scratch, "_borrowed", borrowed)
        yield found


@pytest.mark.parametrize("name", CELLS)
def test_nothing_that_outlives_a_call_lies_in_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = module_of(CELLS[name]), drawn(1, BATCH, STEPS, WIDTH)
    kept: list[Tensor] = []

    def saved(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with watched(monkeypatch) as buffers:
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda value: value):
            y, state = module(x)
        after = state if isinstance(state, tuple) else (state,)
        total = y.sum() + torch.stack([part.sum() for part in after]).sum()
        gradients = torch.autograd.grad(total, [x, *module.parameters()])
        with torch.no_grad():
            bare, _ = module(x)
    assert any(buffer.numel() for buffer in buffers)
    assert kept
    for value in (y, bare, *after, *kept, *gradients):
        place = value.untyped_storage().data_ptr()
        assert not any(b.data_ptr() <= place < b.data_ptr() + 4 * b.numel() for b in buffers)


def alone(module: CellModule, x: Tensor) -> list[Tensor]:
    """Output and gradients of a call that nothing else happens in."""
    y, _ = module(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_calls_between_a_call_and_its_gradient_change_nothing(name: str, turned: bool) -> None:
    module, other = module_of(CELLS[name]), module_of(zoo("gru"))
    runs = [(module, drawn(1, BATCH, STEPS, WIDTH)), (other, drawn(2, 2 * BATCH, STEPS, WIDTH))]
    runs.append((module, drawn(3, 1, STEPS + 7, WIDTH)))
    wanted = [alone(*run) for run in runs]
    outputs = [module(x)[0] for module, x in runs]
    order = [2, 1, 0] if turned else [0, 1, 2]
    found = {}
    for k in order:
        inputs = [runs[k][1], *runs[k][0].parameters()]
        again = torch.autograd.grad(outputs[k].square().sum(), inputs, retain_graph=True)
        found[k] = [outputs[k].detach(), *torch.autograd.grad(outputs[k].square().sum(), inputs)]
        torch.testing.assert_close(list(again), found[k][1:], rtol=0, atol=0)
    for k, values in found.items():
        torch.testing.assert_close(values, wanted[k], rtol=0, atol=0)


@pytest.mark.parametrize("name", CELLS)
def test_a_call_in_the_middle_of_another_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = module_of(CELLS[name]), drawn(1, BATCH, STEPS, WIDTH)
    other, z = module_of(zoo("gru")), drawn(2, 2 * BATCH, STEPS, WIDTH)
    wanted, inner = alone(module, x), alone(other, z)
    run: Callable[..., None] = Running.__call__
    busy: list[int] = []
    seen: list[list[Tensor]] = []

    def interrupted(self: Running, *given: Any) -> None:
        if not busy:
            busy.append(1)
            with torch.enable_grad():
                seen.append(alone(other, z))
            busy.clear()
        run(self, *given)

    monkeypatch.setattr(Running, "__call__", interrupted)
    torch.testing.assert_close(alone(module, x), wanted, rtol=0, atol=0)
    assert len(seen) == 2  # in both halves
    for values in seen:
        torch.testing.assert_close(values, inner, rtol=0, atol=0)


def test_threads_do_not_meet() -> None:
    modules = [module_of(cell) for cell in CELLS.values()]
    inputs = [drawn(k, BATCH, STEPS, WIDTH) for k in range(len(modules))]
    wanted = [alone(*run) for run in zip(modules, inputs, strict=True)]
    together = threading.Barrier(len(modules))

    def often(module: CellModule, x: Tensor) -> list[list[Tensor]]:
        together.wait()
        return [alone(module, x) for _ in range(20)]

    with ThreadPoolExecutor(len(modules)) as pool:
        for values, right in zip(pool.map(often, modules, inputs), wanted, strict=True):
            for value in values:
                torch.testing.assert_close(value, right, rtol=0, atol=0)


def test_candidates_after_each_other_in_it_give_what_each_gives() -> None:
    modules = [module_of(CELLS["convs"]) for _ in range(3)]
    for k, module in enumerate(modules):
        module.reset_parameters(torch.Generator().manual_seed(k))
    x = drawn(1, BATCH, STEPS, WIDTH).detach()
    y, _ = Ensemble.of(modules)(x.expand(3, *x.shape))
    for own, module in zip(y, modules, strict=True):
        torch.testing.assert_close(own, module(x)[0])


def test_a_call_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = module_of(CELLS["convs"]), drawn(1, BATCH, STEPS, WIDTH)
    wanted = alone(module, x)
    assert kept() is not None

    def failing(self: Running, *given: Any) -> None:
        raise MemoryError("none")

    with monkeypatch.context() as patch:
        patch.setattr(Running, "__call__", failing)
        with pytest.raises(MemoryError, match="none"):
            module(x)
    assert kept() is None
    torch.testing.assert_close(alone(module, x), wanted, rtol=0, atol=0)


def flags_at(address: int) -> list[str]:
    """What Linux says of the memory at an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError(f"no memory at {address:#x}")


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="this system has no large pages"
)
def test_large_memory_is_asked_for_in_large_pages() -> None:
    large, small = running.room((3, 1 << 20)), running.room((1 << 16,))
    assert "hg" in flags_at(large.data_ptr() + large.nbytes // 2)
    assert (large.zero_() == 0).all()
    assert (small.zero_() == 0).all()


@pytest.mark.parametrize("address", [0, 1, 2 << 20, (2 << 20) - 1, 12345])
@pytest.mark.parametrize("size", [0, 1, 4096, (2 << 20) - 1, 2 << 20, (4 << 20) - 1, 5 << 20])
def test_large_pages_lie_within_the_memory_they_are_asked_for(
    address: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    libc = SimpleNamespace(madvise=lambda first, whole, advice: asked.append((first, whole)))
    monkeypatch.setattr(running, "_libc", lambda: libc)
    monkeypatch.setattr(running, "_ADVICE", 14)
    running._in_large_pages(address, size)
    page = 2 << 20
    assert all(
        first % page == 0 and whole % page == 0 and first >= address and first + whole <= address + size
        for first, whole in asked
    )
    assert bool(asked) == (-(-address // page) * page + page <= address + size)
