"""Connections of uvicorn that keep nobody else out: what a client may leave undone, and for how long.

Uvicorn itself waits for ever for the head of a request, takes heads of any length, and answers nobody while
too many connections are open, whoever opened them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

MOST_HEAD = 1 << 16  # bytes of the head of a request


def _closing(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()


_LATE = _closing("408 Request Timeout")
_LONG = _closing("431 Request Header Fields Too Large")
_FULL = _closing("503 Service Unavailable")


@dataclass
class _Room:
    """The connections that let a server wait, in the order in which they began to."""

    strangers: dict[_Timed, None] = field(default_factory=dict)  # those that have had no answer yet
    guests: dict[_Timed, None] = field(default_factory=dict)  # those that have

    def longest(self, but: _Timed) -> _Timed | None:
        """The one to close for another, `but`."""
        return next((one for one in chain(self.strangers, self.guests) if one is not but), None)


class _Timed(asyncio.Protocol):
    """One connection: put before a protocol of uvicorn, which has what is named here without a value."""

    seconds: float
    most: int
    room: _Room
    cycle: Any
    connections: set[Any]
    loop: asyncio.AbstractEventLoop
    transport: Any
    flow: Any
    pipeline: Any = ()  # whole requests that wait for the answers before them; h11 has none, and reads no further
    _late: asyncio.TimerHandle | None = None
    _head = 0  # bytes that came since a head was awaited
    _begun = False  # whether a further head has begun to come, maybe while a request is being answered
    _answered = False
    _unread = False  # whether answers pile up

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()
        while len(self.connections) > self.most:
            other = self.room.longest(self)
            if other is None:
                break
            other.leave()

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        self._watch_head()

    def on_message_begin(self) -> None:
        self._begun = True
        super().on_message_begin()  # type: ignore[misc]  # of uvicorn with httptools, as the next one

    def on_headers_complete(self) -> None:
        self._begun = False
        self._head = 0
        super().on_headers_complete()  # type: ignore[misc]

    def on_response_complete(self) -> None:
        self._answered = True
        self._forget()  # what it is waited for next begins now
        super().on_response_complete()  # type: ignore[misc]  # of uvicorn
        if self.pipeline:
            self.flow.pause_reading()  # uvicorn reads on with each answer, and keeps all that comes
        if self._begun:
            self._watch_head()
        else:
            self._watch_room()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = True
        self._watch_room()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = False
        self._watch_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._forget()
        super().connection_lost(exc)

    def leave(self) -> None:
        """Make room for another connection."""
        self._stop()
        self._forget()
        self.connections.discard(self)
        if self._awaits_head() and not self.transport.get_write_buffer_size():
            self._end(_FULL)
        else:
            self.transport.abort()

    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch_head(self) -> None:
        """Let no head take too long, nor be too long."""
        self._watch()
        if self._head > MOST_HEAD and self._awaits_head():
            self._end(_LONG)
        elif self._head > MOST_HEAD:
            self.flow.pause_reading()  # until what came before is answered

    def _watch(self) -> None:
        """Let time run while a head is awaited: more bytes of the same give it no more time."""
        if not self._awaits_head():
            if not self._begun:
                self._head = 0
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(self.seconds, self._end, _LATE)
        self._watch_room()

    def _watch_room(self) -> None:
        """Note since when the client lets the server wait."""
        # Where others wait before the last request, its body is not what the server waits for.
        waits = self._awaits_head() or (self.cycle.more_body and not self.pipeline) or self._unread
        if self.transport.is_closing() or not waits:
            self._forget()
        elif self not in self.room.strangers and self not in self.room.guests:
            (self.room.guests if self._answered else self.room.strangers)[self] = None

    def _forget(self) -> None:
        self.room.strangers.pop(self, None)
        self.room.guests.pop(self, None)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self, answer: bytes) -> None:
        self._stop()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


def timed_protocol(base: Any, seconds: float, most: int) -> type[asyncio.Protocol]:
    """The protocol of HTTP `base` of uvicorn, for `uvicorn.Config(http=...)`, with an end to waiting for clients.

    A connection is closed, with a 408, `seconds` after it was opened, or after the first byte of a further request, if
    the headers of the request are not complete by then; with a 431 where they are longer than MOST_HEAD. Between
    requests uvicorn's own `timeout_keep_alive` counts. Of requests that come before the answer to one, what is read at
    once is answered in order, and no more is read until then; the time of one that has begun runs from then on.

    Of more than `most` connections, the one that has let the server wait longest is closed, for the rest of a request
    or for an answer to be read: first of those that have had no answer yet. Where all are being answered, none is.
    """
    return type("Timed", (_Timed, base), {"seconds": seconds, "most": most, "room": _Room()})
