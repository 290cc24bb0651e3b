from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from grammar import Cell, zoo
from search_spaces import Chooser, NotAMemberError, Space, load_space

NAMES = ["gated", "nasbench_nlp", "darts_rnn", "tree"]


def replay(space: Space, cell: Cell) -> Cell | None:
    choices = iter(space.choices(cell))

    def choose(site: str, weights: Sequence[float]) -> int:
        wanted = next(choices)
        assert (wanted.site, wanted.weights) == (site, tuple(weights))
        return wanted.chosen

    return space.walk(choose)


def by_weight(rng: np.random.Generator) -> Chooser:
    def choose(site: str, weights: Sequence[float]) -> int:
        return int(rng.choice(len(weights), p=np.asarray(weights) / sum(weights)))

    return choose


@pytest.mark.parametrize("name", NAMES)
def test_choices_of_a_cell_give_it_again(name: str) -> None:
    space, rng = load_space(name), np.random.default_rng(2)
    for cell in [*(space.sample(rng) for _ in range(5)), *map(zoo, space.claims[:3])]:
        choices = space.choices(cell)
        assert all(c.weights[c.chosen] > 0 for c in choices)
        assert all(len(c.weights) <= space.sites[c.site] for c in choices)
        again = replay(space, cell)
        assert again is not None
        assert again.digest == cell.digest


@pytest.mark.parametrize("name", NAMES)
def test_walks_by_weight_give_members_that_differ(name: str) -> None:
    space, rng = load_space(name), np.random.default_rng(3)
    made = [cell for _ in range(60) if (cell := space.walk(by_weight(rng))) is not None][:8]
    assert all(cell in space for cell in made)
    assert len({cell.digest for cell in made}) > 4


def test_a_walk_into_a_dead_end_gives_no_cell() -> None:
    space = load_space("gated")
    last = space.walk(lambda site, weights: max(i for i, w in enumerate(weights) if w))
    assert last is None or last in space
    assert space.walk(lambda site, weights: int(site == "plan")) is None  # a let that nothing uses


def test_only_members_have_choices() -> None:
    with pytest.raises(NotAMemberError, match="not a member of space gated"):
        load_space("gated").choices(zoo("mlstm"))
