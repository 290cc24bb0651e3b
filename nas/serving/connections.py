"""Connections of uvicorn that end where the head of a request does not come: uvicorn itself waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def timed_protocol(base: Any, seconds: float) -> type[asyncio.Protocol]:
    """The protocol of HTTP `base` of uvicorn, for `uvicorn.Config(http=...)`, with an end to waiting.

    A connection is closed, with a 408, `seconds` after it was opened, or after the first byte of a further request, if
    the headers of the request are not complete by then. Between requests uvicorn's own `timeout_keep_alive` counts.
    """

    class Timed(base):  # type: ignore[misc]  # of no known type: uvicorn need not be installed
        """One connection."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Let time run while a head is awaited: more bytes of the same give it no more time."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._late is None:
                self._late = self.loop.call_later(seconds, self._end)

        def _stop(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _end(self) -> None:
            self._late = None
            if not self.transport.is_closing():
                self.transport.write(_LATE)
                self.transport.close()

    return Timed
