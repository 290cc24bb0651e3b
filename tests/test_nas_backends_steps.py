"""Sequences as rows, against plain loops over padded ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas.backends import Steps

SHAPES = [
    pytest.param([3, 3, 3, 3], id="even"),
    pytest.param([3, 3, 2, 2, 1], id="uneven"),
    pytest.param([2], id="one"),
]


def lengths(sizes: list[int]) -> list[int]:
    return [sum(size > k for size in sizes) for k in range(sizes[0])]


def numbered(sizes: list[int]) -> list[Tensor]:
    """For each sequence, values `[length, 2]` that tell sequence and step."""
    return [
        torch.stack([torch.full((n,), float(k)), torch.arange(n).float()], 1)
        for k, n in enumerate(lengths(sizes))
    ]


def rows(sequences: list[Tensor], sizes: list[int]) -> Tensor:
    return torch.stack([sequences[k][t] for t, size in enumerate(sizes) for k in range(size)])


@pytest.mark.parametrize("sizes", SHAPES)
def test_split_gives_the_rows_of_each_step(sizes: list[int]) -> None:
    parts = Steps(sizes).split(rows(numbered(sizes), sizes))
    assert [len(part) for part in parts] == sizes
    assert all(bool((part[:, 1] == t).all()) for t, part in enumerate(parts))


@pytest.mark.parametrize("sizes", SHAPES)
def test_last_is_the_end_of_each_sequence(sizes: list[int]) -> None:
    sequences = numbered(sizes)
    expected = torch.stack([s[-1] for s in sequences])
    torch.testing.assert_close(Steps(sizes).last(rows(sequences, sizes)), expected)


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("width", [1, 3])
def test_lag_and_tail_look_back_into_the_window(sizes: list[int], width: int) -> None:
    sequences = numbered(sizes)
    window = -1.0 - torch.rand(sizes[0], width, 2)
    whole = [torch.cat([w, s]) for w, s in zip(window, sequences, strict=True)]
    steps, value = Steps(sizes), rows(sequences, sizes)
    for by in range(1, width + 1):
        expected = rows([w[width - by : len(w) - by] for w in whole], sizes)
        torch.testing.assert_close(steps.lag(value, window, by), expected)
    torch.testing.assert_close(steps.tail(value, window), torch.stack([w[-width:] for w in whole]))


@pytest.mark.parametrize("sizes", SHAPES)
def test_reverse_turns_each_sequence(sizes: list[int]) -> None:
    sequences = numbered(sizes)
    expected = rows([s.flip(0) for s in sequences], sizes)
    torch.testing.assert_close(Steps(sizes).reverse(rows(sequences, sizes)), expected)


@pytest.mark.parametrize("sizes", SHAPES)
def test_pad_and_unpad(sizes: list[int]) -> None:
    sequences, steps = numbered(sizes), Steps(sizes)
    value = rows(sequences, sizes)
    padded = steps.pad(value)
    assert padded.shape == (sizes[0], len(sizes), 2)
    expected = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    torch.testing.assert_close(padded, expected)
    torch.testing.assert_close(steps.unpad(padded), value)
    assert steps.running(torch.device("cpu")).sum(1).tolist() == lengths(sizes)
    assert steps.times(torch.device("cpu")).tolist() == value[:, 1].tolist()
