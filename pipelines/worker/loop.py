"""The worker's life: receive what has come, step the engine, send what came of it."""

import selectors
import signal
import socket
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Self

from pipelines.contract.messages import (
    Cancel,
    Command,
    Drain,
    Drained,
    Event,
    Generate,
    KnowModel,
    LoadModel,
    Preprocess,
    UnloadModel,
)
from pipelines.engine.engine import Engine
from pipelines.engine.loader import ThreadLoader
from pipelines.worker.link import Closed, Link
from pipelines.worker.preparation import Preparation


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


def serve(link: Link, engine: Engine, signals: Signals, loaders: Sequence[ThreadLoader], preparation: Preparation) -> None:
    """Run until the peer is gone, or until everything is finished after `Drain` or SIGTERM; ``loaders`` are the engine's."""
    selector = selectors.DefaultSelector()
    sources: list[Link | Signals | ThreadLoader | Preparation] = [link, signals, *loaders, preparation]
    for source in sources:
        selector.register(source, selectors.EVENT_READ)
    draining = False
    try:
        while True:
            for ready, _ in selector.select(engine.wait_seconds()):
                if ready.fileobj is signals:
                    signals.consume()
                elif ready.fileobj is link:
                    draining = _hear(link, engine, preparation) or draining
            if signals.terminated or draining:
                draining = True
                engine.drain()
                preparation.drain()
            for event in (*engine.step(), *preparation.poll()):
                link.send(event)
            if draining and not engine.busy and not preparation.busy:
                link.send(Drained())
                return
    except Closed:
        return
    finally:
        selector.close()


def _hear(link: Link, engine: Engine, preparation: Preparation) -> bool:
    """Carry out the commands that have come; True if `Drain` was among them."""
    draining = False
    for command in link.receive():
        draining = draining or isinstance(command, Drain)
        for event in _obey(command, engine, preparation):
            link.send(event)
    return draining


def _obey(command: Command, engine: Engine, preparation: Preparation) -> list[Event]:  # noqa: PLR0911 - one arm per command
    match command:
        case Generate(request=request):
            return engine.generate(request)
        case Cancel(id=id_):
            return [*engine.cancel(id_), *preparation.cancel(id_)]
        case Preprocess():
            return preparation.submit(command)
        case LoadModel(card=card):
            return engine.load(card)
        case KnowModel(card=card):
            return engine.know(card)
        case UnloadModel(model=model):
            return engine.unload(model)
        case Drain():
            return []
