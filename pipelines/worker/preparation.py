"""Preprocessing beside the ticks: one thread, a bounded queue, and a file descriptor that tells when there is a result."""

import contextlib
import queue
import socket
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from pipelines.contract.errors import (
    AquatintError,
    Cancelled,
    EngineFailure,
    InvalidRequest,
    OutOfMemory,
    Overloaded,
    ShuttingDown,
)
from pipelines.contract.messages import Event, Failed, Preparing, Preprocess, Preprocessed
from pipelines.contract.picture import Picture

WAITING = 16
"""What may wait behind the one at work; its pictures are in memory."""

Told = Callable[[str, float], None]


class Work(Protocol):
    """Makes one control image; raises an `AquatintError` for what cannot be done."""

    def __call__(self, work: Preprocess, progress: Told, /) -> Picture:
        """The control image."""
        ...


class Preparation:
    """Does `Preprocess` commands one by one, in the order they came. Call it from one place; the work runs elsewhere."""

    def __init__(self, begin: Callable[[], Work], *, waiting: int = WAITING, clock: Callable[[], float] = time.monotonic) -> None:
        """``begin`` is called in the thread, before its first work: imports that take long belong there."""
        self._begin = begin
        self._most = waiting
        self._clock = clock
        self._change = threading.Condition()
        self._waiting: OrderedDict[str, Preprocess] = OrderedDict()
        """Guarded by ``_change``, like ``_running``."""
        self._running: str | None = None
        self._unwanted: set[str] = set()
        """What was cancelled at work; only the caller's side."""
        self._reports: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._thread: threading.Thread | None = None
        self._draining = False

    @property
    def busy(self) -> bool:
        """Whether something waits, is at work, or has not been collected."""
        with self._change:
            return bool(self._waiting) or self._running is not None or not self._reports.empty()

    def fileno(self) -> int:
        """For selectors."""
        return self._read.fileno()

    def submit(self, work: Preprocess) -> list[Event]:
        """Take on ``work``; the events are empty unless it is refused."""
        with self._change:
            refusal = self._refusal(work)
            if refusal is None:
                self._waiting[work.id] = work
                self._change.notify()
        if refusal is not None:
            return [Failed(work.id, refusal.report())]
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="preprocessing", daemon=True)
            self._thread.start()
        return []

    def cancel(self, id_: str) -> list[Event]:
        """Drop work that waits; what is at work is finished, and its result thrown away."""
        with self._change:
            known = self._waiting.pop(id_, None) is not None
            if not known and self._running == id_ and id_ not in self._unwanted:
                self._unwanted.add(id_)
                known = True
        return [Failed(id_, Cancelled("The preprocessing was cancelled.").report())] if known else []

    def drain(self) -> None:
        """Refuse new work from now on."""
        self._draining = True

    def poll(self) -> list[Event]:
        """What has come of the work since the last call."""
        # The bytes go first: a report that comes between is seen now, and wakes us once for nothing.
        with contextlib.suppress(BlockingIOError):
            self._read.recv(1 << 16)
        events: list[Event] = []
        while not self._reports.empty():
            event = self._reports.get()
            id_ = event.id if isinstance(event, Preparing | Preprocessed | Failed) else ""
            if id_ not in self._unwanted:
                events.append(event)
            elif not isinstance(event, Preparing):
                self._unwanted.discard(id_)
        return events

    def _refusal(self, work: Preprocess) -> AquatintError | None:
        if self._draining:
            return ShuttingDown("This worker is finishing its work and takes no more.")
        if work.id in self._waiting or work.id == self._running or work.id in self._unwanted:
            return InvalidRequest(f"Preprocessing {work.id!r} is already in flight.")
        if len(self._waiting) >= self._most:
            return Overloaded(f"{self._most} pictures wait to be preprocessed here already.", retry_after=5.0)
        return None

    def _run(self) -> None:
        """The thread's life; it ends with the process."""
        work: Work | None = None
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting)
                id_, command = self._waiting.popitem(last=False)
                self._running = id_
            try:
                work = work or self._begin()
                result: Event = self._made(work, command)
            except Exception as error:  # noqa: BLE001 - whatever happens must be heard of, and the next work be done
                result = Failed(id_, _known(error).report())
            self._tell(result, done=True)

    def _made(self, work: Work, command: Preprocess) -> Event:
        began = self._clock()
        picture = work(command, lambda part, fraction: self._tell(Preparing(command.id, part, fraction)))
        return Preprocessed(command.id, picture, self._clock() - began)

    def _tell(self, event: Event, *, done: bool = False) -> None:
        with self._change:  # not between its end and its report: `busy` would say that nothing is left
            self._reports.put(event)
            if done:
                self._running = None
        # When it would block, thousands of reports are waiting: the reader has enough reason to wake up.
        with contextlib.suppress(BlockingIOError):
            self._write.send(b"\0")


def _known(error: Exception) -> AquatintError:
    if isinstance(error, AquatintError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, MemoryError):
        return OutOfMemory("The picture does not fit this machine's memory while it is preprocessed.", param="options.resolution")
    return EngineFailure(f"The preprocessor failed: {type(error).__name__}: {error}")
