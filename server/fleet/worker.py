"""One living worker process, from Hello to its end: what it has loaded and what it is working on."""

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.contract.errors import EngineFailure, ErrorReport, ModelLoadFailed, ShuttingDown
from pipelines.contract.messages import (
    PROTOCOL,
    Cancel,
    Command,
    Completed,
    Drain,
    Drained,
    Event,
    Failed,
    Generate,
    Hello,
    ImageDone,
    LoadModel,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    Preview,
    Progress,
    Tick,
    decode_event,
    encode,
)
from server.domain.clock import Clock
from server.fleet.flight import Flight
from server.fleet.health import Loading
from server.fleet.link import Link
from server.fleet.pace import Pace
from server.telemetry.metrics import Metrics


class ProtocolBroken(Exception):
    """The process on the other end says things no worker says."""


class Worker:
    """The server's picture of one worker process. Owned by its supervisor, which hears of each change."""

    __slots__ = (
        "_changed",
        "_clock",
        "_link",
        "_log",
        "_metrics",
        "_name",
        "_pace",
        "completed",
        "failed",
        "flights",
        "heard",
        "hello",
        "leaving",
        "loaded",
        "loading",
        "refused",
    )

    def __init__(
        self,
        name: str,
        link: Link,
        *,
        clock: Clock,
        metrics: Metrics,
        pace: Pace,
        log: FilteringBoundLogger,
        changed: Callable[[], None],
    ) -> None:
        self._name = name
        self._link = link
        self._clock = clock
        self._metrics = metrics
        self._pace = pace
        self._log = log
        self._changed = changed
        self.hello: Hello | None = None
        self.loaded: dict[str, ModelFacts] = {}
        self.loading: dict[str, Loading] = {}
        self.failed: dict[str, ErrorReport] = {}
        self.flights: dict[str, Flight] = {}
        self.refused: list[Flight] = []
        """Flights that a leaving worker did not take; they are to go elsewhere."""
        self.leaving = False
        self.completed = 0
        """Requests it has brought to a good end."""
        self.heard = clock.monotonic()
        """When it last gave a sign of life, or was last given something to do."""

    async def listen(self) -> None:
        """Take in events until the process is gone; raises `ProtocolBroken` for one that is no worker."""
        while (frame := await self._link.receive()) is not None:
            try:
                event = decode_event(frame)
            except ValueError as error:  # msgspec's errors, and a picture whose size is a lie
                msg = f"an unreadable event: {error}"
                raise ProtocolBroken(msg) from error
            self.heard = self._clock.monotonic()
            self._take(event)

    def load(self, card: ModelCard) -> None:
        """Have ``card`` loaded; the answer changes `loaded` or `failed`."""
        self.failed.pop(card.id, None)
        self.loading[card.id] = Loading(part="waiting", fraction=0.0)
        self._say(LoadModel(card))

    def run(self, flight: Flight) -> None:
        """Give it work; the model must be loaded."""
        self._say(Generate(flight.request))
        self.flights[flight.id] = flight

    def cancel(self, flight: Flight) -> None:
        """Have ``flight`` dropped; it stays on the list until the worker says so."""
        if self.flights.get(flight.id) is flight:
            self._say(Cancel(flight.id))

    def drain(self) -> None:
        """Have it finish and leave."""
        self.leaving = True
        self._say(Drain())

    def _say(self, command: Command) -> None:
        self.heard = max(self.heard, self._clock.monotonic())
        self._link.send(encode(command))

    def _take(self, event: Event) -> None:  # noqa: C901, PLR0912 - one arm per event is the clearest form
        match event:
            case Tick():
                self._metrics.tick(self._name, event)
                self._pace.add(0, event.seconds)
            case Progress():
                if flight := self.flights.get(event.id):
                    was_suspect = flight.suspect
                    self._pace.add(flight.progress(event), 0)
                    if was_suspect and not flight.suspect:
                        self._changed()
            case Preview():
                if flight := self.flights.get(event.id):
                    flight.preview(event)
            case ImageDone():
                if flight := self.flights.get(event.id):
                    flight.picture(event.image, event.picture)
            case Completed():
                self._complete(event)
            case Failed():
                self._fail(event)
            case Hello():
                self._greet(event)
            case ModelLoading():
                self.loading[event.model] = Loading(part=event.part, fraction=event.fraction)
            case ModelLoaded():
                self.loading.pop(event.model, None)
                self.loaded[event.model] = event.facts
                self._log.info("model loaded", model=event.model, seconds=round(event.facts.load_seconds, 2))
                self._changed()
            case ModelFailed():
                self.loading.pop(event.model, None)
                self.failed[event.model] = event.error
                self._log.error("model failed", model=event.model, error=event.error.message)
                self._changed()
            case ModelUnloaded():
                self.loaded.pop(event.model, None)
                self._log.info("model unloaded", model=event.model, evicted=event.evicted)
                self._changed()
            case Drained():
                self.leaving = True

    def _greet(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            msg = f"it speaks protocol {hello.protocol}, this server {PROTOCOL}"
            raise ProtocolBroken(msg)
        self.hello = hello
        self._log.info("worker is up", device=hello.device, device_name=hello.device_name, pid=hello.pid)
        self._changed()

    def _complete(self, event: Completed) -> None:
        flight = self.flights.pop(event.id, None)
        self.completed += 1
        if flight is not None and not flight.complete(event.stats):
            flight.fail(EngineFailure("The engine reported the request as complete without all of its images."))
        self._changed()

    def _fail(self, event: Failed) -> None:
        flight = self.flights.pop(event.id, None)
        if flight is not None:
            error = event.error.to_exception()
            if isinstance(error, ShuttingDown):
                self.leaving = True
                self.refused.append(flight)
            else:
                flight.fail(error)
        self._changed()


def load_failure(model: str, report: ErrorReport) -> ModelLoadFailed:
    """What a request for a model hears that cannot be loaded."""
    return ModelLoadFailed(f"The model {model!r} could not be loaded: {report.message}", param="model")
