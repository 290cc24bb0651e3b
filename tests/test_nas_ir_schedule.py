"""Schedules: what is one product over all rows, what a sweep computes, and that all is there when it is needed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from strategies import cells

from grammar import Cell, Sizes, parse, zoo, zoo_names
from nas.ir import Product, Program, Schedule, Sweep, adjoint_cell, normal_cell, schedule

TIME = [name for name in zoo_names() if zoo(name).kind == "time"]
SIZES = Sizes.of(8, 8, 2)
GIVEN = ("x", "saved", "past", "dy", "next")


def legal(plan: Schedule, keep: Sequence[int]) -> None:
    """Every row value is computed once, after what it needs; slots have one home; what crosses is stored."""
    nodes = plan.nodes
    row = {k for k, node in enumerate(nodes) if node.stage in ("before", "loop", "after")}
    there = {k for k, node in enumerate(nodes) if k not in row or node.op in GIVEN}
    computed: list[int] = []
    homes: list[int] = []
    for step in plan.steps:
        if isinstance(step, Product):
            assert all(set(nodes[k].args) <= there for k in step.results)
            computed += step.results
            there |= set(step.results)
            continue
        inside = set(step.body) | there
        assert all(set(nodes[k].args) <= inside for k in (*step.body, *step.grams))
        assert all(plan.following[s] in inside for s in step.slots)
        states = {nodes[k].slot for k in step.body if nodes[k].op == "state"}
        assert states <= set(step.slots), "a state is read in the sweep that carries it"
        computed += [k for k in step.body if nodes[k].op not in GIVEN]
        homes += step.slots
        there |= set(step.stored)
    assert sorted(computed) == sorted(k for k in row if nodes[k].op not in GIVEN)
    assert sorted(homes) == list(range(len(plan.following)))
    assert {plan.at[k] for k in keep} <= there


def planned(program: Program, keep: Sequence[int]) -> Schedule:
    plan = schedule(program, SIZES, keep)
    legal(plan, keep)
    return plan


@pytest.mark.parametrize("name", TIME)
def test_known_cells_forward_and_backward(name: str) -> None:
    adjoint = adjoint_cell(zoo(name))
    planned(adjoint.forward, [adjoint.forward.out, *adjoint.saved])
    planned(adjoint.backward, [] if adjoint.dx is None else [adjoint.dx])
    if adjoint.replay is not None:
        (sweep,) = schedule(adjoint.replay.program, SIZES, whole=True).steps
        assert isinstance(sweep, Sweep)


@settings(max_examples=60)
@given(cell=cells(kinds=("time",)))
def test_any_cell_forward_and_backward(cell: Cell) -> None:
    adjoint = adjoint_cell(cell)
    planned(adjoint.forward, [adjoint.forward.out, *adjoint.saved])
    planned(adjoint.backward, [] if adjoint.dx is None else [adjoint.dx])


def shapes(text: str) -> list[str]:
    """Each step in a word: `product 1>4` has one operand and four results, `sweep 2` two products inside."""
    cell = zoo(text) if text in zoo_names() else parse(text)
    program = normal_cell(cell).program
    plan = planned(program, [program.out])
    return [
        f"product {len(step.operands)}>{len(step.results)}"
        if isinstance(step, Product)
        else f"sweep {sum(plan.nodes[k].op == 'matmul' for k in step.body)}"
        for step in plan.steps
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("lstm", ["product 1>4", "sweep 4"], id="gates of x are one product"),
        pytest.param("mingru", ["product 1>2", "sweep 0"], id="elementwise"),
        pytest.param(
            "scrn",
            ["product 1>1", "sweep 0", "product 2>1", "sweep 1", "product 2>1", "sweep 0"],
            id="a recurrence feeds another through a product; terms of a sum are one product",
        ),
        pytest.param("deltanet", ["product 1>4", "sweep 0"], id="matrices"),
        pytest.param(
            "cell c { state h: vec; h' = tanh(lin(x) + lin(h)); out lin(tanh(lin(h'))) }",
            ["product 1>1", "sweep 1", "product 1>1", "sweep 0", "product 1>1", "sweep 0"],
            id="a chain behind the recurrence",
        ),
        pytest.param(
            "cell c { state S: mat, h: vec; S' = 0.9 * S + outer(lin:key(x), lin(x)); out read(S', lin:key(lin(h')));"
            " h' = tanh(lin(x)) }",
            ["product 1>3", "sweep 2"],
            id="products before what reads a matrix are done step by step",
        ),
    ],
)
def test_steps(text: str, expected: list[str]) -> None:
    assert shapes(text) == expected


def test_matrices_do_not_leave_their_sweep() -> None:
    cell = parse(
        "cell c { state S: mat; S' = 0.9 * S + outer(lin:key(x), lin(x)); v = read(S', lin:key(x));"
        " out read(S', lin:key(v)) }"
    )
    program = normal_cell(cell).program
    plan = planned(program, [program.out])
    stored = [k for step in plan.steps if isinstance(step, Sweep) for k in step.stored]
    assert [str(plan.nodes[k].type) for k in stored] == ["vec"], "the product in between is done step by step"


def test_values_wait_for_their_use() -> None:
    """Gates of x alone are computed where they are used, and not stored before."""
    program = normal_cell(zoo("hgrn")).program
    plan = planned(program, [program.out])
    (sweep,) = (step for step in plan.steps if isinstance(step, Sweep))
    assert sweep.stored == (plan.at[program.out],)
