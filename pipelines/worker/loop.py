"""The worker's life: receive what has come, step the engine, send what came of it."""

import selectors
import signal
import socket
from types import FrameType, TracebackType
from typing import Self

from pipelines.contract.messages import Cancel, Command, Drain, Drained, Generate, LoadModel, UnloadModel
from pipelines.engine.engine import Engine
from pipelines.worker.link import Closed, Link


class Signals:
    """SIGTERM as a file descriptor that becomes readable, so that one wait covers the pipe and the signal.

    SIGINT is ignored: at a terminal it reaches the whole process group, and the server decides what it means.
    """

    def __init__(self) -> None:
        """Nothing is installed before the context is entered."""
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self.terminated = False

    def __enter__(self) -> Self:
        """Install the handlers."""
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put the defaults back."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._read.close()
        self._write.close()

    def fileno(self) -> int:
        """For selectors."""
        return self._read.fileno()

    def consume(self) -> None:
        """Forget the bytes that woke us."""
        self._read.recv(64)

    def _terminate(self, _signal: int, _frame: FrameType | None) -> None:
        self.terminated = True


def serve(link: Link, engine: Engine, signals: Signals) -> None:
    """Run until the peer is gone, or until everything is finished after `Drain` or SIGTERM."""
    selector = selectors.DefaultSelector()
    selector.register(link, selectors.EVENT_READ)
    selector.register(signals, selectors.EVENT_READ)
    draining = False
    try:
        while True:
            idle = not engine.busy
            for ready, _ in selector.select(timeout=None if idle and not draining else 0):
                if ready.fileobj is signals:
                    signals.consume()
                    continue
                for command in link.receive():
                    draining = _obey(command, engine, link) or draining
            if signals.terminated or draining:
                draining = True
                engine.drain()
            for event in engine.step():
                link.send(event)
            if draining and not engine.busy:
                link.send(Drained())
                return
    except Closed:
        return
    finally:
        selector.close()


def _obey(command: Command, engine: Engine, link: Link) -> bool:
    """Carry out ``command``; True if it was `Drain`."""
    match command:
        case Generate(request=request):
            for event in engine.generate(request):
                link.send(event)
        case Cancel(id=id_):
            for event in engine.cancel(id_):
                link.send(event)
        case LoadModel(card=card):
            engine.load(card, link.send)
        case UnloadModel(model=model):
            for event in engine.unload(model):
                link.send(event)
        case Drain():
            return True
    return False
