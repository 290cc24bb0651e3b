"""The wheel holds the four packages with their data, nothing else, and works away from the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from source_tree import ROOT, TOP_LEVEL, packages


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that the checkout gets no build folder."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in (*TOP_LEVEL, "tests", "scripts"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    script = "from setuptools import build_meta as b; import sys; b.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(copy)], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(copy.glob("*.whl"))


def test_declared_packages_are_those_on_disk() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert sorted(packages()) == project["tool"]["setuptools"]["packages"]


def test_top_level_is_the_four_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == set(TOP_LEVEL)
    assert len(top) == len(TOP_LEVEL) + 1


def test_every_file_of_the_packages_ships(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.split("/")[0] in TOP_LEVEL}
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for top in TOP_LEVEL
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == on_disk
    assert {f"{top}/py.typed" for top in TOP_LEVEL} <= shipped


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        metadata = archive.read(f"{folder}/METADATA").decode()
        licences = [name for name in archive.namelist() if name.startswith(f"{folder}/licenses/")]
    assert entry_points.split() == ["[console_scripts]", "recell", "=", "nas.cli:main"]
    assert "\nName: recell\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert licences == [f"{folder}/licenses/LICENSE"]


def test_wheel_works_on_its_own(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import nas, sys; from pathlib import Path\n"
        "assert Path(nas.__file__).is_relative_to(sys.argv[1]), nas.__file__\n"
        "print(len(nas.zoo_names()) > 10, nas.zoo('lstm').name, nas.load_space('gated').name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "site")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["True", "lstm", "gated"], done.stderr


def test_pins_cover_the_dependencies_and_fit_their_ranges() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_shadowed_sibling_is_named(tmp_path: Path) -> None:
    (tmp_path / "grammar.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r}); import nas"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        f"nas needs the package `grammar` in {ROOT / 'grammar'}, but found {tmp_path / 'grammar.py'}"
        in done.stderr
    )
