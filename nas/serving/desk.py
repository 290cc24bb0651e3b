"""Remembers answers and hands new texts to encoders, so that who asks for a known cell waits for nobody's new one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence

from nas.errors import ServingError
from nas.serving.answers import fault
from nas.serving.limits import Limits

Encoder = Callable[[list[str], list[bytes]], Awaitable[list[bytes]]]
"""Texts, and what other encoders answered lately, to answers for the texts."""

TOGETHER = 8  # texts that an encoder gets at once
TOLD = 2_000  # answers that an encoder is told of at most, of those that others gave since it was asked last

_LOST = fault(
    "the process that encoded this cell ended: the cell is too large for it, or the machine is in need"
)
_log = logging.getLogger(__name__)


class BusyError(ServingError):
    """More cells wait than may, or they took too long: the same request may do better later."""


class Desk:
    """Answers to texts of cells, of one event loop: from memory, or from the first of `encoders` that is free.

    A text that is asked for twice at a time is encoded once. The last `limits.kept` answers are remembered by the hash
    of the text; encoders remember them by digest, also those of each other. An encoder that raises gave no answer: its
    texts are told so, and another try is made when they come again.
    """

    def __init__(self, encoders: Sequence[Encoder], limits: Limits) -> None:
        self.limits = limits
        self._encoders = encoders
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[bytes]] = {}
        self._waiting: deque[tuple[bytes, str]] = deque()
        self._news = asyncio.Event()
        self._at_work: list[asyncio.Task[None]] = []
        self._untold: list[deque[bytes]] = [deque(maxlen=TOLD) for _ in encoders]

    async def answers(self, texts: Sequence[str]) -> list[bytes]:
        """One answer for each text, in their order. Raises BusyError."""
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        new = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._kept and k not in self._asked}
        if len(self._waiting) + len(new) > self.limits.waiting:
            raise BusyError(
                f"{len(self._waiting)} cells wait to be encoded, and at most {self.limits.waiting} may: ask again later"
            )
        self._hand_in(new)
        for key in keys:
            if key in self._kept:
                self._kept.move_to_end(key)
        found = [self._kept[key] if key in self._kept else self._asked[key] for key in keys]
        pending = {answer for answer in found if isinstance(answer, asyncio.Future)}
        if pending:
            _, late = await asyncio.wait(pending, timeout=self.limits.answer_seconds)
            if late:
                raise BusyError(
                    f"{len(late)} cells have no answer after {self.limits.answer_seconds:g} seconds; they stay in the "
                    "queue: ask again later"
                )
        return [answer.result() if isinstance(answer, asyncio.Future) else answer for answer in found]

    def state(self) -> dict[str, int]:
        """How many answers are remembered, and how many texts wait for an encoder."""
        return {"kept": len(self._kept), "waiting": len(self._waiting), "encoders": len(self._encoders)}

    async def close(self) -> None:
        """End the work that is under way."""
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        self._at_work = []

    def _hand_in(self, new: dict[bytes, str]) -> None:
        loop = asyncio.get_running_loop()
        for key, text in new.items():
            self._asked[key] = loop.create_future()
            self._waiting.append((key, text))
        if not self._at_work:
            self._at_work = [loop.create_task(self._work(number)) for number in range(len(self._encoders))]
        if new:
            self._news.set()

    async def _work(self, number: int) -> None:
        """Hand texts to one encoder, as long as there are any: a fair share of what waits, and never many."""
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            share = -(-len(self._waiting) // len(self._encoders))
            batch = [self._waiting.popleft() for _ in range(min(share, TOGETHER))]
            if await self._encode(number, batch):
                continue
            for one in batch:  # one of several is to blame, and the others deserve an answer
                if len(batch) == 1 or not await self._encode(number, [one]):
                    self._answer(one[0], _LOST, keep=False)

    async def _encode(self, number: int, batch: Sequence[tuple[bytes, str]]) -> bool:
        """Whether there were answers; they are given out, and the other encoders will hear of them."""
        others = [*self._untold[number]]
        self._untold[number].clear()
        try:
            answers = await self._encoders[number]([text for _, text in batch], others)
            if len(answers) != len(batch):
                raise ServingError(f"{len(answers)} answers for {len(batch)} texts")
        except Exception as error:
            _log.warning("an encoder gave no answer to %d cells: %s", len(batch), error)
            return False
        for (key, _), answer in zip(batch, answers, strict=True):
            self._answer(key, answer, keep=True)
            for other, untold in enumerate(self._untold):
                if other != number:
                    untold.append(answer)
        return True

    def _answer(self, key: bytes, answer: bytes, keep: bool) -> None:
        if keep:
            self._kept[key] = answer
            while len(self._kept) > self.limits.kept:
                self._kept.popitem(last=False)
        self._asked.pop(key).set_result(answer)
