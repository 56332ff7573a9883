"""Loading beside the ticks: work is done elsewhere, its progress and result are collected by whoever owns the engine.

Python's interpreter lock is shared with the ticks: reading and copying tensors lets go of it, building modules does not.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from pipelines.engine.runner import LoadProgress

Work = Callable[[LoadProgress], object]


class Moved(msgspec.Struct, frozen=True):
    """The work goes on: ``part`` is at hand, ``fraction`` of the whole is done."""

    part: str
    fraction: float


class Ended(msgspec.Struct, frozen=True):
    """The work is over, with a result or an error."""

    seconds: float
    result: object = None
    error: BaseException | None = None


class Loader(Protocol):
    """Does one piece of work at a time."""

    def begin(self, work: Work) -> None:
        """Start ``work``; the one before it must have ended."""
        ...

    def poll(self) -> list[Moved | Ended]:
        """What has happened since the last call; `Ended` is the last of its work."""
        ...


class InlineLoader:
    """Does the work at once, in the caller's thread: for programs that have nothing else to do, and for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` measures what the work takes."""
        self._clock = clock
        self._reports: list[Moved | Ended] = []

    def begin(self, work: Work) -> None:
        """Do all of it."""
        self._reports.append(_do(work, self._reports.append, self._clock))

    def poll(self) -> list[Moved | Ended]:
        """What happened."""
        reports, self._reports = self._reports, []
        return reports


class ThreadLoader:
    """Does the work in a thread of its own; its file descriptor becomes readable when there is something to collect."""

    def __init__(self) -> None:
        """No thread runs before there is work."""
        self._reports: queue.SimpleQueue[Moved | Ended] = queue.SimpleQueue()
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether work is under way: a process that ends now should do so without waiting for its threads."""
        return self._thread is not None and self._thread.is_alive()

    def fileno(self) -> int:
        """For selectors."""
        return self._read.fileno()

    def begin(self, work: Work) -> None:
        """Start a thread for ``work``. It is a daemon: the process may end without it."""

        def tell(report: Moved | Ended) -> None:
            self._reports.put(report)
            # When it would block, thousands of reports are waiting: the reader has enough reason to wake up.
            with contextlib.suppress(BlockingIOError):
                self._write.send(b"\0")

        self._thread = threading.Thread(target=lambda: tell(_do(work, tell, time.monotonic)), name="loader", daemon=True)
        self._thread.start()

    def poll(self) -> list[Moved | Ended]:
        """What has arrived."""
        # The bytes go first: a report that comes between is seen now, and wakes us once for nothing.
        with contextlib.suppress(BlockingIOError):
            self._read.recv(1 << 16)
        reports = []
        while not self._reports.empty():
            reports.append(self._reports.get())
        return reports


def _do(work: Work, tell: Callable[[Moved], object], clock: Callable[[], float]) -> Ended:
    began = clock()

    def progress(part: str, fraction: float) -> None:
        tell(Moved(part, fraction))

    try:
        result = work(progress)
    except BaseException as error:  # noqa: BLE001 - whatever ends a thread must be heard of
        return Ended(clock() - began, error=error)
    return Ended(clock() - began, result=result)
