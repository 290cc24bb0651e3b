from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from nas.serving import Application, Limits
from nas.serving.cluster import _server, listening
from nas.serving.desk import Desk

_GET = b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _with_server(talk: Talk, head_seconds: float) -> None:
    """Talk to a server in this process, over one connection."""
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    limits = Limits(head_seconds=head_seconds)

    async def run() -> None:
        server = _server(Application(Desk([], limits), {}, ""), limits)
        with listening("127.0.0.1", 0) as opened:
            task = asyncio.create_task(server.serve(sockets=[opened]))
            try:
                reader, writer = await asyncio.open_connection(*opened.getsockname())
                async with asyncio.timeout(60):
                    await talk(reader, writer)
                writer.close()
            finally:
                server.should_exit = True
                await task

    asyncio.run(run())


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nhost: h"])
def test_a_head_that_never_ends_ends_the_connection(first: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")  # up to the end of the connection

    _with_server(talk, 0.05)


def test_dripping_bytes_gain_no_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.create_task(reader.read())
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        while not ended.done():
            writer.write(b"a: b\r\n")
            await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionResetError):  # what was on its way makes the end of it one
            assert ended.result().startswith(b"HTTP/1.1 408 ")

    _with_server(talk, 0.1)


def test_after_an_answer_the_next_head_has_its_own_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):  # one connection for both
            writer.write(_GET)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readuntil(b"}") == b'{"status": "ok", "kept": 0, "waiting": 0, "encoders": 0}'
        await asyncio.sleep(0.3)  # longer than a head may take: nothing is awaited between requests
        writer.write(_GET[:20])
        assert b"HTTP/1.1 408 " in await reader.read()

    _with_server(talk, 0.2)
