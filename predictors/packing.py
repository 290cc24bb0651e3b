"""Small files of predictors: arrays in fewer bits, the whole compressed. What is read back is as wide as before.

Scaled rows, of which a process or a novelty compares many columns, are kept in steps of an eighth of the spread of a
column, far below the noise of probes; thresholds and values of trees in 16 bits; numbers of nodes as the way to them.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.errors import PredictorFileError

Arrays = dict[str, NDArray[Any]]

MAGIC = b"\xfd7zXZ\x00"
MOST_BYTES = 1 << 27  # of a compressed file, once it is read
_MEMORY = 1 << 27  # that reading one may take
_STEP = 1 / 8
_LEAF = -1
_PACKED = "packed."  # in the name of an array: it is kept in another way


def compress(data: bytes) -> bytes:
    """A file in the xz format."""
    return lzma.compress(data, lzma.FORMAT_XZ)


def expand(data: bytes) -> bytes:
    """A file that `compress` made, or `data` as they are. Raises PredictorFileError for a damaged or a huge one."""
    if not data.startswith(MAGIC):
        return data
    try:
        reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
        found = reader.decompress(data, MOST_BYTES + 1)
    except lzma.LZMAError as error:
        raise PredictorFileError(f"the file is damaged or not complete: {error}") from error
    if len(found) > MOST_BYTES:
        raise PredictorFileError(f"a compressed predictor file holds at most {MOST_BYTES} bytes")
    if not reader.eof or reader.unused_data:
        raise PredictorFileError("the file is damaged or not complete")
    return found


def pack(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The same arrays in fewer bits, under names that say so; an array that no rule fits stays as it is."""
    return dict(_packed(name, array) for name, array in arrays.items())


def _packed(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    last = name.rpartition(".")[2]
    if last == "rows" and array.dtype == np.float32 and np.abs(array).max(initial=0.0) < 2**15 * _STEP:
        steps = np.round(array / _STEP).astype(np.int64)
        return f"{_PACKED}steps.{name}", np.ascontiguousarray(
            _narrow(steps).T
        )  # the entries of a column are alike
    if name.startswith("network."):
        return f"{_PACKED}weights.{name}", array.astype(np.float16)
    if last in ("threshold", "value") and np.abs(array).max(initial=0.0) < np.finfo(np.float16).max:
        return f"{_PACKED}half.{name}", array.astype(np.float16)
    if last in ("left", "right"):
        return f"{_PACKED}ahead.{name}", _narrow(np.where(array == _LEAF, 0, array - np.arange(len(array))))
    if last == "feature" and array.max(initial=0) < 2**15:
        return f"{_PACKED}short.{name}", array.astype(np.int16)
    return name, array


def _narrow(array: NDArray[np.int64]) -> NDArray[Any]:
    """Whole numbers in the fewest bytes that hold them all."""
    most = int(np.abs(array).max(initial=0))
    return array.astype(np.int8 if most < 2**7 else np.int16 if most < 2**15 else np.int32)


def unpack(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """What `pack` was given, but for what was rounded off. Raises PredictorFileError for what it did not make."""
    return dict(_unpacked(name, array) for name, array in arrays.items())


def _unpacked(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    if not name.startswith(_PACKED):
        return name, array
    way, _, name = name.removeprefix(_PACKED).partition(".")
    kind, flat = array.dtype, array.ndim == 1
    if way == "steps" and kind in (np.int8, np.int16) and array.ndim == 2:
        return name, np.ascontiguousarray(array.T).astype(np.float32) * np.float32(_STEP)
    if way == "weights" and kind == np.float16:
        return name, array.astype(np.float32)
    if way == "half" and kind == np.float16 and flat:
        return name, array.astype(np.float32)
    if way == "ahead" and kind.kind == "i" and flat:
        places = np.arange(len(array)) + array.astype(np.int64)
        if (array < 0).any() or (places >= len(array)).any():
            raise PredictorFileError(
                "a branch of a tree leads to a node further on; this file has one that does not"
            )
        return name, np.where(array == 0, _LEAF, places).astype(np.int32)
    if way == "short" and kind == np.int16 and flat:
        return name, array.astype(np.int32)
    raise PredictorFileError(
        f"an array is packed in a way that this version does not know: {way!r} of {kind}"
    )
