from __future__ import annotations

import asyncio

import pytest

from nas.serving import BusyError, Desk, Limits


class Fake:
    """An encoder that answers in capitals, once it may; texts with "bad" in them end it."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.told: list[bytes] = []
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self, texts: list[str], others: list[bytes]) -> list[bytes]:
        self.asked.append(texts)
        self.told += others
        await asyncio.sleep(0)
        await self.may.wait()
        if any("bad" in text for text in texts):
            raise RuntimeError("the process is gone")
        return [text.upper().encode() for text in texts]


def test_answers_are_remembered_and_asked_for_once() -> None:
    async def scenario() -> None:
        fake = Fake()
        desk = Desk([fake], Limits())
        first, second = await asyncio.gather(desk.answers(["a", "b", "a"]), desk.answers(["b"]))
        assert (first, second) == ([b"A", b"B", b"A"], [b"B"])
        assert await desk.answers(["b", "c"]) == [b"B", b"C"]
        assert sorted(text for texts in fake.asked for text in texts) == ["a", "b", "c"]
        assert desk.state() == {"kept": 3, "waiting": 0, "encoders": 1}
        await desk.close()

    asyncio.run(scenario())


def test_known_cells_do_not_wait_for_new_ones() -> None:
    async def scenario() -> None:
        fake = Fake()
        desk = Desk([fake], Limits())
        await desk.answers(["a"])
        fake.may.clear()
        slow = asyncio.create_task(desk.answers(["new"]))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert await desk.answers(["a"]) == [b"A"]
        assert not slow.done()
        fake.may.set()
        assert await slow == [b"NEW"]
        await desk.close()

    asyncio.run(scenario())


def test_one_bad_text_spoils_no_others() -> None:
    async def scenario() -> None:
        fake = Fake()
        desk = Desk([fake], Limits())
        good, bad, other = await desk.answers(["a", "bad", "c"])
        assert (good, other) == (b"A", b"C")
        assert b"the process that encoded this cell ended" in bad
        assert desk.state()["kept"] == 2  # it may do better another time
        assert b"ended" in (await desk.answers(["bad"]))[0]
        await desk.close()

    asyncio.run(scenario())


def test_too_many_or_too_slow() -> None:
    async def scenario() -> None:
        fake = Fake()
        fake.may.clear()
        desk = Desk([fake], Limits(waiting=10, answer_seconds=0.05))
        with pytest.raises(BusyError, match="1 cells have no answer after"):
            await desk.answers(["slow"])
        first = asyncio.create_task(desk.answers([f"t{i}" for i in range(10)]))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="10 cells wait to be encoded, and at most 10 may"):
            await desk.answers(["more"])
        fake.may.set()
        assert len(await first) == 10
        assert await desk.answers(["slow"]) == [b"SLOW"]
        await desk.close()

    asyncio.run(scenario())


def test_encoders_share_what_waits() -> None:
    async def scenario() -> None:
        fakes = [Fake(), Fake()]
        desk = Desk(fakes, Limits(kept=5))
        texts = [str(i) for i in range(30)]
        assert await desk.answers(texts) == [text.encode() for text in texts]
        assert all(sum(map(len, fake.asked)) >= 8 for fake in fakes)
        assert max(len(batch) for fake in fakes for batch in fake.asked) == 8
        assert desk.state()["kept"] == 5
        for fake, other in (fakes, fakes[::-1]):  # each hears of what the other answered
            await desk.answers([f"more{i}" for i in range(20)] if not fake.told else [])
            assert {answer.decode() for answer in fake.told} <= {
                text.upper() for t in other.asked for text in t
            }
        assert all(fake.told for fake in fakes)
        await desk.close()

    asyncio.run(scenario())
