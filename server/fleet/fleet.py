"""All workers as one: where a request goes, and what happens when a worker dies."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count

from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import DeadlineExceeded, InvalidRequest, Overloaded, ShuttingDown, UnknownModel, WorkerLost
from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import Options, card_for, find, settle
from pipelines.contract.request import ImageRequest
from server.catalog.catalog import Catalog
from server.catalog.current import CurrentCatalog
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.generation import Generation
from server.fleet.errand import Errand
from server.fleet.flight import Flight
from server.fleet.health import ModelStatus, WorkerHealth
from server.fleet.host import Host
from server.fleet.loads import LoadTimes
from server.fleet.roster import roster
from server.fleet.supervisor import Patience, Supervisor
from server.fleet.worker import load_failure
from server.telemetry.metrics import Metrics

LEAVE_SECONDS = 10.0
"""Time for workers to leave once nothing is in flight."""
MOST_ERRANDS = 64
"""Pictures that wait to be preprocessed, on all workers; each is held in memory."""


class Fleet:
    """The workers of this server, one per device."""

    __slots__ = ("_clock", "_current", "_errands", "_log", "_stopping", "_supervisors")

    def __init__(
        self,
        devices: Iterable[str],
        *,
        host: Host,
        current: CurrentCatalog,
        patience: Patience,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._clock = clock
        self._current = current
        self._errands = count(1)
        self._log = log
        self._stopping = False
        loads, listed = LoadTimes(), roster(current.catalog)
        self._supervisors = tuple(
            Supervisor(
                f"worker-{index}",
                device,
                host=host,
                roster=listed,
                loads=loads,
                patience=patience,
                clock=clock,
                metrics=metrics,
                log=log,
                displaced=self._replace,
            )
            for index, device in enumerate(devices)
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Fleet"]:
        """Workers live inside this block; at its end they are drained."""
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(each.run(), name=each.name) for each in self._supervisors]
            try:
                with self._current.told(self._adopt):
                    yield self
            finally:
                await self._drain(lives)

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request`` on some worker; cancelling the task cancels the work."""
        if self._stopping:
            msg = "The server is shutting down."
            raise ShuttingDown(msg)
        flight = Flight(request, call, call.cards or self._current.catalog.needed(request))
        self._place(flight)
        try:
            return await flight.result
        except asyncio.CancelledError:
            self._withdraw(flight)
            raise

    async def preprocess(
        self, preprocessor: str, picture: Picture, options: Options, *, deadline: float | None = None
    ) -> Picture:
        """The control image of ``picture``, made on some worker beside its ticks; cancelling the task cancels the work.

        ``preprocessor`` may be any of its names, ``deadline`` is Unix time. Raises what `find`, `settle` and `card_for` do, and
        `Overloaded` when too much waits.
        """
        spec = find(preprocessor)
        settled, card = settle(spec, options), card_for(spec, self._current.catalog.preprocessors)
        if self._stopping:
            msg = "The server is shutting down."
            raise ShuttingDown(msg)
        if sum(each.errands for each in self._supervisors) >= MOST_ERRANDS:
            msg = f"{MOST_ERRANDS} pictures wait to be preprocessed already."
            raise Overloaded(msg, retry_after=5.0)
        errand = Errand(f"preprocess-{next(self._errands)}", spec, card, picture, settled)
        self._send(errand)
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - self._clock.time())):
                return await errand.result
        except TimeoutError:
            self._withdraw(errand)
            msg = "The deadline passed before the picture was preprocessed."
            raise DeadlineExceeded(msg) from None
        except asyncio.CancelledError:
            self._withdraw(errand)
            raise

    def identity(self, preprocessor: str) -> str:
        """What tells the weights that ``preprocessor`` has now from others that it could have; empty if it needs none."""
        card = card_for(find(preprocessor), self._current.catalog.preprocessors)
        return "" if card is None else f"{card.source} {card.revision} {card.file}"

    def health(self) -> tuple[WorkerHealth, ...]:
        """How each worker stands."""
        return tuple(each.health() for each in self._supervisors)

    def models(self) -> dict[str, tuple[ModelStatus, ...]]:
        """How each model of the catalog stands on each worker."""
        return {model: tuple(each.status(model) for each in self._supervisors) for model in self._current.catalog.cards}

    def load(self, model: str, worker: str | None = None) -> None:
        """Have ``model`` (an id) loaded on ``worker``, or on all; nothing happens where it is loaded already."""
        for each in self._chosen(model, worker):
            each.load(model)

    def unload(self, model: str, worker: str | None = None) -> None:
        """Have ``model`` (an id) taken off ``worker``, or off all, once what is in flight there is done."""
        for each in self._chosen(model, worker):
            each.unload(model)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """How long until so much new work could begin, judging by what waits and how fast it goes."""
        alive = [each for each in self._supervisors if not each.failed] or list(self._supervisors)
        rate = sum(each.pace.rate for each in alive)
        return (sum(each.backlog for each in alive) + pixel_steps) / rate

    @property
    def rate(self) -> float | None:
        """Pixel-steps a second that one device does, on the mean of those measured; None before the first measurement."""
        rates = [each.pace.rate for each in self._supervisors if each.pace.measured]
        return sum(rates) / len(rates) if rates else None

    def _place(self, flight: Flight) -> None:
        alive = self._alive(flight)
        if not alive:
            return
        able = [each for each in alive if each.failure(flight) is None]
        if able:
            min(able, key=lambda each: each.delay(flight)).submit(flight)
            return
        model, report = next(found for each in alive if (found := each.failure(flight)) is not None)
        flight.fail(load_failure(model, report))

    def _send(self, errand: Errand) -> None:
        if alive := self._alive(errand):
            min(alive, key=lambda each: (not each.up, each.errands, each.backlog)).preprocess(errand)

    def _alive(self, work: Flight | Errand) -> list[Supervisor]:
        """The workers that ``work`` could go to; it fails if there are none."""
        alive = [each for each in self._supervisors if not each.failed]
        if not alive:
            reasons = "; ".join(f"{each.name} on {each.device}: {each.reason}" for each in self._supervisors)
            work.fail(WorkerLost(f"No worker can be started ({reasons}).", retry_after=30.0))
        return alive

    def _withdraw(self, work: Flight | Errand) -> None:
        for each in self._supervisors:
            each.withdraw(work)

    def _chosen(self, model: str, worker: str | None) -> list[Supervisor]:
        if model not in self._current.catalog.cards:
            msg = f"The model {model!r} does not exist."
            raise UnknownModel(msg, param="model")
        found = [each for each in self._supervisors if worker in (None, each.name)]
        if not found:
            msg = f"There is no worker {worker!r}; there are {', '.join(each.name for each in self._supervisors)}."
            raise InvalidRequest(msg, param="worker")
        return found

    def _adopt(self, catalog: Catalog) -> None:
        listed = roster(catalog)
        for each in self._supervisors:
            each.adopt(listed)

    def _replace(self, displaced: Iterable[Flight | Errand]) -> None:
        for work in displaced:
            if work.over:
                continue
            if self._stopping:
                work.fail(ShuttingDown("The server is shutting down."))
            elif isinstance(work, Errand):
                self._send(work)
            else:
                self._place(work)

    async def _drain(self, lives: "list[asyncio.Task[None]]") -> None:
        self._stopping = True
        for each in self._supervisors:
            self._replace(each.abandon())
            each.stop()
        _, late = await asyncio.wait(lives, timeout=LEAVE_SECONDS)
        if late:
            self._log.warning("workers do not leave; killing them", workers=[task.get_name() for task in late])
            for each in self._supervisors:
                each.kill()
            await asyncio.wait(late)
