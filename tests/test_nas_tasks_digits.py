"""Digits: the images and classes of scikit-learn, pixel by pixel, in parts that never change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nas.errors import TaskError
from nas.tasks import load_task
from nas.tasks.digits import Digits
from nas.training import TrialSpec, train

GRU = "cell small { state h: vec; z = sigmoid(lin(x)); h' = lerp(z, h, lin(x)); out h' }"


def digits(size: str = "search") -> Digits:
    task = load_task("digits", size=size)
    assert isinstance(task, Digits)
    return task


def test_each_row_is_an_image_of_its_class() -> None:
    bunch = load_digits()
    known = {image.tobytes(): digit for image, digit in zip(bunch.images, bunch.target, strict=True)}
    for batch in digits().eval_batches("valid"):
        assert batch.x.shape[1:] == (64, 1)
        for row, digit in zip(batch.x, batch.y.tolist(), strict=True):
            image = (row.double() * 16).reshape(8, 8).numpy()
            assert known[image.tobytes()] == digit


def test_the_parts_hold_every_image_once_and_each_digit_alike() -> None:
    task = digits("full")
    parts = [task.part(split) for split in (None, "valid", "test")]
    rows = [row.tobytes() for images, _ in parts for row in images]
    assert len(rows) == 1797
    assert len(set(rows)) == len({row.tobytes() for row in load_digits().data.astype(np.float32)})
    for _, classes in parts[1:]:
        assert np.bincount(classes).tolist() == [40] * 10
    assert np.bincount(parts[0][1]).min() == 94


def test_smoke_scores_a_few_of_the_same_images() -> None:
    few = {row.tobytes() for row in digits("smoke").part("valid")[0]}
    assert len(few) == 50
    assert few < {row.tobytes() for row in digits().part("valid")[0]}
    assert digits("smoke").data_digest == digits().data_digest


def test_an_epoch_has_each_training_image_once() -> None:
    task = digits()
    images, _ = task.part(None)
    batches = itertools.islice(task.train_batches(np.random.default_rng(3)), 2 * len(images) // 64)
    rows = torch.cat([batch.x for batch in batches])[..., 0].numpy()
    for epoch in (rows[: len(images)], rows[len(images) : 2 * len(images)]):
        assert len({row.tobytes() for row in epoch}) == len(epoch)
    assert rows[0].tobytes() != rows[len(images)].tobytes()


def test_a_shorter_recipe_trains_on_the_last_pixels() -> None:
    task = digits()
    short = task.with_recipe(task.recipe.replace(sequence_length=16))
    pairs = zip(*(each.train_batches(np.random.default_rng(0)) for each in (task, short)), strict=True)
    whole, part = next(pairs)
    torch.testing.assert_close(whole.x[:, 48:], part.x)
    assert next(iter(short.eval_batches("valid"))).x.shape[1] == 64


def test_a_trial_at_smoke_size() -> None:
    result = train(TrialSpec(GRU, "digits", digits("smoke").recipe.replace(steps=2), size="smoke"), test=True)
    assert result.status == "ok"
    assert result.score is not None
    assert 0 < result.score <= 1


def test_digits_take_no_data() -> None:
    with pytest.raises(TaskError, match=r"task digits makes its own data and takes none, got x\.png"):
        load_task("digits", data="x.png")
