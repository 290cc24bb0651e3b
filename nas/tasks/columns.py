"""Columns of numbers from a file (CSV, .npy or .npz), normalised and cut into parts. NumPy only, no torch."""

from __future__ import annotations

import csv
import hashlib
import math
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.errors import TaskError

Floats = NDArray[np.float64]

Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

LARGEST = 1 << 30
DEFAULT_LENGTH = 5_000


@dataclass(frozen=True)
class Series:
    """A series of T times and C columns, ready to be learned from."""

    x: Singles
    """[T, C], normalised: mean 0 and variance 1 of each column in the training part."""
    y: Singles
    """[T - 1, C], the change to the next time, in units of the root of its mean square in the training part."""
    bounds: tuple[int, int]
    """The first times of validation and of test."""
    digest: str
    """SHA-256 of the numbers."""

    def scored(self, split: Literal["valid", "test"], most: int) -> tuple[int, int]:
        """The times of a split, at most `most`: the first one and the one after the last."""
        first, end = (self.bounds[1], len(self.x)) if split == "test" else self.bounds
        return first, min(end, first + most)

    def trivial_score(self, most: int) -> float:
        """The score on the validation part of saying each value again."""
        first, end = self.scored("valid", most)
        return float(np.square(self.y[first - 1 : end - 1].astype(np.float64)).mean())


def load_series(data: str | None, window: int) -> Series:
    """The series of a file (default: that of Mackey and Glass), cut 80 / 10 / 10 %, in this order.

    Raises TaskError for what `read_columns` does, for fewer than two windows and a value in the training part, and
    for a column that is constant there.
    """
    values = mackey_glass(DEFAULT_LENGTH) if data is None else read_columns(data)
    first, second = len(values) * 80 // 100, len(values) * 90 // 100
    where = "the default series" if data is None else f"data {data}"
    needed = max(10, -(-(2 * window + 1) * 100 // 80))
    if len(values) < needed:
        raise TaskError(f"{where} is too short: it has {len(values)} rows and this task needs {needed}")
    with np.errstate(over="ignore", invalid="ignore"):
        return _normalised(values, first, second, where)


def _normalised(values: Floats, first: int, second: int, where: str) -> Series:
    changes = np.diff(values, axis=0)
    unit = np.sqrt(np.square(changes[: first - 1]).mean(axis=0))
    constant = np.flatnonzero(unit == 0)
    if len(constant):
        raise TaskError(
            f"{where}, column {constant[0] + 1} is constant in the first {first} rows: leave it out"
        )
    deviation = values[:first].std(axis=0)
    x = ((values - values[:first].mean(axis=0)) / deviation).astype(np.float32)
    y = (changes / unit).astype(np.float32)
    if not all(np.isfinite(array).all() for array in (deviation, unit, x, y)):
        raise TaskError(f"{where} has numbers too large to be squared: scale them down")
    digest = hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()
    return Series(x, y, (first, second), digest)


@cache
def mackey_glass(length: int) -> Floats:
    """[length, 1]: dx/dt = 0.2 x(t - 30) / (1 + x(t - 30)^10) - 0.1 x, every 6th time; chaotic (Mackey and Glass 1977).

    By Euler's steps of 0.5 with products alone, so that the numbers are the same on every machine.
    """
    delay, every, skipped = 60, 12, 100
    values = [1.2] * (delay + 1)
    for _ in range((length + skipped) * every):
        late = values[-1 - delay]
        square = late * late
        fourth = square * square
        values.append(values[-1] + 0.5 * (0.2 * late / (1 + fourth * fourth * square) - 0.1 * values[-1]))
    return np.array(values[-length * every :: every])[:, None]


def read_columns(data: str) -> Floats:
    """The numbers [T, C] of a file, a row for each time: CSV, or `.npy` or `.npz` of one array [T] or [T, C].

    A CSV file is of UTF-8 text, its cells are parted by commas, semicolons or tabs (the first line says which), and
    its first line may have names. Raises TaskError, naming the file and the place, for what is missing or no finite
    number.
    """
    path = Path(data).expanduser()
    if not path.is_file():
        raise TaskError(
            f"data file {data} does not exist" if not path.exists() else f"data {data} is no file"
        )
    if (size := path.stat().st_size) > LARGEST:
        raise TaskError(f"data {data} is too large: {size} bytes, and at most {LARGEST} are read into memory")
    try:
        return _array(path, data) if path.suffix in (".npy", ".npz") else _cells(path, data)
    except OSError as error:
        raise TaskError(f"data file {data} cannot be read: {error.strerror or error}") from error


def _array(path: Path, data: str) -> Floats:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found:
                if len(found.files) != 1:
                    names = ", ".join(found.files) or "none"
                    raise TaskError(f"data file {data} must hold one array, and its arrays are: {names}")
                found = found[found.files[0]]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TaskError(f"data file {data} is no array of numbers: {error}") from error
    if found.dtype.kind not in "iuf" or found.ndim not in (1, 2) or found.size == 0:
        raise TaskError(
            f"data file {data} must hold numbers [T] or [T, C], got {found.dtype} {list(found.shape)}"
        )
    rows: Floats = found.astype(np.float64).reshape(len(found), -1)
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, column = bad[0].tolist()
        raise TaskError(
            f"data file {data}, row {row + 1}, column {column + 1}: {rows[row, column]} is not a finite number"
        )
    return rows


def _cells(path: Path, data: str) -> Floats:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"data file {data} is not UTF-8 text: at offset {error.start}") from error
    if "\0" in text:
        raise TaskError(f"data file {data} is not text: it holds a zero byte")
    lines = text.splitlines()
    separator = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    rows, names = list[list[float]](), list[str]()
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) and len(cells) <= 1:
                continue
            if not rows and not names and not any(_is_number(cell) for cell in cells):
                names = cells
                continue
            rows.append(_numbers(cells, names, f"data file {data}, line {reader.line_num}"))
            wanted = len(names or rows[0])
            if len(cells) != wanted:
                raise TaskError(
                    f"data file {data}, line {reader.line_num} has {len(cells)} cells, and the first line has {wanted}"
                )
    except csv.Error as error:
        raise TaskError(f"data file {data}, line {reader.line_num}: {error}") from error
    if not rows:
        raise TaskError(f"data file {data} is empty: it holds no numbers")
    return np.array(rows)


def _numbers(cells: list[str], names: list[str], where: str) -> list[float]:
    values = []
    for column, cell in enumerate(cells):
        name = f" ({names[column]})" if column < len(names) else ""
        place = f"{where}, column {column + 1}{name}"
        if not _is_number(cell):
            raise TaskError(f"{place}: {cell!r} is not a number" if cell.strip() else f"{place} is empty")
        if not math.isfinite(float(cell)):
            raise TaskError(f"{place}: {cell.strip()} is not a finite number")
        values.append(float(cell))
    return values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
