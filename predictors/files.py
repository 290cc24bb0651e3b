"""Predictors as files: arrays and JSON in the safetensors format. Reading one runs nothing that it holds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

from predictors.encoding import encoding_names
from predictors.errors import PredictorFileError
from predictors.forests import Forest, from_arrays
from predictors.kernels import Process, process_from
from predictors.known import known_from
from predictors.models import MODELS, STRUCTURE, model_key, model_names
from predictors.novelty import Novelty
from predictors.packing import compress, expand, pack, unpack
from predictors.predictor import PRIOR_COLUMNS, Predictor, Ranker
from predictors.scaling import Columns, Scale
from predictors.weights import NETWORKS, Network, restored

FILE_VERSION = 4
_READ = ("3", str(FILE_VERSION))  # those of version 3 say nothing of the ends
MOST_BYTES = 1 << 30
_MOST_PRIORS = 4
_HEADER_LENGTH = 8  # bytes that say how long the header of safetensors is
_MOST_HEADER = 1 << 24
_LARGEST = 1e12  # no number is larger, nor a positive one that divides smaller than _SMALLEST: predictions stay finite
_SMALLEST = 1e-9
_APART = 1e-200  # of two places of a scale
_MOST_FACTOR = 1e6  # of shares, slopes and spreads
_NETWORK = "network"  # arrays below this name are the weights of the network, which priors share

_KINDS = tuple(np.dtype(kind) for kind in (np.float32, np.float64, np.int32, np.int64))

_Arrays = dict[str, NDArray[Any]]


def save(predictor: Predictor, path: Path, small: bool = False) -> None:
    """Write one file; an existing one is replaced only when the new one is complete. See `predictors.packing`.

    Raises PredictorFileError where that cannot be: no such folder, no file, no space.
    """
    arrays: _Arrays = {}
    cards: list[dict[str, Any]] = []
    _collect(predictor, "", arrays, cards)
    known = predictor.known.arrays() if predictor.known is not None else {}
    arrays |= {f"known.{name}": array for name, array in known.items()}
    _check_sizes(arrays)
    header = {
        "recell_predictor": str(FILE_VERSION),
        "encoding": model_key(predictor.model),
        "model": predictor.model,
        "cards": json.dumps(cards, allow_nan=False),
    }
    if predictor.network is not None:
        header["network"] = predictor.network.header()
        arrays |= {f"{_NETWORK}.{name}": array for name, array in predictor.network.arrays.items()}
    kept = pack(arrays) if small else arrays
    data = write_arrays({name: np.ascontiguousarray(a) for name, a in kept.items()}, header)
    try:
        _write(path, compress(data) if small else data)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PredictorFileError(f"cannot write the predictor file {path}: {reason}") from error


def _write(path: Path, data: bytes) -> None:
    place = Path(os.path.realpath(path))  # what a link leads to is replaced, and not the link
    if place.exists() and not place.is_file():  # a device would be replaced, too, where one may
        raise PredictorFileError(
            f"{path}: a predictor is written to a file, not to a folder, a pipe or a device"
        )
    if not place.parent.is_dir():
        raise PredictorFileError(f"cannot write the predictor file {path}: there is no folder {place.parent}")
    part = place.with_name(place.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(place)
    except OSError:
        if part.is_file():
            part.unlink()
        raise


def load(path: str | Path) -> Predictor:
    """The predictor in a file. Raises PredictorFileError where it is none, damaged, or of another version."""
    place = Path(path)
    try:
        if place.stat().st_size > MOST_BYTES:
            raise PredictorFileError(f"{place}: a predictor file has at most {MOST_BYTES} bytes")
        if place.is_fifo() or place.is_char_device() or place.is_block_device():  # of which some have no end
            raise PredictorFileError(f"{place}: a predictor is in a file, not in a pipe or a device")
        data = place.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no path has a null character
        reason = getattr(error, "strerror", None) or error
        raise PredictorFileError(f"cannot read the predictor file {place}: {reason}") from error
    try:
        return _read(expand(data))
    except PredictorFileError as error:
        raise PredictorFileError(f"{place}: {error}") from error


def _read(data: bytes) -> Predictor:
    header = _header(data)
    version = header.get("recell_predictor")
    if version not in _READ:
        raise PredictorFileError(
            f"this version reads predictor files of versions {' and '.join(_READ)}; received {_short(version)}"
        )
    model = header.get("model", "ensemble")  # files of before there were others do not say it
    if model not in MODELS:
        raise PredictorFileError(f"a model is one of {', '.join(MODELS)}; received {_short(model)}")
    if header.get("encoding") != model_key(model):
        raise PredictorFileError(
            "it was fitted on another encoding of cells than this version has: fit it again "
            f"(encoding {model_key(model)}; received {_short(header.get('encoding'))})"
        )
    cards = _json(header.get("cards"))
    if (
        not isinstance(cards, list)
        or not 1 <= len(cards) <= _MOST_PRIORS
        or not all(isinstance(c, dict) for c in cards)
    ):
        raise PredictorFileError(f"the cards are a list of 1 to {_MOST_PRIORS} JSON objects")
    try:
        arrays = unpack(read_arrays(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PredictorFileError(f"the file is damaged or not complete: {error}") from error
    _check_sizes(arrays)
    network = restored(header.get("network"), _below(arrays, _NETWORK)) if model in NETWORKS else None
    if network is not None and network.kind != model:
        raise PredictorFileError(
            f"the model {model} has a network of its kind; received one of {network.kind}"
        )
    predictor: Predictor | None = None
    for depth in reversed(range(len(cards))):
        predictor = _restored("prior." * depth, arrays, cards[depth], predictor, model, network)
    assert predictor is not None
    return replace(predictor, known=known_from(_below(arrays, "known")))


def _short(value: Any) -> str:
    """What a file says, as an error may repeat it."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _check_sizes(arrays: _Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype not in _KINDS:
            raise PredictorFileError(f"arrays are of {', '.join(map(str, _KINDS))}; received {array.dtype}")
        if array.dtype.kind == "f" and array.size and not np.abs(array).max() <= _LARGEST:
            raise PredictorFileError(
                f"`{_short(name)[1:-1]}` is of finite numbers of at most {_LARGEST:g}; it has others"
            )


def _header(data: bytes) -> Mapping[str, Any]:
    """The text part of the file. It is read here, because safetensors gives it out for files on disk only."""
    if len(data) < _HEADER_LENGTH:
        raise PredictorFileError("this is not a predictor file: it is too short")
    length = int.from_bytes(data[:_HEADER_LENGTH], "little")
    if length > min(_MOST_HEADER, len(data) - _HEADER_LENGTH):
        raise PredictorFileError("this is not a predictor file, or not a complete one")
    found = _json(data[_HEADER_LENGTH : _HEADER_LENGTH + length])
    meta = found.get("__metadata__") if isinstance(found, dict) else None
    if not isinstance(meta, dict):
        raise PredictorFileError("this is not a predictor file: it does not say what it is")
    return meta


def _json(text: Any) -> Any:
    if not isinstance(text, str | bytes):
        raise PredictorFileError("a part of the header is missing")
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PredictorFileError(f"the header is not JSON: {error}") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number there")


# ---- parts ------------------------------------------------------------------------------------


def _collect(predictor: Predictor, prefix: str, arrays: _Arrays, cards: list[dict[str, Any]]) -> None:
    if len(cards) == _MOST_PRIORS:
        raise PredictorFileError(
            f"a file holds a predictor and at most {_MOST_PRIORS - 1} priors, one of the other"
        )
    ranker, novelty = predictor.ranker, predictor.novelty
    parts: _Arrays = {
        "columns.used": ranker.columns.used,
        "columns.mean": ranker.columns.mean,
        "columns.spread": ranker.columns.spread,
        "columns.base": ranker.base,
        "scale.at": predictor.scale.at,
        "scale.score": predictor.scale.score,
        "novelty.rows": novelty.rows,
        "novelty.near": novelty.near,
        "novelty.mean": novelty.mean,
        "novelty.spread": novelty.spread,
        "numbers": np.array(
            [*ranker.shares, ranker.slope, *predictor.errors, novelty.usual, float(predictor.extras)]
        ),
    }
    for name, forest in (
        ("trees", ranker.trees),
        ("failing", predictor.failing),
        ("process", ranker.process),
    ):
        if forest is not None:
            parts |= {f"{name}.{key}": array for key, array in forest.arrays().items()}
    arrays |= {prefix + name: array for name, array in parts.items()}
    cards.append(dict(predictor.card))
    if predictor.prior is not None:
        _collect(predictor.prior, prefix + "prior.", arrays, cards)


def _restored(
    prefix: str,
    arrays: _Arrays,
    card: dict[str, Any],
    prior: Predictor | None,
    model: str,
    network: Network | None,
) -> Predictor:
    parts = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    numbers = _flat(parts, "numbers", 7)
    first, second, slope, factor, least, usual, extras = (float(n) for n in numbers)
    factors = (first, second, slope, factor)
    if (
        not all(0 <= number <= _MOST_FACTOR for number in factors)
        or least < 0
        or usual < _SMALLEST
        or extras not in range(10_000)
    ):
        raise PredictorFileError(f"the numbers of a predictor are out of range: {numbers.tolist()}")
    names = model_names(model, network)
    width = len(names) + (PRIOR_COLUMNS if prior is not None else 0) + int(extras)
    columns = _columns(parts, width)
    used = len(columns.used)
    trees = from_arrays(_below(parts, "trees"), used)
    failing: Forest | None = from_arrays(_below(parts, "failing"), used) if "failing.roots" in parts else None
    process: Process | None = (
        process_from(_below(parts, "process"), used) if "process.rows" in parts else None
    )
    if process is not None and (process.kernels[:, 1] < _SMALLEST).any():
        raise PredictorFileError(f"the length of a kernel is at least {_SMALLEST:g}")
    if bool(slope) and prior is None:
        raise PredictorFileError("a predictor without a prior does not lean on one")
    base = _flat(parts, "columns.base", used)
    ranker = Ranker(columns, trees, process, (first, second), slope, base, len(names))
    novelty = _novelty(parts, usual, len(encoding_names(STRUCTURE)) if model != "ensemble" else len(names))
    return Predictor(
        ranker,
        _scale(parts),
        (factor, least),
        novelty,
        failing,
        prior,
        int(extras),
        card,
        model=model,
        network=network,
    )


def _below(parts: _Arrays, name: str) -> _Arrays:
    return {key.removeprefix(f"{name}."): array for key, array in parts.items() if key.startswith(f"{name}.")}


def _flat(parts: _Arrays, name: str, length: int | None = None) -> NDArray[np.float64]:
    array = parts.get(name)
    if array is None or array.dtype != np.float64 or array.ndim != 1 or not np.isfinite(array).all():
        raise PredictorFileError(f"`{name}` is a flat array of finite float64 numbers")
    if length is not None and len(array) != length:
        raise PredictorFileError(f"`{name}` has {length} numbers; received {len(array)}")
    return array


def _columns(parts: _Arrays, width: int) -> Columns:
    used = parts.get("columns.used")
    if used is None or used.dtype != np.int64 or used.ndim != 1 or not ((used >= 0) & (used < width)).all():
        raise PredictorFileError(f"`columns.used` are numbers of columns, 0 to {width - 1}")
    mean, spread = (_flat(parts, f"columns.{name}", len(used)) for name in ("mean", "spread"))
    if (spread < _SMALLEST).any():
        raise PredictorFileError(f"the spread of a column is at least {_SMALLEST:g}")
    return Columns(used, mean, spread)


def _scale(parts: _Arrays) -> Scale:
    at = _flat(parts, "scale.at")
    score = _flat(parts, "scale.score", len(at))
    if not len(at) or (np.diff(at) <= _APART).any() or (np.diff(score) < 0).any():
        raise PredictorFileError("the scale of a predictor does not fall")
    return Scale(at, score)


def _novelty(parts: _Arrays, usual: float, most: int) -> Novelty:
    mean = _flat(parts, "novelty.mean")
    spread = _flat(parts, "novelty.spread", len(mean))
    rows = parts.get("novelty.rows")
    fits = (
        rows is not None
        and rows.dtype == np.float32
        and rows.ndim == 2
        and rows.shape[1] == len(mean)
        and len(rows)
    )
    if rows is None or not fits or not np.isfinite(rows).all() or (spread < _SMALLEST).any():
        raise PredictorFileError(
            f"`novelty.rows` are rows of finite float32 numbers, and spreads are at least {_SMALLEST:g}"
        )
    if len(mean) > most or not math.isfinite(usual):
        raise PredictorFileError("novelty compares columns of the encoding")
    near = _flat(parts, "novelty.near", len(rows))
    if (near < _SMALLEST).any():
        raise PredictorFileError(f"the distance of a fitted cell to the others is at least {_SMALLEST:g}")
    return Novelty(rows, near, mean, spread, usual)


def with_card(predictor: Predictor, **entries: Any) -> Predictor:
    """The same predictor with more said on its card."""
    return replace(predictor, card={**predictor.card, **entries})
