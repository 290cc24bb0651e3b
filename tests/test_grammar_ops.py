"""The table of operations: each row is consistent, and every other table has an entry for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from grammar import (
    CMAT,
    CVEC,
    IN,
    KEY,
    MAT,
    NUM,
    OPS,
    RENDERINGS,
    SCAL,
    SEQ,
    VEC,
    GrammarError,
    Op,
    Poly,
    Type,
    elementwise,
    evaluate,
    init_weights,
    parse,
    register,
    register_rendering,
)
from grammar.graph import GRAPH_LEAVES
from grammar.ops import LEAVES, block_count, shape_of
from grammar.parser import KEYWORDS
from grammar.renderings import RENDERINGS as TABLE

TYPES = (NUM, IN, VEC, KEY, SCAL, MAT, CVEC, CMAT, SEQ, Type("mem", 4))
SIZES = {"input_size": 6, "hidden_size": 8, "heads": 2, "key_size": 3}


def accepted(op: Op) -> Iterator[tuple[tuple[Type, ...], Type]]:
    """Operands that the row accepts, at each arity up to three."""
    least, most = op.arity
    for arity in range(least, min(3, most if most is not None else 3) + 1):
        for operands in itertools.product(TYPES, repeat=arity):
            try:
                yield operands, op.rule(operands, {})
            except GrammarError:
                continue


@pytest.mark.parametrize("name", OPS)
def test_a_row_is_consistent(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert name.isidentifier()
    assert name not in (*KEYWORDS, *LEAVES, *GRAPH_LEAVES)
    assert op.doc
    assert op.degree in ("linear", "product", "quotient", "max", "blend", "nonlinear")
    assert op.mixes in ("elementwise", "block", "dense")
    least, most = op.arity
    assert 0 <= least <= (least if most is None else most)
    assert op.commutative <= (op.arity == (2, 2))
    assert op.bounds is None or op.bounds[0] < op.bounds[1]


@pytest.mark.parametrize("name", OPS)
def test_a_row_accepts_something_and_costs_no_less_than_nothing(name: str) -> None:
    found = list(accepted(OPS[name]))
    assert found
    for operands, result in found:
        assert OPS[name].cost(operands, {}, result).at(**SIZES) >= 0


@pytest.mark.parametrize("name", [n for n in OPS if OPS[n].commutative])
def test_a_commutative_row_accepts_both_orders(name: str) -> None:
    for (a, b), result in accepted(OPS[name]):
        assert OPS[name].rule((b, a), {}) == result


@pytest.mark.parametrize("name", [n for n in OPS if OPS[n].weights])
def test_weights_have_distinct_roles_and_whole_shapes(name: str) -> None:
    rule = OPS[name].weights
    assert rule is not None
    for operands, result in accepted(OPS[name]):
        specs = rule(operands, {}, result)
        assert len({s.role for s in specs}) == len(specs) > 0
        for spec in specs:
            assert all(isinstance(extent.at(**SIZES), int) for extent in spec.shape)
            assert spec.fan_in.at(**SIZES) >= 1


@pytest.mark.parametrize("name", OPS)
def test_options_of_weights_go_with_weights(name: str) -> None:
    op = OPS[name]
    assert op.weights or not {"share", "init", "fixed", "bias"} & set(op.options)
    assert op.typed <= (name in ("lin", "param"))


def test_every_row_has_a_rendering_and_no_rendering_is_left_over() -> None:
    assert set(RENDERINGS) == set(OPS)


@pytest.mark.parametrize(
    ("options", "roles"),
    [
        ("", "w0 [8, 6]  w1 [8, 8]  b [8]"),
        (", bias=no", "w0 [8, 6]  w1 [8, 8]"),
        (", blocks=2", "w0 [2, 4, 3]  w1 [2, 4, 4]  b [8]"),
        (", blocks=heads", "w0 [2, 4, 3]  w1 [2, 4, 4]  b [8]"),
        (", rank=3", "v0 [3, 6]  u0 [8, 3]  v1 [3, 8]  u1 [8, 3]  b [8]"),
    ],
)
def test_the_arrays_of_lin(options: str, roles: str) -> None:
    weight = parse(f"cell a {{ state h: vec; h' = lin(x, h{options}); out h' }}").graph.weights[0]
    shown = (f"{s.role} [{', '.join(str(e.at(**SIZES)) for e in s.shape)}]" for s in weight.specs)
    assert "  ".join(shown) == roles


def test_block_counts() -> None:
    assert block_count({}) == Poly.of(1)
    assert block_count({"blocks": 4}) == Poly.of(4)
    assert block_count({"blocks": "heads"}) == Poly.var("N")


@pytest.mark.parametrize(
    ("type_", "shape"), [(KEY, (2, 3)), (SCAL, (2,)), (MAT, (2, 3, 4)), (VEC, (8,)), (IN, (6,))]
)
def test_shapes(type_: Type, shape: tuple[int, ...]) -> None:
    assert tuple(extent.at(**SIZES) for extent in shape_of(type_)) == shape


def test_a_row_is_registered_once() -> None:
    with pytest.raises(GrammarError, match="registered once, but 'tanh' is in the table already"):
        register(OPS["tanh"])
    with pytest.raises(GrammarError, match="'tanh' has one already"):
        register_rendering("tanh", elementwise(np.tanh))
    with pytest.raises(GrammarError, match="in the table before its rendering; received 'softsign'"):
        register_rendering("softsign", elementwise(np.tanh))


def test_an_operation_of_the_user_is_one_row_and_one_rendering() -> None:
    from grammar import ops

    tanh = OPS["tanh"]
    try:
        register(Op("softsign", (1, 1), tanh.rule, tanh.cost, "a / (1 + |a|)"))
        register_rendering("softsign", elementwise(lambda a: a / (1 + np.abs(a))))
        cell = parse("cell user { state h: vec; h' = softsign(lin(x, h)); out h' }")
        weights = init_weights(cell, np.random.default_rng(0), input_size=2, hidden_size=3)
        x = np.ones((1, 1, 2))
        before = x[0, 0] @ weights["h.w0"].T + weights["h.b"]
        found = evaluate(cell, x, weights, hidden_size=3).y[0, 0]
        np.testing.assert_allclose(found, before / (1 + np.abs(before)))
    finally:
        ops._OPS.pop("softsign", None)
        TABLE.pop("softsign", None)
