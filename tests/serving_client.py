"""Requests to an ASGI application in this process, without a server or a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from nas.serving import Application


@dataclass(frozen=True)
class Reply:
    """What the application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as strict JSON."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is no JSON")

        return json.loads(self.body, parse_constant=refuse)


async def request(
    application: Application,
    method: str,
    path: str,
    parts: Iterable[bytes] = (),
    headers: Iterable[tuple[bytes, bytes]] = (),
    ends: bool = True,
) -> Reply | None:
    """One request, whose body comes in `parts`; without `ends` the client stops there and says nothing more."""
    last = [{"type": "http.request", "body": b"", "more_body": False}] if ends else []
    sent: list[MutableMapping[str, Any]] = []
    waiting = chain(({"type": "http.request", "body": part, "more_body": True} for part in parts), last)

    async def receive() -> MutableMapping[str, Any]:
        for message in waiting:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    await application(scope, receive, send)
    if not sent:
        return None
    start, *rest = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], found, b"".join(message["body"] for message in rest))


async def post(application: Application, body: bytes | dict[str, Any]) -> Reply:
    """POST /predict with a body as it is, or as JSON."""
    made = await request(
        application, "POST", "/predict", [body if isinstance(body, bytes) else json.dumps(body).encode()]
    )
    assert made is not None
    return made
