from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runner import refused
from predictor_fixtures import small
from source_tree import ROOT

from grammar import zoo, zoo_text
from nas.errors import ServingError
from nas.serving import serve
from nas.serving.cluster import listening

START = 240.0  # seconds: a busy machine takes a minute to start Ray


def test_a_taken_port_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ServingError, match=f"cannot listen on 127.0.0.1 port {port}: .*; choose another --port"
        ):
            serve(small(), port=port)
        small().save(tmp_path / "p")
        assert f"port {port}" in refused("serve-predictor", "-p", tmp_path / "p", "--port", port)
    with pytest.raises(ServingError, match=r"cannot listen on 203\.0\.113\.7 port 0"):
        listening("203.0.113.7", 0)


def test_without_ray_serve_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(ServingError, match=r'serving needs Ray Serve, .*: pip install "ray\[serve\]=='):
        serve(small(), port=_free_port())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`recell serve-predictor` in a process of its own, and its port."""
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    path = tmp_path_factory.mktemp("served") / "p.recell"
    small().save(path)
    port = _free_port()
    command = [sys.executable, "-c", "from nas.cli import main; main()", "serve-predictor"]
    process = subprocess.Popen(
        [*command, "-p", str(path), "--port", str(port), "-w", "1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_until_up(process, port)
        yield process, port
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_server_answers_and_ends_cleanly(server: tuple[subprocess.Popen[str], int]) -> None:
    process, port = server
    status, found = ask(port, "POST", "/predict", {"cells": [zoo_text("gru"), "cell"]})
    assert status == 200
    assert found[0]["digest"] == zoo("gru").digest
    assert found[0]["mean"] == pytest.approx(float(small().predict([zoo("gru")]).mean[0]))
    assert found[1]["line"] == 1
    assert ask(port, "POST", "/predict", {"cells": ["x"] * 101})[0] == 413
    assert ask(port, "POST", "/predict", b" " * 2_000_000)[0] == 413
    assert ask(port, "GET", "/card")[1]["task"] == "made up"
    assert ask(port, "GET", "/openapi.json")[1]["openapi"] == "3.1.0"
    assert ask(port, "GET", "/healthz")[1] == {"status": "ok", "kept": 2, "waiting": 0, "encoders": 1}
    with socket.create_connection(("127.0.0.1", port)) as raw:  # what is no HTTP ends that connection alone
        raw.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert ask(port, "POST", "/predict", {"cells": [zoo_text("gru")]})[1] == found[:1]
    assert process.stdout is not None
    # Ray says a little later than the server answers that all is there.
    assert any(f"listening on http://127.0.0.1:{port}" in line for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode in (0, 130)
    assert "Traceback" not in out
    with pytest.raises(OSError, match="refused"):
        ask(port, "GET", "/healthz")


def ask(port: int, method: str, path: str, body: bytes | dict[str, Any] | None = None) -> tuple[int, Any]:
    """One request over a connection of its own: the status, and the JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, data, {"content-type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def _wait_until_up(process: subprocess.Popen[str], port: int) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(f"the server ended: {process.communicate()[0]}")
        try:
            if ask(port, "GET", "/healthz")[0] == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server was not up after {START:g} seconds")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port
