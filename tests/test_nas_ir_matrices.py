"""Which matrix states a chunk of steps can update at once, and how."""

from __future__ import annotations

import pytest

from grammar import parse, zoo, zoo_names
from nas.ir import OWN, Factors, Matrices, adjoint_cell, matrices

CELLS = {
    name: adjoint_cell(zoo(name))
    for name in zoo_names()
    if zoo(name).kind == "time" and any(s.type.kind == "mat" for s in adjoint_cell(zoo(name)).forward.slots)
}
# Not of this form: two reads on the circle, decays per entry, complex ones, what is not linear.
OTHER = {"deltaproduct", "fast_weights", "ffm", "lattice", "mamba", "s4d", "srwm", "titans"}


def both(name: str) -> tuple[Matrices | None, Matrices | None]:
    made = CELLS[name]
    ahead = matrices(made.forward)
    return ahead, None if ahead is None else matrices(made.backward, ahead.chains)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_and_its_adjoint_are_of_this_form_or_neither(name: str) -> None:
    ahead, back = both(name)
    assert (ahead is None, back is None) == (name in OTHER,) * 2


def test_gated_linear_attention() -> None:
    program = CELLS["gla"].forward
    ahead, back = both("gla")
    assert ahead is not None
    assert back is not None
    ((chain,), (read,)) = ahead.chains, ahead.reads
    assert (chain.solved, len(chain.terms), read.form.source) == (None, 1, ("state", 0))
    assert [program.instrs[k].type.kind for _, k in chain.decay.values] == ["key"]
    assert read.form.scale == chain.decay  # it reads what is there after the step
    assert [r.op for r in back.reads] == ["readt", "readt", "read"]
    assert [c.kind for c in back.contractions] == ["key"]


def test_the_delta_rule_solves_for_what_it_reads() -> None:
    ahead, back = both("deltanet")
    for found in (ahead, back):
        assert found is not None
        (chain,) = found.chains
        assert chain.solved is not None
        (solved,), late = (stage.outputs for stage in found.stages)
        assert solved == chain.solved.read.instr
        assert chain.terms[-1] == (chain.solved.key, Factors(1.0, ((OWN, solved),)))
        assert solved not in late


@pytest.mark.parametrize(
    "text",
    [
        "state S: mat; S' = S * lin:mat(x) + outer(lin:key(x), lin(x)); out read(S', lin:key(x))",  # a decay per entry
        # the next: one read feeds another
        "state S: mat; S' = S + outer(lin:key(x), lin(x)); r = read(S', lin:key(x)); out read(S', lin:key(r))",
        "state S: mat; S' = tanh(S) + outer(lin:key(x), lin(x)); out read(S', lin:key(x))",
        "state S: mat; S' = S + outer(lin:key(x), lin(x)); out read(tanh(S'), lin:key(x))",
        "state S: mat, h: vec; S' = S + outer(lin:key(h), lin(x)); h' = tanh(read(S', lin:key(x))); out h'",
    ],
)
def test_what_has_another_form(text: str) -> None:
    assert matrices(adjoint_cell(parse(f"cell odd {{ {text} }}")).forward) is None


def test_cells_without_matrices_have_none() -> None:
    assert matrices(adjoint_cell(zoo("lstm")).forward) is None
