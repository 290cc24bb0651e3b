"""Layers that an earlier process made: taken from the cache where all of it is right, else made anew."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from grammar import Cell, Op, Sizes, parse
from grammar import ops as table
from grammar.rules import each, real
from nas.backends.c import compiler, outline
from nas.backends.c.layer import Layer
from nas.backends.c.making import Making
from nas.backends.c.running import Geometry
from nas.ir import expansions, register_expansion

pytestmark = pytest.mark.skipif(compiler.problem() is not None, reason=str(compiler.problem()))

SIZES = Sizes.of(5, 4, 1, None)
TEXT = (
    "cell kept { state S: mat, h: vec; S' = 0.9 * S + outer(lin:key(x), lin(conv(x)));"
    " h' = tanh(lin(h, read(S', lin:key(x)))); out h' }"
)
OTHER = TEXT.replace("0.9", "0.8")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of these tests, with both cells in it."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECELL_CACHE", str(place))
        for text in (TEXT, OTHER):
            Layer(parse(text), SIZES, compiler.lanes()).loaded()
        yield place / "c"


@pytest.fixture
def makings(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that are made from here on, not taken from the cache."""
    made = []

    def counted(cell: Cell, *given: Any) -> Making:
        made.append(cell)
        return Making(cell, *given)

    monkeypatch.setattr("nas.backends.c.layer.Making", counted)
    return made


def file_of(folder: Path, text: str) -> Path:
    name = outline._name(parse(text), SIZES, compiler.lanes())
    assert name is not None
    return folder / name


def library_of(folder: Path, text: str) -> Path:
    return folder / compiler.library_name(Making(parse(text), SIZES, compiler.lanes()).text)


def results(text: str) -> list[Tensor]:
    """What a layer that is looked up or made now computes: the output, final states, and every gradient."""
    cell = parse(text)
    layer = Layer(cell, SIZES, compiler.lanes()).loaded()
    generator = torch.Generator().manual_seed(0)
    shapes = Making(cell, SIZES, compiler.lanes()).outline.shapes
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    x, dy = torch.randn(6, 5, generator=generator), torch.randn(6, 4, generator=generator)
    state = [torch.randn(2, *slot.shape, generator=generator) for slot in layer.slots]
    where = Geometry(2, 3, 2, 1, 6)
    y, finals, saved = layer.forward(x, weights, state, where, True)
    dx, dweights, dstate = layer.backward(saved, x, weights, where, dy, finals, [True] * (1 + len(state)))
    found = [y, *finals, dx, *dweights, *dstate]
    return [value for value in found if value is not None]


def test_a_layer_of_an_earlier_process_computes_the_same(makings: list[Cell]) -> None:
    cell, lanes = parse(TEXT), compiler.lanes()
    found = outline.recalled(cell, SIZES, lanes)
    assert found is not None
    assert found[0] == Making(cell, SIZES, lanes).outline
    taken = results(TEXT)
    assert makings == []
    layer = Layer.__new__(Layer)  # as it is made where nothing is kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.backends.c.layer.recalled", lambda *given: None)
        layer = Layer(cell, SIZES, lanes)
        made = results(TEXT)
    assert layer._making is not None
    assert makings == [cell] * 2
    assert len(taken) == len(made) == 1 + 3 + 1 + 11 + 3
    for one, other in zip(taken, made, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no file": lambda f: file_of(f, TEXT).unlink(),
    "an empty file": lambda f: _write(file_of(f, TEXT), b""),
    "cut short": lambda f: _write(file_of(f, TEXT), file_of(f, TEXT).read_bytes()[:-40]),
    "a changed number": lambda f: _write(
        file_of(f, TEXT), file_of(f, TEXT).read_bytes().replace(b'"every": 16', b'"every": 12')
    ),
    "the file of another cell": lambda f: _write(file_of(f, TEXT), file_of(f, OTHER).read_bytes()),
    "sealed, and no JSON": lambda f: compiler.keep(file_of(f, TEXT).name, b"{"),
    "sealed, and no outline": lambda f: compiler.keep(file_of(f, TEXT).name, b'{"of": 1}'),
    "no library": lambda f: library_of(f, TEXT).unlink(),
    "the library of another cell": lambda f: _write(library_of(f, TEXT), library_of(f, OTHER).read_bytes()),
}


def _write(path: Path, content: bytes) -> None:
    """Another file in its place, as what is loaded must not be written over."""
    assert not path.exists() or path.read_bytes() != content, "no damage"
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_foreign_is_made_anew(damage: str, folder: Path, makings: list[Cell]) -> None:
    right = results(TEXT)
    assert makings == []
    DAMAGES[damage](folder)
    for one, other in zip(results(TEXT), right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert makings == [parse(TEXT)]
    results(TEXT)
    assert makings == [parse(TEXT)], "the file is whole again"


def test_another_version_of_the_code_makes_its_own(
    monkeypatch: pytest.MonkeyPatch, makings: list[Cell]
) -> None:
    monkeypatch.setattr(outline, "_code", lambda: "another")
    Layer(parse(TEXT), SIZES, compiler.lanes())
    assert makings == [parse(TEXT)]


def test_without_its_source_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, makings: list[Cell]) -> None:
    monkeypatch.setattr(outline, "_CODE", ("nas/*.nothing",))
    outline._code.cache_clear()
    try:
        assert outline._code() is None
        Layer(parse(TEXT), SIZES, compiler.lanes())
    finally:
        monkeypatch.undo()
        outline._code.cache_clear()
    assert makings == [parse(TEXT)]


def test_all_code_that_makes_layers_is_in_the_name() -> None:
    root = Path(outline.__file__).parents[3]
    named = {path for pattern in outline._CODE for path in root.glob(pattern)}
    for name in ("grammar", "nas.ir", "nas.backends.c"):
        modules = [one for key, one in sys.modules.items() if key == name or key.startswith(f"{name}.")]
        assert len(modules) > 5
        assert {Path(str(one.__file__)) for one in modules} <= named


def test_cells_with_operations_of_a_user_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, makings: list[Cell]
) -> None:
    monkeypatch.setitem(table._OPS, "twice", Op("twice", (1, 1), real, each(1), "2 a"))
    monkeypatch.setattr(expansions, "_USERS", set())
    register_expansion("twice", lambda b, instr, args: b.add(args[0], args[0]))
    try:
        cell = parse(TEXT.replace("tanh(", "twice("))
        for _ in range(2):
            Layer(cell, SIZES, compiler.lanes()).loaded()
    finally:
        del expansions._EXPANSIONS["twice"]
    assert makings == [cell] * 2


def test_two_threads_load_a_layer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(parse(OTHER.replace("0.8", "0.7")), SIZES, compiler.lanes())
    both, first = threading.Barrier(2, timeout=60), threading.Event()

    def load(text: str) -> object:
        library = compiler.load(text)
        if both.wait():  # the other one is done by the time that this one goes on
            first.wait(60)
        return library

    monkeypatch.setattr("nas.backends.c.layer.load", load)
    with ThreadPoolExecutor(2) as pool:
        for done in as_completed([pool.submit(layer.loaded) for _ in range(2)]):
            assert done.result() is layer
            first.set()


def test_no_room_for_it_is_no_error(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(*given: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("nas.backends.c.compiler.os.replace", refuse)
    compiler.keep("thing.json", b"{}")
    assert compiler.kept("thing.json") is None
    assert not [path for path in folder.iterdir() if path.name.startswith(".build-")]
