from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from predictor_fixtures import rows, small

from predictors import PredictorFileError, kendall_tau, load
from predictors.packing import compress, expand, pack, unpack


def test_small_files_say_almost_the_same(tmp_path: Path) -> None:
    small().save(tmp_path / "whole")
    small().save(tmp_path / "small", small=True)
    assert (tmp_path / "small").stat().st_size < (tmp_path / "whole").stat().st_size / 4
    before, after = (load(tmp_path / name).predict_rows(rows()) for name in ("whole", "small"))
    assert kendall_tau(before.rank, after.rank) > 0.97
    assert np.abs(before.mean - after.mean).mean() < 0.1 * before.std.mean()
    assert np.array_equal(before.out_of_distribution, after.out_of_distribution)
    assert load(tmp_path / "small").card == small().card


def test_a_small_file_is_a_fixed_point(tmp_path: Path) -> None:
    small().save(tmp_path / "a", small=True)
    first = load(tmp_path / "a")
    first.save(tmp_path / "b", small=True)
    again = load(tmp_path / "b").predict_rows(rows())
    assert np.array_equal(first.predict_rows(rows()).mean, again.mean)
    assert np.array_equal(first.predict_rows(rows()).novelty, again.novelty)


def test_shapes_and_kinds_come_back() -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        "process.rows": rng.normal(size=(5, 7)).astype(np.float32),
        "novelty.rows": 30 * rng.normal(size=(5, 7)).astype(np.float32),
        "far.rows": np.full((2, 2), 1e30, np.float32),
        "trees.left": np.array([1, 2, -1, -1, -1], np.int32),
        "trees.right": np.array([4, 3, -1, -1, -1], np.int32),
        "trees.feature": np.arange(5, dtype=np.int32),
        "trees.value": rng.normal(size=5).astype(np.float32),
        "huge.value": np.full(5, 1e30, np.float32),
        "numbers": rng.normal(size=5),
    }
    found = unpack(pack(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.abs(found[name] - array).max() <= 1 / 16
    for name in ("far.rows", "trees.left", "trees.right", "trees.feature", "huge.value", "numbers"):
        assert np.array_equal(found[name], arrays[name])


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("packed.ahead.trees.left", np.array([0, 9]), "leads to a node further on"),
        ("packed.ahead.trees.left", np.array([1, -1]), "leads to a node further on"),
        ("packed.steps.rows", np.zeros((2, 2)), "packed in a way that this version does not know: 'steps'"),
        ("packed.half.value", np.zeros((2, 2), np.float16), "does not know: 'half'"),
        ("packed.secret.value", np.zeros(2), "does not know: 'secret'"),
        ("packed", np.zeros(2), ""),
    ],
)
def test_what_was_not_packed_is_refused(name: str, array: NDArray[Any], message: str) -> None:
    if not message:
        assert list(unpack({name: array})) == [name]
        return
    with pytest.raises(PredictorFileError, match=message):
        unpack({name: array})


def test_damaged_and_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = compress(b"x" * 1000)
    assert expand(data) == b"x" * 1000
    assert expand(b"plain") == b"plain"
    for bad in (data[:-4], data + b"more", data[:20] + b"\xff" + data[21:]):
        with pytest.raises(PredictorFileError, match="damaged or not complete"):
            expand(bad)
    with monkeypatch.context() as less:
        less.setattr("predictors.packing._MEMORY", 1 << 16)
        with pytest.raises(PredictorFileError, match="damaged or not complete: Memory usage limit"):
            expand(data)
    (tmp_path / "p").write_bytes(data[:-4])
    with pytest.raises(PredictorFileError, match="p: the file is damaged"):
        load(tmp_path / "p")
    monkeypatch.setattr("predictors.packing.MOST_BYTES", 500)
    with pytest.raises(PredictorFileError, match="holds at most 500 bytes"):
        expand(data)
