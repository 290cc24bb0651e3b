"""The C compiler and its cache in bad surroundings: one warning and a slower way or one clear error, no bad library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from source_tree import ROOT

from grammar import parse
from nas._cache import STAMP
from nas.backends import fallbacks, runner
from nas.backends.c import compiler
from nas.backends.c.compiler import CompilerError
from nas.errors import BuildError
from nas.nn import build

CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(CC is None, reason="there is no C compiler on this machine")

real_header = compiler._precompiled  # which tests do without
CACHES = ("kit", "problem", "_shared", "_command", "_identity", "_usable", "_temporary")
SMALL = "int recell_small(void) { return 7; }\n"


def forget() -> None:
    """What a process has learned of its compiler."""
    if compiler._temporary.cache_info().currsize:
        compiler._temporary().cleanup()
    for name in CACHES:
        getattr(compiler, name).cache_clear()
    compiler._refused.clear()
    runner.cache_clear()


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("RECELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    # Without a header precompiled for each test these take half the time; one test is of it.
    monkeypatch.setattr("nas.backends.c.compiler._precompiled", _plain_header)
    forget()
    yield
    monkeypatch.undo()
    forget()


def _plain_header(folder: Path) -> Path:
    header = folder / "plain.h"
    if not header.exists():
        made = folder / f".plain-{os.getpid()}.h"
        made.write_text(compiler.prelude(), encoding="utf-8")
        made.replace(header)
    return header


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Puts a shell script in the place of the compiler."""

    def put(script: str) -> Path:
        place = tmp_path / "compiler.sh"
        place.write_text(f"#!/bin/sh\n{script}\n")
        place.chmod(0o755)
        monkeypatch.setenv("CC", str(place))
        return place

    return put


def new_cell(number: int) -> str:
    """A cell that no other test builds."""
    return f"cell c{number} {{ state h: vec; h' = tanh(lin(x, h) + 0.{number}); out h' }}"


def runs_with_one_warning(text: str, match: str) -> None:
    """With `auto` the cell runs, on the reference; a second cell is counted but not warned of."""
    x, other = torch.ones(1, 2, 3), text.replace("tanh", "sigmoid")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module = build(parse(text), 3, 4)
        y, _ = module(x)
        build(parse(other), 3, 4)(x)[0].sum().backward()
    messages = [str(w.message) for w in said if "slow reference" in str(w.message)]
    assert len(messages) == 1
    assert re.search(match, messages[0]), messages
    assert torch.equal(y, build_reference(text, module)(x)[0])
    assert {parse(text), parse(other)} <= fallbacks().keys()


def build_reference(text: str, like: torch.nn.Module) -> torch.nn.Module:
    """The same cell, with the same weights, on the reference."""
    module = build(parse(text), 3, 4, backend="reference")
    module.load_state_dict(like.state_dict())
    return module


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler.problem() is not None
    runs_with_one_warning(new_cell(11), "the backend 'c': no C compiler `cc`, `gcc` or `clang` was found")
    with pytest.raises(BuildError, match="'c' cannot run cell 'c12': no C compiler"):
        build(parse(new_cell(12)), 3, 4, backend="c")


@pytest.mark.parametrize(
    ("script", "match"),
    [
        ("echo internal compiler error >&2; exit 4", "failed with code 4: internal compiler error"),
        (r"printf 'not \377 text' >&2; exit 1", "failed with code 1: not \N{REPLACEMENT CHARACTER} text"),
        ("kill -SEGV $$", r"failed with code -11: no message"),
        ("while [ $1 != -o ]; do shift; done; echo garbage > $2", "a built library cannot be loaded: .*"),
        ("exit 0", r"compiler\.sh tells of no error, and made nothing"),
    ],
)
def test_a_compiler_that_never_works(stand_in: Callable[[str], Path], script: str, match: str) -> None:
    stand_in(script)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library that cannot be loaded is looked for in another folder too
        assert compiler.problem() is not None
    runs_with_one_warning(new_cell(21), match)
    with pytest.raises(BuildError, match=match):
        build(parse(new_cell(22)), 3, 4, backend="c")


@pytest.mark.parametrize("script", ["exit 0", "exit 4"])
def test_a_compiler_that_makes_nothing_is_no_fault_of_the_cache(
    stand_in: Callable[[str], Path], script: str
) -> None:
    stand_in(script)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that a folder cannot be written, say
        assert compiler.problem() is not None


def test_what_CC_names_and_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    with pytest.warns(RuntimeWarning, match=f"CC names .* no-such-compiler, which is not there: {CC} takes"):
        assert compiler.load(SMALL).recell_small() == 7


def test_a_CC_that_is_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", 'gcc "-O2')
    runs_with_one_warning(new_cell(51), "CC names is no command: No closing quotation in 'gcc \"-O2'")


def test_a_compiler_that_hangs(stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("sleep 20")
    monkeypatch.setattr("nas.backends.c.compiler._SECONDS", 0.2)
    with pytest.raises(CompilerError, match="took more than 0 s"):
        compiler.load(SMALL)


def test_a_compiler_that_crashes_at_a_cell(stand_in: Callable[[str], Path]) -> None:
    # The functions that all cells share are built as ever.
    stand_in(f'for a; do case $a in *.c) grep -q recell_f $a && exit 3;; esac; done; exec {CC} "$@"')
    assert compiler.problem() is None
    runs_with_one_warning(new_cell(31), "failed with code 3")
    module = build(parse(new_cell(32)), 3, 4, backend="c")
    with pytest.raises(CompilerError, match="failed with code 3"):
        module(torch.ones(1, 2, 3))


def test_a_cache_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECELL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(
        RuntimeWarning, match=r"cannot be written \(.*Not a directory.*set RECELL_CACHE"
    ) as said:
        first, second = compiler.load(SMALL), compiler.load(SMALL.replace("7", "8"))
    assert (first.recell_small(), second.recell_small()) == (7, 8)
    assert len(said) == 1


def test_a_cache_that_is_full(
    stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = str(tmp_path / "cache")
    stand_in(f'case "$*" in *{full}*) echo no space >&2; exit 1;; esac; exec {CC} "$@"')
    usage = shutil.disk_usage

    def nothing_left(place: str | Path) -> object:
        return type("Usage", (), {"free": 0}) if str(place).startswith(full) else usage(place)

    monkeypatch.setattr("nas.backends.c.compiler.shutil.disk_usage", nothing_left)
    with pytest.warns(RuntimeWarning, match=r"cannot be written \(no space left\)"):
        assert compiler.load(SMALL).recell_small() == 7
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_library_that_was_cut_short_is_built_again(tmp_path: Path) -> None:
    code = f"from nas.backends.c import compiler; print(compiler.load({SMALL!r}).recell_small())"
    run = [sys.executable, "-c", code]
    for _ in range(2):
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == "7\n"
        (library,) = (tmp_path / "cache").rglob("*.so")
        library.write_bytes(library.read_bytes()[:1000])


def test_headers_are_on_the_disk_before_they_have_their_names(
    stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every build reads them, and they have no digest that would tell of a crash of the machine."""
    stand_in("while [ $1 != -o ]; do shift; done; echo header > $2")
    done: list[str] = []
    replace = os.replace

    def replaced(old: Path, new: Path) -> None:
        done.append(new.name.partition(".")[2])
        replace(old, new)

    monkeypatch.setattr("nas.backends.c.compiler.os.fsync", lambda fd: done.append("fsync"))
    monkeypatch.setattr("nas.backends.c.compiler.os.replace", replaced)
    assert real_header(tmp_path).exists()
    assert done == ["fsync", "h", "fsync", "h.gch"]


def test_two_processes_build_the_same_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    code = (
        "import time, pathlib\nfrom nas.backends.c import compiler\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(.01)\n"
        f"print(compiler.load({SMALL!r}).recell_small(), compiler.lanes() > 0)"
    )
    every = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    go.touch()
    assert [process.communicate(timeout=100)[0] for process in every] == ["7 True\n"] * 3
    files = {path.name.split(".", 1)[1] for path in (tmp_path / "cache" / "c").iterdir()}
    assert files == {"so", "h", "h.gch", "pruned"}, "nothing half made is left"


def test_a_library_in_use_may_be_removed_and_is_built_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        f"import sys\nfrom nas.backends.c import compiler\nheld = compiler.load({SMALL!r})\nprint('held', flush=True)\n"
        f"sys.stdin.readline()\nprint(held.recell_small(), compiler.load({SMALL!r}).recell_small())"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    folder = tmp_path / "cache" / "c"
    (library,) = folder.glob("*.so")
    for path in (library, folder / STAMP):
        os.utime(path, (1e9, 1e9))
    monkeypatch.setenv("RECELL_CACHE_SIZE", "10")
    assert compiler.load(SMALL.replace("7", "8")).recell_small() == 8  # who builds bounds the cache
    (left,) = folder.glob("*.so")
    assert left != library
    assert other.communicate("\n", timeout=100)[0] == "7 7\n"
    assert library.exists()


def test_loading_a_library_is_using_it(tmp_path: Path) -> None:
    compiler.load(SMALL)
    (library,) = (tmp_path / "cache" / "c").glob("*.so")
    os.utime(library, (1e9, 1e9))
    compiler.load(SMALL)
    assert library.stat().st_mtime > 1e9


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECELL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.warns(RuntimeWarning, match=r"built anew by each process: .*cannot be written \(.*home"):
        assert compiler.load(SMALL).recell_small() == 7
