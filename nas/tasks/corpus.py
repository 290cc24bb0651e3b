"""Texts as tokens: reading files and folders, characters or words, vocabulary and splits. NumPy only, no torch."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.errors import TaskError

UNKNOWN = "<unk>"
LINE_END = "<eos>"
LARGEST = 1 << 30

Unit = Literal["character", "word"]
Tokens = NDArray[np.int32]

# A line end is a token, as in the word-level literature. "<unk>" and "@-@" are WikiText's spelling, "'s" is how
# WikiText and Penn Treebank cut a word, so that their files keep their published tokens.
_WORD = re.compile(r"\n|<\w+>|@[-.,]@|'?\w+|[^\w\s]")


@dataclass(frozen=True)
class Corpus:
    """A text as token numbers, cut into three contiguous parts; the vocabulary is that of the training part."""

    train: Tokens
    valid: Tokens
    test: Tokens
    vocabulary: tuple[str, ...]
    """Token 0 is "<unk>": what the training part does not hold, or too rarely to be among the most frequent."""
    digest: str
    """SHA-256 of the text."""

    def part(self, split: Literal["valid", "test"]) -> Tokens:
        """The tokens of an evaluation split."""
        return self.valid if split == "valid" else self.test

    def unigram(self) -> NDArray[np.float64]:
        """Log-probability of each token in the training part, add-one smoothed: the best that ignores context."""
        counts = np.bincount(self.train, minlength=len(self.vocabulary)) + 1.0
        return np.asarray(np.log(counts / counts.sum()), dtype=np.float64)

    def unigram_score(self, scored: int) -> float:
        """Nats per token of the unigram distribution on the `scored` tokens of the validation part."""
        return float(-self.unigram()[streams(self.valid, scored)[1]].mean())


def streams(part: Tokens, scored: int) -> tuple[Tokens, Tokens]:
    """Inputs and targets [rows, L] for scoring the first tokens of a part, each row a contiguous stretch of it.

    The rows do not depend on the recipe, so scores compare; few enough that the cold start of each weighs little.
    """
    count = min(len(part) - 1, scored)
    rows = min(max(count // 512, 1), 32)
    length = count // rows
    return part[: rows * length].reshape(rows, length), part[1 : rows * length + 1].reshape(rows, length)


def load_corpus(data: str | None, unit: Unit, max_vocabulary: int, needed: int) -> Corpus:
    """Read the text at `data` (default: Python's own reference manual) as characters or words.

    At most `max_vocabulary` tokens have a number of their own, the most frequent ones. The split is 90 / 5 / 5 %, in
    this order. Raises TaskError, naming the path, for what is missing, empty, binary, or shorter than `needed` tokens.
    """
    text = default_text() if data is None else read_text(data)
    digest = hashlib.sha256(text.encode()).hexdigest()
    pieces, names = _characters(text) if unit == "character" else _words(text)
    if len(pieces) < needed:
        where = "the default text" if data is None else f"data {data}"
        raise TaskError(f"{where} is too short: it has {len(pieces)} {unit}s and this task needs {needed}")
    first, second = len(pieces) * 90 // 100, len(pieces) * 95 // 100
    counts = np.bincount(pieces[:first], minlength=len(names))
    if UNKNOWN in names:
        counts[names.index(UNKNOWN)] = 0
    # A stable sort: ties are broken by the names' own order, so the numbering depends on nothing but the text.
    kept = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]][: max_vocabulary - 1]
    number = np.zeros(len(names), dtype=np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    tokens = number[pieces]
    vocabulary = (UNKNOWN, *(names[i] for i in kept))
    return Corpus(tokens[:first], tokens[first:second], tokens[second:], vocabulary, digest)


def default_text() -> str:
    """The topics of Python's reference manual that every installation carries, in alphabetical order.

    Topics repeat whole sections of each other. Each paragraph is kept where it comes first, so that what is scored has
    not been seen in training.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    kept = []
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                kept.append(paragraph.strip("\n"))
    return "\n\n".join(kept) + "\n"


def read_text(data: str) -> str:
    """The text of a UTF-8 file, or of all files below a folder in the order of their names, joined by newlines.

    In a folder, names that start with a dot and empty files are passed over; a file that is not text is an error.
    """
    path = Path(data).expanduser()
    if not path.exists():
        raise TaskError(f"data file {data} does not exist")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
        if not files:
            raise TaskError(f"data folder {data} holds no files")
    elif path.is_file():
        files = [path]
    else:
        raise TaskError(f"data {data} is neither a file nor a folder")
    _check_size(files, data)
    text = "\n".join(part for part in map(_read_file, files) if part)
    if not text.strip():
        raise TaskError(f"data {'folder' if path.is_dir() else 'file'} {data} is empty: it holds no text")
    return text


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _check_size(files: Sequence[Path], data: str) -> None:
    size = sum(file.stat().st_size for file in files)
    if size > LARGEST:
        raise TaskError(f"data {data} is too large: {size} bytes, and at most {LARGEST} are read into memory")


def _read_file(path: Path) -> str:
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise TaskError(f"data file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(
            f"data file {path} is not UTF-8 text: byte 0x{raw[error.start]:02x} at offset {error.start}"
        ) from error
    if "\0" in text:
        raise TaskError(f"data file {path} is not text: it holds a zero byte")
    return text.replace("\r\n", "\n")


def _characters(text: str) -> tuple[Tokens, list[str]]:
    """The characters of the text as indices into a table of names, in the order of their code points."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    present = np.zeros(sys.maxunicode + 1, dtype=bool)
    present[points] = True
    number = np.cumsum(present, dtype=np.int32) - 1
    return number[points], [chr(point) for point in np.flatnonzero(present).tolist()]


def _words(text: str) -> tuple[Tokens, list[str]]:
    """Words of the text as indices into a sorted table of names."""
    words = [LINE_END if word == "\n" else word for word in _WORD.findall(text)]
    names = sorted(set(words))
    index = {name: i for i, name in enumerate(names)}
    return np.fromiter(map(index.__getitem__, words), dtype=np.int32, count=len(words)), names
