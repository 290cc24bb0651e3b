from __future__ import annotations

import numpy as np
import pytest

from search_spaces import GrammarSpace, Relaxed, SpaceError, load_space, read_space, unroll

SMALL = """
# A space to unroll.
space small {
  limits size <= 12, depth <= 6
  state{1..2} vec
  let{0..2} -> gate
  out -> $new [4] | lin($vec)
  vec -> tanh(lin(OPS)) [3] | gate * vec [2] | lerp(gate, vec, vec) | $vec [2]
  gate: vec -> sigmoid(lin(OPS)) | $gate
  OPS: operands -> x, $vec [3] | x
}
"""


def small() -> GrammarSpace:
    space = read_space(SMALL)
    assert isinstance(space, GrammarSpace)
    return space


@pytest.mark.parametrize("depth", [2, 3])
def test_cells_of_the_sketches_are_members(depth: int) -> None:
    space = small()
    sketches = unroll(space, depth)
    assert [len(sketch.states) for sketch in sketches] == [2, 1]
    for sketch in sketches:
        relaxed = Relaxed(sketch, lift=False)
        for seed in range(8):
            cell = relaxed.derived(relaxed.template.complete({}, np.random.default_rng(seed)))
            why = space.why_not(cell)
            assert why is None or "does not depend" in why or "the size is at most" in why


def test_weights_of_any_size_are_kept() -> None:
    rules = "out -> $new vec -> tanh(lin(x, $vec)) | relu(lin(x)) [0.0000001]"
    space = GrammarSpace(f"space s {{ limits size <= 9, states >= 2 state{{1..2}} vec {rules} }}")
    sketches = unroll(space, depth=2)
    assert [len(s.states) for s in sketches] == [2], "the limits leave one number of states"
    assert "[1e-07]" in str(sketches[0])


def test_deeper_sketches_hold_more() -> None:
    counts = [sum(len(site.options) for site in Relaxed(unroll(small(), d)[-1]).holes) for d in (2, 3, 4)]
    assert counts == sorted(set(counts))


def test_what_stands_at_a_place_is_shared_by_all_that_stand_above_it() -> None:
    text = str(unroll(small(), 3)[-1])
    (line,) = [line for line in text.splitlines() if "lerp(" in line and line.strip().startswith("vec_")][-1:]
    gates = {part.split("(")[-1].split(",")[0].strip() for part in line.split("|") if "lerp" in part}
    assert all(f"{gate} *" in line for gate in gates)


@pytest.mark.parametrize(
    ("name", "depth", "message"),
    [
        ("tree", 3, "space tree is over trees"),
        ("diagonal", 1, "has no derivation of depth 1 without helper names"),
        ("gated", 0, "the depth of an unrolled space is at least 1; received 0"),
        ("gated", 4, "unrolled to depth 4 has more than 6,000 options; use a smaller depth"),
    ],
)
def test_what_cannot_be_unrolled_is_refused(name: str, depth: int, message: str) -> None:
    space = load_space(name)
    assert isinstance(space, GrammarSpace)
    with pytest.raises(SpaceError, match=message):
        unroll(space, depth)
