"""Classes of recurrences on the IR: those of the language, held against numbers; and the scans made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from normal_cases import SPACES, TIME, arrays, sampled, sizes_of
from normal_runner import Machine, run_forward
from strategies import cells

from grammar import RENDERINGS, Cell, Op, analyse, elementwise, ops, parse, zoo
from grammar.rules import each, real
from nas.errors import AnalysisError
from nas.ir import (
    Program,
    Recurrence,
    adjoint_cell,
    checked_analysis,
    checked_recurrences,
    checking,
    normal_cell,
    recurrences,
    refuted,
    shape_in,
    with_scans,
)
from nas.ir.stepping import Array, Step


def normal_of(equations: str) -> Program:
    return normal_cell(parse(f"cell a {{ {equations} }}")).program


def by_state(program: Program) -> dict[frozenset[str], str]:
    """The class of each circle, by the declared states in it; parts of complex states by the whole."""
    found = {}
    for circle in recurrences(program):
        names = frozenset(program.slots[s].name.split(".")[0] for s in circle.slots)
        found[frozenset(n for n in names if not n.startswith(("shift", "conv")))] = str(circle)
    return found


@pytest.mark.parametrize("name", TIME)
def test_known_cells_have_the_classes_of_the_language(name: str) -> None:
    components = [c for c in analyse(zoo(name)).components if c.mixing != "none"]
    assert by_state(normal_cell(zoo(name)).program) == {frozenset(c.states): c.kind for c in components}


@pytest.mark.parametrize("name", TIME)
def test_adjoints_are_affine_and_mix_as_the_cell_does(name: str) -> None:
    cell = zoo(name)
    forward, backward = recurrences(normal_cell(cell).program), recurrences(adjoint_cell(cell).backward)
    assert {r.degree for r in backward} <= {"affine"}
    assert {r.slots: r.mixing for r in forward} == {r.slots: r.mixing for r in backward}


@pytest.mark.parametrize("name", TIME)
def test_no_number_refutes_known_cells(name: str) -> None:
    checked_recurrences(zoo(name))


@pytest.mark.parametrize("space", SPACES)
def test_no_number_refutes_cells_of_spaces(space: str) -> None:
    for cell in sampled(space, 10):
        checked_recurrences(cell)


@given(cells(linear=True))
@settings(max_examples=40)
def test_no_number_refutes_any_cell(cell: Cell) -> None:
    checked_recurrences(cell)


@pytest.mark.parametrize(
    ("equations", "claim", "fault"),
    [
        ("state h: vec; h' = tanh(h); out h", {"degree": "affine"}, "second difference"),
        ("state h: vec; h' = h / lin(x) + max(h, 1); out h", {"degree": "affine"}, "second difference"),
        ("state h: vec; h' = min(h, lin(x)); out h", {"degree": "max-plus"}, "the larger of"),
        ("state h: vec; h' = max(0.5 * h, 1); out h", {"degree": "max-plus"}, "the larger of"),
        ("state h: vec; h' = lin(h); out h", {"mixing": "elementwise"}, "changes others of h"),
        ("state h: vec; h' = lin(h); out h", {"mixing": "block", "blocks": "heads"}, "changes others of h"),
        (
            "state h: vec, c: vec; h' = lnorm(c); c' = h; out h",
            {"mixing": "elementwise"},
            "changes others of",
        ),
        (
            "state S: mat; k = lin:key(x);"
            " S' = S + outer(k, read(S, k)) - outer(1 - k, read(S, k * k)); out read(S, k)",
            {"rank": 1},
            "its rank is above 1",
        ),
        (
            "state S: mat; v = lin(x); S' = S + outer(readt(S, v), v); out v",
            {"side": "key"},
            "changes others of S",
        ),
    ],
)
def test_false_claims_are_refuted(equations: str, claim: dict[str, object], fault: str) -> None:
    program = normal_of(equations)
    (true,) = recurrences(program)
    assert list(refuted(program, [true])) == []
    (first, *_) = refuted(program, [replace(true, **claim)])  # type: ignore[arg-type]
    assert fault in first


class Rounding(Step):
    """A step whose rows round differently, as those of a product of matrices do on some processors."""

    def __call__(self, slots: Sequence[Array]) -> list[Array]:
        made = super().__call__(slots)
        return [a * (1 + 1e-15 * np.arange(len(a)).reshape(-1, *[1] * (a.ndim - 1))) for a in made]


@pytest.mark.parametrize("name", ["mingru", "indrnn", "lrnn_block", "slstm", "deltanet", "s4d"])
def test_rounding_refutes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "Step", Rounding)
    program = normal_cell(zoo(name)).program
    assert list(refuted(program, recurrences(program))) == []


def test_a_disagreement_names_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(program: Program) -> tuple[Recurrence, ...]:
        return tuple(replace(found, mixing="elementwise") for found in recurrences(program))

    monkeypatch.setattr(checking, "recurrences", lying)
    with pytest.raises(
        AnalysisError, match="the recurrence of cell liar is refuted by numbers: h: elementwise"
    ):
        checked_recurrences(parse("cell liar { state h: vec; h' = tanh(lin(h, x)); out h' }"))


def test_an_own_operation_whose_row_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Op("wobble", (1, 1), real, each(1), "a + sin(a), said to be linear", degree="linear")
    monkeypatch.setitem(ops._OPS, "wobble", row)
    monkeypatch.setitem(RENDERINGS, "wobble", elementwise(lambda a: a + np.sin(a)))
    with pytest.raises(AnalysisError, match=r"the analysis of cell wobbly is refuted by numbers: .*affine"):
        checked_analysis(parse("cell wobbly { state h: vec; h' = wobble(h) + lin(x); out h' }"))


@pytest.mark.parametrize("name", ["mingru", "rwkv4", "mlstm", "lru", "titans", "mamba", "qrnn", "scrn"])
def test_programs_with_scans_are_the_same_function(name: str) -> None:
    cell = zoo(name)
    program = normal_cell(cell).program
    other, scans = with_scans(program)
    assert {s for scan in scans for s in scan.slots} == {
        s
        for found in recurrences(program)
        if found.mixing == "elementwise" and found.degree != "nonlinear"
        for s in found.slots
    }
    rng = np.random.default_rng(0)
    sizes = sizes_of(cell)
    weights = arrays(cell, program, sizes, rng)
    x = [torch.from_numpy(rng.standard_normal((2, sizes.input_size))) for _ in range(4)]
    state = [
        torch.from_numpy(rng.standard_normal((2, *shape_in(slot.type, sizes)))) for slot in program.slots
    ]
    one, two = (run_forward(Machine(p, sizes, weights), x, state) for p in (program, other))
    torch.testing.assert_close(one.rows(program.out), two.rows(other.out), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.final, two.final, rtol=1e-9, atol=1e-9)


def test_coefficients_of_scans_do_not_see_their_slots() -> None:
    for name in ("mlstm", "lru", "rwkv4"):
        for program in (normal_cell(zoo(name)).program, adjoint_cell(zoo(name)).backward):
            made, scans = with_scans(program)
            circles = {k for found in recurrences(made) for k in found.body}
            coefficients = {k for scan in scans for row in (*scan.a, scan.b) for k in row if k is not None}
            assert coefficients
            assert not coefficients & circles


def test_a_mingru_is_scanned_with_its_gate() -> None:
    made, (scan,) = with_scans(
        normal_of("state h: vec; z = sigmoid(lin(x)); h' = lerp(z, h, lin(x)); out h'")
    )
    ((a,),), (b,) = scan.a, scan.b
    assert a is not None
    assert b is not None
    assert made.instrs[a].op == "sub"  # 1 - z
    assert made.instrs[b].op == "mul"  # z times the candidate
    assert not scan.max_plus
