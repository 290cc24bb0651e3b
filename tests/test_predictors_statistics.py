"""Statistics of a cell's graph: known values on small cells, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramble import scramble
from strategies import cells

from grammar import OPS, Cell, parse, zoo, zoo_names
from predictors import cell_statistics, statistic_names


def features(text: str) -> dict[str, float]:
    return dict(zip(statistic_names(), cell_statistics([parse(text)])[0], strict=True))


def test_every_cell_of_the_zoo_has_a_finite_row_of_its_own() -> None:
    names = statistic_names()
    assert len(set(names)) == len(names)
    table = cell_statistics(zoo(name) for name in zoo_names())
    assert table.shape == (len(zoo_names()), len(names))
    assert table.dtype == np.float64
    assert np.isfinite(table).all()
    differing = {zoo(name).digest for name in zoo_names()}
    assert len({row.tobytes() for row in table}) > 0.9 * len(differing)


def test_no_cells_make_an_empty_table() -> None:
    assert cell_statistics([]).shape == (0, len(statistic_names()))


def test_each_operation_of_the_table_has_a_column() -> None:
    assert {f"op_{name}" for name in OPS} <= set(statistic_names())


def test_counts_of_the_lstm() -> None:
    lstm = dict(zip(statistic_names(), cell_statistics([zoo("lstm")])[0], strict=True))
    assert lstm["op_sigmoid"] == 3
    assert lstm["op_tanh"] == 2
    assert lstm["op_lin"] == 4
    assert lstm["weights"] == 4
    assert lstm["states_vec"] == 2
    assert lstm["self_loops"] == 2
    assert lstm["x_delay"] == 0
    assert lstm["loop_nonlinear_min"] == 0  # c' = f * c + ... : the carousel
    assert lstm["loop_product_min"] == 1


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("cell a { state h: vec; h' = tanh(lin(x, h)); out h' }", 0),
        ("cell b { state h: vec; h' = tanh(lin(x, h)); out h }", 1),
        ("cell c { state h: vec, g: vec; h' = tanh(lin(x, h)); g' = tanh(lin(h, g)); out g }", 2),
    ],
)
def test_delay_from_input_to_output(text: str, delay: int) -> None:
    assert features(text)["x_delay"] == delay


def test_path_costs_by_kind() -> None:
    found = features("cell a { state h: vec; u = lin(x); h' = u + h; out tanh(lin(tanh(h'))) * u }")
    assert (found["x_to_out_length_min"], found["x_to_out_length_max"]) == (2, 6)
    assert (found["x_to_out_nonlinear_min"], found["x_to_out_nonlinear_max"]) == (0, 2)
    assert (found["state_to_out_length_min"], found["loop_length_min"]) == (5, 1)


def test_no_recurrence_is_a_value_of_its_own() -> None:
    found = features("cell a { state h: vec; h' = tanh(lin(x)); out h }")
    assert found["loop_length_min"] == -1
    assert found["states_in_loops"] == 0


def test_a_loop_may_pass_several_states() -> None:
    found = features("cell a { state h: vec, g: vec; h' = tanh(lin(x, g)); g' = relu(h); out h' }")
    assert found["self_loops"] == 0
    assert found["states_in_loops"] == 2
    assert found["loop_nonlinear_min"] == 2


@given(cells(), st.integers(0, 2**32 - 1))
def test_any_cell_has_a_finite_row_that_names_and_order_do_not_change(cell: Cell, seed: int) -> None:
    table = cell_statistics([cell, scramble(cell, np.random.default_rng(seed))])
    assert np.isfinite(table).all()
    assert (table[0] == table[1]).all()
