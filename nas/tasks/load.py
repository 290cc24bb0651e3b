"""From a name to a task: the ones that come with recell, and a user's own as `module:Class` or `file.py:Class`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from grammar import suggest
from nas.errors import NasError, TaskError
from nas.tasks.base import Task
from nas.tasks.table import SIZES, TASKS, task_names

_ATTRIBUTES = (
    "name",
    "version",
    "metric",
    "trivial_score",
    "trivial_loss",
    "inputs",
    "outputs",
    "embed",
    "recipe",
    "params",
    "data_digest",
)


def load_task(name: str, data: str | None = None, size: str = "search") -> Task:
    """Make the task `name` at a size ("smoke", "search", "table" or "full"), with its data read or generated.

    `name` is one of `task_names()`, or names a subclass of `Task` as `module:Class` or `file.py:Class`: that code is
    run. Raises TaskError for an unknown name or size and for data that cannot be used.
    """
    if size not in SIZES:
        raise TaskError(f"unknown size {size!r}; sizes are {', '.join(SIZES)}")
    if name in TASKS:
        if size not in TASKS[name].sizes:
            raise TaskError(f"task {name} has no size {size!r}; it has {', '.join(TASKS[name].sizes)}")
        return _make(_find(TASKS[name].where), name, data, size)
    if ":" not in name:
        raise TaskError(
            f"unknown task {name!r}{suggest(name, task_names())} (tasks are {', '.join(task_names())}, "
            "and your own as module:Class or file.py:Class)"
        )
    task = _make(_find(name), name, data, size)
    missing = [attribute for attribute in _ATTRIBUTES if not hasattr(task, attribute)]
    if missing:
        raise TaskError(f"task {name} does not set {', '.join(missing)}")
    return task


def _make(cls: type[Task], name: str, data: str | None, size: str) -> Task:
    try:
        task = cls(data, size)  # type: ignore[call-arg]
    except (NasError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise TaskError(f"task {name} could not be made: {type(error).__name__}: {error}") from error
    task.size = size
    return task


def _find(where: str) -> type[Task]:
    place, _, class_name = where.rpartition(":")
    if not place or not class_name:
        raise TaskError(f"{where!r} is not of the form module:Class or file.py:Class")
    module = _from_file(place) if place.endswith(".py") else _from_name(place)
    found = getattr(module, class_name, None)
    if found is None:
        raise TaskError(f"{place} has no class {class_name!r}")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise TaskError(f"{where} is not a subclass of nas.tasks.Task")
    if inspect.isabstract(found):
        methods = ", ".join(sorted(found.__abstractmethods__))
        raise TaskError(f"{where} does not define {methods}")
    return found


def _from_name(place: str) -> ModuleType:
    """Import a module by name, also from the current directory, as `python -m` would."""
    sys.path.insert(0, "")
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise TaskError(f"module {place} could not be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")


def _from_file(place: str) -> ModuleType:
    """Run a Python file as a module of its own, again each time it is asked for."""
    path = Path(place).expanduser()
    if not path.is_file():
        raise TaskError(f"task file {place} does not exist")
    name = f"recell_task_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TaskError(f"task file {place} could not be run: {type(error).__name__}: {error}") from error
    return module
