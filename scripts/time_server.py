"""Load a running `recell serve-predictor` from this machine: rates, latencies, processor time, bad bodies.

    recell serve-predictor -p p.recell --port 8000 &
    python scripts/time_server.py --port 8000 --pid PID [--cells 240] [--bodies 10000] [--seed 0]

Asks for new cells at 30 requests a second, for the same cells at 200, as fast as it goes, and under other names at 200;
then sends random bodies (noise, random JSON, damaged cells, bombs) and counts the answers by status; then asks for
known cells over 150 connections beside 150 others that send nothing, or a byte a second, and come back when they are
closed. A connection that is closed without an answer counts as status 0. On a busy machine compare processor times
per request, of --pid and its descendants; rates are a lower bound there. Exits with 1 if any answer was an error of
the server, or one of the known cells had none beside the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from grammar import zoo_names, zoo_text
from search_spaces import load_space

SPACES = ("gated", "mixed", "diagonal")
CONNECTIONS = 16
CROWD = 300  # connections at a time, half of which never finish a request
DRIP = 1.0  # seconds between two bytes
Way = Callable[[int, Sequence[bytes], float], Coroutine[Any, Any, tuple[list[float], Counter[int], float]]]
KINDS = {"ray::ServeReplica": "front", "ray::Encoder": "encoders"}


async def post(reader: Any, writer: Any, body: bytes) -> tuple[int, bool]:
    """The status of one request over an open connection, and whether the connection stays open."""
    writer.write(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None, head
    answer = await reader.readexactly(int(length[1]))
    assert json.loads(answer) is not None
    return int(head.split()[1]), b"connection: close" not in head


async def load(
    port: int, bodies: Sequence[bytes], rate: float, connections: int = CONNECTIONS
) -> tuple[list[float], Counter[int], float]:
    """Send bodies at `rate` a second, or as fast as it goes (0): latencies, statuses, seconds."""
    queue: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(0 if rate else connections)
    latencies: list[float] = []
    statuses: Counter[int] = Counter()

    async def client() -> None:
        streams = None
        while (item := await queue.get()) is not None:
            try:
                streams = streams or await asyncio.open_connection("127.0.0.1", port)
                status, stays = await post(*streams, item[1])
            except (OSError, asyncio.IncompleteReadError):
                status, stays = 0, False
            latencies.append(time.perf_counter() - item[0])
            statuses[status] += 1
            if not stays and streams:
                streams[1].close()
                streams = None
        if streams:
            streams[1].close()

    clients = [asyncio.create_task(client()) for _ in range(connections)]
    began = time.perf_counter()
    for number, body in enumerate(bodies):
        due = began + number / rate if rate else time.perf_counter()
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        await queue.put((due, body))
    for _ in clients:
        await queue.put(None)
    await asyncio.gather(*clients)
    return latencies, statuses, time.perf_counter() - began


async def besieged(
    port: int, bodies: Sequence[bytes], rate: float
) -> tuple[list[float], Counter[int], float]:
    """`load` over half of CROWD connections, while each of the other half never finishes a request."""
    halves = (
        b"",
        b"POST /predict HTTP/1.1\r\nHost: h",
        b"POST /predict HTTP/1.1\r\nContent-Length: 999\r\n\r\n",
    )

    async def idle(number: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(halves[number % 3])
                ended = asyncio.create_task(reader.read())
                while not ended.done():
                    await asyncio.wait([ended], timeout=DRIP)
                    writer.write(b"a" if number % 2 and not ended.done() else b"")
                await ended
                writer.close()
            except OSError:  # closed, or not even opened
                pass
            await asyncio.sleep(DRIP)

    others = [asyncio.create_task(idle(number)) for number in range(CROWD // 2)]
    await asyncio.sleep(DRIP)
    try:
        return await load(port, bodies, rate, CROWD - CROWD // 2)
    finally:
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def processor_seconds(pid: int) -> Counter[str]:
    """What the server's processes have used until now, by their kind."""
    found: Counter[str] = Counter()
    for process in psutil.Process(pid).children(recursive=True):
        kind = next((k for name, k in KINDS.items() if " ".join(process.cmdline()).startswith(name)), None)
        if kind:
            times = process.cpu_times()
            found[kind] += times.user + times.system
    return found


def measure(
    name: str, port: int, pid: int, bodies: Sequence[bytes], rate: float, way: Way = load
) -> Counter[int]:
    """Load the server and print a row of a table."""
    before = processor_seconds(pid)
    latencies, statuses, seconds = asyncio.run(way(port, bodies, rate))
    used = processor_seconds(pid)
    each = ", ".join(f"{1e3 * (used[k] - before[k]) / len(bodies):.2f} ms" for k in KINDS.values())
    p50, p99 = 1e3 * np.quantile(latencies, [0.5, 0.99])
    answers = ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items()))
    print(
        f"| {name} | {rate or 'as fast as it goes'} | {len(bodies) / seconds:.0f} | {p50:.0f}, {p99:.0f} ms | {each} | "
        f"{answers} |",
        flush=True,
    )
    return statuses


def of(*texts: Any) -> bytes:
    return json.dumps({"cells": texts}).encode()


def new_cells(count: int, seed: int) -> list[str]:
    """Texts of different cells of several spaces, in random order."""
    rng = np.random.default_rng(seed)
    found: dict[str, str] = {}
    spaces = [load_space(name) for name in SPACES]
    while len(found) < count:
        cell = spaces[len(found) % len(spaces)].sample(rng)
        found[cell.digest] = str(cell)
    return list(found.values())


BOMBS = (
    b"[" * 100_000,
    b'{"cells":[' * 2_000,
    b" " * (1 << 21),
    of(*["x"] * 101),
    of("x" * 20_001),
    b"1" * 5_000,
    b"NaN",
)


def random_bodies(count: int, seed: int) -> list[bytes]:
    """Noise, random JSON, damaged cells, and now and then a bomb."""
    rng = np.random.default_rng(seed)
    texts = [text for text in map(zoo_text, zoo_names()) if len(text) < 900]

    def letters(most: int) -> str:
        codes = rng.choice([rng.integers(32, 127, most), rng.integers(0, 0x110000, most)])
        return "".join(map(chr, codes[: int(rng.integers(most))]))

    def value(depth: int = 0) -> Any:
        kind = int(rng.integers(6 if depth < 4 else 4))
        if kind < 4:
            return (None, float(rng.normal()), 10 ** int(rng.integers(40)), letters(20))[kind]
        inner = [value(depth + 1) for _ in range(int(rng.integers(4)))]
        return inner if kind == 4 else {("cells", "x")[i % 2]: v for i, v in enumerate(inner)}

    def damaged() -> str:
        text = texts[int(rng.integers(len(texts)))]
        start = int(rng.integers(len(text)))
        return text[:start] + letters(6) + text[start + int(rng.integers(10)) :]

    def body() -> bytes:
        kind = int(rng.integers(100))
        if kind < 2:
            return BOMBS[int(rng.integers(len(BOMBS)))]
        if kind < 20:
            return rng.bytes(int(rng.integers(300)))
        if kind < 40:
            return json.dumps(value()).encode()
        return of(value(), damaged()) if kind < 50 else of(damaged())

    return [body() for _ in range(count)]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--pid", type=int, required=True, help="of `recell serve-predictor`")
    parser.add_argument("--cells", type=int, default=240)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    texts = new_cells(asked.cells, asked.seed)
    seen = [of(texts[i]) for i in rng.integers(len(texts), size=4_000)]
    named = [
        re.sub(r"^cell\s+\w+", f"cell c{n}", texts[i])
        for n, i in enumerate(rng.integers(len(texts), size=1_000))
    ]
    print(
        "| requests | asked for, 1/s | reached, 1/s | latency, median and 99 % | processor: front, encoders | answers |"
    )
    print("|---|---|---|---|---|---|")
    total: Counter[int] = Counter()
    for name, bodies, rate in (
        ("a new cell each", [of(text) for text in texts], 30),
        ("cells seen before", seen, 200),
        ("cells seen before", seen * 5, 0),
        ("cells seen under other names", [of(text) for text in named], 200),
        ("random bodies", random_bodies(asked.bodies, asked.seed), 0),
    ):
        total += measure(name, asked.port, asked.pid, bodies, rate)
    name = f"cells seen before, beside {CROWD // 2} connections that never end a request"
    crowd = measure(name, asked.port, asked.pid, seen[:2_000], 50, besieged)
    refused = crowd.total() - crowd[200]
    return int(refused > 0 or any(status >= 500 and status != 503 for status in total))


if __name__ == "__main__":
    sys.exit(main())
