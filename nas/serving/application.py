"""The server as a plain ASGI application: which paths there are, what is read of a request, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from nas.serving.answers import as_json
from nas.serving.desk import BusyError, Desk
from nas.serving.limits import Limits
from nas.serving.pages import docs_page, open_api

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON = "application/json"
_HTML = "text/html; charset=utf-8"
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
# The page of /docs runs its own script and asks this server; nothing else.
_PAGE = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
)


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes
    kind: str = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _RefusedError(Exception):
    """A request that is answered with an error, because of what it is."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.reply = _Reply(status, as_json({"error": message}), headers=headers)


class _GoneError(Exception):
    """The client closed the connection before its request was complete: there is nobody to answer."""


@dataclass(frozen=True)
class Application:
    """`desk` answers; `card` is what the predictor was fitted on; `version` is recell's own.

    An ASGI application without dependencies: any server of such can run it.
    """

    desk: Desk
    card: Mapping[str, Any]
    version: str
    _fixed: dict[str, _Reply] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        described = open_api(self.desk.limits, self.version, self.card)
        page = docs_page(described, self.card).encode()
        self._fixed["/card"] = _Reply(200, as_json(dict(self.card)))
        self._fixed["/openapi.json"] = _Reply(200, as_json(described))
        self._fixed["/docs"] = _Reply(200, page, _HTML, _PAGE)
        self._fixed["/"] = _Reply(307, b"", _HTML, ((b"location", b"/docs"),))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or what else a server asks of an application."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            try:
                reply = await self._reply(scope, receive)
            except _RefusedError as error:
                reply = error.reply
            except _GoneError:
                return
            await _send(reply, scope["method"] == "HEAD", send)

    async def _reply(self, scope: Scope, receive: Receive) -> _Reply:
        path, method = str(scope["path"]), str(scope["method"])
        fixed = self._fixed.get(path)
        if fixed is None and path not in ("/predict", "/healthz"):
            raise _RefusedError(
                404, "there is /predict, /card, /healthz, /openapi.json and /docs, and nothing else"
            )
        allowed = ("POST",) if path == "/predict" else ("GET", "HEAD")
        if method not in allowed:
            raise _RefusedError(405, f"{path} is for {allowed[0]}", (b"allow", ", ".join(allowed).encode()))
        if fixed is not None:
            return fixed
        if path == "/healthz":
            return _Reply(200, as_json({"status": "ok", **self.desk.state()}))
        return await self._predict(scope, receive)

    async def _predict(self, scope: Scope, receive: Receive) -> _Reply:
        texts = cells_of(await _body(scope, receive, self.desk.limits), self.desk.limits)
        try:
            answers = await self.desk.answers(texts)
        except BusyError as error:
            raise _RefusedError(503, str(error), (b"retry-after", b"5")) from error
        return _Reply(200, b"[" + b",\n".join(answers) + b"]\n")


def cells_of(body: bytes, limits: Limits) -> list[str]:
    """The texts in a body. Raises _RefusedError for one that is not of the form, or over the limits."""
    try:
        given = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, f"the body is not JSON in UTF-8: {str(error)[:200]}") from None
    if not isinstance(given, dict) or list(given) != ["cells"] or not isinstance(given["cells"], list):
        raise _RefusedError(400, 'the body has the form {"cells": ["cell ...", ...]}, and no other fields')
    cells = given["cells"]
    if len(cells) > limits.cells:
        raise _RefusedError(413, f"a request has at most {limits.cells} cells; received {len(cells)}")
    for place, text in enumerate(cells):
        if not isinstance(text, str):
            raise _RefusedError(400, f"each of the cells is a text; cells[{place}] is none")
        if len(text) > limits.text:
            raise _RefusedError(
                413, f"a cell has at most {limits.text} characters; cells[{place}] has {len(text)}"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _RefusedError(400, f"cells[{place}] has a surrogate without its partner") from None
    return cells


async def _body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The body of a request. Raises _RefusedError for one that is too large, too slow, or compressed."""
    headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
    close = (b"connection", b"close")  # what is left of the body is not read
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise _RefusedError(415, "a body is not compressed", close)
    too_large = _RefusedError(413, f"a body has at most {limits.body} bytes", close)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > 18 or int(length) > limits.body):
        raise too_large
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(limits.body_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.body:
                    raise too_large
                more = message.get("more_body", False)
    except TimeoutError:
        raise _RefusedError(
            408, f"the body did not arrive within {limits.body_seconds:g} seconds", close
        ) from None
    return b"".join(parts)


async def _send(reply: _Reply, head: bool, send: Send) -> None:
    headers = [
        (b"content-type", reply.kind.encode()),
        (b"content-length", str(len(reply.body)).encode()),
        *_ALWAYS,
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
