from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nas.campaign.journal import JOURNAL, Journal, encode, holder, read
from nas.errors import RunError

ROOT = Path(__file__).resolve().parents[1]


def write_run(folder: Path, events: int = 4) -> bytes:
    journal, _ = Journal.create(folder, {"recell": "0.0"})
    for number in range(events):
        journal.append("tick", float(number), progress={"trial-0": [number, 0.5]})
    journal.close()
    return (folder / JOURNAL).read_bytes()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    journal, first = Journal.create(folder, {"recell": "0.0"})
    second = journal.append("finish", 1.5, trial=0, score=0.1 + 0.2, text="a\nb ü", curve=[[1, float("nan")]])
    journal.close()
    reading = read(folder)
    assert reading.events == [first, second]
    assert (reading.torn, reading.ended) == (False, True)
    assert second["score"] == 0.1 + 0.2
    assert second["curve"] == [[1, None]]
    assert [event["line"] for event in reading.events] == [1, 2]


def test_every_event_is_on_the_disk_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = os.fsync

    def remember(fd: int) -> None:
        sync(fd)
        synced.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fsync", remember)
    journal, _ = Journal.create(tmp_path / "run", {})
    for _ in range(3):
        journal.append("tick", 0.0, progress={})
        assert synced[-1] == (tmp_path / "run" / JOURNAL).stat().st_size
    journal.close()


def test_a_last_line_cut_anywhere_is_left_out_and_cut_off_when_the_run_is_carried_on(tmp_path: Path) -> None:
    raw = write_run(tmp_path / "run")
    last = raw.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(raw)):
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / JOURNAL).write_bytes(raw[:cut])
        whole = cut == len(raw) - 1  # only the newline is missing: nothing is lost
        assert len(read(folder).events) == (5 if whole else 4)
        assert read(folder).torn is (last < cut < len(raw) - 1)
        assert (folder / JOURNAL).read_bytes() == raw[:cut], "reading must not write"
        journal, events = Journal.take_over(folder)
        journal.append("tick", 9.0, progress={})
        journal.close()
        assert [event["line"] for event in read(folder).events] == list(range(1, len(events) + 2))


def test_a_last_line_of_garbage_counts_as_torn_if_it_has_no_end_and_as_damage_if_it_has(
    tmp_path: Path,
) -> None:
    raw = write_run(tmp_path / "run")
    for garbage in (b"\0" * 512, b"{]", b'{"line":6}', b"\xff\xfe"):
        (tmp_path / "run" / JOURNAL).write_bytes(raw + garbage)
        assert len(read(tmp_path / "run").events) == 5
        assert read(tmp_path / "run").torn
        (tmp_path / "run" / JOURNAL).write_bytes(raw + garbage + b"\n")
        with pytest.raises(RunError, match="is damaged at line 6"):
            read(tmp_path / "run")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journals") / "run"
    write_run(folder)
    (folder / "copy").write_bytes((folder / JOURNAL).read_bytes())
    return folder


@given(number=st.integers(1, 4), where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_damage_in_any_other_line_is_refused_with_its_number(
    written: Path, number: int, where: float, byte: int
) -> None:
    lines = (written / "copy").read_bytes().split(b"\n")
    line = bytearray(lines[number - 1])
    at = int(where * len(line))
    assume(byte not in (line[at], ord("\n")))
    line[at] = byte
    lines[number - 1] = bytes(line)
    (written / JOURNAL).write_bytes(b"\n".join(lines))
    with pytest.raises(RunError, match=f"damaged at line {number}|schema"):
        read(written)
    with pytest.raises(RunError, match=f"damaged at line {number}|schema"):
        Journal.take_over(written)
    assert (written / JOURNAL).read_bytes() == b"\n".join(lines)


def test_a_missing_line_is_refused_with_its_number(tmp_path: Path) -> None:
    lines = write_run(tmp_path / "run").split(b"\n")
    del lines[2]
    (tmp_path / "run" / JOURNAL).write_bytes(b"\n".join(lines))
    with pytest.raises(RunError, match="damaged at line 3"):
        read(tmp_path / "run")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (
            4,
            "journal schema 4, which is newer than schemas 1 to 3 that this recell reads; it was written by recell 9.9",
        ),
        (0, "journal schema 0, which is older than schemas 1 to 3"),
        (None, "is not a journal of recell: line 1 has no schema number"),
        ("1", "is not a journal of recell: line 1 has no schema number"),
    ],
)
def test_another_schema_is_refused_by_name(tmp_path: Path, schema: object, said: str) -> None:
    line = encode({"line": 1, "t": 0, "active": 0, "event": "config", "schema": schema, "recell": "9.9"})
    (tmp_path / JOURNAL).write_bytes(line)
    with pytest.raises(RunError, match=said):
        read(tmp_path)


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere is not a run: there is no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(RunError, match=f"is not a run: it has no {JOURNAL}"):
        read(tmp_path)
    (tmp_path / JOURNAL).write_bytes(b"")
    with pytest.raises(RunError, match="has no complete first line"):
        read(tmp_path)


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    with pytest.raises(RunError, match="already holds a run; carry it on with `recell resume"):
        Journal.create(tmp_path / "run", {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"holds other files \(thesis.tex\)"):
        Journal.create(tmp_path / "other", {})
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file; give a folder"):
        Journal.create(tmp_path / "other" / "thesis.tex", {})
    with pytest.raises(RunError, match="cannot make run folder"):
        Journal.create(tmp_path / "other" / "thesis.tex" / "run", {})


def test_a_folder_that_a_killed_start_left_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    (tmp_path / f".{JOURNAL}").write_text('{"half')
    journal, _ = Journal.create(tmp_path, {})
    journal.close()
    assert sorted(os.listdir(tmp_path)) == [JOURNAL, "lock"]


def test_beside_a_live_driver_a_run_is_refused_with_its_pid(tmp_path: Path) -> None:
    journal, _ = Journal.create(tmp_path / "run", {})
    assert holder(tmp_path / "run") == (os.getpid(), socket.gethostname())
    script = (
        "import sys; from pathlib import Path; from nas.campaign.journal import Journal\n"
        "Journal.take_over(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert f"in use by the live process {os.getpid()} on" in done.stderr
    journal.close()
    assert holder(tmp_path / "run") is None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from nas.campaign.journal import Journal\n"
        "journal, _ = Journal.create(Path(sys.argv[1]), {}); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=100)
    assert done.returncode == -9
    assert json.loads((tmp_path / "run" / "lock").read_text())["pid"]
    assert holder(tmp_path / "run") is None
    journal, events = Journal.take_over(tmp_path / "run")
    journal.close()
    assert len(events) == 1


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = Journal.create(tmp_path / "run", {})
    write = os.write

    def full(fd: int, content: bytes) -> int:
        if len(content) > 10:
            return write(fd, content[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match=r"cannot write to .*: No space left on device"):
            journal.append("tick", 0.0, note="long enough")
    journal.append("tick", 1.0, progress={})
    journal.close()
    assert [event["active"] for event in read(tmp_path / "run").events] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("call", "which"),
    [("write", "create"), ("replace", "create"), ("write", "take over"), ("fsync", "take over")],
)
def test_what_fails_as_a_journal_is_opened_leaves_no_file_open(
    call: str, which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    if which == "take over":
        write_run(folder)
        path = folder / JOURNAL
        path.write_bytes(path.read_bytes()[:-1])  # without the last line's end, which is then written
    opened: list[int] = []
    real_open = os.open

    def watched(path: object, flags: int, mode: int = 0o777) -> int:
        opened.append(real_open(path, flags, mode))  # type: ignore[arg-type]
        return opened[-1]

    def fails(*given: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched)
        patch.setattr(os, call, fails)
        with pytest.raises((RunError, OSError), match="No space left on device"):
            _ = Journal.create(folder, {}) if which == "create" else Journal.take_over(folder)
    assert opened
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert holder(folder) is None


def test_the_checksum_is_that_of_the_line_without_it() -> None:
    line = encode({"line": 1, "event": "tick"})
    assert line == b'{"line":1,"event":"tick","crc":"%08x"}\n' % zlib.crc32(b'{"line":1,"event":"tick"}')
