"""Damage predictor files in every way that can be thought of: each is read, or refused with one PredictorFileError.

    python scripts/fuzz_predictors.py --files 10000 --seed 0

Bytes flipped, cut out, put in and cut off; lengths forged; JSON damaged; shapes, types and offsets forged; numbers made
huge, negative, NaN; arrays dropped, exchanged, and made by hand. A file that is read must predict without an error.
Prints how many were refused, by message; exits with 1 at the first other error, and keeps that file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from predictors import PredictorFileError, encode, fit_rows, load  # noqa: E402
from search_spaces import load_space  # noqa: E402

Floats = NDArray[np.float64]
Damage = Callable[[bytes, np.random.Generator], bytes]
TEXTS = (
    "null", "-1", "0", "1e999", "NaN", "[]", "{}", '""', "18446744073709551616", "[[[[", "true", '"F32"', "\\u0000",
    '"__metadata__"', "99999999999", '"BF16"', '"I64"', '"BOOL"',
)  # fmt: skip
NUMBERS = (0.0, -1.0, 1e308, -1e308, 1e-320, np.nan, np.inf, -np.inf, 2.0**31, 0.5)


def main() -> int:
    options = _options()
    rng = np.random.default_rng(options.seed)
    whole, rows = _file(options.folder)
    path = options.folder / "damaged.recell"
    said: Counter[str] = Counter()
    start = time.process_time()
    for number in range(options.files):
        kind = KINDS[number % len(KINDS)]
        data = kind(whole, rng)
        for _ in range(int(rng.integers(0, 2))):
            data = _flipped(data, rng) if data else data
        path.write_bytes(data)
        try:
            said[_outcome(path, rows)] += 1
        except Exception as error:
            print(f"file {number} ({kind.__name__}): {type(error).__name__}: {error}; kept as {path}")
            return 1
    seconds = time.process_time() - start
    path.unlink()
    print(f"{options.files} files, seed {options.seed}, {seconds:.0f} s: no other error, no warning")
    for message, count in said.most_common():
        print(f"{count:6d}  {message}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="where damaged files are written")
    return parser.parse_args()


def _file(folder: Path) -> tuple[bytes, Floats]:
    """A small predictor with a prior, extras and failing cells as bytes, and rows to predict."""
    rng, space = np.random.default_rng(0), load_space("gated")
    rows = encode(space.sample(rng) for _ in range(24))
    scores = rng.normal(size=len(rows))
    prior = fit_rows(rows, np.where(scores > 1, np.inf, scores), check=False)
    folder.mkdir(parents=True, exist_ok=True)
    fit_rows(rows, scores, prior=prior, extras=scores[:, None], check=False).save(folder / "whole.recell")
    return (folder / "whole.recell").read_bytes(), rows[:3]


def _outcome(path: Path, rows: Floats) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            predictor = load(path)
        except PredictorFileError as error:
            message = str(error).removeprefix(f"{path}: ")
            if "\n" in message or len(message) > 2000:
                raise ValueError(f"a message of {len(message)} characters") from error
            return "refused: " + " ".join(message.split()[:7])
        said = predictor.predict_rows(rows, np.zeros((len(rows), predictor.extras)))
        if not all(np.isfinite(a).all() for a in (said.mean, said.std, said.rank, said.novelty)):
            raise ValueError("a prediction that is not finite")
    return "read"


# ---- damage -----------------------------------------------------------------------------------


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, mostly in the header."""
    end = min(_header_end(data), len(data)) if rng.random() < 0.7 else len(data)
    broken = bytearray(data)
    for place in rng.integers(0, max(end, 1), int(rng.integers(1, 6))):
        broken[place] = int(rng.integers(0, 256))
    return bytes(broken)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _spliced(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece taken out, doubled, or put in at random."""
    a, size = int(rng.integers(0, len(data))), int(rng.integers(1, 64))
    middle = (b"", data[a : a + size] * 2, rng.bytes(size))[int(rng.integers(3))]
    return data[:a] + middle + data[a + size :]


def _length(data: bytes, rng: np.random.Generator) -> bytes:
    """Another length of the header."""
    true = int.from_bytes(data[:8], "little")
    forged = (0, 1, true - 1, true + 1, len(data), len(data) - 8, 2**24, 2**31, 2**63, 2**64 - 1)
    return forged[int(rng.integers(len(forged)))].to_bytes(8, "little") + data[8:]


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    """Some text of the header in place of other text; the length fits."""
    end = _header_end(data)
    text = data[8:end].decode()
    a = int(rng.integers(0, len(text)))
    b = a + int(rng.integers(0, 12))
    text = text[:a] + TEXTS[int(rng.integers(len(TEXTS)))] + text[b:]
    return _joined(text, data[end:])


def _entries(data: bytes, rng: np.random.Generator) -> bytes:
    """A forged shape, type or place of one array."""
    end = _header_end(data)
    header = json.loads(data[8:end])
    names = sorted(set(header) - {"__metadata__"})
    entry = header[names[int(rng.integers(len(names)))]]
    key = ("shape", "dtype", "data_offsets")[int(rng.integers(3))]
    huge = [int(2 ** rng.uniform(0, 64)) for _ in range(int(rng.integers(0, 4)))]
    choices: dict[str, tuple[Any, ...]] = {
        "shape": (huge, [0, *entry["shape"]], entry["shape"][::-1], [-1], [1.5], None, [1] * 70),
        "dtype": ("F64", "I64", "U8", "BOOL", "BF16", "F8_E4M3", "C64", "", None, 3),
        "data_offsets": (huge, [0, 0], entry["data_offsets"][::-1], [0, 2**63], None, [0, len(data) + 8]),
    }
    entry[key] = choices[key][int(rng.integers(len(choices[key])))]
    return _joined(json.dumps(header), data[end:])


def _cards(data: bytes, rng: np.random.Generator) -> bytes:
    """Other entries of the text part."""
    end = _header_end(data)
    header = json.loads(data[8:end])
    meta = header["__metadata__"]
    name = sorted(meta)[int(rng.integers(len(meta)))]
    forged = ("", "[]", "[1]", "[{}]", "[{},{}]", "[{},{},{},{},{}]", "[" * 5000, "2", "3", "\ud800", "9" * 5000, None,
              7, "[NaN]", '[{"a": 1e999}, {}]', "{}", "null")  # fmt: skip
    meta[name] = forged[int(rng.integers(len(forged)))]
    if rng.random() < 0.3:
        del meta[name]
    return _joined(json.dumps(header), data[end:])


def _joined(header: str, arrays: bytes) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + arrays


def _arrays(data: bytes, rng: np.random.Generator) -> bytes:
    """Sound files with other arrays in them: dropped, exchanged, of other numbers, shapes and types."""
    meta = json.loads(data[8 : _header_end(data)])["__metadata__"]
    arrays = dict(read_arrays(data))
    for _ in range(int(rng.integers(1, 3))):
        names = sorted(arrays)
        name, other = (names[int(i)] for i in rng.integers(0, len(names), 2))
        arrays[name] = np.ascontiguousarray(_changed(arrays[name], arrays[other], rng))
        if rng.random() < 0.1:
            del arrays[name]
    return bytes(write_arrays(arrays, meta))


def _changed(array: NDArray[Any], other: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    choice = int(rng.integers(9))
    if choice == 0:
        return other
    if choice == 1:
        return array.reshape(-1)
    if choice == 2:
        return array[: int(rng.integers(0, len(array) + 1))] if array.ndim else array
    if choice == 3:
        return np.concatenate([array, array]) if array.ndim else array
    if choice == 4:
        kind = (np.float32, np.float64, np.int64, np.int32, np.bool_)[int(rng.integers(5))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return array.astype(kind)
    if choice == 5:
        return np.zeros((0, *array.shape[1:]), array.dtype)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = np.asarray(NUMBERS[int(rng.integers(len(NUMBERS)))]).astype(array.dtype)
    if choice == 6:
        return np.full_like(array, value)
    made = array.copy().reshape(-1)
    if made.size:
        made[rng.integers(0, made.size, int(rng.integers(1, 4)))] = value
    return made.reshape(array.shape)


KINDS: tuple[Damage, ...] = (
    _flipped,
    _cut,
    _spliced,
    _length,
    _json,
    _entries,
    _cards,
    _arrays,
    _arrays,
    _arrays,
)

if __name__ == "__main__":
    sys.exit(main())
