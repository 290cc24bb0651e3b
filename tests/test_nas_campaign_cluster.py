from __future__ import annotations

import socket
import time

import pytest

from nas.campaign import cluster
from nas.campaign.cluster import check_address
from nas.errors import RunError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "address", ["nonsense", "host:", ":6379", "host:port", "host:0", "host:70000", "host:²"]
)
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(RunError, match=f"address must be host:port or auto, got '{address}'"):
        check_address(address)


def test_ray_client_addresses_are_refused() -> None:
    with pytest.raises(RunError, match="ray://head:10001: only host:port and auto are understood"):
        check_address("ray://head:10001")


def test_where_nothing_listens_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(RunError, match=f"no Ray cluster at {address}: Connection refused"):
        check_address(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=f"no Ray cluster at {address}: Connection refused"):
        check_address("auto")
    with pytest.raises(RunError, match=r"no Ray cluster at no-such-host\.invalid:6379: "):
        check_address("no-such-host.invalid:6379")
    assert time.monotonic() - began < 10


def test_where_something_else_listens_it_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match="something listens there, but not within 4 s as Ray does"):
            check_address(address)
