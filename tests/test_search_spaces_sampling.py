"""What every space keeps when cells are drawn from it."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tree import ROOT
from space_suite import SELF, SOME, TINY, check_member

from grammar import analyse
from search_spaces import GrammarSpace, NoCellError, Space, SpaceError, load_space, space_names

SPACES = [*space_names()]
WAYS = ["weights", "size"]
SLOW = dict.fromkeys(("matrix", "mixed", "tree"), pytest.mark.slow)  # their tables take seconds to make


def drawn(space: Space, seed: int, n: int, by: str) -> list[str]:
    rng = np.random.default_rng(seed)
    return [str(space.sample(rng, by=by)) for _ in range(n)]


CROWDED = """space s {
  limits size <= 30
  {children}
  {states}
  let{4} -> step
  out -> $new
  vec -> {leaves} | vec * vec | step
  step: vec -> sigmoid(vec) | $step
  start: vec -> tanh(lin(x))
}
"""


@pytest.mark.parametrize(
    ("children", "states", "leaves"),
    [("", "state{6} vec", "tanh(lin(x, $vec))"), ("children -> h, s1 | *c", "state{2} vec -> vec leaf start",
      "tanh(lin($vec_h, $vec_s1)) | tanh(lin(sum($vec_c)))")],
)  # fmt: skip
def test_states_lets_and_children_have_names_of_their_own(children: str, states: str, leaves: str) -> None:
    """The lets of `step` are s1, s2, ..., as are states beyond four; children may have any name."""
    text = CROWDED.replace("{children}", children).replace("{states}", states).replace("{leaves}", leaves)
    space, rng = GrammarSpace(text), np.random.default_rng(0)
    for _ in range(5):
        cell = space.sample(rng)
        check_member(space, cell)
        check_member(space, space.mutate(cell, rng))


def test_a_space_without_cells_says_so() -> None:
    space = GrammarSpace("space s { limits size <= 3, size >= 3 state vec out -> $new vec -> tanh(lin(x)) }")
    for by in WAYS:
        with pytest.raises(NoCellError, match="space s has no cell within its limits"):
            space.sample(np.random.default_rng(0), by=by)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("name", SPACES)
def test_samples_are_members(name: str, by: str) -> None:
    space, rng = load_space(name), np.random.default_rng(7)
    for _ in range(200 if by == "weights" else 100):
        check_member(space, space.sample(rng, by=by))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SPACES)
def test_ten_thousand_samples_are_members(name: str) -> None:
    space, rng = load_space(name), np.random.default_rng(8)
    texts = set()
    for i in range(10_000):
        cell = space.sample(rng, by=WAYS[i % 5 == 0])
        check_member(space, cell)
        texts.add(str(cell))
    assert len(texts) > 6_000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SPACES)
def test_a_hundred_thousand_samples_take_less_than_five_minutes(name: str) -> None:
    # A tenth of them, at the rate after the tables are made.
    space, rng = load_space(name), np.random.default_rng(12)
    for _ in range(200):
        space.sample(rng)
    start = time.process_time()
    for _ in range(10_000):
        space.sample(rng)
    assert time.process_time() - start < 30


@pytest.mark.parametrize("text", [TINY, SELF, SOME], ids=["tiny", "self", "some"])
def test_samples_of_a_user_s_space_are_members(text: str) -> None:
    space, rng = GrammarSpace(text), np.random.default_rng(9)
    for i in range(300):
        check_member(space, space.sample(rng, by=WAYS[i % 2]))


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**63), by=st.sampled_from(WAYS))
def test_the_generator_alone_decides(name: str, seed: int, by: str) -> None:
    space = load_space(name)
    assert drawn(space, seed, 2, by) == drawn(space, seed, 2, by)


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW.get(n, ())) for n in SPACES])
def test_another_process_draws_the_same(name: str) -> None:
    # Here the space has been used already; there it is fresh.
    here = [hash_free(drawn(load_space(name), 11, 8, by)) for by in WAYS]
    script = (
        "import numpy as np; from search_spaces import load_space\n"
        f"for by in {WAYS!r}:\n"
        f"    rng = np.random.default_rng(11); space = load_space({name!r})\n"
        "    print(*(space.sample(rng, by=by).one_line for _ in range(8)), sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "".join(here)


def hash_free(texts: list[str]) -> str:
    from grammar import parse

    return "".join(f"{parse(t).one_line}\n" for t in texts)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("name", SPACES)
def test_the_size_can_be_asked_for(name: str, by: str) -> None:
    space, rng = load_space(name), np.random.default_rng(1)
    sizes = [n for n, ways in enumerate(space.count()) if ways]
    for size in (sizes[0] + 5, sizes[len(sizes) // 2], sizes[-1]):
        cells = [space.sample(rng, size=size, by=by) for _ in range(4)]
        assert {space.size(c) for c in cells} == {size}


def test_seeds_differ() -> None:
    space = load_space("gated")
    assert drawn(space, 1, 5, "weights") != drawn(space, 2, 5, "weights")


def test_numbers_of_states_and_lets_are_all_drawn() -> None:
    space, rng = load_space("gated"), np.random.default_rng(2)
    cells = [space.sample(rng) for _ in range(400)]
    assert {len(c.states) for c in cells} == {1, 2}
    assert {len(c.statements) - len(c.states) - 1 for c in cells} == {0, 1, 2, 3, 4}


def test_most_samples_of_gated_are_different_cells() -> None:
    space, rng = load_space("gated"), np.random.default_rng(3)
    assert len({space.sample(rng).digest for _ in range(300)}) > 270


def test_diagonal_cells_run_as_parallel_scans() -> None:
    space, rng = load_space("diagonal"), np.random.default_rng(4)
    for i in range(300):
        cell = space.sample(rng, by=WAYS[i % 2])
        assert all(c.parallel for c in analyse(cell).components), str(cell)


def test_what_is_not_required_may_be_missing() -> None:
    free = GrammarSpace(TINY.replace("require x, states", ""))
    rng = np.random.default_rng(5)
    cells = [free.sample(rng, by="size") for _ in range(200)]
    assert all(c in free for c in cells)
    assert any(c not in GrammarSpace(TINY) for c in cells)


def test_a_size_outside_of_the_limits_is_refused() -> None:
    space, rng = load_space("gated"), np.random.default_rng(0)
    with pytest.raises(NoCellError, match="a cell of space gated has 0 to 24 operations; received size=25"):
        space.sample(rng, size=25)
    for wrong in (1.5, True, "2"):
        with pytest.raises(SpaceError, match="a size is a whole number of operations; received"):
            space.sample(np.random.default_rng(0), size=wrong)  # type: ignore[arg-type]
    with pytest.raises(NoCellError, match="received size=-1"):
        space.sample(rng, size=-1)


def test_a_size_without_cells_is_refused() -> None:
    rng = np.random.default_rng(0)
    for by in WAYS:
        with pytest.raises(NoCellError, match="space diagonal has no cell of size 2"):
            load_space("diagonal").sample(rng, size=2, by=by)
    with pytest.raises(NoCellError, match="in 2000 cells of size 0 none depends on x and states"):
        GrammarSpace(TINY).sample(rng, size=0)


def test_a_space_in_which_nothing_lives_says_so() -> None:
    text = "space dead { limits size <= 2  require x  state vec  out -> $new  vec -> tanh($vec) | $vec }"
    with pytest.raises(NoCellError, match="none depends on x"):
        GrammarSpace(text).sample(np.random.default_rng(0))


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(SpaceError, match="cells are drawn by 'weights' or 'size'; received 'luck'"):
        load_space("gated").sample(np.random.default_rng(0), by="luck")


def test_the_greatest_and_the_least_weights_can_be_drawn_by() -> None:
    text = re.sub(r"\[\d\]", "[1e30]", TINY).replace("| x", "| x [1e-30]")
    assert text.count("1e30") > 3
    space, rng = GrammarSpace(text), np.random.default_rng(0)
    for by in WAYS:
        cell = space.sample(rng, by=by)
        assert np.isfinite(space.log_prob(cell))
