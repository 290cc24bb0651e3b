"""The scripts that measure: each runs small, and writes what it says."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import Case, Outcome, cases_of
from source_tree import ROOT

import nas.bench
from grammar import zoo
from nas.bench import read_sizes

sys.path.insert(0, str(ROOT / "scripts"))

import _benchmarks
import _conformance
import _gpu_check
import _gpu_jobs
import _output
import bench_eager
import bench_ensemble
import bench_trial
import isolated_jobs
from _isolated import Job, Manners, run_jobs


def test_conformance_writes_its_result_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conformance, "known_cells", lambda: {"lstm": zoo("lstm")})
    with pytest.raises(SystemExit, match="0"):
        _conformance.main(["--backend", "reference", "--cells", "0", "--out", str(tmp_path)])
    facts = json.loads((tmp_path / "conformance_reference_float32.json").read_text())
    assert facts["cases"] == {"ok": 3}
    assert facts["groups"] == {"zoo": {"cells": 1, "ok": 3}}
    assert "| zoo | 1 | 3 | 0 | 0 | 0 | 0 |" in (tmp_path / "conformance.md").read_text()


def test_conformance_fails_where_a_case_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nas.backends.reference.Reference.refuses", lambda self, cell: "it will not")
    with pytest.raises(SystemExit, match="1"):
        _conformance.main(
            ["--backend", "reference", "--cells", "0", "--only", "elman", "--out", str(tmp_path)]
        )
    assert "refused  elman at B" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_conformance_tells_of_what_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = {"lstm": zoo("lstm")}
    case = next(cases_of(lstm))
    bad = [
        Outcome(case, "failed", inf, inf, 1e-7, "y"),
        Outcome(case, "wild", nan, inf, inf, "y"),
        Outcome(case, "ok", 0.5, 1e-6),
        Outcome(case, "ok", 0.5, 1e-4, 1e-5, "y", moved=2e-4),
    ]
    monkeypatch.setattr(_conformance, "known_cells", lambda: lstm)
    monkeypatch.setattr(_conformance, "_run", lambda cells, given: iter([("lstm", bad)]))
    with pytest.raises(SystemExit, match="1"):
        _conformance.main(["--backend", "reference", "--cells", "0", "--out", str(tmp_path)])
    facts = json.loads((tmp_path / "conformance_reference_float32.json").read_text())
    assert [(one["worst"], one["error"]) for one in facts["bad"]] == [(None, None)]
    page = (tmp_path / "conformance.md").read_text()
    assert "100 % not finite" in page
    assert "1 of them are judged by how far exact results move" in page


def test_conformance_tells_each_case_of_cells_that_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lstm = {"lstm": zoo("lstm")}
    case = next(cases_of(lstm))
    found = [Outcome(case, "ok", 0.5, 1e-6, None, "y"), Outcome(case, "ok", 0.5, 1e-4, 1e-5, "y", moved=2e-4)]
    monkeypatch.setattr(_conformance, "known_cells", lambda: lstm)
    monkeypatch.setattr(_conformance, "_run", lambda cells, given: iter([("lstm", found)]))
    with pytest.raises(SystemExit, match="0"):
        _conformance.main(["--backend", "reference", "--cells", "0", "--only", "lstm"])
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.endswith("y 1.0e-06")
    assert second.endswith("y 1.0e-04 (reference 1.0e-05, the exact result moves by 2.0e-04)")
    with pytest.raises(SystemExit, match="received \\['lstn'\\]"):
        _conformance.main(["--backend", "reference", "--cells", "0", "--only", "lstn"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Arguments for a small gpu_check."""
    monkeypatch.setattr(_gpu_check, "known_cells", lambda: {"lstm": zoo("lstm")})
    monkeypatch.setattr(_gpu_check, "FIRST", ("mingru",))
    monkeypatch.setattr(_gpu_jobs, "builds_of", lambda *given: [])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    out = str(tmp_path / "check.json")
    return ["--device", "cpu", "--processes", "0", "--cells", "0", "--sizes", "2x3x4,2x3x6", "--out", out]


def checked(arguments: list[str], code: str) -> Any:
    with pytest.raises(SystemExit, match=code):
        _gpu_check.main(arguments)
    place = Path(arguments[-1])
    assert list(place.parent.iterdir()) == [place]
    return json.loads(place.read_text())


def test_gpu_check_without_a_gpu(small: list[str]) -> None:
    facts = checked(small, "0")
    assert facts["machine"]["device"] == "cpu"
    assert {"reference"} <= set(facts["backends"]) <= {"reference", "c"}
    assert (facts["agreed"], facts["errors"]) == (True, [])
    assert {name: held["cases"] for name, held in facts["conformance"].items()} == {
        f"{name} float32": {"ok": 9} for name in facts["backends"] if name != "reference"
    }
    timed = [(row["cell"], row["size"]["name"]) for row in facts["timing"]]
    assert timed == [("block_lstm", "2x3x4"), ("mingru", "2x3x4"), ("lstm", "2x3x6")]
    assert facts["tests"] == "not run: no GPU"


def test_an_error_ends_one_job_of_gpu_check_and_is_told(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(cells: dict[str, Any], plan: Any) -> Any:
        if "mingru" in cells and "eager" in plan.against:
            raise RuntimeError("out of order")
        return bench(cells, plan)

    bench = nas.bench.bench
    monkeypatch.setattr(_gpu_jobs, "bench", broken)
    facts = checked(small, "1")
    assert facts["errors"] == [
        {"part": "timing", "job": "mingru 2x3x4", "error": "RuntimeError: out of order"}
    ]
    assert [row["cell"] for row in facts["timing"]] == ["block_lstm", "mingru", "lstm"]
    assert "eager" not in facts["timing"][1]["ms"]["training"]  # it is timed again without that
    assert facts["tests"] == "not run: no GPU"


def test_gpu_check_says_what_it_had_no_time_for(small: list[str]) -> None:
    facts = checked(["--minutes", "0", *small], "0")
    assert facts["machine"]["device"] == "cpu"
    assert "timing mingru 2x3x4" in facts["not_reached"]
    assert not {"timing", "conformance", "tests"} & set(facts)


def test_gpu_check_runs_the_parts_that_are_asked_for(small: list[str]) -> None:
    facts = checked(["--parts", "timing", "--only", "lstm", *small], "0")
    assert list(facts["parts"]) == ["timing"]
    assert [row["cell"] for row in facts["timing"]] == ["lstm"]
    assert "conformance" not in facts


@pytest.mark.timeout(300)
def test_a_job_that_hangs_or_dies_ends_its_process_alone() -> None:
    jobs = [
        Job("hangs", isolated_jobs.hang, (), 0.5),
        Job("dies", isolated_jobs.die, (3,)),
        Job("fails", isolated_jobs.fail, ("it will not",)),
        Job("spoils", isolated_jobs.spoil),
        *(Job(f"fine {n}", isolated_jobs.fine, (n,)) for n in range(4)),
    ]
    manners = Manners(isolated_jobs.nothing, isolated_jobs.healthy)
    found = {done.job.name: done for done in run_jobs(jobs, 2, manners)}
    assert {name: done.value for name, done in found.items() if not done.error} == {
        f"fine {n}": n for n in range(4)
    }
    errors = {name: done.error for name, done in found.items() if done.error}
    assert re.fullmatch(r"it was ended after \d+ s", errors.pop("hangs"))
    assert errors == {
        "dies": "its process ended, with exit code 3",
        "fails": "ValueError: it will not",
        "spoils": "left its process spoiled: RuntimeError: spoiled",
    }


def test_no_job_begins_once_time_is_up() -> None:
    jobs = [Job(f"fine {n}", isolated_jobs.fine, (n,)) for n in range(3)]
    manners = Manners(isolated_jobs.nothing, isolated_jobs.healthy)
    for processes in (0, 2):
        found = list(run_jobs(jobs, processes, manners, lambda: False))
        assert [(done.job.name, done.reached) for done in found] == [(f"fine {n}", False) for n in range(3)]


def test_what_runs_when_time_is_up_is_ended() -> None:
    jobs = [Job("hangs", isolated_jobs.hang), *(Job(f"fine {n}", isolated_jobs.fine, (n,)) for n in range(2))]
    manners = Manners(isolated_jobs.nothing, isolated_jobs.healthy)
    found = list(run_jobs(jobs, 1, manners, latest=time.monotonic() + 1))
    assert [(done.job.name, done.reached, done.error) for done in found] == [
        (job.name, False, "") for job in jobs
    ]


def test_gpu_check_holds_cells_against_numbers_that_cudnn_does_not_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def looked(case: Case, *given: object) -> Outcome:
        seen.append(torch.backends.cudnn.allow_tf32)
        return Outcome(case, "ok")

    monkeypatch.setattr(_gpu_jobs, "check", looked)
    _gpu_jobs.held("elman", zoo("elman"), 0, "reference", "float32", "cpu")
    assert seen == [False] * 3
    assert torch.backends.cudnn.allow_tf32  # as torch has it


def test_gpu_check_needs_a_gpu_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        _gpu_check.main([])
    assert "torch finds no CUDA device; --device cpu does without" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--only", "lstn"], "--only names cells of the suite, such as lstm or block_lstm; received lstn"),
        (["--sizes", "8x8"], "--sizes: a size is S, M, L, G, or BxTxH"),
        (["--out", "/proc/none/gpu.json"], "nothing can be written to"),
    ],
)
def test_gpu_check_refuses_what_it_could_not_do(
    small: list[str], wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        _gpu_check.main([*small, *wrong])
    assert message in capsys.readouterr().err


def test_gpu_check_without_a_backend_to_check_has_failed(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gpu_jobs, "backend_names", lambda: ("reference",))
    facts = checked(["--parts", "timing", "--only", "lstm", *small], "1")
    (error,) = facts["errors"]
    assert error["error"] == "no backend but the reference runs here: triton: not for cpu"


def test_a_trial_takes_the_steps_of_the_training_loop(tmp_path: Path) -> None:
    bench_trial.main(
        ["mingru", "--backend", "reference", "--size", "2x5x8", "--steps", "3", "--out", str(tmp_path)]
    )
    (row,) = json.loads((tmp_path / "trial.json").read_text())["rows"]
    assert (row["cell"], row["group"], row["aim"]) == ("mingru", "elementwise", 3.0)
    ours, same, plain = (row["trials"][which] for which in ("trial", "eager cell", "plain"))
    assert ours["loss"] == pytest.approx(same["loss"], rel=1e-5) == pytest.approx(plain["loss"], rel=1e-5)
    assert set(ours["parts_ms"]) == set(bench_trial.PARTS)
    assert sum(ours["parts_ms"].values()) == pytest.approx(ours["ms"], rel=0.5)
    assert "| mingru | elementwise |" in (tmp_path / "trial.md").read_text()


def test_eager_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    bench_eager.main(["elman", "--sizes", "2x3x4", "--repeats", "3"])
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["elman", "2x3x4"]


def test_benchmarks_write_a_page_that_their_json_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_benchmarks, "builds_of", lambda *given: [])
    options = ["--sizes", "2x3x4", "--zoo", "mingru", "--trial", "mingru", "--cells", "0", "--repeats", "3"]
    options += ["--trial-size", "2x3x4", "--backend", "reference", "--out", str(tmp_path)]
    _benchmarks.main(options)
    names = {"cpu.json", "cpu.md", "trial.json", "trial.md"}
    assert {path.name for path in tmp_path.iterdir()} == names
    text = (tmp_path / "cpu.md").read_text()
    assert "| mingru | elementwise | 2x3x4 |" in text
    assert "Of 1 times of known cells" in text
    (tmp_path / "cpu.md").unlink()
    _benchmarks.main(["--page-only", "--out", str(tmp_path)])
    assert (tmp_path / "cpu.md").read_text() == text


def test_benchmarks_leave_out_known_cells_whose_eager_loops_take_minutes() -> None:
    sizes = read_sizes("S,M,L")
    lstm, huge = (_benchmarks.weights(zoo(name), sizes) for name in ("lstm", "lrnn_block"))
    assert lstm == 4 * 128 * (128 + 128 + 1)
    assert huge > _benchmarks.MOST_WEIGHTS > 100 * lstm


def test_bench_ensemble_writes_its_result_and_a_page(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    bench_ensemble.main(["gru", "--sizes", "2x3x4", "--models", "2", "--repeats", "3", "--out", str(out)])
    (row,) = json.loads((out / "ensemble.json").read_text())["rows"]
    assert row["ratio"] == row["apart"]["median"] / row["together"]["median"]
    assert "| gru | 2, 3, 4 | 2 | " in (out / "ensemble.md").read_text()


@pytest.mark.parametrize(
    ("main", "arguments", "work"),
    [
        (bench_ensemble.main, [], "bench_ensemble.measured"),
        (bench_trial.main, [], "bench_trial.compare"),
        (_benchmarks.main, [], "_benchmarks.measured"),
        (_conformance.main, ["--backend", "reference"], "_conformance._run"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    main: Callable[[Sequence[str]], None],
    arguments: list[str],
    work: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*given: object, **named: object) -> None:
        raise AssertionError(f"{work} ran")

    monkeypatch.setattr(work, never)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--out", str(tmp_path / "file" / "below")])
    assert "nothing can be written to" in capsys.readouterr().err


def test_output_places(tmp_path: Path) -> None:
    folder = _output.output_folder(str(tmp_path / "a" / "b"))
    assert folder.is_dir()
    assert not list(folder.iterdir())
    file = _output.output_file(str(tmp_path / "c" / "d.json"))
    assert file == tmp_path / "c" / "d.json"
    assert file.parent.is_dir()
    assert not file.exists()
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder, and a file is wanted"):
        _output.output_file(str(folder))
    file.write_text("{}")
    with pytest.raises(argparse.ArgumentTypeError, match=r"nothing can be written to .*d\.json"):
        _output.output_file(str(file / "e.json"))
