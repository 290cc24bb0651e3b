"""The lazy faces: names resolve on first use, wrong names fail as they do elsewhere, importing loads nothing heavy."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nas._lazy import attach

ROOT = Path(__file__).resolve().parents[1]
LAZY = ("nas.tasks", "nas.training")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("lazy_example")
    monkeypatch.setitem(sys.modules, "lazy_example", module)
    return module


def test_a_name_is_resolved_once_and_kept(package: ModuleType) -> None:
    find, _, names = attach("lazy_example", {"sqrt": "math", "dumps": "json"})
    assert names == ["dumps", "sqrt"]
    assert "sqrt" not in vars(package)
    assert find("sqrt") is vars(package)["sqrt"] is importlib.import_module("math").sqrt


def test_a_wrong_name_is_an_attribute_error(package: ModuleType) -> None:
    find, _, _ = attach("lazy_example", {"sqrt": "math"})
    with pytest.raises(AttributeError, match="'lazy_example' has no attribute 'cbrt'"):
        find("cbrt")


def test_dir_lists_the_names_before_they_are_resolved(package: ModuleType) -> None:
    _, listed, _ = attach("lazy_example", {"sqrt": "math"})
    assert "sqrt" in listed()
    assert "__name__" in listed()


@pytest.mark.parametrize("name", LAZY)
def test_every_public_name_resolves(name: str) -> None:
    face = importlib.import_module(name)
    for public in face.__all__:
        assert getattr(face, public) is not None


def test_faces_and_light_names_load_neither_torch_nor_ray() -> None:
    code = (
        "import sys, nas.tasks, nas.training\n"
        "nas.tasks.task_table(), nas.tasks.task_names()\n"
        "nas.training.TrialSpec, nas.training.TrialResult, nas.training.Recipe\n"
        "print(sorted({'torch', 'ray', 'triton'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
