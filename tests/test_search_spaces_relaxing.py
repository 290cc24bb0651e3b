from __future__ import annotations

import numpy as np
import pytest

from grammar import Let, Statement, parse_sketch, show_statement
from search_spaces import Relaxed, SpaceError, load_space
from search_spaces.lifting import lifted

MINE = """
cell mine {
  state h: vec
  g = sigmoid(lin(x, h))
  u = choice{ lin(x) [2] | lin(x, h) }
  w = choice{ h | diag(h) }
  h' = choice{ lerp(g, h, tanh(u)) | g * tanh(u) + w | choice{ tanh(u) | relu(w + u) } }
  out h'
}
"""
SKETCHES = {
    "mine": MINE,
    "numbers": "cell n { state h: vec; r = choice{ 0.5 | 0.9 }; h' = lerp(r, h, tanh(lin(x))); out h' }",
    "matrix": (
        "cell m { state S: mat; k = choice{ lin:key(x) | l2norm(lin:key(x)) }; b = choice{ sigmoid(lin:scal(x)) "
        "| 1 - sigmoid(lin:scal(x)) }; S' = b * S + outer(k, lin:val(x)); out read(S', k) }"
    ),
    "buffers": "cell b { state h: vec; p = choice{ shift(x) | x }; h' = tanh(lin(p, h) + conv(lin(x), k=3)); out h' }",
    "repeat": "cell r { state h: vec; repeat 2 { h' = choice{ tanh(lin(x, h)) | relu(lin(x, h)) } }; out h' }",
    "tree": (
        "cell t(l, r) { state h: vec; leaf { h' = choice{ tanh(lin(x)) | lin(x) } }; "
        "h' = choice{ tanh(lin(l.h, r.h)) | lin(l.h) * lin(r.h) }; out h' }"
    ),
}


@pytest.mark.parametrize("name", SKETCHES)
@pytest.mark.parametrize("lift", [False, True])
def test_every_path_is_a_cell_of_the_sketch_with_a_role_for_each_array(name: str, lift: bool) -> None:
    sketch = parse_sketch(SKETCHES[name])
    relaxed, space = Relaxed(sketch, lift), load_space(SKETCHES[name])
    sites = {weight.site for weight in relaxed.cell.graph.weights}
    assert {gate for hole in relaxed.gates for gate in hole} <= sites
    for seed in range(6):
        picks = relaxed.template.complete({}, np.random.default_rng(seed))
        derived = relaxed.derived(picks)
        assert derived in space
        roles = relaxed.roles(picks)
        assert {role.rpartition(".")[0] for role in roles.values()} <= sites
        assert len(set(roles.values())) == len(roles)


def test_lifting_computes_a_node_for_each_of_its_inputs() -> None:
    sketch = parse_sketch(
        "cell n { state h: vec; p = choice{ lin(x) | h }; v = lin(p); "
        "s = lerp(sigmoid(lin(p)), p, choice{ tanh(v) | v }); h' = s; out h' }"
    )
    plain, moved = (str(Relaxed(sketch, lift).cell) for lift in (False, True))
    assert plain.count("sigmoid(") == 1
    assert moved.count("sigmoid(") == 2
    assert "p =" in plain
    assert "p =" not in moved
    assert "v =" not in moved


def test_a_choice_that_two_new_values_use_stays_where_it_is() -> None:
    sketch = parse_sketch(
        "cell n { state h: vec, c: vec; p = choice{ lin(x) | tanh(lin(x)) }; h' = tanh(p + c); c' = p * h; out h' }"
    )
    assert "p = " in str(Relaxed(sketch, lift=True).cell)


def test_a_weight_of_several_sub_steps_has_no_role() -> None:
    sketch = parse_sketch(
        "cell r { state h: vec; repeat 2 fresh { h' = choice{ tanh(lin(h)) | lin(x) } }; out h' }"
    )
    with pytest.raises(
        SpaceError, match="sketch r has no mixture: in `repeat 2 fresh` one operation has several"
    ):
        Relaxed(sketch)


def test_options_that_do_not_sum_are_refused() -> None:
    sketch = parse_sketch("cell m { state s: mem(3); s' = choice{ tanh(s) | relu(s) }; out lin(s, x) }")
    with pytest.raises(SpaceError, match="the sum of a hole's options, each times a number, does not stand"):
        _ = Relaxed(sketch).cell


def _ladder(steps: int) -> tuple[Statement, ...]:
    lets = "; ".join(f"a{i + 1} = a{i} * b{i}; b{i + 1} = a{i} + b{i}" for i in range(1, steps))
    return parse_sketch(
        "cell s { state h: vec; p = choice{ h | tanh(h) }; a1 = tanh(p); b1 = sigmoid(p); "
        f"{lets}; h' = lin(a{steps}, b{steps}); out h' }}"
    ).statements


def test_how_large_an_equation_becomes_is_known_before_it_is_written_out() -> None:
    """Each of forty steps uses both lets of the step before twice: 10^12 nodes."""
    long, short = _ladder(40), _ladder(2)
    assert lifted(long, 4_000) is long
    nodes = (
        1 + (7 + 4 * 1) + (7 + 4 * 2)
    )  # the choice; lin, two and four operations, and four times the option
    assert lifted(short, nodes - 1) is short
    (moved,) = (s.expr for s in lifted(short, nodes) if isinstance(s, Let) and s.name == "h'")
    assert sum(1 for _ in moved.walk()) == nodes


def test_long_ways_from_a_choice_to_its_uses_need_no_recursion() -> None:
    lets = "; ".join(f"v{k + 1} = tanh(v{k})" for k in range(1500))
    sketch = parse_sketch(
        f"cell s {{ state h: vec; v0 = choice{{ h | tanh(h) }}; {lets}; h' = v1500; out h' }}"
    )
    assert show_statement(lifted(sketch.statements, 4_000)[0]) == "v1 = choice{ tanh(h) | tanh(tanh(h)) }"
