"""Keeps one worker alive on one device, and hands it work."""

import asyncio
from collections.abc import Callable, Iterable

import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import DeadlineExceeded, RequestKillsWorker, TooLarge
from server.catalog.catalog import Catalog
from server.domain.clock import Clock
from server.fleet.backoff import Backoff
from server.fleet.flight import Flight
from server.fleet.health import STATES, WorkerHealth, WorkerState
from server.fleet.host import Host, Process
from server.fleet.link import FrameTooLarge
from server.fleet.pace import Pace
from server.fleet.worker import ProtocolBroken, Worker, load_failure
from server.telemetry.metrics import Metrics

HEALTHY_SECONDS = 30.0
"""A worker that lived so long after its start, or completed a request, has the back-off begin anew."""
LINGER_SECONDS = 2.0
"""Time to end for a worker that has hung up."""
FALSE_STARTS = 3
"""After so many starts in a row that never got ready, the device counts as failed and its work goes elsewhere."""


class Patience(msgspec.Struct, frozen=True):
    """Seconds of silence after which a worker counts as hung."""

    starting: float
    """While the process starts or loads a model."""
    working: float


class Supervisor:
    """One device: the worker on it (if any), and the flights that wait for it."""

    __slots__ = (
        "_backoff",
        "_catalog",
        "_clock",
        "_displaced",
        "_false_starts",
        "_host",
        "_log",
        "_metrics",
        "_patience",
        "_process",
        "_reason",
        "_restarts",
        "_settled",
        "_stop",
        "_waiting",
        "_worker",
        "device",
        "name",
        "pace",
    )

    def __init__(
        self,
        name: str,
        device: str,
        *,
        host: Host,
        catalog: Catalog,
        patience: Patience,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
        displaced: Callable[[Iterable[Flight]], None],
    ) -> None:
        self.name = name
        self.device = device
        self.pace = Pace(clock)
        self._host = host
        self._catalog = catalog
        self._patience = patience
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(worker=name)
        self._displaced = displaced
        self._backoff = Backoff()
        self._false_starts = 0
        self._restarts = 0
        self._reason: str | None = None
        self._settled: float | None = None
        self._stop = asyncio.Event()
        self._waiting: list[Flight] = []
        self._worker: Worker | None = None
        self._process: Process | None = None

    @property
    def failed(self) -> bool:
        """Whether the device cannot get a worker up: nothing new should be given to it."""
        return self._false_starts >= FALSE_STARTS

    @property
    def reason(self) -> str | None:
        """Why the last worker died."""
        return self._reason

    @property
    def backlog(self) -> int:
        """Pixel-steps given to it and not done."""
        working = self._worker.flights.values() if self._worker else ()
        return sum(flight.backlog for flight in (*self._waiting, *working))

    def has(self, model: str) -> bool:
        """Whether ``model`` is loaded or on its way."""
        worker = self._worker
        return worker is not None and (model in worker.loaded or model in worker.loading)

    def submit(self, flight: Flight) -> None:
        """Take ``flight``: it is run as soon as there is a worker with its model."""
        self._waiting.append(flight)
        worker = self._worker
        if worker is not None:
            for model in flight.request.models:
                worker.failed.pop(model, None)  # a new request is a new try
        self._advance()

    def withdraw(self, flight: Flight) -> None:
        """Nobody wants ``flight`` any more."""
        if flight in self._waiting:
            self._waiting.remove(flight)
        elif self._worker is not None:
            self._worker.cancel(flight)

    def health(self) -> WorkerHealth:
        """How it stands."""
        worker = self._worker
        hello = worker.hello if worker else None
        return WorkerHealth(
            name=self.name,
            device=self.device,
            device_name=hello.device_name if hello else None,
            state=self._state(),
            pid=self._process.pid if self._process else None,
            models=tuple(worker.loaded) if worker else (),
            loading=dict(worker.loading) if worker else {},
            failed={model: report.message for model, report in worker.failed.items()} if worker else {},
            in_flight=len(worker.flights) if worker else 0,
            waiting=len(self._waiting),
            restarts=self._restarts,
            reason=self._reason,
        )

    async def run(self) -> None:
        """Start the worker, again after each death, until told to stop."""
        while not self._stop.is_set():
            reason = await self._live()
            if self._stop.is_set():
                break
            self._reason = reason
            pause = self._backoff.fail()
            self._log.warning("worker is gone", reason=reason, restart_in=pause)
            self._gave_up()
            self._observe()
            try:
                async with asyncio.timeout(pause):
                    await self._stop.wait()
            except TimeoutError:
                self._restarts += 1
                self._metrics.restart(self.name)

    def stop(self) -> None:
        """Let the worker finish what it has and leave; do not start another."""
        self._stop.set()
        worker = self._worker
        if worker is not None and worker.hello is not None and not worker.loading:
            worker.drain()
        else:
            self.kill()

    def kill(self) -> None:
        """End the worker at once."""
        if self._process is not None:
            self._process.kill()

    def abandon(self) -> list[Flight]:
        """Every flight it still has; they are the caller's now, and the worker drops them."""
        flights, self._waiting = self._waiting, []
        if self._worker is not None:
            flights.extend(self._worker.flights.values())
            for flight in self._worker.flights.values():
                self._worker.cancel(flight)
        return flights

    async def _live(self) -> str:
        """One life of a worker; returns what ended it."""
        try:
            process = await self._host.spawn(self.name, self.device)
        except OSError as error:
            self._false_starts += 1
            return f"it cannot be started: {error}"
        self._process = process
        worker = self._worker = Worker(
            self.name,
            process.link,
            clock=self._clock,
            metrics=self._metrics,
            pace=self.pace,
            log=self._log,
            changed=self._advance,
        )
        self._settled = None
        self._observe()
        reason: str | None = None
        try:
            async with asyncio.TaskGroup() as group:
                watchdog = group.create_task(self._watch(worker, process))
                try:
                    await worker.listen()
                except (ProtocolBroken, FrameTooLarge) as error:
                    reason = str(error)
                    process.kill()
                if watchdog.done():
                    reason = watchdog.result()
                watchdog.cancel()
        finally:
            process.link.close()
            self._worker = self._process = None
            code = await _ended(process)
            self._bury(worker, clean=worker.leaving and code == 0)
        return reason or (f"killed by signal {-code}" if code < 0 else f"it left with exit code {code}")

    async def _watch(self, worker: Worker, process: Process) -> str:
        """Kill a worker that owes a sign of life; returns the verdict."""
        starting, working = self._patience.starting, self._patience.working
        while True:
            await asyncio.sleep(min(1.0, min(starting, working) / 4))
            if worker.hello is None or worker.loading:
                limit = starting
            elif worker.flights:
                limit = working
            else:
                continue
            silent = self._clock.monotonic() - worker.heard
            if silent > limit:
                process.kill()
                return f"it hung: not a word for {silent:.1f} seconds"

    def _bury(self, worker: Worker, *, clean: bool) -> None:
        """Account for an ended worker and send its flights on; nothing in flight is blamed for a ``clean`` leave."""
        if self._settled is None:
            self._false_starts += 1
        elif worker.completed or self._clock.monotonic() - self._settled > HEALTHY_SECONDS:
            # It has been of use: what ended it is no reason to let the others wait.
            self._backoff.succeed()
        if self._stop.is_set():
            self._displaced([*worker.flights.values(), *worker.refused])
            return
        homeless = [flight for flight in worker.refused if not flight.over]
        for flight in worker.flights.values():
            if flight.over:
                continue
            if not clean and not flight.blame():
                msg = f"The request was in flight when a worker died, twice; it is not tried again (id {flight.id})."
                flight.fail(RequestKillsWorker(msg))
                continue
            flight.restart()
            homeless.append(flight)
        self._displaced(homeless)

    def _gave_up(self) -> None:
        if self.failed and self._waiting:
            waiting, self._waiting = self._waiting, []
            self._displaced(waiting)

    def _advance(self) -> None:
        """Something changed: start what can be started."""
        worker = self._worker
        if worker is not None and worker.hello is not None and not worker.leaving:
            if self._settled is None:
                self._settle(worker)
            self._dispatch(worker)
        if worker is not None and worker.refused:
            refused, worker.refused = worker.refused, []
            self._displaced(refused)
        self._observe()

    def _settle(self, worker: Worker) -> None:
        """Have the preloaded models loaded; settled once each has answered."""
        missing = [c for c in self._catalog.preload if c.id not in {*worker.loaded, *worker.loading, *worker.failed}]
        for card in missing:
            worker.load(card)
        if not worker.loading:
            self._settled = self._clock.monotonic()
            self._false_starts = 0

    def _dispatch(self, worker: Worker) -> None:
        """Send what can be sent.

        Suspects run one by one, in company only of those already cleared: if the next worker dies too, it is known who did it,
        and innocent neighbours are not punished with it.
        """
        runnable = [flight for flight in list(self._waiting) if self._runnable(worker, flight)]
        if any(flight.suspect for flight in worker.flights.values()):
            return
        suspects = [flight for flight in runnable if flight.suspect]
        if suspects:
            cleared = all(flight.cleared for flight in worker.flights.values())
            runnable = suspects[:1] if cleared else []
        for flight in runnable:
            self._waiting.remove(flight)
            try:
                worker.run(flight)
            except FrameTooLarge as error:
                flight.fail(TooLarge(f"The request with its pictures is too large to pass on: {error}."))

    def _runnable(self, worker: Worker, flight: Flight) -> bool:
        models, deadline = flight.request.models, flight.request.deadline
        if flight.over:
            self._waiting.remove(flight)
        elif deadline is not None and deadline < self._clock.time():
            self._waiting.remove(flight)
            flight.fail(DeadlineExceeded("The deadline passed before the request was begun."))
        elif failed := [model for model in models if model in worker.failed]:
            self._waiting.remove(flight)
            flight.fail(load_failure(failed[0], worker.failed[failed[0]]))
        else:
            missing = [model for model in models if model not in worker.loaded]
            for model in missing:
                if model not in worker.loading:
                    worker.load(self._catalog.card(model))
            return not missing
        return False

    def _state(self) -> WorkerState:
        worker = self._worker
        if worker is None:
            return WorkerState.FAILED if self._reason else WorkerState.STARTING
        if self._settled is None:
            return WorkerState.STARTING
        return WorkerState.BUSY if worker.flights or worker.loading else WorkerState.READY

    def _observe(self) -> None:
        self._metrics.worker(self.name, self._state().value, STATES)


async def _ended(process: Process) -> int:
    """The exit code of a process that has hung up; one that lingers is killed."""
    leaving = asyncio.ensure_future(process.wait())
    done, _ = await asyncio.wait([leaving], timeout=LINGER_SECONDS)
    if not done:
        process.kill()
    return await leaving
