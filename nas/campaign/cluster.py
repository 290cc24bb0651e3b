"""Before joining a cluster: is there one at that address? Ray itself would try for two minutes, and print."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

from nas.errors import RunError

CONNECT_SECONDS = 3.0
JOIN_SECONDS = 30.0

_JOIN = """
import json, sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
    print("RECELL", json.dumps(ray.cluster_resources()))
except BaseException as error:
    first = str(error).strip().splitlines() or [""]
    sys.exit(f"RECELL {type(error).__name__}: {first[0]}")
"""


def check_address(address: str) -> dict[str, float]:
    """The resources ("CPU", "GPU", ...) of the Ray cluster at `address`.

    Raises RunError, with one line that says why, if none can be joined. `address` is "host:port" of the cluster's
    head, or "auto" for the one that runs on this machine. The port is tried for seconds, then joining, in another
    process that can be given up.
    """
    place = address
    if address == "auto":
        place = os.environ.get("RAY_ADDRESS", "auto")
    if "://" in place:
        raise RunError(
            f"address {place}: only host:port and auto are understood; "
            "on another machine than the cluster's, run recell on the cluster's head with --address auto"
        )
    if place != "auto":
        _probe(place)
    return _try_to_join(address)


def _probe(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RunError(f"address must be host:port or auto, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(f"no Ray cluster at {address}: {error.strerror or error}") from error


def _try_to_join(address: str) -> dict[str, float]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0")}
    command = [sys.executable, "-c", _JOIN, address]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=JOIN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"no Ray cluster at {address}: something listens there, but not within {JOIN_SECONDS:g} s as Ray does"
        ) from None
    if done.returncode != 0:
        why = _said(done.stderr) or f"the attempt ended with code {done.returncode}"
        hint = "" if os.environ.get("RAY_AUTH_MODE") else "; if it asks for a token, set RAY_AUTH_MODE=token"
        raise RunError(f"cannot join a Ray cluster at {address}: {why}{hint}")
    resources: dict[str, float] = json.loads(_said(done.stdout))
    return resources


def _said(text: str) -> str:
    """The last line with our mark: Ray prints too."""
    lines = [line.removeprefix("RECELL ") for line in text.splitlines() if line.startswith("RECELL ")]
    return lines[-1] if lines else ""
