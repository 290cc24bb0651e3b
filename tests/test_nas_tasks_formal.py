"""Formal languages: the answers are right, the strings have the lengths that are meant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from nas.errors import TaskError
from nas.tasks import Batch, Split, load_task
from nas.tasks.formal import FormalTask, ModularArithmetic, Parity

ARITHMETIC = "01234+-*"


def formal(name: str, size: str = "search") -> FormalTask:
    task = load_task(name, size=size)
    assert isinstance(task, FormalTask)
    return task


def strings(batch: Batch, symbols: str) -> list[str]:
    """The strings of a batch, without the symbol that asks."""
    assert batch.lengths is not None
    return [
        "".join(symbols[i] for i in row[: length - 1].argmax(dim=-1).tolist())
        for row, length in zip(batch.x, batch.lengths.tolist(), strict=True)
    ]


def modulo_five(text: str) -> int:
    """The value of an expression modulo 5 by school rules, term by term."""
    total = 0
    for sign, product in re.findall(r"(^|[+-])([\d*]+)", text):
        value = 1
        for digit in product.split("*"):
            value *= int(digit)
        total += -value if sign == "-" else value
    return total % 5


@pytest.mark.parametrize("size", ["smoke", "search"])
def test_parity_answers(size: str) -> None:
    task = formal("parity", size)
    for batch in [
        *itertools.islice(task.train_batches(np.random.default_rng(0)), 50),
        *task.eval_batches("test"),
    ]:
        assert [text.count("1") % 2 for text in strings(batch, "01")] == batch.y.tolist()


@pytest.mark.parametrize("size", ["smoke", "search"])
def test_arithmetic_answers(size: str) -> None:
    task = formal("modular_arithmetic", size)
    for batch in [
        *itertools.islice(task.train_batches(np.random.default_rng(0)), 50),
        *task.eval_batches("test"),
    ]:
        texts = strings(batch, ARITHMETIC)
        assert all(re.fullmatch(r"\d([+*-]\d)*", text) for text in texts)
        assert [modulo_five(text) for text in texts] == batch.y.tolist()


def few(name: str) -> Iterator[Batch]:
    """Batches of all lengths, for training and of the test."""
    task = formal(name)
    drawn = itertools.islice(task.train_batches(np.random.default_rng(0)), 0, 1_200, 60)
    return itertools.chain(drawn, itertools.islice(task.eval_batches("test"), 0, 60, 6))


def test_even_pairs_answers() -> None:
    for batch in few("even_pairs"):
        texts = strings(batch, "01")
        pairs = [sum(a != b for a, b in itertools.pairwise(text)) for text in texts]
        assert [count % 2 for count in pairs] == batch.y.tolist()


def test_cycle_answers() -> None:
    for batch in few("cycle_navigation"):
        texts = strings(batch, "0+-")
        assert [(text.count("+") - text.count("-")) % 5 for text in texts] == batch.y.tolist()


def test_products_of_permutations() -> None:
    every = list(itertools.permutations(range(5)))
    symbols = "".join(map(chr, range(120)))
    for batch in few("s5"):
        for text, answer in zip(strings(batch, symbols), batch.y.tolist(), strict=True):
            things = list(range(5))
            for symbol in text:
                things = [every[ord(symbol)][thing] for thing in things]
            assert tuple(things) == every[answer]


def test_brackets_answers() -> None:
    deepest = 0
    for batch in few("dyck"):
        for text, answer in zip(strings(batch, "([)]"), batch.y.tolist(), strict=True):
            closed = text
            while closed != (closed := closed.replace("()", "").replace("[]", "")):
                pass
            assert closed
            assert set(closed) <= {"(", "["}, text
            assert "(["[answer] == closed[-1]
            deepest = max(deepest, len(closed))
    assert deepest >= 10


def test_precedence_and_signs_by_hand() -> None:
    assert [modulo_five(text) for text in ("1+2*3", "2*3-4", "0-1", "4*4*4-2", "3")] == [2, 2, 4, 2, 3]


@pytest.mark.parametrize("name", ["parity", "modular_arithmetic", "dyck"])
def test_each_string_ends_with_the_symbol_that_asks(name: str) -> None:
    task = formal(name)
    for batch in task.eval_batches("valid"):
        assert batch.lengths is not None
        for row, length in zip(batch.x, batch.lengths.tolist(), strict=True):
            assert torch.equal(row[:length].sum(dim=-1), torch.ones(length))
            assert int(row[length - 1].argmax()) == task.symbols
            assert float(row[: length - 1, task.symbols].sum()) == 0
            assert float(row[length:].abs().sum()) == 0


@pytest.mark.parametrize(("name", "step"), [("parity", 1), ("modular_arithmetic", 2)])
def test_lengths_of_the_splits(name: str, step: int) -> None:
    task = formal(name)
    wanted: dict[Split, range] = {"valid": range(20, 41), "test": range(41, 101)}
    for split, lengths in wanted.items():
        found: list[int] = []
        for batch in task.eval_batches(split):
            assert batch.lengths is not None
            found += (batch.lengths - 1).tolist()
        odd = [length for length in lengths if step == 1 or length % 2 == 1]
        assert sorted(found) == sorted(odd * task.scored)


@pytest.mark.parametrize("name", ["parity", "modular_arithmetic"])
def test_training_lengths_grow_to_the_longest(name: str) -> None:
    task = formal(name)
    steps = task.recipe.steps
    lengths = [
        b.x.shape[1] - 1 for b in itertools.islice(task.train_batches(np.random.default_rng(0)), steps)
    ]
    assert max(lengths[: steps // 10]) < 10
    assert max(lengths) in (39, 40)
    assert min(lengths[steps // 2 :]) < 10


def test_a_formal_language_takes_no_data() -> None:
    for cls in (Parity, ModularArithmetic):
        with pytest.raises(
            TaskError, match=rf"task {cls.name} makes its own data and takes none, got book\.txt"
        ):
            load_task(cls.name, data="book.txt")
