"""Language modelling: windows of contiguous streams, and scores on the tokens that are meant."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.errors import TaskError, TrainingError
from nas.tasks import load_task
from nas.tasks.language import LanguageTask

LETTERS = "".join(np.random.default_rng(0).choice(list("abcdefgh\n"), size=30_000))


@pytest.fixture
def task(tmp_path: Path) -> LanguageTask:
    path = tmp_path / "text.txt"
    path.write_text(LETTERS)
    task = load_task("text", data=str(path), size="smoke")
    assert isinstance(task, LanguageTask)
    return task.with_recipe(task.recipe.replace(batch_size=4, sequence_length=10))


def test_targets_are_the_next_tokens(task: LanguageTask) -> None:
    for batch in itertools.islice(task.train_batches(np.random.default_rng(0)), 20):
        assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])


def test_windows_continue_the_streams_until_the_part_is_read(task: LanguageTask) -> None:
    tokens = task.corpus.train
    windows = len(tokens) // 4 // 10
    batches = list(itertools.islice(task.train_batches(np.random.default_rng(0)), windows + 1))
    assert [batch.fresh for batch in batches] == [True, *[False] * (windows - 1), True]
    rows = torch.cat([batch.x for batch in batches[:-1]], dim=1).numpy()
    for before, after in itertools.pairwise(batches[:-1]):
        assert torch.equal(before.y[:, -1], after.x[:, 0])
    ring = np.concatenate([tokens, tokens]).astype(np.int64)
    start = next(i for i in range(len(tokens)) if np.array_equal(ring[i : i + 50], rows[0, :50]))
    assert np.array_equal(ring[start : start + rows.size], rows.ravel())


def test_evaluation_reads_each_part_in_order_and_once(task: LanguageTask) -> None:
    for split in ("valid", "test"):
        batches = list(task.eval_batches(split))
        part = task.corpus.part(split).astype(np.int64)
        targets = torch.cat([batch.y for batch in batches], dim=1).numpy()
        assert [batch.fresh for batch in batches] == [True, *[False] * (len(batches) - 1)]
        assert np.array_equal(targets.ravel(), part[1 : targets.size + 1])
        assert targets.size >= len(part) - 1 - len(targets)


def test_the_unigram_predictor_has_the_trivial_score(task: LanguageTask) -> None:
    row = torch.from_numpy(task.corpus.unigram())
    total, count = 0.0, 0
    for batch in task.eval_batches("valid"):
        loss, answers = task.measure(row.expand(*batch.x.shape, task.outputs), batch)
        total, count = total + float(loss), count + answers
    assert task.score(total, count) == pytest.approx(task.trivial_score, rel=1e-6)


def test_the_digest_is_that_of_the_text(task: LanguageTask, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(LETTERS)
    assert load_task("text", data=str(other), size="smoke").data_digest == task.data_digest
    other.write_text(LETTERS + "!")
    assert load_task("text", data=str(other), size="smoke").data_digest != task.data_digest


def test_a_text_that_is_too_short_for_its_recipe_is_refused(task: LanguageTask) -> None:
    wide = task.with_recipe(task.recipe.replace(batch_size=1000, sequence_length=1000))
    with pytest.raises(
        TrainingError, match="1000 streams of 1000 tokens need 1000001 tokens and the training part has"
    ):
        next(wide.train_batches(np.random.default_rng(0)))


@pytest.mark.parametrize("name", ["text", "words"])
def test_a_short_file_is_refused_when_the_task_is_made(name: str, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("only a line")
    with pytest.raises(
        TaskError, match=r"short\.txt is too short: it has \d+ (characters|words) and this task needs"
    ):
        load_task(name, data=str(path))
