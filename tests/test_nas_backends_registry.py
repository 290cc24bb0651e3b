"""Backends by name."""

from __future__ import annotations

import pytest

from grammar import Cell, Sizes, zoo
from nas.backends import Backend, Runner, backend_names, choose, fallbacks, register_backend, runner
from nas.errors import BuildError


class Absent(Backend):
    """One that this machine lacks something for."""

    name = "absent"

    def available(self) -> str | None:
        return "no compiler `cc` was found"

    def refuses(self, cell: Cell) -> str | None:
        return None

    def compile(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        raise AssertionError("never asked")


def test_reference_is_there() -> None:
    assert "reference" in backend_names()
    assert choose("reference", zoo("lstm")).available() is None
    assert choose("auto", zoo("lstm")).available() is None


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(
        BuildError, match=r"unknown backend 'referense'; did you mean 'reference'\?; .* are auto, ref"
    ):
        choose("referense", zoo("lstm"))


def test_names_are_taken_once() -> None:
    with pytest.raises(BuildError, match="registered once, but 'reference' is there already"):
        register_backend(choose("reference", zoo("lstm")))


def test_unavailable_backend_is_refused_and_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.registry._BACKENDS", {"reference": choose("reference", zoo("lstm"))})
    register_backend(Absent())
    assert choose("auto", zoo("lstm")).name == "reference"
    with pytest.raises(BuildError, match="'absent' cannot run cell 'lstm': no compiler `cc` was found"):
        choose("absent", zoo("lstm"))


def test_auto_says_once_and_counts_what_a_meant_backend_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.backends.registry._BACKENDS", {"reference": choose("reference", zoo("lstm"))})
    monkeypatch.setattr("nas.backends.fallback._REASONS", {})
    monkeypatch.setattr(Absent, "meant_for", frozenset({"time"}))
    register_backend(Absent())
    why = "the backend 'absent': no compiler `cc` was found"
    with pytest.warns(RuntimeWarning, match=f"cell gru runs on the slow reference backend: {why}"):
        choose("auto", zoo("gru"))
    for name in ("lstm", "gru", "treelstm"):  # warnings are errors in tests
        choose("auto", zoo(name))
    choose("reference", zoo("mgu"))
    assert fallbacks() == {zoo("gru"): why, zoo("lstm"): why}


def test_runners_are_kept() -> None:
    first, second = (runner("reference", zoo("lstm"), Sizes.of(3, 4)) for _ in range(2))
    assert first is second
