from __future__ import annotations

import numpy as np
import pytest

from grammar import parse, zoo
from search_spaces import Motif, NoCellError, NotAMemberError, load_space

GATED = load_space("gated")
LSTM = zoo("lstm")


def motif(text: str) -> Motif:
    return next(m for m in GATED.motifs(LSTM) if m.text == text)


def test_parts_have_their_names_left_open() -> None:
    found = {m.text: m.size for m in GATED.motifs(LSTM)}
    assert found["sigmoid(lin(x, _))"] == 2
    assert found["sigmoid(lin(x, _)) * tanh(lin(x, _))"] == 5
    assert all(2 <= size <= 8 for size in found.values())


@pytest.mark.parametrize("name", ["gated", "diagonal"])
def test_grafts_are_members_that_have_the_motif(name: str) -> None:
    space, rng = load_space(name), np.random.default_rng(1)
    cells = [space.sample(rng) for _ in range(6)]
    made = 0
    for giver, taker in zip(cells, cells[1:], strict=False):
        for wanted in sorted(space.motifs(giver) - space.motifs(taker), key=lambda m: m.order)[:3]:
            try:
                child = space.graft(taker, wanted, rng)
            except NoCellError:
                continue
            made += 1
            assert child.cell in space
            assert child.operator == "motif"
            assert child.parents == (taker,)
    assert made > 6


def test_a_motif_gets_a_name_and_is_used_under_it() -> None:
    gru, rng = zoo("gru"), np.random.default_rng(0)
    texts = [str(GATED.graft(gru, motif("sigmoid(lin(x, _))"), rng).cell) for _ in range(40)]
    assert any("g1 = sigmoid(lin(x" in text for text in texts)
    assert any(text.count("g1") == 3 for text in texts)


def test_the_same_generator_gives_the_same_graft() -> None:
    wanted = motif("sigmoid(lin(x, _))")
    first, again = (GATED.graft(zoo("gru"), wanted, np.random.default_rng(5)) for _ in range(2))
    assert first == again


def test_what_cannot_be_grafted_is_said() -> None:
    rng, wanted = np.random.default_rng(0), motif("sigmoid(lin(x, _))")
    stranger = parse("cell c { state h: vec; h' = exp(lin(x, h)); out h' }")
    with pytest.raises(NotAMemberError, match="not a member of space gated"):
        GATED.graft(stranger, wanted, rng)
    sketches = load_space("darts_rnn")
    assert not sketches.motifs(sketches.sample(rng))
    with pytest.raises(NoCellError, match=r"space darts_rnn has no motifs; received sigmoid\(lin\(x, _\)\)"):
        sketches.graft(sketches.sample(rng), wanted, rng)
