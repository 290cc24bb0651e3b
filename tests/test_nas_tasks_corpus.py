"""Texts as tokens: what is read, what is refused and how it is said, vocabulary and splits."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nas.errors import TaskError
from nas.tasks import corpus
from nas.tasks.corpus import Tokens, default_text, load_corpus, read_text, streams

TEXT = "the cat sat on the mat.\nthe dog's bone lay on the mat, too.\n" * 40


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_characters_and_splits_cover_the_text_in_order(text_file: Path) -> None:
    found = load_corpus(str(text_file), "character", 1000, needed=100)
    tokens = np.concatenate([found.train, found.valid, found.test])
    assert "".join(found.vocabulary[t] for t in tokens) == TEXT
    assert len(found.train) == len(TEXT) * 90 // 100
    assert abs(len(found.valid) - len(found.test)) <= 1
    assert found.digest == hashlib.sha256(TEXT.encode()).hexdigest()


def test_words_keep_punctuation_clitics_and_line_ends(text_file: Path) -> None:
    found = load_corpus(str(text_file), "word", 1000, needed=100)
    words = [found.vocabulary[t] for t in found.train[:16]]
    assert " ".join(words) == "the cat sat on the mat . <eos> the dog 's bone lay on the mat"


def test_the_vocabulary_is_that_of_the_training_part(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ab" * 450 + "z" * 100)
    found = load_corpus(str(path), "character", 1000, needed=100)
    assert found.vocabulary == ("<unk>", "a", "b")
    assert set(found.valid.tolist()) == set(found.test.tolist()) == {0}


def test_the_most_frequent_tokens_are_kept(text_file: Path) -> None:
    found = load_corpus(str(text_file), "word", 4, needed=100)
    assert found.vocabulary == ("<unk>", "the", ".", "<eos>")
    assert Counter(found.train.tolist()).most_common(1)[0][0] == 0


def test_an_unk_in_the_text_is_the_unknown_token(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the <unk> sat @-@ there = \n" * 50)
    found = load_corpus(str(path), "word", 100, needed=100)
    assert found.vocabulary.count("<unk>") == 1
    assert found.train[:7].tolist() == [
        found.vocabulary.index(w) for w in "the <unk> sat @-@ there = <eos>".split()
    ]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "sub" / "c.txt").write_text("third")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    assert read_text(str(tmp_path)) == "first\nsecond\nthird"


def test_line_ends_and_byte_order_marks_are_made_equal(tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_text(str(path)) == "one\ntwo\n"


def _missing(folder: Path) -> Path:
    return folder / "nowhere.txt"


def _empty(folder: Path) -> Path:
    path = folder / "empty.txt"
    path.write_text(" \n")
    return path


def _binary(folder: Path) -> Path:
    path = folder / "picture.png"
    path.write_bytes(b"\x89PNG\r\n")
    return path


def _zeros(folder: Path) -> Path:
    path = folder / "zeros.bin"
    path.write_bytes(b"text\0text")
    return path


def _empty_folder(folder: Path) -> Path:
    path = folder / "folder"
    path.mkdir()
    return path


def _short(folder: Path) -> Path:
    path = folder / "short.txt"
    path.write_text("too short")
    return path


def _pipe(folder: Path) -> Path:
    path = folder / "pipe"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, r"data file .*nowhere\.txt does not exist"),
        (_empty, r"data file .*empty\.txt is empty"),
        (_binary, r"data file .*picture\.png is not UTF-8 text: byte 0x89 at offset 0"),
        (_zeros, r"data file .*zeros\.bin is not text: it holds a zero byte"),
        (_empty_folder, r"data folder .*folder holds no files"),
        (_short, r"data .*short\.txt is too short: it has 9 characters and this task needs 100"),
        (_pipe, r"data .*pipe is neither a file nor a folder"),
    ],
)
def test_unusable_data_is_one_clear_error(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        load_corpus(str(make(tmp_path)), "character", 1000, needed=100)
    assert "\n" not in str(caught.value)


def test_a_binary_file_in_a_folder_is_named(tmp_path: Path, text_file: Path) -> None:
    _binary(tmp_path)
    with pytest.raises(TaskError, match=r"picture\.png is not UTF-8 text"):
        load_corpus(str(tmp_path), "character", 1000, needed=100)


def test_a_file_beyond_memory_is_refused(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LARGEST", 1000)
    with pytest.raises(TaskError, match=rf"too large: {len(TEXT)} bytes, and at most 1000"):
        read_text(str(text_file))


def test_an_unreadable_file_is_one_clear_error(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(TaskError, match=r"text\.txt cannot be read: Permission denied"):
        read_text(str(text_file))


def test_the_default_text_repeats_no_paragraph() -> None:
    paragraphs = [" ".join(p.split()) for p in default_text().split("\n\n")]
    assert len(default_text()) > 300_000
    assert len(set(paragraphs)) == len(paragraphs)


@pytest.mark.parametrize(
    ("length", "scored", "rows"), [(2, 99, 1), (1000, 99, 1), (2000, 9999, 3), (40_000, 1 << 30, 32)]
)
def test_streams_score_neighbouring_tokens(length: int, scored: int, rows: int) -> None:
    part: Tokens = np.arange(length, dtype=np.int32)
    x, y = streams(part, scored)
    assert x.shape == y.shape
    assert len(x) == rows
    assert np.array_equal(x + 1, y)
    assert min(length - 1, scored) - rows < x.size <= min(length - 1, scored)
    assert np.array_equal(x.ravel(), part[: x.size])


def test_the_unigram_score_is_the_entropy_of_a_memoryless_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    letters = np.random.default_rng(0).choice(list("abcd"), size=200_000)
    path.write_text("".join(letters))
    found = load_corpus(str(path), "character", 1000, needed=100)
    assert np.exp(found.unigram()).sum() == pytest.approx(1.0)
    assert found.unigram_score(scored=10_000) == pytest.approx(math.log(4), abs=1e-3)


def _wikitext() -> Path:
    root = Path(os.environ.get("RECELL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    return root / "wikitext-2" / "valid.txt"


@pytest.mark.skipif(not _wikitext().exists(), reason="shared data not found: set RECELL_DATA")
def test_wikitext_keeps_its_published_tokens() -> None:
    text = _wikitext().read_text()
    published = sum(len(line.split()) + 1 for line in text.splitlines())
    found = load_corpus(str(_wikitext()), "word", 50_000, needed=100)
    count = len(found.train) + len(found.valid) + len(found.test)
    assert count == pytest.approx(published, rel=0.005)
