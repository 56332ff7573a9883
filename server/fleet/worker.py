"""One living worker process, from Hello to its end: what it has loaded and what it is working on."""

from collections.abc import Callable

import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import AquatintError, EngineFailure, ErrorReport, ModelLoadFailed, ShuttingDown
from pipelines.contract.messages import (
    PROTOCOL,
    AdapterMemory,
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
    KnowModel,
    LoadModel,
    Memory,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    Preparing,
    Preprocessed,
    Preview,
    Progress,
    Tick,
    UnloadModel,
    decode_event,
    encode,
)
from server.domain.clock import Clock
from server.fleet.errand import Errand
from server.fleet.flight import Flight
from server.fleet.holdings import Holdings, ModelEvent
from server.fleet.link import Link
from server.fleet.loads import LoadTimes
from server.fleet.pace import Pace
from server.fleet.roster import in_plain_words
from server.telemetry.metrics import Metrics


class ProtocolBroken(Exception):
    """The process on the other end says things no worker says."""


class Worker:
    """The server's picture of one worker process. Owned by its supervisor, which hears of each change."""

    __slots__ = (
        "_changed",
        "_clock",
        "_link",
        "_loads",
        "_log",
        "_metrics",
        "_name",
        "_pace",
        "completed",
        "errands",
        "flights",
        "heard",
        "hello",
        "leaving",
        "models",
        "refused",
        "refused_errands",
        "stirred",
    )

    def __init__(
        self,
        name: str,
        link: Link,
        *,
        clock: Clock,
        metrics: Metrics,
        pace: Pace,
        loads: LoadTimes,
        log: FilteringBoundLogger,
        changed: Callable[[], None],
    ) -> None:
        self._name = name
        self._link = link
        self._clock = clock
        self._metrics = metrics
        self._pace = pace
        self._loads = loads
        self._log = log
        self._changed = changed
        self.hello: Hello | None = None
        self.models = Holdings()
        self.flights: dict[str, Flight] = {}
        self.refused: list[Flight] = []
        """Flights that it did not take, as it is leaving or cannot load their model; they are to go elsewhere."""
        self.errands: dict[str, Errand] = {}
        self.refused_errands: list[Errand] = []
        """Errands that it did not take, as it is leaving."""
        self.stirred = clock.monotonic()
        """When its preprocessing last gave a sign of life, or was given the first thing to do."""
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

    def tell(self, command: LoadModel | KnowModel, card: ModelCard) -> None:
        """Tell it of ``card``, under the name in ``command``; the answer to a load changes `models`."""
        name = command.card.id
        if isinstance(command, LoadModel):
            self.models.load(name, card)
        else:
            self.models.know(name, card)
        self._say(command)

    def unload(self, name: str) -> None:
        """Have a model that nobody here works with taken off the device; what comes later for it brings it back."""
        self._say(UnloadModel(name))

    @property
    def busy(self) -> set[str]:
        """Names of the models that are needed by what is in flight."""
        return {name for flight in self.flights.values() for name in flight.cards}

    @property
    def able(self) -> bool:
        """Whether something in flight has its models on the device: then ticks are to be heard of, whatever is being loaded."""
        return any(self.models.loaded.issuperset(flight.cards) for flight in self.flights.values())

    def run(self, flight: Flight) -> None:
        """Give it work; it must know the models, and brings them onto the device if need be."""
        self._say(Generate(flight.order))
        self.flights[flight.id] = flight

    def cancel(self, flight: Flight) -> None:
        """Have ``flight`` dropped; it stays on the list until the worker says so."""
        if self.flights.get(flight.id) is flight:
            self._say(Cancel(flight.id))

    def preprocess(self, errand: Errand) -> None:
        """Give it a picture to preprocess, beside its other work."""
        self._say(errand.order)
        if not self.errands:
            self.stirred = self._clock.monotonic()
        self.errands[errand.id] = errand

    def cancel_errand(self, errand: Errand) -> None:
        """Have ``errand`` dropped; it stays on the list until the worker says so."""
        if self.errands.get(errand.id) is errand:
            self._say(Cancel(errand.id))

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
            case Failed() if event.id in self.errands:
                self._fail_errand(event)
            case Failed():
                self._fail(event)
            case Preparing():
                self.stirred = self._clock.monotonic()
            case Preprocessed():
                self._deliver(event)
            case Hello():
                self._greet(event)
            case ModelLoading() | ModelLoaded() | ModelFailed() | ModelUnloaded() | Memory() | AdapterMemory():
                self._account(event)
            case Drained():
                self.leaving = True

    def _account(self, event: ModelEvent) -> None:
        if isinstance(event, ModelFailed):
            event = msgspec.structs.replace(event, error=self._plain(event.error))
        there = isinstance(event, ModelUnloaded) and event.model in self.models.loaded
        self.models.take(event)
        match event:
            case ModelLoaded():
                model, seconds = self.models.id(event.model), event.facts.load_seconds
                self._loads.note(event.model, seconds)
                self._metrics.loaded(self._name, model, seconds)
                self._log.info("model loaded", model=model, seconds=round(seconds, 2), bytes=event.facts.bytes)
            case ModelFailed():
                model = self.models.id(event.model)
                self._metrics.load_failed(self._name, model)
                self._log.error("model failed", model=model, error=event.error.message)
            case ModelUnloaded() if there:  # else only what was left of it in RAM
                model = self.models.id(event.model)
                self._metrics.unloaded(self._name, model, evicted=event.evicted)
                self._log.info("model unloaded", model=model, evicted=event.evicted)
            case Memory():
                self._metrics.memory(self._name, event)
            case AdapterMemory():
                self._metrics.adapters(self._name, event.bytes)
        if not isinstance(event, ModelLoading | Memory | AdapterMemory):
            self._changed()

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
        if flight is not None and not flight.complete(event.stats, self.hello.device if self.hello else ""):
            flight.fail(EngineFailure("The engine reported the request as complete without all of its images."))
        self._changed()

    def _fail(self, event: Failed) -> None:
        flight = self.flights.pop(event.id, None)
        if flight is not None:
            error = self._plain(event.error).to_exception()
            if isinstance(error, ShuttingDown):
                self.leaving = True
                self.refused.append(flight)
            elif isinstance(error, ModelLoadFailed) and not self.models.failed.keys().isdisjoint(flight.cards):
                flight.restart()
                self.refused.append(flight)  # another worker may have more room, or better luck
            else:
                flight.fail(error)
        self._changed()

    def _deliver(self, event: Preprocessed) -> None:
        self.stirred = self._clock.monotonic()
        if errand := self.errands.pop(event.id, None):
            self.completed += 1
            self._metrics.preprocessed(self._name, errand.order.preprocessor, event.seconds)
            errand.complete(event.picture)
        self._changed()

    def _fail_errand(self, event: Failed) -> None:
        self.stirred = self._clock.monotonic()
        errand = self.errands.pop(event.id)
        error = event.error.to_exception()
        if isinstance(error, ShuttingDown):
            self.leaving = True
            self.refused_errands.append(errand)
        else:
            errand.fail(error)
        self._changed()

    def _plain(self, report: ErrorReport) -> ErrorReport:
        return msgspec.structs.replace(report, message=in_plain_words(report.message, self.models.cards.items()))


def load_failure(model: str, report: ErrorReport) -> AquatintError:
    """What a request for a model hears that cannot be loaded."""
    error = report.to_exception()
    if type(error) is not ModelLoadFailed:
        return error
    return ModelLoadFailed(f"The model {model!r} could not be loaded: {report.message}", param="model")
