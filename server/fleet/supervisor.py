"""Keeps one worker alive on one device, and hands it work."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import DeadlineExceeded, ErrorReport, ModelLoadFailed, RequestKillsWorker, TooLarge
from pipelines.contract.messages import KnowModel, LoadModel, Memory
from server.domain.clock import Clock
from server.fleet.backoff import Backoff
from server.fleet.errand import Errand
from server.fleet.errands import Errands
from server.fleet.flight import Flight
from server.fleet.health import (
    MODEL_STATES,
    STATES,
    ModelState,
    ModelStatus,
    WorkerAdapters,
    WorkerHealth,
    WorkerMemory,
    WorkerState,
)
from server.fleet.host import Host, Process
from server.fleet.link import FrameTooLarge
from server.fleet.loads import LoadTimes
from server.fleet.pace import Pace
from server.fleet.roster import Roster, for_worker
from server.fleet.upkeep import adoption, introduction, outdated
from server.fleet.worker import ProtocolBroken, Worker
from server.telemetry.metrics import Metrics

HEALTHY_SECONDS = 30.0
"""A worker that lived so long after its start, or completed a request, has the back-off begin anew."""
LINGER_SECONDS = 2.0
"""Time to end for a worker that has hung up."""
FALSE_STARTS = 3
"""After so many starts in a row that never got ready, the device counts as failed and its work goes elsewhere."""


START_SECONDS = 20.0
"""Guess for a worker that is not up: what another one's queue may be longer before work waits for this one."""
DEADLY_LOADS = 2
"""A model at whose loading the worker has died so often is not loaded again until somebody asks for it or edits models.yaml."""


class Patience(msgspec.Struct, frozen=True):
    """Seconds of silence after which a worker counts as hung."""

    starting: float
    """While the process starts or loads a model."""
    working: float


class Supervisor:
    """One device: the worker on it (if any), and the flights that wait for it."""

    __slots__ = (
        "_backoff",
        "_clock",
        "_deaths",
        "_displaced",
        "_errands",
        "_false_starts",
        "_host",
        "_loads",
        "_log",
        "_metrics",
        "_patience",
        "_process",
        "_reason",
        "_restarts",
        "_roster",
        "_settled",
        "_stop",
        "_waiting",
        "_wanted",
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
        roster: Roster,
        loads: LoadTimes,
        patience: Patience,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
        displaced: Callable[[Iterable[Flight | Errand]], None],
    ) -> None:
        self.name = name
        self.device = device
        self.pace = Pace(clock)
        self._host = host
        self._roster = roster
        self._loads = loads
        self._patience = patience
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(worker=name)
        self._displaced = displaced
        self._errands = Errands(self._log)
        self._backoff = Backoff()
        self._false_starts = 0
        self._deaths: dict[str, int] = {}
        """How often the worker died while it loaded a model, by name."""
        self._wanted: set[str] = set()
        """Ids of the models that somebody asked to have loaded."""
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

    def delay(self, flight: Flight) -> float:
        """Seconds until ``flight`` could be begun here: what is before it, the start of a worker, the loading of its models."""
        start = 0.0 if self._worker is not None and self._worker.hello is not None else START_SECONDS
        return self.backlog / self.pace.rate + start + sum(self._loading_seconds(name) for name in flight.cards)

    def failure(self, flight: Flight) -> tuple[str, ErrorReport] | None:
        """The model of ``flight`` that cannot be loaded here, and why; None if there is none."""
        failed = self._worker.models.failed if self._worker else self._hopeless()
        return next(((card.id, failed[name]) for name, card in flight.cards.items() if name in failed), None)

    def submit(self, flight: Flight) -> None:
        """Take ``flight``: it is run as soon as there is a worker that can."""
        self._waiting.append(flight)
        self._advance()

    @property
    def up(self) -> bool:
        """Whether there is a worker that takes work, with its models or without."""
        return self._worker is not None and self._worker.hello is not None and not self._worker.leaving

    @property
    def errands(self) -> int:
        """How many pictures it has to preprocess."""
        return len(self._errands) + (len(self._worker.errands) if self._worker else 0)

    def preprocess(self, errand: Errand) -> None:
        """Take ``errand``: it is run as soon as there is a worker, whatever models that has."""
        self._errands.take(errand)
        self._advance()

    def adopt(self, roster: Roster) -> None:
        """Go over to ``roster``: tell the worker what is new, and let go of what is gone once its last requests are done."""
        former, self._roster = self._roster, roster
        self._deaths.clear()
        worker = self._worker
        if worker is not None:
            worker.models.failed.clear()  # an edit is a new try
            if worker.models.cards:
                for name in roster.cards.keys() - former.cards.keys():
                    worker.models.stay(name)
                for command in adoption(roster, former, worker.models):
                    worker.tell(command, roster.cards[command.card.id])
        self._advance()

    def load(self, model: str) -> None:
        """Have ``model`` (an id) on the device, now and after each start; one that failed is tried again."""
        self._wanted.add(model)
        name = self._roster.names[model]
        self._deaths.pop(name, None)
        worker = self._worker
        if worker is None or not worker.models.cards:
            return  # its introduction will see to it
        worker.models.stay(name)
        if name not in worker.models.loaded and name not in worker.models.loading:
            card = self._roster.cards[name]
            worker.tell(LoadModel(for_worker(name, card)), card)
        self._advance()

    def unload(self, model: str) -> None:
        """Have ``model`` (an id) off the device once the requests for it that are in flight there are done."""
        self._wanted.discard(model)
        if self._worker is not None:
            self._worker.models.leave(self._roster.names[model])
        self._advance()

    def status(self, model: str) -> ModelStatus:
        """How ``model`` (an id) stands here."""
        name = self._roster.names[model]
        if self._worker is not None:
            return self._worker.models.status(self.name, name)
        report = self._hopeless().get(name)
        if report is not None:
            return ModelStatus(self.name, ModelState.FAILED, error=report.message)
        return ModelStatus(self.name, ModelState.COLD)

    def withdraw(self, work: Flight | Errand) -> None:
        """Nobody wants ``work`` any more."""
        if isinstance(work, Errand):
            self._errands.withdraw(work, self._worker)
            return
        flight = work
        if flight in self._waiting:
            self._waiting.remove(flight)
        elif self._worker is not None:
            self._worker.cancel(flight)

    def health(self) -> WorkerHealth:
        """How it stands."""
        worker = self._worker
        hello = worker.hello if worker else None
        each = {model: self.status(model) for model in self._roster.names}
        memory = worker.models.memory if worker else None
        adapters = worker.models.adapters if worker else None
        return WorkerHealth(
            name=self.name,
            device=self.device,
            device_name=hello.device_name if hello else None,
            state=self._state(),
            pid=self._process.pid if self._process else None,
            models=_of(each, ModelState.LOADED),
            loading={model: now.loading for model, now in each.items() if now.loading is not None},
            failed={model: now.error or "" for model, now in each.items() if now.state is ModelState.FAILED},
            cold=_of(each, ModelState.COLD),
            retiring=tuple(worker.models.id(name) for name in outdated(self._roster, worker.models)) if worker else (),
            in_flight=len(worker.flights) if worker else 0,
            waiting=len(self._waiting),
            restarts=self._restarts,
            reason=self._reason,
            memory=None if memory is None else WorkerMemory(memory.device_bytes, memory.device_budget, memory.ram_bytes),
            adapters=None if adapters is None else WorkerAdapters(adapters.bytes, adapters.budget, adapters.resident),
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
        if worker is not None and worker.hello is not None and not worker.models.loading:
            worker.drain()
        else:
            self.kill()

    def kill(self) -> None:
        """End the worker at once."""
        if self._process is not None:
            self._process.kill()

    def abandon(self) -> list[Flight | Errand]:
        """Everything it still has; it is the caller's now, and the worker drops it."""
        flights, self._waiting = self._waiting, []
        if self._worker is not None:
            flights.extend(self._worker.flights.values())
            for flight in self._worker.flights.values():
                self._worker.cancel(flight)
        return [*flights, *self._errands.abandon(self._worker)]

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
            loads=self._loads,
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
            stuck = self._clock.monotonic() - worker.stirred
            if worker.errands and stuck > starting:
                process.kill()
                return f"its preprocessing hung: not a word for {stuck:.1f} seconds"
            if worker.hello is not None and worker.able:
                limit = working
            elif worker.hello is None or worker.models.loading or worker.flights:
                limit = starting
            else:
                continue
            silent = self._clock.monotonic() - worker.heard
            if silent > limit:
                process.kill()
                return f"it hung: not a word for {silent:.1f} seconds"

    def _bury(self, worker: Worker, *, clean: bool) -> None:
        """Account for an ended worker and send its flights on; nothing in flight is blamed for a ``clean`` leave."""
        if worker.models.memory is not None:
            self._metrics.memory(self.name, Memory(0, worker.models.memory.device_budget, 0, ()))
        self._metrics.adapters(self.name, 0)
        if not clean and not self._stop.is_set():
            for name in worker.models.at_work:
                self._deaths[name] = self._deaths.get(name, 0) + 1
        if self._settled is None:
            self._false_starts += 1
        elif worker.completed or self._clock.monotonic() - self._settled > HEALTHY_SECONDS:
            # It has been of use: what ended it is no reason to let the others wait.
            self._backoff.succeed()
        if self._stop.is_set():
            self._displaced([*worker.flights.values(), *worker.refused, *worker.errands.values(), *worker.refused_errands])
            return
        homeless: list[Flight | Errand] = [flight for flight in worker.refused if not flight.over]
        for flight in worker.flights.values():
            if flight.over:
                continue
            if not clean and not flight.blame():
                msg = f"The request was in flight when a worker died, twice; it is not tried again (id {flight.id})."
                flight.fail(RequestKillsWorker(msg))
                continue
            flight.restart()
            homeless.append(flight)
        self._displaced([*homeless, *self._errands.bury(worker, clean=clean)])

    def _gave_up(self) -> None:
        if self.failed and (self._waiting or self._errands):
            waiting, self._waiting = self._waiting, []
            self._displaced([*waiting, *self._errands.give_up()])

    def _advance(self) -> None:
        """Something changed: start what can be started."""
        worker = self._worker
        if worker is not None and worker.hello is not None and not worker.leaving:
            if self._settled is None:
                self._settle(worker)
            self._tidy(worker)
            self._dispatch(worker)
            self._errands.dispatch(worker)
        if worker is not None and (worker.refused or worker.refused_errands):
            refused: list[Flight | Errand] = [*worker.refused, *worker.refused_errands]
            worker.refused, worker.refused_errands = [], []
            self._displaced(refused)
        self._observe()

    def _settle(self, worker: Worker) -> None:
        """Tell it of every model; settled once those that are loaded at the start have answered."""
        if not worker.models.cards:
            hopeless = self._hopeless()
            wanted = {self._roster.names[model] for model in self._wanted if model in self._roster.names}
            for command in introduction(self._roster, wanted, hopeless):
                worker.tell(command, self._roster.cards[command.card.id])
            worker.models.failed.update(hopeless)
        if not worker.models.loading:
            self._settled = self._clock.monotonic()
            self._false_starts = 0

    def _hopeless(self) -> dict[str, ErrorReport]:
        """What is said of the models that took the worker with them."""
        found = {}
        for name, deaths in self._deaths.items():
            if deaths >= DEADLY_LOADS and name in self._roster.cards:
                model = self._roster.cards[name].id
                text = f"The worker died {deaths} times while it loaded {model!r} (last: {self._reason})."
                found[name] = ModelLoadFailed(text, param="model").report()
        return found

    def _loading_seconds(self, name: str) -> float:
        models = self._worker.models if self._worker else None
        if models is not None and name in models.loaded:
            return 0.0
        loading = models.loading.get(name) if models is not None else None
        return self._loads.expected(name) * (1.0 if loading is None else 1.0 - loading.fraction)

    def _tidy(self, worker: Worker) -> None:
        """Take off the device what is to go and has nothing in flight any more."""
        busy = worker.busy
        awaited = {name for flight in self._waiting for name in flight.cards}
        gone = [name for name in outdated(self._roster, worker.models) if name not in awaited]
        for name in gone:
            worker.models.leave(name)
        for name in worker.models.due(busy):
            worker.unload(name)
        for name in gone:
            if name not in busy and not worker.models.leaving(name):
                worker.models.forget(name)

    def _dispatch(self, worker: Worker) -> None:
        """Send what can be sent.

        Suspects run one by one, in company only of those already cleared: if the next worker dies too, it is known who did it,
        and innocent neighbours are not punished with it.
        """
        runnable = [flight for flight in list(self._waiting) if self._runnable(worker, flight)]
        if any(flight.suspect for flight in worker.flights.values()):
            return
        if any(errand.suspect for errand in worker.errands.values()):
            runnable = [flight for flight in runnable if not flight.suspect]
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
        deadline = flight.request.deadline
        if flight.over:
            self._waiting.remove(flight)
            return False
        if deadline is not None and deadline < self._clock.time():
            self._waiting.remove(flight)
            flight.fail(DeadlineExceeded("The deadline passed before the request was begun."))
            return False
        models = worker.models
        if self.failure(flight) is not None:
            self._waiting.remove(flight)
            worker.refused.append(flight)
            return False
        if self._settled is None and not models.loaded.issuperset(flight.cards):
            return False
        if any(models.leaving(name) for name in flight.cards):
            return False
        for name, card in flight.cards.items():
            if name not in models.cards:  # the card it began with is in the catalog no more
                worker.tell(KnowModel(for_worker(name, card)), card)
        return True

    def _state(self) -> WorkerState:
        worker = self._worker
        if worker is None:
            return WorkerState.FAILED if self._reason else WorkerState.STARTING
        if self._settled is None:
            return WorkerState.STARTING
        return WorkerState.BUSY if worker.flights or worker.models.loading else WorkerState.READY

    def _observe(self) -> None:
        self._metrics.worker(self.name, self._state().value, STATES)
        states = [self.status(model).state.value for model in self._roster.names]
        self._metrics.models(self.name, {state: states.count(state) for state in MODEL_STATES})


def _of(each: Mapping[str, ModelStatus], state: ModelState) -> tuple[str, ...]:
    return tuple(model for model, now in each.items() if now.state is state)


async def _ended(process: Process) -> int:
    """The exit code of a process that has hung up; one that lingers is killed."""
    leaving = asyncio.ensure_future(process.wait())
    done, _ = await asyncio.wait([leaving], timeout=LINGER_SECONDS)
    if not done:
        process.kill()
    return await leaving
