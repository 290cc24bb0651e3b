from __future__ import annotations

import contextlib
import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from predictor_fixtures import rows, scores, small
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

import predictors
from predictors import Predictor, PredictorFileError, encode, fit_rows
from predictors.encoding import encoding_key
from predictors.forests import from_arrays
from search_spaces import load_space

HEADER = {"recell_predictor": "4", "encoding": encoding_key(), "cards": "[{}]"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "p.recell"
    small().save(place)
    return place


def same(one: Predictor, other: Predictor) -> bool:
    a, b = one.predict_rows(rows(seed=1)), other.predict_rows(rows(seed=1))
    names = ("mean", "std", "novelty", "rank", "diverges")
    return all(np.allclose(getattr(a, n), getattr(b, n), rtol=1e-9, equal_nan=True) for n in names)


def test_what_is_loaded_is_what_was_saved(path: Path) -> None:
    loaded = predictors.load(path)
    assert same(loaded, small())
    assert loaded.card == small().card
    assert [p.name for p in path.parent.iterdir()] == ["p.recell"]


def test_a_place_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PredictorFileError, match=rf"cannot write .*p\.recell: there is no folder {tmp_path}/none"
    ):
        small().save(tmp_path / "none" / "p.recell")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/")):
        with pytest.raises(
            PredictorFileError, match="written to a file, not to a folder, a pipe or a device"
        ):
            small().save(place)
    with pytest.raises(PredictorFileError, match=r"cannot write .*: File name too long"):
        small().save(tmp_path / ("x" * 300))
    for act in (small().save, predictors.load):
        with pytest.raises(PredictorFileError, match=r"cannot (write|read) .*null byte"):
            act("a\0b")
    (tmp_path / "p.part").mkdir()
    with pytest.raises(PredictorFileError, match=r"cannot write .*: Is a directory"):
        small().save(tmp_path / "p")
    assert {place.name for place in tmp_path.iterdir()} == {"pipe", "p.part"}


def test_a_file_that_cannot_be_completed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PredictorFileError, match=r"cannot write .*: No space left on device"):
        small().save(tmp_path / "p.recell")
    assert not list(tmp_path.iterdir())


def test_what_a_link_leads_to_is_replaced(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    path.write_bytes(b"old")
    small().save(link)
    assert link.is_symlink()
    assert same(predictors.load(path), small())


def test_priors_and_extras_are_kept(tmp_path: Path) -> None:
    x, y = rows()[:20], scores(rows(), fail=False)[:20]
    model = fit_rows(x, y, prior=small(), extras=y[:, None])
    model.save(tmp_path / "p.recell")
    loaded = predictors.load(str(tmp_path / "p.recell"))
    assert loaded.extras == 1
    assert loaded.prior is not None
    assert same(loaded.prior, small())
    np.testing.assert_allclose(
        loaded.predict_rows(x, y[:, None]).mean, model.predict_rows(x, y[:, None]).mean
    )


@pytest.mark.parametrize("part", [0, 5, 8, 100, 5000, -1])
def test_a_truncated_file_is_refused(path: Path, part: int) -> None:
    path.write_bytes(path.read_bytes()[:part])
    with pytest.raises(
        PredictorFileError, match=r"p\.recell: .*(not a predictor file|damaged or not complete)"
    ):
        predictors.load(path)


def test_no_flipped_byte_does_more_than_an_error(path: Path) -> None:
    data, rng = path.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(data[:8], "little")
    for place in [*rng.integers(0, header, 60), *rng.integers(header, len(data), 20)]:
        broken = bytearray(data)
        broken[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(broken))
        with contextlib.suppress(PredictorFileError):
            predictors.load(path).predict_rows(rows()[:2])


def rewritten(path: Path, header: dict[str, str], **changed: object) -> None:
    arrays = read_arrays(path.read_bytes())
    for name, array in changed.items():
        key = name.replace("__", ".")
        if array is None:
            del arrays[key]
        else:
            arrays[key] = np.asarray(array)
    path.write_bytes(write_arrays(arrays, header))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({**HEADER, "recell_predictor": "1"}, "reads predictor files of versions 3 and 4; received '1'"),
        ({}, "does not say what it is|versions 3 and 4; received None"),
        ({**HEADER, "encoding": "0" * 16}, "another encoding of cells than this version has: fit it again"),
        ({**HEADER, "cards": "[]"}, "a list of 1 to 4 JSON objects"),
        ({**HEADER, "cards": "[" * 100_000}, "not JSON"),
        ({**HEADER, "cards": '[{"tau": NaN}]'}, "not JSON: NaN is no number there"),
        ({**HEADER, "cards": json.dumps([{}, {}])}, "`numbers` is a flat array"),
    ],
)
def test_another_header_is_refused(path: Path, header: dict[str, str], message: str) -> None:
    rewritten(path, header)
    with pytest.raises(PredictorFileError, match=message):
        predictors.load(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trees__left": None}, "a forest has a flat array 'left' of int32; received none"),
        ({"trees__left": np.zeros(3, np.int32)}, "one entry for each node"),
        ({"trees__roots": np.array([10**9], np.int32)}, "leads to a node further on"),
        ({"trees__value": np.zeros(3, np.float64)}, "a flat array 'value' of float32"),
        ({"numbers": np.array([0.5, 0.5, 0.0, 1.0, 1.0, 1.0, np.nan])}, "`numbers` is of finite numbers"),
        ({"numbers": np.array([0.5, 0.5, 0.0, 1.0, 1.0, 1.0, 0.5])}, "out of range"),
        ({"columns__used": np.array([10**6])}, "numbers of columns"),
        ({"process__alphas": np.zeros((2, 2))}, "finite arrays of shapes"),
        ({"scale__at": np.zeros(0), "scale__score": np.zeros(0)}, "does not fall"),
        ({"novelty__rows": np.zeros((0, 3), np.float32)}, r"novelty\.rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(path: Path, changed: dict[str, object], message: str) -> None:
    rewritten(path, HEADER, **changed)
    with pytest.raises(PredictorFileError, match=message):
        predictors.load(path)


def test_trees_that_turn_in_circles_are_refused(path: Path) -> None:
    left = read_arrays(path.read_bytes())["trees.left"]
    rewritten(path, HEADER, trees__left=np.where(left > 0, 0, left).astype(np.int32))
    with pytest.raises(PredictorFileError, match="a branch of a tree leads to a node further on"):
        predictors.load(path)


def test_trees_that_no_walk_ends_in_soon_are_refused() -> None:
    inner = np.arange(0, 40_000, 2)
    left, right = (np.full(40_001, -1, np.int32) for _ in range(2))
    left[inner], right[inner] = inner + 2, inner + 1
    node = {"feature": np.zeros(40_001, np.int32), "threshold": np.zeros(40_001, np.float32)}
    arrays = {
        **node,
        "value": node["threshold"],
        "roots": np.zeros(1, np.int32),
        "left": left,
        "right": right,
    }
    with pytest.raises(PredictorFileError, match="a tree is at most 10000 deep"):
        from_arrays(arrays, 1)
    right[inner] = inner + 2
    with pytest.raises(PredictorFileError, match="one branch leads to a node"):
        from_arrays(arrays, 1)


def test_a_file_of_version_3_is_read_as_it_was_meant(path: Path) -> None:
    alphas = read_arrays(path.read_bytes())["process.alphas"]
    rewritten(path, {**HEADER, "recell_predictor": "3"}, process__alphas=alphas[:, 0].copy())
    loaded = predictors.load(path)
    process = small().ranker.process
    assert process is not None
    assert alphas.shape == process.alphas.shape
    without_ends = replace(small().ranker, process=replace(process, alphas=alphas[:, :1]))
    np.testing.assert_allclose(
        loaded.predict_rows(rows(seed=1)).rank,
        replace(small(), ranker=without_ends).predict_rows(rows(seed=1)).rank,
    )
    assert not same(loaded, small())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PredictorFileError, match=r"cannot read the predictor file .*none: No such file"):
        predictors.load(tmp_path / "none")


def test_an_empty_pool_of_cells_is_no_error() -> None:
    assert len(small().predict([])) == 0
    assert encode([]).shape[0] == 0
    assert load_space("gated").name == "gated"
