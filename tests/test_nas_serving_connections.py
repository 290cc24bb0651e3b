from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nas.serving import Application, Limits
from nas.serving.cluster import _server, listening
from nas.serving.connections import timed_protocol
from nas.serving.desk import Desk, Encoder

_GET = b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def _with_server(talk: Talk, head_seconds: float) -> None:
    """Talk to a server in this process, over one connection."""

    async def one(connect: Connect) -> None:
        reader, writer = await connect()
        await talk(reader, writer)

    _with_clients(one, Limits(head_seconds=head_seconds))


def _with_clients(
    clients: Callable[[Connect], Awaitable[None]],
    limits: Limits | None = None,
    connections: int = 8,
    encoder: Encoder | None = None,
) -> None:
    """Connect to a server in this process."""
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    limits = limits or Limits()

    async def run() -> None:
        desk = Desk([encoder] if encoder else [], limits)
        server = _server(Application(desk, {}, ""), limits, connections)
        with listening("127.0.0.1", 0) as opened:
            task = asyncio.create_task(server.serve(sockets=[opened]))
            writers: list[asyncio.StreamWriter] = []

            async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                reader, writer = await asyncio.open_connection(*opened.getsockname())
                writers.append(writer)
                return reader, writer

            try:
                async with asyncio.timeout(60):
                    await clients(connect)
            finally:
                for writer in writers:
                    writer.transport.abort()
                server.should_exit = True
                await task
                await desk.close()

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


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes = _GET) -> bytes:
    """The status of one request."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return head.split()[1]


_HEAD = b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-length: 1000\r\n\r\n"


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nhost: h", _HEAD, _HEAD + b"{"])
def test_who_sends_nothing_keeps_nobody_out(first: bytes) -> None:
    async def clients(connect: Connect) -> None:
        kept = await connect()
        assert await _asked(*kept) == b"200"
        silent = []
        for _ in range(40):  # five times as many as there may be
            silent.append(await connect())
            silent[-1][1].write(first)
            await asyncio.sleep(0)
        for _ in range(5):
            fresh = await connect()
            assert await _asked(*fresh) == b"200"
            fresh[1].close()
            assert await _asked(*kept) == b"200"  # who has had an answer stays, before all who have had none
        for reader, _ in silent[:20]:
            with contextlib.suppress(ConnectionResetError):
                assert (await reader.read())[:12] in (b"", b"HTTP/1.1 503")  # closed: the oldest of them

    _with_clients(clients)


def test_a_head_of_any_length_is_not_kept() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /healthz HTTP/1.1\r\na: ")
        with contextlib.suppress(ConnectionResetError):
            for _ in range(20):
                writer.write(b"b" * 10_000)
                await writer.drain()
                await asyncio.sleep(0.01)
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        assert writer.transport.is_closing() or reader.at_eof()

    _with_server(talk, 60)


def test_who_is_being_answered_is_not_closed_for_others() -> None:
    go = asyncio.Event()

    async def encoder(texts: list[str], others: list[bytes]) -> list[bytes]:
        await go.wait()
        return [b"{}" for _ in texts]

    async def clients(connect: Connect) -> None:
        body = b'{"cells": ["c"]}'
        request = b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        at_work = [asyncio.create_task(_asked(*await connect(), request)) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert await _asked(*await connect()) == b"503"
        go.set()
        assert await asyncio.gather(*at_work) == [b"200"] * 3
        assert await _asked(*await connect()) == b"200"

    _with_clients(clients, connections=3, encoder=encoder)


def test_who_does_not_read_answers_makes_room() -> None:
    async def clients(connect: Connect) -> None:
        _, deaf = await connect()
        deaf.write(b"GET /docs HTTP/1.1\r\nhost: here\r\n\r\n" * 2_000)
        while await _asked(*await connect()) != b"200":  # until nothing more fits on its way to the other
            await asyncio.sleep(0.05)

    _with_clients(clients, connections=1)


def test_no_connection_is_taken_out_of_those_that_are_counted() -> None:
    """As uvicorn does with one that becomes a WebSocket, where a library for these is installed."""
    wish = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await _asked(reader, writer, _GET[:-2] + wish + key) == b"200"  # as if there were no such wish

    _with_server(talk, 60)


_ONE = b'{"cells": ["c"]}'
_SLOW = b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%b" % (len(_ONE), _ONE)


def _waiting(go: asyncio.Event) -> Encoder:
    async def encoder(texts: list[str], others: list[bytes]) -> list[bytes]:
        await go.wait()
        return [b'{"slow": 1}' for _ in texts]

    return encoder


def test_requests_of_one_packet_are_answered_in_order() -> None:
    go = asyncio.Event()

    async def clients(connect: Connect) -> None:
        reader, writer = await connect()
        body = b'{"cells": []}'
        last = b"POST /predict HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body[:4])
        writer.write(_SLOW + _GET * 3 + last)
        await asyncio.sleep(0.1)
        writer.write(body[4:])
        go.set()
        for wanted in (
            b'[{"slow": 1}]',
            *[b'{"status": "ok", "kept": 1, "waiting": 0, "encoders": 1}'] * 3,
            b"[]",
        ):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert (await reader.readexactly(length)).strip() == wanted

    _with_clients(clients, encoder=_waiting(go))


def test_a_head_that_began_with_the_request_before_has_its_own_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_GET + _GET[:20])
        answers = await reader.read()  # up to the end of the connection
        assert answers.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in answers

    _with_server(talk, 0.05)


def test_a_long_head_is_not_read_while_the_request_before_is_answered() -> None:
    go = asyncio.Event()

    async def clients(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(_SLOW + b"GET /healthz HTTP/1.1\r\na: ")
        for _ in range(64):  # more than the buffers on the way hold
            writer.write(b"b" * 2**20)
        sent = asyncio.create_task(writer.drain())
        await asyncio.wait({sent}, timeout=0.5)
        assert not sent.done()
        go.set()
        with contextlib.suppress(ConnectionResetError):
            answers = await reader.read()
            assert answers.startswith(b"HTTP/1.1 200 ")
            assert b"HTTP/1.1 431 " in answers
        with contextlib.suppress(ConnectionResetError):
            await sent

    _with_clients(clients, encoder=_waiting(go))


def test_nothing_is_read_while_requests_wait() -> None:
    """Uvicorn reads on with each answer, however many requests it has kept by then."""

    class Flow:
        paused = True

        def pause_reading(self) -> None:
            self.paused = True

        def resume_reading(self) -> None:
            self.paused = False

    closing = SimpleNamespace(is_closing=lambda: True)

    class Base(asyncio.Protocol):
        def __init__(self) -> None:
            self.flow, self.pipeline, self.transport = Flow(), ["third", "second"], closing
            self.cycle = SimpleNamespace(response_complete=False, more_body=False)

        def on_response_complete(self) -> None:
            self.flow.resume_reading()
            self.pipeline.pop()

    protocol: Any = timed_protocol(Base, 1, 1)()
    protocol.on_response_complete()
    assert protocol.flow.paused
    protocol.on_response_complete()
    assert not protocol.flow.paused
