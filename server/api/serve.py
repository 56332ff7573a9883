"""Runs an application on a socket: says where, drains on a signal, leaves with exit code 0."""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
from litestar import Litestar
from structlog.typing import FilteringBoundLogger

from server.jobs.service import JobService

_FLUSH_SECONDS = 5
"""Time for answers on their way out, once no job is left."""


class Quiet(uvicorn.Server):
    """uvicorn, with its signals left to us: it raises them again at its end, and the exit code would be theirs."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so on stdout: one line that a program can wait for."""
        await super().startup(sockets)
        # What is there now stays: looking through it for garbage again and again would cost more than most requests do.
        gc.collect()
        gc.freeze()
        sys.stdout.write(self._announcement + "\n")
        sys.stdout.flush()


async def serve(
    app: Litestar, jobs: JobService, *, host: str, port: int, drain_seconds: float, log: FilteringBoundLogger
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends the waiting."""
    listener = bind(host, port)
    address = listener.getsockname()[:2]
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_FLUSH_SECONDS,
        lifespan="on",
        ws="none",
    )
    server = Quiet(config, f"aquatint listening on http://{shown}:{address[1]}")
    interrupts = Interrupts(jobs)
    with interrupts.caught(asyncio.get_running_loop()):
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(_drain(server, jobs, interrupts, drain_seconds, log))
            await server.serve(sockets=[listener])
            drain.cancel()


class Interrupts:
    """SIGTERM and SIGINT: the first closes the door, the second ends the patience."""

    __slots__ = ("_jobs", "first", "second")

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    @contextlib.contextmanager
    def caught(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Inside the block, the signals come here."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._caught)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _caught(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
        self._jobs.close()


async def _drain(
    server: uvicorn.Server, jobs: JobService, interrupts: Interrupts, seconds: float, log: FilteringBoundLogger
) -> None:
    """Wait for a signal, then for the jobs; while they finish, probes and new requests still get honest answers."""
    await interrupts.first.wait()
    log.info("draining", seconds=seconds)
    waits = [asyncio.ensure_future(jobs.idle()), asyncio.ensure_future(interrupts.second.wait())]
    done, pending = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    if waits[0] not in done:
        log.warning("some jobs are cut off")
        jobs.cut_off()
    server.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; the port may be 0."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener
