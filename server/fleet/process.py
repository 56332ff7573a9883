"""Workers as child processes of the server."""

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from server.fleet.link import Link

_LINE_LIMIT = 1 << 16


class ChildProcess:
    """One child, with its pipe and the task that copies its stderr into the log."""

    __slots__ = ("_child", "_drain", "link")

    def __init__(self, child: asyncio.subprocess.Process, link: Link, drain: "asyncio.Task[None]") -> None:
        self._child = child
        self._drain = drain
        self.link = link

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    async def wait(self) -> int:
        """Its exit code, once its last words are in the log."""
        code = await self._child.wait()
        await self._drain
        return code

    def terminate(self) -> None:
        """Send SIGTERM: drain."""
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()


class ProcessHost:
    """Starts ``python -m pipelines.worker`` with one end of a socketpair."""

    __slots__ = ("_command", "_log")

    def __init__(
        self,
        log: FilteringBoundLogger,
        command: tuple[str, ...] = (sys.executable, "-m", "pipelines.worker"),
        *,
        device_memory_mb: int | None = None,
        ram_memory_mb: int | None = None,
        adapter_memory_mb: int | None = None,
        state: Path | None = None,
    ) -> None:
        """``device_memory_mb`` and ``ram_memory_mb`` bound what models take up, ``adapter_memory_mb`` what adapters do.

        None leaves it to the worker.

        In the folder ``state`` workers remember how many rows fit their device.
        """
        self._log = log
        told = {
            "--memory-mb": device_memory_mb,
            "--ram-mb": ram_memory_mb,
            "--adapter-mb": adapter_memory_mb,
            "--state": state,
        }
        self._command = (*command, *(word for flag, value in told.items() if value is not None for word in (flag, str(value))))

    async def spawn(self, name: str, device: str) -> ChildProcess:
        """Start a worker; a session of its own keeps a terminal's Ctrl+C away from it: the server drains it."""
        ours, theirs = socket.socketpair()
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                "--fd",
                str(theirs.fileno()),
                "--device",
                device,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                limit=_LINE_LIMIT,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        link = Link(ours)
        drain = asyncio.create_task(self._copy(child, name), name=f"stderr of {name}")
        return ChildProcess(child, link, drain)

    async def _copy(self, child: asyncio.subprocess.Process, name: str) -> None:
        stream = child.stderr
        if stream is None:
            return
        log = self._log.bind(worker=name, pid=child.pid)
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # a line over the limit: the reader has dropped it
            if not line:
                return
            log.info("worker", line=line.decode("utf-8", "replace").rstrip())
