from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from predictor_fixtures import small
from serving_client import Reply, post, request

from grammar import zoo, zoo_names, zoo_text
from nas.serving import Answerer, Application, Desk, Limits

LIMITS = Limits(body=20_000, cells=6, text=2_000, seconds=5.0)


def made(limits: Limits = LIMITS) -> Application:
    """An application whose encoder is this process."""
    answerer = Answerer(small(), limits)

    async def encoder(texts: list[str], others: list[bytes]) -> list[bytes]:
        return answerer(texts, others)

    return Application(Desk([encoder], limits), small().card, "1.2.3")


def run(*bodies: bytes | dict[str, Any], limits: Limits = LIMITS) -> list[Reply]:
    async def scenario() -> list[Reply]:
        application = made(limits)
        replies = [await post(application, body) for body in bodies]
        await application.desk.close()
        return replies

    return asyncio.run(scenario())


def get(path: str, method: str = "GET", **extra: Any) -> Reply:
    reply = asyncio.run(request(made(), method, path, **extra))
    assert reply is not None
    return reply


def test_predict() -> None:
    reply = run({"cells": [zoo_text("gru"), "cell"]})[0]
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert reply.json[0]["digest"] == zoo("gru").digest
    assert reply.json[1]["line"] == 1
    assert run({"cells": []})[0].json == []


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is not JSON in UTF-8"),
        (b"\xff\xfe", 400, "the body is not JSON in UTF-8"),
        (b"[" * 9_000, 400, "the body is not JSON in UTF-8"),
        (b'{"cells": ' + b"9" * 9_000 + b"}", 400, "the body is not JSON in UTF-8"),
        (b"[]", 400, "the body has the form"),
        (b'{"cells": "cell"}', 400, "the body has the form"),
        (b'{"cells": [], "more": 1}', 400, "and no other fields"),
        (b'{"cells": [1]}', 400, "cells[0] is none"),
        (b'{"cells": ["\\ud800"]}', 400, "cells[0] has a surrogate without its partner"),
        (json.dumps({"cells": ["c"] * 7}).encode(), 413, "at most 6 cells; received 7"),
        (json.dumps({"cells": ["", "c" * 2_001]}).encode(), 413, "cells[1] has 2001"),
        (b" " * 20_001, 413, "a body has at most 20000 bytes"),
    ],
)
def test_bad_bodies(body: bytes, status: int, message: str) -> None:
    reply = run(body)[0]
    assert reply.status == status
    assert message in reply.json["error"]


def test_large_bodies_are_refused_before_they_arrive() -> None:
    for length in (b"20001", b"9" * 5_000):
        reply = asyncio.run(
            request(made(), "POST", "/predict", headers=[(b"Content-Length", length)], ends=False)
        )
        assert reply is not None
        assert (reply.status, reply.headers["connection"]) == (413, "close")
    parts = (b" " * 10_000 for _ in range(1_000_000))
    reply = asyncio.run(request(made(), "POST", "/predict", parts))
    assert reply is not None
    assert reply.status == 413


def test_slow_and_compressed_bodies_are_refused() -> None:
    hasty = made(Limits(body_seconds=0.05))
    reply = asyncio.run(request(hasty, "POST", "/predict", [b"{"], ends=False))
    assert reply is not None
    assert reply.status == 408
    assert get("/predict", "POST", headers=[(b"content-encoding", b"gzip")]).status == 415


def test_who_hangs_up_gets_no_answer() -> None:
    async def scenario() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await made()({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)
        return sent

    assert asyncio.run(scenario()) == []


def test_a_server_with_too_much_to_do_says_when_to_come_back() -> None:
    reply = run({"cells": [zoo_text("gru"), zoo_text("lstm")]}, limits=Limits(waiting=1))[0]
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert "at most 1 may" in reply.json["error"]


def test_other_paths() -> None:
    assert get("/card").json["cells"] == small().card["cells"]
    assert get("/healthz").json == {"status": "ok", "kept": 0, "waiting": 0, "encoders": 1}
    assert get("/").headers["location"] == "/docs"
    assert get("/nothing").status == 404
    assert get("/predict").headers["allow"] == "POST"
    assert get("/card", "DELETE").status == 405
    head = get("/card", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len(get("/card").body)


def test_open_api_describes_what_is_answered() -> None:
    described = get("/openapi.json").json
    assert described["openapi"] == "3.1.0"
    assert described["info"]["version"] == "1.2.3"
    for path, methods in described["paths"].items():
        for method in methods:
            assert get(path, method.upper()).status in (200, 400)
    answer, fault = run({"cells": [zoo_text("gru"), "cell"]})[0].json
    for found, name in ((answer, "Answer"), (fault, "Fault")):
        schema = described["components"]["schemas"][name]
        assert set(found) == set(schema["properties"]) == set(schema["required"])
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["cells"]["maxItems"] == LIMITS.cells
    assert run({"cells": body["properties"]["cells"]["examples"][0]})[0].json[0]["digest"]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    reply = get("/docs")
    page = reply.body.decode()
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "http://" not in page
    assert "https://" not in page
    assert "src=" not in page
    assert "{{" not in page
    assert "POST /predict" in page
    assert "made up" in page


def test_lifespan_and_websockets() -> None:
    async def scenario() -> list[str]:
        sent: list[str] = []
        kinds = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> MutableMapping[str, Any]:
            return {"type": next(kinds)}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message["type"])

        await made()({"type": "lifespan"}, receive, send)
        await made()({"type": "websocket"}, receive, send)
        return sent

    assert asyncio.run(scenario()) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
        "websocket.close",
    ]


# ---- random bodies ----------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.just("cells"), inner, max_size=3)
    ),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """The text of a small known cell with a part of it changed."""
    text = zoo_text(draw(st.sampled_from(("elman", "gru", "indrnn", "mingru"))))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 12)))
    return text[:start] + draw(st.text(max_size=6)) + text[end:]


BODIES = st.one_of(
    st.binary(max_size=200),
    _JSON.map(lambda value: json.dumps(value).encode()),
    st.lists(_JSON | damaged(), max_size=4).map(lambda cells: json.dumps({"cells": cells}).encode()),
    st.lists(damaged(), min_size=1, max_size=2).map(lambda cells: json.dumps({"cells": cells}).encode()),
)


@pytest.fixture(scope="module")
def alive() -> Any:
    loop = asyncio.new_event_loop()
    application = made()
    yield lambda body: loop.run_until_complete(post(application, body))
    loop.run_until_complete(application.desk.close())
    loop.close()


@given(body=BODIES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_bodies_get_an_answer(alive: Any, body: bytes) -> None:
    reply = alive(body)
    assert reply.status in (200, 400, 413)
    if reply.status == 200:
        texts = json.loads(body)["cells"]
        assert len(reply.json) == len(texts)
        assert all(set(one) == {"error", "line", "column"} or "mean" in one for one in reply.json)
        assert not any("internal" in one.get("error", "") for one in reply.json)
    else:
        assert set(reply.json) == {"error"}


@pytest.mark.parametrize("name", zoo_names())
@pytest.mark.slow
def test_every_known_cell_gets_an_answer(alive: Any, name: str) -> None:
    (found,) = alive({"cells": [zoo_text(name)]}).json
    assert found.get("digest") == zoo(name).digest or "takes more than 5 seconds" in found["error"]
