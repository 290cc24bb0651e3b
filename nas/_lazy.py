"""Lazy faces (PEP 562): `import nas.tasks` costs nothing, and `nas.tasks.load_task` imports what it needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def attach(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return `(__getattr__, __dir__, __all__)` for a package that resolves its public names on first use.

    `names` maps each public name to the full name of the module that defines it ("nas.tasks.base"), or to one
    relative to the package (".base"). A resolved name is kept in the package, so it is looked up once. The package
    repeats the names in an `if TYPE_CHECKING:` block of `from .x import X as X` lines, for type checkers and readers.

        __getattr__, __dir__, __all__ = attach(__name__, {"load_task": ".registry"})
    """

    def __getattr__(name: str) -> object:
        module = names.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(module, package), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return __getattr__, __dir__, sorted(names)
