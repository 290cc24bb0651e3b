"""The server on Ray Serve: one deployment that listens and remembers, and encoders, one process for each core.

The deployment opens the port itself, with uvicorn, in place of Serve's proxies: a request that a proxy hands on to a
deployment costs some ten times the processor time of an answer that is remembered. Serve starts it, looks after its
health and begins it anew when it fails. Encoders are actors with a main thread each, so that a timer can end a cell.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas._modules import own_modules
from nas.errors import ServingError
from nas.serving.answers import Answerer
from nas.serving.application import Application
from nas.serving.connections import timed_protocol
from nas.serving.desk import Desk
from nas.serving.limits import Limits
from predictors import Predictor, load

HOST, PORT = "127.0.0.1", 8000
STORE_BYTES = 100 * 2**20  # Ray's object store: only texts and answers pass through it
CONNECTIONS = 256
GRACE = 4.0  # how many times the processor time that it may take a cell may be under way before its process is killed
START_SECONDS = 300.0
_SETTINGS = {  # of our own Ray, unless the user says otherwise
    "RAY_worker_niceness": "0",  # Ray's 15 would let who asks wait behind everything else on the machine
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told of what users do here unless they say so
}


class Encoder:
    """The actor: answers for texts, one call at a time, on its main thread."""

    def __init__(self, path: str, limits: dict[str, Any]) -> None:
        self._answers = Answerer(load(path), Limits(**limits))

    def answers(self, texts: list[str], others: list[bytes]) -> list[bytes]:
        """One answer for each text."""
        return self._answers(texts, others)

    def ready(self) -> int:
        """The number of its process, once it can answer."""
        return os.getpid()


class _Hand:
    """One encoder, as a desk calls it. A process that died or hangs is replaced by a new one."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self.actor: Any = self._make()

    def _make(self) -> Any:
        import ray

        return (
            ray.remote(Encoder).options(num_cpus=1, max_restarts=0).remote(self._path, asdict(self._limits))
        )

    async def __call__(self, texts: list[str], others: list[bytes]) -> list[bytes]:
        import ray

        most = GRACE * self._limits.seconds * len(texts) + START_SECONDS
        try:
            async with asyncio.timeout(most):
                found: list[bytes] = await self.actor.answers.remote(texts, others)
            return found
        except Exception:
            ray.kill(self.actor)
            self.actor = self._make()
            raise


class Front:
    """The deployment: listens on a port, remembers answers, and hands new cells to its encoders."""

    async def __init__(self, settings: Mapping[str, Any]) -> None:  # type: ignore[misc] # Serve awaits it
        limits = Limits(**settings["limits"])
        hands = [_Hand(settings["predictor"], limits) for _ in range(settings["workers"])]
        await asyncio.gather(*(hand.actor.ready.remote() for hand in hands))
        application = Application(Desk(hands, limits), settings["card"], settings["version"])
        self._socket = listening(settings["host"], settings["port"])
        self._server = _server(application, limits)
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            await asyncio.sleep(0.01)
            self.check_health()

    def check_health(self) -> None:
        """Raise where the server has ended: Serve begins anew then."""
        if self._task.done():
            raise ServingError(f"the server has ended: {self._task}")


def _server(application: Application, limits: Limits, connections: int = CONNECTIONS) -> Any:
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Server(uvicorn.Server):  # type: ignore[misc]  # of no known type: it need not be installed
        """Leaves the signals of the process to Ray."""

        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield

    return Server(
        uvicorn.Config(
            application,
            http=timed_protocol(AutoHTTPProtocol, limits.head_seconds, connections),
            ws="none",  # a WebSocket would be taken out of the protocol that counts and times connections
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            limit_concurrency=connections + 1,  # of the connection that is refused too
            timeout_keep_alive=30,
        )
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ServingError where the port is taken, or the host is no address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServingError(f"cannot listen on {host} port {port}: {reason}; choose another --port") from error


def serve(
    predictor: Predictor,
    *,
    host: str = HOST,
    port: int = PORT,
    workers: int | None = None,
    limits: Limits | None = None,
    version: str = "",
    on_ready: Callable[[str], None] = lambda url: None,
    until: threading.Event | None = None,
) -> None:
    """Serve a predictor over HTTP until `until` is set or the process is told to end; then end what was started.

    A Ray of its own is started on this machine, with `workers` encoders (one for each core by default): no other Ray
    is joined or touched. `on_ready` gets the address. Raises ServingError where Ray Serve is not installed, the port is
    taken, or Ray does not start.
    """
    Answerer(predictor, limits or Limits())  # what cannot be served is said before Ray is started
    listening(host, port).close()
    count = workers or _cores()
    stop = until or threading.Event()
    with tempfile.TemporaryDirectory(prefix="recell-serve-") as folder, _ray(count):
        path = Path(folder) / "predictor.recell"
        predictor.save(path)  # encoders that start later read what this one is, whatever becomes of its file
        settings = {
            "predictor": str(path),
            "limits": asdict(limits or Limits()),
            "workers": count,
            "host": host,
            "port": port,
            "card": dict(predictor.card),
            "version": version,
        }
        _deploy(settings)
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        while not stop.wait(0.5):
            pass


def _deploy(settings: Mapping[str, Any]) -> None:
    import ray
    import ray.serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what goes well is said once, by `on_ready`
    quiet = {"enable_access_log": False, "log_level": "ERROR"}
    made: Any = ray.serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0}, logging_config=quiet)
    try:
        ray.serve.start(proxy_location="Disabled", logging_config=quiet)
        ray.serve.run(made(Front).bind(dict(settings)), name="recell", route_prefix=None)
    except (OSError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        raise ServingError(f"Ray Serve could not start the server: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def _ray(workers: int) -> Any:
    """A Ray of our own with Serve, ended afterwards whatever happens."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.serve
    except ImportError as error:
        wanted = f"ray[serve]=={importlib.metadata.version('ray')}"
        raise ServingError(
            f'serving needs Ray Serve, which the extra `serve` of recell brings: pip install "{wanted}" ({error})'
        ) from error
    if ray.is_initialized():
        raise ServingError("this process has joined a Ray already; serve from a process of its own")
    before = signal.getsignal(signal.SIGTERM)
    try:
        with own_modules():
            ray.init(
                address="local",
                num_cpus=workers,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                namespace="recell-serve",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServingError(f"Ray could not be started: {str(error).splitlines()[0]}") from error
    on_main = threading.current_thread() is threading.main_thread()
    try:
        if on_main:
            signal.signal(
                signal.SIGTERM, lambda number, frame: sys.exit(0)
            )  # what `finally` ends, ends then too
        yield
    finally:
        ray.shutdown()  # all of Serve was started by it, and ends with it
        if on_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
