"""Recall: answers found again by a slow reader of each sequence, at the steps of the mask and no other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from nas.errors import TaskError
from nas.tasks import Batch, load_task
from nas.tasks.recall import FuzzyRecall, MultiQueryRecall, RecallTask
from nas.training import TrialSpec, train

NAMES = ("mqar", "selective_copying", "copying", "fuzzy_recall")
GRU = "cell small { state h: vec; z = sigmoid(lin(x)); h' = lerp(z, h, lin(x)); out h' }"


def recall(name: str, size: str = "search") -> RecallTask:
    task = load_task(name, size=size)
    assert isinstance(task, RecallTask)
    return task


def drawn(task: RecallTask, length: int, count: int = 3) -> list[Batch]:
    """Training batches of sequences of a length, from where the curriculum has reached it."""
    shaped = task.with_recipe(task.recipe.replace(sequence_length=length, batch_size=16, steps=10))
    batches = itertools.islice(shaped.train_batches(np.random.default_rng(length)), 6, None)
    return list(itertools.islice((batch for batch in batches if batch.x.shape[1] == length), count))


def read(batch: Batch) -> Iterator[tuple[list[int], dict[int, int]]]:
    """The tokens of each sequence, and the answer at each step that is asked for."""
    assert batch.mask is not None
    for x, y, mask in zip(batch.x.tolist(), batch.y.tolist(), batch.mask.tolist(), strict=True):
        yield x, {step: answer for step, (answer, asked) in enumerate(zip(y, mask, strict=True)) if asked}


def copied(tokens: list[int]) -> dict[int, int]:
    """Copying of both kinds: the tokens below 8 in order, at as many last steps."""
    told = [token for token in tokens if token < 8]
    return dict(enumerate(told, start=len(tokens) - len(told)))


def looked_up(tokens: list[int]) -> dict[int, int]:
    """MQAR: a value stands behind its key at the first sight, and is the answer at the next one."""
    values, answers = dict[int, int](), dict[int, int]()
    for step, token in enumerate(tokens):
        if token >= MultiQueryRecall.keys:
            continue
        if token in values:
            answers[step] = values[token]
        else:
            values[token] = tokens[step + 1] - MultiQueryRecall.keys
    return answers


def looked_up_by_motif(tokens: list[int]) -> dict[int, int]:
    """Fuzzy recall, with a text instead of tokens: runs of keys (k), values (v), blanks (b) and asking steps (a)."""
    keys, outputs = FuzzyRecall.keys, FuzzyRecall.outputs
    kinds = ["k" if t < keys else "v" if t < keys + outputs else "ba"[t - keys - outputs] for t in tokens]
    places = [
        (kind, [step for step, _ in group])
        for kind, group in itertools.groupby(enumerate(kinds), key=lambda item: item[1])
        if kind != "b"
    ]
    values, answers = dict[tuple[int, ...], list[int]](), dict[int, int]()
    for (kind, key), (then, steps) in zip(places[::2], places[1::2], strict=True):
        assert kind == "k"
        motif = tuple(tokens[step] for step in key)
        if then == "v":
            assert motif not in values
            values[motif] = [tokens[step] - keys for step in steps]
        else:
            assert then == "a"
            answers.update(zip(steps, values.pop(motif), strict=True))
    assert not values
    return answers


SLOW = {
    "mqar": looked_up,
    "selective_copying": copied,
    "copying": copied,
    "fuzzy_recall": looked_up_by_motif,
}


@pytest.mark.parametrize("length", [4, 5, 7, 12, 31, 40, 64])
@pytest.mark.parametrize("name", NAMES)
def test_answers(name: str, length: int) -> None:
    for batch in drawn(recall(name), length):
        for tokens, answers in read(batch):
            assert len(tokens) == length
            assert answers
            assert SLOW[name](tokens) == answers


@pytest.mark.parametrize("name", NAMES)
def test_sequences_of_the_splits_have_the_length_of_the_size(name: str) -> None:
    task = recall(name)
    for split in ("valid", "test"):
        batches = list(task.eval_batches(split))
        assert sum(len(batch.x) for batch in batches) == task.scored
        for batch in batches:
            assert batch.x.shape[1] == task.recipe.sequence_length
            assert [SLOW[name](tokens) for tokens, _ in read(batch)] == [
                answers for _, answers in read(batch)
            ]


@pytest.mark.parametrize("name", NAMES)
def test_every_token_and_every_answer_occurs(name: str) -> None:
    task = recall(name)
    batches = drawn(task, 40, 40)
    assert set().union(*(batch.x.unique().tolist() for batch in batches)) == set(range(task.inputs))
    asked = [batch.y[batch.mask].unique().tolist() for batch in batches]
    assert set().union(*asked) == set(range(task.outputs))


@pytest.mark.parametrize("name", NAMES)
def test_steps_that_are_not_asked_for_do_not_count(name: str) -> None:
    task = recall(name)
    (batch,) = drawn(task, 40, 1)
    assert batch.mask is not None
    logits = 20.0 * np.eye(task.outputs, dtype=np.float32)[batch.y]
    other = np.where(batch.mask.numpy()[..., None], logits, -logits)
    for given, wrong in ((logits, 0), (other, 0), (-logits, int(batch.mask.sum()))):
        measured, count = task.measure(batch.x.new_tensor(given, dtype=None).float(), batch)
        assert (int(measured), count) == (wrong, int(batch.mask.sum()))


def test_how_much_is_told() -> None:
    counts = {name: [len(a) for _, a in read(drawn(recall(name), 40, 1)[0])] for name in NAMES}
    assert set(counts["copying"]) == {8}
    assert set(counts["selective_copying"]) == {5}
    assert set(counts["mqar"]) == {5}
    assert min(counts["fuzzy_recall"]) >= 5
    assert max(counts["fuzzy_recall"]) <= 10
    assert {len(a) for _, a in read(drawn(recall("copying"), 90, 1)[0])} == {10}  # as in the paper, at most


def test_copying_asks_just_before_the_answers() -> None:
    for tokens, answers in read(drawn(recall("copying"), 40, 1)[0]):
        assert [step for step, token in enumerate(tokens) if token == 9] == [min(answers) - 1]
        assert tokens[8:31] + tokens[32:] == [8] * 31


def test_near_queries_are_likelier_than_far_ones() -> None:
    steps = np.concatenate(
        [list(answers) for batch in drawn(recall("mqar"), 64, 20) for _, answers in read(batch)]
    )
    assert set(steps % 2) == {0}
    near, far = np.sum(steps < 32), np.sum(steps >= 48)
    assert near > 1.5 * far > 0


def test_motifs_of_each_length_are_equally_likely() -> None:
    lengths = [
        len(answers)
        for length in range(8, 16)  # with one pair each
        for batch in drawn(recall("fuzzy_recall"), length, 4)
        for _, answers in read(batch)
    ]
    assert set(lengths) == {1, 2}
    assert 0.4 < np.mean(np.array(lengths) == 1) < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_at_smoke_size(name: str) -> None:
    task = recall(name, "smoke")
    result = train(TrialSpec(GRU, name, task.recipe.replace(steps=2), size="smoke"), test=True)
    assert result.status == "ok"
    assert result.score is not None
    assert result.test_score is not None
    assert 0 < result.score <= 1
    assert 0 < result.test_score <= 1


@pytest.mark.parametrize("name", NAMES)
def test_recall_takes_no_data(name: str) -> None:
    with pytest.raises(TaskError, match=rf"task {name} makes its own data and takes none, got x\.txt"):
        load_task(name, data="x.txt")
