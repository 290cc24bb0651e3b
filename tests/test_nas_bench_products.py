"""What a cell must cost, counted by hand."""

from __future__ import annotations

import pytest

from grammar import Cell, Sizes, parse, zoo
from nas.bench import read_sizes
from nas.bench.products import Product, products_alone, products_of, transcendental_ms, transcendentals

SIZES = Sizes.of(4, 6, heads=2)  # K = V = 3


def products(text: str) -> list[Product]:
    return sorted(products_of(parse(f"cell c {{ {text} }}"), SIZES), key=str)


def test_maps_of_one_operand_are_one_product() -> None:
    assert set(products_of(zoo("lstm"), SIZES)) == {Product(4, 24), Product(6, 24, stepwise=True)}
    assert set(products_of(zoo("mingru"), SIZES)) == {Product(4, 12)}


def test_stepwise_is_what_lies_on_a_circle() -> None:
    assert products("state h: vec; u = tanh(lin(x)); h' = 0.5 * h + lin(u); out lin(h')") == [
        Product(4, 6),
        Product(6, 6),
        Product(6, 6),
    ]
    n = "n = tanh(lin(x, r * h)); r = sigmoid(lin(x))"
    assert products(f"state h: vec; {n}; h' = lerp(0.5, n, h); out h'") == [
        Product(4, 12),
        Product(6, 6, stepwise=True),
    ]


def test_a_circle_may_take_several_steps() -> None:
    text = "state h: vec, g: vec; h' = g; g' = tanh(lin(h)); out h' + x"
    assert products_of(parse(f"cell c {{ {text} }}"), Sizes.of(6, 6)) == (Product(6, 6, stepwise=True),)


def test_one_state_that_drives_another_is_no_circle() -> None:
    text = "state h: vec, g: vec; h' = 0.5 * h + lin(x); g' = 0.5 * g + lin(h, h'); out g'"
    assert products(text) == [Product(4, 6), Product(6, 6), Product(6, 6)]


def test_structured_maps() -> None:
    assert products("state h: vec; h' = tanh(lin(h, blocks=3) + lin(x)); out h'") == [
        Product(2, 2, 3, stepwise=True),
        Product(4, 6),
    ]
    assert products("state h: vec; h' = tanh(lin(h, rank=2)); out h' * lin(x)") == [
        Product(2, 6, stepwise=True),
        Product(4, 6),
        Product(6, 2, stepwise=True),
    ]
    assert products("state z: cvec; z' = 0.5 * z + lin:cvec(complex(lin(x), 0)); out re(z')") == [
        Product(12, 12),
        Product(4, 6),
    ]


def test_reads_and_outer_products_have_a_matrix_for_each_row() -> None:
    found = products_of(zoo("linear_attention"), SIZES)
    own = [p for p in found if not p.plain]
    assert {(p.inner, p.outer, p.count) for p in own} == {(3, 3, 2)}
    assert len(own) == sum(
        node.op in ("outer", "read", "readt") for node in zoo("linear_attention").graph.nodes
    )


def test_dead_code_and_maps_of_weights_cost_nothing() -> None:
    text = "state h: vec; dead = lin(tanh(h)); w = tanh(lin(param:vec())); h' = w * h + x; out h'"
    cell = parse(f"cell c {{ {text} }}")
    assert products_of(cell, Sizes.of(6, 6)) == ()
    assert transcendentals(cell, Sizes.of(6, 6)) == 0


@pytest.mark.parametrize(("cell", "count"), [(zoo("lstm"), 5 * 6), (zoo("elman"), 6), (zoo("indrnn"), 0)])
def test_transcendental_functions(cell: Cell, count: int) -> None:
    assert transcendentals(cell, SIZES) == count
    (size,) = read_sizes("3x5x6")
    assert transcendental_ms(cell, SIZES, size) == pytest.approx(count * 15 * 2.5e-6)


@pytest.mark.parametrize("name", ["lstm", "mamba", "lru", "titans", "sru", "rwkv7"])
@pytest.mark.parametrize("backward", [False, True])
def test_products_alone_run(name: str, backward: bool) -> None:
    (size,) = read_sizes("2x3x8")
    products_alone(zoo(name), Sizes.of(8, 8), size, "cpu", backward)()
