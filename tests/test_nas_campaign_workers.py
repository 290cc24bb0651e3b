from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.campaign.pool import Ending, Job
from nas.campaign.workers import RayPool, Worker, classify
from nas.errors import RunError, TaskError
from nas.tasks import Recipe, load_task
from nas.training import TrialSpec


def job(key: str, what: str, keep: bool = False) -> Job:
    return Job(key, TrialSpec(what, "toy", Recipe(2, 1, 1, 0.1)), test=keep, keep=keep)


def collect(pool: RayPool, count: int) -> dict[str, Ending]:
    """The next endings, by key; workers that are being replaced are waited for."""
    endings: dict[str, Ending] = {}
    deadline = time.monotonic() + 90
    while len(endings) < count or pool.idle() < pool.slots:
        assert time.monotonic() < deadline, endings
        endings |= {ending.key: ending for ending in pool.wait(0.2)}
    return endings


def message(ending: Ending) -> list[str]:
    assert ending.result is not None
    return ending.result.message.split()


@pytest.fixture(scope="module")
def pool() -> Iterator[RayPool]:
    with RayPool(2, train="campaign_trainers:train", memory=10**12) as pool:
        yield pool


def test_workers_train_with_one_thread_each_and_bring_the_model_back(pool: RayPool) -> None:
    assert (pool.slots, pool.idle()) == (2, 2)
    pool.submit(job("a", "ok", keep=True))
    pool.submit(job("b", "ok"))
    assert pool.idle() == 0
    endings = collect(pool, 2)
    assert dict(endings["a"].files) == {"weights.safetensors": b"weights"}
    assert endings["b"].files == {}
    threads, omp, pid, _ = message(endings["a"])
    assert (threads, omp) == ("1", "1")
    assert pid not in (str(os.getpid()), message(endings["b"])[2])
    assert endings["a"].result is not None
    assert endings["a"].result.test_score == 0.5


def test_a_killed_worker_is_an_infrastructure_failure_and_is_replaced(pool: RayPool, tmp_path: Path) -> None:
    place = tmp_path / "died"
    pool.submit(job("killed", f"die {place}"))
    pool.submit(job("beside", "ok"))
    endings = collect(pool, 2)
    assert endings["killed"].result is None
    assert endings["killed"].failure == "infrastructure"
    assert endings["killed"].message == "its worker died (ActorDiedError)"
    assert endings["beside"].result is not None
    pool.submit(job("again", f"die {place}"))
    again = collect(pool, 1)["again"]
    assert message(again)[2] != place.read_text()


def test_an_aborted_job_ends_with_the_class_it_was_given(pool: RayPool) -> None:
    pool.submit(job("slow", "sleep"))
    pool.submit(job("big", "grow"))
    deadline = time.monotonic() + 60
    while pool.progress()["big"].memory < 6e8 or pool.progress()["slow"].steps != 7:
        assert time.monotonic() < deadline, pool.progress()
        assert pool.wait(0.2) == []
    pool.abort("slow", "timeout", "too slow")
    pool.abort("big", "oom", "too big")
    endings = collect(pool, 2)
    assert (endings["slow"].failure, endings["slow"].message) == ("timeout", "too slow")
    assert (endings["big"].failure, endings["big"].message) == ("oom", "too big")
    assert pool.progress() == {}


def test_an_exception_in_a_training_is_the_cells_fault_and_the_worker_stays(pool: RayPool) -> None:
    pool.submit(job("bad", "raise"))
    ending = collect(pool, 1)["bad"]
    assert (ending.failure, ending.message) == ("invalid", "ValueError: made up")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "oom"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "infrastructure"),
        (OSError(28, "No space left on device"), "infrastructure"),
        (TaskError("data file x does not exist"), "infrastructure"),
        (RuntimeError("shapes do not match"), "invalid"),
    ],
)
def test_classes_of_failure(error: Exception, kind: str) -> None:
    assert classify(error) == kind


def test_without_a_free_core_no_worker_starts(pool: RayPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.campaign.workers.START_SECONDS", 2.0)
    assert pool.idle() == 2
    with (
        pytest.raises(RunError, match=r"no worker started within 2 s; each needs one CPU core to be free"),
        RayPool(1),
    ):
        pass


def test_a_worker_checks_the_data_before_it_is_ready() -> None:
    digest = load_task("parity", size="smoke").data_digest
    facts = {"name": "parity", "data": None, "size": "smoke", "data_digest": digest}
    worker = Worker("nas.training:train")
    assert worker.prepare(facts)["pid"] == os.getpid()
    with pytest.raises(RunError, match="the data of task parity differ from those of this run"):
        worker.prepare({**facts, "data_digest": "0" * 64})
