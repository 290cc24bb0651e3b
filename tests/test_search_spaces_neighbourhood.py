from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grammar import parse, zoo
from search_spaces import GrammarSpace, NotAMemberError, Relaxed, SpaceError, load_space, read_space
from search_spaces.neighbourhood import changed, sketch_of

ROOT = Path(__file__).resolve().parents[1]
OVER_TIME = ("gated", "diagonal", "matrix", "mixed", "nasbench_nlp")


def rules_space(name: str) -> GrammarSpace:
    space = load_space(name)
    assert isinstance(space, GrammarSpace)
    return space


@pytest.mark.parametrize("name", OVER_TIME)
def test_each_option_by_itself_is_another_member(name: str) -> None:
    space = rules_space(name)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        cell = space.sample(rng)
        relaxed = Relaxed(space.neighbourhood(cell, rng, changes=6), lift=False)
        assert relaxed.cell.digest != cell.digest  # the mixture can be made
        first = dict.fromkeys(range(len(relaxed.holes)), 0)
        rng = np.random.default_rng(0)
        assert relaxed.derived(relaxed.template.complete(first, rng)).digest == cell.digest
        others = [(hole, k) for hole, site in enumerate(relaxed.holes) for k in range(1, len(site.options))]
        assert len(others) == 6
        children = [relaxed.derived(relaxed.template.complete({**first, hole: k}, rng)) for hole, k in others]
        assert len({cell.digest, *(child.digest for child in children)}) == 7
        assert all(child in space for child in children)
        for site in relaxed.holes:
            assert site.weights[1:] == (0.125,) * (len(site.options) - 1)
            assert site.weights[0] == 1 - 0.125 * (len(site.options) - 1) >= 0.5


def sketched(parent: str, *children: str) -> str:
    """The equations of the sketch of a cell of `gated` and others that differ from it in one place each."""
    space = rules_space("gated")
    made = space._member(parse(parent))
    options: dict[object, list[object]] = {}
    for text in children:
        found = changed(space.rules, made, space._member(parse(text)))
        assert found is not None
        options.setdefault(found[0], []).append(found[1])
    text = str(sketch_of(space.rules, made, options, 0.25))  # type: ignore[arg-type]
    return "; ".join(line.strip() for line in text.splitlines()[2:-1])


ONE = "cell one {{ state h: vec; h' = {}; out h' }}"


def test_what_a_mutation_keeps_has_the_same_weights() -> None:
    tanh, relu = ONE.format("tanh(lin(x, h))"), ONE.format("relu(lin(x, h))")
    kept = "h' = choice{ tanh(part_1) [0.75] | relu(part_1) [0.25] }; out h'"
    assert sketched(tanh, relu) in (
        f"part_1 = lin(x, h); {kept}",
        f"part_1 = lin(x, h); part_2 = part_1; {kept}",
    )


def test_a_part_is_kept_once_and_what_is_new_has_its_own_weights() -> None:
    twice = ONE.format("tanh(lin(x, h)) + tanh(lin(x, h))")
    assert sketched(ONE.format("tanh(lin(x, h))"), twice) == (
        "part_1 = tanh(lin(x, h)); h' = choice{ part_1 [0.75] | part_1 + tanh(lin(x, h)) [0.25] }; out h'"
    )


def test_a_name_of_the_cell_is_not_given_to_a_part() -> None:
    cell = "cell one {{ state h: vec; part_1 = tanh(lin(x, h)); h' = {}; out h' }}"
    before, after = (
        cell.format("sigmoid(lin(x, h)) * part_1 + part_1"),
        cell.format("relu(lin(x, h)) * part_1 + part_1"),
    )
    wrapped = cell.format("tanh(sigmoid(lin(x, h))) * part_1 + part_1")
    assert "part_1 = tanh(lin(x, h))" in sketched(before, after, wrapped)


def test_operands_differ_at_the_operation_that_has_them() -> None:
    assert sketched(ONE.format("tanh(lin(x, h))"), ONE.format("tanh(lin(x, h, h))")) == (
        "h' = tanh(choice{ lin(x, h) [0.75] | lin(x, h, h) [0.25] }); out h'"
    )


def test_choices_stand_inside_of_what_other_options_keep() -> None:
    outer, inner = ONE.format("relu(lin(x, h))"), ONE.format("tanh(lin(x, h, h))")
    text = sketched(ONE.format("tanh(lin(x, h))"), outer, inner)
    assert "choice{ lin(x, h) [0.75] | lin(x, h, h) [0.25] }" in text
    assert text.count("lin(x, h)") == 1


@pytest.mark.parametrize(
    "other",
    [
        "cell one { state h: vec; h' = relu(lin(x, h)); out lin(h') }",
        "cell one { state h: vec, c: vec; c' = tanh(lin(x, h)); h' = tanh(lin(x, c)); out h' }",
    ],
)
def test_two_equations_or_other_states_are_no_change_of_one_place(other: str) -> None:
    space = rules_space("gated")
    before, after = (space._derive(parse(text)) for text in (ONE.format("tanh(lin(x, h))"), other))
    assert not isinstance(before, str)
    assert not isinstance(after, str)
    assert changed(space.rules, before, after) is None


def test_same_in_another_process() -> None:
    script = (
        "import numpy as np; from grammar import zoo; from search_spaces import load_space\n"
        "print(load_space('gated').neighbourhood(zoo('lstm'), np.random.default_rng(3)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    here = rules_space("gated").neighbourhood(zoo("lstm"), np.random.default_rng(3))
    assert done.stdout.strip() == str(here).strip()


def test_what_has_no_neighbourhood_is_refused() -> None:
    space, rng = rules_space("gated"), np.random.default_rng(0)
    with pytest.raises(NotAMemberError, match="not a member of space gated"):
        space.neighbourhood(zoo("mamba"), rng)
    with pytest.raises(SpaceError, match="at least 1 change of a share in"):
        space.neighbourhood(zoo("lstm"), rng, share=0.6)
    only = read_space("space only { limits size <= 2 state vec out -> $new vec -> tanh(lin(x, $vec)) }")
    assert isinstance(only, GrammarSpace)
    with pytest.raises(SpaceError, match="no mutation of one place gives another cell"):
        only.neighbourhood(only.sample(rng), rng)
    trees = rules_space("tree")
    with pytest.raises(SpaceError, match="space tree is over trees"):
        trees.neighbourhood(trees.sample(rng), rng)
