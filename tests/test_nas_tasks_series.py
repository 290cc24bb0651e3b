"""Time series: numbers read from files, windows and answers checked value by value, errors that name the place."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nas.errors import TaskError, TrainingError
from nas.tasks import Split, load_task
from nas.tasks.columns import mackey_glass, read_columns
from nas.tasks.series import Series
from nas.training import TrialSpec, train

GRU = "cell small { state h: vec; z = sigmoid(lin(x)); h' = lerp(z, h, lin(x)); out h' }"


def walk(length: int, columns: int = 2) -> NDArray[np.float64]:
    """A random walk in each column, of another size in each."""
    steps = np.random.default_rng(5).normal(size=(length, columns))
    return np.asarray(steps.cumsum(axis=0) * 10.0 ** np.arange(columns) + 3.0)


def series(data: Path | str | None, size: str = "smoke") -> Series:
    task = load_task("series", data=None if data is None else str(data), size=size)
    assert isinstance(task, Series)
    return task


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "walk.npy"
    np.save(path, walk(300))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
@pytest.mark.parametrize("header", ["", "first{}second\n", '"a{}b"{}second\n'])
def test_every_kind_of_file_gives_the_same_numbers(tmp_path: Path, separator: str, header: str) -> None:
    values = walk(40)
    text = tmp_path / "walk.csv"
    lines = [separator.join(map(repr, row)) for row in values.tolist()]
    text.write_text(
        "\ufeff" + header.format(*[separator] * 2) + "\r\n".join(lines) + "\n\n", encoding="utf-8"
    )
    np.testing.assert_array_equal(read_columns(str(text)), values)
    np.savez(tmp_path / "walk.npz", walk=values)
    np.testing.assert_array_equal(read_columns(str(tmp_path / "walk.npz")), values)
    np.save(tmp_path / "one.npy", np.arange(7, dtype=np.int32))
    np.testing.assert_array_equal(read_columns(str(tmp_path / "one.npy")), np.arange(7.0)[:, None])


def test_the_same_numbers_have_the_same_digest(tmp_path: Path, saved: Path) -> None:
    text = tmp_path / "walk.csv"
    text.write_text("\n".join(",".join(map(repr, row)) for row in walk(300).tolist()))
    assert series(saved).data_digest == series(text).data_digest
    text.write_text(text.read_text()[:-1])
    assert series(saved).data_digest != series(text).data_digest


def test_training_windows_are_normalised_and_ask_for_the_next_change(saved: Path) -> None:
    values, task = walk(300), series(saved)
    train_part = values[:240]
    mean, deviation = train_part.mean(axis=0), train_part.std(axis=0)
    unit = np.sqrt((np.diff(train_part, axis=0) ** 2).mean(axis=0))
    places = {((row - mean) / deviation).astype(np.float32).tobytes(): t for t, row in enumerate(values)}
    seen = set()
    for batch in itertools.islice(task.train_batches(np.random.default_rng(0)), 60):
        assert batch.x.shape == batch.y.shape == (16, 16, 2)
        times = np.array([places[x.tobytes()] for x in batch.x.flatten(0, 1).numpy()])
        changes = (values[times + 1] - values[times]) / unit
        np.testing.assert_allclose(batch.y.flatten(0, 1).numpy(), changes, rtol=1e-5, atol=1e-6)
        seen.update((times + 1).tolist())
    assert seen == set(range(1, 240))


@pytest.mark.parametrize(("length", "scored"), [(300, 100), (300, 17), (299, 100), (60, 100), (1_100, 100)])
def test_each_value_of_a_split_is_an_answer_once(tmp_path: Path, length: int, scored: int) -> None:
    values = walk(length, 1)
    np.save(tmp_path / "walk.npy", values)
    task = series(tmp_path / "walk.npy")
    task.scored = scored
    ends = (length * 80 // 100, length * 90 // 100, length)
    wanted: dict[Split, range] = {"valid": range(ends[0], ends[1]), "test": range(ends[1], ends[2])}
    mean, deviation = values[: ends[0]].mean(), values[: ends[0]].std()
    for split, times in wanted.items():
        found = []
        for batch in task.eval_batches(split):
            assert batch.mask is not None
            for x, mask in zip(batch.x[..., 0], batch.mask, strict=True):
                there = x.double().numpy() * deviation + mean
                start = int(np.abs(values[:, 0] - there[0]).argmin())
                np.testing.assert_allclose(there, values[start : start + len(there), 0], rtol=1e-4, atol=1e-4)
                asked = np.flatnonzero(mask.numpy())
                assert asked.min() >= task.window
                found += (start + 1 + asked).tolist()
        assert found == list(times)[:scored]


def test_the_loss_is_the_mean_squared_error_of_the_steps_asked_for(saved: Path) -> None:
    task = series(saved)
    for batch in task.eval_batches("valid"):
        logits = torch.randn(batch.y.shape, generator=torch.Generator().manual_seed(0))
        assert batch.mask is not None
        total = 0.0
        for row, step in batch.mask.nonzero().tolist():
            errors = [(logits[row, step, c] - batch.y[row, step, c]).item() ** 2 for c in range(2)]
            total += sum(errors) / 2
        loss, count = task.loss(logits, batch)
        assert float(loss) == pytest.approx(total, rel=1e-5)
        assert count == int(batch.mask.sum())
    assert not task.by_rows


def test_the_trivial_score_is_that_of_the_last_value(saved: Path) -> None:
    task, values = series(saved), walk(300)
    squares = np.diff(values, axis=0) ** 2
    expected = (squares[239:269] / squares[:239].mean(axis=0)).mean()
    assert task.trivial_score == pytest.approx(expected, rel=1e-5)
    assert task.trivial_loss == 1.0


def test_the_default_series_is_that_of_mackey_and_glass() -> None:
    x, late = [1.2] * 61, []
    for _ in range(12 * 130):
        late.append(x[-61])
        x.append(x[-1] + 0.5 * (0.2 * x[-61] / (1 + x[-61] ** 10) - 0.1 * x[-1]))
    np.testing.assert_allclose(mackey_glass(30)[:, 0], x[-30 * 12 :: 12], rtol=1e-6)
    values = mackey_glass(2_000)
    assert 0.2 < values.min() < 0.6
    assert 1.2 < values.max() < 1.5


def test_a_trial_on_a_file_beats_the_last_value(tmp_path: Path) -> None:
    times = np.arange(400)
    np.save(tmp_path / "wave.npy", np.stack([np.sin(times / 3), np.cos(times / 3)], axis=1))
    task = series(tmp_path / "wave.npy")
    spec = TrialSpec(GRU, "series", task.recipe.replace(steps=60, lr=1e-2), data=task.data, size="smoke")
    result = train(spec, test=True)
    assert result.status == "ok"
    assert result.score is not None
    assert result.test_score is not None
    assert result.score < 0.2 * task.trivial_score
    assert result.test_score < 0.2 * task.trivial_score


def test_a_cell_that_sees_ahead_is_refused() -> None:
    cell = "cell ahead { state h: seq = x; depth 1 { h' = attn(h) }; out h' }"
    task = series(None)
    result = train(TrialSpec(cell, "series", task.recipe.replace(steps=2), size="smoke"))
    assert result.status == "invalid"
    assert "cell ahead sees steps ahead, and task series asks for what comes next" in result.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: it holds no numbers"),
        ("a,b\n", "is empty: it holds no numbers"),
        ("a,b\n1,2\n3,x\n", r"line 3, column 2 \(b\): 'x' is not a number"),
        ("1,2\n3,\n", r"line 2, column 2 is empty"),
        ("1,2\n3,nan\n", r"line 2, column 2: nan is not a finite number"),
        ("a\n1\n-inf\n", r"line 3, column 1 \(a\): -inf is not a finite number"),
        ("2020-01-01,2\n2020-01-02,3\n", r"line 1, column 1: '2020-01-01' is not a number"),
        ("1,2\n3\n", "line 2 has 1 cells, and the first line has 2"),
        ("1,2\n3,1_0\n", "line 2, column 2: '1_0' is not a number"),
        ("1\n2\n3\n", "is too short: it has 3 rows and this task needs 42"),
        ("1,5\n2,5\n" * 50, "column 2 is constant in the first 80 rows: leave it out"),
        ("1e200\n-1e200\n" * 50, "has numbers too large to be squared"),
        ("1\0\n", "it holds a zero byte"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text(text)
    with pytest.raises(TaskError, match=message) as caught:
        series(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, np.nan, 2.0]), "row 2, column 1: nan is not a finite number"),
        (np.zeros((2, 2, 2)), r"must hold numbers \[T\] or \[T, C\], got float64 \[2, 2, 2\]"),
        (np.array(["a", "b"]), r"must hold numbers \[T\] or \[T, C\], got <U1 \[2\]"),
        (np.zeros((0, 3)), r"got float64 \[0, 3\]"),
        (np.array([1, None], dtype=object), "is no array of numbers: Object arrays cannot be loaded"),
    ],
)
def test_what_is_wrong_in_an_array_is_said(tmp_path: Path, array: NDArray[np.float64], message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(TaskError, match=message):
        series(tmp_path / "a.npy")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"data file nowhere\.csv does not exist"):
        series("nowhere.csv")
    with pytest.raises(TaskError, match="is no file"):
        series(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"1,2,3")
    with pytest.raises(TaskError, match=r"x\.npy is no array of numbers"):
        series(tmp_path / "x.npy")
    (tmp_path / "x.npz").write_bytes(b"PK12")
    with pytest.raises(TaskError, match=r"x\.npz is no array of numbers"):
        series(tmp_path / "x.npz")
    np.savez(tmp_path / "two.npz", a=walk(5), b=walk(5))
    with pytest.raises(TaskError, match="must hold one array, and its arrays are: a, b"):
        series(tmp_path / "two.npz")
    (tmp_path / "x.csv").write_bytes(b"1\n\xff\n")
    with pytest.raises(TaskError, match="is not UTF-8 text: at offset 2"):
        series(tmp_path / "x.csv")


def test_a_recipe_with_too_long_windows_is_refused(saved: Path) -> None:
    task = series(saved)
    task = task.with_recipe(task.recipe.replace(sequence_length=240))
    with pytest.raises(
        TrainingError, match="a window of 240 steps needs one value more, and the training part has 240"
    ):
        next(task.train_batches(np.random.default_rng(0)))
