"""C text to a loaded library: the system's compiler, and a cache on disk by digest.

A file appears in the cache under its final name only when it is complete (`os.replace`), so two processes may build the
same text at once; it ends with its own digest, so that one cut short by a crash of the machine is built anew. A folder
that cannot be written is said once, and a temporary one takes its place.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from array import array
from functools import cache
from pathlib import Path
from typing import Any

from nas._cache import BUILD, mark_used, prune_when_due
from nas._cache import cache_folder as _cache_folder
from nas.errors import BuildError

# No -ffast-math, ever: linking with it changes denormal numbers for the whole process.
# Vectors are written out, and loops are simple: what looks for more of that takes time and finds nothing.
_FLAGS = tuple(
    "-std=gnu11 -O2 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fPIC -w "
    "-fno-tree-vectorize -fno-tree-slp-vectorize -fno-tree-pre -fno-gcse".split()
)
_SECONDS = 120.0  # a compiler that takes longer hangs
KIT = ("pack", "product", "rows", "gram", "columns", "within", "gather", "scatter")  # in the order of kit.h


class CompilerError(BuildError):
    """There is no C compiler, or it failed; the message says how."""


def load(text: str) -> ctypes.CDLL:
    """The library of a cell's C text, built or taken from the cache.

    Raises CompilerError where there is no compiler or it fails.
    """
    return _load(text)


@cache
def kit() -> array[int]:
    """The addresses of the functions that all cells share, as a `Kit` of kit.h. Raises CompilerError like `load`."""
    return array("q", (ctypes.cast(_shared()[f"recell_{name}"], ctypes.c_void_p).value or 0 for name in KIT))


@cache
def each() -> Any:
    """The function that runs one of a cell's for each candidate. Raises CompilerError like `load`."""
    function = _shared().recell_each
    function.restype = ctypes.c_int
    function.argtypes = (ctypes.c_void_p,) * 4 + (ctypes.c_long, ctypes.c_long, ctypes.c_void_p)
    return function


def lanes() -> int:
    """How many floats a vector has here. Raises CompilerError like `load`."""
    return int(_shared().recell_lanes())


@cache
def problem() -> str | None:
    """None where C can be compiled and loaded here, otherwise the reason why not."""
    try:
        return None if lanes() else "the C compiler builds libraries that do not work"
    except (CompilerError, OSError) as error:
        return str(error)


@cache
def _shared() -> ctypes.CDLL:
    return _load(_header("matrices.h") + "int recell_lanes(void) { return VL; }\n")


@cache
def _header(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def prelude() -> str:
    """What precedes every text: vectors, functions on them, and the matrix products of the kit."""
    return _header("vectors.h") + _header("kit.h")


def training_text() -> str:
    """The C of what a step of training does besides the cell."""
    return _header("training.h")


def library_name(text: str) -> str:
    """The name of a text's library in the cache."""
    return f"{digest(prelude() + text)}.so"


def found(name: str, digest: bytes) -> ctypes.CDLL | None:
    """The library of that name in the cache, if it is whole and has that digest."""
    place = cache_folder() / name
    try:
        return ctypes.CDLL(str(place)) if digest and _opened(place)[1] == digest else None
    except OSError:
        return None


def digest_of(name: str) -> bytes | None:
    """The digest of a library in the cache; None where it is not there, whole."""
    try:
        return _opened(cache_folder() / name)[1] or None
    except OSError:
        return None


def kept(name: str) -> bytes | None:
    """The content of a file that `keep` made in the cache; None where it is not there, whole."""
    try:
        content, digest = _opened(cache_folder() / name)
    except OSError:
        return None
    return content if digest else None


def keep(name: str, content: bytes) -> None:
    """Keep a file in the cache, complete or not at all: where there is no room for it, it is made anew next time."""
    folder = cache_folder()
    try:
        with tempfile.TemporaryDirectory(prefix=BUILD, dir=folder) as work:
            made = Path(work) / "kept"
            made.write_bytes(_sealed(content))
            os.replace(made, folder / name)
    except OSError:  # a folder that cannot be written was told when the library was built
        pass


def _load(text: str) -> ctypes.CDLL:
    name, folder = library_name(text), cache_folder()
    try:
        if _opened(folder / name)[1]:
            return ctypes.CDLL(str(folder / name))
    except OSError:  # not there, or not for this machine's C library
        pass
    try:
        _build(text, folder / name)
        return ctypes.CDLL(str(folder / name))
    except OSError as error:  # no room, no right to write, or none to run what is there
        folder = _instead(folder, str(error))
    try:
        _build(text, folder / name)
        return ctypes.CDLL(str(folder / name))
    except OSError as error:
        raise CompilerError(f"a built library cannot be loaded: {error}") from None


def digest(source: str) -> str:
    """What a library is filed under: its text, the compiler and the processor that it is for."""
    parts = (source, *_command(), *_identity(), _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def cache_folder() -> Path:
    """Where libraries are kept, made where it is not there; see `nas._cache`, which bounds it."""
    return _usable(_cache_folder())


@cache
def _usable(folder: Path) -> Path:
    """The folder, or a temporary one where it cannot be made, as without a home for `~`."""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        return _instead(folder, str(error))
    return folder


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="recell-c-", ignore_cleanup_errors=True)


_refused: set[Path] = set()


def _instead(folder: Path, reason: str) -> Path:
    """A temporary folder in place of one that cannot be written; says so once."""
    if folder not in _refused:
        _refused.add(folder)
        warnings.warn(
            f"compiled cells are kept in a temporary folder and built anew by each process: "
            f"the cache folder {folder} cannot be written ({reason}); set RECELL_CACHE to another one",
            RuntimeWarning,
            stacklevel=2,
        )
    return Path(_temporary().name)


def _build(text: str, target: Path) -> None:
    """Compile into the folder of `target`. Raises OSError where the folder is at fault, else CompilerError."""
    header = _precompiled(target.parent)
    with tempfile.TemporaryDirectory(prefix=BUILD, dir=target.parent) as work:
        source, made = Path(work) / "cell.c", Path(work) / "cell.so"
        source.write_text(text, encoding="utf-8")
        _run([*_command(), "-shared", "-include", str(header), str(source), "-lm"], made, target.parent)
        made.write_bytes(_sealed(made.read_bytes()))
        os.replace(made, target)
    prune_when_due(target.parent)


def _sealed(library: bytes) -> bytes:
    """A library followed by its digest, which loaders pass over."""
    return library + hashlib.sha256(library).digest()


def _opened(path: Path) -> tuple[bytes, bytes]:
    """The content of a file that `_sealed` made, and its digest: empty where it is none that is whole.

    A library cut short would end the process that loads it. Raises OSError where there is no file.
    """
    whole = path.read_bytes()
    content, digest = whole[:-32], whole[-32:]
    if hashlib.sha256(content).digest() != digest:
        return b"", b""
    mark_used(path)
    return content, digest


def _precompiled(folder: Path) -> Path:
    """The header that begins every text, as a file, and beside it as GCC reads it quickest: that halves small builds.

    Another compiler, or GCC where the second file does not fit, reads the first.
    """
    header = folder / f"{digest(prelude())}.h"
    quick = header.with_suffix(".h.gch")
    if not header.exists() or not quick.exists():
        with tempfile.TemporaryDirectory(prefix=BUILD, dir=folder) as work:
            plain, made = Path(work) / "cell.h", Path(work) / "cell.h.gch"
            plain.write_text(prelude(), encoding="utf-8")
            _run([*_command(), "-x", "c-header", str(plain)], made, folder)
            for part, place in ((plain, header), (made, quick)):
                _put_down(part)
                os.replace(part, place)
    else:
        mark_used(header)
        mark_used(quick)
    return header


def _put_down(path: Path) -> None:
    """Have a file on the disk before it has its name: nothing tells later that a crash cut it short."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _run(command: list[str], made: Path, folder: Path) -> None:
    """Have the compiler make a file for a folder of the cache."""
    try:
        done = subprocess.run(
            [*command, "-o", str(made)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise CompilerError(f"the C compiler {command[0]} took more than {_SECONDS:.0f} s") from None
    except OSError as error:
        raise CompilerError(f"the C compiler {command[0]} cannot be started: {error}") from None
    if done.returncode:
        if shutil.disk_usage(folder).free < 1 << 20:
            raise OSError("no space left")
        shown = " ".join(done.stderr.split())[-400:] or "no message"
        raise CompilerError(f"the C compiler {command[0]} failed with code {done.returncode}: {shown}")
    if not made.is_file():
        raise CompilerError(f"the C compiler {command[0]} tells of no error, and made nothing")


@cache
def _command() -> tuple[str, ...]:
    """The compiler and its options. Raises CompilerError where there is no compiler."""
    text = os.environ.get("CC", "")
    try:
        given = shlex.split(text)
    except ValueError as error:
        raise CompilerError(f"the C compiler that CC names is no command: {error} in {text!r}") from None
    for words in (given, ["cc"], ["gcc"], ["clang"]):
        place = shutil.which(words[0]) if words else None
        if place:
            if given and words is not given:
                warnings.warn(
                    f"CC names the C compiler {given[0]}, which is not there: {place} takes its place",
                    RuntimeWarning,
                    stacklevel=2,
                )
            native = "-march=native" if platform.machine().lower() in ("x86_64", "amd64") else "-mcpu=native"
            return (place, *words[1:], *_FLAGS, native)
    raise CompilerError("no C compiler `cc`, `gcc` or `clang` was found on PATH (nor one named by CC)")


@cache
def _identity() -> tuple[str, ...]:
    """Which compiler it is, without starting it."""
    place = os.path.realpath(_command()[0])
    found = os.stat(place)
    return (place, str(found.st_size), str(found.st_mtime_ns))


@cache
def _processor() -> str:
    """What `native` means here: the processor's features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0].split(":")[0].strip() in wanted}))
