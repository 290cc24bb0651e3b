"""Sequences as rows: all steps of all sequences under each other, the first step of all first.

This is the layout of torch's PackedSequence. Without padding there is nothing to mask: no value and no gradient of a
step that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CPU = torch.device("cpu")  # places of rows are computed there, whatever the default device is


class Steps:
    """How many sequences are running at each step: `sizes`, which never grow. The longest sequence comes first.

    Rows are `[sum(sizes), ...]`; where all sequences are equally long, that is `[T * B, ...]`. `by_sequence` says that
    they are `[B * T, ...]` instead, sequence by sequence, which only a FlexibleRunner understands.
    """

    by_sequence = False

    def __init__(self, sizes: Sequence[int]) -> None:
        self._known: dict[str, Tensor] = {}
        self.sizes = tuple(sizes)
        self.count = len(self.sizes)
        self.batch = self.sizes[0]
        self.rows = sum(self.sizes)
        self.even = self.sizes[-1] == self.batch

    @staticmethod
    def same(batch: int, count: int, by_sequence: bool = False) -> Steps:
        """The steps of sequences that are all `count` long."""
        return _Same(batch, count, by_sequence)

    def split(self, value: Tensor) -> Sequence[Tensor]:
        """The rows of each step, `[sizes[t], ...]`."""
        if self.even:
            return value.view(self.count, self.batch, *value.shape[1:]).unbind(0)
        return torch.split(value, list(self.sizes))

    def last(self, value: Tensor) -> Tensor:
        """The row of the last step of each sequence, `[B, ...]`."""
        if self.even:
            return value[-self.batch :]
        return value[self._row(self._lengths - 1, torch.arange(self.batch, device=CPU), 0).to(value.device)]

    def lag(self, value: Tensor, window: Tensor, by: int) -> Tensor:
        """Each row's value `by` steps earlier, taken from `window` `[B, steps, ...]` before the first step."""
        whole = self._extended(value, window)
        steps = window.shape[1]
        if self.even:
            return whole.narrow(0, (steps - by) * self.batch, self.rows)
        return whole[self._row(self._times - by, self._places, steps).to(value.device)]

    def tail(self, value: Tensor, window: Tensor) -> Tensor:
        """The window after the last step of each sequence: its last values, `[B, steps, ...]`."""
        whole = self._extended(value, window)
        steps = window.shape[1]
        if self.even:
            kept = whole[-steps * self.batch :]
            return kept.view(steps, self.batch, *value.shape[1:]).transpose(0, 1)
        times = self._lengths[:, None] - steps + torch.arange(steps, device=CPU)
        places = torch.arange(self.batch, device=CPU)[:, None].expand_as(times)
        return whole[self._row(times, places, steps).to(value.device)]

    def reverse(self, value: Tensor) -> Tensor:
        """Each sequence backwards."""
        if self.even:
            return value.view(self.count, self.batch, *value.shape[1:]).flip(0).reshape(value.shape)
        times = self._lengths[self._places] - 1 - self._times
        return value[self._row(times, self._places, 0).to(value.device)]

    def pad(self, value: Tensor) -> Tensor:
        """The rows as `[B, T, ...]`, zero where a sequence has ended."""
        if self.even:
            return value.view(self.count, self.batch, *value.shape[1:]).transpose(0, 1)
        padded = value.new_zeros(self.batch, self.count, *value.shape[1:])
        return padded.index_put((self._places.to(value.device), self._times.to(value.device)), value)

    def unpad(self, padded: Tensor) -> Tensor:
        """The rows of `[B, T, ...]`."""
        if self.even:
            return padded.transpose(0, 1).reshape(self.rows, *padded.shape[2:])
        return padded[self._places.to(padded.device), self._times.to(padded.device)]

    def times(self, device: torch.device) -> Tensor:
        """The step of each row, `[rows]`, from 0."""
        return self._times.to(device)

    def running(self, device: torch.device) -> Tensor:
        """Whether a sequence is still running at a step, `[B, T]`."""
        return (torch.arange(self.count, device=CPU) < self._lengths[:, None]).to(device)

    def _extended(self, value: Tensor, window: Tensor) -> Tensor:
        past = window.transpose(0, 1).reshape(-1, *window.shape[2:])
        return torch.cat([past.to(value.dtype), value])

    def _row(self, times: Tensor, places: Tensor, steps: int) -> Tensor:
        """Rows in a value that a window of `steps` steps precedes; negative times lie in the window."""
        inside = steps * self.batch + self._offsets[times.clamp(min=0)] + places
        return torch.where(times < 0, (steps + times) * self.batch + places, inside)

    @property
    def _offsets(self) -> Tensor:
        return self._once("offsets", lambda: torch.tensor([0, *self.sizes], device=CPU).cumsum(0)[:-1])

    @property
    def _times(self) -> Tensor:
        times = torch.arange(self.count, device=CPU)
        if self.even:
            return times.repeat_interleave(self.batch)
        return self._once("times", lambda: times.repeat_interleave(torch.tensor(self.sizes, device=CPU)))

    @property
    def _places(self) -> Tensor:
        if self.even:
            return torch.arange(self.batch, device=CPU).repeat(self.count)
        return self._once("places", lambda: torch.cat([torch.arange(n, device=CPU) for n in self.sizes]))

    @property
    def _lengths(self) -> Tensor:
        sequences = torch.arange(self.batch, device=CPU)
        return self._once(
            "lengths", lambda: (torch.tensor(self.sizes, device=CPU)[:, None] > sequences).sum(0)
        )

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What is computed once. No `cached_property`: in Python 3.11 it has a lock, which torch does not trace."""
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]


class _Same(Steps):
    """Equally long sequences; sizes may be symbols while torch traces."""

    def __init__(self, batch: int, count: int, by_sequence: bool) -> None:
        self._known = {}
        self.batch, self.count, self.rows, self.even = batch, count, batch * count, True
        self.by_sequence = by_sequence

    @property
    def sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.batch,) * self.count
