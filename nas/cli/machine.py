"""What `recell doctor` finds out."""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from nas._cache import usage
from nas.errors import NasError

_PACKAGES = ("torch", "ray", "numpy", "lark", "networkx", "optuna", "scikit-learn", "safetensors", "triton")
_NEEDED = ("torch", "ray", "numpy", "lark", "networkx", "safetensors")
_COMPILING = ("torch", "numpy", "lark", "networkx")


def findings() -> dict[str, Any]:
    """Facts by name, as JSON can hold them; `problems` are sentences, one for each thing that will not work."""
    problems: list[str] = []
    memory = psutil.virtual_memory()
    versions = {name: _version(name) for name in _PACKAGES}
    problems += [f"the package {name} is not installed" for name in _NEEDED if versions[name] == "missing"]
    torch = _torch(problems)
    found: dict[str, Any] = {
        "recell": str(sys.modules["nas"].__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free",
        "gpus": _gpus(torch),
        "packages": [f"{name} {v}" for name, v in versions.items()],
        "ray": _ray(problems),
        "compiler": _compiler(),
        "cache": _cache(problems),
    }
    compiles = torch is not None and all(versions[name] != "missing" for name in _COMPILING)
    backends, chosen = _backends() if compiles else ([], "unknown")
    return {**found, "backend": chosen, "backends": backends, "problems": problems}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _torch(problems: list[str]) -> Any:
    try:
        return importlib.import_module("torch")
    except Exception as error:
        problems.append(f"torch cannot be imported: {error}")
        return None


def _gpus(torch: Any) -> list[str]:
    if torch is None or not torch.cuda.is_available():
        return []
    every = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [f"{p.name}, {p.total_memory / 2**30:.0f} GiB" for p in every]


def _ray(problems: list[str]) -> str:
    """Whether Ray can be imported, in another process: nothing is started, and this one stays light."""
    done = subprocess.run(
        [sys.executable, "-c", "import ray; print(ray.__version__)"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    if done.returncode == 0:
        return f"{done.stdout.strip()} can be imported (not started)"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    problems.append(f"ray cannot be imported: {last}")
    return "cannot be imported"


def _compiler() -> str:
    try:
        given = shlex.split(os.environ.get("CC", ""))[:1]  # arguments may follow
    except ValueError as error:
        return f"none: CC is no command ({error})"
    for name in (*given, "cc", "gcc", "clang"):
        place = shutil.which(name)
        if place:
            try:
                done = subprocess.run([place, "--version"], capture_output=True, text=True, check=False)
            except OSError as error:
                return f"{place} (cannot be started: {error.strerror})"
            first = (done.stdout.splitlines() or [""])[0]
            return f"{place} ({first})" if first else place
    return "none"


def _cache(problems: list[str]) -> dict[str, Any]:
    """What is kept of compiled cells, and how much may be."""
    try:
        found = usage()
    except NasError as error:
        problems.append(str(error))
        return {}
    return {
        "folder": str(found.folder),
        "files": found.files,
        "bytes": found.bytes,
        "largest": found.largest,
    }


def _backends() -> tuple[list[dict[str, str]], str]:
    """Each backend with whether it can run an LSTM here, and which one `auto` takes and why."""
    from grammar import zoo
    from nas.backends import backend_names, choose
    from nas.errors import BuildError

    rows = []
    for name in backend_names():
        try:
            choose(name, zoo("lstm"))
            rows.append({"name": name, "state": "works"})
        except BuildError as error:
            rows.append({"name": name, "state": str(error)})
    chosen = choose("auto", zoo("lstm")).name
    others = [row["name"] for row in rows if row["state"] == "works" and row["name"] != chosen]
    why = "the fastest that works here" if others else "the only one that works here"
    return rows, f"auto takes {chosen}, {why}"
