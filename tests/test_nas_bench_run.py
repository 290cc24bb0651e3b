"""A benchmark: every subject is timed in every round, and what becomes of the aims."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from grammar import CellBuildError, parse, zoo
from nas.backends import backend_names
from nas.bench import Plan, bench, builds_of, clock, excess, machine_facts, outcomes, over_limit, read_sizes
from nas.bench.run import Row, group_of
from nas.bench.subjects import forward, torch_layer, training
from nas.bench.timing import Times, interleaved
from nas.errors import BenchError
from nas.nn import build, from_torch

TINY = read_sizes("2x3x4")


def test_sizes() -> None:
    small, other = read_sizes("S, 2x3x8x4")
    assert (small.batch, small.steps, small.width, small.heads) == (8, 64, 64, 1)
    assert (other.batch, other.steps, other.width, other.heads) == (2, 3, 8, 4)
    assert [size.heads for size in read_sizes("S,M", heads=2)] == [2, 2]
    with pytest.raises(BenchError, match=r"a size is S, M, L, G, or BxTxH .* received 'XL'"):
        read_sizes("S,XL")
    with pytest.raises(BenchError, match=r"N divides H; received .*T 2, H 3, 2 heads"):
        read_sizes("1x2x3x2")


def test_subjects_take_turns() -> None:
    calls: list[str] = []
    times = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=4)  # type: ignore[misc]
    assert {name: len(t.samples) for name, t in times.items()} == {"a": 4, "b": 4}
    assert len({calls.count("a"), calls.count("b")}) <= 2
    assert clock("cpu") == "processor"


def test_rounds_end_with_the_time_but_three_are_made() -> None:
    times = interleaved({"a": lambda: None}, repeats=1000, seconds=0.0)
    assert len(times["a"].samples) == 3


def test_a_row_has_every_subject() -> None:
    told: list[Row] = []
    plan = Plan(TINY, ("reference",), ("torch", "eager"), repeats=3)
    (row,) = bench({"one": zoo("gru")}, plan, told.append)
    assert told == [row]
    for which in ("forward", "training"):
        assert set(row.times[which]) == {"reference", "torch", "eager", "products"}
        assert all(len(t.samples) == 3 for t in row.times[which].values())
    bound, products = row.bound("min"), row.ms("products", statistic="min")
    assert bound is not None
    assert products is not None
    assert bound > products > 0
    facts = row.to_dict()
    assert (facts["cell"], facts["group"], facts["digest"]) == ("one", "dense", zoo("gru").digest)
    assert facts["limit_ms"]["min"] == pytest.approx(1.5 * bound + 0.3)
    assert torch.get_num_threads() == 1


def test_what_a_backend_refuses_is_named() -> None:
    (row,) = bench({"lstm": zoo("lstm")}, Plan(TINY, ("reference", "none"), repeats=3))
    assert row.refused == {
        "none": "unknown backend 'none'; the backends are auto, " + ", ".join(backend_names())
    }
    assert set(row.times["training"]) == {"reference", "products"}
    assert row.ms("none") is None


def test_cells_and_sizes_that_do_not_fit_are_errors() -> None:
    cell = parse("cell c { state h: vec; h' = tanh(lin(h, blocks=3) + x); out h' }")
    with pytest.raises(CellBuildError, match="a size must be whole; received 1/3 H"):
        bench({"c": cell}, Plan(TINY, ("reference",), repeats=3))
    with pytest.raises(BenchError, match="times cells over time; ut is a depth cell"):
        bench({"ut": zoo("ut")}, Plan(TINY, ("reference",), ("eager",), repeats=3))


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("lstm", "dense"),
        ("gru_cho", "dense"),
        ("mingru", "elementwise"),
        ("indrnn", "elementwise"),
        ("mamba", "matrix"),
    ],
)
def test_groups(name: str, group: str) -> None:
    assert group_of(zoo(name)) == group


def test_torch_has_layers_for_three_cells() -> None:
    for name in ("lstm", "gru", "elman"):
        layer = torch_layer(zoo(name), TINY[0], "cpu")
        assert isinstance(layer, torch.nn.RNNBase)
        assert from_torch(layer).cell is zoo(name)
    assert torch_layer(zoo("gru_cho"), TINY[0], "cpu") is None


def test_training_asks_for_all_gradients_and_forward_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    grad = torch.autograd.grad

    def spy(outputs: object, inputs: list[torch.Tensor], *rest: object, **options: object) -> object:
        asked.append(len(inputs))
        return grad(outputs, inputs, *rest, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(torch.autograd, "grad", spy)
    module = build(zoo("lstm"), 4, 4, backend="reference")
    forward(module, TINY[0], "cpu")()
    assert asked == []
    training(module, TINY[0], "cpu")()
    assert asked == [1 + len(list(module.parameters()))]


def made(
    name: str, size: str, backend: float, eager: float, products: float, torch_: float | None = None
) -> Row:
    taken = {"c": backend, "eager": eager, "products": products} | (
        {} if torch_ is None else {"torch": torch_}
    )
    times = {
        "training": {subject: Times((ms, 2 * ms, 9 * ms), (ms, ms, ms)) for subject, ms in taken.items()}
    }
    (sized,) = read_sizes(size)
    return Row(name, zoo(name), group_of(zoo(name)), sized, times, 0.1)


def test_aims_are_geometric_means_in_the_right_direction() -> None:
    rows = [
        made("lstm", "S", 1.0, 4.0, 1.0, 2.0),
        made("mingru", "S", 1.0, 17.0, 0.1),
        made("mingru", "M", 1, 3, 1),
    ]
    found = {(o.name, o.size): o for o in outcomes(rows, "c", "min")}
    lstm = found["zoo:lstm against nn.LSTM", "S"]
    assert (lstm.value, lstm.aim, lstm.met) == (0.5, 1.0, True)
    whole = found["eager over c, all cells", "S"]
    assert whole.value == pytest.approx(68**0.5)
    assert (whole.cells, whole.met) == (2, True)
    assert found["eager over c, elementwise cells", "M"].met is False
    assert found["eager over c, dense cells", "S"].met is None
    assert ("zoo:gru against nn.GRU", "S") not in found


def test_over_the_limit_is_by_the_least_time_and_the_worst_first() -> None:
    rows = [
        made("lstm", "S", 1.9, 1.0, 1.0),
        made("gru", "S", 8.0, 1.0, 1.0),
        made("mgu", "S", 3.0, 1.0, 1.0),
    ]
    assert [row.name for row in over_limit(rows, "c")] == ["gru", "mgu"]
    assert excess(rows[0], "c", "min") == pytest.approx(1.9 / (1.5 * 1.1 + 0.3))
    assert excess(rows[0], "triton") is None


def test_build_times() -> None:
    (one,) = builds_of({"e": zoo("elman")}, TINY[0], "reference")
    for times in (one.cold, one.cached):
        assert times["all"] == pytest.approx(times["parse"] + times["build"] + times["step"])
    assert (one.cell, one.backend, one.digest) == ("e", "reference", zoo("elman").digest)


def test_build_times_are_of_caches_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.append((options["env"]["RECELL_CACHE"], options["env"]["TRITON_CACHE_DIR"]))
        return subprocess.CompletedProcess(command, 0, "[{}]", "")

    monkeypatch.setattr("nas.bench.builds.subprocess.run", run)
    assert builds_of({"e": zoo("elman")}, TINY[0], "triton") == []
    assert seen[0] == seen[1]  # what the first process leaves, the second finds
    assert Path(seen[0][1]).parent == Path(seen[0][0])


def test_a_failed_build_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(BenchError, match="the process that measures build times failed: no message"):
        builds_of({"e": zoo("elman")}, TINY[0], "reference")


def test_the_machine_is_named() -> None:
    facts = machine_facts("cpu")
    assert facts["torch"] == torch.__version__
    assert facts["processor"]
    assert facts["threads"] == 1
