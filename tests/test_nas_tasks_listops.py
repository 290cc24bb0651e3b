"""ListOps: expressions read back by an independent reader, their parse, their lengths and their law."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from torch import Tensor

from nas.errors import TaskError
from nas.tasks import Split, load_task
from nas.tasks.listops import DEEPEST, TOKENS, ListOps, written

SPLITS: tuple[Split, ...] = ("valid", "test")


def task(size: str = "search") -> ListOps:
    made = load_task("listops", size=size)
    assert isinstance(made, ListOps)
    return made


def value(text: str) -> int:
    """The value of a written expression, read from the inside out."""
    words = text.split()
    while len(words) > 1:
        end = words.index("]")
        start = max(k for k in range(end) if words[k].startswith("["))
        own = sorted(int(word) for word in words[start + 1 : end])
        middle = (own[(len(own) - 1) // 2] + own[len(own) // 2]) // 2
        result = {"[MAX": own[-1], "[MIN": own[0], "[MED": middle, "[SM": sum(own) % 10}[words[start]]
        words[start : end + 1] = [str(result)]
    return int(words[0])


def bracketed(tokens: list[int], tree: Tensor) -> str:
    """The parse as the published data write it."""
    nodes = [TOKENS[token] for token in tokens]
    nodes += [""] * (tree.shape[0] + 1 - len(nodes))  # a shorter expression: what pads it is never named
    for left, right in tree[: len(tokens) - 1].tolist():
        nodes.append(f"( {nodes[left]} {nodes[right]} )")
    return nodes[-1]


def published(text: str) -> str:
    """The same from the text alone: brackets from left to right within each list."""
    stack: list[str] = []
    for word in text.split():
        if word.startswith("["):
            stack.append(word)
            continue
        item = word
        while True:
            if not stack:
                return item
            joined = f"( {stack.pop()} {item} )"
            if item != "]" and not item.endswith(" ] )"):
                stack.append(joined)
                break
            if item == "]":
                item = joined
                continue
            stack.append(joined)
            break
    raise AssertionError(f"{text} does not end")


def test_values_and_parses() -> None:
    batch = task().batch([5, 23, 4, 17, 30, 11] * 20, np.random.default_rng(0))
    assert batch.lengths is not None
    assert batch.tree is not None
    for x, y, length, tree in zip(
        batch.x.tolist(), batch.y.tolist(), batch.lengths.tolist(), batch.tree, strict=True
    ):
        text = written(x[:length])
        assert len(text.split()) == length
        assert value(text) == y
        assert bracketed(x[:length], tree) == published(text)
        assert int(np.max(np.cumsum([(w[0] == "[") - (w == "]") for w in text.split()]))) <= DEEPEST


def test_the_published_form() -> None:
    assert published("[MAX 2 [MIN 4 7 ] 0 ]") == "( ( ( ( [MAX 2 ) ( ( ( [MIN 4 ) 7 ) ] ) ) 0 ) ] )"
    assert value("[MAX 2 9 [MIN 4 7 ] 0 ]") == 9
    assert value("[MED 1 8 [SM 9 9 ] ]") == 8
    assert value("[MED 1 4 ]") == 2


def test_short_expressions_are_as_likely_as_they_should_be() -> None:
    """Of 7 tokens: five digits, or a list of 4 tokens beside one digit; counted by the published generator's law."""
    rng = np.random.default_rng(1)
    shapes: Counter[str] = Counter()
    for _ in range(40):
        batch = task().batch([7] * 100, rng)
        shapes.update(
            "".join("[" if 10 <= t < 14 else "]" if t == 14 else "d" for t in row) for row in batch.x.tolist()
        )
    # (3/4)^5 for five digits; twice 1/4 * 3/4 * 1/4 * (3/4)^2 for a nested pair, on either side; number of arguments
    # is uniform in 2..5, so both have that factor once more
    flat, nested = 0.75**5, 0.25 * 0.75 * 0.25 * 0.75**2
    wanted = {"[ddddd]": flat, "[[dd]d]": nested, "[d[dd]]": nested}
    assert set(shapes) == set(wanted)
    total = sum(wanted.values())
    for shape, weight in wanted.items():
        share = weight / total
        assert shapes[shape] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


def test_lengths_of_training_and_evaluation() -> None:
    made = task("smoke")
    longest = made.recipe.sequence_length
    batches = made.train_batches(np.random.default_rng(0))
    seen = {int(length) for _ in range(200) for length in next(batches).lengths}  # type: ignore[union-attr]
    assert seen == set(range(4, longest + 1))
    for split in SPLITS:
        counts = Counter(int(k) for batch in made.eval_batches(split) for k in batch.lengths)  # type: ignore[union-attr]
        assert counts == dict.fromkeys(range(4, longest + 1), made.scored)


def test_it_makes_its_own_data() -> None:
    with pytest.raises(TaskError, match=r"task listops makes its own data and takes none, got x\.txt"):
        load_task("listops", data="x.txt")
